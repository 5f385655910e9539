"""Checkpoints from a hub, by the hub's own client: fetched, pinned, cached, refused, and not reached."""

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM

from mmprofile.errors import UserError
from mmprofile.inputs.batch import Collator
from mmprofile.inputs.views import VIEWS, User, paradigm_views
from mmprofile.model.backbones import load_text
from mmprofile.model.build import build_model
from mmprofile.model.hub import cached, choose_files, fetch
from mmprofile.model.vision import VisionEncoder
from mmprofile.profile.schema import Schema
from tests.support.hubserver import TOKEN, Hub, connect, serving

pytestmark = [pytest.mark.fast, pytest.mark.allow_hosts(["127.0.0.1"])]

KEY = "model.text.name"
VIT = "test_vit.r160_in1k"
BOTH = paradigm_views("both", VIEWS)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub-cache"


@pytest.fixture
def hub(t5_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has a T5, which this process asks."""
    with serving() as hub:
        hub.add("org/t5", t5_folder)
        connect(monkeypatch, hub.url, cache)
        yield hub


def other_weights(folder: Path, target: Path) -> Path:
    """Copy a checkpoint, with other weights."""
    shutil.copytree(folder, target)
    weights = {name: weight + 1 for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def refusal(name: str = "org/t5", revision: str | None = None, key: str = KEY) -> str:
    """Return the one line that says why a checkpoint cannot be had."""
    with pytest.raises(UserError) as raised:
        fetch(name, key, revision)
    assert str(raised.value).startswith(f"{key}={name!r} ")
    assert "\n" not in str(raised.value)
    return str(raised.value)


def exported(folder: Path) -> dict[str, Any]:
    """Return what an export holds, but for where it came from."""
    config = json.loads((folder / "config.json").read_text())
    weights = {name: weight.tolist() for name, weight in load_file(folder / "model.safetensors").items()}
    text = {file.name: file.read_bytes() for file in (folder / "text").iterdir()}
    return {
        "config": {key: value for key, value in config.items() if key != "source"},
        "weights": weights,
        "text": text,
    }


def shared(text: Any) -> torch.Tensor:
    weight: torch.Tensor = text.model.get_input_embeddings().weight
    return weight


def test_folder_snapshot_and_hub_id_give_the_same_model(
    hub: Hub, t5_folder: Path, vit_folder: Path, schema: Schema, users: list[User],
    make_collator: Callable[..., Collator], tmp_path: Path,
) -> None:  # fmt: skip
    hub.add("org/vit", vit_folder)
    snapshots = fetch("org/t5", KEY).folder, fetch("org/vit", "model.vision.name").folder
    sources: dict[str, tuple[str, str]] = {
        "folder": (str(t5_folder), f"local-dir:{vit_folder}"),
        "snapshot": (str(snapshots[0]), f"local-dir:{snapshots[1]}"),
        "hub": ("org/t5", "hf-hub:org/vit"),
    }
    logits, texts, exports = [], [], []
    for kind, (text, vision) in sources.items():
        torch.manual_seed(0)
        model = build_model(
            text={"name": text, "revision": None},
            vision={"name": vision, "revision": None, "tokens": "patch", "grid": 2, "trainable": True},
            fusion={"kind": "xattn", "norm": "sparsemax", "gate": "tanh", "heads": 1},
            schema=schema,
            inputs={},
        ).eval()
        batch = make_collator(model)(users, BOTH)
        logits.append(model(batch).logits)
        texts.append([profile.text for profile in model.decode(batch)])
        model.save_pretrained(tmp_path / kind)
        exports.append(exported(tmp_path / kind))
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    assert texts[0] == texts[1] == texts[2]
    assert exports[0] == exports[1] == exports[2]


def test_a_revision_is_pinned(hub: Hub, t5_folder: Path, tmp_path: Path) -> None:
    """By branch, tag or commit; a moved branch is fetched again, a commit in the cache is not asked about."""
    other_t5 = other_weights(t5_folder, tmp_path / "other")
    first, second = hub.add("org/t5", t5_folder), hub.add("org/t5", other_t5, "v2")
    plain, newer = load_text({"name": "org/t5"}, True), load_text({"name": "org/t5", "revision": "v2"}, True)
    assert (plain.checkpoint.commit, newer.checkpoint.commit) == (first, second)
    torch.testing.assert_close(shared(newer), shared(plain) + 1)
    asked = len(hub.asked)
    for commit, text in ((first, plain), (second, newer)):
        again = load_text({"name": "org/t5", "revision": commit}, True)
        assert torch.equal(shared(again), shared(text))
    assert len(hub.asked) == asked
    hub.add("org/t5", other_t5)
    assert fetch("org/t5", KEY).commit == second
    assert cached("org/t5").name == second  # type: ignore[union-attr]
    assert fetch("org/t5", KEY, first).commit == first


def test_only_what_is_needed_is_fetched_and_only_once(hub: Hub, tmp_path: Path, t5_folder: Path) -> None:
    folder = tmp_path / "full"
    shutil.copytree(t5_folder, folder)
    for name in ("tf_model.h5", "pytorch_model.bin", "modeling_own.py", "onnx/model.onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    hub.add("org/full", folder)
    bare = fetch("org/full", KEY, weights=False)
    kept = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in bare.folder.iterdir()} == kept
    whole = fetch("org/full", KEY)
    assert whole == bare
    assert {path.name for path in whole.folder.iterdir()} == kept | {"model.safetensors"}
    hub.asked.clear()
    assert fetch("org/full", KEY) == whole
    assert hub.asked == ["GET /api/models/org/full"]


def test_files_of_published_repositories() -> None:
    small = ["config.json", "spiece.model", "tokenizer_config.json"]
    others = [
        "README.md",
        ".gitattributes",
        "flax_model.msgpack",
        "tf_model.h5",
        "rust_model.ot",
        "original/params.json",
    ]
    shards = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    index = "pytorch_model.bin.index.json"
    assert choose_files([*small, *others, "pytorch_model.bin", "model.safetensors"], True) == sorted(
        [*small, "model.safetensors"]
    )
    assert choose_files([*small, *others, *shards, index], True) == sorted([*small, *shards, index])
    assert choose_files([*small, *others, *shards, index], False) == sorted(small)
    adapter = ["adapter_config.json", "adapter_model.safetensors", "README.md", "optimizer.pt"]
    assert choose_files(adapter, True) == adapter[:2]
    templates = ["chat_template.jinja", "additional_chat_templates/tool.jinja", "vocab.txt"]
    assert choose_files(templates, True) == sorted(templates)


def test_without_a_hub_the_cache_is_used(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    before = load_text({"name": "org/t5"}, True)
    hub.die()
    start = time.monotonic()
    after = load_text({"name": "org/t5"}, True)
    assert time.monotonic() - start < 2
    assert torch.equal(shared(before), shared(after))
    assert before.checkpoint == after.checkpoint
    assert f"note: {KEY}='org/t5' comes from the cache, since {hub.url} cannot be reached" in capsys.readouterr().err
    line = refusal("org/t6")
    assert f"{hub.url} cannot be reached (" in line
    assert f"the cache {constants.HF_HUB_CACHE} does not have it" in line
    assert "(hf download org/t6), then copy that cache folder here" in line
    assert f"set {KEY}=/path/to/folder" in line
    assert "(hf download org/t6 --revision v2)" in refusal("org/t6", "v2")


def test_offline_asks_nobody(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    online = fetch("org/t5", KEY)
    hub.asked.clear()
    connect(monkeypatch, hub.url, cache, offline=True)
    assert fetch("org/t5", KEY) == online
    assert "HF_HUB_OFFLINE is set" in refusal("org/t6")
    assert "HF_HUB_OFFLINE is set" in refusal("org/t5", "v2")
    assert hub.asked == []
    assert capsys.readouterr().err == ""


def test_a_part_in_the_cache_is_not_enough(hub: Hub) -> None:
    fetch("org/t5", KEY, weights=False)
    hub.die()
    assert "has only a part of it (no weights (model.safetensors" in refusal()


def test_a_hub_that_does_not_answer(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 3 s; another checkpoint of it is answered at once."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connect(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}", cache)
        start = time.monotonic()
        assert "did not answer in 2.5 s (HF_HUB_ETAG_TIMEOUT=10 waits 10 s)" in refusal()
        assert 2 < time.monotonic() - start < 3
        start = time.monotonic()
        assert "did not answer in 2.5 s" in refusal("org/vit", key="model.vision.name")
        assert time.monotonic() - start < 0.2


def test_an_address_that_is_looked_up_without_end(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    connect(monkeypatch, "http://hub.example", cache)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: done.wait(20))
    start = time.monotonic()
    assert "http://hub.example did not answer in 2.5 s" in refusal()
    assert time.monotonic() - start < 3
    done.set()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((503, b""), "cannot be reached (status 503)"),
        ((200, b"<html>Log in to the hotel's network"), "cannot be reached (JSONDecodeError"),
        ((200, b"[]"), "cannot be reached (TypeError"),
        ((403, b""), "refuses access to it; log in (hf auth login), or set HF_TOKEN"),
        ((401, b""), "or only for those who may see it; check the name"),
    ],
)
def test_what_is_no_answer(answer: tuple[int, bytes], says: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.answer = answer
    assert says in refusal("org/t5")
    hub.answer = None
    monkeypatch.setattr("mmprofile.model.hub._silent", {})
    online = fetch("org/t5", KEY)
    hub.answer = answer
    assert fetch("org/t5", KEY) == online


def test_names_that_no_hub_has(hub: Hub) -> None:
    line = refusal("org/t6")
    assert f"there is no such folder here, and {hub.url} has no such model" in line
    assert f"{hub.url} has it, but no revision 'v9' of it; give a branch, tag or commit" in refusal("org/t5", "v9")
    for name in ("/no/such/folder", "./folder", "outputs/run/model", "a--b/c"):
        assert "there is no such folder, and it is no hub id" in refusal(name)


def test_a_gated_model(hub: Hub, t5_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/gated", t5_folder, gated=True)
    for token in (None, "hf_bad"):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        line = refusal("org/gated")
        assert (
            f"it is gated; accept its licence on {hub.url}/org/gated, and log in (hf auth login), or set HF_TOKEN"
            in line
        )
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch("org/gated", KEY).folder.is_dir()


def test_a_folder_has_no_revision(hub: Hub, t5_folder: Path) -> None:
    assert "is a folder, which has no revision 'v2'" in refusal(str(t5_folder), "v2")
    assert "model.text.name='mmprofile:tiny/text' is a folder" in refusal("mmprofile:tiny/text", "v2")
    snapshot = fetch("org/t5", KEY)
    assert fetch(str(snapshot.folder), KEY, snapshot.commit).commit == snapshot.commit


def test_an_adapter_of_the_hub(hub: Hub, t5_folder: Path, tmp_path: Path) -> None:
    """Its base may have come as a hub id or a folder of that name; it is pinned by a key of its own."""
    t5 = AutoModelForSeq2SeqLM.from_pretrained(t5_folder)
    t5.name_or_path = "elsewhere/t5"
    torch.manual_seed(0)
    adapter = get_peft_model(t5, LoraConfig(r=2, target_modules=["q", "v"], init_lora_weights=False))
    adapter.save_pretrained(tmp_path / "adapter")
    commit = hub.add("org/adapter", tmp_path / "adapter", "v1")
    text = load_text({"name": "org/t5", "adapter": "org/adapter", "adapter_revision": "v1"}, True)
    local = load_text({"name": "org/t5", "adapter": str(tmp_path / "adapter")}, True)
    weights = text.adapter.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in local.adapter.state_dict().items())
    assert text.adapter.peft_config["default"].base_model_name_or_path == "elsewhere/t5"
    fresh = load_text({"name": "org/t5", "lora": {"rank": 2, "alpha": 4, "dropout": 0.0}}, True)
    assert fresh.adapter.peft_config["default"].base_model_name_or_path == "org/t5"  # no path of this machine
    hub.asked.clear()
    text.adapter.save_pretrained(tmp_path / "again", save_embedding_layers=False)
    assert hub.asked == []
    assert cached("org/adapter", commit, "adapter_config.json") is not None
    assert "config.json: the folder is an adapter's; set model.text.adapter" in refusal(str(tmp_path / "adapter"))


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest ViT of timm as its authors publish it, with random weights."""
    folder = tmp_path_factory.mktemp("timm")
    torch.manual_seed(0)
    vit = timm.create_model(VIT, pretrained=False)
    timm.models.save_for_hf(vit, folder, safe_serialization=True)
    return folder


@pytest.mark.parametrize("name", [VIT, f"hf-hub:timm/{VIT}"])
def test_a_tower_of_timm(
    name: str, hub: Hub, timm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever way it is named, its weights are those of the hub's revision."""
    commit = hub.add(f"timm/{VIT}", timm_folder)
    stock = load_file(timm_folder / "model.safetensors")
    for revision in (None, commit):
        loaded = VisionEncoder(name, revision=revision).vit.state_dict()
        assert all(torch.equal(weight, stock[key]) for key, weight in loaded.items())
        assert len(loaded) == len(stock) - 2  # but for the classifier
    pinned = VisionEncoder(f"hf-hub:timm/{VIT}@{commit}")
    assert pinned.rebuild_arguments()["name"] == "test_vit"
    hub.add(f"timm/{VIT}", other_weights(timm_folder, tmp_path / "other"), "v2")
    torch.testing.assert_close(VisionEncoder(name, revision="v2").vit.pos_embed, pinned.vit.pos_embed + 1)
    hub.die()
    assert torch.equal(VisionEncoder(name).vit.pos_embed, pinned.vit.pos_embed)
    monkeypatch.setattr("mmprofile.model.hub._silent", {})
    with pytest.raises(UserError, match=r"set model\.vision\.name=local-dir:/path/to/folder"):
        VisionEncoder("vit_base_patch16_224.augreg_in21k")
