"""Students and local teachers of published causal models, in their layout, against stock transformers."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from peft import AutoPeftModelForCausalLM
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from mmprofile.config.compose import load_config
from mmprofile.config.parts import typed_part
from mmprofile.llm.adapters import ADAPTER
from mmprofile.llm.checks import recipe_settings
from mmprofile.llm.fine_tuning import build_examples, train
from mmprofile.llm.people import Person
from mmprofile.llm.reinforce import training as reinforce
from mmprofile.llm.reinforce.rewards import FrozenLabels, Target
from mmprofile.llm.stage import messages
from mmprofile.llm.student import Student, condense, student_settings
from mmprofile.llm.student_folder import open_checkpoints, save_student
from mmprofile.llm.teacher.local import Local, LocalConfig
from mmprofile.llm.teacher.protocol import Question
from tests.support.published import save_miniature
from tests.support.tinystudent import SCHEMA, labels_of

NAMES = ["Qwen/Qwen3-8B", "meta-llama/Llama-3.2-1B", "zai-org/glm-4-9b-chat-hf", "zai-org/GLM-4-32B-0414"]
QWEN, LLAMA, GLM, _ = NAMES
ENDS = {
    QWEN: ["<|im_end|>", "<|endoftext|>"],
    LLAMA: ["<|end_of_text|>"],
    GLM: ["<|endoftext|>", "<|user|>", "<|observation|>"],
    NAMES[3]: ["<|endoftext|>", "<|user|>", "<|observation|>"],
}
HABITS = {
    "do_sample": True, "temperature": 0.01, "top_k": 1, "top_p": 0.1, "min_p": 0.9, "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1, "suppress_tokens": [70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80], "min_new_tokens": 3,
}  # fmt: skip
"""What a generation_config.json may say of how to write."""
SHORT = ["prompt.system='you label {format}'", "prompt.user='{person}'"]
LENGTH = 24
STEP = ["reinforce.steps=1", "reinforce.people=3", "reinforce.group=2", "progress=false"]
PEOPLE = [
    Person("u0", ("The soup was hot. I live alone.", "My wife waits! It rained.", "We left.")),
    Person("u1", ("Good.",)),
    Person("u2", ("I went to the car wash. " * 9,)),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save_miniature(name, tmp_path_factory.mktemp("causal")) for name in NAMES}


def student_of(folder: Path, *words: str) -> tuple[Student, Any]:
    settings = [f"students.other.{word}" for word in ("dtype=float32", f"max_new_tokens={LENGTH}", *words)]
    cfg = load_config("llm", [f"student={folder}", *SHORT, "progress=false", *settings])
    return Student(str(folder), student_settings(cfg), SCHEMA), cfg


def teacher_of(folder: Path, **parameters: Any) -> Local:
    words = [f"teacher.name={folder}", f"teacher.parameters.max_new_tokens={LENGTH}", "teacher.dtype=float32"]
    cfg = load_config("llm", ["teacher=local", *words]).teacher
    OmegaConf.set_struct(cfg, False)
    teacher = Local(typed_part(LocalConfig, OmegaConf.merge(cfg, {"parameters": parameters}), "teacher"), SCHEMA)
    teacher.check()
    return teacher


def chats(student: Student) -> list[list[dict[str, str]]]:
    return [messages(condense(person, "all"), SCHEMA, student.settings.prompt) for person in PEOPLE]


def questions(student: Student) -> list[Question]:
    return [Question(person, chat, 0) for person, chat in zip(PEOPLE, chats(student), strict=True)]


def write(writer: Student | Local, student: Student, temperature: float) -> list[str]:
    """Return an answer about each person."""
    if isinstance(writer, Student):
        return [text for (text,) in writer.write(PEOPLE, 1, temperature, seed=1)]
    return [reply.text for reply in writer.ask(questions(student))]


def stock_answers(folder: Path, prompts: Sequence[Sequence[int]]) -> list[str]:
    """Return the likeliest tokens that transformers writes behind each prompt, without the checkpoint's habits."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer, ends = AutoTokenizer.from_pretrained(folder), model.generation_config.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=0)
    texts = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        written = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=LENGTH)
        texts.append(tokenizer.decode(written[0, len(prompt) :], skip_special_tokens=True))
    return texts


@pytest.mark.parametrize("name", NAMES)
def test_prompts_are_in_the_models_own_form(name: str, folders: dict[str, Path]) -> None:
    student, _ = student_of(folders[name])
    tokenizer = AutoTokenizer.from_pretrained(folders[name])
    chat = chats(student)[0]
    first = {QWEN: "<|im_start|>", LLAMA: "<|begin_of_text|>"}.get(name, "[gMASK]")
    for prompt in (student.prompt(PEOPLE[0]), teacher_of(folders[name]).prompt(chat)):
        if name == LLAMA:  # it has no chat template
            text = "\n\n".join(message["content"].strip() for message in chat)
            assert prompt == tokenizer(f"{text}\n\nAnswer:\n")["input_ids"]
        else:
            assert prompt == tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert tokenizer.convert_ids_to_tokens(prompt[0]) == first
        assert prompt.count(prompt[0]) == (2 + 1 if name == QWEN else 1)


@pytest.mark.parametrize("name", NAMES)
def test_greedy_answers_are_those_of_stock_transformers(name: str, folders: dict[str, Path]) -> None:
    student, _ = student_of(folders[name])
    expected = stock_answers(folders[name], [student.prompt(person) for person in PEOPLE])
    assert len(set(expected)) == 3
    assert write(student, student, 0.0) == expected
    teacher = teacher_of(folders[name], temperature=0)
    prompts = [teacher.prompt(chat) for chat in chats(student)]
    assert write(teacher, student, 0.0) == stock_answers(folders[name], prompts)


@pytest.mark.parametrize("name", [QWEN, LLAMA])
def test_a_checkpoints_habits_of_writing_do_not_count(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """Nor do they stop a student from being saved, whose folder has no habits but the ends of an answer."""
    for path in folders[name].iterdir():
        (tmp_path / path.name).symlink_to(path)
    file = tmp_path / "generation_config.json"
    published = json.loads(file.read_text())
    file.unlink()
    file.write_text(json.dumps(published | HABITS))
    (plain, _), (other, _) = student_of(folders[name]), student_of(tmp_path)
    for temperature in (0.0, 1.0):
        assert write(plain, plain, temperature) == write(other, plain, temperature)
        parameters = {"temperature": temperature}
        by_plain, by_other = teacher_of(folders[name], **parameters), teacher_of(tmp_path, **parameters)
        assert write(by_plain, plain, temperature) == write(by_other, plain, temperature)
    other.save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert saved.keys() & HABITS.keys() == set()


TURNS = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (loop.index0 % 2 == 0) != (message.role == 'user') %}{{ raise_exception('Turns must alternate') }}{% endif %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
"""A chat template that does as Gemma's does with a system message."""
DEAF = (
    "{% for message in messages if message.role != 'system' %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
"""One that leaves it out."""


@pytest.mark.parametrize("template", [TURNS, DEAF])
def test_without_a_system_role_its_text_is_the_users(
    template: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folders[QWEN], tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folders[QWEN])
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path / "model")
    student, cfg = student_of(tmp_path / "model", "lora=0")
    system, user = chats(student)[0]
    expected = (
        f"<|im_start|>user\n{system['content'].strip()}\n\n{user['content'].strip()}<|im_end|>\n<|im_start|>model\n"
    )
    assert system["content"].startswith("you label")
    assert tokenizer.decode(student.prompt(PEOPLE[0])) == expected
    assert tokenizer.decode(teacher_of(tmp_path / "model").prompt([system, user])) == expected
    _, prompts = first_draw(student, OmegaConf.merge(cfg, OmegaConf.from_dotlist(STEP)), tmp_path, monkeypatch)
    assert set(prompts) == {tuple(student.prompt(person)) for person in PEOPLE}


class Nudge:
    """Makes a token the likeliest in each step after some, and counts the steps."""

    def __init__(self, model: Any, token: int, after: int) -> None:
        self.token, self.after, self.steps = token, after, 0
        self.handle = model.get_output_embeddings().register_forward_hook(self)

    def __call__(self, module: Any, inputs: Any, logits: Tensor) -> Tensor:
        self.steps += 1
        if self.steps <= self.after:
            return logits
        nudged = logits.clone()
        nudged[..., self.token] = 1e4
        return nudged


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("writes", ["student", "teacher"])
def test_an_answer_stops_at_each_of_the_models_ends(name: str, writes: str, folders: dict[str, Path]) -> None:
    student, _ = student_of(folders[name])
    teacher = teacher_of(folders[name], temperature=0)
    write(teacher, student, 0.0)  # the first question loads the model
    writer, model = (student, student.model) if writes == "student" else (teacher, teacher._model)
    tokenizer = student.tokenizer
    assert tokenizer.eos_token in ENDS[name]
    for end in ENDS[name]:
        nudge = Nudge(model, tokenizer.convert_tokens_to_ids(end), after=4)
        texts = write(writer, student, 0.0)
        nudge.handle.remove()
        assert nudge.steps <= 6
        assert not any(end in text for text in texts)
        assert tokenizer.eos_token_id in tokenizer.convert_tokens_to_ids(ENDS[name])


@pytest.mark.parametrize("writes", ["student", "teacher"])
def test_the_tokenizers_end_counts_where_the_generation_config_forgets_it(
    writes: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    for path in folders[QWEN].iterdir():
        (tmp_path / path.name).symlink_to(path)
    file = tmp_path / "generation_config.json"
    published = json.loads(file.read_text())
    file.unlink()
    file.write_text(json.dumps(published | {"eos_token_id": published["eos_token_id"][1]}))
    student, _ = student_of(tmp_path)
    teacher = teacher_of(tmp_path, temperature=0)
    write(teacher, student, 0.0)
    writer, model = (student, student.model) if writes == "student" else (teacher, teacher._model)
    for end in ENDS[QWEN]:
        nudge = Nudge(model, student.tokenizer.convert_tokens_to_ids(end), after=4)
        write(writer, student, 0.0)
        nudge.handle.remove()
        assert nudge.steps <= 6


@pytest.mark.parametrize("name", NAMES)
def test_a_row_without_a_token_can_be_written(name: str, folders: dict[str, Path]) -> None:
    """Published models have more rows than tokens, and a random one writes them."""
    student, _ = student_of(folders[name])
    rows, tokens = student.model.get_output_embeddings().weight.shape[0], len(student.tokenizer)
    assert (rows > tokens) == (name != LLAMA)
    nudge = Nudge(student.model, rows - 1, after=4)
    assert len(write(student, student, 0.0)) == len(PEOPLE)
    assert nudge.steps == LENGTH + 1  # one of them reads the prompts
    teacher = teacher_of(folders[name], temperature=0)
    write(teacher, student, 0.0)
    nudge = Nudge(teacher._model, rows - 1, after=4)
    assert all(reply.completion_tokens == LENGTH for reply in teacher.ask(questions(student)))


def logits_of(model: Any, ids: Sequence[int]) -> Tensor:
    with torch.no_grad():
        return model.eval()(torch.tensor([ids])).logits


@pytest.mark.parametrize(("name", "rank"), [*((name, 4) for name in NAMES), (QWEN, 0), (LLAMA, 0)])
def test_a_distilled_student_is_the_same_when_it_is_loaded(
    name: str, rank: int, folders: dict[str, Path], tmp_path: Path
) -> None:
    words = ["epochs=3", "batch_size=2", "lr=1e-2", f"lora={rank}", "dtype=auto", "max_new_tokens=600"]
    student, cfg = student_of(folders[name], *words)
    start, _ = student_of(folders[name], *words)
    made_of = {"purpose": "a test"}
    examples = build_examples(PEOPLE, [*labels_of("u0"), *labels_of("u1")], student, cfg.distill, 0)
    assert len(examples.rows) == 6
    ids = examples.rows[0]["input_ids"]
    assert ids[-1] == student.tokenizer.eos_token_id
    train(student, examples.rows, cfg, open_checkpoints(tmp_path / "student", made_of))
    save_student(student, tmp_path / "student", made_of)

    again, _ = student_of(tmp_path / "student", *words)
    kind, folder = (AutoPeftModelForCausalLM, ADAPTER) if rank else (AutoModelForCausalLM, "")
    stock: Any = kind.from_pretrained(tmp_path / "student" / folder, dtype="auto")
    assert {p.dtype for p in again.model.parameters() if p.shape[0] > 4 < p.shape[-1]} == {torch.bfloat16}
    assert again.fingerprint() == student.fingerprint()
    logits = logits_of(student.model, ids)
    assert torch.equal(logits, logits_of(again.model, ids))
    assert torch.equal(logits, logits_of(stock, ids))
    assert not torch.equal(logits, logits_of(start.model, ids))
    for model in (again.model, stock):
        tied = model.get_input_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()
        assert tied == (name == LLAMA)
    assert again.prompt(PEOPLE[0]) == student.prompt(PEOPLE[0]) == start.prompt(PEOPLE[0])
    assert again.answer('{"a": 1}') == start.answer('{"a": 1}')
    ends = stock.generation_config.eos_token_id
    assert set(ends if isinstance(ends, list) else [ends]) == set(start.tokenizer.convert_tokens_to_ids(ENDS[name]))
    for writer in (again, student):
        writer.settings = OmegaConf.merge(writer.settings, {"max_new_tokens": LENGTH})
    assert again.write(PEOPLE, 2, 1.0, seed=3) == student.write(PEOPLE, 2, 1.0, seed=3)


def first_draw(
    student: Student, cfg: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Any], list[tuple[int, ...]]]:
    """Return what ``generate`` is told in a step of reinforcement, and the prompts among it."""
    asked: list[dict[str, Any]] = []
    generate = student.model.generate

    def watched(**options: Any) -> Any:
        asked.append(options)
        return generate(**options)

    monkeypatch.setattr(student.model, "generate", watched)
    targets = {
        person.user_id: {a.name: Target(a.values[0], {a.values[0]: 1.0}) for a in SCHEMA.attributes}
        for person in PEOPLE
    }
    reinforce.train(student, PEOPLE, FrozenLabels(targets), recipe_settings(cfg, "ours"), cfg, folder)
    (draw,) = (options for options in asked if options.get("generation_config") is not None)
    rows = zip(draw["input_ids"], draw["attention_mask"], strict=True)
    return draw, [tuple(row[mask.bool()].tolist()) for row, mask in rows]


@pytest.mark.parametrize("name", [QWEN, GLM])
def test_a_student_that_learns_from_its_own_answers_reads_the_same_prompts(
    name: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all that its chat template is told; its answers have the same ends and no habits."""
    words = ["students.other.dtype=float32", "students.other.lora=0", f"students.other.max_new_tokens={LENGTH}"]
    thinking = "+students.other.template.enable_thinking=false"
    cfg = load_config("llm", [f"student={folders[name]}", *SHORT, *words, thinking, *STEP])
    student = Student(str(folders[name]), student_settings(cfg), SCHEMA)
    draw, prompts = first_draw(student, cfg, tmp_path, monkeypatch)
    assert set(prompts) == {tuple(student.prompt(person)) for person in PEOPLE}
    assert len(prompts) == 2 * 3
    ends = student.tokenizer.convert_tokens_to_ids(ENDS[name])
    assert set(draw["generation_config"].eos_token_id) == set(ends)
    assert student.model.generation_config.to_diff_dict().keys() & HABITS.keys() == set()
