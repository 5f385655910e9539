"""Gates, attention, words and counterfactuals against what stock encoders, loops and users changed by hand give."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mmprofile.errors import UserError
from mmprofile.evaluate.plots import save_figure
from mmprofile.evaluate.runs import check_data
from mmprofile.inputs.batch import Collator
from mmprofile.inputs.views import User, View, build_view
from mmprofile.inspection.counterfactuals import (
    Effect,
    black_photo,
    black_photos,
    changes,
    drop_photo,
    drop_review,
    effects,
    hide_photo,
    moved,
    swap_photo,
    total_variation,
    zero_gate,
)
from mmprofile.inspection.drawing import draw_gate, draw_gates, write_counterfactuals, write_gates, write_inspection
from mmprofile.inspection.inspector import Inspection, Inspector
from mmprofile.model.decoding import Decoded
from mmprofile.model.fusion import Gates
from mmprofile.model.model import ProfileModel

FUSION, TEXT = build_view("fusion", "both"), build_view("text", "both")
VIEWS = (FUSION, TEXT, build_view("masked_image", "both"), build_view("masked_profile", "both"))
Make = Callable[..., Inspector]


def close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=tolerance, rtol=0)


@pytest.fixture(scope="module")
def make(
    tiny_model: Callable[..., ProfileModel], make_collator: Callable[..., Collator], users: list[User]
) -> Callable[..., Inspector]:
    """``make(tokens, encoding, max_tokens, batch_size, **fusion)`` -> an inspector of a random model and the four users."""

    def inspector(
        tokens: str = "cls", encoding: str = "segments", max_tokens: int = 64, batch_size: int = 3, **fusion: Any
    ) -> Inspector:
        kind = fusion.pop("fusion", "xattn")
        model = tiny_model(kind, tokens, vocabulary="schema", **fusion)
        collator = make_collator(model, max_tokens=max_tokens, encoding=encoding)
        return Inspector(model, collator, VIEWS, users, batch_size)

    return inspector


def close_posteriors(found: Decoded, expected: Decoded) -> None:
    assert found.text == expected.text
    for name, values in expected.posteriors.items():
        assert total_variation(values, found.posteriors[name]) < 1e-4


def posteriors(model: ProfileModel, collator: Collator, users: list[User]) -> list[Decoded]:
    return [one for user in users for one in model.decode(collator([user], [FUSION]))]


@pytest.mark.parametrize("encoding", ["joint", "segments"])
@pytest.mark.parametrize("max_tokens", [64, 9])
def test_tokens_are_those_that_the_model_reads(
    encoding: str, max_tokens: int, make: Make, make_collator: Callable[..., Collator], users: list[User]
) -> None:
    inspector = make(encoding=encoding, max_tokens=max_tokens)
    batch = inspector.collator(users, [FUSION])
    for row, found in enumerate(inspector.inspect(users)):
        places = batch.row_tokens[row]
        assert [token.id for token in found.tokens] == batch.text_ids.flatten()[places[places >= 0]].tolist()
        assert found.user == users[row]
        assert found.attribute is None
        eos = inspector.model.tokenizer.eos_token_id
        assert [i for i, t in enumerate(found.tokens) if t.source == "end"] == [
            i for i, t in enumerate(found.tokens) if t.id == eos
        ]


@pytest.mark.parametrize("encoding", ["joint", "segments"])
def test_words_are_the_reviews_and_captions(encoding: str, make: Make, users: list[User]) -> None:
    for user, found in zip(users, make(encoding=encoding).inspect(users), strict=True):
        texts: dict[tuple[str, int], str] = {}
        for word in found.words:
            key = word.source, word.number
            texts[key] = texts.get(key, "") + word.text + " " * word.space
            assert {tuple(token[1:]) for token in found.tokens[slice(*word.span)]} == {key}
        expected = {("review", i): text for i, text in enumerate(user.reviews)}
        expected |= {("caption", i): text for i, text in enumerate(user.captions) if text is not None}
        assert {key: text.strip() for key, text in texts.items()} == expected
        spans = [word.span for word in found.words]
        assert spans == sorted(spans)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))


def test_a_caption_has_the_number_of_its_photo_and_a_cut_review_its_beginning(make: Make, users: list[User]) -> None:
    late = replace(users[0], photos=("door", "sign"), captions=(None, "red sign above door"))
    (found,) = make().inspect([late])
    assert {word.number for word in found.words if word.source == "caption"} == {1}
    (found,) = make(max_tokens=6).inspect(users[:1])
    first = [word.text for word in found.words if (word.source, word.number) == ("review", 0)]
    assert first == ["the", "soup", "was"]  # "review", ":" and the end are tokens as well


@pytest.mark.parametrize("fusion", ["xattn", "select"])
def test_what_is_read_is_the_text_and_what_the_gate_lets_in(fusion: str, make: Make, users: list[User]) -> None:
    inspector = make(fusion=fusion, encoding="joint")
    encoder = inspector.model.text.get_encoder()
    for user, found in zip(users, inspector.inspect(users), strict=True):
        ids = torch.tensor([[token.id for token in found.tokens]])
        with torch.no_grad():
            text = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].numpy()
        kept = 1 - found.gate if fusion == "select" else 1
        close(found.hidden, kept * text + found.added)
        close(found.added, found.gate * found.visual)
        assert (np.abs(found.added).max() > 1e-3) == bool(user.photos)
        assert np.abs(found.gate).max() <= 1


@pytest.mark.parametrize(("tokens", "per_photo"), [("cls", 1), ("patch", 17), ("grid", 5)])
def test_attention_and_its_support(tokens: str, per_photo: int, make: Make, users: list[User]) -> None:
    for user, found in zip(users, make(tokens, heads=2).inspect(users), strict=True):
        length, photos = len(found.tokens), len(user.photos)
        assert found.attention.shape == (2, length, photos * per_photo)
        assert found.gate.shape == found.visual.shape == found.hidden.shape == (length, 16)
        close(found.attention.sum(-1), np.full((2, length), float(photos > 0)))
        shares = np.zeros((length, photos))
        for n in range(length):
            for h in range(2):
                assert found.support[h, n] == sum(weight > 0 for weight in found.attention[h, n].tolist())
                for k in range(photos):
                    shares[n, k] += found.attention[h, n, k * per_photo : (k + 1) * per_photo].sum() / 2
        close(found.photo_attention, shares)


def test_means_of_words_and_reviews(make: Make, users: list[User]) -> None:
    (found,) = make().inspect(users[:1])
    by_word, by_review = found.by_word(found.added), found.by_review(found.added)
    assert by_word.shape == (len(found.words), 16)
    for i, word in enumerate(found.words):
        begin, end = word.span
        close(by_word[i], sum(found.added[n] for n in range(begin, end)) / (end - begin), 1e-6)
    for number in range(2):
        inside = [n for n, t in enumerate(found.tokens) if (t.source, t.number) == ("review", number)][2:]
        close(by_review[number], found.added[inside].mean(0), 1e-6)
    (silent,) = make(max_tokens=2).inspect(users[:1])  # no room for more than what stands before a review
    assert np.isnan(silent.by_review(silent.added)).all()
    assert silent.by_word(silent.added).shape == (0, 16)


def test_neighbours_and_batches_change_nothing(make: Make, users: list[User]) -> None:
    together = list(make(batch_size=64).inspect(users))
    alone = [found for user in users for found in make().inspect([user])]
    for one, other in zip(together, alone, strict=True):
        assert one.words == other.words
        for name in ("gate", "hidden", "attention"):
            close(getattr(one, name), getattr(other, name))
        close(one.added, other.added)
        close_posteriors(one.decoded, other.decoded)


def test_posteriors_are_those_of_prediction(make: Make, users: list[User]) -> None:
    inspector = make()
    expected = posteriors(inspector.model, inspector.collator, users)
    for one, found, two in zip(inspector.decode(users), inspector.inspect(users), expected, strict=True):
        close_posteriors(one, two)
        close_posteriors(found.decoded, two)


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
    found = changes(user, other)
    reviews, captions = user.reviews, user.captions

    def by_hand(photos: tuple[str, ...], captions: tuple[str | None, ...], reviews: tuple[str, ...] = reviews) -> User:
        return User(user.user_id, reviews, photos, captions, user.profile)

    sign, plate, door = captions
    assert found["zero gate"] == by_hand((), captions)
    assert found["unpaired"] == by_hand(other.photos, other.captions)
    assert found["drop photo 1"] == by_hand(("sign", "door"), (sign, door))
    assert found["swap photo 2"] == by_hand(("sign", "plate", "sign"), (sign, plate, other.captions[0]))
    assert found["swap photo 1"] == by_hand(("sign", "car", "door"), (sign, other.captions[1], door))
    assert found["drop review 0"] == by_hand(user.photos, captions, reviews[1:])
    assert found["drop review 1"] == by_hand(user.photos, captions, reviews[:1])
    assert len(found) == 3 + 3 * 3 + 2
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
    table = moved(rows)
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


@pytest.mark.parametrize("tokens", ["cls", "patch"])
def test_gates_are_means_over_what_is_inspected(tokens: str, make: Make, users: list[User]) -> None:
    inspector = make(tokens, heads=2)
    gates = inspector.gates(users)
    for i, found in enumerate(inspector.inspect(users)):
        keys = found.attention.shape[-1]
        close(gates.gate[i], np.abs(found.gate).mean())
        close(gates.added[i], np.abs(found.gate * found.visual).mean())
        close(gates.support[i], found.support.mean(), 1e-4)
        close(gates.zeros[i], (found.attention == 0).mean() if keys else 0.0)
    assert gates.added[1] == 0  # no photos


def test_gates_by_view_and_by_photos(make: Make, users: list[User]) -> None:
    inspector = make()
    seen = inspector.select()
    by_view = inspector.gates_by_view(seen)
    assert list(by_view) == ["fusion", "text", "masked_image", "masked_profile"]
    assert not any(part.any() for part in by_view["text"])
    close(by_view["fusion"].added, inspector.gates(seen).added)
    with torch.no_grad():
        for name in ("masked_image", "masked_profile"):
            for i, user in enumerate(seen):
                fused = inspector.model.encode(inspector.collator([user], [next(v for v in VIEWS if v.name == name)]))
                rows: Tensor = (fused.gate * fused.visual)[fused.mask]  # type: ignore[operator]
                # Masks depend on the place of the view among those asked for, so the same one is asked for alone.
                close(by_view[name].added[i], rows.abs().mean())
    by_photos = inspector.gates_by_photos(seen)
    close(by_photos["paired"].added, by_view["fusion"].added)
    close(by_photos["black"].added, inspector.gates([black_photos(user) for user in seen]).added)
    assert not np.allclose(by_photos["unpaired"].added, by_photos["paired"].added)


def test_attributes_that_are_written_apart_are_inspected_apart(make: Make, users: list[User]) -> None:
    inspector = make()
    inspector.model.settings["target"] = inspector.collator.target = "attributes"
    names = inspector.model.schema.names
    found = list(inspector.inspect(users[:2]))
    assert [one.attribute for one in found] == [*names, *names]
    batch = inspector.collator(users[:2], [FUSION])
    for row, one in enumerate(found):
        places = batch.row_tokens[row]
        assert [token.id for token in one.tokens] == batch.text_ids.flatten()[places[places >= 0]].tolist()
        assert one.tokens[0].source == "wanted"
        assert set(one.decoded.posteriors) == set(names)
    gates = inspector.gates(users[:2])
    close(gates.gate[0], np.mean([np.abs(one.gate).mean() for one in found[: len(names)]]))


@pytest.mark.parametrize(
    ("fusion", "message"),
    [("concat", r"its fusion is concat; train with paradigm=multi or both"), ("none", "its fusion is none")],
)
def test_a_model_without_a_gate_is_refused(fusion: str, message: str, make: Make) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make(fusion=fusion)
    assert "\n" not in str(caught.value)


def test_a_model_that_sees_no_photos_is_refused(
    tiny_model: Callable[..., ProfileModel], make_collator: Callable[..., Collator], users: list[User]
) -> None:
    model = tiny_model("none")
    model.vision = None
    model.settings["inputs"] = {**model.settings["inputs"], "modality": "text"}
    with pytest.raises(UserError, match=r"no gate to look at: its paradigm \(text\) shows the model no photos"):
        Inspector(model, make_collator(model), (TEXT,), users)


def test_users_that_cannot_be_looked_at(make: Make, users: list[User]) -> None:
    inspector = make()
    assert inspector.select() == [users[0], users[2], users[3]]
    assert inspector.select(["user-3", "user-0"]) == [users[3], users[0]]
    with pytest.raises(UserError, match=r"user 'user-9' is not one of the 4 here \(did you mean user-\d\?\)"):
        inspector.select(["user-9"])
    with pytest.raises(UserError, match="user 'user-1' has no photos"):
        inspector.select(["user-0", "user-1"])
    bare = Inspector(inspector.model, inspector.collator, VIEWS, [users[1]])
    with pytest.raises(UserError, match="none of the 1 users has a photo"):
        bare.select()
    (found,) = bare.inspect([users[1]])  # asked for all the same: nothing gets in
    assert not found.gate.any()
    assert found.attention.shape[-1] == found.photo_attention.shape[1] == 0
    assert not any(part.any() for part in bare.gates([users[1]]))


def test_data_of_other_users_are_refused(tmp_path: Path, users: list[User]) -> None:
    class Data:
        class prepared:
            folder = "there"

        @staticmethod
        def users(split: str) -> list[User]:
            assert split == "test"
            return users

    check_data(tmp_path, Data)  # a run without predictions says nothing
    lines = [json.dumps({"user_id": user.user_id}) for user in users]
    (tmp_path / "predictions.jsonl").write_text("\n".join(lines) + "\n")
    check_data(tmp_path, Data)
    (tmp_path / "predictions.jsonl").write_text("\n".join([*lines[:2], json.dumps({"user_id": "gone"})]) + "\n")
    with pytest.raises(UserError, match=r"1 of its 3 test users are not among the 4 of there.*folder=") as caught:
        check_data(tmp_path, Data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tokens", ["cls", "patch"])
def test_files_and_figures(tokens: str, make: Make, users: list[User], tmp_path: Path) -> None:
    inspector = make(tokens)
    user = replace(users[0], reviews=("the soup was $5 $ <b>good</b>", "bread"))
    inspector.people[user.user_id] = user
    (found,) = inspector.inspect([user])
    write_inspection(tmp_path, found, inspector)
    saved = np.load(tmp_path / "user-0.npz")
    for name in ("gate", "visual", "hidden", "attention"):
        assert np.array_equal(saved[name], getattr(found, name))
    assert len(saved["tokens"]) == len(saved["sources"]) == len(found.tokens)
    assert saved["words"].tolist() == [word.text for word in found.words]
    assert saved["spans"].tolist() == [list(word.span) for word in found.words]
    assert saved["photos"].tolist() == ["sign", "plate", "door"]
    rows = inspector.counterfactuals([user])
    write_counterfactuals(tmp_path, rows)
    with (tmp_path / "counterfactuals.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert len(read) == len(rows)
    assert float(read[3]["difference"]) == pytest.approx(rows[3].difference, abs=1e-6)
    save_figure(draw_gate(found), tmp_path / "user-0-gate.png")
    write_gates(tmp_path, inspector, inspector.select())
    gates = json.loads((tmp_path / "gates.json").read_text())
    assert gates["users"] == 3
    close(gates["by_photos"]["black"]["added"], inspector.gates_by_photos(inspector.select())["black"].added.mean())
    assert set(gates["by_attribute"]) == set(inspector.model.schema.names)
    for name in ("user-0-words", "user-0-gate", "user-0-photos", "user-0-effects", "gates"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert min(picture.size) > 150
            assert len(set(picture.convert("L").tobytes())) > 10


def test_figures_of_next_to_nothing(make: Make, users: list[User], tmp_path: Path) -> None:
    inspector = make()
    user = User("quiet", ("",), ("car",), (None,))
    (found,) = inspector.inspect([user])
    assert found.words == []
    write_inspection(tmp_path, found, inspector)
    nothing = Gates(*np.zeros((4, 1)))
    save_figure(draw_gates({"fusion": nothing}, {"paired": nothing}, {"Stars": np.zeros(1)}), tmp_path / "gates.png")
    assert isinstance(found, Inspection)
