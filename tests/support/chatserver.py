"""An endpoint of our own on loopback that answers as OpenAI's does, well and badly."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any]
AT_ONCE = {"retry-after-ms": "1"}


def completion(text: str | None) -> dict[str, Any]:
    """Return the body of an answer, with 100 and 7 tokens."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "toy-1", "choices": [choice], "usage": usage}


def error(message: str, code: str | None = None) -> dict[str, Any]:
    """Return the body of a refusal."""
    return {"error": {"message": message, "type": "x", "code": code}}


class Server(ThreadingHTTPServer):
    """A server whose ``reply(n, body)`` gives status and body of the n-th request (from 0); it keeps what was sent.

    Attributes:
        sent: bodies; ``keys``: their authorization; ``times``: when they came, by the monotonic clock.
        lists_models: status of the list of models.
        headers: of every reply.
    """

    daemon_threads = True

    def __init__(self, text: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply: Callable[[int, dict[str, Any]], Reply] = lambda n, body: (200, completion(text))
        self.sent: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self.lists_models: int = 200
        self.headers: Mapping[str, str] = AT_ONCE
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def die(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        assert self.path == "/v1/models"
        self.answer(self.server.lists_models, {"object": "list", "data": []})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        if self.path != "/v1/chat/completions":
            self.answer(404, error(f"no {self.path}"))
            return
        body = json.loads(content)
        with self.server.lock:
            number = len(self.server.sent)
            self.server.sent.append(body)
            self.server.keys.append(self.headers["authorization"])
            self.server.times.append(time.monotonic())
        self.answer(*self.server.reply(number, body))

    def answer(self, status: int, body: Any) -> None:
        """Send a status and a body; where the body is None, hang up."""
        if body is None:
            return
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        with contextlib.suppress(ConnectionError):  # the client was killed, or waits no longer
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(raw)))
            for name, value in self.server.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)


@contextlib.contextmanager
def serving(text: str = "", kind: type[Server] = Server) -> Iterator[Any]:
    """Yield a server that answers everything with ``text``, until its ``reply`` is replaced."""
    with kind(text) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join()


def closed_port() -> str:
    """Return the URL of a server that has stopped."""
    with Server() as made:
        return made.url
