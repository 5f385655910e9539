"""Models of stock checkpoints against what transformers computes: causal models, BART, adapters, prompts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from mmprofile.errors import UserError
from mmprofile.inputs.batch import IGNORE, Batch, Collator
from mmprofile.inputs.views import VIEWS, Masking, User, paradigm_views
from mmprofile.model.backbones import build_prompt
from mmprofile.model.build import build_model
from mmprofile.model.exports import load_pretrained
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Schema
from tests.support.hubmodels import FUSION, INPUTS, TEXT, answer, close, row_ids

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("kind", ["llama", "glm4"])
@pytest.mark.parametrize("instruction", ["", "we stayed long"])
def test_a_causal_model_learns_its_own_loss_of_the_answer(
    kind: str,
    instruction: str,
    hub_model: Callable[..., ProfileModel],
    collate: Callable[..., Batch],
    users: list[User],
) -> None:
    model = hub_model(kind, instruction=instruction, answer=" the profile :")
    batch = collate(model, users, TEXT)
    losses = []
    for row in range(len(users)):
        prompt, target = [*row_ids(batch, row), model.start], answer(batch, row)
        labels = torch.tensor([[IGNORE] * len(prompt) + target])
        stock = model.text(input_ids=torch.tensor([prompt + target]), labels=labels)
        alone = collate(model, [users[row]], TEXT)
        close(model(alone).view_losses[0], stock.loss)
        assert model.tokenizer.decode(prompt).startswith(instruction)
        assert model.tokenizer.decode(prompt).endswith("the profile :")
        losses.append(stock.loss * len(target))
    output = model(batch)
    close(output.view_totals[0], torch.stack(losses).sum(), 1e-4)


@pytest.mark.parametrize(
    ("kind", "fusion"), [("llama", "prefix"), ("glm4", "none"), ("llava", "prefix"), ("bart", "prefix")]
)
@pytest.mark.parametrize("beams", [None, 1, 3])
def test_generation_of_one_is_generation_in_a_batch(
    kind: str, fusion: str, beams: int | None, hub_model: Callable[..., ProfileModel], collate: Callable[..., Batch],
    users: list[User],
) -> None:  # fmt: skip
    model = hub_model(kind, fusion)
    view = FUSION if fusion == "prefix" else TEXT
    together = model.generate(collate(model, users, view), beams)
    assert together == [model.generate(collate(model, [user], view), beams)[0] for user in users]
    assert all(model.schema.parse(text).faults == [] for text in together)


@pytest.mark.parametrize("kind", ["bart", "llama"])
def test_beams_take_no_habits_of_a_checkpoint(
    kind: str, hub_folders: dict[str, Path], hub_model: Callable[..., ProfileModel], collate: Callable[..., Batch],
    users: list[User], tmp_path: Path,
) -> None:  # fmt: skip
    shutil.copytree(hub_folders[kind], tmp_path, dirs_exist_ok=True)
    habits = {"no_repeat_ngram_size": 3, "forced_bos_token_id": 0, "min_length": 500, "length_penalty": 9.0}
    (tmp_path / "generation_config.json").write_text(json.dumps(habits | {"early_stopping": True, "num_beams": 4}))
    plain, model = hub_model(kind), hub_model(kind, name=str(tmp_path))
    assert model.generate(collate(model, users, TEXT), 5) == plain.generate(collate(plain, users, TEXT), 5)


@pytest.mark.parametrize("kind", ["llama", "bart"])
def test_what_is_found_has_the_probability_that_training_gives_it(
    kind: str, hub_model: Callable[..., ProfileModel], collate: Callable[..., Batch], users: list[User]
) -> None:
    model = hub_model(kind, "prefix")
    for user, one in zip(users, model.decode(collate(model, users, FUSION)), strict=True):
        guess = User(user.user_id, user.reviews, user.photos, user.captions, one.profile)
        assert one.log_probability == pytest.approx(
            -model(collate(model, [guess], FUSION)).view_totals.item(), abs=1e-3
        )


def test_bart_reads_photos_in_front_of_the_text(
    hub_model: Callable[..., ProfileModel], collate: Callable[..., Batch], users: list[User]
) -> None:
    model = hub_model("bart", "prefix", "grid")
    for user in users:
        batch = collate(model, [user], FUSION)
        embedded = model.text.get_encoder().get_input_embeddings()(torch.tensor([row_ids(batch, 0)]))
        if user.photos:
            assert model.vision is not None
            tokens = model.vision(batch.photos).flatten(0, 1)[None]
            assert tokens.shape[1] == len(user.photos) * model.vision.count == len(user.photos) * 5
            embedded = torch.cat([model.fusion.project(tokens), embedded], 1)
        stock = model.text(inputs_embeds=embedded, labels=torch.tensor([answer(batch, 0)]))
        close(model(batch).view_losses[0], stock.loss)
        if not user.photos:
            plain = hub_model("bart")
            assert torch.equal(model(batch).logits, plain(collate(plain, [user], TEXT)).logits)
    batch = collate(model, users, *paradigm_views("multi", VIEWS), image=0.5)
    model(batch).view_losses.sum().backward()
    assert all(p.grad is not None for p in model.fusion.parameters())


@pytest.mark.parametrize("kind", ["bart", "llama"])
def test_a_row_without_photos_may_be_the_longest(
    kind: str, hub_model: Callable[..., ProfileModel], collate: Callable[..., Batch], users: list[User]
) -> None:
    model = hub_model(kind, "prefix")
    long = User("long", ("the soup was warm so we stayed so long",) * 4, (), (), users[0].profile)
    rows = [users[2], long, users[3]]
    together = model.decode(collate(model, rows, FUSION))
    for user, found in zip(rows, together, strict=True):
        (alone,) = model.decode(collate(model, [user], FUSION))
        assert found.text == alone.text
        assert found.log_probability == pytest.approx(alone.log_probability, abs=1e-3)


def test_an_adapter_learns_alone_and_is_kept(
    hub_model: Callable[..., ProfileModel], collate: Callable[..., Batch], users: list[User], hub_folders: dict[str, Path],
    schema: Schema, tmp_path: Path,
) -> None:  # fmt: skip
    lora = {"rank": 2, "alpha": 4, "dropout": 0.0}
    model, stock = hub_model("llama", "prefix", lora=lora), llama_from(hub_folders["llama"])
    trained = {name for name, p in model.text.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert {"q_proj", "down_proj"} <= {part for name in trained for part in name.split(".")}
    adam = torch.optim.Adam([*model.pretrained_parts(), *model.new_parts()], 0.05)
    batch = collate(model, users, FUSION)
    before = model(batch).view_losses[0]
    for _ in range(3):
        adam.zero_grad()
        model(batch).view_losses.sum().backward()
        adam.step()
    after = model(batch)
    assert after.view_losses[0] < before
    kept = {name.replace(".base_layer", ""): p for name, p in model.text.named_parameters() if "lora_" not in name}
    assert all(torch.equal(kept[name], p) for name, p in stock.named_parameters())

    model.save_pretrained(tmp_path)
    again = load_pretrained(tmp_path)
    assert torch.equal(again(batch).logits, after.logits)
    adapted = hub_model("llama", "prefix", adapter=str(tmp_path / "adapter"))
    adapted.fusion.load_state_dict(model.fusion.state_dict())
    adapted.vision.load_state_dict(model.vision.state_dict())
    assert torch.equal(adapted(batch).logits, after.logits)
    adapted.save_pretrained(tmp_path / "second")
    assert torch.equal(load_pretrained(tmp_path / "second")(batch).logits, after.logits)
    with pytest.raises(UserError, match=r"was trained on '.*llama\d', not on model.text.name='.*glm4"):
        hub_model("glm4", adapter=str(tmp_path / "adapter"))
    with pytest.raises(UserError, match=r"model\.text\.adapter='/nowhere' cannot be loaded"):
        hub_model("llama", adapter="/nowhere")


def llama_from(folder: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(folder)


def test_a_llavas_adapter_leaves_the_tower_alone(hub_model: Callable[..., ProfileModel]) -> None:
    model = hub_model("llava", "prefix", lora={"rank": 2, "alpha": 4, "dropout": 0.0})
    trained = [name for name, p in model.text.named_parameters() if p.requires_grad]
    assert all("language_model" in n or "multi_modal_projector" in n for n in trained)
    assert any("multi_modal_projector" in n for n in trained)


@pytest.mark.parametrize(
    ("kind", "fusion"), [("llama", "prefix"), ("llava", "prefix"), ("bart", "prefix"), ("glm4", "none")]
)
def test_saved_and_loaded(
    kind: str, fusion: str, hub_model: Callable[..., ProfileModel], collate: Callable[..., Batch], users: list[User],
    tmp_path: Path,
) -> None:  # fmt: skip
    model = hub_model(kind, fusion, "grid", instruction="we stayed")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "model")
    again = load_pretrained(tmp_path / "model")
    view = FUSION if fusion == "prefix" else TEXT
    batch, second = collate(model, users, view), collate(again, users, view)
    assert torch.equal(batch.row_tokens, second.row_tokens)
    assert torch.equal(model(batch).logits, again(second).logits)
    assert again.settings == model.settings


def test_prompts_begin_as_the_tokenizer_begins_texts(make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> None:
    tokenizer = make_tokenizer(["profile : we stayed", "good"], bos_token="<unk>")
    assert build_prompt(tokenizer, "we", "profile :")[0] == tuple(
        tokenizer("we", add_special_tokens=False)["input_ids"]
    )
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<unk> $A", special_tokens=[("<unk>", 2)])
    prompt = build_prompt(tokenizer, "we<image> stayed", "profile:")
    words = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("we", "stayed", "profile", ":")]
    first, second, third, last = (ids[-1] for ids in words)
    assert prompt.before[:2] == (2, first)
    assert prompt.before[prompt.at :][-1] == second
    assert (prompt.after[-1], prompt.start) == (third, last)
    assert prompt.at == 2


def test_an_attention_needs_an_encoder(hub_model: Callable[..., ProfileModel]) -> None:
    with pytest.raises(UserError, match="has no encoder; use prefix or none"):
        hub_model("llama", "xattn")


def test_auxiliary_classifiers_need_an_encoder(hub_folders: dict[str, Path], schema: Schema) -> None:
    with pytest.raises(UserError, match="has no encoder whose states could be classified"):
        build_model(
            text={"name": str(hub_folders["llama"])},
            vision=None,
            fusion={"kind": "none"},
            schema=schema,
            inputs={},
            head={"kind": "lm", "auxiliary": 0.5},
        )


def test_collators_of_models_that_read_any_length(hub_model: Callable[..., ProfileModel]) -> None:
    collator = hub_model("bart").collator(INPUTS, None, Masking(), 0)
    assert isinstance(collator, Collator)
    assert collator.room is None
