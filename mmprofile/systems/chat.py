"""Profiles written by a model behind an endpoint: the prompt, and what is sent of a user."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmprofile.errors import UserError
from mmprofile.inputs.views import User, View
from mmprofile.profile.schema import UNKNOWN, Schema
from mmprofile.systems.answers import profile_text
from mmprofile.systems.endpoint import Answer, Endpoint, Request

JOURNAL = "answers.jsonl"


@dataclass
class PromptConfig:
    """Templates: ``system`` has ``{attributes}`` and ``{format}`` in it, ``reviews`` and ``captions`` have ``{items}``."""

    system: str
    reviews: str
    captions: str
    photos: str


@dataclass
class ChatConfig:
    """``model.options`` of ``conf/model/gpt.yaml``; see :class:`mmprofile.systems.endpoint.Endpoint`.

    ``photos``: send the photos where the paradigm shows them. ``shots``: training users that are shown with their profiles.
    ``repeat``: ask again with other photos, for ``test.unpaired`` and ``test.missing``.
    """

    url: str
    model: str
    key_env: str | None
    parameters: dict[str, Any]
    photos: bool
    shots: int
    repeat: bool
    concurrency: int
    retries: int
    timeout: float
    prompt: PromptConfig
    path: str | None = None

    def check(self) -> None:
        """Refuses numbers that make no sense.

        Raises:
            UserError: names the option.
        """
        for name, least in (("shots", 0), ("concurrency", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise UserError(f"model.options.{name}={getattr(self, name)}: give {least} or more")
        if not self.timeout > 0:
            raise UserError(f"model.options.timeout={self.timeout}: give more than 0 seconds")


class Prompts:
    """A user -> messages.

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
        """The user's message: texts, and behind them the photos."""
        t, texts = self.templates, []
        if user.reviews:
            texts.append(_filled("reviews", t.reviews, items=_items("Review", user.reviews)))
        captions = [caption for caption in user.captions if caption]
        if captions and self.view.captions != "none":
            texts.append(_filled("captions", t.captions, items=_items("Photo", captions)))
        if jpegs:
            texts.append(t.photos.strip())
        text = "\n\n".join(texts)
        if not jpegs:
            return {"role": "user", "content": text}
        return {"role": "user", "content": [{"type": "text", "text": text}, *map(_image, jpegs)]}

    def messages(self, shots: Sequence[tuple[dict[str, Any], str]], user: dict[str, Any]) -> list[dict[str, Any]]:
        """System message, shots (message, profile) and the user."""
        shown = [part for message, text in shots for part in (message, {"role": "assistant", "content": text})]
        return [{"role": "system", "content": self.system}, *shown, user]


def attributes(schema: Schema) -> str:
    """A line per attribute: how many of which values."""
    lines = []
    for attribute in schema.attributes:
        what = "one" if attribute.size == 1 else str(attribute.size)
        order = ", the most important first" if attribute.kind == "ordered" else ""
        unknown = f", or {UNKNOWN}" if attribute.unknown else ""
        lines.append(f"- {attribute.name}: {what} of {', '.join(attribute.values)}{order}{unknown}")
    return "\n".join(lines)


def answer_format(schema: Schema) -> str:
    """The rendered profile with ``<value>`` for each value."""
    return "; ".join(f"{a.name}: {', '.join(['<value>'] * a.size)}" for a in schema.attributes)


def _filled(name: str, template: str, **values: str) -> str:
    try:
        return template.format(**values).strip()
    except (KeyError, IndexError, ValueError) as error:
        known = ", ".join(f"{{{key}}}" for key in values)
        raise UserError(
            f"model.options.prompt.{name}: a placeholder that means nothing ({error}); known: {known}"
        ) from error


def _items(name: str, texts: Sequence[str]) -> str:
    return "\n".join(f"{name} {number}: {text}" for number, text in enumerate(texts, 1))


def _image(jpeg: bytes) -> dict[str, Any]:
    data = base64.b64encode(jpeg).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}


class Chat:
    """A model at an OpenAI-compatible endpoint, zero-shot or with some training users as examples.

    Args:
        options: checked settings.
        schema: what is asked for.
        view: what the paradigm shows when it predicts.
        folder: of the run; the answers are kept there.
        seed: of the shots.

    Raises:
        UserError: a setting makes no sense, or nobody listens at the endpoint.
    """

    n_parameters: int | None = None

    def __init__(self, options: ChatConfig, schema: Schema, view: View, folder: Path, seed: int) -> None:
        options.check()
        self.options, self.schema, self.seed, self.repeats = options, schema, seed, options.repeat
        self.view = view if options.photos else replace(view, photos="none")
        if view.photos != "none" and self.view.photos == self.view.captions == "none":
            raise UserError(
                "model.options.photos=false hides all that this paradigm shows besides reviews: choose paradigm=text, or "
                "paradigm=uni for captions"
            )
        self.prompts = Prompts(options.prompt, schema, self.view)
        o = options
        self.endpoint = Endpoint(
            o.url, o.model, o.key_env, o.parameters, folder / JOURNAL, o.concurrency, o.retries, o.timeout
        )
        self.endpoint.check()
        self.answers: list[Answer] = []

    def fit(self, data: Any) -> None:
        """Draws the shots."""
        self.data = data
        train = data.users("train")
        drawn = np.random.default_rng(self.seed).permutation(len(train))[: self.options.shots]
        self.shots = [(self._message(train[i]), self.schema.render(train[i].profile)) for i in drawn]

    def predict(self, users: Sequence[User], label: str) -> list[str]:
        """Asks for what the journal does not hold."""
        requests = [Request(u.user_id, self.prompts.messages(self.shots, self._message(u))) for u in users]
        answers = self.endpoint.ask(requests, label)
        self.answers += answers
        return [profile_text(answer.answer) for answer in answers]

    def facts(self) -> dict[str, Any]:
        """Models that answered, answers, refusals and tokens, of this run and of those that it goes on from."""
        return {
            "endpoint": {
                "models": sorted({answer.model for answer in self.answers}),
                "answers": sum(answer.error is None for answer in self.answers),
                "refused": sum(answer.error is not None for answer in self.answers),
                "prompt_tokens": sum(answer.prompt_tokens or 0 for answer in self.answers),
                "completion_tokens": sum(answer.completion_tokens or 0 for answer in self.answers),
            }
        }

    def _message(self, user: User) -> dict[str, Any]:
        photos = user.photos if self.view.photos != "none" else ()
        return self.prompts.user(user, [self.data.jpeg(photo) for photo in photos])
