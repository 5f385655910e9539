"""Models that are exported and loaded again; those with output weights of their own, as T5 v1.1, Flan-T5 and mT5 have them."""

import json
from collections.abc import Callable
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration

from mmprofile.errors import UserError
from mmprofile.inputs.batch import Collator
from mmprofile.inputs.views import VIEWS, User, build_view, paradigm_views
from mmprofile.model.build import build_model
from mmprofile.model.exports import load_pretrained
from mmprofile.model.model import FORMAT, ProfileModel
from mmprofile.profile.schema import Attribute, Schema

pytestmark = pytest.mark.fast

BOTH, TEXT = paradigm_views("both", VIEWS), build_view("text", "text")
SPARE = 4  # rows of the embeddings that the tokenizer does not use; flan-t5 has 28
FOREIGN = Schema("foreign", [Attribute("Küche", ("寿司", "拉麺", "水餃"))])
HEADS = ({"kind": "lm"}, {"kind": "lm", "auxiliary": 0.5}, {"kind": "late_fusion", "dropout": 0.0})
CLASSES: dict[str, tuple[type, type]] = {
    "t5": (T5Config, T5ForConditionalGeneration),
    "mt5": (MT5Config, MT5ForConditionalGeneration),
}


@pytest.fixture(params=CLASSES)
def untied_folder(request: pytest.FixtureRequest, schema: Schema, schema_tokenizer: Any, tmp_path: Path) -> Path:
    """A random T5 v1.1 or mT5 with output weights of its own."""
    config_class, model_class = CLASSES[request.param]
    tokenizer, folder = schema_tokenizer(schema), tmp_path / request.param
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
    own = {"vocab_size": len(tokenizer) + SPARE, "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0}
    model = model_class(config_class(**sizes, **own, tie_word_embeddings=False))
    model.lm_head.weight = nn.Parameter(torch.randn(own["vocab_size"], 16))
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("scale_decoder_outputs", None)  # as published: written before transformers had the key
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    tokenizer.save_pretrained(folder)
    return folder


def build(folder: Path, schema: Schema, **text: Any) -> ProfileModel:
    parts: dict[str, Any] = {"vision": None, "fusion": {"kind": "none"}, "inputs": {}}
    return build_model(text={"name": str(folder), **text}, schema=schema, **parts).eval()


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
    with pytest.raises(UserError, match="model format 99, this version reads up to 2; update mmprofile"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("file", "path", "value"),
    [
        ("text/config.json", ["num_layers"], 10**9),
        ("text/config.json", ["d_ff"], 10**8),
        ("config.json", ["vision", "model_args", "depth"], 100_000),
        ("config.json", ["vision", "model_args", "depth"], 10**9),
    ],
)
def test_a_model_that_its_weights_cannot_fill_is_not_built(
    file: str, path: list[str], value: object, tiny_model: Callable[..., ProfileModel], tmp_path: Path
) -> None:
    """A small file may ask for more than all memory."""
    tiny_model("xattn").save_pretrained(tmp_path)
    settings = json.loads((tmp_path / file).read_text())
    part = reduce(getitem, path[:-1], settings)
    part[path[-1]] = value
    (tmp_path / file).write_text(json.dumps(settings))
    with pytest.raises(
        UserError, match=r"more than 4 parameters for each byte of its weights|depth=1000000000 is more than"
    ):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("pattern", ["tokenizer*.json", "config.json"])
def test_an_export_without_a_part_of_its_text_model(
    pattern: str, tiny_model: Callable[..., ProfileModel], tmp_path: Path
) -> None:
    """The tokenizer of its base model would not do: an export's may have learned characters."""
    tiny_model("none").save_pretrained(tmp_path)
    for path in (tmp_path / "text").glob(pattern):
        path.unlink()
    with pytest.raises(UserError, match=r"text: configuration or tokenizer is missing; export the model again"):
        load_pretrained(tmp_path)


def test_output_weights_stay_apart(
    untied_folder: Path, schema: Schema, make_collator: Callable[..., Collator], users: list[User], tmp_path: Path
) -> None:
    model = build(untied_folder, schema)
    adam = torch.optim.Adam(model.parameters(), 0.01)
    batch = make_collator(model)(users, [TEXT])
    for _ in range(2):
        adam.zero_grad()
        model(batch).view_losses.sum().backward()
        adam.step()
    expected = model(batch).logits
    stock = model.text(input_ids=batch.text_ids, attention_mask=batch.text_mask.long(), labels=batch.labels).logits
    torch.testing.assert_close(expected, stock, rtol=0, atol=1e-5)
    for folder in ("once", "twice"):
        model.save_pretrained(tmp_path / folder)
        model = load_pretrained(tmp_path / folder)
        assert torch.equal(model(batch).logits, expected)
        table, head = model.text.get_input_embeddings().weight, model.text.get_output_embeddings().weight
        assert table is model.text.get_encoder().get_input_embeddings().weight
        assert table is model.text.get_decoder().get_input_embeddings().weight
        assert not torch.equal(table, head)


def test_new_characters_leave_the_output_weights_apart(
    untied_folder: Path, tmp_path: Path, make_collator: Callable[..., Collator]
) -> None:
    stock = CLASSES[untied_folder.name][1].from_pretrained(untied_folder)
    old = len(stock.shared.weight)
    model = build(untied_folder, FOREIGN)
    table, head = model.text.get_input_embeddings().weight, model.text.get_output_embeddings().weight
    assert len(table) == len(head) == len(model.tokenizer) > old
    known = old - SPARE
    assert torch.equal(table[:known], stock.shared.weight[:known])
    assert torch.equal(head[:known], stock.lm_head.weight[:known])
    unknown = model.tokenizer.unk_token_id
    assert torch.equal(head[known:], stock.lm_head.weight[unknown].expand(len(head) - known, -1))
    user = User("u", ("soup",), (), (), {"Küche": ("拉麺",)})
    batch = make_collator(model)([user], [TEXT])
    model.save_pretrained(tmp_path / "model")
    assert torch.equal(load_pretrained(tmp_path / "model")(batch).logits, model(batch).logits)


@pytest.mark.parametrize("lora", [{"rank": 0}, {"rank": 2, "alpha": 4, "dropout": 0.0}])
@pytest.mark.parametrize("head", HEADS)
def test_heads_and_adapters_of_untied_models(
    lora: dict[str, Any], head: dict[str, Any], untied_folder: Path, schema: Schema, vit_folder: Path, tmp_path: Path,
    make_collator: Callable[..., Collator], users: list[User],
) -> None:  # fmt: skip
    kind = "xattn" if head["kind"] == "lm" else "none"
    vision = {"name": f"local-dir:{vit_folder}", "tokens": "cls", "grid": 2, "trainable": False}
    text = {"name": str(untied_folder), "lora": lora}
    model = build_model(text=text, vision=vision, fusion={"kind": kind}, schema=schema, inputs={}, head=head).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    batch = make_collator(model)(users, [*(build_view(name, "both") for name in VIEWS)])
    model.save_pretrained(tmp_path / "model")
    again, profiles = load_pretrained(tmp_path / "model"), model.decode(make_collator(model)(users, [TEXT]))
    assert torch.equal(again(batch).view_losses, model(batch).view_losses)
    assert again.decode(make_collator(again)(users, [TEXT])) == profiles


def test_an_export_of_an_older_format_is_converted(
    untied_folder: Path, schema: Schema, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    make_collator: Callable[..., Collator], users: list[User],
) -> None:  # fmt: skip
    model = build(untied_folder, schema)
    batch = make_collator(model)(users, [TEXT])
    model.save_pretrained(tmp_path / "old")
    path = tmp_path / "old" / "config.json"
    config = json.loads(path.read_text())
    assert config["format"] == FORMAT == 2
    later = ("target", "head", "auxiliary", "source")
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in later} | {"format": 1}))
    again = load_pretrained(tmp_path / "old")
    assert torch.equal(again(batch).logits, model(batch).logits)
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert f"{tmp_path / 'old'}: model format 1" in message
    again.save_pretrained(tmp_path / "new")
    load_pretrained(tmp_path / "new")
    assert capsys.readouterr().err == ""
    assert json.loads((tmp_path / "new" / "config.json").read_text())["format"] == 2


def test_an_export_names_what_it_was_made_from(untied_folder: Path, schema: Schema, tmp_path: Path) -> None:
    build(untied_folder, schema).save_pretrained(tmp_path / "model")
    source = json.loads((tmp_path / "model" / "config.json").read_text())["source"]
    assert source == {"text": untied_folder.name}
    load_pretrained(tmp_path / "model").save_pretrained(tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "config.json").read_text())["source"] == source


def test_an_export_names_its_photo_encoder(hub_model: Callable[..., ProfileModel], vit_folder: Path) -> None:
    assert hub_model("bart", "prefix").settings["source"]["vision"] == vit_folder.name
    assert "vision" not in hub_model("llava", "prefix").settings["source"]  # it has its own
    assert "vision" not in hub_model("bart").settings["source"]
