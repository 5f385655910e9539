"""Files that were made to do harm: each way that was found, with what it is answered by."""

import io
import json
import os
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.captions import Captions
from datamodules.custom import RawCustom, inside, stamp_of
from datamodules.options import CustomSource, PhotoOptions
from datamodules.people import read_people
from datamodules.photos import LARGEST, process
from datamodules.prepared import open_prepared
from datamodules.pseudonyms import Pseudonyms
from datamodules.raw import RawYelp
from datamodules.yelp import NOT_A_LITERAL, as_list, literal, read_businesses
from mmprofile.config.compose import load_config, read_run_config
from mmprofile.errors import UserError
from mmprofile.evaluate.rows import read_predictions
from mmprofile.files import parse_json
from mmprofile.llm.answers import parse_answer
from mmprofile.llm.journal import open_journal
from mmprofile.model.exports import load_pretrained
from mmprofile.predict.users import UserPhotos
from mmprofile.profile.schema import Schema
from tests.support.preparing import run
from tests.support.rawdata import as_zip, city, jpeg, write_lines

DEEP = "[" * 100_000


def one_line(error: pytest.ExceptionInfo[UserError]) -> bool:
    return "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize("text", ["{{}}", "{[]: 1}", "[{}, {{}}]", "(" * 300, DEEP, "-" * 100_000 + "1", "1" * 5000])
def test_an_attribute_that_is_no_literal(text: str) -> None:
    assert literal(text) is NOT_A_LITERAL


def test_values_of_an_attribute_that_no_table_can_hold(tmp_path: Path) -> None:
    assert as_list(literal(r"['a\ud800', 'b']")) == ["a?", "b"]
    rows = [{"business_id": "a", "attributes": {"Kinds": "[0x" + "f" * 4000 + "]"}}]
    write_lines(tmp_path / "business.json", rows)
    table = read_businesses(tmp_path / "business.json", {"Kinds": "list"}, {})
    assert table.to_pylist() == [{"business_id": "a", "Kinds": None}]


@pytest.mark.parametrize("name", ["[1]", "{}", "true"])
def test_a_business_id_that_is_no_text(name: str, tmp_path: Path) -> None:
    lines = [json.dumps({"business_id": f"b{n}"}) for n in range(200)]
    write_lines(tmp_path / "business.json", [*lines, f'{{"business_id": {name}}}'])
    notes: dict[str, dict[str, dict[str, int]]] = {}
    assert read_businesses(tmp_path / "business.json", {}, notes).num_rows == 200 + (name == "true")
    assert notes["malformed_lines"]["business.json"]["malformed"] == (name != "true")
    write_lines(tmp_path / "business.json", ['{"business_id": [1]}'])
    with pytest.raises(UserError, match=r"the first is line 1 \(no business_id\)"):
        read_businesses(tmp_path / "business.json", {}, {})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    return run(str(city(folder / "raw")), folder=folder / "data")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("null\n", "line 1 is not a JSON object"),
        ('{"photo_id": "p2", "caption": "a"}\nnull\n', "line 2 is not a JSON object"),
        (DEEP + "\n", "line 1 is not JSON"),
        ('{"photo_id": ["p2"], "caption": "a"}\n', "line 1: photo_id is no text"),
        ('{"photo_id": "p2", "caption": {"a": 1}}\n', "line 1: caption is no text"),
        ('{"photo_id": "p2", "caption": "\\ud800"}\n', "line 1 is not UTF-8"),
    ],
)
def test_captions_that_end_the_process(lines: str, said: str, prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "captions.jsonl").write_text(lines)
    with pytest.raises(UserError, match=said):
        Captions(prepared).import_table(tmp_path / "captions.jsonl")


@pytest.mark.parametrize(
    "column", [pa.array([["p2"]]), pa.array([b"\xff\xfe"]).view(pa.string()), pa.array([{"a": 1}])]
)
def test_captions_of_another_type(column: pa.Array, prepared: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"photo_id": column, "caption": ["a"]}), tmp_path / "captions.parquet")
    with pytest.raises(UserError, match="cannot be read as Parquet") as caught:
        Captions(prepared).import_table(tmp_path / "captions.parquet")
    assert one_line(caught)


def _people(path: Path) -> None:
    read_people(path, Schema.from_config(load_config("train", []).profile))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("people.jsonl", _people),
        ("answers.jsonl", open_journal),
        ("predictions.jsonl", lambda path: read_predictions(path.parent)),
        ("config.json", lambda path: load_pretrained(path.parent)),
        ("config.yaml", lambda path: read_run_config(path.parent)),
        ("schema.yaml", Schema.from_yaml),
    ],
)
@pytest.mark.parametrize("text", [DEEP, DEEP + "]" * 100_000, '{"a":' * 100_000])
def test_deep_nesting_is_one_line(name: str, read: Callable[[Path], object], text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text + "\n")
    with pytest.raises(UserError) as caught:
        read(tmp_path / name)
    assert one_line(caught)


def test_deep_nesting_is_left_out_where_a_reader_never_raises(prepared: Path, schema: Schema, tmp_path: Path) -> None:
    assert parse_answer(DEEP, schema).claims == {}
    (tmp_path / "manifest.json").write_text(DEEP)
    with pytest.raises(UserError, match="no prepared data set"):
        open_prepared(tmp_path)
    for text in (DEEP, '"\\ud800"', b"\xff"):
        with pytest.raises(ValueError):
            parse_json(text)
    assert parse_json('"\\ud83d\\ude00"') == "\U0001f600"


def test_an_answer_with_half_of_a_character(schema: Schema) -> None:
    row = {"value": schema.attributes[0].values[0], "confidence": 50, "rationale": "so\ud83d  so"}
    parsed = parse_answer(json.dumps({schema.names[0]: row}), schema)
    assert parsed.claims[schema.names[0]].rationale == "so? so"


@pytest.mark.parametrize(
    "text",
    ["a: &a [1, 1]\nb: [*a, *a]\n", "a: &a\n  b: *a\n", "a: ${oc.env:HOME}\n", "- a\n", "a: " + "x" * 2_000_000],
)
def test_a_configuration_that_stands_for_more_than_it_says(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        read_run_config(tmp_path)
    assert one_line(caught)


def test_a_profile_may_look_like_a_reference(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("profile: {attributes: [{name: Price, values: ['${1}', '${2}']}]}\n")
    assert "profile" in read_run_config(tmp_path)


def _zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def _bomb(size: int, head: bytes = b"") -> bytes:
    """A gzipped tar with one member of so many zeros, a thousandth of it on disk."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        info = tarfile.TarInfo("review.json")
        info.size = size
        tar.addfile(info, io.BytesIO(bytes(size)))
    return out.getvalue()


@pytest.mark.parametrize("form", ["zip", "tgz", "tgz in zip", "photo"])
def test_an_archive_that_expands_without_end(form: str, tmp_path: Path) -> None:
    size = 150_000_000
    if form == "tgz":
        (tmp_path / "bomb.tgz").write_bytes(_bomb(size))
        path = tmp_path / "bomb.tgz"
    else:
        name = {"zip": "review.json", "tgz in zip": "all.tgz", "photo": "photos/p.jpg"}[form]
        path = _zip(tmp_path / "bomb.zip", {name: _bomb(size) if form == "tgz in zip" else bytes(size)})
    assert path.stat().st_size < 200_000
    raw = RawYelp([path])
    tracemalloc.start()
    with pytest.raises(UserError, match="expands to more than 100 times its size"):
        [*raw.photos({"p"})] if form == "photo" else raw.json_files(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 110_000_000


def test_a_header_of_a_tar_that_fills_the_memory(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        info = tarfile.TarInfo("x")
        info.type, info.size = tarfile.XHDTYPE, 90_000_000
        tar.fileobj.write(info.tobuf() + bytes(info.size))  # type: ignore[union-attr]
    (tmp_path / "bomb.tgz").write_bytes(out.getvalue())
    tracemalloc.start()
    with pytest.raises(UserError, match="truncated or damaged"):
        RawYelp([tmp_path / "bomb.tgz"]).json_files(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_honest_archives_are_read(tmp_path: Path) -> None:
    folder = city(tmp_path / "raw")
    names = ("yelp_academic_dataset_business.json", "yelp_academic_dataset_review.json", "photos.json", "photos/p2.jpg")
    archive = as_zip(tmp_path / "yelp.zip", {name: folder / name for name in names})
    assert set(RawYelp([archive]).json_files(tmp_path)) == {"business", "review", "photos"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs the files of a Unix system")
def test_a_photo_that_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(LARGEST + 1)
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "good.jpg").write_bytes(jpeg())
    reasons = {"pipe": "unreadable", "large": "too_large", "folder": "unreadable", "no": "missing", "good": None}
    for name, reason in reasons.items():
        assert process(tmp_path / f"{name}.jpg", PhotoOptions()).reason == reason, name
    assert process(Path("/dev/zero"), PhotoOptions()).reason == "unreadable"
    assert process(tmp_path / "nul\0.jpg", PhotoOptions()).reason == "missing"
    assert process(tmp_path / "half\ud800.jpg", PhotoOptions()).reason == "missing"


OUTSIDE = [
    "../secret.jpg",
    "/etc/hostname",
    "~/secret.jpg",
    "~nobody/a.jpg",
    "link.jpg",
    "nul\0.jpg",
    "../raw-other/a.jpg",
]


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_nothing_tells_which_files_exist_outside_the_photos_folder(tmp_path: Path) -> None:
    """Whether it is there or not, a photo outside gives the same answer, in own data and in ``predict``."""
    root = tmp_path / "raw"
    root.mkdir()
    rows = [{"user_id": "u", "text": "a", "photos": [path]} for path in (*OUTSIDE, "in.jpg", str(root / "in.jpg"))]
    write_lines(root / "reviews.jsonl", rows)
    (root / "in.jpg").write_bytes(jpeg())
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    answers = []
    for there in (False, True):
        if there:
            (tmp_path / "secret.jpg").write_bytes(jpeg())
            (tmp_path / "raw-other").mkdir()
            (tmp_path / "raw-other" / "a.jpg").write_bytes(jpeg())
        photos = UserPhotos(root, lambda path: process(path, PhotoOptions()), None, keep_images=True)
        said = [photos.problem(path) for path in OUTSIDE if "~" not in path]
        answers.append((stamp_of(root, OUTSIDE), [inside(root, path) for path in OUTSIDE], said))
    assert answers[0] == answers[1]
    assert answers[0][1] == [None] * len(OUTSIDE)
    assert set(answers[0][2]) == {"outside", "missing"}
    assert inside(root, "in.jpg") == inside(root, str(root / "in.jpg")) == root.resolve() / "in.jpg"
    raw = RawCustom(CustomSource(reviews=str(root / "reviews.jsonl")), Pseudonyms(b"a key"))
    assert len(raw.stamps()) == 2
