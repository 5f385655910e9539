"""Gates, attention and words against what stock encoders and loops give."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from mmprofile.errors import UserError
from mmprofile.inputs.batch import Collator
from mmprofile.inputs.views import User
from mmprofile.inspection.counterfactuals import black_photos
from mmprofile.inspection.inspector import Inspector
from mmprofile.model.model import ProfileModel
from tests.support.inspecting import FUSION, TEXT, VIEWS, Make, close, close_posteriors, posteriors

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("encoding", ["joint", "segments"])
@pytest.mark.parametrize("max_tokens", [64, 9])
def test_tokens_are_those_that_the_model_reads(
    encoding: str, max_tokens: int, make: Make, make_collator: Callable[..., Collator], users: list[User]
) -> None:
    inspector = make(encoding=encoding, max_tokens=max_tokens)
    batch = inspector.collator(users, [FUSION])
    for row, inspection in enumerate(inspector.inspect(users)):
        places = batch.row_tokens[row]
        assert [token.id for token in inspection.tokens] == batch.text_ids.flatten()[places[places >= 0]].tolist()
        assert inspection.user == users[row]
        assert inspection.attribute is None
        eos = inspector.model.tokenizer.eos_token_id
        assert [i for i, t in enumerate(inspection.tokens) if t.source == "end"] == [
            i for i, t in enumerate(inspection.tokens) if t.id == eos
        ]


@pytest.mark.parametrize("encoding", ["joint", "segments"])
def test_words_are_the_reviews_and_captions(encoding: str, make: Make, users: list[User]) -> None:
    for user, inspection in zip(users, make(encoding=encoding).inspect(users), strict=True):
        texts: dict[tuple[str, int], str] = {}
        for word in inspection.words:
            key = word.source, word.number
            texts[key] = texts.get(key, "") + word.text + " " * word.space
            assert {tuple(token[1:]) for token in inspection.tokens[slice(*word.span)]} == {key}
        expected = {("review", i): text for i, text in enumerate(user.reviews)}
        expected |= {("caption", i): text for i, text in enumerate(user.captions) if text is not None}
        assert {key: text.strip() for key, text in texts.items()} == expected
        spans = [word.span for word in inspection.words]
        assert spans == sorted(spans)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))


def test_a_caption_has_the_number_of_its_photo_and_a_cut_review_its_beginning(make: Make, users: list[User]) -> None:
    late = replace(users[0], photos=("door", "sign"), captions=(None, "red sign above door"))
    (inspection,) = make().inspect([late])
    assert {word.number for word in inspection.words if word.source == "caption"} == {1}
    (inspection,) = make(max_tokens=6).inspect(users[:1])
    first = [word.text for word in inspection.words if (word.source, word.number) == ("review", 0)]
    assert first == ["the", "soup", "was"]  # "review", ":" and the end are tokens as well


@pytest.mark.parametrize("fusion", ["xattn", "select"])
def test_what_is_read_is_the_text_and_what_the_gate_lets_in(fusion: str, make: Make, users: list[User]) -> None:
    inspector = make(fusion=fusion, encoding="joint")
    encoder = inspector.model.text.get_encoder()
    for user, inspection in zip(users, inspector.inspect(users), strict=True):
        ids = torch.tensor([[token.id for token in inspection.tokens]])
        with torch.no_grad():
            text = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].numpy()
        kept = 1 - inspection.gate if fusion == "select" else 1
        close(inspection.hidden, kept * text + inspection.added)
        close(inspection.added, inspection.gate * inspection.visual)
        assert (np.abs(inspection.added).max() > 1e-3) == bool(user.photos)
        assert np.abs(inspection.gate).max() <= 1


@pytest.mark.parametrize(("tokens", "per_photo"), [("cls", 1), ("patch", 17), ("grid", 5)])
def test_attention_and_its_support(tokens: str, per_photo: int, make: Make, users: list[User]) -> None:
    for user, inspection in zip(users, make(tokens, heads=2).inspect(users), strict=True):
        length, photos = len(inspection.tokens), len(user.photos)
        assert inspection.attention.shape == (2, length, photos * per_photo)
        assert inspection.gate.shape == inspection.visual.shape == inspection.hidden.shape == (length, 16)
        close(inspection.attention.sum(-1), np.full((2, length), float(photos > 0)))
        shares = np.zeros((length, photos))
        for n in range(length):
            for h in range(2):
                assert inspection.support[h, n] == sum(weight > 0 for weight in inspection.attention[h, n].tolist())
                for k in range(photos):
                    shares[n, k] += inspection.attention[h, n, k * per_photo : (k + 1) * per_photo].sum() / 2
        close(inspection.photo_attention, shares)


def test_means_of_words_and_reviews(make: Make, users: list[User]) -> None:
    (inspection,) = make().inspect(users[:1])
    by_word, by_review = inspection.by_word(inspection.added), inspection.by_review(inspection.added)
    assert by_word.shape == (len(inspection.words), 16)
    for i, word in enumerate(inspection.words):
        begin, end = word.span
        close(by_word[i], sum(inspection.added[n] for n in range(begin, end)) / (end - begin), 1e-6)
    for number in range(2):
        inside = [n for n, t in enumerate(inspection.tokens) if (t.source, t.number) == ("review", number)][2:]
        close(by_review[number], inspection.added[inside].mean(0), 1e-6)
    (silent,) = make(max_tokens=2).inspect(users[:1])  # no room for more than what stands before a review
    assert np.isnan(silent.by_review(silent.added)).all()
    assert silent.by_word(silent.added).shape == (0, 16)


def test_neighbours_and_batches_change_nothing(make: Make, users: list[User]) -> None:
    together = list(make(batch_size=64).inspect(users))
    alone = [inspection for user in users for inspection in make().inspect([user])]
    for one, other in zip(together, alone, strict=True):
        assert one.words == other.words
        for name in ("gate", "hidden", "attention"):
            close(getattr(one, name), getattr(other, name))
        close(one.added, other.added)
        close_posteriors(one.decoded, other.decoded)


def test_posteriors_are_those_of_prediction(make: Make, users: list[User]) -> None:
    inspector = make()
    expected = posteriors(inspector.model, inspector.collator, users)
    for one, inspection, two in zip(inspector.decode(users), inspector.inspect(users), expected, strict=True):
        close_posteriors(one, two)
        close_posteriors(inspection.decoded, two)


@pytest.mark.parametrize("tokens", ["cls", "patch"])
def test_gates_are_means_over_what_is_inspected(tokens: str, make: Make, users: list[User]) -> None:
    inspector = make(tokens, heads=2)
    gates = inspector.gates(users)
    for i, inspection in enumerate(inspector.inspect(users)):
        keys = inspection.attention.shape[-1]
        close(gates.gate[i], np.abs(inspection.gate).mean())
        close(gates.added[i], np.abs(inspection.gate * inspection.visual).mean())
        close(gates.support[i], inspection.support.mean(), 1e-4)
        close(gates.zeros[i], (inspection.attention == 0).mean() if keys else 0.0)
    assert gates.added[1] == 0  # no photos


def test_gates_by_view_and_by_photos(make: Make, users: list[User]) -> None:
    inspector = make()
    with_photos = inspector.select()
    by_view = inspector.gates_by_view(with_photos)
    assert list(by_view) == ["fusion", "text", "masked_image", "masked_profile"]
    assert not any(part.any() for part in by_view["text"])
    close(by_view["fusion"].added, inspector.gates(with_photos).added)
    with torch.no_grad():
        for name in ("masked_image", "masked_profile"):
            for i, user in enumerate(with_photos):
                fused = inspector.model.encode(inspector.collator([user], [next(v for v in VIEWS if v.name == name)]))
                rows: Tensor = (fused.gate * fused.visual)[fused.mask]  # type: ignore[operator]
                # Masks depend on the place of the view among those asked for, so the same one is asked for alone.
                close(by_view[name].added[i], rows.abs().mean())
    by_photos = inspector.gates_by_photos(with_photos)
    close(by_photos["paired"].added, by_view["fusion"].added)
    close(by_photos["black"].added, inspector.gates([black_photos(user) for user in with_photos]).added)
    assert not np.allclose(by_photos["unpaired"].added, by_photos["paired"].added)


def test_attributes_that_are_written_apart_are_inspected_apart(make: Make, users: list[User]) -> None:
    inspector = make()
    inspector.model.settings["target"] = inspector.collator.target = "attributes"
    names = inspector.model.schema.names
    inspections = list(inspector.inspect(users[:2]))
    assert [inspection.attribute for inspection in inspections] == [*names, *names]
    batch = inspector.collator(users[:2], [FUSION])
    for row, inspection in enumerate(inspections):
        places = batch.row_tokens[row]
        assert [token.id for token in inspection.tokens] == batch.text_ids.flatten()[places[places >= 0]].tolist()
        assert inspection.tokens[0].source == "wanted"
        assert set(inspection.decoded.posteriors) == set(names)
    gates = inspector.gates(users[:2])
    close(gates.gate[0], np.mean([np.abs(inspection.gate).mean() for inspection in inspections[: len(names)]]))


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
    (inspection,) = bare.inspect([users[1]])  # asked for all the same: nothing gets in
    assert not inspection.gate.any()
    assert inspection.attention.shape[-1] == inspection.photo_attention.shape[1] == 0
    assert not any(part.any() for part in bare.gates([users[1]]))
