"""What the steps of the stage share: its folder, its people, its prompt, and the answers that were journaled."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from mmprofile.config.llm_settings import LlmConfig, PromptsConfig
from mmprofile.config.targets import build
from mmprofile.errors import UserError
from mmprofile.files import alone_in, read_json
from mmprofile.inputs.data import is_generated, prepare_data
from mmprofile.llm.checks import check_settings
from mmprofile.llm.journal import Record, open_journal
from mmprofile.llm.labels import LABELS
from mmprofile.llm.people import Person
from mmprofile.profile.schema import UNKNOWN, Schema, check_purpose

JOURNAL, ASKED = "answers.jsonl", "asked.json"
OTHER = "name= or out="  # settings that choose another folder
DEMO_PURPOSE = "a demonstration on generated people"


def open_schema(cfg: LlmConfig) -> Schema:
    """Check the settings, and return the attributes that are asked for.

    Raises:
        UserError: a setting makes no sense, or sensitive attributes are asked for without a purpose.
    """
    check_settings(cfg)
    schema = Schema.from_config(cfg.profile)
    check_purpose(schema, purpose(cfg))
    return schema


def purpose(cfg: LlmConfig) -> str | None:
    """Return the purpose that sensitive attributes are asked for; generated people need none to be stated."""
    generated = cfg.input is None and is_generated(cfg.data)
    return cfg.purpose or (DEMO_PURPOSE if generated else None)


def stage_folder(cfg: LlmConfig) -> Path:
    """Return the folder of the stage's files."""
    source = Path(os.path.abspath(cfg.input)).stem if cfg.input else cfg.data.name  # input=. is called as its folder is
    return Path(cfg.out).expanduser() / (cfg.name or source)


@contextmanager
def opened_stage(cfg: LlmConfig) -> Iterator[tuple[Schema, Path]]:
    """Give the attributes that are asked for and the stage's folder, which one command at a time reads and writes.

    Where it is not there yet, there is nothing to guard, and a mistake leaves none behind.

    Raises:
        UserError: of :func:`open_schema`, or another process is at work on the folder, or the disk fails.
    """
    schema, folder = open_schema(cfg), stage_folder(cfg)
    with alone_in(folder, OTHER) if folder.is_dir() else nullcontext():
        yield schema, folder


def labels_path(cfg: LlmConfig) -> Path:
    """Return the file of labels.

    Raises:
        UserError: there is none.
    """
    path = Path(cfg.labels).expanduser() if cfg.labels else stage_folder(cfg) / LABELS
    if not path.is_file():
        raise UserError(f"labels={path}: there is no such file; python -m mmprofile.llm.vote writes it")
    return path


def prepared_folder(cfg: LlmConfig) -> Path:
    """Return the prepared data set whose users are the people, prepared now if it is not there yet."""
    return prepare_data(cfg.data, Schema.from_config(cfg.observed))


def read_people(cfg: LlmConfig, schema: Schema) -> list[Person]:
    """Return the people of the chosen splits.

    Raises:
        UserError: there are none.
    """
    source = prepared_folder(cfg) if cfg.input is None else cfg.input
    people = [person for person in build(cfg.people)(source, schema=schema) if person.split in cfg.splits]
    if not people:
        raise UserError(f"splits={list(cfg.splits)}: nobody is in them")
    return people


def messages(text: str, schema: Schema, prompt: PromptsConfig) -> list[dict[str, str]]:
    """Return the prompt about a person in the form that chat models take.

    Args:
        text: what is known of the person.
        schema: the attributes that are asked for.
        prompt: the templates.

    Raises:
        UserError: a template has an unknown placeholder.
    """
    attributes = "\n".join(f"- {a.name}: {', '.join([*a.values, UNKNOWN])}" for a in schema.attributes)
    claim = {"rationale": "...", "value": "...", "confidence": 0}
    form = json.dumps(dict.fromkeys(schema.names, claim), ensure_ascii=False)
    try:
        system = prompt.system.format(format=form)
        user = prompt.user.format(attributes=attributes, person=text)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"prompt: {error} is no placeholder; there are {{format}}, and {{attributes}} and {{person}}"
        ) from error
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def digest(*parts: Any) -> str:
    """Return a short hash of the parts as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]


def current_answers(people: Sequence[Person], schema: Schema, cfg: LlmConfig) -> tuple[list[Record], int]:
    """Return the answers to the questions that were asked last, at most ``cfg.samples`` of each person.

    Returns:
        The answers, and the number of those left out as out of date: the person's texts, the schema or the templates have
        changed since.

    Raises:
        UserError: nothing was asked, or no answer is there.
    """
    folder = stage_folder(cfg)
    try:
        requests = [str(request) for request in read_json(folder / ASKED)]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{folder / ASKED}: nothing was asked ({error}); run python -m mmprofile.llm.teacher"
        ) from error
    journal = open_journal(folder / JOURNAL)
    prompts = {person.user_id: digest(messages(person.text(), schema, cfg.prompt)) for person in people}
    answered = [journal.records[request] for request in requests if journal.answered(request)]
    of_people = [record for record in answered if record.user_id in prompts and record.sample < cfg.samples]
    current = [record for record in of_people if record.prompt == prompts[record.user_id]]
    if not current:
        raise UserError(
            f"{folder / JOURNAL}: no answer about any of the {len(people):,} people, {len(of_people):,} out of date; run "
            "python -m mmprofile.llm.teacher with the same data, profile and seed"
        )
    return current, len(of_people) - len(current)
