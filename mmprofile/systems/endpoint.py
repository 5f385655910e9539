"""Chat completions of any OpenAI-compatible server: the key, retries, rate limit, and one line for each error."""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import openai

from mmprofile.errors import UserError
from mmprofile.files import parse_json
from mmprofile.systems.journal import ChatReply

CHECK_SECONDS = 5.0  # to find out that nobody listens
NO_KEY = "none"  # the client insists on a key; a server that asks for none ignores it
SHOWN = 200  # characters of a reply that is no answer
REFUSALS = 10  # without any answer: no other question would fare better
SECRET = 8  # characters of a key that is worth hiding; EMPTY and the like stand for none


@dataclass
class ServerConfig:
    """The settings of an endpoint, whatever it is asked for.

    Attributes:
        url: up to and without ``/chat/completions``.
        key_env: environment variable with the key; None: the server asks for none.
        parameters: sent with every request (``temperature``, ...); None leaves one out.
        concurrency: requests at a time.
        retries: of one request, waiting longer each time.
        timeout: seconds for one try.
    """

    url: str
    key_env: str | None
    parameters: dict[str, Any]
    concurrency: int
    retries: int
    timeout: float

    def check(self, settings: str) -> None:
        """Refuse numbers that make no sense; ``settings`` is where users set them, such as ``teacher``.

        Raises:
            UserError: names the setting.
        """
        for name, minimum in (("concurrency", 1), ("retries", 0)):
            if getattr(self, name) < minimum:
                raise UserError(f"{settings}.{name}={getattr(self, name)}: give {minimum} or more")
        if not self.timeout > 0:
            raise UserError(f"{settings}.timeout={self.timeout}: give more than 0 seconds")
        if "@" in urlsplit(self.url).netloc:
            raise UserError(f"{settings}.url has a password in it, which would be written down: use {settings}.key_env")


class Endpoint:
    """A server and a model on it, asked by the ``openai`` client.

    The client tries again what may pass (408, 409, 429, 5xx, no answer in time) and obeys ``Retry-After``. A failure that
    remains is a reply with an error, or ends the run: ``ends_run`` decides. So do :data:`REFUSALS` refusals (400, 422) before
    anything was answered, and one that names an option which can be switched off.

    Args:
        config: the server.
        model: its name on the server.
        settings: where users set all this, such as ``model.options``; error messages name it.
        ends_run: whether no other question would fare better after this failure.
        per_minute: requests a minute at most, retries among them; None: no limit.
        switches: what is sent besides and not every server takes, and the setting that leaves it out:
            ``{"response_format": "teacher.guided=false"}``.

    Raises:
        UserError: the key's variable is not set.
    """

    def __init__(
        self,
        config: ServerConfig,
        model: str,
        settings: str,
        ends_run: Callable[[openai.APIError], bool],
        per_minute: float | None = None,
        switches: Mapping[str, str] | None = None,
    ) -> None:
        self.url, self.model, self.settings, self.ends_run = config.url, model, settings, ends_run
        self.switches = switches or {}
        self.parameters = {name: value for name, value in config.parameters.items() if value is not None}
        self._secret = self._key(config.key_env)
        self.client = openai.OpenAI(
            base_url=config.url,
            api_key=self._secret,
            timeout=config.timeout,
            max_retries=config.retries,
            http_client=openai.DefaultHttpxClient(event_hooks={"request": [self._wait]}),  # called for every try
        )
        self._gap = 60 / per_minute if per_minute else 0.0
        self._next, self._lock, self._counting = 0.0, threading.Lock(), threading.Lock()
        self._failure: UserError | None = None
        self._refused: int | None = 0  # None: something was answered

    def check(self) -> None:
        """Check within seconds that somebody listens there and takes the key.

        Raises:
            UserError: nobody does.
        """
        try:
            self.client.with_options(max_retries=0, timeout=CHECK_SECONDS).models.with_raw_response.list()
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.APIConnectionError) as error:
            raise self._explained(error) from error
        except openai.APIStatusError:
            pass  # it listens; not every server lists its models

    def complete(self, messages: Sequence[Mapping[str, Any]], **parameters: Any) -> ChatReply:
        """Return the reply to ``messages``, which are as the chat completions API takes them.

        Args:
            messages: system, user and assistant messages.
            **parameters: sent besides those of the endpoint.

        Raises:
            UserError: a failure that ends the run; from then on every call raises it.
        """
        return self.choices(messages, **parameters)[0]

    def choices(self, messages: Sequence[Mapping[str, Any]], **parameters: Any) -> list[ChatReply]:
        """Return all replies that come to ``messages``, one or more: ``n`` of ``parameters`` asks for several.

        Raises:
            UserError: as :meth:`complete`.
        """
        try:
            raw = self.client.chat.completions.with_raw_response.create(
                model=self.model,
                messages=messages,  # type: ignore[arg-type]
                extra_body=self.parameters | parameters,
            )
        except openai.APIError as error:
            advice = self._advice(error)
            if self._failure is None and (advice or self.ends_run(error)):
                self._failure = self._explained(error, advice)
            if self._failure is not None:
                raise self._failure from error
            return [ChatReply("", self.redacted(_described(error)))]
        self._refused = None
        return read_replies(self.redacted(raw.content.decode("utf-8", "replace")).encode("utf-8"))

    def body(self, messages: Sequence[Mapping[str, Any]], **parameters: Any) -> dict[str, Any]:
        """Return the body of the request that :meth:`choices` sends."""
        return {"model": self.model, "messages": messages, **self.parameters, **parameters}

    @contextmanager
    def explaining(self, advice: Mapping[int, str]) -> Iterator[None]:
        """Turn failures of :attr:`client` into one line; ``advice``: what to do where a status has a meaning of its own.

        Raises:
            UserError: the server fails, or cannot be reached.
        """
        try:
            yield
        except openai.APIError as error:
            raise self._explained(error, advice.get(getattr(error, "status_code", 0))) from error

    def _advice(self, error: openai.APIError) -> str | None:
        """Return what to change where no question would be answered as they are asked: nothing was, but this was refused."""
        with self._counting:
            if self._refused is None:
                return None
            if isinstance(error, (openai.BadRequestError, openai.UnprocessableEntityError)):
                self._refused += 1
                for option, switch in self.switches.items():
                    if error.param == option or re.search(rf"\b{option}\b", _described(error)):
                        return f"set {switch}"
            if self._refused < REFUSALS:
                return None
            check = ", ".join([f"{self.settings}.parameters", *self.switches.values()])
            return f"there were nothing but refusals, {REFUSALS} of them: check {check}"

    def redacted(self, text: str) -> str:
        """Return a server's words without the key, which some of them repeat."""
        return text.replace(self._secret, "[key]") if len(self._secret) >= SECRET else text

    def _key(self, variable: str | None) -> str:
        key = NO_KEY if variable is None else os.environ.get(variable)
        if not key:
            raise UserError(
                f"{self.url}: the environment variable {variable} with the key is not set; set it, or "
                f"{self.settings}.key_env=null for a server that asks for none"
            )
        return key

    def _wait(self, _: Any) -> None:
        """Wait for a request's turn: they go the same time apart, so that no minute has more than ``per_minute``."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            time.sleep(max(0.0, self._next - time.monotonic()))
            self._next = time.monotonic() + self._gap

    def _explained(self, error: openai.APIError, advice: str | None = None) -> UserError:
        """Return one line for a failure that ends a run, with what to do."""
        if isinstance(error, openai.APIStatusError):
            advice = advice or "the same command again asks for what is not answered yet"
            return UserError(self.redacted(f"{self.url}: model {self.model}: {_described(error)}; {advice}"))
        return UserError(self.redacted(f"{self.url} cannot be reached ({_cause(error)}); check {self.settings}.url"))


def read_replies(content: bytes) -> list[ChatReply]:
    """Return the answers in the body of a chat completion, one or more; where there is none, a reply with an error.

    What they cost was counted once: the first has the prompt's tokens, and those that were written are shared out evenly.
    """
    body: Any = None
    try:
        body = parse_json(content)
        choices = body["choices"]
    except (ValueError, LookupError, TypeError):  # no JSON, or other JSON
        choices = None
    choices = choices if isinstance(choices, list) and choices else [None]
    usage, model = (body.get("usage"), body.get("model")) if isinstance(body, dict) else (None, None)
    usage = usage if isinstance(usage, dict) else {}
    read, written = (
        count if isinstance(count, int) else None
        for count in (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    )
    return [
        _read_choice(choice, content)._replace(
            model=model if isinstance(model, str) else None,
            prompt_tokens=read if i == 0 or read is None else 0,
            completion_tokens=None if written is None else written // len(choices) + (i < written % len(choices)),
        )
        for i, choice in enumerate(choices)
    ]


def _read_choice(choice: Any, content: bytes) -> ChatReply:
    try:
        text, ending = choice["message"]["content"], choice.get("finish_reason")
    except (LookupError, TypeError, AttributeError):  # no choice, or other JSON
        text, ending = None, None
    if not isinstance(text, str):
        return ChatReply("", f"a reply without an answer: {content[:SHOWN].decode(errors='replace')!r}")
    return ChatReply(text, cut=ending == "length")


def _described(error: openai.APIError) -> str:
    """Return what became of one request, with the server's words."""
    if not isinstance(error, openai.APIStatusError):
        return f"no answer ({_cause(error)})"
    body = error.body.get("message", error.body) if isinstance(error.body, dict) else error.body
    return f"status {error.status_code} ({str(body or error.message)[:300]})"


def _cause(error: openai.APIError) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}"
