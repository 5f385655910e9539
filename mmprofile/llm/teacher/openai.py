"""The teacher behind an OpenAI-compatible endpoint: vLLM, SGLang, llama.cpp, hosted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import openai

from mmprofile.errors import UserError
from mmprofile.llm.teacher.protocol import Question
from mmprofile.systems.endpoint import Endpoint
from mmprofile.systems.journal import ChatReply

HOPELESS = (401, 402, 403, 404)  # wrong key, no money, not allowed, unknown model: no other question would fare better
NO_SERVER = ("ConnectError", "ConnectTimeout")  # by name: the client's HTTP library is httpx or httpx2


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
        """Refuse numbers that make no sense.

        Raises:
            UserError: names the setting.
        """
        for name, minimum in (("concurrency", 1), ("retries", 0)):
            if getattr(self, name) < minimum:
                raise UserError(f"teacher.{name}={getattr(self, name)}: give {minimum} or more")
        for name in ("timeout", "per_minute"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise UserError(f"teacher.{name}={getattr(self, name)}: give more than 0")


class OpenAI:
    """Ask a model at an endpoint.

    What concerns one question (a refusal, a failure that retries do not cure, a reply without an answer) is a reply with an
    error; what no other question would escape (:data:`HOPELESS`, no quota, nobody listens any more) ends the run.

    Args:
        config: typed settings; ``parameters`` are sent with every request, but for those that are null.

    Raises:
        UserError: a setting makes no sense, or the key's variable is not set.
    """

    batch = 1  # so that every answer is written down when it comes

    def __init__(self, config: OpenAIConfig) -> None:
        config.check()
        self.name, self.concurrency, self.seeds = config.name, config.concurrency, config.seeds
        self.endpoint = Endpoint(
            url=config.url,
            model=config.name,
            key_env=config.key_env,
            parameters=config.parameters,
            settings="teacher",
            ends_run=ends_run,
            retries=config.retries,
            timeout=config.timeout,
            per_minute=config.per_minute,
        )
        self.settings = {"kind": config.kind, "seeds": config.seeds, "parameters": self.endpoint.parameters}

    def check(self) -> None:
        """Check that somebody listens there and takes the key.

        Raises:
            UserError: nobody does.
        """
        self.endpoint.check()

    def ask(self, questions: Sequence[Question]) -> list[ChatReply]:
        """Return a reply to each question, asked one after the other.

        Raises:
            UserError: see above; from then on every call raises it.
        """
        return [self._ask(question) for question in questions]

    def _ask(self, question: Question) -> ChatReply:
        reply = self.endpoint.complete(question.messages, **({"seed": question.seed} if self.seeds else {}))
        if not reply.text and reply.error is None:
            return reply._replace(error="a reply without an answer: ''")
        return reply


def ends_run(error: openai.APIError) -> bool:
    """Return whether no other question would fare better."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in HOPELESS or error.code == "insufficient_quota"
    return type(error.__cause__).__name__ in NO_SERVER
