"""Sentiment with and without profiles: what is held out, what is shown, transformers' classifiers, and the command."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sklearn.metrics import accuracy_score, f1_score
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from datamodules.draws import Draws
from datamodules.prepare import prepare
from mmprofile.apply import run as apply
from mmprofile.apply.sentiment import (
    PROFILES,
    SPLITS,
    Encoder,
    Reviews,
    Source,
    held_out,
    load_classifier,
    shown_profiles,
)
from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.evaluate.runs import load_run, make_data
from mmprofile.inputs.views import User, donors
from mmprofile.paths import ASSETS
from mmprofile.profile.schema import Attribute, Schema
from mmprofile.sweep.results import read_run
from mmprofile.train import run as train

SENTIMENT = Schema("sentiment", [Attribute("Sentiment", ("1", "2", "3", "4", "5"))])
KINDS = ("bert", "t5", "bart", "causal")
IDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
LONGEST = 256
HEADS = ("classifier.", "bert.pooler.", "classification_head.", "score.")
FAST = ["trainer.max_epochs=2", "inputs.train_reviews=1", "inputs.max_tokens=64", "resamples=50"]


def bert(size: int) -> BertForMaskedLM:
    return BertForMaskedLM(BertConfig(vocab_size=size, max_position_embeddings=LONGEST, **LAYERS, **IDS))


def bart(size: int) -> BartForConditionalGeneration:
    layers = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    sizes = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": LONGEST}
    return BartForConditionalGeneration(BartConfig(vocab_size=size, decoder_start_token_id=1, **layers, **sizes, **IDS))


def llama(size: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(vocab_size=size, max_position_embeddings=LONGEST, **LAYERS, **IDS))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A checkpoint of each kind: small random ones in the hub's layout, of T5 the package's own."""
    found = {"t5": "mmprofile:tiny/text"}
    for name, make in {"bert": bert, "bart": bart, "causal": llama}.items():
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(name)
        tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny" / "text")
        if name == "bert":
            tokenizer.add_special_tokens({"cls_token": "<extra_id_38>", "sep_token": "</s>"})
        if name == "causal":
            tokenizer.pad_token = None  # as Llama's
        make(len(tokenizer)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        found[name] = str(folder)
    return found


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("apply")


@pytest.fixture(scope="module")
def trained(out: Path) -> Path:
    """A finished run: one epoch on a small city."""
    words = ["experiment=smoke", "paradigm=text", "trainer.max_epochs=1", "trainer.progress=false"]
    train.main(load_config("train", [*words, f"out={out}", "name=run"]))
    return out / "run"


@pytest.fixture(scope="module")
def classify(out: Path, trained: Path, checkpoints: dict[str, str]) -> Callable[..., Path]:
    """``classify(kind, name, *overrides)`` runs the command; the folder."""

    def make(kind: str, name: str, *overrides: str) -> Path:
        words = [f"classifier={kind}", f"classifier.text={checkpoints[kind]}", f"run={trained}", f"out={out}"]
        apply.main(load_config("apply", [*words, f"name={name}", *FAST, "trainer.progress=false", *overrides]))
        return out / name

    return make


def draws_of(folder: Path, **inputs: Any) -> Draws:
    """The draws of a run, or what they were with other inputs."""
    _, cfg, model = load_run(str(folder))
    prepared = instantiate(cfg.data.prepare, _partial_=True)(schema=model.schema)
    return Draws(prepared, model.schema, {**OmegaConf.to_container(cfg.inputs), **inputs}, captions=False)


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_no_review_is_on_both_sides(trained: Path) -> None:
    draws = draws_of(trained)
    for split in SPLITS:
        found = held_out(draws, split, SENTIMENT, 3)
        drawn = {user.user_id: {row["review_id"] for row in rows} for rows, user in draws.of(split)}
        rows = {row["user_id"]: row["reviews"] for row in draws.prepared.datasets[split]}
        shown = {user.user_id: set(user.reviews) for user in draws.users(split)}
        assert (found.alone, found.unrated) == (0, 0)
        assert Counter(user.user_id for user in found.reviews) == dict.fromkeys(rows, 3)
        for user in found.reviews:
            (text,) = user.reviews
            same = [row for row in rows[user.user_id] if row["text"] == text]
            assert same
            assert not drawn[user.user_id] & {row["review_id"] for row in same}
            assert text not in shown[user.user_id]
            assert user.profile == {"Sentiment": (str(int(same[0]["stars"])),)}
        assert {(u.user_id, u.reviews) for u in held_out(draws, split, SENTIMENT, 1).reviews} <= {
            (u.user_id, u.reviews) for u in found.reviews
        }


def test_users_without_another_review_are_left_out_and_counted(tmp_path: Path) -> None:
    reviews = {
        "one review": [("a", 5)],
        "no stars": [("a", None), ("b", None), ("c", None)],
        "the same text": [("a", 2), ("a", 2), ("a", 2)],
        "half stars": [("a", 2.5), ("b", 2.5), ("c", 2.5)],
        "beyond": [("a", 9), ("b", 9), ("c", 9)],
    }
    lines = [
        {"user_id": user, "text": text, "stars": stars, "review_id": f"{user} {i}"}
        for user, given in reviews.items()
        for i, (text, stars) in enumerate(given)
    ]
    (tmp_path / "reviews.jsonl").write_text("\n".join(map(json.dumps, lines)))
    schema = Schema("any", [Attribute("Meal", ("Lunch", "Dinner"), unknown=True)])
    folder = prepare(
        {"kind": "custom", "reviews": str(tmp_path / "reviews.jsonl")},
        {"min_words": 1, "max_words": 9, "min_reviews": 1, "photo_reviews": 0},
        {"train": 5, "validation": 0, "test": 0},
        folder=tmp_path / "prepared",
        schema=schema,
        progress=False,
    )
    inputs = {"reviews": 1, "photos_per_review": 0, "sample_seed": 0, "redraw": False}
    found = held_out(Draws(folder, schema, inputs, captions=False), "train", SENTIMENT, 5)
    assert found.left_out == {"no_other_review": 2, "no_stars": 2}
    assert [user.profile for user in found.reviews] == [{"Sentiment": ("3",)}] * 2
    assert len({user.reviews for user in found.reviews}) == 2


def encoder_of(checkpoints: dict[str, str], kind: str, max_tokens: int) -> tuple[Any, Encoder]:
    words = ["run=x", f"classifier={kind}", f"classifier.text={checkpoints[kind]}"]
    torch.manual_seed(0)
    found = load_classifier(load_config("apply", words).classifier, 5)
    return found, Encoder(found.tokenizer, found.limit, max_tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_too_long_is_cut_off_the_review_and_never_off_the_profile(
    checkpoints: dict[str, str], kind: str, schema: Schema
) -> None:
    found, encoder = encoder_of(checkpoints, kind, 100)
    profile = schema.render({name: (schema[name].values[0],) for name in schema.names})
    end = found.tokenizer(f" profile: {profile}", add_special_tokens=False)["input_ids"]
    for review in ("a warm soup </s> and <pad> bread", "the soup was warm " * 200):
        alone, both = encoder(review), encoder(review, profile)
        for ids in (alone, both):
            assert ids[0] == (found.tokenizer.cls_token_id if kind == "bert" else ids[0])
            assert ids.count(1) == 1
            assert ids[-1] == 1
        assert both[: len(alone) - 1] == alone[:-1]  # the same part of the review
        assert both[len(alone) - 1 : -1] == end
    assert len(alone) == 100 + 1 + (kind == "bert")
    narrow = Encoder(found.tokenizer, len(end) + 40, 100)
    assert len(narrow(review, profile)) == len(end) + 40
    assert narrow(review, profile)[-len(end) - 1 : -1] == end
    with pytest.raises(UserError, match="are left for a review, of 16 at least"):
        Encoder(found.tokenizer, len(end) + 10, 100)(review, profile)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_classified_is_the_whole_text_and_no_padding(checkpoints: dict[str, str], kind: str) -> None:
    found, encoder = encoder_of(checkpoints, kind, 64)
    model, tokenizer = found.model.eval(), found.tokenizer
    users = [User(f"{i}", (text,), profile={"Sentiment": ("4",)}) for i, text in enumerate(("bad", "good " * 20))]
    profiles = {"0": "Stars: 1", "1": "Stars: 5"}
    data = Reviews({"test": users}, {"test": profiles}, SENTIMENT, encoder, 2, 0)
    (batch,) = data.loader("test")
    together = model(input_ids=batch.ids, attention_mask=batch.mask).logits
    assert together.shape == (2, 5)
    for row, user in enumerate(users):
        ids = torch.tensor([encoder(user.reviews[0], profiles[user.user_id])])
        alone = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)
        if kind == "bert":
            states = model.bert(input_ids=ids).last_hidden_state[:, 0]
            direct = model.classifier(torch.tanh(model.bert.pooler.dense(states)))
        elif kind == "causal":  # padded with its end token: the state before is taken
            last = -2 if tokenizer.pad_token_id == 1 else -1
            direct = model.score(model.model(input_ids=ids).last_hidden_state[:, last])
        else:
            inner = model.transformer if kind == "t5" else model.model
            shifted = torch.cat([torch.full((1, 1), model.config.decoder_start_token_id), ids[:, :-1]], 1)
            states = inner(input_ids=ids, decoder_input_ids=shifted).last_hidden_state[:, -1]
            direct = model.classification_head(states[:, None]).squeeze(1)
        torch.testing.assert_close(alone, direct, rtol=1e-4, atol=1e-5)
    assert batch.labels.tolist() == [3, 3]
    fresh = {name for name, parameter in model.named_parameters() if any(parameter is one for one in found.new)}
    assert fresh == {name for name, _ in model.named_parameters() if name.startswith(HEADS)}


@pytest.mark.parametrize("kind", KINDS)
def test_every_classifier_trains_and_is_scored(kind: str, out: Path, classify: Callable[..., Path]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (out / "profiles").glob("*")}
    folder = classify(kind, kind)
    kept = {path: path.stat().st_mtime_ns for path in (out / "profiles").glob("*")}
    assert sorted(path.name.split("-")[0] for path in kept) == sorted(SPLITS)
    assert kept == (before or kept)  # written once for all classifiers

    run, test = read_run(folder), metrics_of(folder)["test"]
    assert run.schema == SENTIMENT
    assert len(run.ids) == len(set(run.ids)) == test["n_users"] == 12
    gold, parsed = ([profile["Sentiment"][0] for profile in part] for part in (run.gold, run.parsed))
    assert [row["text"] for row in rows_of(folder / "predictions.jsonl")] == [f"Sentiment: {value}" for value in parsed]
    f1 = f1_score(gold, parsed, labels=sorted(set(gold)), average="macro", zero_division=0)
    assert test["macro_f1"] == pytest.approx(100 * f1)
    assert test["accuracy"] == pytest.approx(100 * accuracy_score(gold, parsed))
    assert test["interval"][0] <= test["macro_f1"] <= test["interval"][1]
    assert test["parse_fault_rate"] == 0
    metrics = metrics_of(folder)
    assert set(metrics["seconds"]) == {"prepare", "train", "evaluate"}
    assert set(metrics["baselines"]) == {"majority", "tfidf_lr"}
    assert metrics["n_parameters"] > 10_000
    assert len(metrics["history"]) == 2
    assert metrics["left_out"] == {split: {"no_other_review": 0, "no_stars": 0} for split in SPLITS}
    assert metrics["config"] == {
        "name": kind, "task": "sentiment", "classifier": kind, "profile": "generated", "data": "demo",
        "run": str(out / "run"), "seed": 0,
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_beside_an_adapter_the_new_head_trains_whole(checkpoints: dict[str, str], kind: str) -> None:
    words = ["run=x", f"classifier={kind}", f"classifier.text={checkpoints[kind]}", "classifier.lora.rank=2"]
    found = load_classifier(load_config("apply", words).classifier, 5)
    trained = {name for name, parameter in found.model.named_parameters() if parameter.requires_grad}
    heads = {name for name in trained if "modules_to_save" in name}
    assert {name.split(".modules_to_save")[0].split(".")[-1] for name in heads} == {
        "bert": {"dense", "classifier"}, "t5": {"dense", "out_proj"}, "bart": {"dense", "out_proj"}, "causal": {"score"},
    }[kind]  # fmt: skip
    assert all("lora_" in name for name in trained - heads)
    assert not any("lora_" in name and name.startswith(HEADS) for name in trained)
    assert len(found.new) == len(trained)


def test_an_adapter_trains_with_its_head(classify: Callable[..., Path]) -> None:
    folder = classify("causal", "lora", "classifier.lora.rank=2")
    state = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all("lora_" in name or "modules_to_save" in name for name in state)
    assert any("score" in name for name in state)
    assert any("lora_" in name for name in state)
    assert len(rows_of(folder / "predictions.jsonl")) == 12


def test_profiles_are_the_users_own_nobodys_or_somebody_elses(trained: Path, tmp_path: Path) -> None:
    folder, cfg, model = load_run(str(trained))
    prepared = instantiate(cfg.data.prepare, _partial_=True)(schema=model.schema)
    data = make_data(cfg, model, prepared)
    source = Source(folder / "model" / "model.safetensors", tmp_path, None, False)
    users = data.users("test")
    shown = {choice: shown_profiles(choice, model, data, "test", source) for choice in PROFILES}
    assert shown["none"] == {}
    assert shown["gold"] == {user.user_id: model.schema.render(user.profile or {}) for user in users}
    written = {row["user_id"]: row["text"] for row in rows_of(trained / "predictions.jsonl")}
    assert shown["generated"] == written  # a run's test predictions, which are of the same draw
    assert sorted(shown["shuffled"].values()) == sorted(written.values())
    order = [user.user_id for user in users]
    donor = [order[i] for i in donors(len(order), cfg.inputs.sample_seed)]
    assert all(a != b for a, b in zip(order, donor, strict=True))
    assert shown["shuffled"] == {a: written[b] for a, b in zip(order, donor, strict=True)}

    (path,) = tmp_path.iterdir()
    kept = path.read_text()
    path.write_text(kept.replace("Dinner", "Lunch"))
    assert source.profiles(model, data, "test") == [model.schema.parse(text.replace("Dinner", "Lunch")).profile
                                                    for text in written.values()]  # fmt: skip
    source._replace(beams=2).profiles(model, data, "test")  # another search: another file
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_shown_is_what_the_classifier_learns_from(classify: Callable[..., Path]) -> None:
    losses = {}
    for choice in ("none", "gold", "shuffled"):
        history = metrics_of(classify("causal", choice, f"inputs.profile={choice}"))["history"]
        losses[choice] = history[0]["loss"]
    assert len(set(losses.values())) == 3


def test_a_killed_training_goes_on_to_the_same_result(
    out: Path, trained: Path, checkpoints: dict[str, str], classify: Callable[..., Path]
) -> None:
    words = ["classifier=causal", f"classifier.text={checkpoints['causal']}", f"run={trained}", f"out={out}"]
    command = [sys.executable, "-m", "mmprofile.apply", *words, "name=killed", *FAST, "trainer.progress=false"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    last = out / "killed" / "checkpoints" / "last.ckpt"
    for line in process.stdout:
        if line.startswith("epoch   1/2"):
            break
    deadline = time.monotonic() + 60
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert last.exists()
    assert not (out / "killed" / "metrics.json").exists()
    undisturbed, resumed = metrics_of(classify("causal", "causal")), metrics_of(classify("causal", "killed"))
    losses = [[row["loss"] for row in one["history"]] for one in (undisturbed, resumed)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert (out / "causal" / "predictions.jsonl").read_text() == (out / "killed" / "predictions.jsonl").read_text()


def test_the_same_command_again_is_finished_and_another_is_refused(
    classify: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = classify("causal", "none", "inputs.profile=none")
    before = (folder / "metrics.json").stat().st_mtime_ns
    capsys.readouterr()
    classify("causal", "none", "inputs.profile=none")
    assert "is finished" in capsys.readouterr().out
    assert (folder / "metrics.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"inputs\.profile: none -> gold"):
        classify("causal", "none", "inputs.profile=gold")


@pytest.mark.parametrize("kind", KINDS)
def test_real_checkpoints_are_named(kind: str) -> None:
    cfg = load_config("apply", ["run=x", f"classifier={kind}", "classifier.size=base"])
    assert "mmprofile:" not in cfg.classifier.text
    assert cfg.optim.lr_new == cfg.classifier.lr.new < 1e-3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run=nowhere"], "run=nowhere: no run there"),
        (["task=humour"], "task=humour: there is no such choice"),
        (["classifier=brt"], "did you mean bert?"),
        (["classifier.size=huge"], "classifier.size=huge: classifier bert has the sizes tiny, base"),
        (["inputs.profile=true"], "inputs.profile='True' is not one of none, generated, gold, shuffled"),
        (["profile=true"], "must be a string or a list"),
        (["inputs.train_reviews=0"], "inputs.train_reviews=0: give 1 or more"),
        (["classifier.dtype=float16"], "classifier.dtype='float16' is not one of float32, bfloat16"),
        (["classifier.text=no/such"], "classifier.text='no/such' cannot be loaded"),
        (["classifier.text=mmprofile:tiny/vision"], "cannot be loaded"),
        (["trainer.precision=16-mixed"], "fp16"),
        (["optim.schedule=steps"], "optim.schedule='steps'"),
    ],
)
def test_mistakes_are_one_line(words: list[str], says: str, trained: Path, tmp_path: Path) -> None:
    run = [f"run={trained}"] if not words[0].startswith("run=") else []
    with pytest.raises(UserError) as error:
        apply.main(load_config("apply", [*run, f"out={tmp_path}", *words]))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_that_is_not_whole_is_one_line(trained: Path, checkpoints: dict[str, str], tmp_path: Path) -> None:
    def refused(key: str, value: Any, says: str, model: bool = True) -> None:
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(trained, folder)
        if not model:
            shutil.rmtree(folder / "model")
        changed = OmegaConf.load(folder / "config.yaml")
        OmegaConf.update(changed, key, value, merge=False)
        OmegaConf.save(changed, folder / "config.yaml")
        words = [f"run={folder}", f"out={tmp_path}", f"classifier.text={checkpoints['bert']}", *FAST]
        with pytest.raises(UserError, match=says):
            apply.main(load_config("apply", words))

    refused("seed", 0, "its training has not finished", model=False)
    refused("model.system", "tfidf_lr", "system tfidf_lr leaves no model behind")
    refused("data.prepare.source", {"kind": "custom", "reviews": "gone.jsonl"}, "gone")
    refused("inputs.reviews", 1000, "train has no review to classify: of its users, 35 have no review but those")


def test_the_command_line_answers_a_typo_at_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mmprofile.apply", "task=sentimant", "run=x"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: task=sentimant: there is no such choice (did you mean sentiment?)")
    assert done.stderr.count("\n") == 1
