"""Text-only attributes in the joint model, with and without evidence from the other reviews, against TF-IDF on the same texts.

``python benchmarks/joint.py 0 1 2 [--evidence 8] [--folder joint]`` makes a demo city for each seed, labels its people by the
lexicon, votes and attaches the labels, and trains: the model without text-only attributes, the joint model, and TF-IDF with
logistic regression, the last two with and without ``inputs.evidence``. It prints the macro-F1 of the test users. What is
finished in the folder is not run again.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from common import table

JOINT = ["profile=yelp+text_only", "purpose=a benchmark on generated people"]
TFIDF = ["model=tfidf_lr", *JOINT]


class Scores(NamedTuple):
    """Macro-F1 of a run's test users, 0 to 100; ``text_only``: None where the profile has no such attributes."""

    observed: float
    text_only: float | None


def rows_of(evidence: int) -> dict[str, list[str]]:
    """Return the rows of the table: name -> words of mmprofile.train."""
    shown = f"inputs.evidence={evidence}"
    return {
        "observed attributes alone": [],
        "joint": JOINT,
        f"joint, {shown}": [*JOINT, shown],
        "TF-IDF + LR": TFIDF,
        f"TF-IDF + LR, {shown}": [*TFIDF, shown],
    }


def run(command: str, words: Sequence[str], folder: Path) -> None:
    """Run a command of mmprofile in a folder; its lines go to ``log.txt`` there."""
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        subprocess.run([sys.executable, "-m", f"mmprofile.{command}", *words], cwd=folder, check=True, stdout=log)


def measure(rows: dict[str, list[str]], seed: int, folder: Path, words: Sequence[str]) -> dict[str, Scores]:
    """Return the scores of each row in the city of a seed."""
    folder.mkdir(parents=True, exist_ok=True)
    data = [f"data.prepare.source.seed={seed}", "data.prepare.folder=city", f"seed={seed}"]
    if not (folder / "city" / "text_only.parquet").is_file():
        for step in ("teacher", "vote", "attach"):
            run(f"llm.{step}", [*data, "progress=false"], folder)
    scores = {}
    for number, (name, more) in enumerate(rows.items()):
        metrics = folder / "outputs" / f"row{number}" / "metrics.json"
        if not metrics.is_file():
            run("train", [*data, *more, *words, f"name=row{number}", "trainer.progress=false"], folder)
        test = json.loads(metrics.read_text(encoding="utf-8"))["test"]
        scores[name] = Scores(test["macro_f1"], test["text_only"]["macro_f1"] if "text_only" in test else None)
    return scores


def main() -> None:
    """Print a row for each system, with the mean over the seeds and the score of each."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("seeds", nargs="+", type=int, help="of city, teacher and training")
    arguments.add_argument("--evidence", type=int, default=8, help="inputs.evidence")
    arguments.add_argument("--folder", type=Path, default=Path("joint"), help="where data and runs go")
    arguments.add_argument("--words", nargs="*", default=[], help="more words of mmprofile.train, for all rows")
    chosen = arguments.parse_args()
    rows = rows_of(chosen.evidence)
    by_seed = [measure(rows, seed, chosen.folder / f"seed{seed}", chosen.words) for seed in chosen.seeds]
    lines = []
    for name in rows:
        observed = [scores[name].observed for scores in by_seed]
        text_only = [score for scores in by_seed if (score := scores[name].text_only) is not None]
        lines.append([name, _cell(observed), _cell(text_only)])
    print(table(["system", "observed attributes", "text-only attributes"], lines))


def _cell(scores: Sequence[float]) -> str:
    return f"{mean(scores):.1f} ({', '.join(f'{score:.1f}' for score in scores)})" if scores else "-"


if __name__ == "__main__":
    main()
