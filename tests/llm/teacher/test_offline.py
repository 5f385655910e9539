"""Questions by a provider's batch API, from a server of our own that behaves as the documented one."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmprofile.errors import UserError
from mmprofile.llm.teacher import offline
from tests.support.batchserver import BatchServer
from tests.support.chatserver import Reply, completion, error, serving
from tests.support.toyteacher import ask, journal, overrides, people, toy, who

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


def answer(name: str, sample: int) -> str:
    return json.dumps({"Gender": {"rationale": name, "value": "Female", "confidence": 10 + sample}})


def said(_: int, body: dict[str, Any]) -> Reply:
    reply = completion(None)
    (choice,) = reply["choices"]
    reply["choices"] = [
        choice | {"message": {"content": answer(who(body), body["seed"] + i)}} for i in range(body.get("n", 1))
    ]
    return 200, reply


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with serving(kind=BatchServer) as batch_server:
        batch_server.reply = said
        yield batch_server


def batched(server: BatchServer, *more: str) -> list[str]:
    return toy(server.url, "teacher.batch_api=true", "teacher.poll=0.01", *more)


def sent_file(file: Path) -> Path:
    return file.parent / "out" / "people" / "batches.json"


EVERYTHING = [answer(name, sample) for name in ("ann", "bob") for sample in range(3)]


def test_answers_come_in_any_order_and_are_recorded_as_if_asked_one_by_one(
    server: BatchServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = people(tmp_path, "ann", "bob")
    rows = ask(file, *batched(server, "teacher.prices={prompt: 1000, completion: 2000}"))
    assert [row["answer"] for row in rows] == EVERYTHING
    assert all((row["model"], row["prompt_tokens"], row["error"]) == ("toy-1", 100, None) for row in rows)
    printed = capsys.readouterr().out
    assert "batch batch_0, 6 requests" in printed
    assert "time: up to 24 hours" in printed
    assert "tokens: 600 read, 42 written; cost 0.68" in printed
    assert not sent_file(file).exists()
    bodies = [*server.sent]
    assert ask(file, *batched(server)) == rows
    assert len(server.batches) == 1
    ask(people(tmp_path, "ann", "bob"), *toy(server.url, f"out={tmp_path / 'other'}"))
    assert sorted(map(str, server.sent[6:])) == sorted(map(str, bodies))  # the same requests, one by one


def test_the_samples_of_a_person_may_be_one_line(server: BatchServer, tmp_path: Path) -> None:
    rows = ask(people(tmp_path, "ann", "bob"), *batched(server, "teacher.per_request=3"))
    assert [row["answer"] for row in rows] == EVERYTHING
    assert sorted((who(body), body["n"]) for body in server.sent) == [("ann", 3), ("bob", 3)]
    assert sum(row["prompt_tokens"] for row in rows) == 200


def test_fewer_answers_than_asked_for_are_asked_again(server: BatchServer, tmp_path: Path) -> None:
    server.reply = lambda n, body: said(n, body | {"n": 2})
    file = people(tmp_path, "ann")
    options = batched(server, "teacher.per_request=3")
    with pytest.raises(SystemExit):
        ask(file, *options)
    assert [bool(row["error"]) for row in journal(file)] == [False, False, True]
    assert [row["answer"] for row in ask(file, *options)] == EVERYTHING[:3]
    assert server.sent[-1]["seed"] == 2
    assert "n" not in server.sent[-1]


def test_files_are_no_larger_than_the_server_takes(
    server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline, "MOST_REQUESTS", 4)
    assert [row["answer"] for row in ask(people(tmp_path, "ann", "bob"), *batched(server))] == EVERYTHING
    assert [server.files[batch["input_file_id"]].count(b"\n") for batch in server.batches.values()] == [4, 2]
    size = max(map(len, server.files["file-0"].splitlines())) + 1
    monkeypatch.setattr(offline, "MOST_BYTES", 2 * size + 10)  # other seeds have more digits
    ask(people(tmp_path, "ann", "bob"), *batched(server, "seed=1"))
    later = [server.files[batch["input_file_id"]] for batch in [*server.batches.values()][2:]]
    assert [content.count(b"\n") for content in later] == [2, 2, 2]
    assert all(len(content) <= 2 * size + 10 for content in later)


def test_a_killed_command_waits_on_for_the_same_batch(server: BatchServer, tmp_path: Path) -> None:
    server.begun = False
    file = people(tmp_path, "ann", "bob")
    command = [sys.executable, "-m", "mmprofile.llm.teacher", *overrides(file, *batched(server))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (sent_file(file).exists() and json.loads(sent_file(file).read_text())[0]["batch"]):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    with pytest.raises(
        UserError, match=r"batches.json: 6 of the answers are on their way: fetch them with teacher.batch_api"
    ):
        ask(file, *toy(server.url))
    server.begun = True
    # what is paid is not counted against the budget
    rows = ask(file, *batched(server, "teacher.prices={prompt: 1, completion: 1}", "teacher.budget=0"))
    assert [row["answer"] for row in rows] == EVERYTHING
    assert len(server.batches) == len(server.files) - 1 == 1


def test_a_batch_whose_id_was_lost_on_the_way_is_found_again(server: BatchServer, tmp_path: Path) -> None:
    server.creates, file = "lost", people(tmp_path, "ann", "bob")
    with pytest.raises(UserError, match=f"{server.url} cannot be reached"):
        ask(file, *batched(server))
    server.creates = "made"
    assert [row["answer"] for row in ask(file, *batched(server))] == EVERYTHING
    assert len(server.batches) == 1


def test_a_file_that_nobody_began_to_answer_is_answered(server: BatchServer, tmp_path: Path) -> None:
    server.creates, file = "500", people(tmp_path, "ann", "bob")
    with pytest.raises(UserError, match=r"status 500 \(no batches here\); the same command again"):
        ask(file, *batched(server))
    server.creates = "made"
    assert [row["answer"] for row in ask(file, *batched(server))] == EVERYTHING
    assert len(server.files) == 2  # the questions were sent once


@pytest.mark.parametrize(
    ("end", "says"),
    [
        ("expired", "batch_expired (This request could not be executed"),
        ("cancelled", "batch_expired (This request could not be executed"),
        ("failed", "batch batch_0 failed without an answer (no such model)"),
    ],
)
def test_what_a_batch_does_not_answer_is_asked_again(server: BatchServer, tmp_path: Path, end: str, says: str) -> None:
    server.end, server.until, file = end, 2, people(tmp_path, "ann", "bob")
    with pytest.raises(SystemExit) as exited:
        ask(file, *batched(server))
    assert exited.value.code == 1
    before = [row for row in journal(file) if row["error"] is None]
    assert len(before) == (0 if end == "failed" else 2)
    assert all(row["error"].startswith(says) for row in journal(file) if row["error"] is not None)
    assert not sent_file(file).exists()
    server.end = "completed"
    rows = ask(file, *batched(server))
    assert [row["answer"] for row in rows] == EVERYTHING
    assert [row for row in rows if row in before] == before
    assert server.files["file-0"].count(b"\n") == 6
    assert Counter((who(body), body["seed"]) for body in server.sent).most_common(1)[0][1] == 1


def test_lines_that_fail_are_errors_of_their_questions(
    server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_KEY", "sk-0123456789")

    def reply(n: int, body: dict[str, Any]) -> Reply:
        cut = completion(answer("bob", 1)[:-9])
        cut["choices"][0]["finish_reason"] = "length"
        bad = {0: (400, error("refused sk-0123456789")), 1: (200, cut), 2: (200, ["no completion"])}
        return bad[body["seed"]] if who(body) == "bob" else said(n, body)

    server.reply, file = reply, people(tmp_path, "ann", "bob")
    with pytest.raises(SystemExit):
        ask(file, *batched(server, "teacher.key_env=TOY_KEY"))
    errors = [row["error"] for row in journal(file) if row["user_id"] == "bob"]
    assert errors[0] == "status 400 (refused [key])"
    assert errors[1].startswith("cut off after 7 tokens")
    assert errors[2].startswith("a reply without an answer")
    assert [row["answer"] for row in journal(file)][:3] == EVERYTHING[:3]


def test_spoilt_lines_are_missing_answers(server: BatchServer, tmp_path: Path) -> None:
    server.begun, file = False, people(tmp_path, "ann")
    finish = server.finish

    def spoil(batch: dict[str, Any]) -> None:
        finish(batch)
        lines = server.files[batch["output_file_id"]].splitlines()
        odd = [b"", b"\xff{", b"[1]", b'{"custom_id": 7}', b'{"custom_id": "x", "response": {"status_code": 200}}']
        server.files[batch["output_file_id"]] = b"\n".join([*odd, *lines[1:]])

    server.finish, server.begun = spoil, True
    with pytest.raises(SystemExit):
        ask(file, *batched(server))
    rows = journal(file)
    assert [row["error"] for row in rows] == [None, None, "batch batch_0 completed without an answer"]


def test_a_server_without_batches_is_one_line_with_the_switch(server: BatchServer, tmp_path: Path) -> None:
    server.creates, file = "404", people(tmp_path, "ann")
    with pytest.raises(
        UserError, match=r"status 404 \(no batches here\); it has no batch API: set teacher.batch_api=false"
    ):
        ask(file, *batched(server))
    assert not sent_file(file).exists()
    with serving(answer("ann", 0)) as plain:
        with pytest.raises(UserError, match=r"it has no batch API: set teacher.batch_api=false"):
            ask(file, *batched(plain))
        assert not sent_file(file).exists()
        assert len(ask(file, *toy(plain.url))) == 3


def test_a_batch_that_the_server_has_lost_is_one_line(server: BatchServer, tmp_path: Path) -> None:
    file = people(tmp_path, "ann")
    server.creates = "lost"
    with pytest.raises(UserError):
        ask(file, *batched(server, "teacher.retries=0"))
    row = json.loads(sent_file(file).read_text())[0]
    sent_file(file).write_text(json.dumps([row | {"batch": "batch_9"}]))
    with pytest.raises(
        UserError, match=r"no batches .'batch_9'.*; if it is lost there, delete .*batches.json to ask, and pay, again"
    ):
        ask(file, *batched(server))
    sent_file(file).write_text("[7]")
    with pytest.raises(UserError, match=r"batches.json: no list of batches .*delete it to ask, and pay, again"):
        ask(file, *batched(server))


def test_a_batch_of_other_questions_is_left_to_its_command(server: BatchServer, tmp_path: Path) -> None:
    server.creates, file = "lost", people(tmp_path, "ann")
    with pytest.raises(UserError):
        ask(file, *batched(server))
    server.creates = "made"
    ask(file, *batched(server, "seed=1"))
    assert len(json.loads(sent_file(file).read_text())) == 1
    assert sorted(row["seed"] for row in ask(file, *batched(server))) == [0, 1, 2, 1000, 1001, 1002]
    assert not sent_file(file).exists()
    assert len(server.batches) == 2
