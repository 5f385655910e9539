"""From the prepared demo city to batches: order, ranks, draws, resuming in mid-epoch, and what is refused."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules.prepare import prepare
from datamodules.profiles import BucketBatches, EpochSampler, PhotoPixels, ProfileDataModule
from mmprofile.errors import UserError
from mmprofile.inputs.batch import Batch
from mmprofile.inputs.views import (
    VIEWS,
    Masking,
    User,
    View,
    drop_photos,
    keep_photos,
    paradigm_views,
    sample_reviews,
    unpaired,
)
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Attribute, Schema
from mmprofile.train.checks import check_labels

INPUTS = {
    "reviews": 3,
    "photos_per_review": 1,
    "max_tokens": 96,
    "sample_seed": 0,
    "redraw": False,
    "encoding": "joint",
}
MULTI, BOTH = (paradigm_views(modality, VIEWS) for modality in ("multi", "both"))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory, schema: Schema) -> Path:
    return prepare(
        {"kind": "demo", "users": 60, "seed": 0},
        {"min_words": 10, "max_words": 300, "min_reviews": 30, "photo_reviews": 3},
        {"train": 0.6, "validation": 0.2, "test": 0.2, "seed": 0},
        {"policy": "drop", "shorter_side": 96, "max_pixels": 50_000_000},
        folder=tmp_path_factory.mktemp("prepared") / "demo",
        schema=schema,
        progress=False,
    )


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., ProfileModel]) -> ProfileModel:
    return tiny_model("xattn")


def module(folder: Path, model: ProfileModel, views: tuple[View, ...] = MULTI, **options: Any) -> ProfileDataModule:
    inputs = INPUTS | options.pop("inputs", {})
    return ProfileDataModule(folder, model, views, inputs, Masking(), **{"batch_size": 5, **options})


def equal(first: Batch, second: Batch) -> bool:
    values = [(getattr(first, field.name), getattr(second, field.name)) for field in fields(Batch)]
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in values)


def batches(sampler: BucketBatches) -> list[list[int]]:
    return [[index for _, index in batch] for batch in sampler]


@pytest.mark.parametrize(("users", "size", "pool"), [(37, 5, 2), (40, 5, 2), (3, 5, 16), (100, 1, 16), (33, 4, 3)])
def test_every_user_once_per_epoch(users: int, size: int, pool: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 500, users).tolist()

    def made(seed: int, epoch: int) -> list[list[int]]:
        sampler = BucketBatches(EpochSampler(users, seed, epoch), lambda _: lengths, size, pool=pool)
        assert len(sampler) == len(list(sampler))
        assert all(one == epoch for batch in sampler for one, _ in batch)
        return batches(sampler)

    first = made(0, 0)
    assert sorted(i for batch in first for i in batch) == list(range(users))
    assert max(map(len, first)) <= size
    assert first == made(0, 0)
    if users > size:
        # Other batches, not the same ones in another order.
        assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in made(0, 1)} or size == 1
        assert first != made(0, 1)
        assert first != made(1, 0)


def test_batches_are_of_a_length_and_in_random_order() -> None:
    lengths = np.random.default_rng(0).integers(1, 500, 400).tolist()
    found = batches(BucketBatches(EpochSampler(400, 0), lambda _: lengths, 8, pool=50))
    spread = np.mean([np.ptp([lengths[i] for i in batch]) for batch in found])
    assert spread < 0.2 * np.ptp(lengths)
    means = np.array([np.mean([lengths[i] for i in batch]) for batch in found])
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.4


@pytest.mark.parametrize(("world", "users"), [(2, 50), (3, 50), (2, 49), (3, 61)])
def test_ranks_share_the_batches_of_one_process_with_larger_ones(world: int, users: int) -> None:
    lengths = np.random.default_rng(1).integers(1, 500, users).tolist()
    whole = batches(BucketBatches(EpochSampler(users, 0, 3), lambda _: lengths, 4 * world, pool=3))
    ranks = [BucketBatches(EpochSampler(users, 0, 3), lambda _: lengths, 4, r, world, pool=3) for r in range(world)]
    parts = [batches(sampler) for sampler in ranks]
    together = [sorted(i for part in step for i in part) for step in zip(*parts, strict=True)]
    assert together == [sorted(batch) for batch in whole if len(batch) >= world]
    assert {len(part) for part in parts} == {len(sampler) for sampler in ranks} == {len(together)}
    assert all(part for of in parts for part in of)


def test_the_epoch_is_lightnings_to_set() -> None:
    sampler = BucketBatches(EpochSampler(20, 0), lambda _: [1] * 20, 4)
    sampler.sampler.set_epoch(7)
    assert batches(sampler) == batches(BucketBatches(EpochSampler(20, 0, 7), lambda _: [1] * 20, 4))
    assert len(sampler.sampler) == 20


def test_users_are_as_prepared(demo: Path, model: ProfileModel, schema: Schema) -> None:
    data = module(demo, model, BOTH)
    sizes = {split: len(data.users(split)) for split in ("train", "validation", "test")}
    assert sizes == {split: len(rows) for split, rows in data.prepared.datasets.items()}
    assert min(sizes.values()) > 10
    rows = {row["user_id"]: row for split in data.prepared.datasets.values() for row in split}
    for split in sizes:
        for user in data.users(split):
            row = rows.pop(user.user_id)
            assert user.profile == {name: tuple(values) for name, values in row["profile"].items()}
            assert schema.parse(schema.render(user.profile)).faults == []
            captions = {photo: "x" for review in row["reviews"] for photo in review["photo_ids"]}
            drawn, expected = sample_reviews(user.user_id, row["reviews"], captions, 3, 1, 0)
            assert (user.reviews, user.photos) == (expected.reviews, expected.photos)
            assert len(drawn) == 3
            assert all(user.captions)
    assert rows == {}


def test_other_reviews_in_each_epoch(demo: Path, model: ProfileModel) -> None:
    same, anew = module(demo, model), module(demo, model, inputs={"redraw": True})
    every = range(len(same.users("train")))

    def drawn(data: ProfileDataModule, epoch: int, order: Iterable[int] = every) -> list[User]:
        users = {index: data.draws.training(epoch, index) for index in order}
        return [users[index] for index in every]

    assert drawn(same, 0) == drawn(same, 3) == same.users("train") == anew.users("train")
    first, second = drawn(anew, 0), drawn(anew, 1)
    assert first == drawn(anew, 0) == drawn(module(demo, model, inputs={"redraw": True}), 0, reversed(every))
    assert [user.user_id for user in first] == [user.user_id for user in second]
    assert all(a.profile == b.profile for a, b in zip(first, second, strict=True))
    assert sum(a.reviews != b.reviews for a, b in zip(first, second, strict=True)) > 0.9 * len(first)
    rows = {row["user_id"]: {review["text"] for review in row["reviews"]} for row in anew.prepared.datasets["train"]}
    assert all(set(user.reviews) <= rows[user.user_id] and len(user.reviews) == 3 for user in second)
    loader = anew.train_dataloader()
    loader.batch_sampler.sampler.set_epoch(1)
    shown = {user: batch for batch in loader for user in batch.users}
    assert set(shown) == set(rows)
    for user in second[:5]:
        batch = shown[user.user_id]
        row = int(((batch.row_user == batch.users.index(user.user_id)) & (batch.row_view == 1)).nonzero())
        ids = batch.text_ids.flatten()[batch.row_tokens[row][batch.row_tokens[row] >= 0]]
        assert ids.tolist() == list(anew.collator.texts(user, anew.views[1], np.random.default_rng(0))[0])


def drawn(data: ProfileDataModule, epoch: int) -> list[User]:
    return [data.draws.training(epoch, index) for index in range(len(data.users("train")))]


@pytest.mark.parametrize("redraw", [False, True])
def test_inputs_are_taken_away_in_all_splits(demo: Path, model: ProfileModel, redraw: bool) -> None:
    more = {"photos_per_review": 2, "redraw": redraw}
    full, two, none, half, gone = (
        module(demo, model, BOTH, inputs=more | one)
        for one in ({}, {"photos": 2}, {"photos": 0}, {"missing": 0.5}, {"missing": 1.0})
    )
    of_split = [(split, lambda data, split=split: data.users(split)) for split in ("train", "validation", "test")]
    for split, users in [*of_split, ("epoch 0", lambda data: drawn(data, 0)), ("epoch 1", lambda data: drawn(data, 1))]:
        for user, few, no, some, without in zip(*map(users, (full, two, none, half, gone)), strict=True):
            assert no == without == replace(user, photos=(), captions=()), split
            assert few == keep_photos(user, 2, 0)
            assert some == drop_photos(user, 0.5, 0)
    assert drawn(full, 0) != drawn(full, 1) or not redraw
    # A photo that is missing once is missing in all epochs.
    shown = {(user.user_id, photo) for epoch in range(4) for user in drawn(half, epoch) for photo in user.photos}
    hidden = {
        (user.user_id, photo) for epoch in range(4) for user in drawn(full, epoch) for photo in user.photos
    } - shown
    assert all(not drop_photos(User(user, (), (photo,)), 0.5, 0).photos for user, photo in hidden)
    assert len(shown) / (len(shown) + len(hidden)) == pytest.approx(0.5, abs=0.15)
    assert all(len(batch.photos) == 0 for batch in none.train_dataloader())


@pytest.mark.parametrize("redraw", [False, True])
def test_somebody_elses_photos_in_all_splits(demo: Path, model: ProfileModel, redraw: bool) -> None:
    inputs = {"redraw": redraw, "photos": 2}
    own, strange = module(demo, model, BOTH, inputs=inputs), module(
        demo, model, BOTH, inputs=inputs | {"pairing": "unpaired"}
    )  # fmt: skip
    for split in ("train", "validation", "test"):
        assert strange.users(split) == unpaired(own.users(split), seed=0)
        for user, example in zip(strange.users(split), strange.examples(split), strict=True):
            cues = strange.prepared.cues or {}
            assert example.photo_cues == [cues[("photo", photo)] for photo in user.photos]
    for epoch in (0, 1):
        assert drawn(strange, epoch) == unpaired(drawn(own, epoch), seed=0)
    one = module(demo, model, inputs={"pairing": "unpaired"})
    one.prepared.datasets["test"] = one.prepared.datasets["test"].select([0])
    with pytest.raises(UserError, match="unpaired: test has 1 user, so there is nobody else"):
        one.users("test")


def test_steps_and_shapes(demo: Path, model: ProfileModel) -> None:
    data = module(demo, model)
    loader = data.train_dataloader()
    made = list(loader)
    steps = -(-len(data.users("train")) // 5)
    assert data.steps_per_epoch() == len(loader) == len(made) == steps
    whole, rest = divmod(len(data.users("train")), 3 * 5)
    assert data.steps_per_epoch(world=3) == whole + (rest >= 3)
    assert sorted(user for batch in made for user in batch.users) == sorted(u.user_id for u in data.users("train"))
    for batch in made:
        assert len(batch.row_user) == 4 * len(batch.users)
        assert batch.photos.shape[1:] == (3, 32, 32)
        assert batch.text_ids.shape[1] <= 96
        assert batch.labels is not None
    evaluated = list(data.val_dataloader())
    assert [user for batch in evaluated for user in batch.users] == [u.user_id for u in data.users("validation")]
    assert [view.name for batch in evaluated for view in batch.views] == ["fusion"]


def test_one_draw_per_user_and_epoch_in_the_sampled_schedule(demo: Path, model: ProfileModel) -> None:
    def draws(data: ProfileDataModule, epoch: int) -> dict[str, int]:
        loader = data.train_dataloader()
        loader.batch_sampler.sampler.set_epoch(epoch)
        return {batch.users[u]: int(batch.row_view[u]) for batch in loader for u in batch.row_user.tolist()}

    views = ("fusion", "text", "masked_image", "masked_profile")
    data = module(demo, model, schedule="sampled", weights=[2, 1, 1, 0])
    assert (data.loss_weights, data.draw_weights) == (None, [2, 1, 1, 0])
    first, second = draws(data, 0), draws(data, 1)
    assert set(first) == set(second) == {user.user_id for user in data.users("train")}
    assert first != second
    assert draws(module(demo, model, schedule="sampled", weights=[2, 1, 1, 0], batch_size=7), 0) == first
    assert draws(module(demo, model, schedule="sampled", weights=[2, 1, 1, 0], seed=1), 0) != first
    counts = Counter(views[v] for epoch in range(8) for v in draws(data, epoch).values())
    assert counts["masked_profile"] == 0
    assert counts["fusion"] / counts.total() == pytest.approx(0.5, abs=0.1)
    paired = module(demo, model)
    assert (paired.loss_weights, paired.draw_weights) == ([1.0] * 4, None)


def rest(data: ProfileDataModule, state: dict[str, Any]) -> Iterator[Batch]:
    loader = data.train_dataloader()
    loader.load_state_dict(state)
    return iter(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_in_mid_epoch(demo: Path, model: ProfileModel, workers: int) -> None:
    options: dict[str, Any] = {"views": BOTH, "workers": workers, "batch_size": 8}
    loader = module(demo, model, **options).train_dataloader()
    made, state = [], {}
    for i, batch in enumerate(loader):
        made.append(batch)
        if i == 1:
            state = loader.state_dict()
    again = list(rest(module(demo, model, **options), state))
    assert len(again) == len(made) - 2 > 1
    assert all(equal(a, b) for a, b in zip(again, made[2:], strict=True))
    assert not equal(made[1], made[2])


@pytest.mark.parametrize("workers", [0, 2])
def test_after_an_epochs_last_batch_comes_a_whole_epoch(demo: Path, model: ProfileModel, workers: int) -> None:
    options: dict[str, Any] = {"workers": workers, "batch_size": 8}
    loader = module(demo, model, **options).train_dataloader()
    users = [batch.users for batch in loader]
    states = [loader.state_dict() for _ in loader]
    assert [batch.users for batch in rest(module(demo, model, **options), states[-1])] == users
    assert [batch.users for batch in rest(module(demo, model, **options), states[-2])] == users[-1:]


def test_what_fails_while_a_batch_is_made_ahead_is_raised_in_its_place(demo: Path, model: ProfileModel) -> None:
    loader = module(demo, model, batch_size=8).train_dataloader()
    users = [batch.users for batch in loader]
    collate = loader.loader.collate_fn

    def fails(items: list[tuple[int, User]]) -> Batch:
        batch = collate(items)
        if batch.users == users[1]:
            raise ValueError("torn photo")
        return batch

    broken = module(demo, model, batch_size=8).train_dataloader()
    broken.loader.collate_fn = fails
    batches = iter(broken)
    assert next(batches).users == users[0]
    with pytest.raises(ValueError, match="torn photo"):
        next(batches)


def test_an_epoch_left_in_the_middle_begins_again(demo: Path, model: ProfileModel) -> None:
    loader = module(demo, model, batch_size=8).train_dataloader()
    users = [batch.users for batch in loader]
    for batch in loader:
        assert batch.users == users[0]
        break
    assert [batch.users for batch in loader] == users


def test_workers_change_nothing(demo: Path, model: ProfileModel) -> None:
    first, second = (list(module(demo, model, workers=n, batch_size=8).train_dataloader()) for n in (0, 2))
    assert all(equal(a, b) for a, b in zip(first, second, strict=True))


def test_pixels_are_decoded_once_while_there_is_room(demo: Path, model: ProfileModel) -> None:
    prepared, opened = module(demo, model).prepared, []

    def transform(image: Image.Image) -> np.ndarray:
        opened.append(image.size)
        assert model.transform is not None
        return model.transform(image)

    photos = list(prepared.photo_index)
    roomy = PhotoPixels(prepared, transform, cache_mb=512)
    first = [roomy(photo) for photo in photos[:3] * 2]
    assert len(opened) == 3
    assert all(min(size) == 96 for size in opened)
    assert all(np.array_equal(a, b) for a, b in zip(first[:3], first[3:], strict=True))
    row = prepared.photos[prepared.photo_index[photos[0]]]
    assert row["photo_id"] == photos[0]
    opened.clear()
    forgetful = PhotoPixels(prepared, transform, cache_mb=0)
    assert all(np.array_equal(forgetful(photo), roomy(photo)) for photo in photos[:3])
    assert not forgetful.cache
    tight = PhotoPixels(prepared, lambda image: np.asarray(image.resize((96, 96))), cache_mb=1)
    room = (1 << 20) // (3 * 96 * 96)
    assert room < len(photos)
    for photo in [*photos[:room], photos[0], photos[room]]:
        tight(photo)
    assert list(tight.cache) == [*photos[2:room], photos[0], photos[room]]  # the one not used for longest went


def test_baselines_see_the_same_users(demo: Path, model: ProfileModel) -> None:
    data = module(demo, model)
    for user, example in zip(data.users("test"), data.examples("test"), strict=True):
        assert example.text == "\n".join(user.reviews)
        assert example.profile == user.profile
        assert (len(example.review_cues), len(example.photo_cues)) == (len(user.reviews), len(user.photos))
    cues = [cue for example in data.examples("test") for cue in example.review_cues + example.photo_cues]
    assert any(cues)


def test_a_model_without_eyes_opens_no_photo(demo: Path, tiny_model: Callable[..., ProfileModel]) -> None:
    data = module(demo, tiny_model("none"), paradigm_views("uni", VIEWS))
    assert data.collator.load_photo is None
    batch = next(iter(data.train_dataloader()))
    assert len(batch.photos) == 0


def test_what_is_refused(demo: Path, model: ProfileModel, tiny_model: Callable[..., ProfileModel]) -> None:
    other = Schema("other", [Attribute("Stars", ("1", "2"))])
    with pytest.raises(UserError, match=r"schema 'yelp', which differs from this model's 'other': prepare the data"):
        module(demo, tiny_model("none", schema=other))
    with pytest.raises(UserError, match=r"paradigm\.schedule='both' is not one of paired, sampled"):
        module(demo, model, schedule="both")
    with pytest.raises(UserError, match="no prepared data set"):
        module(demo.parent, model)
    data = module(demo, model)
    table = data.prepared.datasets["train"]
    data.prepared.datasets["train"] = table.map(lambda row: {"profile": row["profile"] | {"Stars": None}})
    with pytest.raises(
        UserError, match=r"no user of the split 'train' has a label of Stars: give the attribute a rule"
    ):
        check_labels(model.schema, data)
    data.prepared.datasets["test"] = data.prepared.datasets["test"].select([])
    for split in ("test", "holdout"):
        with pytest.raises(UserError, match=f"the split '{split}' has no users"):
            data.users(split)


def test_captions_must_be_there_for_those_who_read_them(demo: Path, model: ProfileModel, tmp_path: Path) -> None:
    for path in demo.rglob("*"):
        target = tmp_path / path.relative_to(demo)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        elif path.name != "captions.parquet":
            target.write_bytes(path.read_bytes())
    assert module(tmp_path, model).users("test")[0].captions[0] is None
    with pytest.raises(UserError, match=r"has no captions\.parquet, which this paradigm reads"):
        module(tmp_path, model, BOTH)
