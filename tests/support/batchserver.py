"""The endpoint of our own with files and batches, as OpenAI's documentation describes them."""

import json
from email import message_from_bytes
from typing import Any

from tests.support.chatserver import Handler, Server, error

STATES = ("validating", "in_progress", "finalizing")
LATE = {"code": "batch_expired", "message": "This request could not be executed before the completion window expired."}


class BatchServer(Server):
    """Each look at a batch finds it a state further; then ``reply`` has answered its lines, the last one first.

    Attributes:
        files, batches: by id.
        end: the state that batches end in.
        until: lines that are answered of a batch which does not complete.
        creates: what becomes of the wish for a batch: ``made``, ``lost`` (it is made, and the reply is lost), or a status.
        begun: whether batches leave their first state.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.RequestHandlerClass = BatchHandler
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.end, self.until, self.creates, self.begun = "completed", 0, "made", True

    def keep(self, content: bytes) -> str:
        """Keep a file and return its id."""
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return name

    def begin(self, wish: dict[str, Any]) -> dict[str, Any]:
        """Make a batch."""
        assert (wish["endpoint"], wish["completion_window"]) == ("/v1/chat/completions", "24h")
        assert wish["input_file_id"] in self.files
        name = f"batch_{len(self.batches)}"
        self.batches[name] = {
            "id": name, "object": "batch", "created_at": 0, "status": STATES[0], "errors": None, "output_file_id": None,
            "error_file_id": None, **wish,
        }  # fmt: skip
        return self.batches[name]

    def look(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return a batch as it is, and let it go on."""
        seen = dict(batch)
        if batch["status"] == STATES[-1]:
            self.finish(batch)
        elif batch["status"] in STATES and self.begun:
            batch["status"] = STATES[STATES.index(batch["status"]) + 1]
        return seen

    def finish(self, batch: dict[str, Any]) -> None:
        """Answer the lines of a batch."""
        batch["status"] = self.end
        if self.end == "failed":
            batch["errors"] = {"object": "list", "data": [{"code": "bad", "message": "no such model", "line": 1}]}
            return
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        assert len({line["custom_id"] for line in lines}) == len(lines)
        written: dict[str, list[dict[str, Any]]] = {"output_file_id": [], "error_file_id": []}
        for i, line in enumerate(lines):
            assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
            row: dict[str, Any] = {
                "id": f"batch_req_{i}",
                "custom_id": line["custom_id"],
                "response": None,
                "error": None,
            }
            if self.end == "completed" or i < self.until:
                status, body = self.reply(len(self.sent), line["body"])
                self.sent.append(line["body"])
                row["response"] = {"status_code": status, "request_id": "x", "body": body}
            else:
                row["error"] = LATE
            answered = row["response"] is not None and row["response"]["status_code"] == 200
            written["output_file_id" if answered else "error_file_id"].insert(0, row)
        for name, rows in written.items():
            if rows:
                batch[name] = self.keep(b"".join(json.dumps(row).encode() + b"\n" for row in rows))


class BatchHandler(Handler):
    server: BatchServer

    def do_GET(self) -> None:
        kind, *rest = self.path.split("?")[0].removeprefix("/v1/").split("/")
        if kind == "batches" and rest and rest[0] in self.server.batches:
            self.answer(200, self.server.look(self.server.batches[rest[0]]))
        elif kind == "batches" and not rest:
            self.answer(200, {"object": "list", "data": [*self.server.batches.values()], "has_more": False})
        elif kind == "files" and rest[0] in self.server.files:
            self.answer(200, self.server.files[rest[0]])
        elif kind == "models":
            super().do_GET()
        else:
            self.answer(404, error(f"no {kind} {rest}"))

    def do_POST(self) -> None:
        if self.path == "/v1/chat/completions":
            super().do_POST()
            return
        content = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/v1/files":
            form = message_from_bytes(f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode() + content)
            parts = {
                part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
                for part in form.get_payload()
            }
            assert parts["purpose"] == b"batch"
            self.answer(200, {"id": self.server.keep(parts["file"]), "object": "file", "purpose": "batch"})
        elif self.server.creates in ("made", "lost"):
            batch = self.server.begin(json.loads(content))
            self.answer(200, batch if self.server.creates == "made" else None)
        else:
            self.answer(int(self.server.creates), error("no batches here"))
