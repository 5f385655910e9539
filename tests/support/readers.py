"""Every reader of files that may come from somebody else, and good files for each: what :mod:`tests.faults.fuzz` spoils."""

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from omegaconf import OmegaConf
from PIL import Image

from datamodules.captions import SCHEMA as CAPTIONS
from datamodules.captions import Captions
from datamodules.custom import RawCustom
from datamodules.destination import Destination
from datamodules.engine import Engine
from datamodules.faults import explained
from datamodules.options import CustomSource, PhotoOptions
from datamodules.people import read_people
from datamodules.photos import FORMATS, process
from datamodules.prepared import open_prepared, read_manifest
from datamodules.pseudonyms import Pseudonyms
from datamodules.raw import RawYelp
from datamodules.rules import check_rules
from datamodules.text_only import attach, read_text_only
from datamodules.yelp import READERS as LITERAL_READERS
from datamodules.yelp import literal
from mmprofile.config.compose import load_config, read_run_config, typed
from mmprofile.errors import UserError
from mmprofile.evaluate.rows import profiles, read_predictions
from mmprofile.evaluate.runs import load_predictor
from mmprofile.files import write_json, write_json_lines
from mmprofile.inputs.data import run_schema
from mmprofile.inputs.views import build_view
from mmprofile.llm.answers import parse_answer
from mmprofile.llm.journal import Record, open_journal
from mmprofile.llm.labels import Label, Vote, load_labels, save_labels
from mmprofile.llm.reinforce.rewards import FrozenLabels
from mmprofile.llm.student_folder import last_checkpoint, read_made_of
from mmprofile.model.build import build_model
from mmprofile.model.confidence import Confidence
from mmprofile.model.exports import load_pretrained
from mmprofile.paths import ASSETS, conf_dir
from mmprofile.predict.rows import read_rows
from mmprofile.profile.calibrator import AttributeCalibration, Calibrator
from mmprofile.profile.schema import Schema
from mmprofile.report.run import main as report
from mmprofile.sweep.results import read_run
from mmprofile.sweep.search import read_config, space_of
from mmprofile.sweep.tables import load_table, of_runs
from mmprofile.systems.answers import AnswerFile
from mmprofile.train.checkpoints import PARTS, damage
from tests.support.benchmarks import write_benchmarks
from tests.support.preparing import run as prepare_city
from tests.support.rawdata import as_tar, as_zip, city, jpeg, yelp_schema

YELP, NAMES = yelp_schema(), Pseudonyms(b"a key")
TEXT_ONLY = Schema.from_yaml(conf_dir() / "profile" / "text_only.yaml")
NAME, VALUE = TEXT_ONLY.names[0], TEXT_ONLY.attributes[0].values[0]


class Reader(NamedTuple):
    """A reader of files.

    Attributes:
        make: writes good files into an empty folder.
        read: reads them; whatever they hold, it may raise nothing but a UserError.
        spoils: patterns of the files that are spoilt, one of them in each case.
        share: of the cases; a reader that takes long gets a small one.
    """

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    spoils: tuple[str, ...]
    share: int = 10


@explained()
def _yelp(folder: Path) -> None:
    raw, work = RawYelp([folder]), folder / "work"
    engine = Engine(work)
    try:
        tables = raw.tables(engine, work, check_rules(YELP))
        for table in (tables.full, tables.photos, tables.businesses):
            engine.rows(table)
    finally:
        engine.close()
        shutil.rmtree(work, ignore_errors=True)


@explained()
def _archives(folder: Path) -> None:
    raw, work = RawYelp([folder]), folder / "work"
    work.mkdir(exist_ok=True)
    try:
        raw.json_files(work)
        for _ in raw.photos({"-p1", "p2"}):
            pass
    finally:
        shutil.rmtree(work)


def _make_archive(kind: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        raw = city(folder / "raw", users=2, prefix="")
        names = ["business.json", "review.json", "photos.json", "photos/-p1.jpg", "photos/p2.jpg"]
        if kind == "zip":
            as_zip(folder / "yelp.zip", {name: raw / name for name in names})
        else:
            as_tar(raw, folder / f"yelp.{kind}", {"tar": "w", "tar.gz": "w:gz", "tar.bz2": "w:bz2"}[kind], names)
        shutil.rmtree(raw)

    return make


LITERAL = "{'lunch': True, u'dinner': [1, (2, None)]}"
REVIEWS = [
    {"user_id": f"u{n % 3}", "text": "fine soup and bread", "review_id": f"r{n}", "business_id": "b", "stars": 4,
     "date": "2020-01-02", "photos": ["a.jpg"]}
    for n in range(6)
]  # fmt: skip
LABELS = [{"user_id": f"u{n}", "Budget Range": "Low", "Preferred Meal": "Lunch"} for n in range(3)]
PHOTOS = [{"path": "a.jpg", "review_id": "r1"}, {"path": "b.jpg", "business_id": "b"}]


def _table(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write_json_lines(path, rows)


def _make_custom(ending: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        for name, rows in (("reviews", REVIEWS), ("labels", LABELS), ("photos", PHOTOS)):
            _table(folder / f"{name}.{ending}", rows)
        _table(folder / f"shops.{ending}", [{"business_id": "b", "price": 2, "kinds": ["cafe"]}])

    return make


def _custom(ending: str) -> Callable[[Path], object]:
    @explained()
    def read(folder: Path) -> None:
        files = {key: str(folder / f"{key}.{ending}") for key in ("reviews", "labels", "photos")}
        raw = RawCustom(CustomSource(**files, businesses=str(folder / f"shops.{ending}")), NAMES)
        columns = {"business.price": {"number"}, "business.kinds": {"list"}}
        work = folder / "work"
        engine = Engine(work)
        try:
            raw.stamps()
            tables = raw.tables(engine, work, columns)
            for table in (tables.full, tables.photos, tables.businesses):
                engine.rows(table)
            raw.labels(YELP, {"u0", "u1", "u2"})
        finally:
            engine.close()
            shutil.rmtree(work, ignore_errors=True)

    return read


def _literals(folder: Path) -> None:
    value = literal((folder / "a.literal").read_bytes().decode("utf-8", "replace"))
    for read, _ in LITERAL_READERS.values():
        read(value)


def _prepared(folder: Path) -> None:
    prepared = open_prepared(folder)
    read_manifest(folder)
    for split in prepared.datasets.values():
        for user in split:
            for review in user["reviews"]:
                for photo in review["photo_ids"]:
                    prepared.jpeg(photo)
    read_text_only(prepared, TEXT_ONLY)
    Captions(folder).verify()
    read_people(folder, TEXT_ONLY)
    with contextlib.suppress(UserError):  # it always says how this differs
        Destination(folder, {"config": {}, "schema": {}, "key": "", "inputs": [], "format_version": 1}).is_there()


def _make_prepared(folder: Path) -> None:
    raw = city(folder / "raw")
    made = prepare_city(str(raw), folder=folder / "made")
    prepared = open_prepared(made)
    users = [user for split in prepared.datasets.values() for user in split["user_id"]]
    rows = [
        {"sha256": row["sha256"], "photo_id": row["photo_id"], "caption": "a plate", "status": "ok", "backend": "file"}
        for row in prepared.photos
    ]
    pq.write_table(pa.Table.from_pylist(rows, CAPTIONS), made / "captions.parquet")
    pq.write_table(pa.table({"kind": ["review"], "id": ["r0-0"], "cues": ['{"a": "b"}']}), made / "cues.parquet")
    pq.write_table(pa.table({"user_id": users, NAME: [VALUE] * len(users)}), made / "gold_text_only.parquet")
    save_labels(folder / "labels.parquet", [Label(user, NAME, VALUE, 0.5) for user in users])
    attach(made, folder / "labels.parquet", TEXT_ONLY, "a test")
    for path in made.iterdir():
        shutil.move(path, folder / path.name)
    for path in (raw, made):
        shutil.rmtree(path)


def _captions(folder: Path) -> None:
    captions = Captions(folder / "data")
    try:
        for name in ("captions.csv", "captions.jsonl", "captions.parquet"):
            captions.import_table(folder / name, "replace")
    finally:
        for path in (folder / "data").glob("captions.*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _make_captions(folder: Path) -> None:
    prepare_city(str(city(folder / "raw")), folder=folder / "data")
    shutil.rmtree(folder / "raw")
    rows = [
        {"photo_id": name, "path": f"photos/{name}.jpg", "caption": f"a plate of {name}"}
        for name in ("-p1", "p2", "p3")
    ]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    (folder / "captions.csv").write_text(out.getvalue())
    for ending in ("jsonl", "parquet"):
        _table(folder / f"captions.{ending}", rows)


PEOPLE = [
    {"user_id": f"p{n}", "reviews": ["my wife likes it"], "split": "test", "gold": {NAME: VALUE}} for n in range(3)
]
COMMENTS = [
    {"author": f"a{n}", "text": "hello", "profile": {"age": 30, "sex": "female", "education": "PhD in law", "income_level": "low",
     "relationship_status": "single"}}
    for n in range(3)
]  # fmt: skip


def _people(folder: Path) -> None:
    for name, form in (("people.jsonl", "people"), ("comments.jsonl", "synthpai_seed")):
        schema = TEXT_ONLY if form == "people" else Schema.from_yaml(conf_dir() / "profile" / "synthpai.yaml")
        for person in read_people(folder / name, schema, form):
            person.text()


def _make_people(folder: Path) -> None:
    write_json_lines(folder / "people.jsonl", PEOPLE)
    write_json_lines(folder / "comments.jsonl", COMMENTS)


def _benchmarks(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        schema = Schema.from_yaml(conf_dir() / "profile" / f"{path.stem.removesuffix('_seed')}.yaml")
        for person in read_people(path, schema, path.stem):
            person.text()


def _answers(folder: Path) -> None:
    journal = open_journal(folder / "journal.jsonl")
    for record in journal.records.values():
        parse_answer(record.answer, TEXT_ONLY)
    AnswerFile(folder / "answers.jsonl", build_view("text", "text"), YELP)
    parse_answer((folder / "answer.json").read_bytes().decode("utf-8", "replace"), TEXT_ONLY)
    for user in read_rows(str(folder / "users.jsonl")):
        assert user


def _make_answers(folder: Path) -> None:
    answer = {NAME: {"rationale": "says so", "value": VALUE, "confidence": 80}}
    record = Record("u0", 0, "r", "p", "m", 0, "2026-01-01", 0.5, json.dumps(answer), 1, 2)
    write_json_lines(folder / "journal.jsonl", [record._replace(request=f"r{n}")._asdict() for n in range(3)])
    rows = [
        {"user_id": "u0", "text": "```\nBudget Range: Low\n```"},
        {"user_id": "u1", "profile": {"Budget Range": "Low", "x": [1]}},
    ]
    write_json_lines(folder / "answers.jsonl", rows)
    write_json(folder / "answer.json", answer)
    write_json_lines(
        folder / "users.jsonl", [{"user_id": "u", "reviews": ["fine"], "photos": ["a.jpg"], "captions": ["a"]}]
    )


def _labels(folder: Path) -> None:
    load_labels(folder / "labels.parquet")
    FrozenLabels.load(folder / "frozen.json")
    read_made_of(folder)
    last_checkpoint(folder)


def _make_labels(folder: Path) -> None:
    save_labels(folder / "labels.parquet", [Label("u0", "Age", "18-24", 0.5, votes=(Vote(0, "18-24", 0.5),))])
    FrozenLabels({"u0": {}}, "o").save(folder / "frozen.json")
    write_json(folder / "made_of.json", {"a": 1})
    (folder / "checkpoint-1").mkdir()
    write_json(folder / "checkpoint-1" / "trainer_state.json", {"a": 1})


def _report(folder: Path) -> None:
    report(load_config("report", [f"run={folder}"]))


def _make_report(folder: Path) -> None:
    _make_run(folder)
    with (folder / "config.yaml").open("a") as file:
        file.write("task: sentiment\n")  # whose reports need no prepared data


def _run(folder: Path) -> None:
    config = read_run_config(folder)
    run_schema(folder, config)
    cfg = typed("train", config)
    Schema.from_config(cfg.profile)
    for part in ("gold", "parsed"):
        profiles(read_predictions(folder), part)
    read_run(folder)
    of_runs([str(folder)])


def _make_run(folder: Path) -> None:
    OmegaConf.save(load_config("train", ["model=majority", "name=shared"]), folder / "config.yaml")
    scores = {"macro_f1": 50.0, "parse_fault_rate": 0.0, "per_attribute": {}}
    write_json(folder / "metrics.json", {"test": scores, "baselines": {"majority": scores}, "seconds": {"fit": 1.0}})
    row = {
        "user_id": "u0",
        "gold": {"Budget Range": ["Low"]},
        "parsed": {"Budget Range": ["Low"]},
        "text": "",
        "faults": [],
    }
    write_json_lines(folder / "predictions.jsonl", [row | {"user_id": f"u{n}"} for n in range(3)])


def _yaml(folder: Path) -> None:
    load_table("table", str(folder / "table.yaml"))
    path = folder / "search.yaml"
    space_of(read_config(path), path)


def _make_yaml(folder: Path) -> None:
    shutil.copy(conf_dir() / "table" / "7.yaml", folder / "table.yaml")
    shutil.copy(conf_dir() / "search" / "lr.yaml", folder / "search.yaml")


def _schema(folder: Path) -> None:
    schema = load_config("train", [f"profile={folder / 'schema.yaml'}"]).profile
    Schema.from_config(schema)


def _model(folder: Path) -> None:
    load_pretrained(folder)
    load_predictor(str(folder))


def _make_model(folder: Path) -> None:
    torch.manual_seed(0)
    inputs = {
        "modality": "text",
        "reviews": 3,
        "photos_per_review": 1,
        "max_tokens": 64,
        "sample_seed": 0,
        "encoding": "segments",
    }
    text = {"name": str(ASSETS / "tiny" / "bart"), "dropout": None}
    model = build_model(text=text, vision=None, fusion={"kind": "none"}, schema=YELP, inputs=inputs)  # type: ignore[arg-type]
    part = AttributeCalibration(temperature=2.0, scores=(0.5,) * 9)
    model.confidence = Confidence(9, Calibrator(dict.fromkeys(model.schema.names, part)))
    model.save_pretrained(folder)


def _make_checkpoint(folder: Path) -> None:
    parts = {name: {"a": torch.zeros(2), "b": [1, "c", None]} for name in PARTS}
    torch.save(parts, folder / "last.ckpt")


def _photo(folder: Path) -> None:
    [path] = [path for path in folder.iterdir() if path.suffix == ".photo"]
    process(path, PhotoOptions(max_pixels=1_000_000))


def _make_photo(form: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        if form == "JPEG":
            (folder / "a.photo").write_bytes(jpeg())
        else:
            Image.new("RGB", (40, 30), (200, 80, 40)).save(folder / "a.photo", form)

    return make


READERS: dict[str, Reader] = {
    "yelp": Reader(lambda folder: city(folder, users=3), _yelp, ("*.json",), 1),
    **{f"yelp_{kind}": Reader(_make_archive(kind), _archives, ("yelp.*",)) for kind in ("zip", "tar", "tar.gz", "tar.bz2")},
    "custom_json": Reader(_make_custom("jsonl"), _custom("jsonl"), ("*.jsonl",), 1),
    "custom_parquet": Reader(_make_custom("parquet"), _custom("parquet"), ("*.parquet",), 1),
    "literals": Reader(lambda folder: (folder / "a.literal").write_text(LITERAL), _literals, ("*",), 60),
    "captions": Reader(_make_captions, _captions, ("captions.*",), 2),
    "people": Reader(_make_people, _people, ("*",), 60),
    "benchmarks": Reader(write_benchmarks, _benchmarks, ("**/*",), 60),
    "answers": Reader(_make_answers, _answers, ("*",), 60),
    "labels": Reader(_make_labels, _labels, ("**/*",), 20),
    "run": Reader(_make_run, _run, ("*",), 1),
    "report": Reader(_make_report, _report, ("*",), 1),
    "schema": Reader(lambda folder: shutil.copy(conf_dir() / "profile" / "yelp.yaml", folder / "schema.yaml"), _schema, ("*",), 1),
    "yaml": Reader(_make_yaml, _yaml, ("*",), 4),
    "prepared": Reader(_make_prepared, _prepared, ("**/*",), 2),
    "model": Reader(_make_model, _model, ("*.json", "text/*", "model.safetensors"), 1),
    "checkpoint": Reader(_make_checkpoint, lambda folder: damage(folder / "last.ckpt"), ("*",)),
    **{f"photo_{form}": Reader(_make_photo(form), _photo, ("*",)) for form in FORMATS if form != "MPO"},
}  # fmt: skip
