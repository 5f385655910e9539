"""The model card: every figure is that of ``metrics.json``, and the hub's own reader reads it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Attribute, Schema
from mmprofile.report.card import data_facts, model_card, write_card
from tests.support.runmetrics import SCHEMA, example_metrics

SETTINGS: dict[str, Any] = {"inputs": {"modality": "multi", "reviews": 3, "photos_per_review": 1}}
DATA = {
    "users": {"train": 70, "validation": 10, "test": 20},
    "labelled": {"from_file": ["Stars"], "derived": ["Favorite Category"]},
    "language": ["en"],
    "licence": "cc0-1.0",
    "origin": "Drawn by a program.",
}


def card(**more: Any) -> ModelCard:
    metrics = example_metrics() | {"data": DATA} | more
    return ModelCard(model_card(SCHEMA, SETTINGS, metrics, {"torch": "2.11"}))


def sections(text: str) -> dict[str, str]:
    parts = text.split("\n## ")[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in parts}


def test_the_hub_reads_the_scores_of_the_run() -> None:
    read, metrics = card().data, example_metrics()
    assert (read.library_name, read.language, read.tags) == ("mmprofile", ["en"], ["user-profiling", "multimodal"])
    scores = {result.metric_name: result.metric_value for result in read.eval_results}
    per_attribute = metrics["test"]["per_attribute"]
    assert scores == {"macro-F1, mean of the attributes": round(metrics["test"]["macro_f1"], 2)} | {
        f"macro-F1, {name}": round(per_attribute[name]["macro_f1"], 2) for name in per_attribute
    }
    assert {result.dataset_split for result in read.eval_results} == {"test"}


def test_scores_stand_beside_the_weak_baselines_with_intervals() -> None:
    text = sections(card().text)["Scores"]
    test = example_metrics()["test"]
    low, high = test["interval"]
    head, _, *rows = [line for line in text.splitlines() if line.startswith("|")]
    assert head == "| attribute | majority class | TF-IDF + LR | **this model** | 95 % interval |"
    [mean] = [row for row in rows if row.startswith("| mean")]
    assert mean.endswith(f"| 41.26 | {test['macro_f1']:.2f} | {low:.2f} to {high:.2f} |")
    assert "of 20 test users" in text
    assert "better than this model" not in text


def test_a_model_that_a_baseline_beats_says_so() -> None:
    metrics = example_metrics()
    metrics["baselines"]["tfidf_lr"]["macro_f1"] = 99.9
    assert "On these users TF-IDF + LR is better than this model." in sections(card(**metrics).text)["Scores"]


def test_data_limits_and_training() -> None:
    metrics = example_metrics()
    metrics["config"] |= {"settings": ["paradigm=both", "seed=0"], "reads": ["t5", "3 reviews"]}
    metrics["test"]["per_attribute"]["Stars"]["support"]["3"] = 0
    parts = sections(card(**metrics, unknown_tokens=0.0123).text)
    assert "100 people: train 70, validation 10, test 20" in parts["Data"]
    assert "Labels from the owner's file: Stars." in parts["Data"]
    assert "Licence of the data: cc0-1.0. Drawn by a program." in parts["Data"]
    assert "There are only 20 test users" in parts["Limits"]
    assert "nothing is known of them: Stars: 3." in parts["Limits"]
    assert "1.2 % of the tokens of the reviews are unknown" in parts["Limits"]
    for fact in ("`paradigm=both seed=0`", "t5, 3 reviews", "2.9 M parameters, 200 s of training", "torch 2.11"):
        assert fact in parts["Training"]


def test_how_far_probabilities_can_be_trusted() -> None:
    assert sections(card().text)["Confidence"].startswith("Not measured")
    metrics = example_metrics()
    row = {"answers": 40, "accuracy": 0.5, "mean_confidence": 0.61, "ece": 0.123, "ece_uncalibrated": 0.2}
    metrics["test"] |= {"risk": 0.1}
    metrics["test"]["confidence"] = {
        "all": row | {"coverage": 0.925, "set_size": 1.54},
        "Stars": row | {"ece_uncalibrated": None},
    }
    text = sections(card(**metrics).text)["Confidence"]
    assert "| all | 40 | 50.0 % | 61.0 % | 12.3 % | 20.0 % |" in text
    assert "| Stars | 40 | 50.0 % | 61.0 % | 12.3 % | - |" in text
    assert text.endswith(
        "With `risk=0.1` the sets of values held the true one in 92.5 % of the answers, with 1.5 values on average."
    )


def test_a_sensitive_attribute_and_its_purpose() -> None:
    schema = Schema(
        "own", [Attribute("Age", ("young", "old"), sensitive=True, text_only=True, unknown=True), *SCHEMA.attributes]
    )
    text = model_card(schema, SETTINGS | {"purpose": "a study of bias"}, example_metrics(), {})
    parts = sections(text)
    assert parts["What it is for"] == "a study of bias"
    assert "Age: sensitive, and not to be predicted for anything but: a study of bias." in parts["Excluded uses"]
    assert "| Age | one, or Unknown, from text alone, **sensitive** | young, old |" in parts["What it predicts"]
    assert "What it is for" not in sections(card().text)


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        (Attribute("A", ("x", "y", "z")), "one"),
        (Attribute("A", ("x", "y", "z"), kind="set", size=2), "2 together"),
        (Attribute("A", ("x", "y", "z"), kind="set", size=2, min_size=0), "0 to 2 together"),
        (Attribute("A", ("x", "y", "z"), kind="ordered", size=2), "2 in order"),
        (Attribute("A", ("x", "y", "z"), kind="ordinal"), "one, the least first"),
        (Attribute("A", kind="number", edges=(1.0, 2.0), unit="EUR"), "the range that a number is in (EUR)"),
    ],
)
def test_every_kind_of_attribute_has_words(attribute: Attribute, words: str) -> None:
    parts = sections(model_card(Schema("own", [attribute]), SETTINGS, {}, {}))
    assert parts["What it predicts"].splitlines()[-1] == f"| A | {words} | {', '.join(attribute.values)} |"


@pytest.mark.parametrize(("modality", "given"), [("text", []), ("multi", ["photos"]), ("both", ["photos", "captions"])])
def test_the_lines_of_python_give_what_the_model_reads(modality: str, given: list[str]) -> None:
    usage = sections(model_card(SCHEMA, {"inputs": SETTINGS["inputs"] | {"modality": modality}}, {}, {}))[
        "How to use it"
    ]
    code = usage.removeprefix("```python\n").removesuffix("\n```")
    compile(code, "card", "exec")
    assert [name for name in ("photos", "captions") if f"{name}=" in code] == given


def test_without_metrics_nothing_is_claimed() -> None:
    read = ModelCard(model_card(SCHEMA, SETTINGS, {}, {}))
    assert read.data.eval_results is None
    assert sections(read.text)["Scores"] == "Not known."


def test_the_card_of_a_run_is_made_of_its_files(tiny_model: Callable[..., ProfileModel], tmp_path: Path) -> None:
    model = tiny_model("xattn")
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "environment.json").write_text(json.dumps({"python": "3.11"}))
    metrics = example_metrics() | {"data": DATA}
    write_card(tmp_path, metrics)
    text = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert text == model_card(model.schema, model.settings, metrics, {"python": "3.11"})


def test_what_is_said_of_prepared_data(tmp_path: Path) -> None:
    front = "---\nlicense: other\nlicense_name: yelp-dataset-terms\nlanguage:\n- en\n---\n# Data\n"
    (tmp_path / "README.md").write_text(f"{front}\n## Origin and licence\n\nMade from Yelp.\n\n## Labels\n\nMany.\n")
    manifest = {"splits": DATA["users"], "labels": {"from_file": [], "derived": ["Stars"], "balance": {}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert data_facts(tmp_path) == {
        "users": DATA["users"],
        "labelled": {"from_file": [], "derived": ["Stars"]},
        "language": ["en"],
        "licence": "yelp-dataset-terms",
        "origin": "Made from Yelp.",
    }
