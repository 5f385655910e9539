"""A student's sampled answers, written down as they are drawn: a killed run goes on to the same answers."""

from collections.abc import Iterator, Sequence

from mmprofile.llm.journal import Journal, Record
from mmprofile.llm.people import Person
from mmprofile.llm.stage import digest
from mmprofile.llm.student import Student

PART = 64
"""People whose answers are drawn and written down together."""


def rollouts(
    student: Student,
    people: Sequence[Person],
    samples: int,
    temperature: float,
    top_p: float,
    seed: int,
    journal: Journal,
    label: str | None,
) -> Iterator[list[list[Record]]]:
    """The answers of :data:`PART` people after another, a list of each person's; none where the prompt leaves no room.

    Args:
        student: who answers.
        people: about whom, in an order that decides what is drawn.
        samples: of each.
        temperature: above 0.
        top_p: share of the probability that tokens are drawn from.
        seed: of the draws.
        journal: an answer that it has is not drawn again.
        label: of the progress bars; None shows none.
    """
    origin = digest(student.fingerprint(), temperature, top_p, samples, seed)
    for start in range(0, len(people), PART):
        part = people[start : start + PART]
        keys = [[digest(student.prompt(person), person.user_id, origin, k) for k in range(samples)] for person in part]
        if not all(journal.answered(key) for own in keys for key in own):
            bar = label and f"{label} {start:,} to {start + len(part):,} of {len(people):,}"
            written = student.write(part, samples, temperature, seed + start, top_p, bar)
            journal.write(
                Record(person.user_id, k, key, "", student.name, seed + start, "", 0.0, text, origin=origin)
                for person, own, texts in zip(part, keys, written, strict=True)
                for k, (key, text) in enumerate(zip(own, texts, strict=False))
                if not journal.answered(key)
            )
        yield [[journal.records[key] for key in own if journal.answered(key)] for own in keys]
