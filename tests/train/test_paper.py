"""``experiment=paper`` from start to end on miniatures of its checkpoints: each setting of the paper is looked for in what
happened (batches, losses, optimizer, predictions), not in the configuration."""

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from datamodules.prepare import open_prepared, prepare
from datamodules.prepared import save_splits
from mmprofile.config.compose import load_config
from mmprofile.evaluate.runs import load_run, run_data
from mmprofile.inputs.batch import IGNORE
from mmprofile.model.model import ProfileModel
from mmprofile.model.vision import VisionEncoder
from mmprofile.profile.schema import Schema
from mmprofile.train import run as train
from tests.support.htmlpage import Page
from tests.support.published import save_miniature
from tests.support.watchedrun import Watched, view_ids, view_photos, watch

TRAIN, VALIDATION, TEST = 8, 4, 4
STEPS = 2  # of an epoch: batches of 4 users
EPOCHS = 10
LIMIT = 600  # tokens of a text
TIMES = 25  # how often the text of a long review is repeated
VIEWS = ["fusion", "text", "masked_image", "masked_profile"]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, schema: Schema) -> list[str]:
    """The words of the command: the paper's experiment with miniatures, over a small city with some long reviews."""
    folder = tmp_path_factory.mktemp("paper")
    city: dict[str, Any] = {
        "source": {"kind": "demo", "users": 40, "seed": 0, "keep_raw": False},
        "split": {"train": TRAIN, "validation": VALIDATION, "test": TEST, "seed": 0},
    }
    prepared = prepare(**city, schema=schema, folder=folder / "prepared", progress=False)
    lengthen(prepared)
    text = save_miniature("google/flan-t5-base", folder / "flan-t5-base")
    vision = save_miniature("timm/vit_base_patch16_224.augreg2_in21k_ft_in1k", folder / "vit_base_patch16_224")
    return [
        "experiment=paper",
        f"model.text.name={text}",
        f"model.vision.name=local-dir:{vision}",
        "data=demo",
        f"data.prepare.source.users={city['source']['users']}",
        f"data.prepare.split={{train: {TRAIN}, validation: {VALIDATION}, test: {TEST}}}",
        f"data.prepare.folder={prepared}",
        "trainer=cpu",
        "trainer.progress=false",
        "trainer.checkpoint_every=1",
        "probe.users=0",
        "evaluation.resamples=20",
    ]


@pytest.fixture(scope="module")
def watched(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Watched:
    return watch(words, tmp_path_factory.mktemp("out") / "paper")


def lengthen(folder: Path) -> None:
    """Make the reviews of every eighth user of a prepared folder long: three of them exceed the limit of tokens."""
    splits = {}
    for name, table in open_prepared(folder).datasets.items():
        rows = table.to_list()
        for row in rows[1::8]:
            row["reviews"] = [{**review, "text": " ".join([review["text"]] * TIMES)} for review in row["reviews"]]
        splits[name] = datasets.Dataset.from_list(rows, features=table.features)
        shutil.rmtree(folder / name)
    save_splits(folder, splits)


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def checkpoint(folder: Path, name: str) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def test_all_epochs_are_trained_with_four_users_a_step(watched: Watched) -> None:
    last = checkpoint(watched.folder, "last")
    assert last["global_step"] == EPOCHS * STEPS == len(watched.batches)
    history = metrics_of(watched.folder)["history"]
    assert [row["epoch"] for row in history] == list(range(1, EPOCHS + 1))
    for epoch in range(EPOCHS):
        batches = watched.batches[epoch * STEPS : (epoch + 1) * STEPS]
        assert [len(batch.users) for batch in batches] == [4] * STEPS
        assert len({user for batch in batches for user in batch.users}) == TRAIN


def test_adam_has_the_papers_rate_in_both_groups_and_keeps_it(watched: Watched) -> None:
    last = checkpoint(watched.folder, "last")
    [adam] = last["optimizer_states"]
    assert len(adam["param_groups"]) == 2
    for group in adam["param_groups"]:
        assert (group["lr"], group["betas"], group["eps"]) == (5e-5, (0.9, 0.999), 1e-8)
        assert group["weight_decay"] == 0
        assert not group["amsgrad"]
        assert group["params"]
    [schedule] = last["lr_schedulers"]
    assert schedule["_last_lr"] == schedule["base_lrs"] == [5e-5, 5e-5]  # after the last step; a decay would be at 0
    assert {int(state["step"]) for state in adam["state"].values()} == {EPOCHS * STEPS}  # every parameter, ViT's too


def test_a_first_step_of_adam_is_as_large_as_its_rate(watched: Watched) -> None:
    """No warm-up, and no weight is frozen: where there is a gradient, Adam's first step is its rate."""
    cfg = load_config("train", watched.words)
    fresh = train.make_model(cfg, Schema.from_config(cfg.profile))
    last = checkpoint(watched.folder, "last")["state_dict"]
    state = {name.removeprefix("model."): value for name, value in last.items()}
    still = [name for name, value in fresh.named_parameters() if torch.equal(state[name], value)]
    assert [name for name in still if "fusion" not in name] == []


@pytest.fixture(scope="module")
def model(watched: Watched) -> ProfileModel:
    """The exported model, in evaluation mode."""
    return load_run(str(watched.folder)).model


@pytest.fixture(scope="module")
def data(watched: Watched, model: ProfileModel) -> Any:
    return run_data(load_run(str(watched.folder)))


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


def pieces(ids: list[int], marker: list[int]) -> list[list[int]]:
    """What begins with a marker."""
    starts = [i for i in range(len(ids)) if ids[i : i + len(marker)] == marker]
    return [ids[i:j] for i, j in zip(starts, [*starts[1:], len(ids)], strict=True)]


def test_three_reviews_and_a_photo_of_each_are_drawn_once(watched: Watched, model: ProfileModel, data: Any) -> None:
    """The same in all epochs; the photos are of the reviews that are shown."""
    reviews = {row["user_id"]: row["reviews"] for row in data.prepared.datasets["train"]}
    shown: dict[str, set[Any]] = {}
    for batch in watched.batches:
        for u, user in enumerate(batch.users):
            keys = tuple(batch.photo_keys[photo] for photo in view_photos(batch, u, "fusion"))
            shown.setdefault(user, set()).add((tuple(view_ids(batch, u, "text")[:-1]), keys))
    assert set(shown) == set(reviews)
    marker = model.tokenizer(" review:", add_special_tokens=False)["input_ids"]
    for user, [(ids, keys)] in shown.items():
        texts, left = pieces(list(ids), marker), list(keys)
        assert len(texts) == 3
        assert sum(map(len, texts)) == len(ids)
        for piece in texts:
            [photos] = {
                tuple(review["photo_ids"])
                for review in reviews[user]
                if model.tokenizer(f" review: {review['text']}")["input_ids"][: len(piece)] == piece
            }
            digests = {data.collator._digest(photo, data.collator.load_photo(photo)) for photo in photos}
            if left and left[0] in digests:
                left.pop(0)
            else:  # all its photos are shown already
                assert digests <= set(keys)
        assert left == []


def test_texts_are_joined_and_cut_at_600_tokens(watched: Watched, model: ProfileModel) -> None:
    lengths: dict[str, list[int]] = {view: [] for view in VIEWS}
    for batch in watched.batches:
        for u in range(len(batch.users)):
            for view in VIEWS:
                ids = view_ids(batch, u, view)
                assert ids.count(model.grammar.eos) == 1  # one text
                assert ids[-1] == model.grammar.eos
                lengths[view].append(len(ids))
    for view in ("fusion", "text", "masked_image"):
        assert max(lengths[view]) == LIMIT
        assert lengths[view].count(LIMIT) == EPOCHS * TRAIN // 8  # the users with long reviews
    assert max(lengths["masked_profile"]) < LIMIT


def test_the_four_views_show_what_they_should(watched: Watched, model: ProfileModel, data: Any) -> None:
    captions = {user.user_id: user.captions for user in data.users("train")}
    sentinel = model.tokenizer.convert_tokens_to_ids("<extra_id_0>")
    hidden_captions = all_captions = hidden_attributes = 0
    for batch in watched.batches:
        assert [view.name for view in batch.views] == VIEWS
        assert len(batch.row_view) == len(VIEWS) * len(batch.users)
        for u, user in enumerate(batch.users):
            ids = {view: view_ids(batch, u, view) for view in VIEWS}
            texts = {view: model.tokenizer.decode(ids[view]) for view in VIEWS}
            photos = {view: view_photos(batch, u, view) for view in VIEWS}
            counts = [texts[view].count("review:") for view in VIEWS]
            assert counts == [3, 3, 3, 0]
            assert [texts[view].count("photo:") for view in VIEWS] == [len(photos["fusion"]), 0] + [
                len(photos["fusion"])
            ] * 2
            assert [sum("profile:" in texts[view] for view in VIEWS), "profile:" in texts["masked_profile"]] == [
                1,
                True,
            ]
            for caption in captions[user]:
                assert squeezed(caption) in squeezed(texts["fusion"])
                assert squeezed(caption) in squeezed(texts["masked_profile"])
            assert photos["text"] == []
            assert photos["masked_profile"] == photos["fusion"]
            assert not {*photos["masked_image"]} & {*photos["fusion"]}
            for masked, plain in zip(photos["masked_image"], photos["fusion"], strict=True):
                black = (batch.photos[masked] == 0).all(0)
                assert 0.28 < black.float().mean() < 0.4  # 0.3, and what is black anyhow
                assert torch.equal(batch.photos[masked][:, ~black], batch.photos[plain][:, ~black])
            hidden_captions += ids["masked_image"].count(sentinel)
            all_captions += sum(len(data.collator.tokens(f" {caption}")) for caption in captions[user])
            hidden_attributes += texts["masked_profile"].count("<extra_id_")
    assert hidden_captions / all_captions == pytest.approx(0.3, abs=0.03)
    assert hidden_attributes / (6 * EPOCHS * TRAIN) == pytest.approx(0.5, abs=0.06)


def test_photos_come_as_the_vit_takes_them(watched: Watched, model: ProfileModel, data: Any) -> None:
    batch = watched.batches[0]
    assert batch.photos.shape[1:] == (3, 224, 224)
    published = timm.create_model("vit_base_patch16_224", pretrained=False).pretrained_cfg
    config = timm.data.resolve_data_config(pretrained_cfg=published)
    transform = timm.data.create_transform(**config, is_training=False)
    photo = data.users("train")[0].photos[0]
    expected = transform(Image.open(io.BytesIO(data.prepared.jpeg(photo))).convert("RGB"))
    pixels = torch.from_numpy(data.collator.load_photo(photo))
    assert isinstance(model.vision, VisionEncoder)
    torch.testing.assert_close((pixels / 255 - model.vision.mean) / model.vision.std, expected, atol=1e-5, rtol=0)
    assert any(torch.equal(pixels, shown) for batch in watched.batches[:STEPS] for shown in batch.photos)


def test_the_loss_is_the_mean_over_views_of_the_cross_entropy_over_all_tokens(
    watched: Watched, model: ProfileModel
) -> None:
    losses = []
    for batch, output in zip(watched.batches, watched.outputs, strict=True):
        assert output.logits is not None
        assert batch.labels is not None
        assert output.logits.shape[-1] == model.text.config.vocab_size
        by_view = [
            F.cross_entropy(output.logits[rows].flatten(0, 1), batch.labels[rows].flatten(), ignore_index=IGNORE)
            for rows in (batch.row_view == view for view in range(len(VIEWS)))
        ]
        torch.testing.assert_close(output.view_losses, torch.stack(by_view), atol=1e-5, rtol=1e-5)
        losses.append(float(torch.stack(by_view).mean()))
    history = metrics_of(watched.folder)["history"]
    assert [row["loss"] for row in history] == pytest.approx(np.reshape(losses, (EPOCHS, STEPS)).mean(1), abs=1e-4)
    assert history[-1]["loss"] < history[0]["loss"]


def sparsemax(scores: Tensor) -> Tensor:
    """Project the last dimension onto the simplex, by bisection of the threshold."""
    low, high = scores.amax(-1, keepdim=True) - 1, scores.amax(-1, keepdim=True)
    for _ in range(60):
        middle = (low + high) / 2
        above = (scores - middle).clamp_min(0).sum(-1, keepdim=True) >= 1
        low, high = middle.where(above, low), high.where(above, middle)
    return (scores - low).clamp_min(0)


def test_attention_is_sparsemax_and_the_gate_is_tanh(watched: Watched) -> None:
    """Equations 6 to 8 in double precision, in the last step of the training."""
    assert watched.fusions
    for weights, inputs, fused in watched.fusions:
        w = {name: weight.double() for name, weight in weights.items()}
        hidden, visual = inputs[0].double(), inputs[2].double()
        assert visual.shape[1] <= 3  # the class states of three photos
        assert fused.gate is not None
        assert fused.attention is not None
        query, key, value = (
            states @ w[f"attention.{name}.weight"].T
            for name, states in (("query", hidden), ("key", visual), ("value", visual))
        )
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        attention = sparsemax(scores.masked_fill(~inputs[3][:, None], -1e4))
        inner = (attention @ value @ w["ffn.0.weight"].T + w["ffn.0.bias"]).relu()
        star = inner @ w["ffn.2.weight"].T + w["ffn.2.bias"]
        gate = torch.tanh(hidden @ w["gate_text.weight"].T + star @ w["gate_visual.weight"].T)
        torch.testing.assert_close(fused.attention[:, 0].double(), attention, atol=1e-5, rtol=0)
        torch.testing.assert_close(fused.gate.double(), gate, atol=1e-5, rtol=0)
        torch.testing.assert_close(fused.hidden.double(), hidden + gate * star, atol=1e-5, rtol=0)


def test_profiles_are_written_with_five_beams(watched: Watched, model: ProfileModel, data: Any) -> None:
    """One beam for the validation split; five for the test users, with their own photos and with others'."""
    assert watched.beams == [1] * EPOCHS + [5, 5]
    [batch] = data.loader(data.users("test"))
    rows = [json.loads(line) for line in (watched.folder / "predictions.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == model.generate(batch, 5)
    assert [row["user_id"] for row in rows] == batch.users
    assert all(row["faults"] == [] for row in rows)


def test_the_best_epoch_of_the_validation_split_is_exported(watched: Watched) -> None:
    scores = [row["validation_macro_f1"] for row in metrics_of(watched.folder)["history"]]
    best = checkpoint(watched.folder, "best")
    assert best["epoch"] == int(np.argmax(scores))
    exported = load_file(watched.folder / "model" / "model.safetensors")
    kept = {name.removeprefix("model."): weight for name, weight in best["state_dict"].items()}
    assert all(torch.equal(weight, kept[name]) for name, weight in exported.items())


def test_a_killed_run_goes_on_to_the_same_weights_and_predictions(watched: Watched, tmp_path: Path) -> None:
    """Killed in the middle of an epoch; Flan-T5 has dropout, whose random numbers must go on as well."""
    words = [*watched.words, "name=killed", f"out={tmp_path}"]
    folder = tmp_path / "killed"
    command, log = [sys.executable, "-m", "mmprofile.train", *words], tmp_path / "log"
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        step = 0
        while step < STEPS or step % STEPS == 0:
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
            with contextlib.suppress(OSError, RuntimeError, EOFError, KeyError):  # not there yet, or half written
                step = int(checkpoint(folder, "last")["global_step"])
        process.kill()
    assert 0 < checkpoint(folder, "last")["global_step"] < EPOCHS * STEPS
    assert not (folder / "metrics.json").exists()
    train.main(load_config("train", words))
    for name in ("best", "last"):
        one, other = (checkpoint(run, name)["state_dict"] for run in (watched.folder, folder))
        assert one.keys() == other.keys()
        assert [name for name, weight in one.items() if not torch.equal(weight, other[name])] == []
    assert (watched.folder / "predictions.jsonl").read_bytes() == (folder / "predictions.jsonl").read_bytes()
    one, other = (load_file(run / "model" / "model.safetensors") for run in (watched.folder, folder))
    assert one.keys() == other.keys()
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())


def test_the_report_names_the_settings(watched: Watched) -> None:
    pages = [
        Page((watched.folder / "report.html").read_text(encoding="utf-8")).text,
        (watched.folder / "report.md").read_text(encoding="utf-8"),
    ]
    for text in pages:
        assert "paradigm both, model base, data demo, seed 0" in text
        assert (
            "flan-t5-base, vit_base_patch16_224, 3 reviews with 1 photo each, drawn once, joint texts of at most 600 tokens"
        ) in text
        assert (
            "loss over the full vocabulary, 10 epochs in batches of 4, Adam at 5e-05 and 5e-05, constant, 5 beams"
        ) in text
