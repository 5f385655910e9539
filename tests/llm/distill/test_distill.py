"""What a student reads and learns: tokens and weights by hand, the loss against an oracle, the command."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.llm.answers import Claim, parse_answer, render_answer
from mmprofile.llm.distill.training import IGNORE, Collator, Trainer, examples, target, thinned, token_weights, train
from mmprofile.llm.labels import Label
from mmprofile.llm.people import Person
from mmprofile.llm.student import ANSWER, Student, answer_pieces, build_model, build_tokenizer, condense
from mmprofile.llm.student_folder import begin, finish, finished, student_settings, write_made_of
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema

SCHEMA = Schema.from_yaml(conf_dir() / "profile" / "text_only.yaml")
CLAIMS = {name: Claim(SCHEMA[name].values[0], 0.1 * (i + 1), f"cue {i}") for i, name in enumerate(SCHEMA.names)}
PEOPLE = [
    Person(f"u{i}", ("The soup was hot. I live alone.", "My wife waits! It rained.", "We left.")) for i in range(3)
]
READ = [
    "students.other.reads=first_person",
    "students.other.prompt.system=''",
    "students.other.prompt.user='{person}'",
    "students.other.dtype=float32",
    "students.other.lora=0",
    "students.other.max_new_tokens=100",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random student, in hub layout."""
    path = tmp_path_factory.mktemp("student")
    texts = [condense(person, "first_person") for person in PEOPLE] + [render_answer(CLAIMS, SCHEMA)]
    tokenizer = build_tokenizer(texts, SCHEMA, size=400)
    torch.manual_seed(0)
    build_model(tokenizer, width=32, layers=2).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def student(folder: Path, *overrides: str) -> tuple[Student, Any]:
    cfg = load_config("llm", [f"student={folder}", *READ, *overrides])
    return Student(str(folder), student_settings(cfg), SCHEMA), cfg


def labels(user: str = "u0") -> list[Label]:
    return [
        Label(user, name, claim.value, claim.confidence, rationale=claim.rationale) for name, claim in CLAIMS.items()
    ]


def test_only_sentences_about_the_writer_are_read() -> None:
    assert condense(PEOPLE[0], "first_person") == "I live alone. My wife waits! We left."
    assert condense(PEOPLE[0], "all").count("- ") == 3
    cued = Person("u", ("Nice.",), {"searched": ("prams", "cots")})
    assert condense(cued, "first_person") == "searched: prams, cots\n"
    with pytest.raises(UserError, match=r"student.reads='some'"):
        condense(PEOPLE[0], "some")


def test_answers_survive_the_tokenizer(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = render_answer(CLAIMS, SCHEMA)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    for piece in answer_pieces(SCHEMA):
        assert len(tokenizer(piece, add_special_tokens=False).input_ids) == 1
        assert piece in text
    strange = 'naïve "quotes" {braces} 日本 🙂\n'
    assert tokenizer.decode(tokenizer(strange, add_special_tokens=False).input_ids) == strange
    asked = [{"role": "system", "content": ""}, {"role": "user", "content": "I am me."}]
    assert tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) == f"I am me.{ANSWER}"


def test_what_is_read_is_not_learned(folder: Path) -> None:
    pupil, cfg = student(folder, "students.other.epochs=2", "distill.thin=0")
    made = examples([*PEOPLE[:1], PEOPLE[2]], labels(), pupil, cfg.distill, 0)
    assert (len(made.rows), made.unlabelled, made.too_long) == (2, ["u2"], [])  # u0 in two epochs
    row = made.rows[0]
    read = [one for one, label in zip(row["input_ids"], row["labels"], strict=True) if label == IGNORE]
    assert pupil.tokenizer.decode(read) == f"I live alone. My wife waits! We left.{ANSWER}"
    written = [label for label in row["labels"] if label != IGNORE]
    assert written[-1] == pupil.tokenizer.eos_token_id
    text = pupil.tokenizer.decode(written[:-1])
    assert text == target(labels(), SCHEMA)
    assert parse_answer(text, SCHEMA).claims["Age"] == Claim("18-24", 0.2, "cue 1")
    assert set(row["weights"]) == {0.0, 1.0}


def test_people_too_long_for_the_context_are_counted(folder: Path) -> None:
    pupil, cfg = student(folder)
    long = Person("u0", ("I am me. " * 4000,))
    made = examples([long], labels(), pupil, cfg.distill, 0)
    assert (made.rows, made.too_long, made.unwritable) == ([], ["u0"], [])
    assert pupil.write([long, PEOPLE[1]], 2, 1.0, seed=0)[0] == []


def test_people_with_answers_too_long_to_write_are_counted(folder: Path) -> None:
    length = len(student(folder)[0].answer(target(labels(), SCHEMA))[0])
    for room in (length - 1, length):
        pupil, cfg = student(folder, f"students.other.max_new_tokens={room}", "students.other.epochs=1")
        made = examples(PEOPLE[:1], labels(), pupil, cfg.distill, 0)
        assert (len(made.rows), made.unwritable) == ((0, ["u0"]) if room < length else (1, []))


def test_texts_with_evidence_stay() -> None:
    rng = random.Random(0)
    kept = [len(thinned(PEOPLE[0], ["MY wife"], 0.5, rng).reviews) for _ in range(2000)]
    assert all("My wife waits! It rained." in thinned(PEOPLE[0], ["my wife"], 1.0, rng).reviews for _ in range(9))
    assert sum(kept) / 2000 == pytest.approx(2.0, abs=0.06)  # the evidence, and each other text half of the time
    assert thinned(PEOPLE[0], [""], 1.0, rng).reviews == PEOPLE[0].reviews[:1]  # never nothing
    assert (
        thinned(PEOPLE[0], ["my wife", "She is married."], 1.0, rng) == PEOPLE[0]
    )  # what she goes by could be anywhere


def test_tokens_weigh_what_their_attribute_does(folder: Path) -> None:
    pupil, _ = student(folder)
    text = target(labels(), SCHEMA)
    ids, spans = pupil.answer(text)
    weights = token_weights(text, spans, {name: claim.confidence for name, claim in CLAIMS.items()})
    found: dict[float, str] = {}
    for one, weight in zip(ids[:-1], weights[:-1], strict=True):
        found[weight] = found.get(weight, "") + pupil.tokenizer.decode([one])
    assert weights[-1] == 1.0
    assert [round(weight, 1) for weight in found] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    for part, (name, claim) in zip(found.values(), CLAIMS.items(), strict=True):
        assert f'"{name}": {{"rationale": "{claim.rationale}", "value": "{claim.value}"' in part


def test_the_loss_is_the_weighted_cross_entropy(folder: Path) -> None:
    pupil, cfg = student(folder, "distill.weighted=true", "students.other.epochs=1")
    made = examples(PEOPLE, [*labels("u0"), *labels("u1")[:2]], pupil, cfg.distill, 0)
    batch = Collator(pupil.tokenizer.pad_token_id)(made.rows)
    loss = Trainer.compute_loss(None, pupil.model, batch)  # type: ignore[arg-type]
    total, count = 0.0, 0
    for row in made.rows:
        ids = torch.tensor([row["input_ids"]])
        likely = F.log_softmax(pupil.model(input_ids=ids).logits[0], -1)
        for place, (label, weight) in enumerate(zip(row["labels"], row["weights"], strict=True)):
            if label != IGNORE:
                total, count = total - weight * likely[place - 1, label].item(), count + 1
    assert loss.item() == pytest.approx(total / count, rel=1e-4)
    assert Trainer.compute_loss(None, pupil.model, batch, num_items_in_batch=2 * count).item() == pytest.approx(  # type: ignore[arg-type]
        total / count / 2, rel=1e-4
    )


def test_sampling_is_the_same_again_and_greedy_is_one_by_one(folder: Path) -> None:
    pupil, _ = student(folder)
    people = [*PEOPLE, Person("v", ("I went. " * 30,))]
    drawn = pupil.write(people, 3, 1.0, seed=1)
    assert drawn == pupil.write(people, 3, 1.0, seed=1)
    assert drawn != pupil.write(people, 3, 1.0, seed=2)
    assert len({text for texts in drawn for text in texts}) > 6
    greedy = pupil.write(people, 1, 0.0, seed=0)
    assert greedy == [pupil.write([person], 1, 0.0, seed=0)[0] for person in people]


def command(stage: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"mmprofile.llm.{stage}", "progress=false", *arguments]


def run(stage: str, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(command(stage, *arguments), capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def voted(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Labels of a small city; the words that choose it."""
    out = tmp_path_factory.mktemp("out")
    how = ["data=demo", "data.prepare.source.users=30", f"out={out}", "samples=2", "seed=0"]
    run("teacher", *how)
    run("vote", *how)
    return how


def test_the_command_trains_and_goes_on_when_killed(folder: Path, voted: list[str]) -> None:
    out = Path(voted[2].partition("=")[2]) / "demo"
    how = [
        *voted,
        f"student={folder}",
        *READ,
        "students.other.epochs=8",
        "students.other.batch_size=4",
        "students.other.lr=1e-2",
    ]
    started = subprocess.Popen(command("distill", *how), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((out / "student.partial").glob("checkpoint-*/trainer_state.json")):
        assert started.poll() is None
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert not (out / "student").exists()
    printed = run("distill", *how)
    assert "left out: 0 without labels, 0 with texts too long" in printed
    before, after = AutoModelForCausalLM.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(out / "student")
    assert not torch.equal(before.lm_head.weight, after.lm_head.weight)
    assert not (out / "student.partial").exists()
    assert "a demonstration on generated people" in (out / "student" / "README.md").read_text()
    assert run("distill", *how).endswith("student: found\n")


def test_only_checkpoints_on_the_way_to_the_same_are_gone_on_from(tmp_path: Path) -> None:
    folder = begin(tmp_path / "student", {"seed": 0})
    (folder / "checkpoint-1").mkdir()
    assert begin(tmp_path / "student", {"seed": 0}) == folder
    assert (folder / "checkpoint-1").exists()
    begin(tmp_path / "student", {"seed": 1})
    assert not (folder / "checkpoint-1").exists()


def test_training_goes_on_from_the_last_checkpoint_that_is_whole(folder: Path, tmp_path: Path) -> None:
    how = ["students.other.epochs=8", "students.other.batch_size=1", "progress=false"]
    pupil, cfg = student(folder, *how, "students.other.lr=1e-2")
    rows = examples(PEOPLE[:1], labels(), pupil, cfg.distill, 0).rows
    loss = train(pupil, rows, cfg, tmp_path)
    half = tmp_path / "checkpoint-999"
    half.mkdir()
    (half / "trainer_state.json").write_text('{"best_global_step": nu')
    again, cfg = student(folder, *how, "students.other.lr=1e-3")  # would end elsewhere if it began anew
    assert train(again, rows, cfg, tmp_path) == loss
    for before, after in zip(pupil.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(before, after)


def test_a_student_that_is_half_saved_is_not_taken_for_the_one_before(folder: Path, tmp_path: Path) -> None:
    pupil, _ = student(folder)
    (tmp_path / "student" / "model.safetensors").mkdir(parents=True)  # where no file can be written
    write_made_of(tmp_path / "student", {"seed": 0})
    with pytest.raises(SafetensorError):
        finish(pupil, tmp_path / "student", {"seed": 1})
    assert not finished(tmp_path / "student", {"seed": 0})


def test_an_adapter_ends_up_in_the_weights(folder: Path, tmp_path: Path) -> None:
    pupil, cfg = student(
        folder, "students.other.lora=2", "students.other.epochs=40", "students.other.lr=1e-2", "progress=false"
    )
    rows = examples(PEOPLE[:1], labels(), pupil, cfg.distill, 0).rows
    before = {name: weight.clone() for name, weight in pupil.model.state_dict().items()}
    train(pupil, rows, cfg, tmp_path / "partial")
    after = pupil.model.state_dict()
    assert set(after) == set(before)
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert changed
    assert all("_proj" in name for name in changed)  # not embeddings and norms
    difference = after[min(changed)] - before[min(changed)]
    assert torch.linalg.matrix_rank(difference, rtol=1e-3) <= 2


def test_without_weights_the_tiny_student_says_how_to_make_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("mmprofile.llm.student.TINY", tmp_path / "absent")
    with pytest.raises(UserError, match=r"scripts/pretrain_student.py makes them"):
        Student("tiny", student_settings(load_config("llm", [])), SCHEMA)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["student=/nowhere"], "student='/nowhere' cannot be loaded"),
        (["distill.thin=2"], "distill.thin=2.0 is not a share"),
        (["name=nothing"], "labels.parquet: no table of labels"),
        (["students.other.max_new_tokens=4090"], "too long for the student's context"),
        (["students.other.reads=some"], "students.other.reads=some is not one of first_person, all"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], says: str, folder: Path, voted: list[str]) -> None:
    printed = run("distill", *voted, f"student={folder}", *READ, *arguments, code=2)
    assert says in printed.splitlines()[-1]
    assert "Traceback" not in printed
