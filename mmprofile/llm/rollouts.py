"""A student's sampled answers, written down as they are drawn: after a kill the same command gets the same answers."""

from collections.abc import Iterator, Sequence

from mmprofile.llm.journal import Record
from mmprofile.llm.people import Person
from mmprofile.llm.stage import digest
from mmprofile.llm.student import Student
from mmprofile.llm.vllm_writer import answering
from mmprofile.systems.journal import Journal

PART = 64
"""People whose answers are drawn and written down together."""


def rollouts(
    student: Student,
    people: Sequence[Person],
    samples: int,
    temperature: float,
    top_p: float,
    seed: int,
    journal: Journal[Record],
    label: str | None,
) -> Iterator[list[list[Record]]]:
    """Yield the answers about :data:`PART` people after another, a list for each person; empty where the prompt leaves no room.

    Args:
        student: the model that answers.
        people: their order decides what is drawn.
        samples: answers about each.
        temperature: above 0.
        top_p: share of the probability that tokens are drawn from.
        seed: of the draws.
        journal: an answer that it has is not drawn again.
        label: of the progress bars; None shows none.
    """
    origin = digest(student.fingerprint(), temperature, top_p, samples, seed)
    with answering(student) as write:
        for start in range(0, len(people), PART):
            part = people[start : start + PART]
            keys = [
                [digest(student.prompt(person), person.user_id, origin, k) for k in range(samples)] for person in part
            ]
            if not all(journal.answered(key) for person_keys in keys for key in person_keys):
                bar = label and f"{label} {start:,} to {start + len(part):,} of {len(people):,}"
                answers = write(part, samples, temperature, seed=seed + start, top_p=top_p, label=bar)
                journal.write(
                    Record(
                        user_id=person.user_id,
                        sample=sample,
                        request=key,
                        prompt="",
                        model=student.name,
                        seed=seed + start,
                        time="",
                        seconds=0.0,
                        answer=text,
                        origin=origin,
                    )
                    for person, person_keys, texts in zip(part, keys, answers, strict=True)
                    for sample, (key, text) in enumerate(zip(person_keys, texts, strict=False))  # no texts: no room
                    if not journal.answered(key)
                )
            yield [[journal.records[key] for key in person_keys if journal.answered(key)] for person_keys in keys]
