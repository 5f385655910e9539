"""``predictions.jsonl``: written and read."""

from pathlib import Path

import pytest

from mmprofile.evaluate.predictions import parse_predictions, write_predictions
from mmprofile.evaluate.rows import profiles, read_predictions
from mmprofile.inputs.views import User
from mmprofile.profile.schema import Schema

pytestmark = pytest.mark.fast


def test_what_is_written_is_read_again(schema: Schema, users: list[User], tmp_path: Path) -> None:
    texts = [schema.render(user.profile or {}) for user in users]
    confidence = dict.fromkeys(schema.names, 0.123456)
    parsed = parse_predictions(schema, users, texts)
    write_predictions(tmp_path / "predictions.jsonl", [one._replace(confidence=confidence) for one in parsed])
    rows = read_predictions(tmp_path)
    assert [row["user_id"] for row in rows] == [user.user_id for user in users]
    assert [row["text"] for row in rows] == texts
    assert profiles(rows, "parsed") == profiles(rows, "gold") == [user.profile for user in users]
    assert rows[0]["confidence"] == dict.fromkeys(schema.names, 0.1235)
    assert all(row["faults"] == [] for row in rows)
    write_predictions(tmp_path / "predictions.jsonl", parse_predictions(schema, users[:1], ["nothing"]))
    (row,) = read_predictions(tmp_path)
    assert row["faults"]
    assert "confidence" not in row
