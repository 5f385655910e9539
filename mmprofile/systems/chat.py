"""Profiles written by a model behind an endpoint: the prompt, what is sent of a user, and the answers that are kept."""

import base64
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openai
from tqdm import tqdm

from mmprofile.errors import UserError
from mmprofile.inputs.data import PhotoData
from mmprofile.inputs.views import User, View
from mmprofile.profile.schema import UNKNOWN, Schema
from mmprofile.systems.answers import profile_text
from mmprofile.systems.endpoint import Endpoint, ServerConfig
from mmprofile.systems.journal import Journal, ask_in_threads

JOURNAL = "answers.jsonl"
SETTINGS = "model.options"


@dataclass
class PromptConfig:
    """Templates: ``system`` has ``{attributes}`` and ``{format}`` in it, ``reviews`` and ``captions`` have ``{items}``."""

    system: str
    reviews: str
    captions: str
    photos: str


@dataclass
class ChatConfig(ServerConfig):
    """``model.options`` of ``conf/model/gpt.yaml``.

    Attributes:
        model: its name on the server.
        photos: whether photos are sent where the paradigm shows them.
        shots: number of training users that are shown with their profiles.
        repeat: whether to ask again with other photos, for ``test.unpaired`` and ``test.missing``.
        prompt: the templates.
        path: not used here; ``model.system=file`` has it.
    """

    model: str
    photos: bool
    shots: int
    repeat: bool
    prompt: PromptConfig
    path: str | None = None


class Prompts:
    """The messages about a user.

    Args:
        templates: see :class:`PromptConfig`.
        schema: written out in the system message.
        view: what is shown of a user.

    Raises:
        UserError: a template has a placeholder that means nothing.
    """

    def __init__(self, templates: PromptConfig, schema: Schema, view: View) -> None:
        self.templates, self.schema, self.view = templates, schema, view
        self.system = _filled("system", templates.system, attributes=attributes(schema), format=answer_format(schema))

    def user(self, user: User, jpegs: Sequence[bytes]) -> dict[str, Any]:
        """Return the user's message: texts, and behind them the photos."""
        templates, texts = self.templates, []
        if user.reviews:
            texts.append(_filled("reviews", templates.reviews, items=_items("Review", user.reviews)))
        captions = [caption for caption in user.captions if caption]
        if captions and self.view.captions != "none":
            texts.append(_filled("captions", templates.captions, items=_items("Photo", captions)))
        if jpegs:
            texts.append(templates.photos.strip())
        text = "\n\n".join(texts)
        if not jpegs:
            return {"role": "user", "content": text}
        return {"role": "user", "content": [{"type": "text", "text": text}, *map(_photo, jpegs)]}

    def messages(self, shots: Sequence[tuple[dict[str, Any], str]], user: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the system message, the shots (message and profile each) and the user's message."""
        examples = [part for message, text in shots for part in (message, {"role": "assistant", "content": text})]
        return [{"role": "system", "content": self.system}, *examples, user]


def attributes(schema: Schema) -> str:
    """Return a line per attribute: how many of which values."""
    lines = []
    for attribute in schema.attributes:
        number = "one" if attribute.sizes == "1" else attribute.sizes
        order = {"ordered": ", the most important first", "ordinal": " (in this order)"}.get(attribute.kind, "")
        order += f", or {attribute.empty[0]} if none fits" if attribute.empty else ""
        unknown = f", or {UNKNOWN}" if attribute.unknown else ""
        lines.append(f"- {attribute.name}: {number} of {', '.join(attribute.values)}{order}{unknown}")
    return "\n".join(lines)


def answer_format(schema: Schema) -> str:
    """Return the form of an answer: a rendered profile with ``<value>`` for each value."""
    return "; ".join(f"{a.name}: {', '.join(['<value>'] * a.size)}" for a in schema.attributes)


def _filled(name: str, template: str, **values: str) -> str:
    try:
        return template.format(**values).strip()
    except (KeyError, IndexError, ValueError) as error:
        known = ", ".join(f"{{{key}}}" for key in values)
        raise UserError(
            f"{SETTINGS}.prompt.{name}: a placeholder that means nothing ({error}); known: {known}"
        ) from error


def _items(name: str, texts: Sequence[str]) -> str:
    return "\n".join(f"{name} {number}: {text}" for number, text in enumerate(texts, 1))


def _photo(jpeg: bytes) -> dict[str, Any]:
    data = base64.b64encode(jpeg).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}


class Request(NamedTuple):
    """The question about a user: ``messages`` as the chat completions API takes them."""

    user_id: str
    messages: list[dict[str, Any]]


class ChatRecord(NamedTuple):
    """A line of the journal: the reply, the hash of all that was sent (not of the server's address), and the seconds it took."""

    user_id: str
    request: str
    answer: str
    model: str
    seconds: float
    prompt_tokens: int | None
    completion_tokens: int | None
    error: str | None = None


def ends_run(error: openai.APIError) -> bool:
    """Return whether a failure concerns more than one request: all do, but for refusals (status 400 or 422)."""
    return not isinstance(error, (openai.BadRequestError, openai.UnprocessableEntityError))


def ask(
    requests: Sequence[Request],
    endpoint: Endpoint,
    journal: Journal[ChatRecord],
    threads: int = 4,
    label: str | None = None,
) -> list[ChatRecord]:
    """Return the record of each request, in order; what the journal answers is not asked.

    Args:
        requests: any number.
        endpoint: the model that is asked.
        journal: gets a line per reply at once.
        threads: requests at a time.
        label: of a progress bar; None shows none.

    Raises:
        UserError: the server fails, or refuses every request; the journal has what was answered until then.
    """
    keys = [_request_key(request, endpoint) for request in requests]
    unanswered = {key: asked for key, asked in zip(keys, requests, strict=True) if not journal.answered(key)}

    def complete(key: str) -> int:
        start = time.perf_counter()
        reply = endpoint.complete(unanswered[key].messages)
        record = ChatRecord(
            user_id=unanswered[key].user_id,
            request=key,
            answer=reply.text,
            model=reply.model or endpoint.model,
            seconds=round(time.perf_counter() - start, 3),
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            error=reply.error,
        )
        journal.write([record])
        return 1

    hidden = None if label else True  # None: shown on a terminal
    bar = tqdm(total=len(unanswered), desc=label, disable=hidden, leave=False, dynamic_ncols=True)
    ask_in_threads(complete, unanswered, threads, bar)
    records = [journal.records[key] for key in keys]
    if records and all(record.error is not None for record in records):
        raise UserError(f"{endpoint.url}: model {endpoint.model} refused all requests: {records[0].error}")
    return records


def _request_key(request: Request, endpoint: Endpoint) -> str:
    sent = {"model": endpoint.model, "messages": request.messages, **endpoint.parameters}
    return hashlib.sha256(json.dumps(sent, sort_keys=True).encode()).hexdigest()


class Chat:
    """A model at an OpenAI-compatible endpoint, zero-shot or with some training users as examples.

    What the server refuses for one user (status 400 or 422, a reply without an answer) is an empty answer with an error;
    all else (no connection, wrong key, unknown model, a status of 429 or 500 that retries do not cure) ends the run.

    Args:
        options: typed settings.
        schema: the attributes that are asked for.
        view: what the paradigm shows when it predicts.
        folder: of the run; the answers are kept there.
        seed: of the shots.

    Raises:
        UserError: a setting makes no sense, the key is not set, the journal cannot be read, or nobody listens at the endpoint.
    """

    n_parameters: int | None = None

    def __init__(self, options: ChatConfig, schema: Schema, view: View, folder: Path, seed: int) -> None:
        options.check(SETTINGS)
        if options.shots < 0:
            raise UserError(f"{SETTINGS}.shots={options.shots}: give 0 or more")
        self.options, self.schema, self.seed, self.repeats = options, schema, seed, options.repeat
        self.view = view if options.photos else replace(view, photos="none")
        if view.photos != "none" and self.view.photos == self.view.captions == "none":
            raise UserError(
                f"{SETTINGS}.photos=false hides all that this paradigm shows besides reviews: choose paradigm=text, or "
                "paradigm=uni for captions"
            )
        self.prompts = Prompts(options.prompt, schema, self.view)
        self.endpoint = Endpoint(options, options.model, SETTINGS, ends_run)
        self.journal = Journal(folder / JOURNAL, ChatRecord)
        self.endpoint.check()
        self.records: list[ChatRecord] = []

    def fit(self, data: PhotoData) -> None:
        """Draw the shots; users with more labels come first, since what is not labelled would be shown as Unknown."""
        self.data = data
        train = data.users("train")
        order = np.random.default_rng(self.seed).permutation(len(train))
        drawn = sorted(order, key=lambda i: -len(train[i].profile or {}))[: self.options.shots]
        self.shots = [(self._message(train[i]), self.schema.render(train[i].profile or {})) for i in drawn]

    def predict(self, users: Sequence[User], label: str) -> list[str]:
        """Return each user's profile text; the model is asked for what the journal does not have."""
        requests = [Request(u.user_id, self.prompts.messages(self.shots, self._message(u))) for u in users]
        records = ask(requests, self.endpoint, self.journal, self.options.concurrency, label)
        self.records += records
        return [profile_text(record.answer) for record in records]

    def facts(self) -> dict[str, Any]:
        """Return the models that answered and the counts of answers, refusals and tokens, earlier runs' answers included."""
        return {
            "endpoint": {
                "models": sorted({record.model for record in self.records}),
                "answers": sum(record.error is None for record in self.records),
                "refused": sum(record.error is not None for record in self.records),
                "prompt_tokens": sum(record.prompt_tokens or 0 for record in self.records),
                "completion_tokens": sum(record.completion_tokens or 0 for record in self.records),
            }
        }

    def _message(self, user: User) -> dict[str, Any]:
        photos = user.photos if self.view.photos != "none" else ()
        return self.prompts.user(user, [self.data.jpeg(photo) for photo in photos])
