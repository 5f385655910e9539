"""A small table and search to run, and runs made by hand."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mmprofile.config.compose import load_config
from mmprofile.profile.metrics import score
from mmprofile.profile.schema import Profile, Schema
from tests.support.sweeps import SEARCH, TABLE, MakeRun, profiles


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sweep")
    (made / "small.yaml").write_text(TABLE)
    (made / "quick.yaml").write_text(SEARCH)
    return made


@pytest.fixture
def gold(schema: Schema) -> list[Profile]:
    return profiles(schema, 0)


@pytest.fixture
def make_run(tmp_path: Path, schema: Schema, gold: list[Profile]) -> MakeRun:
    """``make_run(name, share, seed, paradigm, ids)``: a run's folder whose predictions are right with probability share."""

    def make(name: str, share: float, seed: int = 0, paradigm: str = "both", ids: str = "user") -> Path:
        folder = tmp_path / "made" / name
        folder.mkdir(parents=True)
        parsed = profiles(schema, 100 + seed, gold, share)
        lines = [
            {"user_id": f"{ids}-{i}", "gold": g, "text": schema.render(p), "parsed": p, "faults": []}
            for i, (g, p) in enumerate(zip(gold, parsed, strict=True))
        ]
        (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        config = load_config("train", [f"paradigm={paradigm}", f"seed={seed}", f"name={name}"])
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
        test = score(schema, gold, parsed, resamples=0).to_dict()
        test["unpaired"] = {"macro_f1": 10.0 + seed}
        test["decoder"] = {"macro_f1": 20.0 + seed}
        metrics = {
            "test": test,
            "baselines": {"ceiling": {"macro_f1": 90.0, "interval": [88.0, 92.0], "per_attribute": {}}},
            "seconds": {"prepare": 600.0, "train": 60.0 * (seed + 1), "evaluate": 30.0},
            "peak_rss_mb": 1024.0 * (seed + 1),
            "n_parameters": 2_000_000,
            "config": {"paradigm": paradigm},
        }
        (folder / "metrics.json").write_text(json.dumps(metrics))
        return folder

    return make
