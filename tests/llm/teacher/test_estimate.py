"""What asking will take, before anything is asked, for a lexicon, a model in this process and an endpoint of our own."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.files import size
from mmprofile.llm.run import run as stage
from mmprofile.llm.stage import messages
from mmprofile.llm.teacher import run as teacher
from mmprofile.profile.schema import Schema
from tests.support.chatserver import Server, serving
from tests.support.toyteacher import TEMPLATE, ask, overrides, people, people_file, save_qwen3, toy

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
ANSWER = json.dumps({"Gender": {"rationale": "she", "value": "Female", "confidence": 80}})
PRICED = "teacher.prices={prompt: 1000, completion: 2000}"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(ANSWER) as chat_server:
        yield chat_server


def estimated(file: Path, capsys: pytest.CaptureFixture[str], *more: str) -> list[str]:
    """What the command prints that only estimates; it asks nothing and leaves no folder."""
    before, _ = sorted((file.parent / "out").rglob("*")), capsys.readouterr()
    teacher.main(load_config("llm", overrides(file, "estimate=true", *more)))
    assert sorted((file.parent / "out").rglob("*")) == before
    return capsys.readouterr().out.splitlines()


SHORT = ["prompt.system=label", "prompt.user='{person}'"]


def size_of(name: str) -> int:
    """Bytes of the short prompt about somebody."""
    return len(f"label- {name}".encode())


def test_an_endpoint_s_tokens_are_guessed_by_bytes_then_by_its_own_counts(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = people(tmp_path, "ann", "böb")
    plain = [*SHORT, *toy(server.url, PRICED, "teacher.parameters.max_tokens=50")]
    lines = estimated(file, capsys, *plain)
    sizes = [size_of(name) for name in ("ann", "böb")]
    read = 3 * sum(round(length / 4) for length in sizes)
    assert lines == [
        "to ask: 6 answers about 2 people",
        f"  tokens: about {read} read (4 bytes each); written: 300 at most",
        f"  cost: {(1000 * read + 2000 * 300) / 1e6:.2f} at most; by teacher.prices",
    ]
    assert server.sent == []
    ask(file, *plain, "samples=1")
    each = sum(sizes) / 200  # the server counts 100 tokens of every prompt
    lines = estimated(file, capsys, *plain)
    read = 2 * sum(round(length / each) for length in sizes)
    assert lines[0] == "to ask: 4 answers about 2 people"
    assert lines[1] == (
        f"  tokens: about {read} read ({each:.1f} bytes each, as the server counted those before); written: 200 at most, "
        "28 if answers stay as long as they were"
    )
    assert lines[2] == (
        f"  cost: {(1000 * read + 2000 * 200) / 1e6:.2f} at most, {(1000 * read + 2000 * 28) / 1e6:.2f} if answers stay as "
        "long as they were; by teacher.prices"
    )


def test_a_person_s_samples_in_one_request_are_read_once(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = people(tmp_path, "ann", "bob")
    one, three = (estimated(file, capsys, *toy(server.url, f"teacher.per_request={n}")) for n in (1, 3))
    assert three[0] == "to ask: 6 answers about 2 people, in 2 requests"
    read = [int(line[1].split(" read")[0].rpartition(" ")[2].replace(",", "")) for line in (one, three)]
    assert read[0] == 3 * read[1]


@pytest.mark.parametrize(("per_minute", "says"), [(1, "6.0 minutes"), (600, "0.6 seconds"), (0.05, "2.0 hours")])
def test_time_by_the_rate_limit(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], per_minute: float, says: str
) -> None:
    lines = estimated(people(tmp_path, "ann", "bob"), capsys, *toy(server.url, f"teacher.per_minute={per_minute}"))
    assert lines[-1] == f"  time: about {says}"


def test_time_by_what_answers_took(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, options = people(tmp_path, "ann"), toy(server.url, "teacher.concurrency=2")
    assert not any("time" in line for line in estimated(file, capsys, *options))
    ask(file, *options, "samples=1")
    path = tmp_path / "out" / "people" / "answers.jsonl"
    row = json.loads(path.read_text())
    path.write_text(json.dumps(row | {"seconds": 40.0}) + "\n")
    assert estimated(file, capsys, *options, "samples=10")[-1] == "  time: about 3.0 minutes"  # 9 x 40 s, two at a time


def test_a_budget_that_may_not_do_is_refused_before_anything_is_asked(server: Server, tmp_path: Path) -> None:
    file = people(tmp_path, "ann")
    options = [*SHORT, *toy(server.url, PRICED, "teacher.parameters.max_tokens=1000")]
    read = 3 * round(size_of("ann") / 4)
    most = (1000 * read + 2000 * 3000) / 1e6
    with pytest.raises(
        UserError, match=rf"teacher.budget={most - 0.01:.3f}.*: the answers may cost {most:.2f}; ask for fewer"
    ):
        ask(file, *options, f"teacher.budget={most - 0.01:.3f}")
    assert server.sent == []
    assert not (tmp_path / "out").exists()
    assert len(ask(file, *options, f"teacher.budget={most + 0.01:.3f}")) == 3
    assert len(ask(file, *options, "teacher.budget=0")) == 3  # nothing is left to pay


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["teacher.budget=1"], "teacher.budget=1.0 needs teacher.prices, of prompt and completion"),
        (["teacher.budget=1", "teacher.prices.prompt=1"], "needs teacher.prices, of prompt and completion"),
        (["teacher.budget=-1", PRICED], "teacher.budget=-1.0: give 0 or more"),
        (
            ["teacher.budget=1", PRICED, "teacher.parameters.max_tokens=null"],
            "teacher.budget=1.0 needs teacher.parameters.max_tokens: an answer without a limit may cost anything",
        ),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(server: Server, tmp_path: Path, options: list[str], says: str) -> None:
    with pytest.raises(UserError) as raised:
        ask(people(tmp_path, "ann"), *toy(server.url, *options))
    assert says in str(raised.value)


def test_a_model_of_ours_is_counted_and_measured(
    tmp_path: Path, make_tokenizer: Callable[..., PreTrainedTokenizerFast], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_qwen3(tmp_path / "toy", make_tokenizer(["< > system user assistant a nurse"]), TEMPLATE, context=2048)
    file = people_file(tmp_path, {"ann": "a nurse", "bob": "a nurse " * 40})
    options = ["teacher=local", f"teacher.name={folder}", "teacher.parameters.max_new_tokens=9", "teacher.batch=4"]
    lines = estimated(file, capsys, *options)
    cfg = load_config("llm", options)
    tokenizer, schema = AutoTokenizer.from_pretrained(folder), Schema.from_config(cfg.profile)
    lengths = [
        len(
            tokenizer.apply_chat_template(
                messages(text, schema, cfg.prompt), add_generation_prompt=True, return_dict=False
            )
        )
        for text in ("- a nurse", "- " + " ".join(["a nurse"] * 40))
    ]
    assert lines[1] == f"  tokens: about {3 * sum(lengths):,} read (counted by its tokenizer); written: 54 at most"
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    cache = 2 * 2 * 16 * 4 * (max(lengths) + 9) * 4  # keys and values, 2 layers of 1 head of 16, 4 answers, 4 bytes
    assert lines[2].startswith(
        f"  memory: {size(weights)} for the weights, {size(cache)} for 4 answers at {max(lengths) + 9:,}"
    )
    assert "; the device has " in lines[2]
    large = estimated(file, capsys, *options, "teacher.batch=1000000000")[-1]
    assert large.endswith(
        ": too little; take a smaller model, fewer teacher.parameters.max_new_tokens, or a smaller teacher.batch"
    )


def test_the_lexicon_takes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert estimated(people(tmp_path, "ann"), capsys) == ["to ask: 3 answers about 1 people"]
    ask(people(tmp_path, "ann"))
    assert "to ask" not in capsys.readouterr().out


def test_the_whole_stage_is_only_estimated_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "people.jsonl"
    file.write_text(json.dumps({"user_id": "ann", "reviews": ["soup"], "split": "test", "gold": {"Gender": "Female"}}))
    stage.main(load_config("llm", overrides(file, "estimate=true")))
    assert capsys.readouterr().out == "to ask: 3 answers about 1 people\n"
    assert not (tmp_path / "out").exists()
