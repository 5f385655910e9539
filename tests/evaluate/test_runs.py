"""A run and its data: whether they still belong together."""

import json
from pathlib import Path

import pytest

from mmprofile.errors import UserError
from mmprofile.evaluate.runs import check_data
from mmprofile.inputs.views import User

pytestmark = pytest.mark.fast


def test_data_of_other_users_are_refused(tmp_path: Path, users: list[User]) -> None:
    class Data:
        class prepared:
            folder = "there"

        @staticmethod
        def users(split: str) -> list[User]:
            assert split == "test"
            return users

    check_data(tmp_path, Data)  # a run without predictions says nothing
    nothing: dict[str, dict[str, list[str]]] = {"gold": {}, "parsed": {}}
    lines = [json.dumps({"user_id": user.user_id} | nothing) for user in users]
    (tmp_path / "predictions.jsonl").write_text("\n".join(lines) + "\n")
    check_data(tmp_path, Data)
    (tmp_path / "predictions.jsonl").write_text(
        "\n".join([*lines[:2], json.dumps({"user_id": "gone"} | nothing)]) + "\n"
    )
    with pytest.raises(UserError, match=r"1 of its 3 test users are not among the 4 of there.*folder=") as caught:
        check_data(tmp_path, Data)
    assert "\n" not in str(caught.value)
