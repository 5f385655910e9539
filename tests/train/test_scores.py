"""Scores of the validation split: the same however the users are cut into batches, and over ranks."""

import pickle
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from sklearn.metrics import f1_score
from torch import multiprocessing

from mmprofile.profile.metrics import score
from mmprofile.profile.schema import Attribute, Profile, Schema
from mmprofile.train.scores import SplitMetric, SplitScores

pytestmark = pytest.mark.fast

SCHEMA = Schema(
    "small",
    [
        Attribute("Stars", ("1", "2", "3", "4")),
        Attribute("Likes", ("Tea", "Pizza", "Cars"), "set", 2),
        Attribute("Meal", ("Lunch", "Dinner"), unknown=True),
        Attribute("Never", ("a", "b"), unknown=True),
    ],
)
Users = tuple[list[Profile], list[Profile], list[list[str]]]


def people(count: int, seed: int = 0) -> Users:
    """Gold and predicted profiles and parse faults; some values are unknown, missing or out of the schema."""
    rng = np.random.default_rng(seed)

    def pick(values: Sequence[str], size: int = 1) -> tuple[str, ...]:
        return tuple(rng.choice(values, size, replace=False).tolist())

    gold: list[Profile] = [
        {
            "Stars": pick(("1", "2", "3")),
            "Likes": pick(("Tea", "Pizza", "Cars"), 2),
            "Meal": pick(("Lunch", "Dinner")) if rng.random() < 0.7 else (),
            "Never": (),
        }
        for _ in range(count)
    ]
    predicted: list[Profile] = [
        {"Stars": pick(("1", "2", "3", "4", "5")), "Likes": pick(("Tea", "Pizza", "Cars"), 2), "Meal": pick(("Dinner", "Lunch"))}
        for _ in range(count)
    ]  # fmt: skip
    return gold, predicted, [["Stars: no value"] if rng.random() < 0.2 else [] for _ in range(count)]


def cut(users: Users, size: int) -> list[Users]:
    return [tuple(part[i : i + size] for part in users) for i in range(0, len(users[0]), size)]  # type: ignore[misc]


def same(found: SplitScores, users: Users) -> None:
    """To the last bit what the scorer says of all users at once."""
    expected = score(SCHEMA, *users, resamples=0)
    assert found.macro_f1 == expected.macro_f1
    assert list(found.per_attribute) == list(SCHEMA.names)
    for name, macro_f1 in found.per_attribute.items():
        np.testing.assert_equal(macro_f1, expected.per_attribute[name].macro_f1)  # NaN is NaN
    assert found.parse_fault_rate == expected.parse_fault_rate


def by_sklearn(users: Users) -> float:
    """Macro-F1 of Stars."""
    gold, predicted = ([profile["Stars"][0] for profile in part] for part in users[:2])
    return 100 * f1_score(gold, predicted, labels=sorted(set(gold)), average="macro", zero_division=0)


@pytest.mark.parametrize("size", [1, 7, 50])
def test_batches_add_up_to_the_split(size: int) -> None:
    users, metric = people(50), SplitMetric(SCHEMA)
    for _ in range(2):  # again after a reset, as in each epoch
        for batch in cut(users, size):
            metric.update(*batch)
        found = metric.compute()
        same(found, users)
        assert found.per_attribute["Stars"] == pytest.approx(by_sklearn(users))
        metric.reset()
    assert not metric.state_dict()  # nothing of it is in a checkpoint


def test_faults_may_be_left_out() -> None:
    gold, predicted, _ = people(5)
    metric = SplitMetric(SCHEMA)
    metric.update(gold, predicted)
    same(metric.compute(), (gold, predicted, [[]] * 5))


def scored_by_a_rank(rank: int, folder: str, splits: list[list[list[Users]]]) -> None:
    """One of several processes: scores its batches of each split, and writes what it is told of all."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(splits[0]))
    told = []
    for shares in splits:
        metric = SplitMetric(SCHEMA)
        for batch in shares[rank]:
            metric.update(*batch)
        told.append(tuple(metric.compute()))
    (Path(folder) / f"{rank}.pkl").write_bytes(pickle.dumps(told))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[list[SplitScores]]:
    """What each of two ranks says of 50 users who are shared out unevenly, and of 20 whom both score."""
    users, everybody, folder = people(50), cut(people(20), 6), tmp_path_factory.mktemp("ranks")
    shared = [cut(part, 8) for part in cut(users, 33)]
    method = "fork" if sys.platform == "linux" else "spawn"  # a new process would import torch once more
    arguments = (str(folder), [shared, [everybody, everybody]])
    multiprocessing.start_processes(scored_by_a_rank, arguments, nprocs=2, start_method=method)
    told = [pickle.loads((folder / f"{rank}.pkl").read_bytes()) for rank in range(2)]
    return [[SplitScores(*scores) for scores in split] for split in zip(*told, strict=True)]


def test_ranks_with_different_users_score_the_whole_split(two_ranks: list[list[SplitScores]]) -> None:
    """The mean of the ranks' macro-F1 is another figure: it must not be taken."""
    users = people(50)
    for scores in two_ranks[0]:
        same(scores, users)
        assert scores.per_attribute["Stars"] == pytest.approx(by_sklearn(users))
    mean = np.mean([by_sklearn(part) for part in cut(users, 33)])
    assert abs(mean - by_sklearn(users)) > 0.5


def test_ranks_with_the_same_users_score_as_one_does(two_ranks: list[list[SplitScores]]) -> None:
    """As our loaders have it: each rank scores the whole split."""
    for scores in two_ranks[1]:
        same(scores, people(20))


@pytest.mark.parametrize("world", [2, 3, 7, 10])
def test_counting_everybody_equally_often_changes_no_bit(world: int) -> None:
    users, metric = people(20), SplitMetric(SCHEMA)
    for _ in range(world):
        metric.update(*users)
    same(metric.compute(), users)


def test_a_metric_moves_with_its_module() -> None:
    """Under lower precision counts stay whole numbers."""
    users, metric = people(50), SplitMetric(SCHEMA)
    torch.nn.ModuleList([metric]).to(torch.bfloat16)
    metric.update(*users)
    same(metric.compute(), users)
