"""A hub of our own on loopback: it serves folders as repositories, and takes uploads, by the part of the API that this needs."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants, file_download

from mmprofile.model import hub as client

TOKEN = "hf_good"


@dataclass
class Repository:
    """Revision -> its folder; each also has a commit. Files of a gated one need :data:`TOKEN`."""

    revisions: dict[str, Path] = field(default_factory=dict)
    gated: bool = False

    def find(self, revision: str) -> tuple[str, Path] | None:
        """Return the commit and folder of a branch, tag or commit."""
        for name, folder in self.revisions.items():
            if revision in (name, commit_of(folder)):
                return commit_of(folder), folder
        return None


def commit_of(folder: Path) -> str:
    """Return a hash of a folder's files, as long as a commit's."""
    return hashlib.sha1(b"".join(path.name.encode() + path.read_bytes() for path in files_of(folder))).hexdigest()


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


class Hub(ThreadingHTTPServer):
    """A server of repositories.

    Attributes:
        repositories: by hub id.
        asked: method and path of each request.
        answer: status and body that every request gets instead; None: what it asks for.
        store: where what is uploaded lies; None: nothing is taken.
        private: whether a repository was made private, by hub id.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.asked: list[str] = []
        self.answer: tuple[int, bytes] | None = None
        self.store: Path | None = None
        self.private: dict[str, bool] = {}

    def add(self, name: str, folder: Path, revision: str = "main", gated: bool = False) -> str:
        """Publish a folder as a revision of a repository, and return its commit."""
        repository = self.repositories.setdefault(name, Repository())
        repository.revisions[revision] = folder
        repository.gated = gated
        return commit_of(folder)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def die(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.server.asked.append(f"{self.command} {url.path}")
        if self.server.answer is not None:
            return self.send(*self.server.answer)
        api, _, path = url.path.partition("/api/models/")
        parts = [unquote(part) for part in (path or api.removeprefix("/")).split("/")]
        name, rest = "/".join(parts[:2]), parts[2:]
        repository = self.server.repositories.get(name)
        if repository is None:
            return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        found = repository.find(rest[1] if rest else "main")
        if found is None:
            return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        commit, folder = found
        if not path:
            return self.send_file(repository, commit, folder / "/".join(rest[2:]))
        files = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files_of(folder)}
        if rest[:1] == ["tree"]:
            tree = [{"type": "file", "path": name, "size": size, "oid": name} for name, size in files.items()]
            return self.send(200, json.dumps(tree).encode())
        sizes = "blobs" in parse_qs(url.query)
        siblings = [{"rfilename": name} | ({"size": size} if sizes else {}) for name, size in files.items()]
        return self.send(200, json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode())

    def do_POST(self) -> None:
        """Make a repository, or take the files of a commit; all files come inline, as small ones do."""
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"POST {path}")
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.server.answer is not None:
            return self.send(*self.server.answer)
        if self.server.store is None or self.headers.get("authorization") != f"Bearer {TOKEN}":
            return self.send(401, b"{}")
        if path == "/api/validate-yaml":
            return self.send(200, json.dumps({"errors": [], "warnings": []}).encode())
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.server.private[name] = asked.get("private") or asked.get("visibility") == "private"
            self.server.add(name, self.server.store / name)
            return self.send(200, json.dumps({"url": f"{self.server.url}/{name}"}).encode())
        name, _, action = path.removeprefix("/api/models/").rpartition("/")[0].rpartition("/")
        if action == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.send(200, json.dumps({"files": files}).encode())
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                file = self.server.store / name / line["value"]["path"]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(base64.b64decode(line["value"]["content"]))
        commit = commit_of(self.server.store / name)
        answer = {"commitUrl": f"{self.server.url}/{name}/commit/{commit}", "commitOid": commit}
        return self.send(200, json.dumps(answer).encode())

    def send_file(self, repository: Repository, commit: str, file: Path) -> None:
        """Answer with a file."""
        token = self.headers.get("authorization")
        if repository.gated and token != f"Bearer {TOKEN}":
            return self.send(403 if token else 401, b"", {"X-Error-Code": "GatedRepo", "X-Repo-Commit": commit})
        if not file.is_file():
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        content = file.read_bytes()
        etag = hashlib.sha1(content).hexdigest()
        return self.send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit})

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def connect(patch: pytest.MonkeyPatch, endpoint: str, cache: Path, offline: bool = False) -> None:
    """Make the hub's client of this process use an endpoint and a cache, as HF_ENDPOINT and HF_HUB_CACHE do at its start."""
    patch.setattr(constants, "ENDPOINT", endpoint)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_HUB_OFFLINE", offline)
    patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, file_download):
        patch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    patch.setattr(client, "_silent", {})
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_ETAG_TIMEOUT"):
        patch.delenv(name, raising=False)


@contextmanager
def serving() -> Iterator[Hub]:
    """Run a hub."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.die()
        thread.join()
