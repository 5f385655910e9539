"""Several independent answers per person: ``python -m mmprofile.llm.teacher data=demo teacher=lexicon samples=8``.

They go, as they come, into a journal; the same command again asks only for what is not there.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmprofile.errors import UserError
from mmprofile.llm.answers import parse_answer
from mmprofile.llm.journal import Journal, Record
from mmprofile.llm.people import Person
from mmprofile.llm.stage import ASKED, JOURNAL, digest, messages, open_schema, read_people, stage_folder
from mmprofile.llm.teacher.protocol import Question, Reply, Teacher
from mmprofile.profile.schema import Schema

SHOWN = 3  # of anything that is listed
SEEDS = 1000  # from one seed to the next: of the answers of two, none is the same


@dataclass
class Asked:
    """What became of the questions.

    Attributes:
        questions: how many there were.
        found: answered before.
        failed: records without an answer.
        malformed: answers in which nothing was understood; faulty: in which something was not.
        faults: the commonest, and how often.
        prompt_tokens, completion_tokens: as the server counted them, of all answers.
    """

    questions: int
    found: int
    failed: list[Record] = field(default_factory=list)
    malformed: int = 0
    faulty: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0


def main(cfg: Any) -> None:
    """Entry point: asks, counts, and lists who was not answered."""
    if ask(cfg).failed:
        sys.exit(1)


def ask(cfg: Any) -> Asked:
    """Asks what is not answered yet; the journal and the list of what was asked lie in the stage's folder."""
    schema = open_schema(cfg)
    teacher = make_teacher(cfg.teacher, schema)
    folder = stage_folder(cfg)
    people = read_people(cfg, schema)
    teacher.check()
    clock = time.perf_counter()
    asked = collect(teacher, people, schema, cfg, Journal(folder / JOURNAL))
    print(describe(asked, people, teacher, cfg, folder, time.perf_counter() - clock))
    return asked


def collect(teacher: Teacher, people: Sequence[Person], schema: Schema, cfg: Any, journal: Journal) -> Asked:
    """Asks for ``cfg.samples`` answers of each person, those that the journal does not have.

    What is asked, request by request, is written beside the journal first: answers to it are what is voted on.

    Raises:
        UserError: the teacher says that asking on makes no sense; what was answered until then is in the journal.
    """
    todo: list[tuple[Record, Question]] = []
    wanted: list[str] = []
    origin = digest(teacher.name, teacher.settings, dict(cfg.prompt), schema.to_dict(), cfg.seed)
    for person in people:
        asked = messages(person.text(), schema, cfg.prompt)
        prompt = digest(asked)
        for sample in range(cfg.samples):
            seed = SEEDS * cfg.seed + sample
            request = digest(person.user_id, teacher.name, teacher.settings, prompt, seed)
            wanted.append(request)
            if not journal.answered(request):
                record = Record(person.user_id, sample, request, prompt, teacher.name, seed, "", 0.0, "", origin=origin)
                todo.append((record, Question(person, asked, seed)))
    write_asked(journal.path.with_name(ASKED), wanted)
    found = len(wanted) - len(todo)
    pause = 0.2 if sys.stderr.isatty() else 10
    with tqdm(
        total=len(todo), desc="answers", unit="answer", mininterval=pause, disable=not cfg.progress, leave=False
    ) as bar:
        pool = ThreadPoolExecutor(teacher.concurrency)
        parts = [todo[i : i + teacher.batch] for i in range(0, len(todo), teacher.batch)]
        try:
            for future in as_completed([pool.submit(_ask, teacher, part, journal) for part in parts]):
                bar.update(future.result())
        finally:
            pool.shutdown(cancel_futures=True)
    return count(Asked(len(wanted), found), [journal.records[request] for request in wanted], schema)


def write_asked(path: Path, requests: Sequence[str]) -> None:
    """The list of what was asked, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.tmp")
    partial.write_text(json.dumps(requests), encoding="utf-8")
    partial.replace(path)


def _ask(teacher: Teacher, part: Sequence[tuple[Record, Question]], journal: Journal) -> int:
    start = time.perf_counter()
    replies: list[Reply] = teacher.ask([question for _, question in part])
    now, each = datetime.now(UTC).isoformat(timespec="seconds"), (time.perf_counter() - start) / len(part)
    journal.write(
        record._replace(
            model=reply.model or record.model, time=now, seconds=round(each, 3), answer=reply.text, error=reply.error,
            prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens,
        )
        for (record, _), reply in zip(part, replies, strict=True)
    )  # fmt: skip
    return len(part)


def count(asked: Asked, records: Sequence[Record], schema: Schema) -> Asked:
    """Adds up what the answers are like."""
    for record in records:
        asked.prompt_tokens += record.prompt_tokens or 0
        asked.completion_tokens += record.completion_tokens or 0
        if record.error is not None:
            asked.failed.append(record)
            continue
        answer = parse_answer(record.answer, schema)
        asked.malformed += not answer.claims
        asked.faulty += bool(answer.faults)
        asked.faults.update(answer.faults)
    return asked


def describe(asked: Asked, people: Sequence[Person], teacher: Teacher, cfg: Any, folder: Path, seconds: float) -> str:
    """What is printed at the end."""
    lines = [
        f"{folder / JOURNAL}: {asked.questions:,} answers of {teacher.name} about {len(people):,} people "
        f"({cfg.samples} each), {asked.found:,} of them from before; {seconds:.1f} s",
        f"  {asked.malformed:,} answers not understood, {asked.faulty:,} in part or wholly; such parts vote for nothing",
    ]
    lines += [f"    {times:,} x {fault}" for fault, times in asked.faults.most_common(SHOWN)]
    if asked.prompt_tokens or asked.completion_tokens:
        lines.append(f"  tokens: {asked.prompt_tokens:,} read, {asked.completion_tokens:,} written{cost(asked, cfg)}")
    if asked.failed:
        whom = len({record.user_id for record in asked.failed})
        lines.append(
            f"  {len(asked.failed):,} questions about {whom:,} people failed, the journal has each with its error; the same "
            "command asks them again:"
        )
        lines += [f"    {r.user_id}, sample {r.sample}: {r.error}" for r in asked.failed[:SHOWN]]
    return "\n".join(lines)


def cost(asked: Asked, cfg: Any) -> str:
    """What the tokens cost, where ``teacher.prices`` says so."""
    prices = cfg.teacher.get("prices") or {}
    if prices.get("prompt") is None or prices.get("completion") is None:
        return ""
    total = (asked.prompt_tokens * prices["prompt"] + asked.completion_tokens * prices["completion"]) / 1e6
    return f"; cost {total:,.2f} by teacher.prices"


def make_teacher(cfg: Any, schema: Schema) -> Teacher:
    """The teacher that ``conf/llm/teacher`` describes.

    Raises:
        UserError: an unknown one, or one whose library is not installed.
    """
    kind = cfg.kind
    if kind == "lexicon":
        from mmprofile.llm.teacher.lexicon import Lexicon

        return Lexicon(cfg, schema)
    if kind == "openai":
        try:
            from mmprofile.llm.teacher.openai import OpenAI
        except ImportError as error:
            raise UserError(f"teacher=openai needs the package {error.name}: pip install 'mmprofile[llm]'") from error
        return OpenAI(cfg)
    if kind == "local":
        from mmprofile.llm.teacher.local import Local

        return Local(cfg)
    raise UserError(f"teacher.kind={kind!r} is not one of lexicon, openai, local")
