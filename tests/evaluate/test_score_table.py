"""The table of scores in the terminal, from a metrics mapping as written to ``metrics.json``."""

import io
from typing import Any

import pytest

from mmprofile.evaluate.score_table import print_scores, run_notes
from tests.support.runmetrics import example_metrics

pytestmark = pytest.mark.fast


@pytest.fixture
def metrics() -> dict[str, Any]:
    return example_metrics()


def test_terminal_table_is_narrow_aligned_and_complete(
    metrics: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")  # a pipe has no width: the table is not squeezed into one
    out = io.StringIO()
    print_scores(metrics, file=out)
    text = out.getvalue()
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in text
    header = next(line for line in lines if "majority" in line)
    assert header.split() == [
        "attribute",
        "majority",
        "TF-IDF+LR",
        "this",
        "run",
        "95",
        "%",
        "interval",
        "unpaired",
        "ceiling",
    ]
    test = metrics["test"]
    mean = next(line for line in lines if line.strip().startswith("mean"))
    low, high = test["interval"]
    figures = [metrics["baselines"]["majority"]["macro_f1"], 41.256, test["macro_f1"], low, high]
    figures += [test["unpaired"]["macro_f1"], 100.0]
    assert [word for word in mean.split()[1:] if word != "to"] == [f"{figure:.2f}" for figure in figures]
    category = next(line for line in lines if "Favorite Category" in line)
    assert category.rstrip().endswith("100.00")
    assert category.index("100.00") == mean.index("100.00")  # columns line up
    faults = next(line for line in lines if "parse faults" in line)
    assert "5.0 %" in faults
    assert "20 test users" in text


def test_what_decoder_and_classifiers_have_alone_is_a_line(metrics: dict[str, Any]) -> None:
    """With columns for them the table would be too wide, and its figures cut off."""
    for name, score in (("decoder", 61.5), ("classifiers", 62.25)):
        metrics["test"][name] = metrics["test"]["unpaired"] | {"macro_f1": score}
    out = io.StringIO()
    print_scores(metrics, file=out)
    assert "- decoder alone 61.50, classifiers alone 62.25" in out.getvalue()
    assert "…" not in out.getvalue()


@pytest.mark.parametrize(
    ("share", "line"), [(0.0312, "- 3.12 % of the tokens of the reviews are unknown"), (0.0, None)]
)
def test_unknown_tokens_are_told_where_there_are_any(metrics: dict[str, Any], share: float, line: str | None) -> None:
    unknown = [note for note in run_notes(metrics | {"unknown_tokens": share}) if "unknown" in note]
    assert [note.split(" to the")[0] for note in unknown] == ([line] if line else [])
