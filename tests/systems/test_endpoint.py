"""The client alone, against an endpoint of our own; ``test_chat.py`` and the teacher's tests use it through their commands."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from mmprofile.errors import UserError
from mmprofile.systems.chat import ends_run
from mmprofile.systems.endpoint import Endpoint, ServerConfig, read_replies
from tests.support.chatserver import Server, closed_port, completion, error, serving

pytestmark = [pytest.mark.fast, pytest.mark.allow_hosts(["127.0.0.1"])]
QUESTION = [{"role": "user", "content": "who is ann?"}]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving("Stars: 4") as chat_server:
        yield chat_server


def endpoint(url: str, key_env: str | None = None, retries: int = 5) -> Endpoint:
    config = ServerConfig(url, key_env, parameters={}, concurrency=4, retries=retries, timeout=120)
    return Endpoint(config, "toy", "model.options", ends_run)


def test_nobody_listens() -> None:
    url = closed_port()
    with pytest.raises(UserError, match=rf"{url} cannot be reached .ConnectError: .*check model.options.url"):
        endpoint(url).check()
    with pytest.raises(UserError, match=r"cannot be reached .*; check model.options.url"):
        endpoint("nonsense").check()


def test_the_key_is_from_the_environment_and_nowhere_else(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="environment variable TOY_KEY with the key is not set"):
        endpoint(server.url, "TOY_KEY")
    monkeypatch.setenv("TOY_KEY", "s3cret")
    keyed = endpoint(server.url, "TOY_KEY")
    keyed.check()
    assert "s3cret" not in str(keyed.complete(QUESTION))
    assert server.keys == ["Bearer s3cret"]
    server.lists_models = 404
    keyed.check()  # a server need not list its models
    server.lists_models = 401
    with pytest.raises(UserError, match="status 401"):
        keyed.check()


def test_a_key_that_the_server_repeats_is_left_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-0123456789"
    monkeypatch.setenv("TOY_KEY", key)
    keyed = endpoint(server.url, "TOY_KEY", retries=0)
    replies = [
        (400, error(f"bad key {key}")),
        (400, key.encode()),
        (200, completion(f"your key is {key}")),
        (200, key.encode()),
    ]
    for reply in replies:
        server.reply = lambda n, body, reply=reply: reply
        said = str(keyed.complete(QUESTION))
        assert key not in said
        assert "[key]" in said
    server.reply = lambda n, body: (401, error(f"Incorrect API key provided: {key}"))
    with pytest.raises(UserError, match=r"Incorrect API key provided: \[key\]"):
        keyed.complete(QUESTION)
    monkeypatch.setenv("TOY_KEY", "EMPTY")
    server.reply = lambda n, body: (200, completion("EMPTY"))
    assert endpoint(server.url, "TOY_KEY").complete(QUESTION).text == "EMPTY"


def test_a_url_with_a_password_is_refused() -> None:
    config = ServerConfig("http://ann:s3cret@localhost/v1", None, parameters={}, concurrency=1, retries=0, timeout=1)
    with pytest.raises(UserError, match=r"teacher\.url has a password in it") as caught:
        config.check("teacher")
    assert "s3cret" not in str(caught.value)


def test_after_a_failure_that_ends_the_run_nothing_more_is_sent(server: Server) -> None:
    asked = endpoint(server.url, retries=0)
    server.reply = lambda n, body: (500, error("broken"))
    for _ in range(2):
        with pytest.raises(UserError, match=r"model toy: status 500 .broken.; the same command again"):
            asked.complete(QUESTION)
    assert len(server.sent) == 1


@pytest.mark.parametrize(
    "body", [None, 7, "text", [], {}, {"choices": []}, {"choices": [{"message": {"content": [1]}}]}]
)
def test_other_json_is_no_answer(body: Any) -> None:
    (reply,) = read_replies(json.dumps(body).encode())
    assert (reply.text, reply.model, reply.prompt_tokens) == ("", None, None)
    assert str(reply.error).startswith("a reply without an answer: ")


def test_tokens_that_are_no_numbers_are_not_counted() -> None:
    body = completion("yes") | {"usage": {"prompt_tokens": "many", "completion_tokens": 3}, "model": None}
    assert read_replies(json.dumps(body).encode()) == [("yes", None, None, None, 3, False)]


def test_several_answers_cost_what_the_server_counted_once() -> None:
    body = completion("yes")
    (choice,) = body["choices"]
    body["choices"] = [choice, {"message": {"content": None}}, choice | {"finish_reason": "length"}]
    replies = read_replies(json.dumps(body).encode())
    assert [reply.text for reply in replies] == ["yes", "", "yes"]
    assert [reply.cut for reply in replies] == [False, False, True]
    assert str(replies[1].error).startswith("a reply without an answer: ")
    assert [reply.prompt_tokens for reply in replies] == [100, 0, 0]
    assert [reply.completion_tokens for reply in replies] == [3, 2, 2]  # 7 in all


@pytest.mark.parametrize(
    "refusal",
    [
        error("this model does not take response_format"),
        {"error": {"message": "unsupported", "param": "response_format"}},
        {"detail": [{"loc": ["body", "response_format"], "msg": "extra fields not permitted"}]},
    ],
)
def test_an_option_that_a_server_refuses_is_named_with_its_switch(server: Server, refusal: Any) -> None:
    config = ServerConfig(server.url, None, parameters={}, concurrency=4, retries=0, timeout=120)
    asked = Endpoint(config, "toy", "model.options", ends_run, switches={"response_format": "guided=false"})
    server.reply = lambda n, body: (400, refusal)
    with pytest.raises(UserError, match=r"model toy: status 400 \(.*\); set guided=false"):
        asked.complete(QUESTION)
    assert len(server.sent) == 1


def test_after_an_answer_a_refusal_is_one_question_s(server: Server) -> None:
    config = ServerConfig(server.url, None, parameters={}, concurrency=4, retries=0, timeout=120)
    asked = Endpoint(config, "toy", "model.options", ends_run, switches={"n": "per_request=1"})
    assert asked.complete(QUESTION).text == "Stars: 4"
    server.reply = lambda n, body: (400, error("no answer about n"))
    assert asked.complete(QUESTION).error == "status 400 (no answer about n)"
