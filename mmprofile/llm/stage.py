"""What the steps of the stage share: its folder, its people, its prompt, and the answers that were journaled."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from mmprofile.errors import UserError
from mmprofile.inputs.data import prepare_data
from mmprofile.llm.checks import check_settings
from mmprofile.llm.journal import Journal, Record
from mmprofile.llm.labels import LABELS
from mmprofile.llm.people import Person
from mmprofile.profile.schema import UNKNOWN, Schema, check_purpose

JOURNAL, ASKED = "answers.jsonl", "asked.json"
DEMO_PURPOSE = "a demonstration on generated people"


def open_schema(cfg: Any) -> Schema:
    """What is asked.

    Raises:
        UserError: settings without meaning, or sensitive attributes without a purpose.
    """
    check_settings(cfg)
    schema = Schema.from_config(cfg.profile)
    check_purpose(schema, purpose(cfg))
    return schema


def purpose(cfg: Any) -> str | None:
    """What sensitive attributes are asked for."""
    generated = cfg.input is None and cfg.data.name == "demo"
    return cfg.purpose or (DEMO_PURPOSE if generated else None)


def stage_folder(cfg: Any) -> Path:
    """Where the stage's files lie."""
    return Path(cfg.out).expanduser() / (cfg.name or (Path(cfg.input).stem if cfg.input else cfg.data.name))


def prepared_folder(cfg: Any) -> Path:
    """The prepared data set whose users are the people, prepared where it is not yet."""
    observed = Schema.from_config(cfg.observed)
    folder: Path = prepare_data(cfg.data, observed)
    return folder


def read_people(cfg: Any, schema: Schema) -> list[Person]:
    """The people of the chosen splits.

    Raises:
        UserError: there are none.
    """
    source = prepared_folder(cfg) if cfg.input is None else cfg.input
    people = [person for person in instantiate(cfg.people)(source, schema=schema) if person.split in cfg.splits]
    if not people:
        raise UserError(f"splits={list(cfg.splits)}: nobody is in them")
    return people


def messages(person: str, schema: Schema, prompt: Any) -> list[dict[str, str]]:
    """The prompt as chat models take it, about what is known of a person.

    Raises:
        UserError: a template has a placeholder that means nothing.
    """
    attributes = "\n".join(f"- {a.name}: {', '.join([*a.values, UNKNOWN])}" for a in schema.attributes)
    claim = {"rationale": "...", "value": "...", "confidence": 0}
    form = json.dumps(dict.fromkeys(schema.names, claim), ensure_ascii=False)
    try:
        system = prompt.system.format(format=form)
        user = prompt.user.format(attributes=attributes, person=person)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"prompt: {error} is no placeholder; there are {{format}}, and {{attributes}} and {{person}}"
        ) from error
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def digest(*parts: Any) -> str:
    """A short hash of JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]


def answers(people: Sequence[Person], schema: Schema, cfg: Any) -> tuple[list[Record], int]:
    """The answers to what was asked last, at most ``cfg.samples`` of each person, and the number of those that are out of date:
    the person's texts, the schema or the templates have changed since.

    Raises:
        UserError: nothing was asked, or no answer is there.
    """
    folder = stage_folder(cfg)
    try:
        wanted = json.loads((folder / ASKED).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder / ASKED}: nothing was asked ({error}); run python -m mmprofile.llm.teacher"
        ) from error
    journal = Journal(folder / JOURNAL)
    prompts = {person.user_id: digest(messages(person.text(), schema, cfg.prompt)) for person in people}
    there = [journal.records[request] for request in wanted if journal.answered(request)]
    own = [record for record in there if record.user_id in prompts and record.sample < cfg.samples]
    found = [record for record in own if record.prompt == prompts[record.user_id]]
    if not found:
        raise UserError(
            f"{folder / JOURNAL}: no answer about any of the {len(people):,} people, {len(own):,} out of date; run "
            "python -m mmprofile.llm.teacher with the same data, profile and seed"
        )
    return found, len(own) - len(found)


def labels_path(cfg: Any) -> Path:
    """The file of labels.

    Raises:
        UserError: there is none.
    """
    path = Path(cfg.labels).expanduser() if cfg.labels else stage_folder(cfg) / LABELS
    if not path.is_file():
        raise UserError(f"labels={path}: there is no such file; python -m mmprofile.llm.vote writes it")
    return path
