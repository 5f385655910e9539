"""Counterfactuals against users changed by hand."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mmprofile.inputs.batch import Collator
from mmprofile.inputs.views import User, View
from mmprofile.inspection.counterfactuals import (
    Effect,
    black_photo,
    black_photos,
    changes,
    distances_by_change,
    drop_photo,
    drop_review,
    effects,
    hide_photo,
    swap_photo,
    zero_gate,
)
from mmprofile.model.decoding import Decoded
from mmprofile.model.model import ProfileModel
from tests.support.inspecting import FUSION, TEXT, Make, close, close_posteriors, posteriors

pytestmark = pytest.mark.fast


def test_a_zero_gate_is_the_text_alone(
    make: Make, tiny_model: Callable[..., ProfileModel], make_collator: Callable[..., Collator], users: list[User]
) -> None:
    inspector = make(encoding="joint")
    blind = tiny_model("none", vocabulary="schema")  # the same text model, no fusion; captions are text
    expected = posteriors(blind, make_collator(blind), users)
    shut = inspector.decode([zero_gate(user) for user in users])
    for found, one in zip(shut, expected, strict=True):
        close_posteriors(found, one)
    fusion: Any = inspector.model.fusion
    for weights in (fusion.gate_text.weight, fusion.gate_visual.weight):
        torch.nn.init.zeros_(weights)  # tanh(0) = 0, with all photos there
    for found, one in zip(inspector.decode(users), expected, strict=True):
        close_posteriors(found, one)
    # And without captions it is the view that shows text.
    bare = [replace(user, captions=()) for user in users]
    texts = [one for user in users for one in inspector.model.decode(inspector.collator([user], [TEXT]))]
    for found, one in zip(make(encoding="joint").decode([zero_gate(user) for user in bare]), texts, strict=True):
        close_posteriors(found, one)


def test_changes_are_users_changed_by_hand(users: list[User], photos: dict[str, np.ndarray]) -> None:
    user, other = users[0], users[3]  # sign, plate, door (no caption); sign, car
    changed = changes(user, other)
    reviews, captions = user.reviews, user.captions

    def by_hand(photos: tuple[str, ...], captions: tuple[str | None, ...], reviews: tuple[str, ...] = reviews) -> User:
        return User(user.user_id, reviews, photos, captions, user.profile)

    sign, plate, door = captions
    assert changed["zero gate"] == by_hand((), captions)
    assert changed["unpaired"] == by_hand(other.photos, other.captions)
    assert changed["drop photo 1"] == by_hand(("sign", "door"), (sign, door))
    assert changed["swap photo 2"] == by_hand(("sign", "plate", "sign"), (sign, plate, other.captions[0]))
    assert changed["swap photo 1"] == by_hand(("sign", "car", "door"), (sign, other.captions[1], door))
    assert changed["drop review 0"] == by_hand(user.photos, captions, reviews[1:])
    assert changed["drop review 1"] == by_hand(user.photos, captions, reviews[:1])
    assert len(changed) == 3 + 3 * 3 + 2
    assert hide_photo(user, 0) == by_hand(("plate", "door"), captions)
    plain = replace(user, captions=())
    assert drop_photo(plain, 2).photos == ("sign", "plate")
    assert swap_photo(plain, 0, other).captions == ()
    assert drop_review(plain, 1).reviews == reviews[:1]


def test_black_photos_are_photos_without_light(
    make: Make, make_collator: Callable[..., Collator], users: list[User], photos: dict[str, np.ndarray]
) -> None:
    inspector = make()
    dark = photos | {f"dark {name}": np.zeros_like(pixels) for name, pixels in photos.items()}
    collator = make_collator(inspector.model, encoding="segments")
    collator.load_photo = dark.__getitem__
    user = users[0]
    expected = replace(user, photos=("sign", "dark plate", "door"))
    twice = black_photo(black_photo(user, 1), 1)
    for changed in (black_photo(user, 1), twice):
        close_posteriors(*inspector.decode([changed]), *posteriors(inspector.model, collator, [expected]))
    # All of them: a view that hides every pixel.
    masked = make_collator(inspector.model, encoding="segments", image=1.0)
    view = View("dark", "masked_image", photos="masked", captions="plain")
    for one in users:
        expected_one = inspector.model.decode(masked([one], [view]))
        close_posteriors(*inspector.decode([black_photos(one)]), *expected_one)
    # The collator that was given knows nothing of them.
    with pytest.raises(KeyError):
        make_collator(inspector.model)([black_photo(user, 0)], [FUSION])


def test_counterfactuals_are_predictions_of_changed_users(make: Make, users: list[User]) -> None:
    inspector = make()
    asked = [users[0], users[2]]
    rows = inspector.counterfactuals(asked)
    assert len({(row.user_id, row.change, row.attribute, row.value) for row in rows}) == len(rows)
    assert {row.user_id for row in rows} == {"user-0", "user-2"}
    for user in asked:
        (before,) = inspector.decode([user])
        for change in ("zero gate", "drop photo 0", "black photos", "drop review 1"):
            (after,) = inspector.decode([changes(user, users[3])[change]])
            for name in inspector.model.schema.names:
                mine = [r for r in rows if (r.user_id, r.change, r.attribute) == (user.user_id, change, name)]
                old = {", ".join(value): p for value, p in before.posteriors[name].items()}
                new = {", ".join(value): p for value, p in after.posteriors[name].items()}
                close([r.before for r in mine], [old.get(r.value, 0.0) for r in mine], 1e-4)
                close([r.after for r in mine], [new.get(r.value, 0.0) for r in mine], 1e-4)
    table = distances_by_change(rows)
    assert table["drop photo 2"]["Stars"].shape == (1,)  # only one of them has three
    assert table["zero gate"]["Stars"].shape == (2,)


def test_the_donor_is_somebody_else_with_photos(make: Make, users: list[User]) -> None:
    inspector = make()
    given: dict[str, str] = {}

    def note(user: User, donor: User) -> dict[str, User]:
        given[user.user_id] = donor.user_id
        return {"unpaired": replace(user, photos=donor.photos, captions=donor.captions)}

    inspector.counterfactuals(inspector.select(), note)
    assert set(given) == set(given.values()) == {"user-0", "user-2", "user-3"}
    assert all(user != donor for user, donor in given.items())


def test_effects_by_hand() -> None:
    before = Decoded("", {}, 0.0, {"Meal": {("Lunch",): 0.75, ("Dinner",): 0.25}, "Tastes": {(): 1.0}}, 0.0, True)
    after = Decoded("", {}, 0.0, {"Meal": {("Dinner",): 0.5, ("Brunch",): 0.5}, "Tastes": {("A", "B"): 1.0}}, 0.0, True)
    assert effects("ann", "drop", before, after) == [
        Effect("ann", "drop", "Meal", "Lunch", 0.75, 0.0, -0.75, 0.75),
        Effect("ann", "drop", "Meal", "Dinner", 0.25, 0.5, 0.25, 0.75),
        Effect("ann", "drop", "Meal", "Brunch", 0.0, 0.5, 0.5, 0.75),
        Effect("ann", "drop", "Tastes", "Unknown", 1.0, 0.0, -1.0, 1.0),
        Effect("ann", "drop", "Tastes", "A, B", 0.0, 1.0, 1.0, 1.0),
    ]
