"""Chat completions of any OpenAI-compatible server; every answer is written down at once, so that none is asked for twice."""

import hashlib
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import openai
from openai.types.chat import ChatCompletion
from tqdm import tqdm

from mmprofile.errors import UserError

CHECK_SECONDS = 5.0  # to find out that nobody listens
NO_KEY = "none"  # the client insists on a key; a server that asks for none ignores it
SETTINGS = "model.options"


class Request(NamedTuple):
    """What is asked for whom: ``messages`` as the chat completions API takes them."""

    user_id: str
    messages: list[dict[str, Any]]


class Answer(NamedTuple):
    """A line of the journal. ``error``: why there is no answer; such a request is asked again by the next run."""

    user_id: str
    request: str
    answer: str
    model: str
    seconds: float
    prompt_tokens: int | None
    completion_tokens: int | None
    error: str | None = None


class Endpoint:
    """A server, a model on it, and the journal of its answers.

    What the server refuses for one request (status 400 or 422, a reply without an answer) is an empty answer with an error;
    all else (no connection, wrong key, unknown model, a status of 429 or 500 that retries do not cure) ends the run.

    Args:
        url: up to and without ``/chat/completions``.
        model: name on the server.
        key_env: environment variable with the key; None: the server asks for none.
        parameters: sent with every request (``temperature``, ``seed``, ...); None leaves one out.
        journal: JSONL, a line per answer; made when it is not there. Answers are found by all that was sent, not by ``url``.
        concurrency: requests at a time.
        retries: of one request, by the client, waiting longer each time.
        timeout: seconds for one try.

    Raises:
        UserError: the key's variable is not set, or the journal cannot be read.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key_env: str | None,
        parameters: Mapping[str, Any],
        journal: Path,
        concurrency: int = 4,
        retries: int = 5,
        timeout: float = 120.0,
    ) -> None:
        key = read_key(url, key_env, SETTINGS)
        self.url, self.model, self.journal, self.concurrency = url, model, journal, concurrency
        self.parameters = {name: value for name, value in parameters.items() if value is not None}
        self.client = openai.OpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=retries)
        self.answers = _read_journal(journal)
        self._lock, self._failed = threading.Lock(), threading.Event()

    def check(self) -> None:
        """Whether somebody listens there and takes the key; answers within seconds.

        Raises:
            UserError: nobody does.
        """
        check_server(self.client, self.url, self.model, SETTINGS)

    def ask(self, requests: Sequence[Request], label: str | None = None) -> list[Answer]:
        """An answer per request, in order; those in the journal are not asked for.

        Args:
            requests: any number.
            label: of a progress bar; None shows none.

        Raises:
            UserError: the server fails, or refuses every request; what was answered until then is in the journal.
        """
        keys = [self._digest(request) for request in requests]
        todo = {key: one for key, one in zip(keys, requests, strict=True) if key not in self.answers}
        refused: dict[str, Answer] = {}
        bar = tqdm(total=len(todo), desc=label, disable=None if label else True, leave=False, dynamic_ncols=True)
        pool = ThreadPoolExecutor(self.concurrency)
        self._failed.clear()
        try:
            for future in as_completed([pool.submit(self._complete, key, request) for key, request in todo.items()]):
                answer = future.result()
                if answer is not None and answer.error is not None:
                    refused[answer.request] = answer
                bar.update()
        finally:
            pool.shutdown(cancel_futures=True)
            bar.close()
        if refused and len(refused) == len(set(keys)):
            raise UserError(
                f"{self.url}: model {self.model} refused all requests: {next(iter(refused.values())).error}"
            )
        return [refused.get(key) or self.answers[key] for key in keys]

    def _digest(self, request: Request) -> str:
        sent = {"model": self.model, "messages": request.messages, **self.parameters}
        return hashlib.sha256(json.dumps(sent, sort_keys=True).encode()).hexdigest()

    def _complete(self, key: str, request: Request) -> Answer | None:
        """Asks, and writes the answer down; None once the server has failed."""
        if self._failed.is_set():
            return None
        start, error, reply = time.perf_counter(), None, None
        try:
            reply = self.client.chat.completions.create(
                model=self.model,
                messages=request.messages,  # type: ignore[arg-type]
                extra_body=self.parameters,
            )
        except (openai.BadRequestError, openai.UnprocessableEntityError) as refusal:
            error = said(refusal)
        except json.JSONDecodeError as refusal:
            error = f"a reply that is no JSON: {refusal}"
        except openai.APIError as failure:
            self._failed.set()
            raise explained(failure, self.url, self.model, SETTINGS) from failure
        seconds = round(time.perf_counter() - start, 3)
        # The client checks no reply for being one.
        if isinstance(reply, ChatCompletion) and reply.choices and reply.choices[0].message.content is not None:
            used = (reply.usage.prompt_tokens, reply.usage.completion_tokens) if reply.usage else (None, None)
            text = reply.choices[0].message.content
            answer = Answer(request.user_id, key, text, reply.model or self.model, seconds, *used)
        else:
            error = error or f"a reply without an answer: {str(reply)[:200]!r}"
            answer = Answer(request.user_id, key, "", self.model, seconds, None, None, error)
        self._write(answer)
        return answer

    def _write(self, answer: Answer) -> None:
        with self._lock, self.journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(answer._asdict(), ensure_ascii=False) + "\n")
            if answer.error is None:
                self.answers[answer.request] = answer


def read_key(url: str, key_env: str | None, settings: str) -> str:
    """The key for a server, from the environment.

    Args:
        url: of the server.
        key_env: the variable's name; None: the server asks for none.
        settings: where users set ``key_env``, such as ``model.options``.

    Raises:
        UserError: the variable is not set.
    """
    key = NO_KEY if key_env is None else os.environ.get(key_env)
    if not key:
        raise UserError(
            f"{url}: the environment variable {key_env} with the key is not set; set it, or "
            f"{settings}.key_env=null for a server that asks for none"
        )
    return key


def check_server(client: openai.OpenAI, url: str, model: str, settings: str) -> None:
    """Whether somebody listens there and takes the key; answers within seconds.

    Raises:
        UserError: nobody does.
    """
    try:
        client.with_options(max_retries=0, timeout=CHECK_SECONDS).models.with_raw_response.list()
    except (openai.AuthenticationError, openai.PermissionDeniedError, openai.APIConnectionError) as error:
        raise explained(error, url, model, settings) from error
    except openai.APIStatusError:
        pass  # it listens; not every server lists its models


def explained(error: openai.APIError, url: str, model: str, settings: str) -> UserError:
    """One line for what ends a run."""
    if isinstance(error, openai.APIStatusError):
        return UserError(
            f"{url}: model {model}: status {error.status_code} ({said(error)}); "
            f"the same command again asks for what is not answered yet"
        )
    cause = error.__cause__ or error
    return UserError(f"{url} cannot be reached ({type(cause).__name__}: {cause}); check {settings}.url")


def said(error: openai.APIStatusError) -> str:
    """What a server says of its refusal."""
    body = error.body.get("message", error.body) if isinstance(error.body, dict) else error.body
    return str(body or error.message)[:300]


def _read_journal(path: Path) -> dict[str, Answer]:
    """Answers by request. A last line that a killed run left unfinished is cut off."""
    if not path.exists():
        return {}
    try:
        raw = path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) < len(raw):
            os.truncate(path, len(whole))
        lines = whole.decode("utf-8").split("\n")[:-1]  # an answer may hold other line breaks as they are
        answers = [Answer(**json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: no journal of answers ({error}); move it away to ask anew") from error
    return {answer.request: answer for answer in answers if answer.error is None}
