"""The command ``llm.vote``: journaled answers -> labels with calibrated confidence."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from mmprofile.config.settings import VoteConfig
from mmprofile.llm.labels import CALIBRATION, LABELS, Label, save_labels
from mmprofile.llm.people import Person
from mmprofile.llm.stage import answers, open_schema, read_people, stage_folder
from mmprofile.llm.vote.voting import ballots, vote
from mmprofile.profile.schema import UNKNOWN, Schema


def main(cfg: Any) -> None:
    """Entry point: counts the votes of the journal, calibrates, writes the table."""
    schema, folder = open_schema(cfg), stage_folder(cfg)
    people = read_people(cfg, schema)
    records, old = answers(people, schema, cfg)
    if old:
        print(f"{old:,} answers do not vote: what is asked of these people has changed since; teacher asks anew")
    votes = Counter(record.user_id for record in records)
    few = sum(votes[person.user_id] < cfg.samples for person in people)
    if few:
        print(f"{few:,} of {len(people):,} people have fewer than samples={cfg.samples} answers")
    settings = cast(VoteConfig, OmegaConf.to_object(cfg.vote))
    labels, calibration = vote(people, ballots(people, schema, records), schema, settings)
    save_labels(folder / LABELS, labels)
    (folder / CALIBRATION).write_text(json.dumps(calibration, indent=2) + "\n", encoding="utf-8")
    print(describe(labels, people, schema, folder))


def describe(labels: Sequence[Label], people: Sequence[Person], schema: Schema, folder: Path) -> str:
    """What is printed at the end."""
    lines = [f"{folder / LABELS}: {len(people):,} people, {len(schema.names)} attributes"]
    silent = Counter(label.user_id for label in labels if not label.votes)
    if silent:
        lines.append(
            f"  {len(silent):,} people have attributes without any vote, which are Unknown: {', '.join([*silent][:3])}"
        )
    width = max(len(name) for name in schema.names)
    for name in schema.names:
        own = [label for label in labels if label.attribute == name]
        known = [label for label in own if label.label != UNKNOWN]
        top = ", ".join(f"{value} {count}" for value, count in Counter(label.label for label in known).most_common(3))
        mean = sum(label.confidence for label in known) / max(len(known), 1)
        lines.append(
            f"  {name:<{width}}  {len(own) - len(known):,} Unknown; mean confidence {mean:.2f}; most often {top}"
        )
    return "\n".join(lines)
