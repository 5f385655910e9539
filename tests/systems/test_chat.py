"""Prompts, and what is asked of an endpoint of our own that answers as OpenAI's does, well and badly."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mmprofile.errors import UserError
from mmprofile.inputs.views import User, build_view
from mmprofile.profile.schema import Attribute, Schema
from mmprofile.systems.answers import AnswerFile, profile_text
from mmprofile.systems.chat import ChatRecord, PromptConfig, Prompts, Request, ask, attributes, ends_run
from mmprofile.systems.endpoint import Endpoint, ServerConfig
from mmprofile.systems.journal import Journal
from tests.support.chatserver import Reply, Server, completion, error, serving

pytestmark = [pytest.mark.fast, pytest.mark.allow_hosts(["127.0.0.1"])]

TEXT = (
    "Stars: 4; Favorite Category: Pizza, Coffee & Tea; Preferred Meal: Dinner; Budget Range: Low; "
    "Discount Preference: True; Service Preference: False"
)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(TEXT) as chat_server:
        yield chat_server


def endpoint(url: str, retries: int = 5, model: str = "toy", temperature: int = 0) -> Endpoint:
    parameters = {"temperature": temperature, "seed": None}
    config = ServerConfig(url, key_env=None, parameters=parameters, concurrency=4, retries=retries, timeout=120)
    return Endpoint(config, model, "model.options", ends_run)


def requests(*names: str) -> list[Request]:
    return [Request(name, [{"role": "user", "content": f"who is {name}?"}]) for name in names]


def journal(folder: Path) -> Journal[ChatRecord]:
    return Journal(folder / "answers.jsonl", ChatRecord)


def asked(
    server: Server, folder: Path, requests: Sequence[Request], threads: int = 4, **options: Any
) -> list[ChatRecord]:
    """The records of requests; the journal is read anew."""
    return ask(requests, endpoint(server.url, **options), journal(folder), threads)


def test_answers_come_in_order_and_are_asked_once(server: Server, tmp_path: Path) -> None:
    def reply(_: int, body: dict[str, Any]) -> Reply:
        time.sleep(0.05 * ("ann" in body["messages"][0]["content"]))  # the first is the last to be answered
        return 200, completion(body["messages"][0]["content"].upper())

    server.reply = reply
    three = requests("ann", "bob", "cy")
    first = asked(server, tmp_path, [*three, three[1]])
    assert [record.answer for record in first] == ["WHO IS ANN?", "WHO IS BOB?", "WHO IS CY?", "WHO IS BOB?"]
    assert {(record.model, record.prompt_tokens, record.completion_tokens, record.error) for record in first} == {
        ("toy-1", 100, 7, None)
    }
    assert len(server.sent) == 3
    assert all(set(body) == {"model", "messages", "temperature"} for body in server.sent)
    assert asked(server, tmp_path, [three[2], *requests("dan")])[0] == first[2]
    assert len(server.sent) == 4
    # Another model, parameter or prompt is another question.
    asked(server, tmp_path, three[:1], model="other")
    asked(server, tmp_path, three[:1], temperature=1)
    assert len(server.sent) == 6


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_tried_again(server: Server, tmp_path: Path, status: int) -> None:
    server.reply = lambda n, body: (status, error("busy")) if n < 2 else (200, completion(TEXT))
    assert asked(server, tmp_path, requests("ann"), retries=2)[0].answer == TEXT
    assert len(server.sent) == 3


@pytest.mark.parametrize("status", [401, 404, 429, 500])
def test_what_does_not_pass_ends_the_run_with_one_line(server: Server, tmp_path: Path, status: int) -> None:
    def reply(_: int, body: dict[str, Any]) -> Reply:
        return (200, completion(TEXT)) if "ann" in body["messages"][0]["content"] else (status, error("no way"))

    server.reply = reply
    with pytest.raises(UserError, match=rf"{server.url}: model toy: status {status} .no way.; the same command again"):
        asked(server, tmp_path, requests("ann", "bob", "cy", "dan"), threads=1, retries=1)
    assert len(server.sent) == (3 if status in (429, 500) else 2)  # cy and dan are not asked any more
    server.reply = lambda n, body: (200, completion("now"))
    before = len(server.sent)
    assert [record.answer for record in asked(server, tmp_path, requests("ann", "bob"))] == [TEXT, "now"]
    assert len(server.sent) == before + 1


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ((400, error("content filter")), "status 400 (content filter)"),
        ((422, {"detail": "too long"}), "too long"),
        ((200, b"<html>oops"), "a reply without an answer: '<html>oops'"),
        ((200, {"object": "chat.completion"}), "a reply without an answer"),
        ((200, completion(None)), "a reply without an answer"),
    ],
)
def test_a_refusal_is_an_empty_answer_and_no_last_word(server: Server, tmp_path: Path, reply: Reply, says: str) -> None:
    server.reply = lambda n, body: reply if "bob" in body["messages"][0]["content"] else (200, completion(TEXT))
    records = asked(server, tmp_path, requests("ann", "bob", "cy"))
    assert [record.answer for record in records] == [TEXT, "", TEXT]
    assert says in str(records[1].error)
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert sorted(row["user_id"] for row in rows) == ["ann", "bob", "cy"]
    assert sum(map(journal(tmp_path).answered, journal(tmp_path).records)) == 2  # bob is asked again
    with pytest.raises(UserError, match=f"{server.url}: model toy refused all requests: "):
        asked(server, tmp_path / "..", requests("bob"))


def test_a_torn_journal_loses_its_last_line_only(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    asked(server, tmp_path, requests("ann", "bob"), threads=1)
    whole = path.read_text()
    path.write_text(whole[:-5])
    assert [record.answer for record in asked(server, tmp_path, requests("ann", "bob"))] == [TEXT, TEXT]
    assert len(server.sent) == 3
    assert len(path.read_text().splitlines()) == 2
    path.write_text('{"user_id": "ann"}\n')
    with pytest.raises(UserError, match=r"answers.jsonl: no journal of answers .*; move it away"):
        journal(tmp_path)


OLD_JOURNAL = (
    b'{"user_id": "ann", "request": "%s", "answer": "Stars: 4\xe2\x80\xa8", "model": "toy-1", '
    b'"seconds": 0.003, "prompt_tokens": 100, "completion_tokens": 7, "error": null}\n'
    b'{"user_id": "bob", "request": "%s", "answer": "", "model": "toy", '
    b'"seconds": 0.002, "prompt_tokens": null, "completion_tokens": null, "error": "content filter"}\n'
)


def test_a_journal_of_an_earlier_version_is_used(server: Server, tmp_path: Path) -> None:
    keys = (
        b"13a3a533ec5b24a796b64bab1af46222aefbef58729c9c2f67e3141bab69ac8e",
        b"a366841c5bc317ada4760e38e68f5df275293a16e9f02a6c214e7527bf3995b6",
    )
    (tmp_path / "answers.jsonl").write_bytes(OLD_JOURNAL % keys)
    ann, bob = asked(server, tmp_path, requests("ann", "bob"))
    assert ann == ChatRecord("ann", keys[0].decode(), "Stars: 4\u2028", "toy-1", 0.003, 100, 7)
    assert [body["messages"][0]["content"] for body in server.sent] == ["who is bob?"]  # he was refused
    assert (bob.request, bob.answer) == (keys[1].decode(), TEXT)
    assert (tmp_path / "answers.jsonl").read_bytes().startswith(OLD_JOURNAL % keys)


TEMPLATES = PromptConfig("Know {attributes}\n{format}", "R:\n{items}", "C:\n{items}", "Look.")
SCHEMA = Schema(
    "toy",
    [
        Attribute("Stars", ("1", "2")),
        Attribute("Likes", ("A", "B", "C"), kind="ordered", size=2),
        Attribute("Meal", ("Lunch", "Dinner"), unknown=True),
    ],
)


def test_the_prompt_writes_the_schema_out() -> None:
    prompts = Prompts(TEMPLATES, SCHEMA, build_view("text", "text"))
    assert prompts.system == (
        "Know - Stars: one of 1, 2\n- Likes: 2 of A, B, C, the most important first\n"
        "- Meal: one of Lunch, Dinner, or Unknown\nStars: <value>; Likes: <value>, <value>; Meal: <value>"
    )
    shot = {"role": "user", "content": "shot"}
    asked = {"role": "user", "content": "asked"}
    assert prompts.messages([(shot, "Stars: 1")], asked) == [
        {"role": "system", "content": prompts.system}, shot, {"role": "assistant", "content": "Stars: 1"}, asked,
    ]  # fmt: skip


def test_the_prompt_says_what_each_kind_may_have() -> None:
    schema = Schema(
        "kinds",
        [
            Attribute("Likes", ("A", "B", "C"), "set", 3, unknown=True, min_size=0),
            Attribute("Has", ("A", "B"), "set", 1, min_size=1),
            Attribute("Size", ("S", "M"), "ordinal"),
            Attribute("Spends", kind="number", edges=(10, 20)),
        ],
    )
    assert attributes(schema).splitlines() == [
        "- Likes: 0 to 3 of A, B, C, or None if none fits, or Unknown",
        "- Has: one of A, B",
        "- Size: one of S, M (in this order)",
        "- Spends: one of below 10, 10 to 20, 20 and more",
    ]


def test_a_file_of_answers_in_json(tmp_path: Path) -> None:
    likes = Attribute("Likes", ("A", "B"), "set", 2, unknown=True, min_size=0)
    schema = Schema("kinds", [likes, Attribute("Spends", kind="number", edges=(10, 20))])
    values: list[Any] = [[], None, ["B", "A"], "None"]
    rows = [{"user_id": str(i), "profile": {"Likes": value, "Spends": 9.5 + i}} for i, value in enumerate(values)]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = AnswerFile(tmp_path / "answers.jsonl", build_view("text", "text"), schema).texts
    parsed = [schema.parse(text) for text in texts.values()]
    assert [found.profile["Likes"] for found in parsed] == [("None",), (), ("A", "B"), ("None",)]
    assert [found.profile["Spends"][0] for found in parsed] == ["below 10", "10 to 20", "10 to 20", "10 to 20"]
    assert not any(found.faults for found in parsed)


@pytest.mark.parametrize("modality", ["text", "uni", "multi", "both"])
def test_what_is_shown_depends_on_the_paradigm(modality: str) -> None:
    user = User("ann", ("good {soup}", "bad"), ("p", "q"), ("a plate", None))
    view = build_view("fusion" if modality != "text" else "text", modality)
    message = Prompts(TEMPLATES, SCHEMA, view).user(user, [b"jpeg"] if view.photos != "none" else [])
    captions = "\n\nC:\nPhoto 1: a plate" if modality in ("uni", "both") else ""
    text = f"R:\nReview 1: good {{soup}}\nReview 2: bad{captions}"
    if modality in ("text", "uni"):
        assert message == {"role": "user", "content": text}
    else:
        image = {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,anBlZw=="}}
        assert message["content"] == [{"type": "text", "text": f"{text}\n\nLook."}, image]


def test_a_wrong_placeholder_is_named() -> None:
    with pytest.raises(UserError, match=r"model.options.prompt.system: .*'schema'.*known: .attributes., .format."):
        Prompts(PromptConfig("{schema}", "", "", ""), SCHEMA, build_view("text", "text"))


def test_only_a_fence_is_taken_off() -> None:
    assert profile_text(f"Sure!\n```text\n{TEXT}\n```\nBye") == TEXT
    assert profile_text(f" {TEXT}\n") == TEXT
    assert profile_text(f"Sure: {TEXT}") == f"Sure: {TEXT}"
