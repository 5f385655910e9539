"""``Profiler.fit``: the training of the command, from rows of Python."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from mmprofile import Profiler, Schema
from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.files import read_json_lines
from mmprofile.predict.fit import People
from mmprofile.profile.schema import Attribute
from mmprofile.train.run import main

SAMPLE = Path(__file__).parents[2] / "docs" / "own_data"
SCHEMA = Schema.from_yaml(SAMPLE / "shops.yaml")
SHORT: dict[str, Any] = {"trainer": {"max_epochs": 1}, "evaluation": {"resamples": 20}, "probe": {"users": 0}}
WORDS = ["trainer.max_epochs=1", "evaluation.resamples=20", "probe.users=0"]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the sample files, in which this process works."""
    folder = tmp_path_factory.mktemp("own") / "data"
    shutil.copytree(SAMPLE, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def rows(name: str) -> list[dict[str, Any]]:
    return read_json_lines(SAMPLE / f"{name}.jsonl")


def people(count: int | None = None) -> list[dict[str, Any]]:
    """The sample people, a row each, with their labels."""
    of_user: dict[str, dict[str, Any]] = {
        row["user_id"]: {**row, "reviews": [], "photos": []} for row in rows("labels")
    }
    for review in rows("reviews"):
        of_user[review["user_id"]]["reviews"].append(review["text"])
        of_user[review["user_id"]]["photos"] += review["photos"]
    return [*of_user.values()][:count]


def measured(run: Path) -> dict[str, Any]:
    metrics = json.loads((run / "metrics.json").read_text())
    history = [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in metrics["history"]]
    return {name: metrics[name] for name in ("test", "baselines", "n_parameters")} | {"history": history}


@pytest.fixture(scope="module")
def profiler(sample: Path) -> Profiler:
    return Profiler.fit(rows("reviews"), "shops.yaml", labels=rows("labels"), paradigm="multi", name="fit", **SHORT)


def test_the_same_as_the_command_on_the_same_people(sample: Path, profiler: Profiler) -> None:
    source = [f"data.prepare.source.{name}={name}.jsonl" for name in ("reviews", "labels")]
    main(load_config("train", ["data=custom", *source, "profile=shops.yaml", "paradigm=multi", "name=command", *WORDS]))
    runs = [sample / "outputs" / name for name in ("fit", "command")]
    assert measured(runs[0]) == measured(runs[1])
    weights = [load_file(run / "model" / "model.safetensors") for run in runs]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    profile = profiler.predict(["Mit dem Rad zum Weinladen."], ["photos/03.jpg"])
    assert profile == Profiler.from_pretrained("outputs/command").predict(
        ["Mit dem Rad zum Weinladen."], ["photos/03.jpg"]
    )


def test_the_run_has_a_card_with_its_own_figures(sample: Path, profiler: Profiler) -> None:
    """Written before metrics.json, which says that a run is finished; no folder of this machine is in it."""
    run = sample / "outputs" / "fit"
    read = ModelCard.load(run / "model" / "README.md")
    metrics = json.loads((run / "metrics.json").read_text())
    assert read.data.eval_results[0].metric_value == round(metrics["test"]["macro_f1"], 2)
    assert read.data.language is None  # of one's own people it is not known
    assert "80 people: train 56, validation 8, test 16" in read.text
    assert "Labels from the owner's file: Budget, Shops In The, Travels By." in read.text
    assert "`paradigm=multi model=tiny seed=0 trainer.max_epochs=1 evaluation.resamples=20`" in read.text
    assert str(sample) not in read.content
    assert (run / "model" / "README.md").stat().st_mtime_ns <= (run / "metrics.json").stat().st_mtime_ns


def test_the_same_call_again_trains_nothing(
    sample: Path, profiler: Profiler, capsys: pytest.CaptureFixture[str]
) -> None:
    again = Profiler.fit(
        pd.DataFrame(rows("reviews")), Path("shops.yaml"), pd.DataFrame(rows("labels")), "multi", name="fit", **SHORT
    )
    assert "is finished; its scores:" in capsys.readouterr().out
    assert again.predict(["Teuer."]) == profiler.predict(["Teuer."])
    with pytest.raises(UserError, match=r"fit holds a run with other settings \(data\.prepare\.source\.labels: "):
        Profiler.fit(rows("reviews"), "shops.yaml", rows("labels")[:70], "multi", name="fit", **SHORT)


def test_captions_reach_the_model(sample: Path) -> None:
    """With people in rows of their own, and a schema and labels as plain data."""
    given = people(40)
    for person in given:
        person["captions"] = [f"a photo of {photo}" for photo in person["photos"]]
        person["captions"][0] = None
    labels = {person["user_id"]: {"Travels By": person.pop("Travels By", None)} for person in given}
    for person in given:
        person.pop("Budget", None), person.pop("Shops In The", None)
    schema = {"name": "travel", "attributes": [{"name": "Travels By", "values": ["car", "bicycle"]}]}
    profiler = Profiler.fit(given, schema, labels, name="captions", **SHORT)
    assert profiler.model.settings["inputs"]["modality"] == "both"  # by default, with captions
    assert profiler.model.schema == Schema.from_dict(schema)
    profile = profiler.predict(["Teuer."], ["photos/03.jpg"], ["a photo of photos/03.jpg"])
    assert profile.confidence != profiler.predict(["Teuer."], ["photos/03.jpg"], ["a bicycle"]).confidence
    config = config_of(sample / "outputs" / "captions")
    folder = Path(config["data"]["prepare"]["source"]["reviews"]).parent
    captions = {row["path"]: row["caption"] for row in read_json_lines(folder / "captions.jsonl")}
    assert captions[str(sample / "photos" / "03.jpg")] == "a photo of photos/03.jpg"


def config_of(run: Path) -> dict[str, Any]:
    return yaml.safe_load((run / "config.yaml").read_text())


def written(folder: Path, rows: list[dict[str, Any]], labels: Any = None) -> dict[str, list[dict[str, Any]]]:
    """What the files hold."""
    given = People(folder, SCHEMA)
    for number, row in enumerate(rows):
        given.add(row, number)
    given.add_labels(labels)
    return {name: read_json_lines(path) for name, path in given.write().items()}


def test_a_row_of_a_person(tmp_path: Path) -> None:
    review = {
        "text": "b",
        "stars": np.float64(4.0),
        "date": pd.Timestamp("2024-05-06"),
        "photos": ["3.jpg"],
        "note": "?",
    }
    row = {
        "user_id": 7,
        "reviews": ["a", review],
        "photos": ["/1.jpg", "/2.jpg", "/4.jpg"],
        "Budget": "low",
        "Shops": None,
    }
    files = written(tmp_path, [row, {"reviews": ["c"]}], {"7": {"Shops": np.array(["x", "y"])}})
    here = str(Path.cwd() / "3.jpg")
    assert files == {
        "reviews": [
            {"user_id": "7", "text": "a", "photos": ["/1.jpg", "/4.jpg"]},
            {"user_id": "7", "text": "b", "stars": 4.0, "date": "2024-05-06 00:00:00", "photos": [here, "/2.jpg"]},
            {"user_id": "1", "text": "c"},
        ],
        "labels": [{"user_id": "7", "Budget": "low", "Shops": ["x", "y"]}],
    }


def test_a_review_has_the_columns_that_rules_read(tmp_path: Path) -> None:
    rule = {"source": "review.price", "aggregation": "mean", "cuts": [10]}
    schema = Schema(
        "own", [Attribute("Budget", ("low", "high"), rule=rule), Attribute("Travels By", ("car", "bicycle"))]
    )
    given = People(tmp_path, schema)
    given.add({"user_id": "a", "text": "one", "price": 3, "Travels By": "car"}, 0)
    given.add({"user_id": "b", "reviews": [{"text": "two", "price": 4, "note": "?"}], "price": 5}, 1)
    assert [row.get("price") for row in given.reviews] == [3, 4]
    assert given.labels == {"a": {"Travels By": "car"}, "b": {"price": 5}}  # which the reader of labels refuses by name


def test_people_without_reviews_are_left_out(tmp_path: Path) -> None:
    given = People(tmp_path, SCHEMA)
    for number, row in enumerate([{"reviews": ["a"]}, {"photos": ["a.jpg"]}, {"reviews": None}]):
        given.add(row, number)
    assert (given.silent, [row["user_id"] for row in given.reviews]) == (2, ["0"])


def test_a_folder_that_cannot_be_written_is_one_line(sample: Path) -> None:
    (sample / "taken").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*taken/people: .*; choose another out="):
        Profiler.fit(people(3), "shops.yaml", paradigm="text", out="taken")


def test_photos_that_are_no_files_are_written(tmp_path: Path) -> None:
    image, file = Image.new("RGB", (20, 10), "red"), io.BytesIO()
    image.save(file, format="PNG")
    photos = [image, file.getvalue(), np.asarray(image)]
    files = written(tmp_path, [{"reviews": ["a"], "photos": photos}])
    assert len({*files["reviews"][0]["photos"]}) == 1  # one content, one file
    with Image.open(files["reviews"][0]["photos"][0]) as opened:
        assert np.array_equal(np.asarray(opened), np.asarray(image))


def test_what_is_written_has_the_name_of_its_content(tmp_path: Path) -> None:
    first, other = ([{"user_id": "a", "text": text, "Budget": "low"}] for text in ("one", "two"))
    folders = []
    for given in (first, first, other):
        persons = People(tmp_path, SCHEMA)
        persons.add(given[0], 0)
        folders.append(persons.write()["reviews"].parent)
    assert folders[0] == folders[1] != folders[2]


@pytest.mark.parametrize(
    ("users", "says"),
    [
        ("reviews.jsonl", "users is 'reviews.jsonl': give a DataFrame or a list of dicts"),
        (3, "users is 3: give a DataFrame"),
        ([], "users: there is no review in any of the rows"),
        ([1], "users, row 0 is 1: give a dict"),
        ([{"text": "a"}], "users, row 0: a review needs a user_id"),
        ([{"user_id": "ann", "reviews": "a"}], "person ann: reviews is 'a': give a list"),
        ([{"user_id": "ann", "reviews": 3}], "person ann: reviews is 3: give a list"),
        ([{"reviews": [3]}], "person 0: a review is 3: give a text, or a mapping with text"),
        ([{"reviews": ["\ud800"]}], "person 0: a review is '.ud800': give a text"),
        ([{"photos": ["a.jpg"]}], "users: there is no review in any of the rows"),
        ([{"reviews": ["a"], "photos": [3]}], "photo 0 of person 0: 3 is no photo; give a path"),
        ([{"reviews": ["a"], "photos": ["b"], "captions": []}, {"reviews": ["a"], "photos": ["b"], "captions": [1, 2]}],
         "person 1: 2 captions for 1 photos"),
        ([{"user_id": "a", "text": "a", "Budget": "low"}, {"user_id": "a", "text": "b", "Budget": "high"}],
         "person a: Budget is 'low' in one row and 'high' in another"),
    ],
)  # fmt: skip
def test_rows_that_are_no_people(sample: Path, users: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Profiler.fit(users, "shops.yaml", paradigm="text")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"paradigm": "mutli"}, r"paradigm=mutli: there is no such choice \(did you mean multi\?\)"),
        (
            {"trainer": {"max_epoch": 3}},
            r"unknown config key 'trainer\.max_epoch' \(did you mean trainer\.max_epochs\?\)",
        ),
        ({"model": "tfidf_lr"}, "model=tfidf_lr leaves no model to predict with"),
        ({"schema": 3}, "schema is 3: give a Schema, a dict, or a YAML file"),
        ({"schema": "nowhere.yaml"}, "profile schema nowhere.yaml: cannot be read"),
        ({"labels": [{"Budget": "low"}]}, "labels, row 0: no user_id"),
        ({"labels": "labels.jsonl"}, "labels is 'labels.jsonl': give a DataFrame or a list of dicts"),
    ],
)
def test_mistakes_are_one_line(sample: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Profiler.fit(people(3), **{"schema": "shops.yaml", "paradigm": "text"} | options)


def test_values_of_any_kind_are_those_of_the_command(sample: Path) -> None:
    """A purpose with marks of the command line's own grammar, None, lists."""
    options = {
        "purpose": 'a "study", of {shops}: 100 %',
        "inputs": {"photos": None},
        "paradigm.views": ["fusion", "text"],
    }
    with pytest.raises(UserError, match="no user of the split 'train' has a label of Travels By"):
        Profiler.fit(
            [{key: row[key] for key in ("user_id", "reviews", "photos")} for row in people()], "shops.yaml", name="odd",
            paradigm="multi", **SHORT, **options,
        )  # fmt: skip
    config = config_of(sample / "outputs" / "odd")
    assert config["purpose"] == options["purpose"]
    assert (config["inputs"]["photos"], config["paradigm"]["views"]) == (None, ["fusion", "text"])
