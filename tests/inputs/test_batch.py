"""Users and views to tensors: every distinct thing once, what gives way when there is too much, what a mask hides."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from mmprofile.inputs.batch import IGNORE, Batch, Collator, pad
from mmprofile.inputs.views import VIEWS, User, build_view, paradigm_views
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Schema
from tests.support.batchrows import row_of, words

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., ProfileModel]) -> ProfileModel:
    return tiny_model("none")


def pixels(batch: Batch, user: int, view: str) -> np.ndarray:
    row = row_of(batch, user, view)
    return batch.photos[batch.row_photos[row][batch.row_photo_mask[row]]].numpy()


def test_pad() -> None:
    assert pad([[1, 2], [], [3]], -1).tolist() == [[1, 2], [-1, -1], [3, -1]]
    assert pad([[], []], 0).shape == (2, 0)


def test_every_user_in_every_view_and_nothing_twice(
    model: ProfileModel, users: list[User], photos: dict[str, np.ndarray], make_collator: Callable[..., Collator]
) -> None:
    loads: list[str] = []
    collator = make_collator(model)
    collator.load_photo = lambda key: (loads.append(key), photos[key])[1]
    batch = collator(users, paradigm_views("multi", VIEWS))
    rows = list(zip(batch.row_user.tolist(), batch.row_view.tolist(), strict=True))
    assert rows == [(u, v) for u in range(4) for v in range(4)]
    assert batch.users == [user.user_id for user in users]
    # Reviews are one text for fusion, text and masked_image; a masked profile is another.
    assert len(batch.text_ids) == 4 + 4
    texts = [tuple(row.tolist()) for row in batch.text_ids]
    assert len(set(texts)) == len(texts)
    # Four photos as they are, decoded once each; and a masked copy for each of the 3 + 0 + 1 + 2 that users have.
    assert len(batch.photos) == 4 + 6
    assert sorted(loads) == sorted(photos)
    assert len({photo.numpy().tobytes() for photo in batch.photos}) == 10
    for u, user in enumerate(users):
        for view in ("fusion", "masked_profile"):
            assert np.array_equal(
                pixels(batch, u, view), np.array([photos[k] for k in user.photos]).reshape(-1, 3, 32, 32)
            )
        assert len(pixels(batch, u, "text")) == 0
        assert (
            words(model, batch, row_of(batch, u, "fusion"))
            == " ".join(f"review: {review}" for review in user.reviews) + "</s>"
        )


def test_captions_stand_for_photos_in_uni(
    model: ProfileModel, users: list[User], make_collator: Callable[..., Collator]
) -> None:
    collator = make_collator(model, caption=0.0)
    collator.load_photo = None  # no photo may be asked for
    batch = collator(users, paradigm_views("uni", VIEWS))
    assert len(batch.photos) == 0
    assert batch.row_photos.shape == batch.row_photo_mask.shape == (16, 0)
    fusion = words(model, batch, row_of(batch, 3, "fusion"))
    assert fusion == "review: we stayed photo: red sign above door photo: two people</s>"
    assert words(model, batch, row_of(batch, 3, "masked_image")) == fusion
    assert words(model, batch, row_of(batch, 3, "text")) == "review: we stayed</s>"
    # The door has no caption and leaves nothing behind.
    assert words(model, batch, row_of(batch, 0, "fusion")).count("photo:") == 2


def test_masked_captions(model: ProfileModel, users: list[User], make_collator: Callable[..., Collator]) -> None:
    views = paradigm_views("uni", VIEWS)
    batch = make_collator(model, caption=1.0)(users, views)
    hidden = "<extra_id_0>"
    text = words(model, batch, row_of(batch, 3, "masked_image")).replace(f" {hidden}", hidden)
    assert text == f"review: we stayed photo:{hidden * 4} photo:{hidden * 2}</s>"
    user = replace(users[3], captions=("warm " * 40, "nice " * 17))
    ids = torch.tensor(make_collator(model, 400, caption=0.3).texts(user, views[2], np.random.default_rng(0))[0])
    share = float((ids == model.tokenizer.convert_tokens_to_ids(hidden)).sum()) / 57
    assert 0.15 < share < 0.45


def test_masked_profile_shows_no_review(
    model: ProfileModel, schema: Schema, users: list[User], make_collator: Callable[..., Collator]
) -> None:
    views = [build_view("masked_profile", "both")]
    for user in users:
        text = words(model, make_collator(model, profile=1.0)([user], views), 0)
        expected = schema.mask(user.profile or {}, schema.names, [f"<extra_id_{i}>" for i in range(8)])
        assert "review:" not in text
        assert text.split("photo:")[0].replace(" ", "").startswith(f"profile:{expected}".replace(" ", ""))
        one = words(model, make_collator(model, profile=0.0)([user], views), 0)
        assert one.count("<extra_id_") == 1


def test_segments_are_encoded_once_for_all_views(
    model: ProfileModel, schema: Schema, users: list[User], make_collator: Callable[..., Collator]
) -> None:
    user = replace(users[2], captions=("red car",))  # three reviews, one photo
    collator = make_collator(model, encoding="segments", caption=1.0)
    batch = collator([user], paradigm_views("both", VIEWS))
    segments = [" ".join(model.tokenizer.decode(row[mask]).split()) for row, mask in zip(
        batch.text_ids, batch.text_mask, strict=True
    )]  # fmt: skip
    reviews = [f"review: {review}</s>" for review in user.reviews]
    # Three reviews, the captions, the masked captions, the masked profile: nothing else, nothing twice.
    assert segments[:4] == [*reviews, "photo: red car</s>"]
    assert segments[4].replace(" ", "") == "photo:<extra_id_0><extra_id_0></s>"
    assert segments[5].startswith("profile: Stars:")
    assert len(segments) == 6
    view = {v.name: words(model, batch, row_of(batch, 0, v.name)).replace("</s>", "</s> ").split() for v in batch.views}
    assert view["text"] == " ".join(reviews).split()
    assert view["fusion"] == " ".join(segments[:4]).split()
    assert view["masked_profile"] == " ".join([segments[5], segments[3]]).split()


@pytest.mark.parametrize(("probability", "least", "most"), [(0.0, 0.0, 0.0), (0.3, 0.2, 0.4), (1.0, 1.0, 1.0)])
def test_masked_pixels_are_black_in_all_channels(
    model: ProfileModel,
    users: list[User],
    photos: dict[str, np.ndarray],
    make_collator: Callable[..., Collator],
    probability: float,
    least: float,
    most: float,
) -> None:
    batch = make_collator(model, image=probability)(users, paradigm_views("both", VIEWS))
    for u, user in enumerate(users):
        masked, plain = pixels(batch, u, "masked_image"), pixels(batch, u, "fusion")
        assert masked.dtype == np.uint8
        for k, photo in enumerate(user.photos):
            assert np.array_equal(plain[k], photos[photo])
            black = (masked[k] == 0).all(0)
            assert np.array_equal(masked[k] == 0, np.broadcast_to(black, (3, 32, 32)))
            assert np.array_equal(masked[k][:, ~black], photos[photo][:, ~black])
            assert least <= black.mean() <= most


def test_masks_depend_on_seed_epoch_and_user_but_not_on_the_batch(
    model: ProfileModel, users: list[User], make_collator: Callable[..., Collator]
) -> None:
    views, collator = paradigm_views("both", VIEWS), make_collator(model)

    def seen(batch: Batch, user: int) -> list[bytes | str]:
        rows = [row_of(batch, user, view.name) for view in views]
        return [pixels(batch, user, "masked_image").tobytes(), *(words(model, batch, row) for row in rows)]

    whole, backwards = collator(users, views, 3), collator(users[::-1], views, 3)
    for u, user in enumerate(users):
        assert seen(whole, u) == seen(backwards, 3 - u) == seen(collator([user], views, 3), 0)
        sampled = collator(users, views, 3, drawn=[2, 2, 2, 2])
        assert pixels(sampled, u, "masked_image").tobytes() == seen(whole, u)[0]
    for other in (collator(users, views, 4), make_collator(model, seed=1)(users, views, 3)):
        assert all(seen(whole, u) != seen(other, u) for u in range(4))
    # Two users who share a photo do not share its mask.
    assert not np.array_equal(pixels(whole, 2, "masked_image")[0], pixels(whole, 3, "masked_image")[1])


def test_drawn_views_are_rows_of_their_own(
    model: ProfileModel, users: list[User], make_collator: Callable[..., Collator]
) -> None:
    batch = make_collator(model)(users, paradigm_views("multi", VIEWS), drawn=[3, 0, 1, 2])
    assert batch.row_user.tolist() == [0, 1, 2, 3]
    assert batch.row_view.tolist() == [3, 0, 1, 2]
    assert batch.row_photo_mask.sum(1).tolist() == [3, 0, 0, 2]


def test_labels_are_the_rendered_profile(
    model: ProfileModel, schema: Schema, users: list[User], make_collator: Callable[..., Collator]
) -> None:
    batch = make_collator(model)(users, paradigm_views("multi", VIEWS))
    assert batch.labels is not None
    for row, u in zip(batch.labels, batch.row_user.tolist(), strict=True):
        rendered = schema.render(users[u].profile or {})
        kept = row[row != IGNORE].tolist()
        assert kept == [*model.tokenizer(rendered, add_special_tokens=False)["input_ids"], model.grammar.eos]
        assert model.tokenizer.decode(kept[:-1]).strip() == rendered
        assert (row[len(kept) :] == IGNORE).all()
    blind = make_collator(model)([replace(user, profile=None) for user in users], [build_view("fusion", "multi")])
    assert blind.labels is None


def test_what_is_not_labelled_is_not_in_the_labels(
    model: ProfileModel, users: list[User], make_collator: Callable[..., Collator]
) -> None:
    """Of a row for each attribute, that of an attribute without a label has no target; nor has a user without any label."""
    known, silent = users[0], replace(users[1], profile={})
    assert known.profile is not None
    partial = replace(known, profile={name: known.profile[name] for name in ("Stars", "Budget Range")})
    batch = make_collator(model)([partial, silent], (build_view("text", "text"),))
    assert batch.labels is not None
    assert batch.legal is not None
    written = model.grammar.decode([i for i in batch.labels[0].tolist() if i != IGNORE])
    assert written == f"Stars: {known.profile['Stars'][0]}; Budget Range: {known.profile['Budget Range'][0]};"
    assert (batch.labels[1] == IGNORE).all()
    assert set(batch.legal[0].tolist()) == {0}
    loss = model(batch)
    assert loss.view_tokens.tolist() == [(batch.labels[0] != IGNORE).sum()]

    apart = make_collator(model, target="attributes")([partial, silent], (build_view("text", "text"),))
    assert apart.labels is not None
    has_target = (apart.labels != IGNORE).any(1)
    names = [model.schema.names[a] for a in apart.row_attribute[has_target].tolist()]
    assert (names, set(apart.row_user[has_target].tolist())) == (["Stars", "Budget Range"], {0})


@pytest.mark.parametrize("vocabulary", ["schema", "full"])
def test_a_batch_without_any_label_has_no_loss(
    vocabulary: str, tiny_model: Callable[..., ProfileModel], users: list[User], make_collator: Callable[..., Collator]
) -> None:
    model = tiny_model("none", vocabulary=vocabulary)
    silent = [replace(user, profile={}) for user in users]
    output = model(make_collator(model)(silent, (build_view("text", "text"),)))
    assert output.view_totals.tolist() == output.view_tokens.tolist() == [0.0]
    output.view_losses.sum().backward()


def test_a_masked_profile_hides_what_is_not_labelled(
    model: ProfileModel, users: list[User], make_collator: Callable[..., Collator]
) -> None:
    assert users[0].profile is not None
    user = replace(users[0], profile={"Stars": users[0].profile["Stars"]})
    view = build_view("masked_profile", "text")
    batches = [make_collator(model, profile=0.0)([user], (view,), epoch) for epoch in range(20)]
    shown = {words(model, batch, row_of(batch, 0, "masked_profile")) for batch in batches}
    assert all("Unknown" not in text for text in shown)
    assert any(f"Stars: {users[0].profile['Stars'][0]}" in text for text in shown)


def test_users_without_photos_and_without_reviews(
    model: ProfileModel, users: list[User], make_collator: Callable[..., Collator]
) -> None:
    batch = make_collator(model)([users[1], User("empty", (), profile=users[0].profile)], paradigm_views("both", VIEWS))
    assert batch.photos.shape == (0, 3, 0, 0)
    assert batch.row_photos.shape == (8, 0)
    assert words(model, batch, row_of(batch, 1, "fusion")) == "</s>"
    assert batch.to("cpu", non_blocking=True).text_ids.equal(batch.text_ids)
    assert batch.to("meta").labels.is_meta  # type: ignore[union-attr]
