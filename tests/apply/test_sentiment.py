"""Classifiers of reviews: what they read, and that it is transformers' own models that classify it."""

from typing import Any

import pytest
import torch

from mmprofile.apply.sentiment import Encoder, Reviews, load_classifier
from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.inputs.views import User
from mmprofile.profile.schema import Schema
from tests.support.tinyclassifiers import HEADS, KINDS, SENTIMENT

pytestmark = pytest.mark.fast


def encoder_of(checkpoints: dict[str, str], kind: str, max_tokens: int) -> tuple[Any, Encoder]:
    words = ["run=x", f"classifier={kind}", f"classifier.text={checkpoints[kind]}"]
    torch.manual_seed(0)
    found = load_classifier(load_config("apply", words).classifier, 5)
    return found, Encoder(found.tokenizer, found.limit, max_tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_too_long_is_cut_off_the_review_and_never_off_the_profile(
    checkpoints: dict[str, str], kind: str, schema: Schema
) -> None:
    found, encoder = encoder_of(checkpoints, kind, 100)
    profile = schema.render({name: (schema[name].values[0],) for name in schema.names})
    end = found.tokenizer(f" profile: {profile}", add_special_tokens=False)["input_ids"]
    for review in ("a warm soup </s> and <pad> bread", "the soup was warm " * 200):
        alone, both = encoder(review), encoder(review, profile)
        for ids in (alone, both):
            assert ids[0] == (found.tokenizer.cls_token_id if kind == "bert" else ids[0])
            assert ids.count(1) == 1
            assert ids[-1] == 1
        assert both[: len(alone) - 1] == alone[:-1]  # the same part of the review
        assert both[len(alone) - 1 : -1] == end
    assert len(alone) == 100 + 1 + (kind == "bert")
    narrow = Encoder(found.tokenizer, len(end) + 40, 100)
    assert len(narrow(review, profile)) == len(end) + 40
    assert narrow(review, profile)[-len(end) - 1 : -1] == end
    with pytest.raises(UserError, match="are left for a review, of 16 at least"):
        Encoder(found.tokenizer, len(end) + 10, 100)(review, profile)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_classified_is_the_whole_text_and_no_padding(checkpoints: dict[str, str], kind: str) -> None:
    found, encoder = encoder_of(checkpoints, kind, 64)
    model, tokenizer = found.model.eval(), found.tokenizer
    users = [User(f"{i}", (text,), profile={"Sentiment": ("4",)}) for i, text in enumerate(("bad", "good " * 20))]
    profiles = {"0": "Stars: 1", "1": "Stars: 5"}
    data = Reviews(
        reviews={"test": users}, profiles={"test": profiles}, schema=SENTIMENT, encoder=encoder, batch_size=2, seed=0
    )
    (batch,) = data.loader("test")
    together = model(input_ids=batch.ids, attention_mask=batch.mask).logits
    assert together.shape == (2, 5)
    for row, user in enumerate(users):
        ids = torch.tensor([encoder(user.reviews[0], profiles[user.user_id])])
        alone = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)
        if kind == "bert":
            states = model.bert(input_ids=ids).last_hidden_state[:, 0]
            direct = model.classifier(torch.tanh(model.bert.pooler.dense(states)))
        elif kind == "causal":  # padded with its end token: the state before is taken
            last = -2 if tokenizer.pad_token_id == 1 else -1
            direct = model.score(model.model(input_ids=ids).last_hidden_state[:, last])
        else:
            inner = model.transformer if kind == "t5" else model.model
            shifted = torch.cat([torch.full((1, 1), model.config.decoder_start_token_id), ids[:, :-1]], 1)
            states = inner(input_ids=ids, decoder_input_ids=shifted).last_hidden_state[:, -1]
            direct = model.classification_head(states[:, None]).squeeze(1)
        torch.testing.assert_close(alone, direct, rtol=1e-4, atol=1e-5)
    assert batch.labels.tolist() == [3, 3]
    fresh = {name for name, parameter in model.named_parameters() if any(parameter is one for one in found.new)}
    assert fresh == {name for name, _ in model.named_parameters() if name.startswith(HEADS)}


@pytest.mark.parametrize("kind", KINDS)
def test_beside_an_adapter_the_new_head_trains_whole(checkpoints: dict[str, str], kind: str) -> None:
    words = ["run=x", f"classifier={kind}", f"classifier.text={checkpoints[kind]}", "classifier.lora.rank=2"]
    found = load_classifier(load_config("apply", words).classifier, 5)
    trained = {name for name, parameter in found.model.named_parameters() if parameter.requires_grad}
    heads = {name for name in trained if "modules_to_save" in name}
    assert {name.split(".modules_to_save")[0].split(".")[-1] for name in heads} == {
        "bert": {"dense", "classifier"}, "t5": {"dense", "out_proj"}, "bart": {"dense", "out_proj"}, "causal": {"score"},
    }[kind]  # fmt: skip
    assert all("lora_" in name for name in trained - heads)
    assert not any("lora_" in name and name.startswith(HEADS) for name in trained)
    assert len(found.new) == len(trained)


@pytest.mark.parametrize("kind", KINDS)
def test_real_checkpoints_are_named(kind: str) -> None:
    cfg = load_config("apply", ["run=x", f"classifier={kind}", "classifier.size=base"])
    assert "mmprofile:" not in cfg.classifier.text
    assert cfg.optim.lr_new == cfg.classifier.lr.new < 1e-3
