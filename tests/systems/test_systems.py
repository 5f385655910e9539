"""The compared systems against the models they are made of: causal models, BART with photos in front, LLaVA, OD-TUP, SelectAtt."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    CLIPImageProcessor,
    CLIPVisionConfig,
    Glm4Config,
    Glm4ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.evaluate.runs import make_data
from mmprofile.inputs.batch import IGNORE, Batch, Collator
from mmprofile.inputs.views import VIEWS, Masking, User, build_view, paradigm_views
from mmprofile.model.backbones import build_prompt
from mmprofile.model.build import build_model, load_pretrained
from mmprofile.model.fusion import SelectiveAttention, compact
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Schema
from mmprofile.train.checks import check_settings
from mmprofile.train.module import ProfileModule, joint_loss
from mmprofile.train.run import make_model

TEXT, FUSION = build_view("text", "text"), build_view("fusion", "multi")
INPUTS = {"modality": "multi", "reviews": 3, "photos_per_review": 1, "max_tokens": 64, "encoding": "segments"}
SMALL: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
CAUSAL: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    **SMALL,
}
LONGEST = 256


def llama(size: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(vocab_size=size, max_position_embeddings=LONGEST, **CAUSAL))


def glm4(size: int) -> Glm4ForCausalLM:
    return Glm4ForCausalLM(Glm4Config(vocab_size=size, num_key_value_heads=2, head_dim=8, **CAUSAL))


def bart(size: int) -> BartForConditionalGeneration:
    layers = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    more = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "decoder_start_token_id": 1, "dropout": 0.0}
    return BartForConditionalGeneration(
        BartConfig(vocab_size=size, max_position_embeddings=LONGEST, **layers, **more, **SMALL)
    )


def llava(size: int) -> LlavaForConditionalGeneration:
    tower = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision = CLIPVisionConfig(image_size=32, patch_size=8, **tower)
    text = LlamaConfig(vocab_size=size, max_position_embeddings=LONGEST, **CAUSAL)
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=size - 1)
    )


MAKE: dict[str, Callable[[int], Any]] = {"llama": llama, "glm4": glm4, "bart": bart, "llava": llava}


@pytest.fixture(scope="module")
def folders(
    schema: Schema,
    schema_tokenizer: Callable[[Schema], PreTrainedTokenizerFast],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """A small random checkpoint of each kind, in the hub's layout."""
    tokenizer, found = schema_tokenizer(schema), {}
    for name, make in MAKE.items():
        torch.manual_seed(0)
        found[name] = tmp_path_factory.mktemp(name)
        model = make(len(tokenizer))
        with torch.no_grad():  # as they are initialised, all tokens are about as likely
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(found[name])
        tokenizer.save_pretrained(found[name])
    shape = {"height": 32, "width": 32}
    CLIPImageProcessor(size=shape, crop_size=shape).save_pretrained(found["llava"])
    return found


@pytest.fixture(scope="module")
def make(folders: dict[str, Path], vit_folder: Path, schema: Schema) -> Callable[..., ProfileModel]:
    """``make(kind, fusion, tokens, target, **text)`` -> a model of the checkpoint in evaluation mode."""

    def build(
        kind: str, fusion: str = "none", tokens: str = "cls", target: str = "profile", inputs: Any = INPUTS, **text: Any
    ) -> ProfileModel:
        vision = {"name": f"local-dir:{vit_folder}", "tokens": tokens, "grid": 2, "trainable": True}
        torch.manual_seed(3)
        parts = {"name": str(folders[kind]), **text}, None if fusion == "none" else vision, {"kind": fusion}
        return build_model(*parts, schema, inputs, "full", target).eval()

    return build


@pytest.fixture(scope="module")
def collate(photos: dict[str, np.ndarray]) -> Callable[..., Batch]:
    def batch(model: ProfileModel, users: list[User], *views: Any, inputs: Any = INPUTS, **masking: float) -> Batch:
        return model.collator(inputs, photos.__getitem__, Masking(**masking), 0)(users, views)

    return batch


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def row_ids(batch: Batch, row: int) -> list[int]:
    """The tokens that a row reads."""
    places = batch.row_tokens[row]
    return batch.text_ids.flatten()[places[places >= 0]].tolist()


def answer(batch: Batch, row: int) -> list[int]:
    assert batch.labels is not None
    return batch.labels[row][batch.labels[row] != IGNORE].tolist()


@pytest.mark.parametrize("kind", ["llama", "glm4"])
@pytest.mark.parametrize("instruction", ["", "we stayed long"])
def test_a_causal_model_learns_its_own_loss_of_the_answer(
    kind: str, instruction: str, make: Callable[..., ProfileModel], collate: Callable[..., Batch], users: list[User]
) -> None:
    model = make(kind, instruction=instruction, answer=" the profile :")
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
    kind: str, fusion: str, beams: int | None, make: Callable[..., ProfileModel], collate: Callable[..., Batch],
    users: list[User],
) -> None:  # fmt: skip
    model = make(kind, fusion)
    view = FUSION if fusion == "prefix" else TEXT
    together = model.generate(collate(model, users, view), beams)
    assert together == [model.generate(collate(model, [user], view), beams)[0] for user in users]
    assert all(model.schema.parse(text).faults == [] for text in together)


@pytest.mark.parametrize("kind", ["llama", "bart"])
def test_what_is_found_has_the_probability_that_training_gives_it(
    kind: str, make: Callable[..., ProfileModel], collate: Callable[..., Batch], users: list[User]
) -> None:
    model = make(kind, "prefix")
    for user, one in zip(users, model.decode(collate(model, users, FUSION)), strict=True):
        guess = User(user.user_id, user.reviews, user.photos, user.captions, one.profile)
        assert one.log_probability == pytest.approx(
            -model(collate(model, [guess], FUSION)).view_totals.item(), abs=1e-3
        )


def test_bart_reads_photos_in_front_of_the_text(
    make: Callable[..., ProfileModel], collate: Callable[..., Batch], users: list[User]
) -> None:
    model = make("bart", "prefix", "grid")
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
            plain = make("bart")
            assert torch.equal(model(batch).logits, plain(collate(plain, [user], TEXT)).logits)
    batch = collate(model, users, *paradigm_views("multi", VIEWS), image=0.5)
    model(batch).view_losses.sum().backward()
    assert all(p.grad is not None for p in model.fusion.parameters())


@pytest.mark.parametrize("kind", ["bart", "llama"])
def test_a_row_without_photos_may_be_the_longest(
    kind: str, make: Callable[..., ProfileModel], collate: Callable[..., Batch], users: list[User]
) -> None:
    model = make(kind, "prefix")
    long = User("long", ("the soup was warm so we stayed so long",) * 4, (), (), users[0].profile)
    rows = [users[2], long, users[3]]
    together = model.decode(collate(model, rows, FUSION))
    for user, found in zip(rows, together, strict=True):
        (alone,) = model.decode(collate(model, [user], FUSION))
        assert found.text == alone.text
        assert found.log_probability == pytest.approx(alone.log_probability, abs=1e-3)


@pytest.mark.parametrize("instruction", ["", "we stayed <image> so long"])
def test_a_llava_reads_what_transformers_splices_in(
    instruction: str, make: Callable[..., ProfileModel], collate: Callable[..., Batch], users: list[User]
) -> None:
    model = make("llava", "prefix", "patch", instruction=instruction)
    image, count = model.text.config.image_token_id, model.vision.count
    assert count == 16
    assert (model.prompt.at > 0) == bool(instruction)
    for user in users:
        batch = collate(model, [user], FUSION)
        ids = row_ids(batch, 0)
        prompt = [*ids[: model.prompt.at], *[image] * count * len(user.photos), *ids[model.prompt.at :], model.start]
        target = answer(batch, 0)
        mean, std = (
            torch.tensor(x).view(3, 1, 1) for x in (model.vision.processor.image_mean, model.vision.processor.image_std)
        )
        shown = {"pixel_values": (batch.photos / 255 - mean) / std} if user.photos else {}
        labels = torch.tensor([[IGNORE] * len(prompt) + target])
        stock = model.text(input_ids=torch.tensor([prompt + target]), labels=labels, **shown)
        close(model(batch).view_losses[0], stock.loss)
    together = model(collate(model, users, FUSION))
    each = [model(collate(model, [user], FUSION)).view_totals[0] for user in users]
    close(together.view_totals[0], torch.stack(each).sum(), 1e-4)


def test_a_llava_prepares_photos_as_its_processor_does(make: Callable[..., ProfileModel]) -> None:
    model = make("llava", "prefix", "patch")
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8))
    assert model.transform is not None
    pixels = torch.from_numpy(model.transform(image))
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (3, 32, 32))
    processor = model.vision.processor
    stock = processor(images=image, return_tensors="pt")["pixel_values"]
    expected = torch.stack(list(model.text.get_image_features(stock).pooler_output))
    close(model.vision(pixels[None]), expected, 0.02)  # bytes are rounded
    pooled = make("llava", "prefix", "grid")
    assert pooled.vision.count == 4
    square = expected.transpose(1, 2).unflatten(2, (4, 4))
    close(pooled.vision(pixels[None])[0, 0], square[0, :, :2, :2].mean((1, 2)), 0.02)


@settings(max_examples=40)
@given(
    reviews=st.lists(st.integers(1, 120), min_size=1, max_size=6),
    photos=st.integers(0, 6),
    captions=st.integers(0, 40),
    encoding=st.sampled_from(["joint", "segments"]),
)
def test_no_photo_or_text_cuts_the_answer(
    reviews: list[int], photos: int, captions: int, encoding: str, make: Callable[..., ProfileModel],
    photos_of_users: dict[str, np.ndarray],
) -> None:  # fmt: skip
    inputs = {**INPUTS, "photos_per_review": 1, "reviews": 6, "max_tokens": 100, "encoding": encoding}
    model = make("llava", "prefix", "grid", inputs=inputs, instruction="we stayed")
    profile = {a.name: a.canonical(a.values[: a.size]) for a in model.schema.attributes}
    texts = tuple(" ".join(["good"] * n) for n in reviews)
    shown = tuple(list(photos_of_users)[:photos])
    user = User("ann", texts, shown, tuple(" ".join(["plate"] * captions) for _ in shown), profile)
    collator = model.collator(inputs, photos_of_users.__getitem__, Masking(), 0)
    batch = collator([user], [build_view("fusion", "both")])
    assert answer(batch, 0) == model.grammar.encode(profile)
    read = len(row_ids(batch, 0)) + 1 + len(shown) * model.vision.count
    assert read + len(answer(batch, 0)) <= LONGEST
    short = sum(reviews) + 2 * len(reviews) < 60 and captions * photos < 20
    if short:  # and nothing is cut where all fits
        assert sum(
            token == model.tokenizer("good", add_special_tokens=False)["input_ids"][0] for token in row_ids(batch, 0)
        ) == sum(reviews)


@pytest.fixture(scope="module")
def photos_of_users() -> dict[str, np.ndarray]:
    return {f"photo {i}": np.full((3, 32, 32), i, dtype=np.uint8) for i in range(6)}


def test_photos_that_leave_no_room_are_refused(make: Callable[..., ProfileModel]) -> None:
    inputs = {**INPUTS, "photos_per_review": 4}
    with pytest.raises(UserError, match=r"reads 256 tokens, of which the photos of a user take up to 192"):
        make("llava", "prefix", "patch").collator(inputs, None, Masking(), 0)


def test_each_attribute_is_asked_for_by_its_name(
    make: Callable[..., ProfileModel], collate: Callable[..., Batch], users: list[User], schema: Schema
) -> None:
    model, plain = make("bart", target="attributes"), make("bart", target="prompted")
    batch, one = collate(model, users, TEXT), collate(plain, users, TEXT)
    assert len(batch.row_user) == len(users) * len(schema.names) == len(one.row_user) * len(schema.names)
    for row, (u, a) in enumerate(zip(batch.row_user.tolist(), batch.row_attribute.tolist(), strict=True)):
        name = schema.names[a]
        assert f"attribute: {name}" in model.tokenizer.decode(row_ids(batch, row))
        parsed = schema.parse(model.grammar.decode(answer(batch, row))).profile
        assert parsed == {n: users[u].profile[n] if n == name else () for n in schema.names}
    assert all(
        f"attributes: {', '.join(schema.names)}" in plain.tokenizer.decode(row_ids(one, r)) for r in range(len(users))
    )
    found, texts = model.decode(batch, width=64), model.generate(batch)
    for u, decoded in enumerate(found):
        parts = []
        for a, grammar in enumerate(model.grammar.parts):  # each alone, with a model that knows no other attribute
            rows = [r for r in range(len(batch.row_user)) if (batch.row_user[r], batch.row_attribute[r]) == (u, a)]
            ids = torch.tensor([row_ids(batch, rows[0])])
            states = [  # texts are encoded apart: prompt, then each review
                model.text.get_encoder()(input_ids=torch.tensor([piece])).last_hidden_state
                for piece in split(ids[0].tolist(), 1)
            ]
            assert len(states) == 1 + len(users[u].reviews)
            scored = []
            for value in all_values(schema, a):
                target = grammar.encode({schema.names[a]: value})
                logits = model.text(
                    encoder_outputs=(torch.cat(states, 1),), labels=torch.tensor([target])
                ).logits.log_softmax(-1)[0]
                scored.append((logits[range(len(target)), target].sum().item(), value))
            parts.append(max(scored)[1])
        assert decoded.profile == dict(zip(schema.names, parts, strict=True))
        assert decoded.text == schema.render(decoded.profile)
        assert schema.parse(texts[u]).faults == []
        assert set(decoded.posteriors) == set(schema.names)
    total = model(batch).view_totals
    per_attribute = [model(collate(model, [user], TEXT)).view_totals for user in users]
    close(total, torch.stack(per_attribute).sum(0), 1e-4)


def split(ids: list[int], end: int) -> list[list[int]]:
    pieces: list[list[int]] = [[]]
    for token in ids:
        pieces[-1].append(token)
        if token == end:
            pieces.append([])
    return pieces[:-1]


def all_values(schema: Schema, number: int) -> list[tuple[str, ...]]:
    attribute = schema.attributes[number]
    return list(combinations(attribute.values, attribute.size))


def test_beams_write_each_attribute_too(
    make: Callable[..., ProfileModel], collate: Callable[..., Batch], users: list[User]
) -> None:
    model = make("bart", target="attributes")
    batch = collate(model, users, TEXT)
    for text, found in zip(model.generate(batch, 8), model.decode(batch), strict=True):
        profile, faults = model.schema.parse(text)
        assert faults == []
        for name in model.schema.names:  # categories differ in length, by which beams are normalised
            assert name == "Favorite Category" or profile[name] == found.profile[name]


def test_selective_attention_is_its_equation() -> None:
    torch.manual_seed(0)
    fusion = SelectiveAttention(8, 5)
    hidden, visual = torch.randn(2, 3, 8), torch.randn(2, 4, 5)
    there = torch.tensor([[True, True, False, True], [False] * 4])
    fused = fusion(hidden, torch.ones(2, 3, dtype=torch.bool), visual, there)
    attention = fusion.attention
    for n in range(3):
        query = attention.query.weight @ hidden[0, n]
        keys = [attention.key.weight @ visual[0, v] for v in (0, 1, 3)]
        share = torch.stack([query @ key for key in keys]).div(8**0.5).exp()
        values = torch.stack([attention.value.weight @ visual[0, v] for v in (0, 1, 3)])
        attended = (share / share.sum()) @ values
        gate = 1 / (1 + (-(fusion.gate.weight @ torch.cat([attended, hidden[0, n]]) + fusion.gate.bias)).exp())
        close(fused.hidden[0, n], (1 - gate) * hidden[0, n] + gate * attended)
        close(fused.gate[0, n], gate)
    assert torch.equal(fused.hidden[1], hidden[1])


def test_gaps_are_moved_behind_the_end() -> None:
    hidden = torch.arange(8.0).view(2, 4, 1)
    moved, mask = compact(hidden, torch.tensor([[True, False, True, False], [False, True, True, False]]))
    assert moved[..., 0].tolist() == [[0, 2], [5, 6]]
    assert mask.all()


def test_an_adapter_learns_alone_and_is_kept(
    make: Callable[..., ProfileModel], collate: Callable[..., Batch], users: list[User], folders: dict[str, Path],
    schema: Schema, tmp_path: Path,
) -> None:  # fmt: skip
    lora = {"rank": 2, "alpha": 4, "dropout": 0.0}
    model, stock = make("llama", "prefix", lora=lora), llama_from(folders["llama"])
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
    adapted = make("llama", "prefix", adapter=str(tmp_path / "adapter"))
    adapted.fusion.load_state_dict(model.fusion.state_dict())
    adapted.vision.load_state_dict(model.vision.state_dict())
    assert torch.equal(adapted(batch).logits, after.logits)
    adapted.save_pretrained(tmp_path / "second")
    assert torch.equal(load_pretrained(tmp_path / "second")(batch).logits, after.logits)
    with pytest.raises(UserError, match=r"was trained on '.*llama\d', not on model.text.name='.*glm4"):
        make("glm4", adapter=str(tmp_path / "adapter"))
    with pytest.raises(UserError, match=r"model\.text\.adapter='/nowhere' cannot be loaded"):
        make("llama", adapter="/nowhere")


def llama_from(folder: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(folder)


def test_a_llavas_adapter_leaves_the_tower_alone(make: Callable[..., ProfileModel]) -> None:
    model = make("llava", "prefix", lora={"rank": 2, "alpha": 4, "dropout": 0.0})
    trained = [name for name, p in model.text.named_parameters() if p.requires_grad]
    assert all("language_model" in n or "multi_modal_projector" in n for n in trained)
    assert any("multi_modal_projector" in n for n in trained)


@pytest.mark.parametrize(
    ("kind", "fusion"), [("llama", "prefix"), ("llava", "prefix"), ("bart", "prefix"), ("glm4", "none")]
)
def test_saved_and_loaded(
    kind: str, fusion: str, make: Callable[..., ProfileModel], collate: Callable[..., Batch], users: list[User],
    tmp_path: Path,
) -> None:  # fmt: skip
    model = make(kind, fusion, "grid", instruction="we stayed")
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


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model=flan_t5", "paradigm=both"], "sees no photos"),
        (["model=bart", "paradigm=multi"], "choose paradigm=text or paradigm=uni"),
        (["model=od_tup", "paradigm=text", "model.target=each"], "model.target='each' is not one of"),
        (["model.auxiliary=-1"], "model.auxiliary=-1.0: give 0 or more"),
        (["model=od_tup", "model.auxiliary=0.5"], "unless a decoder writes whole profiles"),
        (["model=coopnet", "model.auxiliary=0.5"], "unless a decoder writes whole profiles"),
        (["model=majority", "paradigm=text", "model.auxiliary=0.5"], "does not go with the other choices"),
        (["model.auxiliary=nan"], "model.auxiliary=nan: give 0 or more"),
        (["model=llama", "paradigm=text", "model.text.lora.rank=-2"], "lora.rank=-2: give 1 or more"),
        (["model=bart", "paradigm=text", "model.size=huge"], "model bart has the sizes tiny, base, large"),
    ],
)
def test_settings_without_meaning(overrides: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_settings(load_config("train", overrides))


def test_an_attention_needs_an_encoder(make: Callable[..., ProfileModel]) -> None:
    with pytest.raises(UserError, match="has no encoder; use prefix or none"):
        make("llama", "xattn")


def test_auxiliary_classifiers_need_an_encoder(folders: dict[str, Path], schema: Schema) -> None:
    with pytest.raises(UserError, match="has no encoder whose states could be classified"):
        build_model(
            {"name": str(folders["llama"])}, None, {"kind": "none"}, schema, {}, head={"kind": "lm", "auxiliary": 0.5}
        )


def test_collators_of_models_that_read_any_length(make: Callable[..., ProfileModel]) -> None:
    collator = make("bart").collator(INPUTS, None, Masking(), 0)
    assert isinstance(collator, Collator)
    assert collator.room is None


@pytest.fixture(scope="module")
def small_city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared city of few users."""
    cfg = load_config("train", ["experiment=smoke"])
    schema = Schema.from_dict(OmegaConf.to_container(cfg.profile))  # type: ignore[arg-type]
    prepared: Path = instantiate(cfg.data.prepare, _partial_=True)(schema=schema)
    return prepared


@pytest.mark.parametrize(
    "name", ["ours", "basic", "flan_t5", "bart", "od_tup", "llama", "chatglm", "coopnet", "late_fusion", "select_att",
             "vlp_mabsa", "aom", "llava"],
)  # fmt: skip
def test_every_tiny_shape_learns_in_all_views_and_writes(name: str, small_city: Path, tmp_path: Path) -> None:
    fusion = load_config("train", [f"model={name}", "paradigm=uni"]).model
    blind = fusion.fusion.kind == "none" and fusion.head == "lm"
    cfg = load_config("train", [f"model={name}", f"paradigm={'uni' if blind else 'both'}", "experiment=smoke"])
    check_settings(cfg)
    torch.manual_seed(0)
    schema = Schema.from_dict(OmegaConf.to_container(cfg.profile))  # type: ignore[arg-type]
    model = make_model(cfg, schema)
    data = make_data(cfg, model, small_city)
    module = ProfileModule(model, data.views, data.loss_weights, cfg.optim, steps=100)
    adam = module.configure_optimizers()["optimizer"]
    for group in adam.param_groups:  # its schedule begins at 0
        group["lr"] = 1e-3
    batch = data.collator(data.users("train")[:4], data.views)
    losses = []
    for _ in range(6):
        output = model(batch)
        assert (output.view_tokens > 0).all()
        losses.append(joint_loss(output, module.weights).item())
        adam.zero_grad()
        joint_loss(output, module.weights).backward()
        adam.step()
    assert losses[-1] < 0.9 * losses[0]
    assert sum(p.numel() for p in model.parameters()) < 2_600_000
    model.save_pretrained(tmp_path)
    users = data.users("test")[:3]
    view = data.collator(users, data.views[:1])
    texts = load_pretrained(tmp_path).generate(view)
    assert texts == model.eval().generate(view)
    assert all(schema.parse(text).faults == [] for text in texts)
