"""Systems that are not trained here, run as ``mmprofile.train`` runs them, on a small city."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.evaluate.predictions import evaluate_model
from mmprofile.evaluate.runs import load_run, run_data
from mmprofile.model.exports import load_pretrained
from mmprofile.predict.rows import InputUser
from mmprofile.predict.users import UserPhotos, prediction_view, select
from mmprofile.profile.schema import Schema
from mmprofile.train import run as train

ROOT = Path(__file__).parents[2]
SMOKE = ["experiment=smoke", "evaluation.resamples=20"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("systems")


def run(out: Path, name: str, *overrides: str) -> dict[str, Any]:
    """Trains into ``out/name``; the metrics."""
    train.main(load_config("train", [*SMOKE, f"out={out}", f"name={name}", *overrides]))
    return json.loads((out / name / "metrics.json").read_text())


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def captions(out: Path) -> dict[str, Any]:
    return run(out, "captions", "model=tfidf_captions")


@pytest.mark.parametrize("system", ["majority", "tfidf_lr"])
def test_a_row_is_what_every_run_shows_beside_itself(out: Path, system: str, schema: Schema) -> None:
    metrics = run(out, system, f"model={system}")
    unpaired = metrics["test"].pop("unpaired")
    assert unpaired == metrics["test"] == metrics["baselines"][system]
    assert metrics["config"]["model"] == system
    rows = rows_of(out / system)
    assert len(rows) == metrics["test"]["n_users"] == 12
    for row in rows:
        assert list(row) == ["user_id", "gold", "text", "parsed", "faults"]
        assert row["faults"] == []
        assert schema.render({name: tuple(values) for name, values in row["parsed"].items()}) == row["text"]
    assert (len({row["text"] for row in rows}) == 1) == (system == "majority")
    assert (metrics["n_parameters"] == 0) == (system == "majority")


def test_the_run_folder_is_a_trained_models_without_the_model(out: Path, captions: dict[str, Any]) -> None:
    assert set(captions) == {
        "test", "baselines", "seconds", "peak_rss_mb", "config", "n_parameters", "history", "choices",
    }  # fmt: skip
    assert set(captions["seconds"]) == {"prepare", "train", "evaluate"}
    written = {path.name for path in (out / "captions").iterdir()}
    assert written == {
        "config.yaml", "environment.json", "lock", "metrics.json", "predictions.jsonl", "report.html", "report.md", "report.png",
    }  # fmt: skip
    with pytest.raises(UserError, match="system tfidf_lr leaves no model behind"):
        load_run(str(out / "captions"))


def test_where_memory_is_not_measured_nothing_is_said_of_it(
    out: Path, captions: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on Windows, which has no module ``resource``."""
    assert captions["peak_rss_mb"] > 100
    monkeypatch.setitem(sys.modules, "resource", None)
    assert train.peak_rss_mb() is None
    assert run(out, "windows", "model=majority")["peak_rss_mb"] is None
    assert "peak memory" in (out / "captions" / "report.md").read_text()
    for text in (capsys.readouterr().out, *((out / "windows" / f"report.{end}").read_text() for end in ("md", "html"))):
        assert "prepare" in text
        assert "peak memory" not in text


def test_three_hops_lead_from_the_command_to_the_loss() -> None:
    """README names them, as does the docstring."""
    text = (ROOT / "README.md").read_text().partition("three hops")[2].partition("\n\n")[0]
    hops = re.findall(r"`(mmprofile/[\w/]+\.py)` \(`(\w+)`\)", text)
    assert [function for _, function in hops] == ["train_model", "training_step", "forward"]
    for path, function in hops:
        assert f"def {function}(" in (ROOT / path).read_text()
        assert function in (train.__doc__ or "")
        assert path.removeprefix("mmprofile/") in (train.__doc__ or "")
    assert "ProfileModule(" in (ROOT / hops[0][0]).read_text()
    assert "self.model(batch" in (ROOT / hops[1][0]).read_text()


def test_captions_are_read(captions: dict[str, Any]) -> None:
    test = captions["test"]
    assert test["macro_f1"] != captions["baselines"]["tfidf_lr"]["macro_f1"]
    assert test["unpaired"]["per_attribute"] != test["per_attribute"]


def test_photos_are_looked_at(out: Path, schema: Schema) -> None:
    metrics = run(out, "image", "model=tfidf_image", "paradigm=text")
    assert metrics["test"]["per_attribute"] != metrics["baselines"]["tfidf_lr"]["per_attribute"]
    assert metrics["test"]["unpaired"]["per_attribute"] != metrics["test"]["per_attribute"]
    assert set(metrics["choices"]) == set(schema.names)
    assert metrics["n_parameters"] > 0


def test_a_finished_run_is_shown_and_not_overwritten(
    out: Path, captions: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(out, "captions", "model=tfidf_captions") == captions
    assert "is finished" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"other settings .model.name: tfidf_captions -> majority"):
        run(out, "captions", "model=majority")


def test_unknown_tokens_are_in_metrics_report_and_on_the_screen(
    out: Path, t5_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = run(out, "foreign", "paradigm=text", f"model.text.name={t5_folder}", "trainer.max_epochs=1")
    line = f"{100 * metrics['unknown_tokens']:.2f} % of the tokens of the reviews are unknown to the tokenizer"
    assert 0.01 < metrics["unknown_tokens"] < 1
    assert f"{line} of {t5_folder}, so what they say is lost: choose a model" in capsys.readouterr().out
    assert f"- {line}\n" in (out / "foreign" / "report.md").read_text()


def test_an_unknown_system_is_named(out: Path) -> None:
    with pytest.raises(UserError, match=r"model.system='majorty' is not one of neural, majority"):
        run(out, "none", "model=majority", "model.system=majorty")


def test_photos_taken_away_from_every_system_alike(out: Path, captions: dict[str, Any]) -> None:
    """Without photos there are no captions: what is left is the text baseline."""
    none = run(out, "none", "model=tfidf_captions", "inputs.photos=0")
    assert none["test"]["macro_f1"] == captions["baselines"]["tfidf_lr"]["macro_f1"]
    assert none["test"]["unpaired"]["macro_f1"] == none["test"]["macro_f1"]
    gone = run(out, "gone", "model=tfidf_captions", "inputs.missing=1.0")
    assert gone["test"] == none["test"]
    # The ceiling reads the photos' cues: it loses them as well.
    assert none["baselines"]["ceiling"] == gone["baselines"]["ceiling"] != captions["baselines"]["ceiling"]


def test_strangers_photos_in_all_splits_and_some_missing_at_the_end(out: Path, captions: dict[str, Any]) -> None:
    strange = run(out, "strange", "model=tfidf_captions", "inputs.pairing=unpaired", "evaluation.missing=0.5")
    test = strange["test"]
    unpaired, missing = test.pop("unpaired"), test.pop("missing")
    assert unpaired == test  # they are somebody else's as it is
    assert test["per_attribute"] != captions["test"]["per_attribute"]
    assert missing["per_attribute"] != test["per_attribute"]
    assert "this run, photos missing" in (out / "strange" / "report.md").read_text()
    blind = run(out, "blind", "model=tfidf_lr", "evaluation.missing=1.0")["test"]
    assert blind["missing"] == blind["unpaired"] == {k: v for k, v in blind.items() if k not in ("missing", "unpaired")}


@pytest.mark.parametrize("wrong", ["inputs.photos=-1", "inputs.missing=2", "evaluation.missing=-0.1"])
def test_wrong_inputs_are_refused_before_anything_is_written(out: Path, wrong: str) -> None:
    with pytest.raises(UserError, match=wrong.split("=")[0]):
        run(out, "wrong", wrong)
    assert not (out / "wrong").exists()


def test_an_exported_model_knows_how_many_photos_it_is_shown(tmp_path: Path, schema: Schema) -> None:
    cfg = load_config("train", ["inputs.photos=1", "inputs.missing=0.5", "inputs.pairing=unpaired"])
    train.make_model(cfg, schema).save_pretrained(tmp_path)
    model = load_pretrained(tmp_path)
    inputs, view = model.settings["inputs"], prediction_view(model)
    assert (inputs["photos"], inputs["missing"], inputs["pairing"]) == (1, 0.5, "unpaired")
    row = InputUser("ann", ["a"] * 5, photos=["1.jpg", "2.jpg", "3.jpg"], captions=["x", "y", "z"])
    photos = UserPhotos(tmp_path, lambda _: None, None)
    assert select(row, inputs, view, photos).used["photos"] == 1
    before = {key: value for key, value in inputs.items() if key not in ("photos", "missing", "pairing")}
    assert select(row, before, view, photos).used["photos"] == 3  # a model exported before there was a limit


def test_a_run_with_auxiliary_classifiers_tells_what_the_decoder_has_alone(out: Path) -> None:
    metrics = run(out, "auxiliary", "paradigm=text", "model.auxiliary=0.5", "trainer.max_epochs=1")
    test, loaded = metrics["test"], load_run(str(out / "auxiliary"))
    settings, data = loaded.cfg.evaluation, run_data(loaded)
    assert loaded.model.auxiliary is not None
    loaded.model.auxiliary.share[:] = 1.0
    classifiers, _ = evaluate_model(loaded.model, data, "test", None, settings)
    loaded.model.auxiliary = None
    decoder, _ = evaluate_model(loaded.model, data, "test", None, settings)
    for again, name in ((classifiers, "classifiers"), (decoder, "decoder")):
        assert again["macro_f1"] == pytest.approx(test[name]["macro_f1"])
        assert again["interval"] == pytest.approx(test[name]["interval"])
    assert {"decoder", "classifiers"}.isdisjoint(decoder)
    assert len({test["macro_f1"], test["decoder"]["macro_f1"], test["classifiers"]["macro_f1"]}) > 1
    report = (out / "auxiliary" / "report.md").read_text()
    assert "this run, decoder alone" in report
    assert "this run, classifiers alone" in report
