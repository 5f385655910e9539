"""The rows of ``predictions.jsonl`` are checked where they are read."""

import json
from pathlib import Path

import pytest

from mmprofile.errors import UserError
from mmprofile.evaluate.rows import read_predictions

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("content", [None, "{", "\xff"])
def test_predictions_that_cannot_be_read_are_one_line(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "predictions.jsonl").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"predictions\.jsonl: cannot be read"):
        read_predictions(tmp_path)
    row = {"user_id": "a", "gold": {"Age": ["18-24"]}, "parsed": {"Age": []}}
    (tmp_path / "predictions.jsonl").write_text(json.dumps(row) + "\n")
    assert read_predictions(tmp_path) == [row]


@pytest.mark.parametrize(
    "row",
    [[], "a", {"user_id": "a"}, {"user_id": 1, "gold": {}, "parsed": {}}, {"user_id": "a", "gold": [], "parsed": {}},
     {"user_id": "a", "gold": {"Age": [1]}, "parsed": {}}, {"user_id": "a", "gold": {}, "parsed": {"Age": None}}],
)  # fmt: skip
def test_a_row_of_another_form_is_one_line(row: object, tmp_path: Path) -> None:
    (tmp_path / "predictions.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"predictions\.jsonl: cannot be read"):
        read_predictions(tmp_path)
