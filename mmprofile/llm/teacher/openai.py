"""The teacher behind an OpenAI-compatible endpoint: vLLM, SGLang, llama.cpp, hosted."""

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import openai

from mmprofile.errors import UserError
from mmprofile.llm.teacher.protocol import Question, Reply, typed_settings
from mmprofile.systems.endpoint import check_server, explained, read_key, said

SENSELESS = (401, 402, 403, 404)  # wrong key, no money, not allowed, unknown model: no other question would fare better
NO_SERVER = ("ConnectError", "ConnectTimeout")  # by name: the client's HTTP library is httpx or httpx2
SHOWN = 200  # characters of a reply that is none


@dataclass
class OpenAIConfig:
    """``conf/llm/teacher/openai.yaml``."""

    kind: str
    url: str
    name: str
    key_env: str | None
    parameters: dict[str, Any]
    seeds: bool
    concurrency: int
    per_minute: float | None
    retries: int
    timeout: float
    prices: dict[str, float | None]

    def check(self) -> None:
        """Refuses numbers that make no sense.

        Raises:
            UserError: names the setting.
        """
        for name, least in (("concurrency", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise UserError(f"teacher.{name}={getattr(self, name)}: give {least} or more")
        for name in ("timeout", "per_minute"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise UserError(f"teacher.{name}={getattr(self, name)}: give more than 0")


class OpenAI:
    """Asks by the ``openai`` client, which tries again what may pass (429, 500, no answer in time) and obeys ``Retry-After``.

    What concerns one question (a refusal, a failure that retries do not cure, a reply without an answer) is a reply with an
    error; what no other question would escape (:data:`SENSELESS`, no quota, nobody listens any more) ends the run.

    Args:
        cfg: see ``conf/llm/teacher/openai.yaml``; ``parameters`` are sent with every request, but for those that are null.

    Raises:
        UserError: a setting makes no sense, or the key's variable is not set.
    """

    batch = 1  # so that every answer is written down when it comes

    def __init__(self, cfg: Any) -> None:
        self.cfg = config = typed_settings(OpenAIConfig, cfg)
        config.check()
        self.name, self.concurrency = config.name, config.concurrency
        self.parameters = {name: value for name, value in config.parameters.items() if value is not None}
        self.settings = {"kind": config.kind, "seeds": config.seeds, "parameters": self.parameters}
        self.client = openai.OpenAI(
            base_url=config.url,
            api_key=read_key(config.url, config.key_env, "teacher"),
            timeout=config.timeout,
            max_retries=config.retries,
            http_client=openai.DefaultHttpxClient(event_hooks={"request": [self._wait]}),  # called for every try
        )
        self._gap = 60 / config.per_minute if config.per_minute else 0.0
        self._next, self._lock = 0.0, threading.Lock()
        self._end: UserError | None = None

    def check(self) -> None:
        """Whether somebody listens there and takes the key.

        Raises:
            UserError: nobody does.
        """
        check_server(self.client, self.cfg.url, self.name, "teacher")

    def ask(self, questions: Sequence[Question]) -> list[Reply]:
        """A reply to each, one after the other.

        Raises:
            UserError: see above; from then on every call raises it.
        """
        return [self._ask(question) for question in questions]

    def _ask(self, question: Question) -> Reply:
        try:
            raw = self.client.chat.completions.with_raw_response.create(
                model=self.name,
                messages=question.messages,  # type: ignore[arg-type]
                extra_body=self.parameters | ({"seed": question.seed} if self.cfg.seeds else {}),
            )
        except openai.APIError as error:
            if self._end is None and _ends(error):
                self._end = explained(error, self.cfg.url, self.name, "teacher")
            if self._end is not None:
                raise self._end from error
            return Reply("", _line(error))
        return read_reply(raw.content)

    def _wait(self, _: Any) -> None:
        """A request's turn: requests go the same time apart, so that no minute has more than ``per_minute`` of them."""
        with self._lock:
            if self._end is not None:
                raise self._end
            time.sleep(max(0.0, self._next - time.monotonic()))
            self._next = time.monotonic() + self._gap


def read_reply(raw: bytes) -> Reply:
    """The answer in the body of a chat completion; one that has none is a reply with an error."""
    body: Any = None
    try:
        body = json.loads(raw)
        text = body["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):  # no JSON, or other JSON
        text = None
    usage, model = (body.get("usage"), body.get("model")) if isinstance(body, dict) else (None, None)
    tokens = [usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens")]
    used = [count if isinstance(count, int) else None for count in tokens]
    error = None
    if not isinstance(text, str) or not text:
        text, error = "", f"a reply without an answer: {raw[:SHOWN].decode(errors='replace')!r}"
    return Reply(text, error, model if isinstance(model, str) else None, *used)


def _ends(error: openai.APIError) -> bool:
    """Whether no other question would fare better."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in SENSELESS or error.code == "insufficient_quota"
    return type(error.__cause__).__name__ in NO_SERVER


def _line(error: openai.APIError) -> str:
    """What became of one question."""
    if isinstance(error, openai.APIStatusError):
        return f"status {error.status_code} ({said(error)})"
    cause = error.__cause__ or error
    return f"no answer ({type(cause).__name__}: {cause})"
