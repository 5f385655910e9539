"""Training: the joint loss equals its views computed one by one, both schedules agree, and the optimizer's settings."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mmprofile.errors import UserError
from mmprofile.inputs.batch import IGNORE, Batch, Collator
from mmprofile.inputs.texts import ENCODINGS
from mmprofile.inputs.views import VIEWS, User, build_view, paradigm_views, view_weights
from mmprofile.model.build import build_model
from mmprofile.model.losses import sums_by_view
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Attribute, Schema
from mmprofile.train.module import RATE_SCHEDULES, ProfileModule, check_optim, joint_loss, rate_schedule
from tests.support.optimizers import optim_config

pytestmark = pytest.mark.fast

SMALL = Schema("small", [Attribute("Stars", ("1", "2", "3")), Attribute("Likes", ("Tea", "Pizza", "Cars"), "set", 2)])
WEIGHTS = [1.0, 0.5, 2.0, 0.25]
PLAIN = optim_config(lr_pretrained=5e-5, lr_new=5e-5, weight_decay=0.0, warmup=0.1, schedule="linear")
Gradients = dict[str, Tensor]


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., ProfileModel]) -> ProfileModel:
    """A small schema, for speed; its users have targets of different length.

    In float64: in float32 a state may lie so near the kink of a ReLU that rounding, other on other machines, decides its gradient.
    """
    return tiny_model("xattn", schema=SMALL).double()


@pytest.fixture(scope="module")
def people(users: list[User]) -> list[User]:
    likes = [("Tea", "Pizza"), ("Pizza", "Cars"), ("Tea",), ()]
    return [replace(user, profile={"Stars": (str(i % 3 + 1),), "Likes": likes[i]}) for i, user in enumerate(users)]


def gradients(model: ProfileModel, loss: Tensor) -> Gradients:
    model.zero_grad()
    loss.backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def mixed(parts: Sequence[tuple[float, Tensor, Gradients]]) -> tuple[Tensor, Gradients]:
    """Weighted sums of losses and of gradients."""
    loss = torch.stack([weight * loss.detach() for weight, loss, _ in parts]).sum()
    return loss, {name: torch.stack([w * g[name] for w, _, g in parts]).sum(0) for name in parts[0][2]}


def same(found: tuple[Tensor, Gradients], expected: tuple[Tensor, Gradients]) -> None:
    torch.testing.assert_close(found[0].detach(), expected[0].detach(), rtol=0, atol=1e-6)
    assert sum(float(gradient.abs().sum()) for gradient in expected[1].values()) > 1
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize(("modality", "union"), [("multi", False), ("both", False), ("uni", False), ("both", True)])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_paired_loss_is_its_views_one_by_one(
    model: ProfileModel,
    people: list[User],
    make_collator: Callable[..., Collator],
    modality: str,
    union: bool,
    encoding: str,
) -> None:
    views, people = paradigm_views(modality, VIEWS, union), people[2 if union else 1 :]
    collator = make_collator(model, encoding=encoding)
    weights = torch.tensor((WEIGHTS * 3)[: len(views)])
    joint = joint_loss(model(collator(people, views, epoch=1)), weights)
    parts = []
    for v, weight in enumerate((weights / weights.sum()).tolist()):
        # Every user on their own, so that nothing can be shared; the mean is over the target tokens of the view.
        rows = [model(collator([user], views, epoch=1, drawn=[v])) for user in people]
        tokens = sum(int(row.view_tokens.sum()) for row in rows)
        loss = torch.stack([row.view_totals.sum() for row in rows]).sum() / tokens
        parts.append((weight, loss, gradients(model, loss)))
    same((joint, gradients(model, joint)), mixed(parts))
    assert len({round(loss.item(), 4) for _, loss, _ in parts}) > 1  # the views do differ


def test_sampled_views_are_the_paired_loss_on_average(
    model: ProfileModel, people: list[User], make_collator: Callable[..., Collator]
) -> None:
    views, collator, two = paradigm_views("multi", VIEWS), make_collator(model), [people[0], people[3]]
    share = torch.tensor(WEIGHTS) / sum(WEIGHTS)
    paired = joint_loss(model(collator(two, views, epoch=2)), torch.tensor(WEIGHTS))
    parts = []
    for first, second in itertools.product(range(4), repeat=2):
        loss = joint_loss(model(collator(two, views, epoch=2, drawn=[first, second])), None)
        parts.append((float(share[first] * share[second]), loss, gradients(model, loss)))
    assert sum(weight for weight, _, _ in parts) == pytest.approx(1)
    same((paired, gradients(model, paired)), mixed(parts))


def test_loss_of_a_view_without_rows_is_nothing(
    model: ProfileModel, people: list[User], make_collator: Callable[..., Collator]
) -> None:
    output = model(make_collator(model)(people, paradigm_views("multi", VIEWS), drawn=[0, 0, 2, 2]))
    assert (output.view_tokens > 0).tolist() == [True, False, True, False]
    assert (output.view_losses > 0).tolist() == [True, False, True, False]


UNSURE = [{"Likes": 0.5}, {}, {"Likes": 0.25}, {"Likes": 0.0}]


@pytest.mark.parametrize("modality", ["multi", "both"])
def test_weights_of_one_change_nothing(
    model: ProfileModel, people: list[User], make_collator: Callable[..., Collator], modality: str
) -> None:
    views, collator = paradigm_views(modality, VIEWS), make_collator(model)
    plain = collator(people, views)
    assert plain.weights is plain.label_weights is None
    ones = collator([replace(user, weights={"Stars": 1.0}) for user in people], views)
    assert ones.label_weights is not None
    assert ones.label_weights[ones.labels != IGNORE].unique().tolist() == [1.0]
    same(*[(loss := joint_loss(model(b), None), gradients(model, loss)) for b in (ones, plain)])


@pytest.mark.parametrize("target", ["profile", "attributes"])
def test_weighted_loss_against_cross_entropy_token_by_token(
    tiny_model: Callable[..., ProfileModel], people: list[User], make_collator: Callable[..., Collator], target: str
) -> None:
    model = tiny_model("none", schema=SMALL).double()
    collator = make_collator(model)
    collator.target = target
    batch = collator(
        [replace(user, weights=w) for user, w in zip(people, UNSURE, strict=True)], [build_view("text", "text")]
    )
    with torch.no_grad():
        output = model(batch)
    end = model.tokenizer.convert_tokens_to_ids(";")
    total = tokens = 0.0
    for row, labels in enumerate(batch.labels.tolist()):
        attribute = max(int(batch.row_attribute[row]), 0)
        for place, token in enumerate(label for label in labels if label != IGNORE):
            weight = UNSURE[int(batch.row_user[row])].get(SMALL.names[attribute], 1.0)
            if target == "profile" and token == model.grammar.eos:
                weight = 1.0  # as much as the observed attribute
            total -= weight * float(output.logits[row, place].log_softmax(0)[token])
            tokens += weight
            attribute += token == end  # it ends the first attribute
    assert float(output.view_totals) == pytest.approx(total)
    assert float(output.view_tokens) == pytest.approx(tokens)
    assert float(joint_loss(output, None)) == pytest.approx(total / tokens)


def test_weighted_loss_by_hand(model: ProfileModel, people: list[User], make_collator: Callable[..., Collator]) -> None:
    batch = make_collator(model)(people[:2], [build_view("text", "text")])
    losses, counted = torch.tensor([[1.0, 2.0, 4.0], [3.0, 0.0, 5.0]]), torch.tensor([[True] * 3, [True, False, True]])
    weights = torch.tensor([[1.0, 0.5, 0.0], [1.0, 1.0, 0.2]])
    total, count = sums_by_view(batch, losses, counted, weights)
    assert [*total.tolist(), *count.tolist()] == pytest.approx([6.0, 2.7])  # 1 + 2 / 2 + 3 + 5 / 5, and 1.5 + 1.2


@pytest.mark.parametrize("head", [{"kind": "lm", "auxiliary": 0.25}, {"kind": "late_fusion"}])
def test_an_attribute_of_weight_0_teaches_nothing(
    tiny_model: Callable[..., ProfileModel],
    t5_folder_of: Callable[[Schema], str],
    people: list[User],
    make_collator: Callable[..., Collator],
    head: dict[str, Any],
) -> None:
    """Whatever its label says, loss and gradients are the same; they are other ones where it weighs something."""
    torch.manual_seed(1)
    model = build_model(
        text={"name": t5_folder_of(SMALL)},
        vision=None,
        fusion={"kind": "none"},
        schema=SMALL,
        inputs={},
        vocabulary="schema",
        head=dict(head),
    ).double()
    views, found = [build_view("text", "text")], []
    for weight, likes in ((0.0, "Tea"), (0.0, "Cars"), (0.5, "Tea"), (0.5, "Cars")):
        profile = {"Stars": ("2",), "Likes": (likes, "Pizza")}
        users = [replace(user, profile=profile, weights={"Likes": weight}) for user in people]
        loss = joint_loss(model.eval()(make_collator(model)(users, views)), None)
        found.append((loss, gradients(model, loss)))
    same(found[0], found[1])
    assert abs(float((found[2][0] - found[3][0]).detach())) > 1e-4


def test_view_weights() -> None:
    views = paradigm_views("multi", ["fusion", "text", "masked_image"])
    assert view_weights(views, {}) == [1.0, 1.0, 1.0]
    assert view_weights(views, {"text": 0, "masked_image": 2.5}) == [1.0, 0.0, 2.5]
    for wrong, message in (
        ({"sound": 1}, "no view 'sound'; views: fusion, text, masked_image"),
        ({"masked_profile": 1}, "no view 'masked_profile'"),
        ({"text": -1}, "must not be negative"),
        ({view.name: 0 for view in views}, "one must be above 0"),
    ):
        with pytest.raises(UserError) as error:
            view_weights(views, wrong)
        assert message in str(error.value)


def rate_factor(steps: int, warmup: float, schedule: str) -> Callable[[int], float]:
    """Step -> factor of the learning rates."""
    adam = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    return rate_schedule(adam, optim_config(warmup=warmup, schedule=schedule), steps).lr_lambdas[0]


@pytest.mark.parametrize(
    ("warmup", "schedule", "factors"),
    [
        (0.0, "constant", [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        (0.0, "linear", [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0]),
        (0.2, "constant", [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        (0.2, "linear", [0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0]),
        (0.5, "linear", [0.2, 0.4, 0.6, 0.8, 1, 1, 0.8, 0.6, 0.4, 0.2, 0]),
        (0.01, "linear", [1, 1, 8 / 9, 7 / 9, 6 / 9, 5 / 9, 4 / 9, 3 / 9, 2 / 9, 1 / 9, 0]),
        (0.6, "cosine", [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 0.5 + 8**-0.5, 0.5, 0.5 - 8**-0.5, 0]),
    ],
)
def test_learning_rate_factors_of_ten_steps(warmup: float, schedule: str, factors: list[float]) -> None:
    factor = rate_factor(10, warmup, schedule)
    assert [factor(step) for step in range(11)] == pytest.approx(factors, abs=1e-6)
    assert factor(25) == pytest.approx(factors[-1], abs=1e-6)


@pytest.mark.parametrize("schedule", RATE_SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.01, 0.1, 0.3, 1.0])
def test_learning_rate_factors_are_those_of_earlier_versions_to_the_last_bit(warmup: float, schedule: str) -> None:
    for steps in (0, 1, 2, 7, 97, 100, 333, 1000):
        factor, rise = rate_factor(steps, warmup, schedule), max(1, round(warmup * steps)) if warmup else 0
        for step in range(steps + 3):
            done = min(1.0, (step - rise) / max(1, steps - rise))
            cosine = 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * done))))
            decayed = {"constant": 1.0, "linear": 1.0 - done, "cosine": cosine}[schedule]
            assert factor(step) == ((step + 1) / rise if step < rise else decayed)


def test_no_steps_at_all() -> None:
    assert rate_factor(0, 0.1, "linear")(0) == 1.0


def test_what_makes_attention_scores_learns_at_its_own_rate(model: ProfileModel) -> None:
    def groups(factor: float) -> list[tuple[float, set[int]]]:
        optim = optim_config(lr_pretrained=0.01, lr_new=0.02, query_factor=factor, warmup=0.0, schedule="constant")
        made = ProfileModule(model, paradigm_views("multi", VIEWS), None, optim, steps=4).configure_optimizers()
        return [(group["lr"], {id(p) for p in group["params"]}) for group in made["optimizer"].param_groups]

    queries = {id(p) for name, p in model.text.named_parameters() if name.endswith("Attention.q.weight")}
    assert len(queries) == 6  # self-attention of two encoder and two decoder layers, attention to the encoder of two
    fusion = {
        id(p)
        for name, p in model.fusion.named_parameters()
        if name in ("attention.query.weight", "attention.key.weight")
    }
    assert len(fusion) == 2
    pretrained, new = ({id(p) for p in part} for part in (model.pretrained_parts(), model.new_parts()))
    assert groups(0.25) == [(0.01, pretrained - queries), (0.02, new - fusion), (0.0025, queries), (0.005, fusion)]
    assert groups(1.0) == [(0.01, pretrained), (0.02, new)]  # two groups: as checkpoints had it before


@pytest.mark.parametrize("name", ["lr_pretrained", "lr_new", "query_factor"])
def test_a_rate_below_zero_is_one_line(name: str) -> None:
    with pytest.raises(UserError, match=f"^optim.{name}=-1: give 0 or more$"):
        check_optim(optim_config(**{name: -1.0}))


def test_two_groups_with_their_own_rates(tiny_model: Callable[..., ProfileModel], model: ProfileModel) -> None:
    optim = optim_config(lr_pretrained=0.001, lr_new=0.01, weight_decay=0.1, warmup=0.5, schedule="linear")
    made = ProfileModule(model, paradigm_views("multi", VIEWS), None, optim, steps=4).configure_optimizers()
    adam, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    assert made["lr_scheduler"]["interval"] == "step"
    assert type(adam) is torch.optim.Adam
    groups = [{id(p) for p in group["params"]} for group in adam.param_groups]
    assert groups == [{id(p) for p in part} for part in (model.pretrained_parts(), model.new_parts())]
    assert [group["weight_decay"] for group in adam.param_groups] == [0.1, 0.1]
    rates = []
    for _ in range(5):
        rates.append([group["lr"] for group in adam.param_groups])
        adam.step()
        schedule.step()
    assert rates == [pytest.approx([0.001 * f, 0.01 * f]) for f in (0.5, 1, 1, 0.5, 0)]
    blind = ProfileModule(tiny_model("none", schema=SMALL), [build_view("text", "text")], [1.0], optim, 4)
    assert len(blind.configure_optimizers()["optimizer"].param_groups) == 1


def test_unknown_schedule(model: ProfileModel) -> None:
    with pytest.raises(UserError, match=r"optim\.schedule='steps' is not one of constant, linear, cosine"):
        ProfileModule(model, paradigm_views("multi", VIEWS), None, replace(PLAIN, schedule="steps"), 1)


def trainer(epochs: int, **options: Any) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return pl.Trainer(max_epochs=epochs, accelerator="cpu", logger=False, num_sanity_val_steps=0, **quiet, **options)


def loader(batches: list[Batch]) -> DataLoader:
    return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)


@pytest.mark.parametrize("weights", [WEIGHTS, None])
def test_training_lowers_the_loss_and_keeps_a_curve(
    tiny_model: Callable[..., ProfileModel],
    people: list[User],
    make_collator: Callable[..., Collator],
    weights: list[float] | None,
) -> None:
    model, views = tiny_model("xattn", schema=SMALL), paradigm_views("multi", VIEWS)
    collator, known = make_collator(model), people[:2]
    drawn = None if weights else [0, 2]
    batches = [collator(known, views, epoch=i, drawn=drawn) for i in range(6)]
    optim = replace(PLAIN, lr_pretrained=0.02, lr_new=0.02, warmup=0.0, schedule="constant")
    assert not model.text.training
    module = ProfileModule(model, views, weights, optim, steps=12)
    fit = trainer(2)
    fit.fit(module, loader(batches), loader([collator(known, views[:1])]))
    assert all(part.training for part in model.text.modules())
    first, last = module.history
    assert (first["epoch"], last["epoch"]) == (1, 2)
    assert last["loss"] < 0.8 * first["loss"]
    assert last["validation_macro_f1"] == fit.callback_metrics["validation/macro_f1"]
    assert fit.callback_metrics["validation/parse_fault_rate"] == 0
    assert {"loss", "loss/fusion", "loss/masked_image", "validation/Stars", "validation/parse_fault_rate"} <= set(
        fit.callback_metrics
    )
    assert ("loss/text" in fit.callback_metrics) == (weights is not None)
    assert module.seconds == pytest.approx(first["seconds"] + last["seconds"])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("clip", [1e-3, None])
def test_gradients_are_clipped(
    tiny_model: Callable[..., ProfileModel],
    people: list[User],
    make_collator: Callable[..., Collator],
    precision: str,
    clip: float | None,
) -> None:
    model, views = tiny_model("xattn", schema=SMALL), paradigm_views("multi", VIEWS)
    module = ProfileModule(model, views, WEIGHTS, PLAIN, steps=1)
    fit = trainer(1, precision=precision, gradient_clip_val=clip, limit_val_batches=0)
    fit.fit(module, loader([make_collator(model)(people[:2], views)]))
    norm = torch.stack([p.grad.square().sum() for p in module.parameters() if p.grad is not None]).sum().sqrt()
    assert float(norm) == pytest.approx(clip, rel=1e-3) if clip else float(norm) > 0.1


def test_the_curve_is_in_the_checkpoint(model: ProfileModel) -> None:
    first, second = (ProfileModule(model, paradigm_views("multi", VIEWS), WEIGHTS, PLAIN, 1) for _ in range(2))
    first.history, first.seconds = [{"epoch": 1, "loss": 2.0, "validation_macro_f1": 3.0, "seconds": 4.0}], 4.0
    checkpoint: dict[str, object] = {}
    first.on_save_checkpoint(checkpoint)
    second.on_load_checkpoint(checkpoint)
    assert (second.history, second.seconds) == (first.history, 4.0)
    assert "weights" not in second.state_dict()
