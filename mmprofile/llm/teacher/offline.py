"""Answers by a provider's batch API: requests are sent as a file, answers are fetched within a day, often at half the price.

What was sent is in the stage's folder at once. So the same command, run again after a kill, waits on for it and pays nothing
twice.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from openai import APIStatusError
from openai.types import Batch
from tqdm import tqdm

from mmprofile.errors import UserError
from mmprofile.files import parse_json
from mmprofile.llm.journal import Record
from mmprofile.llm.teacher.openai import OpenAI, fitted
from mmprofile.llm.teacher.questions import PlannedQuestion, answered, in_batches
from mmprofile.llm.teacher.sent import SENT, Sent, read_sent, write_sent
from mmprofile.profile.schema import Schema
from mmprofile.systems.endpoint import read_replies
from mmprofile.systems.journal import ChatReply, Journal

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000
"""Of a file, by the documentation of the API."""
OVER = ("completed", "failed", "expired", "cancelled")
"""States of a batch of which no more answers come."""
NO_API = (404, 405, 501)
"""What servers say that have no batch API."""
COMPLETIONS: Final = "/v1/chat/completions"
SHOWN = 300  # characters of a server's error


class Offline:
    """Sends questions in files, waits for the answers, and writes them down.

    Args:
        teacher: the server and its parameters.
        journal: gets the answers; what was sent is written beside it.
        schema: the attributes that are asked for.
    """

    def __init__(self, teacher: OpenAI, journal: Journal[Record], schema: Schema) -> None:
        self.teacher, self.journal, self.schema = teacher, journal, schema
        self.endpoint, self.client = teacher.endpoint, teacher.endpoint.client
        self.path: Path = journal.path.with_name(SENT)
        self.sent = read_sent(self.path)
        self.without = f"set {teacher.endpoint.settings}.batch_api=false"

    def ask(self, planned: Sequence[PlannedQuestion], bar: "tqdm[Any]") -> None:
        """Ask the questions that are neither answered nor on their way, and fetch the answers of all.

        Args:
            planned: all questions. Answers to others are left to the command that asked for them.
            bar: moves on by the number of answers.

        Raises:
            UserError: the server has no batch API, refuses a file, or cannot be reached.
        """
        records = {record.request: record for _, record in planned}
        waiting = [sent for sent in self.sent if sent.questions & records.keys()]
        known = {request for request in records if self.journal.answered(request)}
        known.update(question for sent in waiting for question in sent.questions)
        rest = [asked for asked in planned if asked.record.request not in known]
        with bar:
            for sent in waiting:
                if sent.batch is None:
                    self._begin(sent, new=False)
            waiting += [self._send(lines) for lines in files(self.teacher, in_batches(self.teacher, rest))]
            while waiting:
                for sent in [*waiting]:
                    with self.endpoint.explaining(
                        {404: f"if it is lost there, delete {self.path} to ask, and pay, again"}
                    ):
                        batch = self.client.batches.retrieve(str(sent.batch))
                    bar.set_postfix_str(self._told(batch, "status"))
                    if batch.status in OVER:
                        bar.update(self._fetch(batch, sent, records))
                        waiting.remove(sent)
                if waiting:
                    time.sleep(self.teacher.poll)

    def _send(self, lines: Mapping[bytes, list[str]]) -> Sent:
        """Send a file, and have it answered."""
        with self.endpoint.explaining(dict.fromkeys(NO_API, f"it has no batch API: {self.without}")):
            file = self.client.files.create(file=("questions.jsonl", b"".join(lines)), purpose="batch")
        sent = Sent(self._told(file, "id"), None, [*lines.values()])
        self.sent.append(sent)
        write_sent(self.path, self.sent)
        self._begin(sent, new=True)
        return sent

    def _begin(self, sent: Sent, new: bool) -> None:
        """Have a file answered, unless it is not ``new`` and the server has a batch of it."""
        with self.endpoint.explaining(dict.fromkeys(NO_API, f"it has no batch API: {self.without}")):
            begun = [] if new else [batch for batch in self.client.batches.list() if batch.input_file_id == sent.file]
            batch = begun[0] if begun else self._create(sent)
        sent.batch = self._told(batch, "id")
        write_sent(self.path, self.sent)
        print(
            f"batch {sent.batch}, {len(sent.requests):,} requests; {self.path} knows it until it is fetched", flush=True
        )

    def _create(self, sent: Sent) -> Batch:
        client = self.client.with_options(max_retries=0)  # nobody would know whether the first try arrived
        try:
            return client.batches.create(input_file_id=sent.file, endpoint=COMPLETIONS, completion_window="24h")
        except APIStatusError as error:
            if error.status_code < 500:  # refused: nothing is on its way
                self._forget(sent)
            raise

    def _forget(self, sent: Sent) -> None:
        self.sent.remove(sent)
        write_sent(self.path, self.sent)

    def _told(self, reply: Any, name: str) -> str:
        """Return what a reply must have.

        Raises:
            UserError: it does not.
        """
        value = getattr(reply, name, None)
        if not isinstance(value, str):
            raise UserError(f"{self.endpoint.url}: a reply without {name}, so it has no batch API: {self.without}")
        return value

    def _fetch(self, batch: Batch, sent: Sent, records: Mapping[str, Record]) -> int:
        """Write down what came of a batch, and return the number of records."""
        replies: dict[str, list[ChatReply]] = {}
        for file in (batch.output_file_id, batch.error_file_id):
            if file is not None:
                with self.endpoint.explaining({}):
                    content = self.client.files.content(file).content
                text = self.endpoint.redacted(content.decode("utf-8", "replace"))
                replies |= dict(filter(None, map(read_line, text.split("\n"))))
        reasons = [f" ({error.message or error.code})" for error in (batch.errors and batch.errors.data) or []]
        none = self.endpoint.redacted(f"batch {batch.id} {batch.status} without an answer{''.join(reasons[:1])}")
        written = []
        for questions in sent.requests:
            choices = fitted(replies.get(questions[0], [ChatReply("", none)]), len(questions))
            choices += [ChatReply("", "the server gave fewer answers than it was asked for")] * (
                len(questions) - len(choices)
            )
            written += [
                answered(records[question], reply, self.schema, seconds=0.0)
                for question, reply in zip(questions, choices, strict=True)
                if question in records and not self.journal.answered(question)
            ]
        self.journal.write(written)
        self._forget(sent)
        return len(written)


def files(teacher: OpenAI, batches: Sequence[Sequence[PlannedQuestion]]) -> Iterator[dict[bytes, list[str]]]:
    """Yield the files that ask questions: the lines of each, and the hashes of the questions that a line asks.

    Args:
        teacher: whose parameters are sent.
        batches: the questions of each request.
    """
    lines: dict[bytes, list[str]] = {}
    size = 0
    for batch in batches:
        questions = [asked for asked, _ in batch]
        request = {
            "custom_id": batch[0].record.request,
            "method": "POST",
            "url": COMPLETIONS,
            "body": teacher.endpoint.body(questions[0].messages, **teacher.parameters(questions)),
        }
        line = json.dumps(request).encode() + b"\n"
        if lines and (len(lines) == MOST_REQUESTS or size + len(line) > MOST_BYTES):
            yield lines
            lines, size = {}, 0
        lines[line] = [record.request for _, record in batch]
        size += len(line)
    if lines:
        yield lines


def read_line(line: str) -> tuple[str, list[ChatReply]] | None:
    """Return the id of a request and the replies to it, from a line of a batch's results; None: it is no such line."""
    try:
        row = parse_json(line)
        custom_id, response, error = row["custom_id"], row.get("response"), row.get("error")
        if response and response["status_code"] == 200:
            return str(custom_id), read_replies(json.dumps(response["body"]).encode())
        body = response["body"] if response else {"error": error}
        error = body.get("error") or body
        status = f"status {response['status_code']}" if response else str(error.get("code"))
        return str(custom_id), [ChatReply("", f"{status} ({str(error.get('message'))[:SHOWN]})")]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
