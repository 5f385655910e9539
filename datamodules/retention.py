"""How long prepared data may be kept: a date in the manifest and the card, and a warning once it has passed."""

import sys
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from datamodules.card import dataset_card
from mmprofile.errors import UserError
from mmprofile.files import read_json, write_json, write_text
from mmprofile.profile.schema import Schema


def check_retention(given: Any) -> int | date | None:
    """Return ``data.prepare.retention`` as a number of days or a date.

    Raises:
        UserError: it is neither.
    """
    if given is None or (isinstance(given, int) and not isinstance(given, bool) and given > 0):
        return given
    try:
        return date.fromisoformat(str(given))
    except ValueError as error:
        raise UserError(
            f"data.prepare.retention={given}: give a number of days, or a date such as 2027-01-31"
        ) from error


def retention_facts(given: int | date | None, start: date) -> dict[str, Any]:
    """Return what the manifest says: the last day on which the data may be kept; nothing where no retention was given."""
    if given is None:
        return {}
    last = start + timedelta(days=given) if isinstance(given, int) else given
    return {"retention": {"given": given if isinstance(given, int) else given.isoformat(), "until": last.isoformat()}}


def keep_retention(folder: Path, given: int | date | None) -> None:
    """Write another retention into data that are prepared already, and warn if it is over.

    Days are counted from the day of the preparation.
    """
    manifest = read_json(folder / "manifest.json")
    start = datetime.fromtimestamp((folder / ".fingerprint").stat().st_mtime).date()
    facts = retention_facts(given, start)
    if facts and facts["retention"]["given"] != manifest.get("retention", {}).get("given"):
        manifest |= facts
        write_text(folder / "README.md", dataset_card(Schema.from_yaml(folder / "schema.yaml"), manifest))
        write_json(folder / "manifest.json", manifest, ensure_ascii=False)
    warn_when_over(folder, manifest)


def warn_when_over(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Say on standard error that data are kept beyond their retention date, once for a folder."""
    until = manifest.get("retention", {}).get("until")
    if until is not None and date.today() > date.fromisoformat(until):
        _warn(folder, until)


@lru_cache
def _warn(folder: Path, until: str) -> None:
    print(
        f"warning: {folder} should have been removed after {until} (data.prepare.retention): remove the folder and what was "
        "made of it, or prepare with another date",
        file=sys.stderr,
        flush=True,
    )
