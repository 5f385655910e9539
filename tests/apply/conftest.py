"""A small trained run, and a checkpoint of each kind of classifier."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from mmprofile.config.compose import load_config
from mmprofile.paths import ASSETS
from mmprofile.train import run as train
from tests.support.tinyclassifiers import bart, bert, llama


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A checkpoint of each kind: small random ones in the hub's layout, of T5 the package's own."""
    found = {"t5": "mmprofile:tiny/text"}
    for name, make in {"bert": bert, "bart": bart, "causal": llama}.items():
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(name)
        tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny" / "text")
        if name == "bert":
            tokenizer.add_special_tokens({"cls_token": "<extra_id_98>", "sep_token": "</s>"})
        if name == "causal":
            tokenizer.pad_token = None  # as Llama's
        make(len(tokenizer)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        found[name] = str(folder)
    return found


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("apply")


@pytest.fixture(scope="session")
def trained(out: Path) -> Path:
    """A finished run: one epoch on a small city."""
    words = ["experiment=smoke", "paradigm=text", "trainer.max_epochs=1", "trainer.progress=false"]
    train.main(load_config("train", [*words, f"out={out}", "name=run"]))
    return out / "run"
