"""Adapters in a student's folder: loaded with their base, told from another's, merged; 4 bits and their errors."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.llm.adapters import four_bits
from mmprofile.llm.export.run import main as export
from mmprofile.llm.stage import open_schema
from mmprofile.llm.student import Student
from mmprofile.llm.student_folder import is_finished
from tests.support.tinystudent import MADE_OF, PEOPLE, adapt, open_student, save_as

LORA = "students.other.lora=2"


@pytest.fixture
def base(random_student: Path, tmp_path: Path) -> Path:
    """A model of one's own, in a folder."""
    return Path(shutil.copytree(random_student, tmp_path / "base"))


@pytest.fixture
def adapted(base: Path, tmp_path: Path) -> tuple[Student, Path]:
    """A student with a random adapter, and its folder."""
    return save_adapted(base, tmp_path / "student")


def save_adapted(base: Path, folder: Path) -> tuple[Student, Path]:
    pupil, _ = open_student(base, LORA)
    adapt(pupil)
    save_as(pupil, folder)
    return pupil, folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(20)[None]).logits


def test_the_folder_keeps_the_adapter_and_names_its_base(adapted: tuple[Student, Path], base: Path) -> None:
    pupil, folder = adapted
    assert {path.name for path in folder.iterdir()} >= {"adapter", "tokenizer.json", "README.md", "made_of.json"}
    assert not list(folder.glob("*.safetensors"))
    settings = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(base)
    assert is_finished(folder, MADE_OF)
    again, _ = open_student(folder, LORA)
    assert torch.equal(logits(again.model), logits(pupil.model))
    assert not torch.allclose(logits(again.model), logits(open_student(base)[0].model), atol=0.1)
    assert again.write(PEOPLE, 2, 1.0, seed=0) == pupil.write(PEOPLE, 2, 1.0, seed=0)
    trained = {name for name, weight in again.model.named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora" in name for name in trained)


def test_the_fingerprint_is_of_base_and_adapter(adapted: tuple[Student, Path], base: Path) -> None:
    pupil, folder = adapted
    assert open_student(folder, LORA)[0].fingerprint() == pupil.fingerprint() != open_student(base)[0].fingerprint()
    again, _ = open_student(folder, LORA)
    weights = dict(again.model.named_parameters())
    for part in (next(name for name in weights if "lora_A" in name), next(name for name in weights if "norm" in name)):
        before = again.fingerprint()
        with torch.no_grad():
            weights[part].view(-1)[0] += 1
        assert again.fingerprint() != before


def test_a_base_that_changed_is_refused(adapted: tuple[Student, Path], base: Path) -> None:
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 2
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"is not the model that the adapter was trained on any more; train it again"):
        open_student(adapted[1], LORA)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda folder, base: shutil.rmtree(base),
            r"adapter_config.json: base_model_name_or_path='.*base' cannot be loaded: there",
        ),
        (
            lambda folder, base: (folder / "adapter_config.json").write_text("{"),
            r"adapter_config.json does not say what the adapter",
        ),
        (
            lambda folder, base: (folder / "adapter_config.json").write_text("[]"),
            r"adapter_config.json does not say what the adapter",
        ),
        (
            lambda folder, base: (folder / "adapter_model.safetensors").unlink(),
            r"has no weights \(adapter_model.safetensors",
        ),
        (
            lambda folder, base: (folder / "adapter_model.safetensors").write_bytes(b"0" * 99),
            r"student='.*student' cannot be loaded",
        ),
    ],
)
def test_damaged_adapters_are_one_line(spoil: Any, says: str, adapted: tuple[Student, Path], base: Path) -> None:
    spoil(adapted[1] / "adapter", base)
    with pytest.raises(UserError, match=says) as error:
        open_student(adapted[1], LORA)
    assert "\n" not in str(error.value)


def test_whole_weights_and_an_adapter_take_each_others_place(adapted: tuple[Student, Path], base: Path) -> None:
    _, folder = adapted
    whole, _ = open_student(base)
    save_as(whole, folder)
    assert torch.equal(logits(open_student(folder)[0].model), logits(whole.model))
    pupil, _ = save_adapted(base, folder)
    assert torch.equal(logits(open_student(folder, LORA)[0].model), logits(pupil.model))
    assert not list(folder.glob("*.safetensors"))


def test_exported_weights_are_whole(
    adapted: tuple[Student, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pupil, folder = adapted
    words = [f"student={folder}", f"to={tmp_path / 'whole'}", "students.other.dtype=float32"]
    export(load_config("llm", words))
    assert capsys.readouterr().out == f"{tmp_path / 'whole'}: whole weights of {folder} and {tmp_path / 'base'}\n"
    stock: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    torch.testing.assert_close(logits(stock), logits(pupil.model), rtol=1e-4, atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "whole")("I am").input_ids == pupil.tokenizer("I am").input_ids
    assert "for this purpose: a test" in (tmp_path / "whole" / "README.md").read_text()
    again, _ = open_student(tmp_path / "whole")
    assert again.write(PEOPLE, 1, 0.0, seed=0) == pupil.write(PEOPLE, 1, 0.0, seed=0)


def test_mistakes_of_an_export_are_one_line(adapted: tuple[Student, Path], base: Path, tmp_path: Path) -> None:
    for words, says in (
        ([f"student={base}", "to=x"], r"it has no folder adapter; give a student's"),
        ([f"student={adapted[1]}"], r"to=None: give a folder that is not there yet"),
        ([f"student={adapted[1]}", f"to={base}"], r"to=.*base: give a folder that is not there yet"),
    ):
        with pytest.raises(UserError, match=says):
            export(load_config("llm", words))


def test_whole_weights_are_not_trained_below_an_adapter(adapted: tuple[Student, Path]) -> None:
    with pytest.raises(UserError, match=r"an adapter, and lora=0 .*; python -m mmprofile.llm.export student="):
        open_student(adapted[1])


def test_four_bits_are_those_of_qlora() -> None:
    config = four_bits()
    assert (config.load_in_4bit, config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == (True, "nf4", True)
    bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    assert config.bnb_4bit_compute_dtype == (torch.bfloat16 if bfloat16 else torch.float32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="4 bits are possible")
def test_four_bits_need_a_gpu(base: Path) -> None:
    with pytest.raises(
        UserError, match=r"students.\*.bits=4 needs an NVIDIA GPU and bitsandbytes \(pip install bitsandbytes\)"
    ):
        open_student(base, "students.other.bits=4", LORA)
    with pytest.raises(UserError, match=r"students.other.bits=4 trains an adapter only: give students.other.lora=16"):
        open_schema(load_config("llm", ["students.other.bits=4", "students.other.lora=0"]))
