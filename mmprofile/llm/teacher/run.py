"""Several independent answers per person: ``python -m mmprofile.llm.teacher data=demo teacher=lexicon samples=8``.

They go into a journal as they come; the same command again asks only for those that are not there.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from mmprofile.config.llm_settings import LlmConfig
from mmprofile.config.parts import typed_part
from mmprofile.errors import UserError
from mmprofile.files import alone_in, write_text
from mmprofile.llm.answers import parse_answer
from mmprofile.llm.journal import Record, open_journal
from mmprofile.llm.stage import ASKED, JOURNAL, OTHER, open_schema, read_people, stage_folder
from mmprofile.llm.teacher.estimate import check_budget, cost, describe_estimate, estimate
from mmprofile.llm.teacher.protocol import Teacher
from mmprofile.llm.teacher.questions import PlannedQuestion, answered, in_batches, plan_questions
from mmprofile.llm.teacher.sent import SENT, in_flight
from mmprofile.profile.schema import Schema
from mmprofile.systems.journal import Journal, ask_in_threads

SHOWN = 3  # of anything that is listed


@dataclass
class AnswerCounts:
    """What became of the questions.

    Attributes:
        questions: their number.
        answered_before: questions that the journal had an answer to.
        failed: records without an answer.
        malformed: answers of which nothing was understood.
        faulty: answers of which something was not understood.
        faults: each fault, and how often it occurs.
        prompt_tokens: of all answers, as the server counted them.
        completion_tokens: of all answers, as the server counted them.
    """

    questions: int
    answered_before: int
    failed: list[Record] = field(default_factory=list)
    malformed: int = 0
    faulty: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0


def main(cfg: LlmConfig) -> None:
    """Ask, count the answers, and exit with 1 where a question failed."""
    counts = ask_teacher(cfg)
    if counts is not None and counts.failed:
        sys.exit(1)


def ask_teacher(cfg: LlmConfig) -> AnswerCounts | None:
    """Ask what is not answered yet; the journal and the list of what was asked lie in the stage's folder.

    What it will take is printed first; with ``cfg.estimate`` nothing else is done, and None is returned.

    Raises:
        UserError: settings without meaning, nobody to ask about, a teacher that cannot be asked (on), or too small a budget.
    """
    schema, folder = open_schema(cfg), stage_folder(cfg)
    teacher = make_teacher(cfg.teacher, schema)
    people = read_people(cfg, schema)
    teacher.check()
    start = time.perf_counter()
    planned = plan_questions(teacher, people, schema, cfg)
    sent = in_flight(folder / SENT, (record.request for _, record in planned))
    if sent and not cfg.teacher.get("batch_api"):
        raise UserError(
            f"{folder / SENT}: {len(sent):,} of the answers are on their way: fetch them with teacher.batch_api=true, or delete "
            "this file to ask, and pay, again"
        )
    needed = estimate(teacher, planned, open_journal(folder / JOURNAL), cfg.teacher.get("per_minute"), sent)
    if cfg.estimate or (needed.answers and needed.longest):
        print(describe_estimate(needed, teacher, cfg.teacher), flush=True)
    check_budget(needed, cfg.teacher)
    if cfg.estimate:
        return None
    with alone_in(folder, OTHER):
        counts = collect_answers(teacher, planned, schema, cfg, open_journal(folder / JOURNAL))
    seconds = time.perf_counter() - start
    print(
        f"{folder / JOURNAL}: {counts.questions:,} answers of {teacher.name} about {len(people):,} people "
        f"({cfg.samples} each), {counts.answered_before:,} of them from before; {seconds:.1f} s"
    )
    print(describe(counts, cfg))
    return counts


def make_teacher(cfg: Any, schema: Schema) -> Teacher:
    """Return the teacher that ``conf/llm/teacher`` describes.

    Args:
        cfg: ``teacher`` of the configuration; its keys depend on its ``kind``.
        schema: the attributes that are asked for.

    Raises:
        UserError: an unknown teacher, a wrong setting, or a library that is not installed.
    """
    if cfg.kind == "lexicon":
        from mmprofile.llm.teacher.lexicon import Lexicon, LexiconConfig

        return Lexicon(typed_part(LexiconConfig, cfg, "teacher"), schema)
    if cfg.kind == "openai":
        try:
            from mmprofile.llm.teacher.openai import OpenAI, OpenAIConfig
        except ImportError as error:
            raise UserError(f"teacher=openai needs the package {error.name}: pip install 'mmprofile[llm]'") from error
        return OpenAI(typed_part(OpenAIConfig, cfg, "teacher"), schema)
    if cfg.kind == "local":
        from mmprofile.llm.teacher.local import Local, LocalConfig

        return Local(typed_part(LocalConfig, cfg, "teacher"), schema)
    if cfg.kind == "student":
        from mmprofile.llm.teacher.student import StudentTeacher, StudentTeacherConfig

        return StudentTeacher(typed_part(StudentTeacherConfig, cfg, "teacher"), schema)
    raise UserError(f"teacher.kind={cfg.kind!r} is not one of lexicon, openai, local, student")


def collect_answers(
    teacher: Teacher, planned: Sequence[PlannedQuestion], schema: Schema, cfg: LlmConfig, journal: Journal[Record]
) -> AnswerCounts:
    """Ask the questions that the journal does not have an answer to.

    What is asked, request by request, is first written beside the journal: answers to it are what is voted on.

    Raises:
        UserError: the teacher says that asking on makes no sense; the journal has what was answered until then.
    """
    requests = [record.request for _, record in planned]
    write_text(journal.path.with_name(ASKED), json.dumps(requests))
    unanswered = [question for question in planned if not journal.answered(question.record.request)]
    bar = tqdm(
        total=len(unanswered), desc="answers", unit="answer", mininterval=0.2 if sys.stderr.isatty() else 10,
        disable=not cfg.progress, leave=False,
    )  # fmt: skip
    if cfg.teacher.get("batch_api"):
        from mmprofile.llm.teacher.offline import Offline, OpenAI  # need the package openai

        assert isinstance(teacher, OpenAI)  # no other has this setting
        Offline(teacher, journal, schema).ask(planned, bar)
    else:
        batches = in_batches(teacher, unanswered)
        ask_in_threads(lambda batch: _ask(teacher, batch, journal, schema), batches, teacher.concurrency, bar)
    counts = AnswerCounts(len(planned), answered_before=len(planned) - len(unanswered))
    add_records(counts, [journal.records[request] for request in requests], schema)
    return counts


def _ask(teacher: Teacher, batch: Sequence[PlannedQuestion], journal: Journal[Record], schema: Schema) -> int:
    """Ask one batch, write the answers down and return their number."""
    start = time.perf_counter()
    replies = teacher.ask([question for question, _ in batch])
    seconds = (time.perf_counter() - start) / len(batch)
    journal.write(answered(record, reply, schema, seconds) for (_, record), reply in zip(batch, replies, strict=True))
    return len(batch)


def add_records(counts: AnswerCounts, records: Sequence[Record], schema: Schema) -> None:
    """Add to the counts what the records hold."""
    for record in records:
        counts.prompt_tokens += record.prompt_tokens or 0
        counts.completion_tokens += record.completion_tokens or 0
        if record.error is not None:
            counts.failed.append(record)
            continue
        parsed = parse_answer(record.answer, schema)
        counts.malformed += not parsed.claims
        counts.faulty += bool(parsed.faults)
        counts.faults.update(parsed.faults)


def describe(counts: AnswerCounts, cfg: LlmConfig) -> str:
    """Return what is printed of the answers: what was not understood, tokens and their cost, and who was not answered."""
    lines = [
        f"  {counts.malformed:,} answers not understood, {counts.faulty:,} with a fault; what is not understood casts no vote",
        *(f"    {times:,} x {fault}" for fault, times in counts.faults.most_common(SHOWN)),
    ]
    if counts.prompt_tokens or counts.completion_tokens:
        total = cost(counts.prompt_tokens, counts.completion_tokens, cfg.teacher.get("prices") or {})
        money = "" if total is None else f"; cost {total:,.2f} by teacher.prices"
        lines.append(f"  tokens: {counts.prompt_tokens:,} read, {counts.completion_tokens:,} written{money}")
    if counts.failed:
        users = len({record.user_id for record in counts.failed})
        lines.append(
            f"  {len(counts.failed):,} questions about {users:,} people failed, the journal has their errors; the same command "
            "asks them again:"
        )
        lines += [f"    {r.user_id}, sample {r.sample}: {r.error}" for r in counts.failed[:SHOWN]]
    return "\n".join(lines)
