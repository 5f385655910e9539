"""What the questions will take, said before the first is asked: requests, tokens, money and hours."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from mmprofile.errors import UserError
from mmprofile.llm.journal import Record
from mmprofile.llm.teacher.protocol import LanguageModel, Question, Teacher
from mmprofile.llm.teacher.questions import PlannedQuestion, in_batches
from mmprofile.systems.journal import Journal

BYTES = 4.0
"""Bytes of a token, as UTF-8, where nothing has been counted yet: four letters of English, more than one of Chinese."""

UNITS = ((3600, "hours"), (60, "minutes"), (1, "seconds"))


class Estimate(NamedTuple):
    """What the questions without an answer take.

    Attributes:
        answers: their number.
        people: whom they are about.
        requests: to the teacher.
        read: tokens of the prompts.
        counted: how these were counted, in words.
        most: tokens that are written at most; None: there is no limit.
        usual: tokens that are written if answers are as long as those that the journal has; None: it has none.
        seconds: that it takes; None: not known.
        longest: tokens of the longest prompt.
    """

    answers: int
    people: int
    requests: int
    read: int
    counted: str
    most: int | None
    usual: int | None
    seconds: float | None
    longest: int


def estimate(
    teacher: Teacher,
    planned: Sequence[PlannedQuestion],
    journal: Journal[Record],
    per_minute: float | None,
    sent: Collection[str] = (),
) -> Estimate:
    """Return what the questions take that the journal has no answer to.

    Args:
        teacher: who is asked.
        planned: all questions.
        journal: its answers to questions of the same kind tell how long prompts and answers are, and how fast they come.
        per_minute: requests that are sent at most; None: no limit.
        sent: questions, by their hashes, whose answers are paid and on their way.
    """
    unanswered = [
        asked for asked in planned if not (journal.answered(asked.record.request) or asked.record.request in sent)
    ]
    people = len({asked.record.user_id for asked in unanswered})
    if not isinstance(teacher, LanguageModel):
        return Estimate(len(unanswered), people, len(unanswered), 0, "", 0, None, None, 0)
    origins = {asked.record.origin for asked in planned}
    alike = [record for record in journal.records.values() if record.error is None and record.origin in origins]
    requests = in_batches(teacher, unanswered) if teacher.one_person else [[asked] for asked in unanswered]
    size, counted = _bytes_of_a_token(planned, journal)
    lengths: dict[str, int] = {}  # by prompt
    for (asked, record), *_ in requests:
        if record.prompt not in lengths:
            tokens = teacher.tokens(asked.messages)
            lengths[record.prompt] = round(_bytes(asked) / size) if tokens is None else tokens
            counted = counted if tokens is None else "counted by its tokenizer"
    written = [record.completion_tokens for record in alike if record.completion_tokens is not None]
    waited = [record.seconds for record in alike if record.seconds > 0]
    seconds = [len(requests) / per_minute * 60] if per_minute else []
    if waited:
        seconds.append(sum(waited) / len(waited) * len(unanswered) / teacher.concurrency)
    return Estimate(
        answers=len(unanswered),
        people=people,
        requests=len(requests),
        read=sum(lengths[batch[0].record.prompt] for batch in requests),
        counted=counted,
        most=None if teacher.longest is None else teacher.longest * len(unanswered),
        usual=round(sum(written) / len(written) * len(unanswered)) if written else None,
        seconds=max(seconds, default=None),
        longest=max(lengths.values(), default=0),
    )


def _bytes(question: Question) -> int:
    return sum(len(message["content"].encode("utf-8", "replace")) for message in question.messages)


def _bytes_of_a_token(planned: Sequence[PlannedQuestion], journal: Journal[Record]) -> tuple[float, str]:
    """Return how many bytes of a prompt make a token, and how that is known; only one answer of a request has its tokens."""
    read = [(asked, journal.records.get(record.request)) for asked, record in planned]
    counted = [(_bytes(asked), record.prompt_tokens) for asked, record in read if record and record.prompt_tokens]
    if not counted:
        return BYTES, f"{BYTES:.0f} bytes each"
    size = sum(length for length, _ in counted) / sum(tokens for _, tokens in counted)
    return size, f"{size:.1f} bytes each, as the server counted those before"


def cost(read: int, written: int, prices: Mapping[str, float | None]) -> float | None:
    """Return what tokens cost; None where ``teacher.prices`` does not tell the price of a million of both kinds."""
    prompt, completion = prices.get("prompt"), prices.get("completion")
    return None if prompt is None or completion is None else (read * prompt + written * completion) / 1e6


def check_budget(needed: Estimate, teacher: Mapping[str, Any]) -> None:
    """Refuse questions that may cost more than ``teacher.budget``; they cost most if every answer is as long as allowed.

    Raises:
        UserError: they may.
    """
    budget = teacher.get("budget")
    most = cost(needed.read, needed.most or 0, teacher.get("prices") or {})
    if budget is not None and most is not None and most > budget:
        raise UserError(
            f"teacher.budget={budget}: the answers may cost {most:,.2f}; ask for fewer (splits, samples), allow fewer tokens "
            "(teacher.parameters.max_tokens), or raise the budget"
        )


def describe_estimate(needed: Estimate, teacher: Teacher, cfg: Mapping[str, Any]) -> str:
    """Return what is printed before the first question; ``cfg`` is the teacher's configuration."""
    requests = f", in {needed.requests:,} requests" if needed.requests < needed.answers else ""
    lines = [f"to ask: {needed.answers:,} answers about {needed.people:,} people{requests}"]
    if needed.longest:
        limits = {"at most": needed.most, "if answers stay as long as they were": needed.usual}
        known = {words: tokens for words, tokens in limits.items() if tokens is not None}
        written = "; written: " + ", ".join(f"{tokens:,} {words}" for words, tokens in known.items()) if known else ""
        lines.append(f"  tokens: about {needed.read:,} read ({needed.counted}){written}")
        costs = {words: cost(needed.read, tokens, cfg.get("prices") or {}) for words, tokens in known.items()}
        told = [f"{value:,.2f} {words}" for words, value in costs.items() if value is not None]
        lines += [f"  cost: {', '.join(told)}; by teacher.prices"] if told else []
    if cfg.get("batch_api"):
        lines.append("  time: up to 24 hours, as the server finds it")
    elif needed.seconds is not None:
        lines.append(f"  time: about {_duration(needed.seconds)}")
    return "\n".join([*lines, *(teacher.requirements(needed.longest) if isinstance(teacher, LanguageModel) else [])])


def _duration(seconds: float) -> str:
    unit, name = next(((size, name) for size, name in UNITS if seconds >= size), UNITS[-1])
    return f"{seconds / unit:.{0 if seconds >= 10 * unit else 1}f} {name}"
