"""The text-only stage on several cities: ``python benchmarks/llm_stage.py --seeds 0 1 2 data=demo_indirect``.

Each seed is of a city, its teacher, and its students. The command ``mmprofile.llm.run`` runs for each, or goes on, one after
another; then every row is scored on the people of all cities. A difference is the mean of the cities'; its interval and p-value are
of resamples in which first the cities (with their training seeds) and then the people of each are drawn, with replacement.
``noise-free`` is one answer of the lexicon that reads everything and overlooks and misreads nothing.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from mmprofile.config.compose import load_config
from mmprofile.llm.run.comparison import resample, score, student_draws, teacher_draws, title
from mmprofile.llm.stage import open_schema, read_people, stage_folder
from mmprofile.profile.metrics import RESAMPLES, Array

NOISE_FREE = ["teacher.reads=1", "teacher.overlooks=0", "teacher.misreads=0", "samples=1"]
PAIRS = (("voted", "cisc"), ("voted", "noise_free"), ("voted", "teacher"), ("sft", "voted"), ("sft_voted", "sft"))


def run(module: str, words: Sequence[str]) -> None:
    """Run a command of the stage; what it prints is shown."""
    subprocess.run([sys.executable, "-m", f"mmprofile.llm.{module}", "progress=false", *words], check=True)


def rows_of(seed: int, words: Sequence[str], out: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Array], float]:
    """Return the scores of each row, the F1 of its resamples (R,), and the minutes of the stage, run first where it is not done."""
    of_city = [f"data.prepare.source.seed={seed}", f"seed={seed}", f"out={out}", *words]
    stage, single = [*of_city, f"name=seed{seed}"], [*of_city, *NOISE_FREE, f"name=seed{seed}-noise-free"]
    run("run", stage)
    for step in ("teacher", "vote"):
        run(step, single)
    cfg = load_config("llm", stage)
    schema = open_schema(cfg)
    people = [person for person in read_people(cfg, schema) if person.split == "test"]
    draws = {"noise_free": teacher_draws(load_config("llm", single), schema, people)["teacher"]}
    draws |= teacher_draws(cfg, schema, people) | student_draws(cfg, schema, people, stage_folder(cfg))[0]
    resampled = {name: resample(schema, people, of_row, seed) for name, of_row in draws.items()}
    scores = {name: score(schema, people, of_row, resampled[name]) for name, of_row in draws.items()}
    return scores, resampled, json.loads((stage_folder(cfg) / "metrics.json").read_text())["minutes"]


def pooled(cities: Sequence[Array], seed: int = 0) -> Array:
    """Return the mean over drawn cities of a resample of each, (R,), from the resamples of every city, (R,) each."""
    rng, values = np.random.default_rng(seed), np.stack(cities)
    drawn = rng.integers(len(values), size=(len(values), RESAMPLES))
    return np.asarray(values[drawn, rng.integers(RESAMPLES, size=drawn.shape)].mean(axis=0))


def main() -> None:
    """Run the stages, print the pooled table and differences, and write them where asked."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--seeds", type=int, nargs="+", required=True)
    options.add_argument("--out", type=Path, default=Path("outputs/llm_stage"), help="folder of the stages")
    options.add_argument("--json", type=Path, help="write the figures here")
    options.add_argument("words", nargs="*", help="what the commands take besides")
    arguments = options.parse_intermixed_args()
    found = {seed: rows_of(seed, arguments.words, arguments.out) for seed in arguments.seeds}
    names = list(next(iter(found.values()))[0])
    *others, last = names[names.index("sft_voted") + 1 :]
    pairs = [*PAIRS, (last, "sft"), *((last, other) for other in others)]
    figures: dict[str, Any] = {
        "rows": {name: {str(seed): found[seed][0][name] for seed in found} for name in names},
        "minutes": {str(seed): found[seed][2] for seed in found},
        "differences": {},
    }
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "F1 by city", "mean", "ECE", "AURC"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name in names:
        scores = [found[seed][0][name] for seed in found]
        ece, aurc = ([of_city[key] for of_city in scores if of_city[key] is not None] for key in ("ece", "aurc"))
        f1 = [of_city["f1"] for of_city in scores]
        table.add_row(
            "one noise-free pass" if name == "noise_free" else title(name), " ".join(f"{value:.1f}" for value in f1),
            f"{np.mean(f1):.2f}", f"{np.mean(ece):.3f}" if ece else "-", f"{np.mean(aurc):.3f}" if aurc else "-",
        )  # fmt: skip
    console = Console(highlight=False, width=100)
    console.print(table)
    for one, other in pairs:
        of_cities = [found[seed][0][one]["f1"] - found[seed][0][other]["f1"] for seed in found]
        draws = pooled([found[seed][1][one] - found[seed][1][other] for seed in found])
        low, high = np.percentile(draws, [2.5, 97.5])
        p = min(1.0, 2 * min((draws <= 0).mean(), (draws >= 0).mean()) + 1 / RESAMPLES)
        figures["differences"][f"{one} - {other}"] = {
            "cities": of_cities, "mean": float(np.mean(of_cities)), "interval": [float(low), float(high)], "p": float(p),
        }  # fmt: skip
        each = ", ".join(f"{value:+.2f}" for value in of_cities)
        console.print(f"{one} - {other}: {np.mean(of_cities):+.2f} ({low:+.2f} to {high:+.2f}; p {p:.4f}); {each}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
