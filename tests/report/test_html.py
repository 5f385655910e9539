"""The HTML report: nothing in data gets out of its place; what it says of users is what the model says when asked by hand."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from mmprofile.errors import UserError
from mmprofile.evaluate.predictions import read_predictions
from mmprofile.inputs.batch import Collator
from mmprofile.inputs.views import User, build_view
from mmprofile.inspection.counterfactuals import distances_by_change, drop_photo, drop_review
from mmprofile.inspection.inspector import Inspector
from mmprofile.model.model import ProfileModel
from mmprofile.profile.calibration import calibration
from mmprofile.profile.metrics import score
from mmprofile.profile.schema import Attribute, Profile, Schema
from mmprofile.report.html import confidence_table, write_html
from mmprofile.report.stories import THUMBNAIL, Evidence, evidence_of_model, evidence_of_system, thumbnail
from mmprofile.report.summary import write_report
from tests.support.htmlpage import Page

EVIL = (
    "<script>alert(\"1\")</script> & 'quotes' {{ 7*7 }} \0\x1b\u202e😀 "
    "</blockquote><img src=http://x.example/a.png onerror=a()> &amp;"
)
SAFE = EVIL.replace("\0", "\ufffd").replace("\x1b", "\ufffd")


def jpeg(size: tuple[int, int] = (40, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "orange").save(file, format="JPEG")
    return file.getvalue()


class City:
    """Some users, and a photo file for any key: what draws give."""

    def __init__(self, users: Sequence[User]) -> None:
        self.test = list(users)

    def users(self, split: str) -> list[User]:
        return self.test

    def jpeg(self, key: str) -> bytes:
        return jpeg()


def rows_of(
    gold: Sequence[Profile], said: Sequence[Profile], sure: Sequence[float] | None = None
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"user_id": f"user-{i}", "gold": g, "parsed": s} for i, (g, s) in enumerate(zip(gold, said, strict=True))
    ]
    if sure is not None:
        for row, one in zip(rows, sure, strict=True):
            row["confidence"] = dict.fromkeys(row["gold"], one)
    return rows


def render(
    folder: Path, schema: Schema, rows: list[dict[str, Any]], evidence: Evidence | None, **config: Any
) -> tuple[Page, str]:
    gold, said = ([{n: tuple(v) for n, v in row[part].items()} for row in rows] for part in ("gold", "parsed"))
    metrics = {"test": score(schema, gold, said, resamples=20).to_dict(), "config": {"name": "run", **config}}
    write_report(folder, metrics, [{"epoch": 0, "loss": 2.0}, {"epoch": 1, "loss": 1.0}])
    write_html(folder, schema, metrics, rows, evidence)
    text = (folder / "report.html").read_text(encoding="utf-8")
    return Page(text), text


def test_nothing_gets_out_of_its_place(tmp_path: Path) -> None:
    name, value = EVIL.translate(dict.fromkeys(map(ord, ";,:\0"))), "<b>\"V'</b>&"
    schema = Schema(
        "evil", [Attribute(name, (value, "plain"), sensitive=True, text_only=True), Attribute("<i>", ("a", "b"))]
    )
    gold = {name: (value,), "<i>": ("a",)}
    user = User("user-0", (EVIL, "fine"), ('"><img src=//x.example>.jpg',), (EVIL,), gold)
    rows = rows_of([gold] * 2, [gold, {name: ("plain",), "<i>": ("b",)}], [0.9, 0.4])
    evidence = evidence_of_system(schema, City([user]), rows)
    page, _ = render(tmp_path, schema, rows, evidence, name=EVIL, purpose=EVIL, data=EVIL)
    assert page.text.count(SAFE) == 7  # title, heading, two notes, purpose, review, caption
    assert page.tables[1][1][0] == f"{value} (2)"
    assert f"Sensitive attributes, in this profile for that purpose alone: {name}" in page.text.replace(
        "\ufffd", "\x1b"
    )
    assert user.photos[0] in page.text
    assert page.images[-1] == f"Captioned: {SAFE}"


def test_it_is_one_small_file_of_the_same_bytes_with_a_language_and_headers(
    tmp_path: Path, schema: Schema, users: list[User]
) -> None:
    profiles = [user.profile or {} for user in users]
    rows = rows_of(profiles, profiles, [0.5] * 4)
    texts = []
    for name in "ab":
        (tmp_path / name).mkdir()
        texts.append(render(tmp_path / name, schema, rows, evidence_of_system(schema, City(users), rows))[1])
    assert texts[0] == texts[1]
    assert len(texts[0]) < 1e6
    assert '<html lang="en">' in texts[0]
    assert texts[0].count("<table") == texts[0].count("<thead")
    assert "default-src 'none'" in texts[0]


def test_confusion_of_the_page_is_that_of_sklearn(tmp_path: Path) -> None:
    schema, rng = Schema("stars", [Attribute("Stars", ("1", "2", "3"))]), np.random.default_rng(0)
    gold, said = (rng.choice(["1", "2", "3"], 60).tolist() for _ in range(2))
    rows = rows_of([{"Stars": (v,)} for v in gold], [{"Stars": (v,)} for v in said])
    page, _ = render(tmp_path, schema, rows, None)
    found = [[int(cell or 0) for cell in row[1:4]] for row in page.tables[1][1:]]
    assert found == confusion_matrix(gold, said).tolist()
    assert [row[0] for row in page.tables[1][1:]] == [f"{v} ({gold.count(v)})" for v in "123"]
    assert "There are no confidences" in page.text
    assert not {"gates", "users"} & page.ids


def test_confidence_is_of_answers_with_gold_and_of_observed_attributes_together() -> None:
    schema = Schema("two", [Attribute("A", ("a", "b")), Attribute("T", ("c", "d"), unknown=True, text_only=True)])
    gold = [{"A": ("a",), "T": ("c",)}, {"A": ("b",), "T": ()}, {"A": ("b",), "T": ("d",)}]
    said = [{"A": ("a",), "T": ("c",)}, {"A": ("a",), "T": ("c",)}, {"A": ("b",), "T": ()}]
    table = confidence_table(schema, ["A"], rows_of(gold, said, [0.9, 0.8, 0.3]))
    assert [row[:2] for row in table.rows] == [("all", 3), ("A", 3), ("T", 2)]
    mine = calibration([0.9, 0.8, 0.3], [True, False, True], 15)
    assert table.rows[0][2:] == pytest.approx((2 / 3, 2 / 3, mine.ece, mine.brier, mine.aurc))
    assert table.rows[2][2:4] == pytest.approx((1 / 2, 0.6))
    assert set(table.figures) == {"reliability", "risk_coverage"}


Make = Callable[..., tuple[ProfileModel, Any]]


@pytest.fixture(scope="module")
def make(tiny_model: Callable[..., ProfileModel], make_collator: Callable[..., Collator], users: list[User]) -> Make:
    """``make(fusion, modality, users)`` -> a random model, and what its datamodule gives of it."""

    def found(fusion: str = "xattn", modality: str = "both", some: Sequence[User] = users) -> tuple[ProfileModel, Any]:
        model = tiny_model(fusion, vocabulary="schema")
        model.settings["inputs"] = {**model.settings["inputs"], "modality": modality}
        kinds = ("text",) if modality == "text" else ("fusion", "text")
        views, collator, city = tuple(build_view(kind, modality) for kind in kinds), make_collator(model), City(some)
        data = SimpleNamespace(
            users=city.users, draws=city, views=views, collator=collator, eval_batch_size=2,
            loader=lambda users: [collator([user], (views[0],)) for user in users],
        )  # fmt: skip
        return model, data

    return found


def told(model: ProfileModel, data: Any) -> list[dict[str, Any]]:
    """Rows as a run would write them."""
    users = data.users("test")
    said = [model.decode(batch)[0].profile for batch in data.loader(users)]
    rows = rows_of([user.profile or {} for user in users], said)
    return [{**row, "user_id": user.user_id} for row, user in zip(rows, users, strict=True)]


def test_stories_are_what_the_model_says_when_asked_by_hand(make: Make, users: list[User]) -> None:
    model, data = make()
    inspector = Inspector(model, data.collator, data.views, users)
    evidence = evidence_of_model(model, data, told(model, data), 3)
    assert [story.user_id for story in evidence.stories] == ["user-0", "user-2", "user-3"]  # those with photos first
    assert evidence.gate_users == 3
    for story in evidence.stories:
        user = inspector.users_by_id[story.user_id]
        (inspection,) = inspector.inspect([user])
        assert ["".join(text for text, _ in pieces) for pieces in story.reviews] == list(user.reviews)
        shares = inspection.photo_attention.mean(0)
        assert [photo.share for photo in story.photos] == pytest.approx(shares.tolist())
        strength = np.abs(inspection.added).mean(1)
        means = [
            (w.text, f"{w.source} {w.number}", float(strength[slice(*w.span)].mean()))
            for w in inspection.words
            if w.text != "."
        ]
        assert story.words == [
            (*word, pytest.approx(mean)) for *word, mean in sorted(means, key=lambda one: -one[2])[:8]
        ]
        marked = [shade for pieces in story.reviews for _, shade in pieces if shade is not None]
        assert len(marked) == sum(word.source == "review" for word in inspection.words)
        assert 0 <= min(marked) <= max(marked) <= 1

        wanted = {f"photo {i}": drop_photo(user, i) for i in range(len(user.photos))}
        wanted |= {f"review {i}": drop_review(user, i) for i in range(len(user.reviews))}
        table = distances_by_change(inspector.counterfactuals([user], lambda user, _, wanted=wanted: wanted))  # type: ignore[misc]
        for place, answer in enumerate(story.attributes):
            name = answer.attribute.name
            each = {change: float(by_attribute[name][0]) for change, by_attribute in table.items()}
            assert {change: distances[place] for change, distances in story.distances.items()} == pytest.approx(
                each, abs=1e-5
            )
            assert answer.influence is not None
            assert answer.influence.distance == pytest.approx(max(each.values()), abs=1e-5)
            assert each[answer.influence.source] == pytest.approx(max(each.values()), abs=1e-5)
            posterior = inspection.decoded.posteriors[name]
            assert answer.predicted == ", ".join(inspection.decoded.profile[name])
            assert answer.probability == pytest.approx(posterior[inspection.decoded.profile[name]], abs=1e-5)
            assert answer.influence.before == pytest.approx(answer.probability, abs=1e-5)
            gold = (user.profile or {})[name]
            assert answer.gold_probability == pytest.approx(posterior.get(gold, 0.0), abs=1e-5)
            assert answer.right == (answer.predicted == ", ".join(gold))


def test_users_without_photos_come_last_and_have_no_gate(make: Make, users: list[User], tmp_path: Path) -> None:
    model, data = make()
    rows = told(model, data)
    evidence = evidence_of_model(model, data, rows)
    bare = evidence.stories[-1]
    assert bare.user_id == "user-1"
    assert (bare.photos, bare.words, bare.distances) == ([], [], {})  # one review alone: nothing could be left out
    assert all(answer.influence is None and answer.probability for answer in bare.attributes)
    page, _ = render(tmp_path, model.schema, rows, evidence)
    assert "This user has no photos." in page.text
    assert "Means over the first 3 test users with photos" in page.text


@pytest.mark.parametrize(
    ("fusion", "modality", "said"),
    [
        ("none", "text", "its paradigm (text) shows the model no photos"),
        ("none", "uni", "its paradigm (uni) shows the model no photos"),
        ("concat", "multi", "its fusion is concat"),
    ],
)
def test_a_run_without_gates_says_so(fusion: str, modality: str, said: str, make: Make, tmp_path: Path) -> None:
    model, data = make(fusion, modality)
    rows = told(model, data)
    evidence = evidence_of_model(model, data, rows)
    page, _ = render(tmp_path, model.schema, rows, evidence)
    assert said in page.text
    assert "Means over the first" not in page.text
    assert "of attention" not in page.text
    assert ("The model is shown no photos" in page.text) == (modality != "multi")
    assert [len(story.photos) for story in evidence.stories] == ([0] * 4 if modality == "text" else [3, 1, 2, 0])
    changes = {change.split()[0] for story in evidence.stories for change in story.distances}
    assert changes == ({"review"} if modality == "text" else {"review", "photo"})


def test_nobody_has_photos(make: Make, users: list[User], tmp_path: Path) -> None:
    model, data = make(some=[replace(user, photos=(), captions=()) for user in users])
    rows = told(model, data)
    page, _ = render(tmp_path, model.schema, rows, evidence_of_model(model, data, rows))
    assert "there is nothing to see of the gate: no user has a photo" in page.text
    assert page.text.count("This user has no photos.") == 4


def test_a_thumbnail_is_small_and_says_nothing_of_the_camera() -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x010F] = "camera"
    Image.new("RGB", (1000, 500), "red").save(file, format="JPEG", exif=exif)
    small = Image.open(io.BytesIO(thumbnail(file.getvalue())))
    assert small.size == (THUMBNAIL, THUMBNAIL // 2)
    assert not small.getexif()


@pytest.mark.parametrize("content", [None, "{", "\xff"])
def test_predictions_that_cannot_be_read_are_one_line(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "predictions.jsonl").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"predictions\.jsonl: cannot be read"):
        read_predictions(tmp_path)
    (tmp_path / "predictions.jsonl").write_text(json.dumps({"user_id": "a"}) + "\n")
    assert read_predictions(tmp_path) == [{"user_id": "a"}]
