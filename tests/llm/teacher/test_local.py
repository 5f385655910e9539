"""A tiny model as the teacher in this process, in batches and one by one, with and without a chat template."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from mmprofile.config.compose import load_config
from mmprofile.config.parts import typed_part
from mmprofile.errors import UserError
from mmprofile.llm.people import Person
from mmprofile.llm.teacher.local import Local, LocalConfig
from mmprofile.llm.teacher.protocol import Question
from mmprofile.llm.teacher.run import make_teacher
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema
from tests.support.toyteacher import TEMPLATE, ask, journal, people_file, save_qwen3

WORDS = (
    "you are a label of the soup was warm and so bread dinner nurse school work car wash we stayed "
    "< > system user assistant Answer :"
)
SCHEMA = Schema.from_yaml(conf_dir() / "profile" / "text_only.yaml")
TEXTS = ["the soup was warm", "we stayed", "a nurse and a school and a car wash so we stayed and the bread was warm"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> Path:
    """Without a chat template."""
    return save_qwen3(tmp_path_factory.mktemp("plain"), make_tokenizer([WORDS]))


@pytest.fixture(scope="module")
def chat_model(
    tmp_path_factory: pytest.TempPathFactory, make_tokenizer: Callable[..., PreTrainedTokenizerFast]
) -> Path:
    return save_qwen3(tmp_path_factory.mktemp("chat"), make_tokenizer([WORDS]), TEMPLATE)


def local(folder: Path, **settings: Any) -> Local:
    """The teacher as ``conf/llm/teacher/local.yaml`` has it, but for settings; parameters are added to its own."""
    cfg = load_config(
        "llm", ["teacher=local", f"teacher.name={folder}", "teacher.parameters.max_new_tokens=12"]
    ).teacher
    OmegaConf.set_struct(cfg, False)
    teacher = Local(typed_part(LocalConfig, OmegaConf.merge(cfg, settings), "teacher"), SCHEMA)
    teacher.check()
    return teacher


def questions(texts: list[str], seed: int = 0) -> list[Question]:
    messages = [[{"role": "system", "content": "you label"}, {"role": "user", "content": text}] for text in texts]
    return [Question(Person(f"u{i}"), prompt, seed) for i, prompt in enumerate(messages)]


@pytest.mark.parametrize("folder", ["model", "chat_model"])
def test_the_likeliest_words_are_the_same_in_a_batch_one_by_one_and_by_hand(
    folder: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(folder)
    teacher = local(path, parameters={"temperature": 0})
    asked = questions(TEXTS)
    together = teacher.ask(asked)
    assert together == [teacher.ask([question])[0] for question in asked]
    assert len({reply.text for reply in together}) == 3
    tokenizer, by_hand = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path).eval()
    for text, reply in zip(TEXTS, together, strict=True):
        start = "<assistant>" if folder == "chat_model" else "Answer:\n"
        prompt = (
            f"you label\n\n{text}\n\nAnswer:\n" if folder == "model" else f"<system> you label\n<user> {text}\n{start}"
        )
        tokens = tokenizer(prompt, return_tensors="pt")["input_ids"]
        assert reply.prompt_tokens == tokens.shape[1]
        written: list[int] = []
        for _ in range(12):
            written.append(int(by_hand(tokens).logits[0, -1].argmax()))
            if written[-1] == tokenizer.eos_token_id:
                break
            tokens = torch.cat([tokens, torch.tensor([[written[-1]]])], dim=1)
        assert reply.text == tokenizer.decode(written, skip_special_tokens=True)
        assert (reply.completion_tokens, reply.error, reply.model) == (len(written), None, None)


def test_a_sample_is_drawn_by_users_and_seeds(model: Path) -> None:
    teacher = local(model)
    first = teacher.ask(questions(TEXTS))
    torch.rand(5)
    assert teacher.ask(questions(TEXTS)) == first == local(model).ask(questions(TEXTS))
    assert teacher.ask(questions(TEXTS, seed=1)) != first
    of_another = [question._replace(person=Person("other")) for question in questions(TEXTS)]
    assert teacher.ask(of_another) != first


def test_nothing_but_the_settings_decides_how_it_samples(model: Path, tmp_path: Path) -> None:
    """What a model's own generation_config.json says of sampling does not count."""
    cold = AutoModelForCausalLM.from_pretrained(model)
    cold.generation_config.update(do_sample=True, temperature=0.01, top_k=1, top_p=0.1)
    cold.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path)
    assert local(tmp_path).ask(questions(TEXTS)) == local(model).ask(questions(TEXTS))
    assert local(model, parameters={"temperature": 1}).ask(questions(TEXTS)) == local(model).ask(questions(TEXTS))
    narrow = local(model, parameters={"top_k": 1}).ask(questions(TEXTS))
    assert narrow == local(model, parameters={"temperature": 0}).ask(questions(TEXTS))


def test_settings_tell_models_and_templates_apart(model: Path, chat_model: Path) -> None:
    teachers = [local(model), local(chat_model), local(chat_model, template={"style": "so"})]
    assert teachers[0].settings == local(model).settings
    assert len({str(teacher.settings) for teacher in teachers}) == 3
    lengths = [len(teacher.prompt(questions(TEXTS)[0].messages)) for teacher in teachers]
    assert lengths[2] == lengths[1] + 1


def test_a_prompt_is_open_where_a_tokenizer_ends_every_text(model: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    ends = [("</s>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=ends)
    save_qwen3(tmp_path, tokenizer)
    assert AutoTokenizer.from_pretrained(tmp_path)("soup")["input_ids"][-1] == tokenizer.eos_token_id
    messages = questions(TEXTS)[0].messages
    assert local(tmp_path).prompt(messages) == local(model).prompt(messages)


def test_a_prompt_that_is_too_long_is_said_of_its_person_and_no_other(model: Path) -> None:
    teacher = local(model)
    replies = teacher.ask(questions([TEXTS[0], "soup " * 600, TEXTS[1]]))
    assert [bool(reply.text) for reply in replies] == [True, False, True]
    length = len(teacher.prompt(questions(["soup " * 600])[0].messages))
    says = f"its prompt has {length} tokens: {model} has room for 500 beside teacher.parameters.max_new_tokens=12"
    assert [reply.error for reply in replies] == [None, says, None]
    room = 501 - len(teacher.prompt(questions(["soup"])[0].messages))
    fits, one_more = teacher.ask(questions(["soup " * room, "soup " * (room + 1)]))
    assert fits.error is None
    assert "its prompt has 501 tokens" in str(one_more.error)


def test_the_command(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = save_qwen3(tmp_path / "long", AutoTokenizer.from_pretrained(model), context=2048)
    people = people_file(tmp_path, {"ann": "the soup was warm", "bob": "we stayed", "cy": "soup " * 2000})
    options = ["teacher=local", f"teacher.name={long}", "teacher.parameters.max_new_tokens=9", "teacher.batch=4"]
    with pytest.raises(SystemExit) as exited:
        ask(people, *options)
    assert exited.value.code == 1
    printed = capsys.readouterr().out
    assert "9 answers of" in printed
    rows = journal(people)
    errors = [row["error"] for row in rows if row["error"]]
    assert len(errors) > 6  # random words seldom end
    assert {error[:15] for error in errors} == {"cut off after 9", "its prompt has "}
    assert f"{len(errors)} questions about 3 people failed" in printed
    assert len({row["answer"] for row in rows if row["user_id"] == "ann"}) == 3


def test_the_model_of_this_package_can_be_asked(tmp_path: Path) -> None:
    people = people_file(tmp_path, {"ann": "the soup was warm"})
    with pytest.raises(SystemExit):  # random words seldom end
        ask(people, "teacher=local", "teacher.name=mmprofile:tiny/llama", "teacher.parameters.max_new_tokens=9")
    rows = journal(people)
    assert len(rows) == 3
    assert all(row["answer"] and row["completion_tokens"] <= 9 for row in rows)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["teacher.name=/no/such/folder"], "teacher.name='/no/such/folder' cannot be loaded"),
        (["teacher.engine=jax"], "teacher.engine='jax' is not one of transformers, vllm"),
        (["teacher.dtype=int8"], "teacher.dtype='int8' is not one of auto, float32, bfloat16, float16"),
        (["teacher.device=abacus"], "teacher.device=abacus: "),
        (["teacher.batch=0"], "teacher.batch=0: give 1 or more"),
        (["teacher.batch=many"], "teacher.batch: Value 'many'"),
        (["teacher.parameters.temperature=hot"], "teacher.parameters.temperature=hot: give a number, 0 or more"),
        (
            ["teacher.parameters.max_new_tokens=0"],
            "teacher.parameters.max_new_tokens=0: give a whole number, 1 or more",
        ),
        (["teacher.parameters.max_new_tokens=512"], "reads and writes 512 tokens in all"),
        (["+teacher.parameters.tmp_p=1"], "teacher.parameters.tmp_p: transformers has no such parameter of generation"),
    ],
)
def test_wrong_settings_are_one_line_before_anything_is_asked(
    model: Path, tmp_path: Path, options: list[str], says: str
) -> None:
    people = people_file(tmp_path, {"ann": "the soup was warm"})
    with pytest.raises(UserError) as raised:
        ask(people, "teacher=local", f"teacher.name={model}", "teacher.parameters.max_new_tokens=9", *options)
    assert says in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_parameter_that_makes_no_sense_is_one_line(model: Path) -> None:
    with pytest.raises(UserError, match=r"teacher.parameters=.*'top_p': -1.*has to be a float > 0 and < 1"):
        local(model, parameters={"top_p": -1}).ask(questions(TEXTS))


def test_a_model_without_weights_is_one_line(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    save_qwen3(folder, AutoTokenizer.from_pretrained(model))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"teacher.name='.*bare' cannot be loaded: .* has no weights"):
        local(folder).ask(questions(TEXTS))


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is there")
def test_vllm_is_named_where_it_is_missing(model: Path, schema: Schema) -> None:
    cfg = load_config("llm", ["teacher=local", f"teacher.name={model}", "teacher.engine=vllm"]).teacher
    with pytest.raises(UserError, match=r"teacher.engine=vllm needs vLLM: pip install vllm"):
        make_teacher(cfg, schema)
