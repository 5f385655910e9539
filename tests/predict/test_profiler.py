"""``Profiler``: profiles from Python, the same as those of the command, and without the libraries of training."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmprofile import Profiler
from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.model.model import ProfileModel
from mmprofile.predict.profiler import ALTERNATIVES
from mmprofile.predict.run import main
from tests.support.rawdata import write_lines

REVIEWS = ["a fine place", "nice pizza & more", "late lunch"]


@pytest.fixture(scope="module")
def profiler(model_folder: Path) -> Profiler:
    return Profiler.from_pretrained(model_folder)


def image(colour: str = "red") -> Image.Image:
    return Image.new("RGB", (40, 30), colour)


def content(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


def test_the_same_as_the_command(profiler: Profiler, model_folder: Path, tmp_path: Path) -> None:
    people = [{"user_id": f"u{i}", "reviews": REVIEWS[: 1 + i % 3], "photos": ["1.png"] * (i % 2)} for i in range(5)]
    image().save(tmp_path / "1.png")
    write_lines(tmp_path / "users.jsonl", people)
    words = [f"run={model_folder}", f"input={tmp_path / 'users.jsonl'}", f"output={tmp_path / 'out.jsonl'}"]
    main(load_config("predict", words))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    given = [{**person, "photos": [tmp_path / "1.png" for _ in person["photos"]]} for person in people]
    profiles = [*profiler.predict_many(given, batch_size=2)]
    for row, profile in zip(rows, profiles, strict=True):
        assert profile.user_id == row["user_id"]
        assert profile.values == row["profile"]
        assert profile.confidence == pytest.approx(row["confidence"], abs=6e-4)


def test_photos_in_any_form_are_the_same_photo(profiler: Profiler, tmp_path: Path) -> None:
    picture = image()
    picture.save(tmp_path / "a.png")
    forms = [tmp_path / "a.png", str(tmp_path / "a.png"), content(picture), picture, np.asarray(picture)]
    profiles = [profiler.predict(REVIEWS, photos=[form]) for form in forms]
    assert all(profile == profiles[0] for profile in profiles)
    assert profiler.predict(REVIEWS, photos=[image("blue")]).confidence != profiles[0].confidence


def test_images_are_read_as_their_files(profiler: Profiler, tmp_path: Path) -> None:
    """Upright as their EXIF data say, and in any mode."""
    half = Image.new("RGB", (40, 30), "red")
    half.paste("blue", (0, 0, 20, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    half.save(tmp_path / "turned.jpg", exif=exif)
    half.convert("CMYK").save(tmp_path / "print.jpg")
    for name in ("turned.jpg", "print.jpg"):
        with Image.open(tmp_path / name) as opened:
            profile = profiler.predict(REVIEWS, photos=[opened])
        assert profile.confidence == pytest.approx(profiler.predict(REVIEWS, [tmp_path / name]).confidence, abs=0.02)


def test_people_with_one_id_keep_their_photos(profiler: Profiler) -> None:
    """And those without an id, which a table of pandas gives as None."""
    red, blue = ({"user_id": None, "reviews": REVIEWS, "photos": [image(colour)]} for colour in ("red", "blue"))
    apart = [profiler.predict(REVIEWS, person["photos"]) for person in (red, blue)]
    for people in (
        [red, blue],
        [{**red, "user_id": "1"}, {**blue}],
        [{**red, "user_id": "x"}, {**blue, "user_id": "x"}],
    ):
        together = [*profiler.predict_many(people)]
        assert [profile.confidence for profile in together] == [
            pytest.approx(profile.confidence, abs=1e-5) for profile in apart
        ]
    assert apart[0].confidence != pytest.approx(apart[1].confidence, abs=1e-4)


def test_how_sure_and_what_else(profiler: Profiler) -> None:
    profile = profiler.predict(REVIEWS)
    for name, alternatives in profile.alternatives.items():
        shares = [alternative.probability for alternative in alternatives]
        assert shares == sorted(shares, reverse=True)
        assert profile.confidence[name] in shares
        assert profile[name] in [alternative.value for alternative in alternatives]
    cautious = profiler.predict(REVIEWS, abstain_below=1.0)
    assert cautious.abstained == [*cautious.values]
    assert set(cautious.values.values()) == {None}
    assert cautious.confidence == profile.confidence
    json.dumps(cautious.to_dict())


def test_confidence_is_calibrated_and_sets_are_those_of_the_command(
    profiler: Profiler, model_folder: Path, tmp_path: Path
) -> None:
    profile = profiler.predict(REVIEWS, risk=0.1)
    assert profiler.predict(REVIEWS).sets is None
    shutil.copytree(model_folder, tmp_path / "old")
    (tmp_path / "old" / "calibration.json").unlink()  # as older versions wrote it
    old = Profiler.from_pretrained(tmp_path / "old")
    before = old.predict(REVIEWS)
    assert profile.values == before.values
    first, second = before.alternatives["Stars"][:2]
    calibrated = {row.value: row.probability for row in profile.alternatives["Stars"]}
    ratio = calibrated[first.value] / calibrated[second.value]
    assert ratio == pytest.approx((first.probability / second.probability) ** 0.5)  # at temperature 2
    assert profile.sets is not None
    for name, values in profile.values.items():
        assert values in profile.sets[name]
    with pytest.raises(UserError, match=r"no calibration\.json: train it again"):
        old.predict(REVIEWS, risk=0.1)
    write_lines(tmp_path / "users.jsonl", [{"user_id": "0", "reviews": REVIEWS}])
    words = [f"run={model_folder}", f"input={tmp_path / 'users.jsonl'}", f"output={tmp_path / 'out.jsonl'}", "risk=0.1"]
    main(load_config("predict", words))
    [row] = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert row["sets"] == profile.sets
    with pytest.raises(UserError, match="beam search gives no probabilities"):
        main(load_config("predict", [*words, "beams=2"]))


def test_what_is_known_stays(profiler: Profiler) -> None:
    profile = profiler.predict(REVIEWS, known={"stars": "1", "Favorite Category": ["Pizza", "Shopping"]})
    assert profile["Stars"] == "1"
    assert profile["Favorite Category"] == ["Shopping", "Pizza"]
    assert profile.confidence["Stars"] == pytest.approx(1.0)
    with pytest.raises(UserError, match="person 0: known: 'Star' is not an attribute: Stars,"):
        profiler.predict(REVIEWS, known={"Star": "1"})
    with pytest.raises(UserError, match="known: Stars: '9' is not one of"):
        profiler.predict(REVIEWS, known={"Stars": "9"})
    with pytest.raises(UserError, match="person 0: known: Stars: 5 is no text or list of texts"):
        profiler.predict(REVIEWS, known={"Stars": 5})  # type: ignore[dict-item]


def test_the_evidence(profiler: Profiler) -> None:
    """Each photo and review by what the posterior is without it, which is what another prediction without it says."""
    photos = [image("red"), image("green")]
    profile = profiler.predict(REVIEWS, photos, explain=True)
    assert profile.evidence is not None
    without = profiler.predict([REVIEWS[0], REVIEWS[2]], photos)
    compared: list[str] = []
    for name, rows in profile.evidence.items():
        assert {row.source for row in rows} == {"review 0", "review 1", "review 2", "photo 0", "photo 1"}
        assert [row.total_variation for row in rows] == sorted((row.total_variation for row in rows), reverse=True)
        [row] = [row for row in rows if row.source == "review 1"]
        assert row.before == pytest.approx(profile.confidence[name])
        after = {str(a.value): a.probability for a in without.alternatives[name]}
        if len(profiler.model.schema[name].values) <= ALTERNATIVES and profiler.model.schema[name].kind == "single":
            assert row.after == pytest.approx(
                after[str(profile[name])], abs=1e-6
            )  # all values are among the alternatives
            compared.append(name)
    assert len(compared) >= 4
    alone = profiler.predict(REVIEWS[:1], explain=True)  # without the only review there is nothing to read
    assert alone.evidence == {name: [] for name in alone.values}
    assert json.loads(json.dumps(profile.to_dict()))["evidence"]["Stars"][0].keys() == {
        "source", "total_variation", "before", "after",
    }  # fmt: skip


def test_in_a_notebook_it_is_a_table(profiler: Profiler) -> None:
    class Cells(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.texts: list[str] = []

        def handle_data(self, data: str) -> None:
            self.texts.append(data)

    cells = Cells()
    cells.feed(profiler.predict(REVIEWS, explain=True)._repr_html_())
    assert cells.texts[:5] == ["attribute", "value", "confidence", "next", "moved most by"]
    assert {"Stars", "Favorite Category"} < set(cells.texts)
    assert "Stars: " in repr(profiler.predict(REVIEWS))


def test_more_than_the_model_reads(profiler: Profiler) -> None:
    many = [f"review {i}" for i in range(9)]
    profile = profiler.predict(many, photos=[image()] * 5)
    assert len(profile.reviews) == len(profile.photos) == 3
    assert profile == profiler.predict(many, photos=[image()] * 5)


@pytest.mark.parametrize(
    ("person", "says"),
    [
        ({}, "person 0: there are neither reviews nor photos"),
        ({"reviews": ["  "]}, "person 0: there are neither reviews nor photos"),
        ({"reviews": "a text"}, "person 0: reviews is a text: give a list"),
        ({"reviews": [1]}, "person 0: reviews must be texts"),
        ({"user_id": "ann", "photos": ["nowhere.jpg"]}, "photo 0 of person ann: missing"),
        ({"photos": [b"no photo"]}, "photo 0 of person 0: unreadable"),
        ({"photos": [3]}, "photo 0 of person 0: 3 is no photo; give a path"),
        ({"photos": ["a\0b"]}, "photo 0 of person 0: 'a.*b' is no photo; give a path"),
        ({"photos": "a.jpg"}, "person 0: photos is a text: give a list"),
        ({"photos": [np.zeros((3, 4, 5, 6))]}, r"photo 0 of person 0: an array of float64 \(3, 4, 5, 6\) is no photo"),
        ({"photos": [image()], "captions": ["a", "b"]}, "person 0: 2 captions for 1 photos"),
    ],
)
def test_what_is_refused(profiler: Profiler, person: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        next(profiler.predict_many([person]))


def test_a_model_that_reads_no_photos_says_so(tiny_model: Callable[..., ProfileModel]) -> None:
    model = tiny_model("none")
    model.settings["inputs"] |= {"modality": "text", "encoding": "segments"}
    profiler = Profiler(model)
    assert profiler.predict(REVIEWS, photos=[image()]).photos == []
    with pytest.raises(UserError, match="person 0: this model reads nothing of what was given"):
        profiler.predict(photos=[image()])
    with pytest.raises(UserError, match="batch_size=0: give 1 or more"):
        next(profiler.predict_many([{"reviews": ["a"]}], batch_size=0))


def test_where_there_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither a run \(config\.yaml\) nor an exported model"):
        Profiler.from_pretrained(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match="this run has no model"):
        Profiler.from_pretrained(tmp_path)


def test_people_are_read_some_at_a_time(profiler: Profiler) -> None:
    taken: list[int] = []
    people = ({"reviews": [f"text {taken.append(i) or i}"]} for i in range(100))  # type: ignore[func-returns-value]
    assert next(profiler.predict_many(people, batch_size=4)).user_id == "0"
    assert len(taken) == 4


def test_it_needs_none_of_the_libraries_of_training(model_folder: Path) -> None:
    code = f"""
import sys
from mmprofile import Profiler
profile = Profiler.from_pretrained({str(model_folder)!r}).predict(["a fine place"], explain=True)
heavy = "pytorch_lightning", "lightning_fabric", "hydra", "sklearn", "datasets", "pandas", "matplotlib"
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
