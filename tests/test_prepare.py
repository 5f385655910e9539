"""The door of ``prepare``; what is behind it is tested in tests/datamodules."""

from pathlib import Path

import pytest

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.prepare import run


def test_clean_lists_and_nothing_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MMPROFILE_CACHE", str(tmp_path))
    for word in ("list", "true"):
        run(load_config("prepare", [f"clean={word}"]))
        assert capsys.readouterr().out.endswith("nothing to remove\n")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="clean=maybe: give list to see the prepared folders, or true"):
        run(load_config("prepare", ["clean=maybe"]))
