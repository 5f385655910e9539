"""What a student learns: tokens and weights by hand, the loss against an oracle, training that goes on."""

import random
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from mmprofile.inputs.batch import IGNORE
from mmprofile.llm.answers import Claim, parse_answer
from mmprofile.llm.distill.training import (
    AnswerCollator,
    WeightedTrainer,
    build_examples,
    target_answer,
    thin_texts,
    token_weights,
    train,
)
from mmprofile.llm.people import Person
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


def test_training_goes_on_from_the_last_checkpoint_that_is_whole(random_student: Path, tmp_path: Path) -> None:
    overrides = ["students.other.epochs=8", "students.other.batch_size=1", "progress=false"]
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


def test_an_adapter_ends_up_in_the_weights(random_student: Path, tmp_path: Path) -> None:
    pupil, cfg = open_student(
        random_student, "students.other.lora=2", "students.other.epochs=40", "students.other.lr=1e-2", "progress=false"
    )
    rows = build_examples(PEOPLE[:1], labels_of(), pupil, cfg.distill, 0).rows
    before = {name: weight.clone() for name, weight in pupil.model.state_dict().items()}
    train(pupil, rows, cfg, tmp_path / "partial")
    after = pupil.model.state_dict()
    assert set(after) == set(before)
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert changed
    assert all("_proj" in name for name in changed)  # not embeddings and norms
    difference = after[min(changed)] - before[min(changed)]
    assert torch.linalg.matrix_rank(difference, rtol=1e-3) <= 2
