"""What ``metrics.json`` of a run holds, for predictions of two attributes."""

from typing import Any

import numpy as np

from mmprofile.profile.metrics import score
from mmprofile.profile.schema import Attribute, Profile, Schema

SCHEMA = Schema(
    "toy",
    [
        Attribute("Stars", ("1", "2", "3")),
        Attribute("Favorite Category", ("Pizza", "Coffee & Tea", "Cars"), kind="set", size=2),
    ],
)


def users(number: int, seed: int) -> list[Profile]:
    rng = np.random.default_rng(seed)
    return [
        {
            a.name: a.canonical(rng.choice(a.values[: a.size + 1], a.size, replace=False).tolist())
            for a in SCHEMA.attributes
        }
        for _ in range(number)
    ]


def example_metrics() -> dict[str, Any]:
    """What ``metrics.json`` of a run holds."""
    gold = users(20, 0)
    half = gold[:10] + users(10, 1)
    test = score(SCHEMA, gold, half, [["x"]] + [[]] * 19, resamples=50).to_dict()
    test["unpaired"] = score(SCHEMA, gold, users(20, 3), resamples=0).to_dict()
    baselines = {
        "majority": score(SCHEMA, gold, users(20, 2), resamples=50).to_dict(),
        "tfidf_lr": {"macro_f1": 41.256, "per_attribute": {"Stars": {"macro_f1": 40.0}}},
        "ceiling": score(SCHEMA, gold, gold, resamples=50).to_dict(),
    }
    return {
        "test": test,
        "baselines": baselines,
        "seconds": {"prepare": 41.04, "train": 200.0, "evaluate": 9.5},
        "peak_rss_mb": 2048.0,
        "config": {"name": "both", "paradigm": "both", "model": "tiny", "seed": 0, "data": "demo"},
        "n_parameters": 2_900_000,
    }
