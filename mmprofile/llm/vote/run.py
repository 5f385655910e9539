"""The command ``llm.vote``: journaled answers -> labels with calibrated confidence."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmprofile.config.llm_settings import LlmConfig
from mmprofile.files import write_json
from mmprofile.llm.labels import CALIBRATION, LABELS, Label, save_labels
from mmprofile.llm.people import Person
from mmprofile.llm.stage import current_answers, opened_stage, read_people
from mmprofile.llm.vote.voting import collect_ballots, vote, vote_settings
from mmprofile.profile.schema import UNKNOWN, Schema


def main(cfg: LlmConfig) -> None:
    """Count the votes of the journal, calibrate, and write the table of labels."""
    with opened_stage(cfg) as (schema, folder):
        people = read_people(cfg, schema)
        records, outdated = current_answers(people, schema, cfg)
        if outdated:
            print(
                f"{outdated:,} answers do not vote: the questions about these people have changed since; llm.teacher asks anew"
            )
        answers = Counter(record.user_id for record in records)
        few = sum(answers[person.user_id] < cfg.samples for person in people)
        if few:
            print(f"{few:,} of {len(people):,} people have fewer than samples={cfg.samples} answers")
        labels, calibration = vote(people, collect_ballots(people, schema, records), schema, vote_settings(cfg))
        save_labels(folder / LABELS, labels)
        write_json(folder / CALIBRATION, calibration)
        print(describe(labels, people, schema, folder))


def describe(labels: Sequence[Label], people: Sequence[Person], schema: Schema, folder: Path) -> str:
    """Return the lines that are printed at the end."""
    lines = [f"{folder / LABELS}: {len(people):,} people, {len(schema.names)} attributes"]
    silent = Counter(label.user_id for label in labels if not label.votes)
    if silent:
        lines.append(
            f"  {len(silent):,} people have attributes without any vote, which are Unknown: {', '.join([*silent][:3])}"
        )
    width = max(len(name) for name in schema.names)
    for name in schema.names:
        of_attribute = [label for label in labels if label.attribute == name]
        known = [label for label in of_attribute if label.label != UNKNOWN]
        top = ", ".join(f"{value} {count}" for value, count in Counter(label.label for label in known).most_common(3))
        mean = sum(label.confidence for label in known) / max(len(known), 1)
        lines.append(
            f"  {name:<{width}}  {len(of_attribute) - len(known):,} Unknown; mean confidence {mean:.2f}; most often {top}"
        )
    return "\n".join(lines)
