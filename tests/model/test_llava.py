"""LLaVA against transformers, and the room that photos leave for texts."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmprofile.errors import UserError
from mmprofile.inputs.batch import IGNORE, Batch
from mmprofile.inputs.views import Masking, User, build_view
from mmprofile.model.model import ProfileModel
from tests.support.hubmodels import FUSION, INPUTS, LONGEST, answer, close, row_ids

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("instruction", ["", "we stayed <image> so long"])
def test_a_llava_reads_what_transformers_splices_in(
    instruction: str, hub_model: Callable[..., ProfileModel], collate: Callable[..., Batch], users: list[User]
) -> None:
    model = hub_model("llava", "prefix", "patch", instruction=instruction)
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


def test_a_llava_prepares_photos_as_its_processor_does(hub_model: Callable[..., ProfileModel]) -> None:
    model = hub_model("llava", "prefix", "patch")
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8))
    assert model.transform is not None
    pixels = torch.from_numpy(model.transform(image))
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (3, 32, 32))
    processor = model.vision.processor
    stock = processor(images=image, return_tensors="pt")["pixel_values"]
    expected = torch.stack(list(model.text.get_image_features(stock).pooler_output))
    close(model.vision(pixels[None]), expected, 0.02)  # bytes are rounded
    pooled = hub_model("llava", "prefix", "grid")
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
    reviews: list[int], photos: int, captions: int, encoding: str, hub_model: Callable[..., ProfileModel],
    photos_of_users: dict[str, np.ndarray],
) -> None:  # fmt: skip
    inputs = {**INPUTS, "photos_per_review": 1, "reviews": 6, "max_tokens": 100, "encoding": encoding}
    model = hub_model("llava", "prefix", "grid", inputs=inputs, instruction="we stayed")
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


def test_photos_that_leave_no_room_are_refused(hub_model: Callable[..., ProfileModel]) -> None:
    inputs = {**INPUTS, "photos_per_review": 4}
    with pytest.raises(UserError, match=r"reads 256 tokens, of which the photos of a user take up to 192"):
        hub_model("llava", "prefix", "patch").collator(inputs, None, Masking(), 0)
