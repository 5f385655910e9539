"""The questions to a teacher, planned before any is asked, and the records that their answers complete."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import NamedTuple

from omegaconf import OmegaConf

from mmprofile.config.llm_settings import LlmConfig
from mmprofile.llm.answers import parse_answer
from mmprofile.llm.journal import Record
from mmprofile.llm.people import Person
from mmprofile.llm.stage import digest, messages
from mmprofile.llm.teacher.protocol import LanguageModel, Question, Teacher
from mmprofile.profile.schema import Schema
from mmprofile.systems.journal import ChatReply

SEEDS = 1000  # from one seed to the next: the samples of two seeds never share one


class PlannedQuestion(NamedTuple):
    """A question, and the record that its answer completes."""

    question: Question
    record: Record


def plan_questions(teacher: Teacher, people: Sequence[Person], schema: Schema, cfg: LlmConfig) -> list[PlannedQuestion]:
    """Return ``cfg.samples`` questions about each person, in order, with all of their records but the answers."""
    planned = []
    origin = digest(teacher.name, teacher.settings, OmegaConf.to_container(cfg.prompt), schema.to_dict(), cfg.seed)
    for person in people:
        prompt = messages(person.text(), schema, cfg.prompt)
        prompt_key = digest(prompt)
        for sample in range(cfg.samples):
            seed = SEEDS * cfg.seed + sample
            record = Record(
                user_id=person.user_id,
                sample=sample,
                request=digest(person.user_id, teacher.name, teacher.settings, prompt_key, seed),
                prompt=prompt_key,
                model=teacher.name,
                seed=seed,
                time="",
                seconds=0.0,
                answer="",
                origin=origin,
            )
            planned.append(PlannedQuestion(Question(person, prompt, seed), record))
    return planned


def in_batches(teacher: Teacher, planned: Sequence[PlannedQuestion]) -> list[list[PlannedQuestion]]:
    """Return the questions as the teacher is asked them, ``teacher.batch`` at a time."""
    groups = [list(planned)]
    if isinstance(teacher, LanguageModel) and teacher.one_person:
        groups = [[*group] for _, group in groupby(planned, key=lambda asked: asked.question.person.user_id)]
    size = teacher.batch
    return [group[i : i + size] for group in groups for i in range(0, len(group), size)]


def answered(record: Record, reply: ChatReply, schema: Schema, seconds: float) -> Record:
    """Return a record with what came: the answer, or why there is none."""
    return record._replace(
        model=reply.model or record.model,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        answer=reply.text,
        error=reply.error or _cut_off(reply, schema),
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
    )


def _cut_off(reply: ChatReply, schema: Schema) -> str | None:
    """Return the error of an answer that was cut off before all of it was there; None: it was not."""
    if not reply.cut or not parse_answer(reply.text, schema).faults:
        return None
    return f"cut off after {reply.completion_tokens} tokens: allow more in teacher.parameters"
