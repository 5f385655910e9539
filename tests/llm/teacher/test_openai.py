"""The command against an endpoint of our own that answers well, badly, late and not at all, and against a tiny model's."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from mmprofile.config.command import guarded
from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.llm.teacher.run import make_teacher
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema
from tests.support.chatserver import Reply, Server, closed_port, completion, error, serving
from tests.support.toyteacher import TEMPLATE, ask, journal, overrides, people, save_qwen3, toy, who

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


def answer(confidence: Any = 80) -> str:
    """What says something of one attribute."""
    return json.dumps({"Gender": {"rationale": "she", "value": "Female", "confidence": confidence}})


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(answer()) as chat_server:
        yield chat_server


def errors(rows: list[dict[str, Any]]) -> list[str]:
    return [row["error"] for row in rows if row["error"] is not None]


def test_a_question_is_sent_as_it_was_set(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOY_KEY", "s3cret")
    file = people(tmp_path, "ann", "bob")
    options = toy(server.url, "teacher.key_env=TOY_KEY", "teacher.prices={prompt: 1000, completion: 2000}")
    rows = ask(file, *options, "seed=5", "+teacher.parameters.top_p=null")
    assert [(row["user_id"], row["sample"], row["seed"]) for row in rows] == [
        (user, sample, 5000 + sample) for user in ("ann", "bob") for sample in range(3)
    ]
    assert {(row["answer"], row["model"], row["prompt_tokens"], row["completion_tokens"]) for row in rows} == {
        (answer(), "toy-1", 100, 7)
    }
    assert {(*sorted(body), body["model"], body["temperature"], body["max_tokens"]) for body in server.sent} == {
        ("max_tokens", "messages", "model", "seed", "temperature", "toy", 1.0, 1024)
    }
    assert Counter((who(body), body["seed"]) for body in server.sent) == Counter(
        (row["user_id"], row["seed"]) for row in rows
    )
    assert set(server.keys) == {"Bearer s3cret"}
    assert all("s3cret" not in path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file())
    # 600 tokens at 1,000 and 42 at 2,000 a million.
    assert "tokens: 600 read, 42 written; cost 0.68 by teacher.prices" in capsys.readouterr().out
    ask(file, *options, "seed=5", "+teacher.parameters.top_p=null")
    assert len(server.sent) == 6
    ask(file, *options, "seed=5", "teacher.seeds=false")
    assert [body for body in server.sent[6:] if "seed" in body] == []
    assert len(server.sent) == 12


def late() -> Reply:
    time.sleep(2)
    return 200, completion(answer())


SIX = Schema.from_yaml(conf_dir() / "profile" / "text_only.yaml").names


BAD: dict[str, tuple[Callable[[], Reply], str]] = {
    "busy": (lambda: (429, error("slow down")), r"status 429 \(slow down\)"),
    "broken": (lambda: (500, b"<html>oops"), r"status 500 \(<html>oops\)"),
    "filtered": (lambda: (400, error("content filter")), r"status 400 \(content filter\)"),
    "long": (lambda: (422, {"detail": "too long"}), r"status 422 \(.*too long.*\)"),
    "hung up": (lambda: (200, None), r"no answer \(RemoteProtocolError: "),
    "late": (late, r"no answer \(ReadTimeout: "),
    "half": (lambda: (200, json.dumps(completion(answer())).encode()[:60]), r"a reply without an answer: '\{\"id\""),
    "garbage": (lambda: (200, b"\xff\xfe\x00"), "a reply without an answer: "),
    "empty": (lambda: (200, completion(None)), "a reply without an answer: "),
    "blank": (lambda: (200, completion("")), "a reply without an answer: ''"),
    "other": (lambda: (200, {"choices": [7], "usage": "much"}), "a reply without an answer: "),
}
ODD = {
    "prose": "I would rather not say.",
    "cut": answer()[:-9],
    "word": answer("high"),
    "high": answer(200),
}


def test_everybody_is_answered_or_listed_as_failed(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def reply(_: int, body: dict[str, Any]) -> Reply:
        name = who(body)
        return BAD[name][0]() if name in BAD else (200, completion(ODD.get(name, answer())))

    server.reply = reply
    file = people(tmp_path, "ann", *BAD, *ODD)
    options = toy(server.url, "teacher.retries=1", "teacher.timeout=0.5", "teacher.concurrency=4")
    with pytest.raises(SystemExit) as exited:
        ask(file, *options)
    assert exited.value.code == 1
    rows = journal(file)
    assert Counter(row["user_id"] for row in rows) == dict.fromkeys(["ann", *BAD, *ODD], 3)
    for row in rows:
        if row["user_id"] in BAD:
            assert re.match(BAD[row["user_id"]][1], row["error"])
            assert row["answer"] == ""
        else:
            assert (row["error"], row["answer"]) == (None, ODD.get(row["user_id"], answer()))
    printed = capsys.readouterr().out
    assert f"{3 * (1 + len(BAD) + len(ODD))} answers of toy about {1 + len(BAD) + len(ODD)} people" in printed
    assert "12 answers not understood, 15 with a fault" in printed  # ann's says nothing of five attributes
    assert (
        f"{3 * len(BAD)} questions about {len(BAD)} people failed, the journal has their errors; the same command asks "
        "them again:\n    busy, sample 0: status 429" in printed
    )
    tries = Counter(map(who, server.sent))
    assert {tries[name] for name in ("busy", "broken", "late", "hung up")} == {6}
    assert {tries[name] for name in tries if name not in ("busy", "broken", "late", "hung up")} == {3}
    server.reply, before = lambda n, body: (200, completion(answer())), len(server.sent)
    assert errors(ask(file, *options)) == []
    assert Counter(map(who, server.sent[before:])) == dict.fromkeys(BAD, 3)


@pytest.mark.parametrize("status", [429, 503])
def test_what_passes_is_tried_again_when_the_server_says_so(server: Server, tmp_path: Path, status: int) -> None:
    server.headers = {"retry-after": "1"}
    server.reply = lambda n, body: (status, error("busy")) if n < 1 else (200, completion(answer()))
    rows = ask(people(tmp_path, "ann"), *toy(server.url), "samples=1")
    assert errors(rows) == []
    assert len(server.times) == 2
    assert server.times[1] - server.times[0] >= 1


def test_no_more_requests_a_minute_than_allowed_retries_among_them(server: Server, tmp_path: Path) -> None:
    server.reply = lambda n, body: (429, error("busy")) if n % 3 == 1 else (200, completion(answer()))
    start = time.monotonic()
    rows = ask(people(tmp_path, "ann", "bob", "cy"), *toy(server.url, "teacher.per_minute=600"))
    assert errors(rows) == []
    assert len(server.sent) > 12
    # The n-th request goes n gaps after the first at the earliest; the check that somebody listens is one, too.
    assert all(came - start >= 0.1 * n for n, came in enumerate(server.times, 1))


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ((401, error("wrong key")), "status 401 (wrong key)"),
        ((402, error("no money")), "status 402 (no money)"),
        ((403, error("not you")), "status 403 (not you)"),
        ((404, error("no model toy")), "model toy: status 404 (no model toy)"),
        ((429, error("pay first", "insufficient_quota")), "status 429 (pay first)"),
    ],
)
def test_what_no_question_escapes_ends_the_run_with_one_line(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], reply: Reply, says: str
) -> None:
    server.reply = lambda n, body: reply if n >= 4 else (200, completion(answer()))
    file = people(tmp_path, *(f"user {i:03}" for i in range(100)))
    with pytest.raises(SystemExit) as exited:
        guarded(lambda: ask(file, *toy(server.url, "teacher.retries=0", "teacher.concurrency=2")))
    assert exited.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {server.url}: ")
    assert says in printed.err
    assert printed.err.count("\n") == 1
    assert len(server.sent) <= 6
    assert len(journal(file)) == 4
    server.reply, before = lambda n, body: (200, completion(answer())), len(server.sent)
    assert len(ask(file, *toy(server.url))) == 300
    assert len(server.sent) - before == 296


def test_refusals_alone_end_the_run(server: Server, tmp_path: Path) -> None:
    """A parameter that the server does not know, say: each question would be refused, one after the other."""
    server.reply = lambda n, body: (400, error("unknown parameter toy"))
    file = people(tmp_path, *(f"user {i:03}" for i in range(100)))
    with pytest.raises(UserError, match=r"model toy: status 400 \(unknown parameter toy\); .* nothing but refusals"):
        ask(file, *toy(server.url, "teacher.concurrency=2"))
    assert 10 <= len(server.sent) <= 12
    assert len(errors(journal(file))) >= 9


def test_an_answer_that_is_cut_off_is_asked_for_again(server: Server, tmp_path: Path) -> None:
    """Unless all of it is there: a model may babble behind its answer."""

    def reply(n: int, body: dict[str, Any]) -> Reply:
        whole = json.dumps({name: {"rationale": "", "value": "Unknown", "confidence": 50} for name in SIX})
        cut = completion(f"{whole} and so on" if who(body) == "bob" else whole[:-9])
        cut["choices"][0]["finish_reason"] = "length"
        return 200, cut

    server.reply, file = reply, people(tmp_path, "ann", "bob")
    with pytest.raises(SystemExit):
        ask(file, *toy(server.url), "samples=1")
    rows = {row["user_id"]: row["error"] for row in journal(file)}
    assert rows["ann"].startswith("cut off after 7 tokens: allow more in teacher.parameters")
    assert rows["bob"] is None
    server.reply = lambda n, body: (200, completion(answer()))
    assert errors(ask(file, *toy(server.url), "samples=1")) == []


def test_a_server_that_dies_ends_the_run(tmp_path: Path) -> None:
    with serving() as dying:

        def reply(n: int, body: dict[str, Any]) -> Reply:
            if n == 4:
                threading.Thread(target=dying.die).start()
            return 200, completion(answer())

        dying.reply, start = reply, time.monotonic()
        file = people(tmp_path, *(f"user {i:03}" for i in range(200)))
        with pytest.raises(UserError, match=rf"{dying.url} cannot be reached .ConnectError: .*check teacher.url"):
            ask(file, *toy(dying.url, "teacher.retries=1", "teacher.concurrency=4"))
        assert time.monotonic() - start < 30
        rows = journal(file)
        assert errors(rows) == []
        assert len(rows) == len(dying.sent) >= 5


def test_nobody_waits_for_a_turn_when_the_run_has_ended(server: Server, tmp_path: Path) -> None:
    server.reply, start = lambda n, body: (401, error("wrong key")), time.monotonic()
    options = toy(server.url, "teacher.per_minute=60", "teacher.concurrency=8", "teacher.retries=1")
    with pytest.raises(UserError, match="wrong key"):
        ask(people(tmp_path, *"abcdefgh"), *options)
    assert len(server.sent) <= 2
    assert time.monotonic() - start < 6  # 24 questions would take their turns for as many seconds


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "cannot be reached (ConnectError: "),
        (["teacher.url=nonsense"], "nonsense cannot be reached ("),
        (
            ["teacher.key_env=NO_SUCH_VARIABLE"],
            "the environment variable NO_SUCH_VARIABLE with the key is not set; set it, or teacher.key_env=null",
        ),
        (["teacher.concurrency=0"], "teacher.concurrency=0: give 1 or more"),
        (["teacher.concurrency=many"], "teacher.concurrency: Value 'many'"),
        (["teacher.retries=-1"], "teacher.retries=-1: give 0 or more"),
        (["teacher.timeout=0"], "teacher.timeout=0.0: give more than 0"),
        (["teacher.per_minute=0"], "teacher.per_minute=0.0: give more than 0"),
        (["teacher.prices.prompt=cheap"], "teacher.prices.prompt: Value 'cheap'"),
        (["teacher.prices.prompt=-1"], "teacher.prices.prompt=-1.0: give 0 or more"),
        (["+teacher.prices.input=1"], "teacher.prices has no 'input': give prompt and completion"),
        (["teacher.per_request=0"], "teacher.per_request=0: give 1 to 128"),
        (["teacher.per_request=129"], "teacher.per_request=129: give 1 to 128"),
        (["+teacher.parameters.n=3"], "teacher.parameters.n: give teacher.per_request"),
    ],
)
def test_what_is_wrong_from_the_start_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    file = people(tmp_path, "ann")
    with pytest.raises(SystemExit) as exited:
        guarded(lambda: ask(file, *toy(closed_port(), *options)))
    assert exited.value.code == 2
    printed = capsys.readouterr().err
    assert says in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_key_that_is_refused_is_known_before_anything_is_asked(server: Server, tmp_path: Path) -> None:
    server.lists_models = 401
    with pytest.raises(UserError, match="status 401"):
        ask(people(tmp_path, "ann"), *toy(server.url))
    assert server.sent == []
    server.lists_models = 404  # not every server lists its models
    assert len(ask(people(tmp_path, "ann"), *toy(server.url))) == 3


def test_a_killed_run_loses_no_answer_and_asks_for_none_twice(server: Server, tmp_path: Path) -> None:
    enough, gone = threading.Event(), threading.Event()

    def slow(n: int, body: dict[str, Any]) -> Reply:
        if n >= 7:
            enough.set()
            gone.wait(60)
        return 200, completion(answer(n))

    server.reply = slow
    file = people(tmp_path, *(f"user {i}" for i in range(5)))
    options = toy(server.url, "teacher.concurrency=1")
    command = [sys.executable, "-m", "mmprofile.llm.teacher", *overrides(file, *options)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    assert enough.wait(300)
    process.kill()
    process.wait()
    gone.set()
    before = journal(file)
    assert [row["answer"] for row in before] == [answer(n) for n in range(7)]
    server.reply = lambda n, body: (200, completion(answer()))
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "15 answers of toy about 5 people (3 each), 7 of them from before" in done.stdout
    rows = journal(file)
    assert len(rows) == 15
    assert [row for row in rows if row in before] == before
    asked = Counter((who(body), body["seed"]) for body in server.sent)
    assert len(asked) == 15
    assert [question for question, times in asked.items() if times > 1] == [
        ("user 2", 1)
    ]  # on its way when it was killed


OLD_JOURNAL = (
    b'{"user_id": "bob", "sample": 0, "request": "6bca82b56b3f0d9ca559b84e1430d7a8", '
    b'"prompt": "66c0745df8485f8279c5c9cb613ce9d6", '
    b'"model": "toy", "seed": 0, "time": "2026-11-28T23:26:42+00:00", "seconds": 0.021, '
    b'"answer": "", "prompt_tokens": null, "completion_tokens": null, '
    b'"error": "status 400 (content filter)", "origin": "44ccf4bea7bd98c53134781b30c71461"}\n'
    b'{"user_id": "ann", "sample": 0, "request": "96151fa7aa8f1d14b40d654fd48bf055", '
    b'"prompt": "d6fb7cf6f79b5e931e1225a07213ef68", '
    b'"model": "toy-1", "seed": 0, "time": "2026-11-28T23:26:42+00:00", "seconds": 0.025, '
    b'"answer": "'
    b'{\\"Gender\\": {\\"rationale\\": \\"sh\xc3\xa9\xe2\x80\xa8\\", \\"value\\": \\"Female\\", \\"confidence\\": 80}}", '
    b'"prompt_tokens": 100, "completion_tokens": 7, "error": null, "origin": "44ccf4bea7bd98c53134781b30c71461"}\n'
)


def test_a_journal_of_an_earlier_version_is_used(server: Server, tmp_path: Path) -> None:
    file, path = people(tmp_path, "ann", "bob"), tmp_path / "out" / "people" / "answers.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(OLD_JOURNAL)
    settings = ["teacher.parameters={temperature: 1, max_tokens: 9}", "prompt.system=label", "prompt.user='{person}'"]
    ann, bob = ask(file, *toy(server.url, *settings), "samples=1")
    assert [who(body) for body in server.sent] == ["bob"]  # he was refused
    assert (ann["model"], ann["time"], ann["seconds"]) == ("toy-1", "2026-11-28T23:26:42+00:00", 0.025)
    assert (bob["answer"], bob["error"], bob["request"]) == (answer(), None, "6bca82b56b3f0d9ca559b84e1430d7a8")
    assert path.read_bytes().startswith(OLD_JOURNAL)


def test_the_extra_that_is_needed_is_named(monkeypatch: pytest.MonkeyPatch, schema: Schema) -> None:
    for module in ("mmprofile.llm.teacher.openai", "mmprofile.systems.endpoint"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"teacher=openai needs the package openai: pip install 'mmprofile\[llm\]'"):
        make_teacher(load_config("llm", toy("http://127.0.0.1:1/v1")).teacher, schema)


def test_a_model_that_writes_nonsense_is_counted(
    server: Server,
    tmp_path: Path,
    make_tokenizer: Callable[..., PreTrainedTokenizerFast],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = save_qwen3(
        tmp_path / "toy", make_tokenizer(["< > system user assistant a nurse { } : Gender Female"]), TEMPLATE
    )
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)

    def reply(_: int, body: dict[str, Any]) -> Reply:
        prompt = tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True, return_tensors="pt")
        with server.lock:
            torch.manual_seed(body["seed"])
            written = model.generate(
                **prompt, do_sample=True, temperature=body["temperature"], max_new_tokens=body["max_tokens"]
            )
        length = prompt["input_ids"].shape[1]
        text = tokenizer.decode(written[0, length:], skip_special_tokens=True)
        usage = {"prompt_tokens": length, "completion_tokens": written.shape[1] - length}
        return 200, completion(text) | {"usage": usage}

    server.reply = reply
    file = people(tmp_path, "a nurse", "a school")
    rows = ask(file, *toy(server.url, "teacher.parameters.max_tokens=16"))
    assert len({row["answer"] for row in rows}) > 1
    assert all(row["prompt_tokens"] > 100 and row["completion_tokens"] <= 16 for row in rows)
    assert "6 answers not understood, 6 with a fault" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "out")
    again = ask(file, *toy(server.url, "teacher.parameters.max_tokens=16"))
    assert [row["answer"] for row in again] == [row["answer"] for row in rows]  # the server takes the seeds
