"""Text-only labels in the prepared data set, and a model trained on observed and labelled attributes together."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from datamodules.draws import Draws
from datamodules.gold import read_gold
from datamodules.people import read_people
from datamodules.prepare import prepare
from datamodules.prepared import open_prepared
from datamodules.text_only import attach, read_text_only
from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.inputs.evidence import EvidenceSelector, distinct_sentences
from mmprofile.llm.labels import Label, Vote, save_labels
from mmprofile.paths import conf_dir
from mmprofile.predict.profiler import Profiler
from mmprofile.profile.schema import UNKNOWN, Attribute, Schema
from mmprofile.train import run as train

YELP, TEXT_ONLY = (Schema.from_yaml(conf_dir() / "profile" / f"{name}.yaml") for name in ("yelp", "text_only"))
BOTH = Schema("yelp+text_only", [*YELP.attributes, *TEXT_ONLY.attributes])
INPUTS = {"reviews": 3, "photos_per_review": 1, "max_tokens": 96, "sample_seed": 0, "redraw": True}
JOINT = ["profile=yelp+text_only", "purpose=a test of ours"]


def make(folder: Path) -> Path:
    return prepare(
        {"kind": "demo", "users": 30, "seed": 0},
        {"min_words": 10, "max_words": 300, "min_reviews": 30, "photo_reviews": 3},
        {"train": 0.6, "validation": 0.2, "test": 0.2, "seed": 0},
        {"policy": "drop", "shorter_side": 96, "max_pixels": 50_000_000},
        folder=folder,
        schema=YELP,
        progress=False,
    )


def labels_of(users: Sequence[str], quoted: str = "scrubs") -> list[Label]:
    """Everybody is a nurse (0.8, two votes) of Unknown age (0.25); of the first user there is no vote."""
    votes = (Vote(0, "Nurse", 0.9, "a"), Vote(1, "Nurse", 0.7, "b"))
    labels = []
    for user in users[1:]:
        labels.append(Label(user, "Occupation", "Nurse", 0.8, "Nurse", 1.0, 0.8, quoted, votes, "origin"))
        age = Label(user, "Age", UNKNOWN, 0.25, "18-24", 0.5, 0.5, "", (Vote(0, "18-24", 0.2),), "origin")
        labels.append(age)
    return [*labels, Label(users[0], "Age", UNKNOWN, 0.1, UNKNOWN, provenance="origin")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("attach") / "demo")


@pytest.fixture(scope="module")
def users(folder: Path) -> list[str]:
    return [person.user_id for person in read_people(folder, TEXT_ONLY)]


def save(path: Path, labels: Sequence[Label]) -> Path:
    save_labels(path, labels)
    calibration = {
        "thresholds": {"Age": 0.3, "Occupation": 0.0},
        "settings": "origin",
        "vote": {"method": "confidence"},
    }
    (path.parent / "calibration.json").write_text(json.dumps(calibration))
    return path


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_attached_labels_say_where_they_come_from(folder: Path, users: list[str], tmp_path: Path) -> None:
    before = hashes(folder)
    path = save(tmp_path / "labels.parquet", [*labels_of(users), Label("ghost", "Age", "65+", 1.0)])
    about = attach(folder, path, TEXT_ONLY, "a test of ours")
    after = hashes(folder)
    assert {name for name in after if after[name] != before.get(name)} == {
        "manifest.json", "README.md", "text_only.parquet",
    }  # fmt: skip
    assert set(before) <= set(after)
    rows = pq.read_table(folder / "text_only.parquet").to_pylist()
    assert list(rows[0]) == [
        "user_id",
        "attribute",
        "label",
        "confidence",
        "rationale",
        "votes",
        "provenance",
        "purpose",
    ]
    assert len(rows) == 2 * (len(users) - 1)
    assert {row["user_id"] for row in rows} == set(users[1:])
    nurse = next(row for row in rows if row["attribute"] == "Occupation")
    assert (nurse["label"], nurse["confidence"], nurse["purpose"]) == ("Nurse", 0.8, "a test of ours")
    assert [vote["confidence"] for vote in json.loads(nurse["votes"])] == [0.9, 0.7]
    origin = {"settings": "origin", "voted": "Nurse", "q": 1.0, "m": 0.8, "threshold": 0.0}
    assert json.loads(nurse["provenance"]) == origin
    given_up = next(row for row in rows if row["attribute"] == "Age")
    assert json.loads(given_up["provenance"]) == origin | {"voted": "18-24", "q": 0.5, "m": 0.5, "threshold": 0.3}

    prepared = open_prepared(folder)
    assert prepared.manifest["text_only"] == about
    assert (
        about["balance"]["Occupation"]["values"]["Nurse"]
        == about["balance"]["Age"]["values"][UNKNOWN]
        == len(users) - 1
    )
    assert [about["balance"][name]["without_label"] for name in ("Age", "Gender")] == [1, len(users)]
    assert (about["labels_of_others"], about["purpose"], about["users"]) == (1, "a test of ours", len(users))
    assert about["calibration"]["vote"] == {"method": "confidence"}
    card = (folder / "README.md").read_text()
    assert "Purpose: a test of ours" in card
    assert f"| Occupation | {len(users) - 1} | 0 | 1 | 0.80 |" in card
    # The same labels again, and the same preparation again, change nothing.
    attach(folder, path, TEXT_ONLY, "a test of ours")
    assert make(folder) == folder
    assert hashes(folder) == after
    # A calibration of other labels is not theirs.
    (tmp_path / "calibration.json").write_text('{"settings": "another"}')
    assert attach(folder, path, TEXT_ONLY, "a test of ours")["calibration"] == {}


def test_training_sees_labels_and_scoring_gold(folder: Path, users: list[str], tmp_path: Path) -> None:
    attach(folder, save(tmp_path / "labels.parquet", labels_of(users)), TEXT_ONLY, "a test of ours")
    draws, plain = (Draws(folder, schema, INPUTS, True) for schema in (BOTH, YELP))
    gold = read_gold(folder, TEXT_ONLY)
    for split in ("train", "validation", "test"):
        shown = {"of": draws.users(split), "judged": draws.judged(split)}
        if split == "train":
            shown["training"] = [draws.training(1, i) for i in range(len(shown["of"]))]
        for name, shown_users in shown.items():
            redrawn = (
                [plain.training(1, i) for i in range(len(shown_users))] if name == "training" else plain.users(split)
            )
            for user, observed in zip(shown_users, redrawn, strict=True):
                assert user.profile is not None
                known = user.user_id != users[0]
                assert {n: user.profile[n] for n in YELP.names} == observed.profile
                assert replace(user, profile=observed.profile, weights={}) == observed
                attached = {"Occupation": ("Nurse",), "Age": ()} if known else {}  # Unknown is a label, none is not
                text_only = {n: values for n, values in user.profile.items() if n in TEXT_ONLY.names}
                assert text_only == (gold[user.user_id] if name == "judged" else attached)
                assert user.weights == ({"Occupation": 0.8, "Age": 0.25} if known else {})
    assert draws.selector is None
    assert draws.users("train")[0].user_id == users[0]
    assert plain.judged("test") == plain.users("test")
    (folder / "gold_text_only.parquet").rename(tmp_path / "gold")
    try:
        assert all((user.profile or {}).keys() == {*YELP.names} for user in draws.judged("test"))
    finally:
        (tmp_path / "gold").rename(folder / "gold_text_only.parquet")


def test_sentences_like_those_that_training_users_are_quoted_with_are_shown(
    folder: Path, users: list[str], tmp_path: Path
) -> None:
    """The labels quote a sentence that the city's people use; the same sentence is found of people without labels."""
    quoted = "to me the"
    attach(folder, save(tmp_path / "labels.parquet", labels_of(users, quoted)), TEXT_ONLY, "a test of ours")
    draws, plain = (Draws(folder, BOTH, INPUTS | more, True) for more in ({"evidence": 2}, {}))
    assert draws.selector is not None
    for split in ("train", "validation", "test"):
        drawn = zip(draws.of(split), plain.of(split), draws.prepared.datasets[split], strict=True)
        for (rows, user), (plain_rows, plain_user), table_row in drawn:
            assert (rows, user.photos, user.profile) == (plain_rows, plain_user.photos, plain_user.profile)
            assert user.reviews[:-1] == plain_user.reviews
            lines = user.reviews[-1].split("\n")
            others = [row["text"] for row in table_row["reviews"] if row not in rows]
            assert lines == draws.selector.select(others)
            there = [line for line in distinct_sentences(others) if quoted in line.lower()]
            assert not there or any(quoted in line.lower() for line in lines)
    examples = zip(draws.examples("test"), draws.users("test"), strict=True)
    assert all(example.text == "\n".join(user.reviews) for example, user in examples)  # the linear rows read the same
    own = EvidenceSelector(1, {"soup": 1.0})  # a trained model's
    assert Draws(folder, BOTH, INPUTS | {"evidence": 2}, True, own).selector is own
    attach(folder, save(tmp_path / "labels.parquet", labels_of(users, "no such words")), TEXT_ONLY, "a test of ours")
    with pytest.raises(UserError, match=r"inputs\.evidence=2: no rationale of the labels quotes a review"):
        Draws(folder, BOTH, INPUTS | {"evidence": 2}, True)


def test_labels_that_do_not_fit_are_refused(folder: Path, users: list[str], tmp_path: Path) -> None:
    bare = make(tmp_path / "bare")
    with pytest.raises(UserError, match=r"has no text_only\.parquet, .* then run python -m mmprofile\.llm\.attach"):
        Draws(bare, BOTH, INPUTS, True)
    path = tmp_path / "labels.parquet"
    save_labels(path, [Label("ghost", "Age", "65+", 1.0)])
    with pytest.raises(UserError, match=rf"none of its 1 labels is of the {len(users)} people"):
        attach(bare, path, TEXT_ONLY, "x")
    save_labels(path, [Label(users[0], "Age", "ancient", 1.0)])
    with pytest.raises(UserError, match="label 'ancient' is not in profile text_only"):
        attach(bare, path, TEXT_ONLY, "x")
    with pytest.raises(UserError, match=r"profile yelp\+text_only: Stars is not text-only"):
        attach(bare, path, BOTH, "x")
    assert not (bare / "text_only.parquet").exists()
    attach(bare, save(path, labels_of(users)), TEXT_ONLY, "x")
    other = Schema("own", [Attribute("Age", ("young", "old"), unknown=True, text_only=True)])
    with pytest.raises(UserError, match="Age was attached with other values or not at all"):
        read_text_only(open_prepared(bare), other)
    age = Schema("own", [TEXT_ONLY["Age"]])
    assert read_text_only(open_prepared(bare), age)[users[1]].weights == {"Age": 0.25}
    (bare / "text_only.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"is not the table that manifest\.json tells of"):
        Draws(bare, BOTH, INPUTS, True)


def run(command: str, *words: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command_line = [sys.executable, "-m", f"mmprofile.{command}", *words]
    done = subprocess.run(command_line, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A city whose labels are attached by the commands, and the words that name it."""
    where = tmp_path_factory.mktemp("smoke")
    data = ["data.prepare.source.users=60", "data.prepare.split={train:0.6,validation:0.2,test:0.2,seed:0}"]
    data += [f"data.prepare.folder={where / 'city'}"]
    done = run("llm.attach", *data, cwd=where, code=2)
    assert done.stderr.startswith("error: labels=outputs/llm/demo/labels.parquet: there is no such file")
    for step in ("teacher", "vote", "attach"):
        done = run(f"llm.{step}", *data, "progress=false", cwd=where)
    assert "city: 58 users, purpose: a demonstration on generated people" in done.stdout
    assert "Gender           58 labelled" in done.stdout
    return where, ["experiment=smoke", "trainer.progress=false", "out=out", *data]


def test_the_commands_one_after_another(smoke: tuple[Path, list[str]]) -> None:
    where, words = smoke
    refused = run("train", *words, "profile=yelp+text_only", cwd=where, code=2)
    assert refused.stderr.startswith("error: profile yelp+text_only: Gender, Age, Industry,")
    assert 'purpose="..."' in refused.stderr
    assert not (where / "out").exists()
    done = run("train", *words, *JOINT, "name=joint", cwd=where)
    assert "text-only attributes, in no mean above: Gender " in done.stdout
    assert "purpose a test of ours" in done.stdout
    assert [path.name for path in where.iterdir() if path.name.startswith("city")] == ["city"]
    path = where / "out" / "joint"
    metrics = json.loads((path / "metrics.json").read_text())
    test, apart = metrics["test"], metrics["test"]["text_only"]
    assert tuple(test["per_attribute"]) == YELP.names
    assert tuple(apart["per_attribute"]) == TEXT_ONLY.names
    macro_f1 = {name: scores["macro_f1"] for name, scores in test["per_attribute"].items()}
    assert sum(macro_f1.values()) / 6 == pytest.approx(test["macro_f1"])
    assert all(tuple(scores["per_attribute"]) == YELP.names for scores in metrics["baselines"].values())
    assert tuple(test["unpaired"]["per_attribute"]) == YELP.names
    assert metrics["config"]["purpose"] == "a test of ours"
    page = (path / "report.html").read_text(encoding="utf-8")
    assert "<strong>Purpose:</strong> a test of ours<br>Sensitive attributes" in page
    assert json.loads((path / "model" / "config.json").read_text())["purpose"] == "a test of ours"
    gold = read_gold(where / "city", TEXT_ONLY)
    rows = [json.loads(line) for line in (path / "predictions.jsonl").read_text().splitlines()]
    for row in rows:
        assert {name: tuple(row["gold"][name]) for name in TEXT_ONLY.names} == gold[row["user_id"]]
        assert tuple(row["parsed"]) == BOTH.names
        assert row["faults"] == []
    support = apart["per_attribute"]["Age"]["support"]
    assert support == {value: sum(row["gold"]["Age"] == [value] for row in rows) for value in TEXT_ONLY["Age"].values}

    run("evaluate", "run=out/joint", cwd=where)
    evaluation = json.loads((path / "evaluation-test.json").read_text())
    assert evaluation["test"] == test
    (where / "users.jsonl").write_text(
        json.dumps({"user_id": "ann", "reviews": ["My husband loved the pizza."]}) + "\n"
    )
    told = run("predict", "run=out/joint", "input=users.jsonl", "purpose=a survey", cwd=where)
    row = json.loads(told.stdout)
    assert tuple(row["profile"]) == tuple(row["confidence"]) == BOTH.names
    assert "trained for the purpose: a test of ours" in told.stderr
    assert "is finished" in run("train", *words, *JOINT, "name=joint", cwd=where).stdout


def test_a_model_that_reads_evidence_reads_it_wherever_it_predicts(smoke: tuple[Path, list[str]]) -> None:
    where, words = smoke
    more = ["inputs.evidence=4", "paradigm=text", "trainer.max_epochs=1", "name=evidence"]
    refused = run("train", *words, *more, cwd=where, code=2)
    assert refused.stderr.startswith("error: inputs.evidence=4: the rationales of text-only attributes say what")
    run("train", *words, *JOINT, *more, cwd=where)
    path = where / "out" / "evidence"
    weights = json.loads((path / "model" / "evidence.json").read_text())["weights"]
    telling = max(weights, key=weights.__getitem__)
    assert weights[telling] > 0 > min(weights.values())
    assert "4 sentences that look most like evidence" in (path / "model" / "README.md").read_text()
    run("evaluate", "run=out/evidence", cwd=where)
    test = json.loads((path / "metrics.json").read_text())["test"]
    assert json.loads((path / "evaluation-test.json").read_text())["test"] == test
    profiler = Profiler.from_pretrained(path, purpose="a test of ours")
    reviews = [f"Soup number {i} was fine." for i in range(9)] + [f"Lovely! Hear, hear: {telling}."]
    [ann] = profiler.predict_many([{"user_id": "ann", "reviews": reviews}])
    assert len(ann.reviews) == 3 + 1
    assert f"Hear, hear: {telling}." in "\n".join(ann.reviews).split("\n")


@pytest.mark.parametrize("model", ["majority", "tfidf_lr", "coopnet", "od_tup"])
def test_other_systems_predict_the_joint_profile(
    model: str, smoke: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    where, words = smoke
    monkeypatch.chdir(where)
    more = ["trainer.max_epochs=1", f"model={model}", f"name={model}", "evaluation.resamples=20"]
    paradigm = "paradigm=text" if model == "od_tup" else "paradigm=basic"
    train.main(load_config("train", [*words, *JOINT, *more, paradigm]))
    metrics: dict[str, Any] = json.loads((where / "out" / model / "metrics.json").read_text())
    assert tuple(metrics["test"]["per_attribute"]) == YELP.names
    assert tuple(metrics["test"]["text_only"]["per_attribute"]) == TEXT_ONLY.names
    assert "purpose" in (where / "out" / model / "config.yaml").read_text()


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    done = run("llm.attach", "input=people.jsonl", "purpose=x", cwd=tmp_path, code=2)
    assert done.stderr == (
        "error: input=people.jsonl: labels are attached to a prepared data set; give data=... in its place\n"
    )
    done = run("llm.attach", "data=yelp", "data.prepare.source.path=/raw", cwd=tmp_path, code=2)
    assert done.stderr.startswith("error: profile text_only: Gender, ")
