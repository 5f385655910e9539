"""Several answers in one request, and answers in the form of a JSON schema, from an endpoint of our own."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mmprofile.errors import UserError
from tests.support.chatserver import Reply, Server, completion, error, serving
from tests.support.toyteacher import ask, journal, people, toy, who

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as chat_server:
        chat_server.reply = choices()
        yield chat_server


def answer(number: int) -> str:
    return json.dumps({"Gender": {"rationale": "she", "value": "Female", "confidence": number}})


def choices(most: int = 99, spoil: Callable[[int, dict[str, Any]], None] = lambda i, choice: None) -> Any:
    """Replies of a server whose answers have the numbers of their samples, ``most`` of them at most."""

    def reply(_: int, body: dict[str, Any]) -> Reply:
        made = completion(None)
        numbers = range(body.get("seed", 0), body.get("seed", 0) + min(body.get("n", 1), most))
        made["choices"] = [
            {"index": i, "finish_reason": "stop", "message": {"role": "assistant", "content": answer(number)}}
            for i, number in enumerate(numbers)
        ]
        for number, choice in zip(numbers, made["choices"], strict=True):
            spoil(number, choice)
        return 200, made

    return reply


def test_the_samples_of_a_person_are_one_request_and_are_recorded_as_if_they_were_several(
    server: Server, tmp_path: Path
) -> None:
    file = people(tmp_path, "ann", "bob")
    rows = ask(file, *toy(server.url, "teacher.per_request=2"))
    assert sorted((who(body), body["seed"], body.get("n", 1)) for body in server.sent) == [
        ("ann", 0, 2), ("ann", 2, 1), ("bob", 0, 2), ("bob", 2, 1),
    ]  # fmt: skip
    assert [(row["user_id"], row["sample"], row["answer"]) for row in rows] == [
        (user, sample, answer(sample)) for user in ("ann", "bob") for sample in range(3)
    ]
    assert sum(row["prompt_tokens"] for row in rows) == 4 * 100
    assert sum(row["completion_tokens"] for row in rows) == 4 * 7
    requests = len(server.sent)
    assert ask(file, *toy(server.url)) == rows  # they are the same questions: nothing is asked again
    assert len(server.sent) == requests


def test_a_server_that_gives_fewer_answers_is_asked_for_the_rest(server: Server, tmp_path: Path) -> None:
    server.reply = choices(most=2)
    rows = ask(people(tmp_path, "ann"), *toy(server.url, "teacher.per_request=5"), "samples=5")
    assert [(body["seed"], body.get("n", 1)) for body in server.sent] == [(0, 5), (2, 3), (4, 1)]
    assert [row["answer"] for row in rows] == [answer(sample) for sample in range(5)]
    assert [row["prompt_tokens"] for row in rows] == [100, 0, 100, 0, 100]


def test_a_server_that_gives_more_answers_is_not_taken_at_its_word(server: Server, tmp_path: Path) -> None:
    server.reply = lambda n, body: choices()(n, body | {"n": 9})
    rows = ask(people(tmp_path, "ann"), *toy(server.url, "teacher.per_request=3"))
    assert [row["answer"] for row in rows] == [answer(sample) for sample in range(3)]
    assert len(server.sent) == 1


def test_what_fails_of_a_reply_is_asked_again_and_nothing_else(server: Server, tmp_path: Path) -> None:
    def spoil(number: int, choice: dict[str, Any]) -> None:
        if number == 1:
            choice["message"]["content"] = None
        if number == 2:
            choice["finish_reason"] = "length"
            choice["message"]["content"] = answer(2)[:-5]

    server.reply, file = choices(spoil=spoil), people(tmp_path, "ann")
    options = [*toy(server.url, "teacher.per_request=4"), "samples=4"]
    with pytest.raises(SystemExit):
        ask(file, *options)
    before = journal(file)
    assert [(row["error"] or "")[:23] for row in before] == [
        "",
        "a reply without an answ",
        "cut off after 2 tokens:",
        "",
    ]
    server.reply = choices()
    rows = ask(file, *options)
    assert [row["answer"] for row in rows] == [answer(0), answer(1), answer(2), answer(3)]
    assert [(body["seed"], body["n"]) for body in server.sent] == [(0, 4), (1, 2)]
    assert (rows[0], rows[3]) == (before[0], before[3])


def test_a_request_that_fails_is_sent_once_for_all_of_its_samples(server: Server, tmp_path: Path) -> None:
    server.reply = lambda n, body: (500, error("broken")) if who(body) == "bob" else choices()(n, body)
    file = people(tmp_path, "ann", "bob")
    with pytest.raises(SystemExit):
        ask(file, *toy(server.url, "teacher.per_request=3", "teacher.retries=0"))
    assert Counter(map(who, server.sent)) == {"ann": 1, "bob": 1}
    assert [row["error"] for row in journal(file)] == [None] * 3 + ["status 500 (broken)"] * 3


SIX = {"rationale": "", "value": "Unknown", "confidence": 50}


def test_guided_answers_are_asked_for_with_the_schema_of_what_is_read(server: Server, tmp_path: Path) -> None:
    file = people(tmp_path, "ann")
    ask(file, *toy(server.url))
    assert all("response_format" not in body for body in server.sent)
    ask(file, *toy(server.url, "teacher.guided=true"))
    assert len(server.sent) == 6  # another form is another question
    wanted = server.sent[-1]["response_format"]
    assert (wanted["type"], wanted["json_schema"]["strict"]) == ("json_schema", True)
    checked = jsonschema.Draft202012Validator(wanted["json_schema"]["schema"])
    names = [*wanted["json_schema"]["schema"]["properties"]]
    assert names[:2] == ["Gender", "Age"]
    checked.validate(dict.fromkeys(names, SIX))
    assert not checked.is_valid(dict.fromkeys(names, SIX | {"value": "Sailor"}))


@pytest.mark.parametrize(
    ("options", "refusal", "says"),
    [
        (
            ["teacher.guided=true"],
            error("response_format of type json_schema is not supported"),
            "status 400 (response_format of type json_schema is not supported); set teacher.guided=false",
        ),
        (
            ["teacher.per_request=2"],
            error("n > 1 is not supported"),
            "(n > 1 is not supported); set teacher.per_request=1",
        ),
        (
            ["teacher.guided=true", "teacher.per_request=2"],
            error("invalid request"),
            "nothing but refusals, 10 of them: check teacher.parameters, teacher.guided=false, teacher.per_request=1",
        ),
    ],
)
def test_a_server_that_refuses_an_option_ends_the_run_with_its_switch(
    server: Server, tmp_path: Path, options: list[str], refusal: Any, says: str
) -> None:
    server.reply = lambda n, body: (400, refusal)
    file = people(tmp_path, *(f"user {i:02}" for i in range(20)))
    with pytest.raises(UserError) as raised:
        ask(file, *toy(server.url, "teacher.concurrency=1", *options))
    assert says in str(raised.value)
    assert len(server.sent) <= 10
