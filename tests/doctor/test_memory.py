"""What a training step holds is counted on tensors without numbers, and scaled up from few layers."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from mmprofile.config.compose import load_config
from mmprofile.doctor import memory
from mmprofile.doctor.batches import largest_batches
from mmprofile.doctor.estimate import without_weights
from mmprofile.doctor.memory import Autocast, Held, Need, needs
from mmprofile.doctor.weights import weights_of
from mmprofile.profile.schema import Schema
from mmprofile.train.run import make_model

Measure = Callable[..., Need]


@pytest.fixture(scope="module")
def measure() -> Measure:
    """``measure(*words, kind, bf16)`` -> what a configuration needs, with invented users."""

    def run(*words: str, bf16: bool = False) -> Need:
        cfg = load_config("train", list(words))
        schema = Schema.from_config(cfg.profile)
        with without_weights(cfg, schema, weights_of(cfg)) as model:
            batches = largest_batches(cfg, model, None)
            return needs(model, batches.training, batches.prediction, batches.weights, "cpu", bf16, 1)

    return run


def linear_step(bf16: bool = False) -> tuple[int, int]:
    """Return what is held after the forward pass of two linear maps and ReLU, and the most until the end."""
    with torch.device("meta"):
        first, second, states = nn.Linear(10, 20), nn.Linear(20, 30), torch.empty(5, 10)
    with Held() as held, Autocast() if bf16 else torch.enable_grad():
        loss = second(first(states).relu()).sum()
        forward = held.now
        loss.backward()
    return forward, held.most


def test_what_two_linear_maps_hold_is_known_by_hand() -> None:
    forward, most = linear_step()
    # ReLU keeps its result (5 x 20), which the second map needs as well; the loss is one number. All in four bytes.
    assert forward == (5 * 20 + 1) * 4
    # In the backward pass: the gradients of the weights and biases, and those of what is between the maps.
    weights = (10 * 20 + 20 + 20 * 30 + 30) * 4
    assert weights < most < forward + weights + 2 * 5 * 30 * 4
    assert Held().now == 0


def test_half_precision_holds_weights_a_second_time() -> None:
    full, half = linear_step()[0], linear_step(bf16=True)[0]
    cast = (10 * 20 + 20 + 20 * 30 + 30) * 2 + 5 * 10 * 2
    assert cast < half < cast + full


def test_what_is_no_longer_needed_is_not_counted() -> None:
    with Held() as held, torch.no_grad():
        states = torch.empty(1000, device="meta")
        for _ in range(5):
            states = states + 1
    assert held.most == 2 * 4000
    assert held.now == 4000


def test_masks_on_the_cpu_keep_their_numbers() -> None:
    mask = torch.tensor([True, False, True])
    with Held():
        states = torch.empty(3, 4, device="meta")[mask.nonzero().squeeze(1)]
        chosen = torch.where(mask[:, None], torch.empty(3, 4, device="meta"), 0.0)
    assert states.shape == (2, 4)
    assert chosen.is_meta


@pytest.mark.parametrize(
    "words",
    [["model=tiny"], ["model=bart", "paradigm=text"], ["model=llama", "paradigm=uni", "model.text.lora.rank=4"]],
    ids=["tiny", "bart", "lora"],
)
def test_parameters_are_those_of_the_real_model(measure: Measure, words: Sequence[str]) -> None:
    need, cfg = measure(*words), load_config("train", list(words))
    model = make_model(cfg, Schema.from_config(cfg.profile))
    assert need.parameters == sum(p.numel() for p in model.parameters())
    assert need.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert need.gradients == 4 * need.trained
    assert need.moments == 2 * need.gradients
    assert need.checkpoints == 4 * need.parameters + 16 * need.trained
    assert need.activations > 0 < need.prediction


def test_larger_batches_and_whole_vocabularies_take_more(measure: Measure) -> None:
    few = "evaluation.batch_size=2"
    small, large = measure("loader.batch_size=2", few), measure("loader.batch_size=4", few)
    assert 1.8 < large.activations / small.activations < 2.2
    full = measure("loader.batch_size=2", few, "decoder.vocabulary=full")
    labels = 2 * 4 * 20 * 3072 * 4  # rows, at least so many tokens, vocabulary, bytes
    assert full.activations > small.activations + labels
    assert measure("loader.batch_size=2", few, bf16=True).activations < small.activations


def test_few_layers_tell_what_many_need(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["model=flan_t5", "paradigm=text", "model.size=base", "loader.batch_size=2", "evaluation.batch_size=2"]
    scaled = measure(*words)
    monkeypatch.setattr(memory, "LEAST_PARTS", 100)
    whole = measure(*words)
    assert scaled.activations == pytest.approx(whole.activations, rel=0.02)
    assert scaled.prediction == pytest.approx(whole.prediction, rel=0.05)
    assert (scaled.parameters, scaled.trained) == (whole.parameters, whole.trained) == (247577856, 247577856)


@pytest.mark.parametrize(
    "words", ["model=llava paradigm=basic", "model=coopnet", "model=od_tup", "model=aom paradigm=basic"]
)
def test_every_kind_of_model_can_be_estimated(measure: Measure, words: str) -> None:
    need = measure(*words.split(), "loader.batch_size=2", "evaluation.batch_size=2")
    assert need.activations > need.trained
    assert need.prediction > 0


def test_a_folder_is_taken_as_it_is(measure: Measure, t5_folder: Path) -> None:
    need = measure("paradigm=text", f"model.text.name={t5_folder}", "loader.batch_size=2", "evaluation.batch_size=2")
    assert need.parameters < 100_000
