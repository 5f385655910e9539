"""A first schema from a labels file: what becomes an attribute, what is left out, and that it fits the labels."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.label_file import read_labels
from datamodules.suggest import suggest_schema
from mmprofile.errors import UserError
from mmprofile.profile.schema import Schema

pytestmark = pytest.mark.fast


def suggest(folder: Path, rows: list[Any], name: str = "labels.jsonl") -> tuple[Schema, str, str]:
    """The schema, its file, and what was printed."""
    lines = [json.dumps({"user_id": f"u{n}", **row} if isinstance(row, dict) else row) for n, row in enumerate(rows)]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    said = suggest_schema(str(folder / name), str(folder / "mine.yaml"))
    return Schema.from_yaml(folder / "mine.yaml"), (folder / "mine.yaml").read_text(encoding="utf-8"), said


def test_few_values_are_one_choice_as_they_were_written(tmp_path: Path) -> None:
    rows = [{"Smokes": answer, "Code": code, "ÄŒ城市 😀": place} for answer, code, place in
            [("yes", "010", "北京"), ("no", "9", "القاهرة"), ("Yes", "010", "北京"), ("yes", "1e3", None)]]  # fmt: skip
    schema, text, _ = suggest(tmp_path, rows)
    assert schema["Smokes"].values == ("no", "yes")  # the commonest spelling
    assert schema["Code"].values == ("010", "1e3", "9")
    assert schema["ÄŒ城市 😀"].values == ("القاهرة", "北京")
    assert "{name: ÄŒ城市 😀, values: [القاهرة, 北京]} # 3 people" in text
    assert {attribute.kind for attribute in schema.attributes} == {"single"}


def test_numbers_ascend(tmp_path: Path) -> None:
    schema, _, _ = suggest(
        tmp_path, [{"Stars": stars, "Size": size} for stars, size in [(10, 2.5), (9.0, -1), (1, "0")]]
    )
    assert schema["Stars"].values == ("1", "9", "10")
    assert schema["Size"].values == ("-1", "0", "2.5")
    assert {attribute.kind for attribute in schema.attributes} == {"ordinal"}


def test_many_numbers_are_cut_into_bins(tmp_path: Path) -> None:
    schema, text, _ = suggest(
        tmp_path, [{"Income": 1000 + n, "Zip": f"0{n}"} for n in range(40)] + [{"Income": "Unknown"}]
    )
    assert schema.names == ("Income",)
    assert "{name: Income, kind: number, quantiles: 4, unknown: true} # 40 people" in text
    assert "Zip: 40 different texts" in text


def test_sets_and_unknown(tmp_path: Path) -> None:
    rows = [{"Likes": ["b", "a"], "One": ["x"]}, {"Likes": ["c", "a"], "One": ["y"]}, {"Likes": "Unknown", "One": None}]
    schema, _, _ = suggest(tmp_path, rows)
    likes, only = schema["Likes"], schema["One"]
    assert (likes.kind, likes.size, likes.values, likes.unknown) == ("set", 2, ("a", "b", "c"), True)
    assert (only.kind, only.size, only.unknown) == ("single", 1, False)


def test_lists_of_any_length(tmp_path: Path) -> None:
    schema, text, _ = suggest(tmp_path, [{"Likes": ["b", "a"]}, {"Likes": []}, {"Likes": ["c"]}, {"Likes": None}])
    assert (schema["Likes"].kind, schema["Likes"].sizes) == ("set", "0 to 2")
    assert "{name: Likes, kind: set, size: 2, min_size: 0, values: [a, b, c]} # 3 people" in text


def test_what_is_no_attribute_is_left_out_with_a_reason(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"Sex": "fm"[n % 2], "Note": f"text {n}", "Same": "x",
         "Bad": ["a, b", "c"][n % 2], "Empty": None} for n in range(40)
    ]  # fmt: skip
    schema, text, said = suggest(tmp_path, [*rows, ["no object"]])
    assert schema.names == ("Sex",)
    for line in (
        "Note: 40 different texts for 40 people: group them into values",
        "Same: it has one value, 'x'",
        "Empty: it has no value",
    ):
        assert f"# - {line}\n" in text
        assert f"left out {line}\n" in said
    assert re.search("# - Bad: .*'a, b' is empty, has stray blanks, or contains one of ; , :", text)
    assert "left out rows: 1, the first is row 41: not a JSON object" in said
    assert "next: look through" in said


def test_parquet_gives_the_same(tmp_path: Path) -> None:
    rows = [{"user_id": str(n), "Stars": n % 3, "Likes": [["a", "b"], ["c", "b"]][n % 2]} for n in range(6)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "labels.parquet")
    suggest_schema(str(tmp_path / "labels.parquet"), str(tmp_path / "a.yaml"))
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    suggest_schema(str(tmp_path / "labels.jsonl"), str(tmp_path / "b.yaml"))
    first, second = (Schema.from_yaml(tmp_path / f"{name}.yaml").attributes for name in "ab")
    assert first == second


def test_nothing_is_overwritten_or_written_in_vain(tmp_path: Path) -> None:
    suggest(tmp_path, [{"A": "x"}, {"A": "y"}])
    written = (tmp_path / "mine.yaml").read_bytes()
    with pytest.raises(UserError, match=r"mine\.yaml: the file is there already, and is not overwritten"):
        suggest(tmp_path, [{"B": "x"}, {"B": "y"}])
    assert (tmp_path / "mine.yaml").read_bytes() == written
    (tmp_path / "mine.yaml").unlink()
    with pytest.raises(UserError, match=r"no column can be an attribute \(A: it has one value, 'x'\)"):
        suggest(tmp_path, [{"A": "x"}])
    with pytest.raises(UserError, match="no row can be used, the first is row 1: not a JSON object"):
        suggest(tmp_path, [3])
    assert not (tmp_path / "mine.yaml").exists()
    with pytest.raises(UserError, match="needs a labels file"):
        suggest_schema(None, "mine.yaml")
    with pytest.raises(UserError, match=r"ends in \.yaml"):
        suggest_schema(str(tmp_path / "labels.jsonl"), str(tmp_path / "mine"))


ODD = ["Unknown", "NO", "null", "~", "# x", "a: b", "- y", "'", '"', "ı", "İ", "ß"]
CELL = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(-2, 2).map(lambda x: round(x, 1)), st.sampled_from(ODD),
    st.text(max_size=3), st.lists(st.text(max_size=2), max_size=3, unique_by=str.lower),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.text(max_size=4).filter(lambda name: name != "user_id"), CELL, max_size=3),
        min_size=1,
        max_size=8,
    )
)
def test_every_suggestion_can_be_read_and_fits_its_labels(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("s")
    try:
        schema, _, _ = suggest(folder, rows)
    except UserError as error:
        assert "no column can be an attribute" in str(error)  # noqa: PT017
        return
    kept = {name.lower() for name in schema.names}
    lines = [{"user_id": f"u{n}", **{k: v for k, v in row.items() if k.lower() in kept}} for n, row in enumerate(rows)]
    (folder / "kept.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_labels(folder / "kept.jsonl", schema, {"u0"})
    assert not found.wrong
    assert found.columns == set(schema.names)
