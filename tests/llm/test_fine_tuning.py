"""What a student learns: tokens and weights by hand, the loss against an oracle, training that goes on."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from mmprofile.inputs.batch import IGNORE
from mmprofile.llm.answers import Claim, parse_answer
from mmprofile.llm.fine_tuning import (
    AnswerCollator,
    WeightedTrainer,
    build_examples,
    target_answer,
    thin_texts,
    token_weights,
    train,
)
from mmprofile.llm.people import Person
from tests.support.published import save_miniature
from tests.support.tinystudent import CLAIMS, PEOPLE, SCHEMA, labels_of, open_student, script


def test_what_is_read_is_not_learned(random_student: Path) -> None:
    pupil, cfg = open_student(random_student, "students.other.epochs=2", "distill.thin=0")
    examples = build_examples([*PEOPLE[:1], PEOPLE[2]], labels_of(), pupil, cfg.distill, 0)
    assert (len(examples.rows), examples.unlabelled, examples.too_long) == (2, ["u2"], [])  # u0 in two epochs
    row = examples.rows[0]
    prompt = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label == IGNORE]
    assert pupil.tokenizer.decode(prompt) == f"I live alone. My wife waits! We left.{script.ANSWER}"
    written = [label for label in row["labels"] if label != IGNORE]
    assert written[-1] == pupil.tokenizer.eos_token_id
    text = pupil.tokenizer.decode(written[:-1])
    assert text == target_answer(labels_of(), SCHEMA)
    assert parse_answer(text, SCHEMA).claims["Age"] == Claim("18-24", 0.2, "cue 1")
    assert set(row["weights"]) == {0.0, 1.0}


def test_people_too_long_for_the_context_are_counted(random_student: Path) -> None:
    pupil, cfg = open_student(random_student)
    long = Person("u0", ("I am me. " * 4000,))
    examples = build_examples([long], labels_of(), pupil, cfg.distill, 0)
    assert (examples.rows, examples.too_long, examples.unwritable) == ([], ["u0"], [])
    assert pupil.write([long, PEOPLE[1]], 2, 1.0, seed=0)[0] == []


def test_people_with_answers_too_long_to_write_are_counted(random_student: Path) -> None:
    length = len(open_student(random_student)[0].answer(target_answer(labels_of(), SCHEMA))[0])
    for room in (length - 1, length):
        pupil, cfg = open_student(random_student, f"students.other.max_new_tokens={room}", "students.other.epochs=1")
        examples = build_examples(PEOPLE[:1], labels_of(), pupil, cfg.distill, 0)
        assert (len(examples.rows), examples.unwritable) == ((0, ["u0"]) if room < length else (1, []))


def test_texts_with_evidence_stay() -> None:
    rng = random.Random(0)
    lengths = [len(thin_texts(PEOPLE[0], ["MY wife"], 0.5, rng).reviews) for _ in range(2000)]
    assert all("My wife waits! It rained." in thin_texts(PEOPLE[0], ["my wife"], 1.0, rng).reviews for _ in range(9))
    assert sum(lengths) / 2000 == pytest.approx(2.0, abs=0.06)  # the evidence, and each other text half of the time
    assert thin_texts(PEOPLE[0], [""], 1.0, rng).reviews == PEOPLE[0].reviews[:1]  # never nothing
    assert (
        thin_texts(PEOPLE[0], ["my wife", "She is married."], 1.0, rng) == PEOPLE[0]
    )  # what she goes by could be anywhere


def test_tokens_weigh_what_their_attribute_does(random_student: Path) -> None:
    pupil, _ = open_student(random_student)
    text = target_answer(labels_of(), SCHEMA)
    ids, spans = pupil.answer(text)
    weights = token_weights(text, spans, {name: claim.confidence for name, claim in CLAIMS.items()})
    texts: dict[float, str] = {}
    for token, weight in zip(ids[:-1], weights[:-1], strict=True):
        texts[weight] = texts.get(weight, "") + pupil.tokenizer.decode([token])
    assert weights[-1] == 1.0
    assert [round(weight, 1) for weight in texts] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    for part, (name, claim) in zip(texts.values(), CLAIMS.items(), strict=True):
        assert f'"{name}": {{"rationale": "{claim.rationale}", "value": "{claim.value}"' in part


def test_the_loss_is_the_weighted_cross_entropy(random_student: Path) -> None:
    pupil, cfg = open_student(random_student, "distill.weighted=true", "students.other.epochs=1")
    examples = build_examples(PEOPLE, [*labels_of("u0"), *labels_of("u1")[:2]], pupil, cfg.distill, 0)
    batch = AnswerCollator(pupil.tokenizer.pad_token_id)(examples.rows)
    loss = WeightedTrainer.compute_loss(None, pupil.model, batch)  # type: ignore[arg-type]
    total, count = 0.0, 0
    for row in examples.rows:
        ids = torch.tensor([row["input_ids"]])
        likely = F.log_softmax(pupil.model(input_ids=ids).logits[0], -1)
        for place, (label, weight) in enumerate(zip(row["labels"], row["weights"], strict=True)):
            if label != IGNORE:
                total, count = total - weight * likely[place - 1, label].item(), count + 1
    assert loss.item() == pytest.approx(total / count, rel=1e-4)
    assert WeightedTrainer.compute_loss(None, pupil.model, batch, num_items_in_batch=2 * count).item() == pytest.approx(  # type: ignore[arg-type]
        total / count / 2, rel=1e-4
    )


def causal_model(name: str, folder: Path, lora: bool) -> Any:
    """Return a random model with logits that matter; with an adapter that does something, where one is asked for."""
    if name == "gemma2":  # its logits are capped, and its input and output embeddings are one
        sizes = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
        }
        torch.manual_seed(0)
        model: Any = Gemma2ForCausalLM(
            Gemma2Config(
                vocab_size=300, num_hidden_layers=2, initializer_range=0.3, final_logit_softcapping=2.0, **sizes
            )
        )
    else:
        model = AutoModelForCausalLM.from_pretrained(save_miniature(name, folder), dtype=torch.float32)
    if not lora:
        return model
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    for weight_name, weight in adapted.named_parameters():
        if "lora_B" in weight_name:
            torch.nn.init.normal_(weight, std=0.1)
    return adapted


def random_rows(vocabulary: int, sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Return examples with so many tokens of a prompt and of an answer."""
    rng = random.Random(0)
    rows = []
    for prompt, answer in sizes:
        ids = [rng.randrange(vocabulary) for _ in range(prompt + answer)]
        weights = [0.0] * prompt + [rng.random() for _ in range(answer)]
        rows.append({"input_ids": ids, "labels": [IGNORE] * prompt + ids[prompt:], "weights": weights})
    return rows


def loss_of_all_logits(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The oracle: logits of every token, the prompt's and the padding's among them."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    labels, weights = batch["labels"][:, 1:], batch["weights"][:, 1:]
    losses = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORE, reduction="none")
    return (losses * weights).sum() / (labels != IGNORE).sum()


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize(
    "name", ["gemma2", "Qwen/Qwen3-8B", "meta-llama/Llama-3.2-1B", "zai-org/glm-4-9b-chat-hf", "zai-org/GLM-4-32B-0414"]
)
def test_logits_of_answers_alone_give_the_loss_and_gradients_of_all(name: str, lora: bool, tmp_path: Path) -> None:
    model = causal_model(name, tmp_path, lora)
    vocabulary = model.config.vocab_size
    batch = AnswerCollator(0)(random_rows(vocabulary, [(9, 3), (4, 1), (2, 8)]))
    expected = loss_of_all_logits(model, batch)
    expected.backward()
    gradients = {key: weight.grad.clone() for key, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    loss, outputs = WeightedTrainer.compute_loss(None, model, batch, return_outputs=True)  # type: ignore[arg-type]
    loss.backward()
    assert outputs.logits.shape == (3 + 1 + 8, vocabulary)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert len(gradients) >= 10
    for key, weight in model.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(weight.grad, gradients[key], rtol=1e-4, atol=1e-6)
    with torch.no_grad():  # the head reads all again
        assert model(input_ids=batch["input_ids"]).logits.shape == (*batch["input_ids"].shape, vocabulary)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_in_parts_is_the_step_at_once(random_student: Path, tmp_path: Path, checkpointing: bool) -> None:
    """Also where the parts have answers of different lengths, and the last step has fewer answers than the others."""
    words = ["students.other.batch_size=4", "students.other.lr=1e-2", "progress=false"]
    students = {}
    for part in ("null", "2"):
        in_memory = [
            f"students.other.micro_batch_size={part}",
            f"students.other.gradient_checkpointing={checkpointing}",
        ]
        pupil, cfg = open_student(random_student, *words, *(in_memory if part != "null" else []))
        rows = random_rows(300, [(5 + 3 * i, 40 if i % 3 else 4) for i in range(10)])
        losses = train(pupil, rows, cfg, tmp_path / part)
        students[part] = (losses, pupil.model.state_dict())
    whole_loss, whole = students.pop("null")
    start = open_student(random_student)[0].model.state_dict()
    assert max((whole[name] - start[name]).abs().max() for name in whole) > 5e-3
    for loss, weights in students.values():
        assert loss == pytest.approx(whole_loss, rel=1e-4)
        for name, weight in weights.items():
            torch.testing.assert_close(weight, whole[name], rtol=0, atol=2e-4)


@pytest.mark.parametrize("lora", [0, 2])
def test_training_goes_on_from_the_last_checkpoint_that_is_whole(
    lora: int, random_student: Path, tmp_path: Path
) -> None:
    overrides = [
        f"students.other.lora={lora}",
        "students.other.epochs=8",
        "students.other.batch_size=1",
        "progress=false",
    ]
    pupil, cfg = open_student(random_student, *overrides, "students.other.lr=1e-2")
    rows = build_examples(PEOPLE[:1], labels_of(), pupil, cfg.distill, 0).rows
    loss = train(pupil, rows, cfg, tmp_path)
    half = tmp_path / "checkpoint-999"
    half.mkdir()
    (half / "trainer_state.json").write_text('{"best_global_step": nu')
    resumed, cfg = open_student(
        random_student, *overrides, "students.other.lr=1e-3"
    )  # would end elsewhere if it began anew
    assert train(resumed, rows, cfg, tmp_path) == loss
    for before, after in zip(pupil.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(before, after)


def test_an_adapter_is_beside_the_weights_until_it_is_merged(random_student: Path, tmp_path: Path) -> None:
    pupil, cfg = open_student(
        random_student, "students.other.lora=2", "students.other.epochs=40", "students.other.lr=1e-2", "progress=false"
    )
    rows = build_examples(PEOPLE[:1], labels_of(), pupil, cfg.distill, 0).rows
    before = {name: weight.clone() for name, weight in pupil.model.state_dict().items()}
    train(pupil, rows, cfg, tmp_path / "partial")
    beside = {
        name.replace(".base_layer", ""): weight
        for name, weight in pupil.model.state_dict().items()
        if "lora" not in name
    }
    assert set(beside) == set(before)
    assert all(torch.equal(weight, before[name]) for name, weight in beside.items())
    pupil.merge()
    after = pupil.model.state_dict()
    assert set(after) == set(before)
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert changed
    assert all("_proj" in name for name in changed)  # not embeddings and norms
    difference = after[min(changed)] - before[min(changed)]
    assert torch.linalg.matrix_rank(difference, rtol=1e-3) <= 2


def test_tensorboard_has_every_step(random_student: Path, tmp_path: Path) -> None:
    pupil, cfg = open_student(random_student, "students.other.batch_size=2", "progress=false")
    loss = train(pupil, random_rows(300, [(5, 9)] * 6), cfg, tmp_path / "student.partial")
    events = EventAccumulator(str(tmp_path / "tensorboard" / "student")).Reload().Scalars("train/loss")
    assert [event.step for event in events] == [1, 2, 3]
    assert sum(event.value for event in events) / 3 == pytest.approx(loss)
    pupil, cfg = open_student(random_student, "students.other.batch_size=2", "progress=false", "trackers=[]")
    train(pupil, random_rows(300, [(5, 9)] * 6), cfg, tmp_path / "untracked.partial")
    assert not (tmp_path / "tensorboard" / "untracked").exists()
