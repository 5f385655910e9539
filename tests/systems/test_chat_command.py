"""The whole command with a model at an endpoint of our own, or with a file of answers."""

import base64
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.profile.schema import Schema
from mmprofile.train import run as train
from tests.support.chatserver import Reply, Server, closed_port, completion, serving

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

TEXT = (
    "Stars: 4; Favorite Category: Pizza, Coffee & Tea; Preferred Meal: Dinner; Budget Range: Low; "
    "Discount Preference: True; Service Preference: False"
)
SMOKE = ["experiment=smoke", "evaluation.resamples=20", "model=gpt", "model.options.key_env=null"]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(TEXT) as chat_server:
        yield chat_server


@pytest.fixture
def closed_url() -> str:
    """Where nobody listens."""
    return closed_port()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chat")


def run(out: Path, name: str, *overrides: str) -> dict[str, Any]:
    train.main(load_config("train", [*SMOKE, f"out={out}", f"name={name}", *overrides]))
    return json.loads((out / name / "metrics.json").read_text())


def predictions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().split("\n")[:-1]]


@pytest.fixture(scope="module")
def gold(out: Path) -> list[dict[str, Any]]:
    """The test users, with what the majority class says of them."""
    train.main(load_config("train", [*SMOKE[:2], "model=majority", f"out={out}", "name=majority"]))
    return predictions(out / "majority")


def test_the_row_is_scored_like_any_other(
    server: Server, out: Path, gold: list[dict[str, Any]], schema: Schema
) -> None:
    truth = {row["user_id"]: schema.render({k: tuple(v) for k, v in row["gold"].items()}) for row in gold}
    answers = iter([*list(truth.values())[:-2], "```\nStars: 9\n```", "I cannot know that."])
    server.reply = lambda n, body: (200, completion(next(answers)))
    metrics = run(
        out, "gpt", f"model.options.url={server.url}", "model.options.concurrency=1", "model.options.shots=2", "seed=5"
    )
    rows = predictions(out / "gpt")
    assert [row["text"] for row in rows] == [*list(truth.values())[:-2], "Stars: 9", "I cannot know that."]
    assert [bool(row["faults"]) for row in rows] == [False] * 10 + [True] * 2
    test = metrics["test"]
    assert test["parse_fault_rate"] == pytest.approx(2 / 12)
    assert 50 < test["macro_f1"] < 100
    assert "unpaired" not in test
    assert metrics["n_parameters"] is None
    tokens = {"prompt_tokens": 1200, "completion_tokens": 84}
    assert metrics["endpoint"] == {"models": ["toy-1"], "answers": 12, "refused": 0, **tokens}
    assert "1,200 + 84 tokens, 0 refusals" in (out / "gpt" / "report.md").read_text()
    for body in server.sent:
        assert (body["model"], body["temperature"], body["seed"], body["max_tokens"]) == ("gpt-4o", 0, 5, 300)
        roles = [message["role"] for message in body["messages"]]
        assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
        assert "- Favorite Category: 2 of Automotive, " in body["messages"][0]["content"]
        assert body["messages"][:5] == server.sent[0]["messages"][:5]  # the same shots for everybody
        assert schema.parse(body["messages"][2]["content"]).faults == []
        photos = [part for part in body["messages"][-1]["content"] if part["type"] == "image_url"]
        url = photos[0]["image_url"]["url"]
        assert Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).format == "JPEG"
    assert len({json.dumps(body["messages"][-1]) for body in server.sent}) == 12


def test_asked_again_with_other_photos_where_that_is_wanted(server: Server, out: Path) -> None:
    more = ["paradigm=uni", "model.options.repeat=true", "evaluation.missing=1.0"]
    metrics = run(out, "repeat", f"model.options.url={server.url}", *more)
    assert len(server.sent) == 36
    assert all(isinstance(body["messages"][-1]["content"], str) for body in server.sent)
    assert (
        metrics["test"]["unpaired"]["macro_f1"] == metrics["test"]["missing"]["macro_f1"] == metrics["test"]["macro_f1"]
    )
    assert metrics["endpoint"]["answers"] == 36


def test_a_killed_run_goes_on_without_asking_again(server: Server, out: Path, gold: list[dict[str, Any]]) -> None:
    enough, gone = threading.Event(), threading.Event()
    text = f"{TEXT}\u2028"  # a line break, but none between answers

    def slow(n: int, body: dict[str, Any]) -> Reply:
        if n >= 5:
            enough.set()
            gone.wait(60)
        return 200, completion(text)

    server.reply = slow
    options = [f"model.options.url={server.url}", "model.options.concurrency=1", "paradigm=text"]
    command = [sys.executable, "-m", "mmprofile.train", *SMOKE, *options, f"out={out}", "name=killed"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    assert enough.wait(400)
    process.kill()
    process.wait()
    gone.set()
    assert (out / "killed" / "answers.jsonl").read_text().count("\n") == 5
    server.reply = lambda n, body: (200, completion(text))
    metrics = run(out, "killed", *options)
    assert len(server.sent) == 6 + 7
    assert metrics["endpoint"]["answers"] == 12
    assert {row["text"] for row in predictions(out / "killed")} == {TEXT}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["model.options.concurrency=0"], "model.options.concurrency=0: give 1 or more"),
        (["model.options.shots=few"], "model.options.shots: "),
        (["model.options.timeout=0"], "model.options.timeout=0.0: give more than 0 seconds"),
        (["model.options.photos=false", "paradigm=multi"], "model.options.photos=false hides all"),
        (["model.options.key_env=NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE with the key is not set"),
        (["model.system=file"], "add model.options.path="),
        (["model.system=file", "model.options.path=/none.jsonl"], "/none.jsonl: cannot be read"),
    ],
)
def test_wrong_options_are_named_before_long_work(
    closed_url: str, tmp_path: Path, options: list[str], says: str
) -> None:
    data = ["data=custom", "data.prepare.source.reviews=/nowhere.jsonl"]  # would fail if anything were prepared
    with pytest.raises(UserError) as raised:
        run(tmp_path, "wrong", *data, f"model.options.url={closed_url}", *options)
    assert says in str(raised.value)
    with pytest.raises(UserError, match="cannot be reached"):
        run(tmp_path, "wrong", *data, f"model.options.url={closed_url}")


def test_the_extra_that_is_needed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("chat", "endpoint"):
        monkeypatch.delitem(sys.modules, f"mmprofile.systems.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"model.system=chat needs the package openai: pip install 'mmprofile\[llm\]'"):
        run(tmp_path, "extra")


def answer_file(folder: Path, rows: list[Any]) -> list[str]:
    path = folder / "answers.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows))
    return ["model.system=file", f"model.options.path={path}"]


def test_a_file_of_answers_is_a_row(out: Path, gold: list[dict[str, Any]], tmp_path: Path) -> None:
    own = run(out, "own", "model.system=file", f"model.options.path={out / 'majority' / 'predictions.jsonl'}")
    assert own["test"] == own["baselines"]["majority"]
    rows: list[dict[str, Any]] = [{"user_id": row["user_id"], "profile": row["gold"]} for row in gold]
    rows[0]["profile"] = {**rows[0]["profile"], "Mood": "gl\u2028ad"}
    rows[1]["profile"] = {**rows[1]["profile"], "Stars": None, "Preferred Meal": "Dinner"}
    true = run(out, "gold", *answer_file(tmp_path, rows[::-1]))
    assert true["test"]["parse_fault_rate"] == pytest.approx(2 / 12)
    assert true["test"]["per_attribute"]["Budget Range"]["macro_f1"] == 100
    assert predictions(out / "gold")[0]["faults"] == [r"not an attribute: 'Mood: gl\u2028ad'"]
    assert "Stars: Unknown is not allowed" in predictions(out / "gold")[1]["faults"]


def test_a_file_that_is_not_of_these_users_is_refused(out: Path, gold: list[dict[str, Any]], tmp_path: Path) -> None:
    rows = [{"user_id": row["user_id"], "text": row["text"]} for row in gold]
    names = [row["user_id"] for row in rows]
    wrong: list[tuple[list[Any], str]] = [
        (rows[4:], f"4 users of the test split without an answer: {', '.join(names[:3])}, ..."),
        ([*rows, rows[3], rows[5], rows[3]], f"2 users that stand there more than once: {names[3]}, {names[5]}"),
        ([*rows, {"user_id": "zed", "text": ""}], "1 users that are not in the test split: zed"),
        ([*rows, "{"], "line 13: no JSON"),
        ([{"user_id": "ann"}], "line 1: expected an object with user_id, and text or profile"),
    ]
    for lines, says in wrong:
        with pytest.raises(UserError) as raised:
            run(out, "refused", *answer_file(tmp_path, lines))
        assert says in str(raised.value)
        assert not (out / "refused" / "metrics.json").exists()
