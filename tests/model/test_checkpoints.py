"""Checkpoints in folders: their names, precisions and files, and all that is refused before long work, in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM, PreTrainedTokenizerFast, T5Config

from mmprofile.apply.sentiment import load_classifier
from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.model.backbones import load_text
from mmprofile.model.checkpoints import check_bfloat16, choose_dtype, local_name, missing_weights, weight_files
from mmprofile.model.vision import VisionEncoder
from mmprofile.paths import ASSETS
from mmprofile.train.devices import choose_precision

pytestmark = pytest.mark.fast

LAST = "decoder.block.1.layer.2.DenseReluDense.wo.weight"


@pytest.fixture
def folder(t5_folder: Path, tmp_path: Path) -> Path:
    """A copy of the T5 to damage."""
    shutil.copytree(t5_folder, tmp_path / "t5")
    return tmp_path / "t5"


def refusal(load: Callable[[], Any], key: str = "model.text.name") -> str:
    """Return the one line that says why a checkpoint cannot be loaded."""
    with pytest.raises(UserError) as raised:
        load()
    line = str(raised.value)
    assert line.startswith(f"{key}=")
    assert "\n" not in line
    return line


def text_refusal(folder: Path, **text: Any) -> str:
    return refusal(lambda: load_text({"name": str(folder), **text}, True))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def shards(folder: Path) -> list[Path]:
    """Write the T5 of a folder in shards."""
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="8KB")
    return sorted(folder.glob("model-*.safetensors"))


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a file that may be overwritten: none of them stays mapped to it."""
    return {name: weight.clone() for name, weight in load_file(path).items()}


def drop_weights(path: Path, *names: str) -> None:
    kept = {name: weight for name, weight in read_weights(path).items() if name not in names}
    save_file(kept, path, metadata={"format": "pt"})


def test_names_inside_the_package() -> None:
    assert local_name("mmprofile:tiny/text") == str(ASSETS / "tiny" / "text")
    assert local_name("mmprofile:tiny/vision", "local-dir:") == f"local-dir:{ASSETS / 'tiny' / 'vision'}"
    assert local_name("google/flan-t5-base", "local-dir:") == "google/flan-t5-base"


def test_which_files_hold_the_weights() -> None:
    parts = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert weight_files(["config.json", "pytorch_model.bin", "model.safetensors"]) == ["model.safetensors"]
    assert weight_files(["pytorch_model.bin", *parts]) == [
        "pytorch_model.bin"
    ]  # shards without their index are not read
    assert weight_files([*parts, "model.safetensors.index.json", "model.fp16.safetensors"]) == [
        "model.safetensors.index.json",
        *parts,
    ]
    assert weight_files(["consolidated.safetensors", "tf_model.h5"]) == []


def test_a_folder_without_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert f"{folder} has no config.json" in text_refusal(folder)
    line = refusal(lambda: VisionEncoder(f"local-dir:{folder}"), "model.vision.name")
    assert f"{folder} has no config.json" in line


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "t5", "d_model": "many"}', '{"model_type": "own"}'])
def test_a_config_that_cannot_be_read(content: str, folder: Path) -> None:
    (folder / "config.json").write_text(content)
    assert "cannot be loaded (" in text_refusal(folder)


@pytest.mark.parametrize("kind", ["t5", "qwen3", "llama"])
def test_a_folder_without_tokenizer(kind: str, folder: Path) -> None:
    """transformers would make up an empty one for T5 and Qwen."""
    for path in folder.glob("tokenizer*"):
        path.unlink()
    if kind != "t5":
        (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    assert "it has no tokenizer (tokenizer.json, tokenizer.model, spiece.model, ...); copy the tokenizer's files" in (
        text_refusal(folder)
    )


@pytest.mark.parametrize("content", ['{"version": "1.0", "trunc', '{"a": 1}'])
def test_a_tokenizer_that_cannot_be_read(content: str, folder: Path) -> None:
    (folder / "tokenizer.json").write_text(content)
    assert "cannot be loaded (" in text_refusal(folder)


def test_tokenizers_of_other_models(
    folder: Path, make_tokenizer: Callable[..., PreTrainedTokenizerFast], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = T5Config.from_pretrained(folder).vocab_size
    load_text({"name": str(folder)}, True)
    assert capsys.readouterr().err == ""
    make_tokenizer(["we stayed"]).save_pretrained(folder)  # 3 + 2 + 8 tokens
    load_text({"name": str(folder)}, True)
    assert f"note: model.text.name='{folder}': the tokenizer has 13 tokens, the model {rows} embeddings" in (
        capsys.readouterr().err
    )
    make_tokenizer([" ".join(f"w{i}" for i in range(rows))]).save_pretrained(folder)
    assert f"its tokenizer has {rows + 11} tokens, its model {rows} embeddings" in text_refusal(folder)


def test_code_of_a_checkpoint_is_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is the user asked whether it may be."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    (folder / "own.py").write_text("raise SystemExit('it ran')")
    edit_json(
        folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForSeq2SeqLM": "own.M"}
    )
    assert "needs code of its own (auto_map in its .json files), and code of a checkpoint is never run" in text_refusal(
        folder
    )


def test_code_beside_an_architecture_of_transformers_is_not_needed(folder: Path) -> None:
    (folder / "own.py").write_text("raise SystemExit('it ran')")
    edit_json(folder / "config.json", auto_map={"AutoModelForSeq2SeqLM": "own.M"})
    assert type(load_text({"name": str(folder)}, True).model).__name__ == "T5ForConditionalGeneration"


def test_a_missing_shard_is_named(folder: Path) -> None:
    files = shards(folder)
    assert len(files) > 2
    assert missing_weights(folder) is None
    load_text({"name": str(folder)}, True)
    files[1].unlink()
    assert f"{folder} has no {files[1].name}; copy the folder again" in text_refusal(folder)
    (folder / "model.safetensors.index.json").write_text("{")
    assert "has no readable model.safetensors.index.json" in text_refusal(folder)


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "has no weights (model.safetensors, or shards with their index)" in text_refusal(folder)
    load_text({"name": str(folder)}, False)  # as an export has it


def test_no_weight_is_left_random(folder: Path, t5_folder: Path, vit_folder: Path, tmp_path: Path) -> None:
    drop_weights(folder / "model.safetensors", LAST)
    assert f"1 of its weights are missing ({LAST}, ...) and would be random" in text_refusal(folder)
    words = ["run=x", "classifier=t5", f"classifier.text={folder}"]
    line = refusal(lambda: load_classifier(load_config("apply", words).classifier, 5), "classifier.text")
    assert f"1 of its weights are missing (transformer.{LAST}, ...)" in line
    words[-1] = f"classifier.text={t5_folder}"
    found = load_classifier(load_config("apply", words).classifier, 5)  # whose head is new
    assert {tuple(parameter.shape) for parameter in found.new} >= {(5, 16)}

    vit = shutil.copytree(vit_folder, tmp_path / "vit")
    edit_json(vit / "config.json", num_classes=10)  # published with a classifier, for which timm loads loosely
    drop_weights(vit / "model.safetensors", "blocks.1.mlp.fc1.bias")
    line = refusal(lambda: VisionEncoder(f"local-dir:{vit}"), "model.vision.name")
    assert "1 of its weights are missing (blocks.1.mlp.fc1.bias, ...)" in line


def test_an_adapter_without_its_weights(folder: Path, tmp_path: Path) -> None:
    t5 = AutoModelForSeq2SeqLM.from_pretrained(folder)
    get_peft_model(t5, LoraConfig(r=2, target_modules=["q"])).save_pretrained(tmp_path / "adapter")
    load = lambda: load_text({"name": str(folder), "adapter": str(tmp_path / "adapter")}, True)  # noqa: E731
    load()
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    drop_weights(weights, min(read_weights(weights)))
    assert "1 of its weights are missing (base_model.model.decoder" in refusal(load, "model.text.adapter")
    weights.unlink()
    assert "has no weights (adapter_model.safetensors" in refusal(load, "model.text.adapter")
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    assert "has no adapter_config.json" in refusal(load, "model.text.adapter")


class Attack:
    """Code that runs where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("it ran",)


def test_weights_that_are_damaged_or_dangerous(folder: Path, vit_folder: Path, tmp_path: Path) -> None:
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    weights = read_weights(safe)
    safe.write_bytes(safe.read_bytes()[:500])
    assert "cannot be loaded (SafetensorError" in text_refusal(folder)
    safe.unlink()
    torch.save(weights, pickled)
    load_text({"name": str(folder)}, True)
    pickled.write_bytes(pickled.read_bytes()[:3000])
    assert "cannot be loaded (RuntimeError" in text_refusal(folder)
    torch.save({**weights, "more": Attack()}, pickled)
    assert "holds more than tensors, which could run code and is not unpickled" in text_refusal(folder)

    vit = shutil.copytree(vit_folder, tmp_path / "vit")
    (vit / "model.safetensors").unlink()
    torch.save({"more": Attack()}, vit / "pytorch_model.bin")
    line = refusal(lambda: VisionEncoder(f"local-dir:{vit}"), "model.vision.name")
    assert "cannot be loaded (" in line


@pytest.fixture
def gpu_without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch says of a GPU of the Turing generation."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")


@pytest.mark.usefixtures("gpu_without_bfloat16")
def test_bfloat16_on_a_gpu_without_it() -> None:
    for asked in ("bf16-mixed", "bf16-true", "bf16"):
        with pytest.raises(
            UserError, match=rf"trainer\.precision={asked}: Tesla T4 does not compute in bfloat16; use 32"
        ):
            choose_precision(asked, "gpu")
        assert choose_precision(asked, "cpu") == asked
    assert choose_precision("auto", "auto") == "32-true"
    with pytest.raises(UserError, match=r"dtype=bfloat16: Tesla T4 does not compute in bfloat16; use float32"):
        choose_dtype("bfloat16", "gpu")
    with pytest.raises(UserError, match=r"model\.text\.dtype=bfloat16: Tesla T4 does not .*; use float32"):
        check_bfloat16("model.text.dtype", "bfloat16", "auto", "float32")
    check_bfloat16("model.text.dtype", "float32", "auto", "float32")
    assert (choose_dtype("auto", "gpu"), choose_dtype("bfloat16", "cpu")) == ("float16", "bfloat16")


def test_precisions_of_a_cpu() -> None:
    assert (choose_dtype("auto", "cpu"), choose_precision("auto", "cpu")) == ("float32", "32-true")
    with pytest.raises(UserError, match=r"dtype='half' is not one of auto, float32"):
        choose_dtype("half", "cpu")
