"""The command ``predict``: profiles of anybody, from rows of users (see :mod:`mmprofile.predict.rows`).

Output, a user a line: ``{"user_id", "profile", "text", "faults", "used", "confidence"}``. Confidence is the probability that
the model gives to each attribute's values, calibrated on the validation users of its training. With ``risk=`` there are
``sets``, too: the values among which the true one is for all but this share of users. Both are left out with ``beams=``.
With ``purpose=``, which sensitive attributes need, each row says it.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from io import TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import torch
from tqdm import tqdm

from mmprofile.config.settings import PredictConfig
from mmprofile.config.targets import build
from mmprofile.errors import UserError, counted
from mmprofile.evaluate.runs import Predictor, load_predictor
from mmprofile.model.model import ProfileModel
from mmprofile.predict.certainty import Certainty, check_calibrator
from mmprofile.predict.output import OutputFile, photo_root, whole_batches
from mmprofile.predict.ranks import Ranks, started_ranks
from mmprofile.predict.rows import BadRow, InputUser, read_rows
from mmprofile.predict.users import (
    OUTSIDE,
    Captioner,
    Photos,
    StoredPhotos,
    UserPhotos,
    batches,
    plain,
    prediction_view,
)
from mmprofile.profile.calibrator import check_risk
from mmprofile.profile.schema import check_purpose
from mmprofile.remote import is_url

EVERY = 30
"""Seconds between two lines of progress where no terminal shows a bar."""


class Intake:
    """The users of an input, one at a time; rows that are none are handed on and counted.

    Attributes:
        users, bad: how many of both.
        photos, captions: whether any user had some.
    """

    def __init__(self, rows: Iterable[InputUser | BadRow], bad_row: Callable[[BadRow], None]) -> None:
        self._rows, self._bad_row = rows, bad_row
        self.users, self.bad, self.photos, self.captions = 0, 0, False, False

    def __iter__(self) -> Iterator[InputUser]:
        for row in self._rows:
            if isinstance(row, BadRow):
                self.bad += 1
                self._bad_row(row)
                continue
            self.users += 1
            self.photos |= bool(row.photos)
            self.captions |= bool(row.captions)
            yield row


class Seen:
    """What the rows of the output tell of the users.

    Attributes:
        unusable: the reasons why photos could not be used.
        nothing: the number of users of whom the model could read nothing.
    """

    def __init__(self) -> None:
        self.unusable: Counter[str] = Counter()
        self.nothing = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        used = row["used"]
        self.unusable.update(used["unusable_photos"].values())
        self.nothing += not any(used[name] for name in ("reviews", "photos", "captions"))


def main(cfg: PredictConfig) -> None:
    """Write the profiles of all users of the input, to a file or to standard output.

    A file is written beside its place and renamed at the end; the same command goes on where a killed one was.
    """
    torch.set_flush_denormal(True)  # as in training
    with started_ranks() as ranks:
        write(cfg, ranks)


def write(cfg: PredictConfig, ranks: Ranks, predictor: Predictor | None = None) -> None:
    """Write this process's share; the first process checks what is asked for and ends the work.

    Args:
        cfg: the command's configuration.
        ranks: this process among all.
        predictor: its model, where it is loaded already.
    """
    if not ranks.first:
        ranks.wait()  # until the first has checked all that follows: a mistake is said once
    check_risk(cfg.risk)
    rows = read_rows(cfg.input)
    first = next(rows, None)  # before the model is loaded: a wrong path is said at once
    if first is None:
        raise UserError(f"input={cfg.input}: no rows in it")
    seen = Seen()
    output = OutputFile.of(cfg) if cfg.output is not None and not _is_stream(cfg.output) else None
    if not ranks.alone and (output is None or cfg.input == "-"):
        raise UserError("several processes (torchrun) cannot share standard input or output: give files")
    start = 0 if output is None else output.resume(cfg.batch_size, ranks, seen.add)
    predictor = predictor or load_predictor(cfg.run)
    model, beams = predictor.model, cfg.beams or predictor.beams
    purpose = check_purpose(model.schema, cfg.purpose)
    check_calibrator(model, cfg.risk, beams)
    captioner = load_captioner(cfg, model)
    reader = (build(cfg.photos), model.transform, captioner is not None)
    stored = is_url(cfg.photo_root)
    photos = StoredPhotos(str(cfg.photo_root), *reader) if stored else UserPhotos(photo_root(cfg), *reader)
    if ranks.first:
        ranks.wait()
    with ExitStack() as stack:
        bad_rows = None if output is None or not ranks.first else stack.enter_context(output.bad_rows())
        intake = Intake(chain([first], rows), lambda row: _write_bad_row(row, bad_rows) if ranks.first else None)
        users, done = islice(intake, start, None), start
        if output is not None:
            part = output.part(start, ranks)
            if not ranks.alone:
                done = whole_batches(part, cfg.batch_size)
                users = islice(ranks.share(users, cfg.batch_size), done, None)
            file: TextIO = stack.enter_context(output.rows(part))
        elif cfg.output is not None:
            file = stack.enter_context(open(cfg.output, "w", encoding="utf-8"))
        else:
            file = sys.stdout
            if isinstance(file, TextIOWrapper):
                file.reconfigure(encoding="utf-8")  # whatever the terminal's: JSON is UTF-8
        computed = predict(model, users, photos, beams, cfg.batch_size, cfg.risk, captioner)
        for row in _with_progress(computed, done, ranks):
            if ranks.alone:
                seen.add(row)
            said = row if purpose is None else row | {"purpose": purpose}
            file.write(json.dumps(said, ensure_ascii=False) + "\n")
            file.flush()  # for whoever reads along
    ranks.wait()
    if not ranks.first:
        return
    if not intake.users:
        if output is not None:
            output.discard()
        none = f"none of its {counted(intake.bad, 'row')} is a user"
        raise UserError(f"input={cfg.input}: {none}; the first: {_said(first)}")
    if output is not None:
        if not ranks.alone:
            output.join(start, ranks.count, cfg.batch_size, seen.add)
        output.finish(intake.bad)
        print(f"{counted(intake.users, 'profile')} in {output.target}")
    for line in notes(model, intake, seen, output, captioner is not None):
        print(line, file=sys.stderr)


def load_captioner(cfg: PredictConfig, model: ProfileModel) -> Captioner | None:
    """Return what captions photos; None where no checkpoint is named.

    Raises:
        UserError: the checkpoint cannot be loaded, or the model reads no captions.
    """
    if cfg.captioner.checkpoint is None:
        return None
    if prediction_view(model).captions == "none":
        raise UserError("captioner.checkpoint=...: this model reads no captions; leave it out")
    from mmprofile.model.captioner import PhotoCaptioner

    return PhotoCaptioner(cfg.captioner)


def _is_stream(output: str) -> bool:
    """Return whether an output is a pipe or device, which cannot be renamed."""
    path = Path(output).expanduser()
    return path.exists() and not path.is_file() and not path.is_dir()


def _write_bad_row(row: BadRow, file: TextIO | None) -> None:
    """Write a row that is no user to the file of bad rows or, if there is none, to standard error."""
    if file is None:
        print(f"left out: {_said(row)}", file=sys.stderr)
    else:
        file.write(json.dumps(row._asdict(), ensure_ascii=False) + "\n")


def _said(row: InputUser | BadRow) -> str:
    return f"row {row.row}: {row.reason}" if isinstance(row, BadRow) else row.user_id


def _with_progress(rows: Iterable[dict[str, Any]], done: int, ranks: Ranks) -> Iterator[dict[str, Any]]:
    """Show how many users are done, as far as the first process knows: a bar on a terminal, elsewhere a line now and then."""
    if not ranks.first:
        yield from rows
        return
    whose = "" if ranks.alone else f" (process 1 of {ranks.count})"
    said, bar = time.monotonic(), tqdm(rows, initial=done, unit=f"user{whose}", disable=None, leave=False)
    for number, row in enumerate(bar, done + 1):
        yield row
        if bar.disable and time.monotonic() - said > EVERY:
            said = time.monotonic()
            print(f"{number:,} users{whose}", file=sys.stderr, flush=True)


def predict(
    model: ProfileModel,
    users: Iterable[InputUser],
    photos: Photos,
    beams: int | None,
    batch_size: int,
    risk: float | None = None,
    captioner: Captioner | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the profiles of users, in order, as rows of the output file.

    Args:
        model: in evaluation mode.
        users: whose profiles.
        photos: of these users.
        beams: see :meth:`mmprofile.model.model.ProfileModel.generate`.
        batch_size: users at a time.
        risk: of the sets of values; None: there are none.
        captioner: captions photos without captions; None: they stay without.
    """
    for selections, batch in batches(model, users, photos, batch_size, captioner):
        decoded = model.decode(batch) if beams is None else None
        texts = model.generate(batch, beams) if decoded is None else [profile.text for profile in decoded]
        for i, (selection, text) in enumerate(zip(selections, texts, strict=True)):
            parsed = model.schema.parse(text)
            row: dict[str, Any] = {
                "user_id": selection.user.user_id,
                "profile": {name: plain(model.schema[name], values) for name, values in parsed.profile.items()},
                "text": text,
                "faults": parsed.faults,
                "used": selection.used,
            }
            if decoded is not None:
                certainty = Certainty.of(model, selection, decoded[i], risk)
                row["confidence"] = {name: round(share, 3) for name, share in certainty.decoded.confidence.items()}
                if certainty.sets is not None:
                    row["sets"] = certainty.sets
            yield row


def notes(model: ProfileModel, intake: Intake, seen: Seen, output: OutputFile | None, captioned: bool) -> Iterator[str]:
    """Yield what the user should know about these predictions."""
    if prediction_view(model).captions != "none" and intake.photos and not intake.captions and not captioned:
        known = model.confidence and model.confidence.without_captions
        cost = known.cost() if known else "expect worse"
        advice = "give captions, or captioner.checkpoint="
        yield f"this model was trained with captions of the photos, and the input has none: {cost}; {advice}"
    if "purpose" in model.settings:
        yield f"this model was trained for the purpose: {model.settings['purpose']}"
    if seen.nothing:
        users = counted(seen.nothing, "user")
        yield f"of {users} the model could read nothing (see `used`): their profiles are guesses without evidence"
    if seen.unusable:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(seen.unusable.items()))
        advice = "; photo_root= says which folder they may lie in" if OUTSIDE in seen.unusable else ""
        yield f"photos left out: {counts} (named in each user's `used.unusable_photos`){advice}"
    if intake.bad and output is not None:
        yield f"rows left out, which are no users: {intake.bad:,}, listed with reasons in {output.errors}"
