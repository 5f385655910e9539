"""The teacher behind an OpenAI-compatible endpoint: vLLM, SGLang, llama.cpp, hosted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import openai

from mmprofile.errors import UserError
from mmprofile.llm.answer_schema import answer_schema
from mmprofile.llm.teacher.protocol import Question
from mmprofile.profile.schema import Schema
from mmprofile.systems.endpoint import Endpoint, ServerConfig
from mmprofile.systems.journal import ChatReply

HOPELESS = (401, 402, 403, 404)  # wrong key, no money, not allowed, unknown model: no other question would fare better
NO_SERVER = ("ConnectError", "ConnectTimeout")  # by name: the client's HTTP library is httpx or httpx2
LIMITS = ("max_completion_tokens", "max_tokens")
PRICES = ("prompt", "completion")
MOST_CHOICES = 128  # of a request, by the documentation of the chat completions API


@dataclass
class OpenAIConfig(ServerConfig):
    """``conf/llm/teacher/openai.yaml``."""

    kind: str
    name: str
    seeds: bool
    guided: bool
    per_request: int
    per_minute: float | None
    prices: dict[str, float | None]
    budget: float | None
    batch_api: bool
    poll: float

    @property
    def longest(self) -> int | None:
        """Tokens of an answer at most; None: no limit is set."""
        limits = [self.parameters.get(name) for name in LIMITS]
        return next((limit for limit in limits if isinstance(limit, int)), None)

    def check(self, settings: str) -> None:
        """Refuse what makes no sense.

        Raises:
            UserError: names the setting.
        """
        super().check(settings)
        if self.per_minute is not None and not self.per_minute > 0:
            raise UserError(f"{settings}.per_minute={self.per_minute}: give more than 0")
        if not 1 <= self.per_request <= MOST_CHOICES:
            raise UserError(f"{settings}.per_request={self.per_request}: give 1 to {MOST_CHOICES}")
        if self.parameters.get("n") is not None:
            raise UserError(f"{settings}.parameters.n: give {settings}.per_request, which keeps all answers that come")
        for kind, price in self.prices.items():
            if kind not in PRICES:
                raise UserError(f"{settings}.prices has no {kind!r}: give {' and '.join(PRICES)}")
            if price is not None and not price >= 0:
                raise UserError(f"{settings}.prices.{kind}={price}: give 0 or more, per million tokens")
        if not self.poll > 0:
            raise UserError(f"{settings}.poll={self.poll}: give more than 0 seconds")
        if self.budget is None:
            return
        if not self.budget >= 0:
            raise UserError(f"{settings}.budget={self.budget}: give 0 or more")
        if any(self.prices.get(kind) is None for kind in PRICES):
            raise UserError(f"{settings}.budget={self.budget} needs {settings}.prices, of prompt and completion")
        if self.longest is None:
            raise UserError(
                f"{settings}.budget={self.budget} needs {settings}.parameters.max_tokens: an answer without a limit may cost "
                "anything"
            )


class OpenAI:
    """Ask a model at an endpoint.

    What concerns one question (a refusal, a failure that retries do not cure, a reply without an answer) is a reply with an
    error; what no other question would escape (:data:`HOPELESS`, no quota, nobody listens any more) ends the run.

    Args:
        config: typed settings; ``parameters`` are sent with every request, but for those that are null.
        schema: the attributes that are asked for; ``guided`` has the server write answers about them and nothing else.

    Raises:
        UserError: a setting makes no sense, or the key's variable is not set.
    """

    one_person = True  # of a batch, which is one request

    def __init__(self, config: OpenAIConfig, schema: Schema) -> None:
        config.check("teacher")
        switches = {}
        if config.guided:
            config.parameters["response_format"] = _response_format(schema)
            switches["response_format"] = "teacher.guided=false"
        if config.per_request > 1:
            switches["n"] = "teacher.per_request=1"
        self.name, self.concurrency, self.seeds = config.name, config.concurrency, config.seeds
        self.longest, self.poll = config.longest, config.poll
        self.batch = config.per_request  # so that every answer is written down when it comes
        self.endpoint = Endpoint(config, config.name, "teacher", ends_run, config.per_minute, switches)
        self.settings = {"kind": config.kind, "seeds": config.seeds, "parameters": self.endpoint.parameters}

    def check(self) -> None:
        """Check that somebody listens there and takes the key.

        Raises:
            UserError: nobody does.
        """
        self.endpoint.check()

    def requirements(self, longest: int) -> list[str]:
        """Return nothing: the model is elsewhere."""
        return []

    def tokens(self, messages: list[dict[str, str]]) -> None:
        """Return None: only the server knows its tokenizer."""

    def ask(self, questions: Sequence[Question]) -> list[ChatReply]:
        """Return a reply to each question; all are about one person, and one request as long as the server answers it whole.

        A server that gives fewer answers than ``n`` says is asked for the rest: some give one, whatever is asked.

        Raises:
            UserError: see above; from then on every call raises it.
        """
        replies: list[ChatReply] = []
        while len(replies) < len(questions):
            rest = questions[len(replies) :]
            choices = self.endpoint.choices(rest[0].messages, **self.parameters(rest))
            replies += fitted(choices, len(rest))
        return replies

    def parameters(self, questions: Sequence[Question]) -> dict[str, int]:
        """Return what a request has beside the messages and the parameters of all; its seed is that of its first question."""
        several = {"n": len(questions)} if len(questions) > 1 else {}
        return several | ({"seed": questions[0].seed} if self.seeds else {})


def fitted(choices: Sequence[ChatReply], asked: int) -> list[ChatReply]:
    """Return the replies of a request for so many answers: at most as many, and errors for all where nothing was answered."""
    replies = [
        reply if reply.text or reply.error else reply._replace(error="a reply without an answer: ''")
        for reply in choices[:asked]
    ]
    if all(reply.error is not None for reply in replies):
        replies += [ChatReply("", replies[0].error)] * (asked - len(replies))
    return replies


def ends_run(error: openai.APIError) -> bool:
    """Return whether no other question would fare better."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in HOPELESS or error.code == "insufficient_quota"
    return type(error.__cause__).__name__ in NO_SERVER


def _response_format(schema: Schema) -> dict[str, Any]:
    return {
        "type": "json_schema",
        "json_schema": {"name": "profile", "schema": answer_schema(schema), "strict": True},
    }
