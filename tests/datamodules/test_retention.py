"""How long prepared data may be kept: in manifest and card, and said by whatever opens them afterwards."""

import os
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from datamodules.prepared import open_prepared
from mmprofile.errors import UserError
from tests.support.preparing import digests, run
from tests.support.rawdata import city

TODAY = date.today()


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MMPROFILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MMPROFILE_USER_KEY", "9f2c 41d7 b8e0 635a of tests")
    return str(city(tmp_path / "raw"))


def until(folder: Path) -> Any:
    return open_prepared(folder).manifest.get("retention", {}).get("until")


def test_days_are_counted_from_the_preparation_and_a_date_is_that_date(raw: str) -> None:
    folder = run(raw, retention=30)
    assert until(folder) == (TODAY + timedelta(days=30)).isoformat()
    assert f"To be removed after {until(folder)}." in (folder / "README.md").read_text()
    assert run(raw, retention="2999-01-31") == folder  # nothing is prepared again
    assert until(folder) == "2999-01-31"
    assert "To be removed after 2999-01-31." in (folder / "README.md").read_text()
    before = digests(folder)
    assert run(raw) == folder  # a command that says nothing takes nothing away
    assert digests(folder) == before
    week_ago = time.time() - 7 * 86400
    os.utime(folder / ".fingerprint", (week_ago, week_ago))
    run(raw, retention=10)
    assert until(folder) == (TODAY + timedelta(days=3)).isoformat()


def test_data_without_a_retention_are_as_before(raw: str) -> None:
    folder = run(raw)
    assert until(folder) is None
    assert "To be removed" not in (folder / "README.md").read_text()


def test_whatever_opens_the_data_says_that_they_should_be_gone(raw: str, capfd: pytest.CaptureFixture[str]) -> None:
    folder = run(raw, retention=TODAY.isoformat())
    open_prepared(folder)
    assert capfd.readouterr().err == ""  # until the end of the day
    run(raw, retention="2020-02-29")
    for _ in range(3):
        open_prepared(folder)
    said = f"warning: {folder} should have been removed after 2020-02-29 (data.prepare.retention)"
    assert capfd.readouterr().err.count(said) == 1


@pytest.mark.parametrize("wrong", ["soon", 0, -3, True, 1.5, "2027-13-01", [30]])
def test_what_is_no_retention_is_one_line(wrong: Any, raw: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.prepare\.retention=.*: give a number of days, or a date"):
        run(raw, retention=wrong)
    assert not (tmp_path / "cache").exists()
