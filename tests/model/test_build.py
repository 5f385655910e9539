"""Models that are built, exported and loaded again, and those that cannot be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, PreTrainedTokenizerFast, T5ForConditionalGeneration

from mmprofile.errors import UserError
from mmprofile.inputs.batch import Collator
from mmprofile.inputs.views import VIEWS, User, paradigm_views
from mmprofile.model.build import build_model, load_pretrained
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Attribute, Schema

pytestmark = pytest.mark.fast

BOTH = paradigm_views("both", VIEWS)


@pytest.mark.parametrize(("fusion", "tokens"), [("none", "cls"), ("concat", "grid"), ("xattn", "patch")])
def test_saved_and_loaded(
    fusion: str,
    tokens: str,
    tiny_model: Callable[..., ProfileModel],
    make_collator: Callable[..., Collator],
    users: list[User],
    tmp_path: Path,
) -> None:
    model = tiny_model(fusion, tokens, **({"heads": 2, "norm": "softmax"} if fusion == "xattn" else {}))
    with torch.no_grad():  # weights that no seed would give again
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "deep" / "model")
    again = load_pretrained(tmp_path / "deep" / "model")
    batch, second = (make_collator(one)(users[2:], BOTH) for one in (model, again))
    assert torch.equal(batch.text_ids, second.text_ids)
    assert torch.equal(model(batch).logits, again(second).logits)
    assert (again.schema, again.settings) == (model.schema, json.loads(json.dumps(model.settings)))
    assert not again.training
    again.save_pretrained(tmp_path / "twice")
    assert torch.equal(load_pretrained(tmp_path / "twice")(second).logits, again(second).logits)


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


def test_damaged_exports(tiny_model: Callable[..., ProfileModel], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no exported model there"):
        load_pretrained(tmp_path)
    tiny_model("concat").save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(UserError, match="damaged or missing"):
        load_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match="damaged or missing"):
        load_pretrained(tmp_path)
    weights.write_bytes(whole)
    load_pretrained(tmp_path)
    good = json.loads(config.read_text())
    config.write_text(json.dumps({key: value for key, value in good.items() if key != "fusion"}))
    with pytest.raises(UserError, match="'fusion' is missing; export the model again"):
        load_pretrained(tmp_path)
    config.write_text("[]")
    with pytest.raises(UserError, match="model format None"):
        load_pretrained(tmp_path)
    config.write_text(json.dumps(good | {"format": 99}))
    with pytest.raises(UserError, match="model format 99, this version reads 1"):
        load_pretrained(tmp_path)


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
