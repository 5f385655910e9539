"""The teacher behind an OpenAI-compatible endpoint: vLLM, SGLang, llama.cpp, hosted."""

from collections.abc import Sequence
from dataclasses import dataclass

import openai

from mmprofile.errors import UserError
from mmprofile.llm.teacher.protocol import Question
from mmprofile.systems.endpoint import Endpoint, ServerConfig
from mmprofile.systems.journal import ChatReply

HOPELESS = (401, 402, 403, 404)  # wrong key, no money, not allowed, unknown model: no other question would fare better
NO_SERVER = ("ConnectError", "ConnectTimeout")  # by name: the client's HTTP library is httpx or httpx2


@dataclass
class OpenAIConfig(ServerConfig):
    """``conf/llm/teacher/openai.yaml``."""

    kind: str
    name: str
    seeds: bool
    per_minute: float | None
    prices: dict[str, float | None]


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
        config.check("teacher")
        if config.per_minute is not None and not config.per_minute > 0:
            raise UserError(f"teacher.per_minute={config.per_minute}: give more than 0")
        self.name, self.concurrency, self.seeds = config.name, config.concurrency, config.seeds
        self.endpoint = Endpoint(config, config.name, "teacher", ends_run, config.per_minute)
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
