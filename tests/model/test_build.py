"""Models that are built, exported and loaded again, and those that cannot be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, PreTrainedTokenizerFast, T5ForConditionalGeneration

from mmprofile.errors import UserError
from mmprofile.inputs.views import VIEWS, paradigm_views
from mmprofile.model.backbones import load_text
from mmprofile.model.build import build_model
from mmprofile.model.exports import load_pretrained
from mmprofile.paths import ASSETS
from mmprofile.profile.schema import Attribute, Schema
from tests.support.published import save_miniature

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
    stock = save_miniature("google/flan-t5-small", tmp_path / "t5")
    age = Attribute("Age", ("18-24", "65{", "~"))
    parts: dict[str, Any] = {"text": {"name": str(stock)}, "vision": None, "fusion": {"kind": "none"}, "inputs": {}}
    plain = build_model(**parts, schema=Schema("plain", [Attribute("Age", ("18-24", "25-34"))]))
    model = build_model(**parts, schema=Schema("own", [age]))
    known, new = plain.tokenizer.get_vocab(), set(model.tokenizer.get_vocab()) - set(plain.tokenizer.get_vocab())
    assert new >= {"{", "~"}
    table, before = (one.text.get_input_embeddings().weight for one in (model, plain))
    assert torch.equal(table[: len(known)], before[: len(known)])
    ids = model.tokenizer.convert_tokens_to_ids(sorted(new))
    assert torch.equal(table[ids], before[plain.tokenizer.unk_token_id].expand(len(ids), -1))
    model.save_pretrained(tmp_path / "own")
    again = load_pretrained(tmp_path / "own")
    assert again.tokenizer("65{ ~")["input_ids"] == model.tokenizer("65{ ~")["input_ids"]
    for value in age.values:
        assert again.schema.parse(again.grammar.decode(again.grammar.encode({"Age": (value,)}))) == (
            {"Age": (value,)},
            [],
        )


def test_the_tiny_t5_has_the_traits_of_a_flan_t5() -> None:
    folder = ASSETS / "tiny" / "text"
    text = load_text({"name": "mmprofile:tiny/text"}, pretrained=True).model
    assert (text.config.is_gated_act, text.config.dense_act_fn, text.config.dropout_rate) == (True, "gelu_new", 0.1)
    assert not text.config.scale_decoder_outputs
    head, table = text.get_output_embeddings().weight, text.get_input_embeddings().weight
    assert not torch.equal(head, table)
    spreads = json.loads((folder / "pretraining.json").read_text())["attention_spread"]
    assert 1 < max(max(layers) for layers in spreads.values()) < 10
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False


def test_the_tiny_model_knows_the_bytes_of_any_character() -> None:
    tower = Attribute("塔 {Turm}", ("über 65+", "東京タワー", "K"))
    parts: dict[str, Any] = {"vision": None, "fusion": {"kind": "none"}, "inputs": {}}
    model = build_model(**parts, text={"name": "mmprofile:tiny/text"}, schema=Schema("own", [tower]))
    stock = AutoTokenizer.from_pretrained(ASSETS / "tiny" / "text")
    assert model.tokenizer.get_vocab() == stock.get_vocab()
    for value in tower.values:
        ids = model.grammar.encode({tower.name: (value,)})
        assert model.tokenizer.unk_token_id not in ids
        assert model.schema.parse(model.grammar.decode(ids)) == ({tower.name: (value,)}, [])
