"""Models that are built, exported and loaded again, and those that cannot be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, PreTrainedTokenizerFast, T5ForConditionalGeneration

from mmprofile.errors import UserError
from mmprofile.inputs.views import VIEWS, paradigm_views
from mmprofile.model.build import build_model
from mmprofile.model.exports import load_pretrained
from mmprofile.profile.schema import Attribute, Schema

pytestmark = pytest.mark.fast

BOTH = paradigm_views("both", VIEWS)


def test_half_precision_weights_are_computed_with_in_single(
    t5_folder: Path, schema: Schema, tmp_path: Path, schema_tokenizer: Callable[[Schema], PreTrainedTokenizerFast]
) -> None:
    T5ForConditionalGeneration.from_pretrained(t5_folder).half().save_pretrained(tmp_path / "half")
    schema_tokenizer(schema).save_pretrained(tmp_path / "half")
    for pretrained in (True, False):
        model = build_model(
            text={"name": str(tmp_path / "half")},
            vision=None,
            fusion={"kind": "none"},
            schema=schema,
            inputs={},
            pretrained=pretrained,
        )
        assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_text_models_that_cannot_be_had(tmp_path: Path, schema: Schema, t5_folder: Path) -> None:
    def build(name: str) -> None:
        build_model(text={"name": name}, vision=None, fusion={"kind": "none"}, schema=schema, inputs={})

    with pytest.raises(UserError, match=r"model\.text\.name='/no/such/folder' cannot be loaded"):
        build("/no/such/folder")
    BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match="is a bert model, which cannot write"):
        build(str(tmp_path / "bert"))
    for path in t5_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[: 300 if path.suffix == ".safetensors" else None])
    with pytest.raises(UserError, match="cannot be loaded"):
        build(str(tmp_path))


def test_characters_that_the_tokenizer_lacks_become_tokens(tmp_path: Path) -> None:
    age = Attribute("Age", ("18-24", "65+", "K"))
    parts: dict[str, Any] = {
        "text": {"name": "mmprofile:tiny/text"},
        "vision": None,
        "fusion": {"kind": "none"},
        "inputs": {},
    }
    plain = build_model(**parts, schema=Schema("plain", [Attribute("Age", ("18-24", "25-34"))]))
    model = build_model(**parts, schema=Schema("own", [age]))
    table, before = (one.text.get_input_embeddings().weight for one in (model, plain))
    assert len(model.tokenizer) == len(table) == len(before) + 2
    assert torch.equal(table[: len(before)], before)
    assert torch.equal(table[len(before) :], before[plain.tokenizer.unk_token_id].expand(2, -1))
    model.save_pretrained(tmp_path)
    again = load_pretrained(tmp_path)
    assert again.tokenizer("65+ K")["input_ids"] == model.tokenizer("65+ K")["input_ids"]
    for value in age.values:
        assert again.schema.parse(again.grammar.decode(again.grammar.encode({"Age": (value,)}))) == (
            {"Age": (value,)},
            [],
        )
