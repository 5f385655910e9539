"""People who go through every command once; each has an id, texts and a photo like nobody else's."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from datamodules.prepared import open_prepared
from mmprofile.apply.run import main as apply
from mmprofile.caption.run import main as caption
from mmprofile.config.compose import load_config
from mmprofile.evaluate.run import main as evaluate
from mmprofile.inputs.data import prepare_data
from mmprofile.inspection.run import main as inspect
from mmprofile.llm.attach.run import main as attach
from mmprofile.llm.teacher.run import main as teach
from mmprofile.llm.vote.run import main as vote
from mmprofile.predict.fit import People
from mmprofile.predict.run import main as predict
from mmprofile.profile.schema import Schema
from mmprofile.train.run import main as train
from tests.support.rawdata import write_lines

KEY = "9f2c 41d7 b8e0 635a of tests"
PEOPLE = 30
PURPOSE = "purpose=a test of forgetting"
SCHEMA = """
name: shops
attributes:
  - {name: Age, values: [young, old], sensitive: true}
  - {name: Travels By, values: [bicycle, car]}
"""


class World(NamedTuple):
    """A folder with ``raw/``, ``cache/``, ``outputs/`` and ``elsewhere/``."""

    folder: Path

    @property
    def words(self) -> list[str]:
        raw = self.folder / "raw"
        source = [f"data.prepare.source.{name}={raw / name}.jsonl" for name in ("reviews", "labels")]
        return ["data=custom", *source]

    @property
    def prepared(self) -> Path:
        [folder] = (self.folder / "cache" / "prepared").iterdir()
        return folder

    @property
    def run(self) -> Path:
        return self.folder / "outputs" / "shops"


def person(number: int) -> dict[str, object]:
    travels, age = ("my bicycle", "my car")[number % 2], ("a student", "retired")[number // 2 % 2]
    text = f"I came with {travels} and I am {age}, said the voice of {number:02d}-zebra-{number * 7919 % 997}"
    return {"user_id": f"person-{number:02d}-quagga", "text": text, "photos": [f"person-{number:02d}-quagga/a.jpg"]}


def write_raw(raw: Path) -> None:
    rng = np.random.default_rng(0)
    for row in map(person, range(PEOPLE)):
        photo = raw / str(row["photos"][0])  # type: ignore[index]
        photo.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(photo, quality=90)
    texts = [(n, person(n), again) for n in range(PEOPLE) for again in ("", ", again")]
    rows = [row | {"text": f"{row['text']}{again}", "stars": n % 5 + 1} for n, row, again in texts]
    write_lines(raw / "reviews.jsonl", rows)
    labels = [
        {"user_id": person(n)["user_id"], "Age": ("young", "old")[n // 2 % 2], "Travels By": ("bicycle", "car")[n % 2]}
        for n in range(PEOPLE)
    ]
    write_lines(raw / "labels.jsonl", labels)
    captions = [
        {"path": person(n)["photos"][0], "caption": f"noise number {n} of {person(n)['user_id']}"}
        for n in range(PEOPLE)
    ]  # type: ignore[index]
    write_lines(raw / "captions.jsonl", captions)
    (raw / "shops.yaml").write_text(SCHEMA)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Prepared, captioned, labelled, trained, scored, inspected, applied and predicted."""
    world = World(tmp_path_factory.mktemp("world"))
    folder, raw, out = world.folder, world.folder / "raw", world.folder / "outputs"
    write_raw(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMPROFILE_CACHE", str(folder / "cache"))
        patch.setenv("MMPROFILE_USER_KEY", KEY)
        profile = f"profile={raw / 'shops.yaml'}"
        caption(load_config("caption", [*world.words, profile, "backend=file", f"path={raw / 'captions.jsonl'}"]))
        words = [*world.words, profile, "paradigm=multi", f"out={out}", "name=shops", PURPOSE, "trainer.progress=false"]
        train(
            load_config(
                "train",
                [*words, "inputs.reviews=1", "trainer.max_epochs=1", "evaluation.resamples=10", "probe.users=0"],
            )
        )
        evaluate(load_config("evaluate", [f"run={world.run}", "split=train"]))
        users = [row["user_id"] for row in open_prepared(world.prepared).datasets["train"]][:3]
        inspect(load_config("inspection", [f"run={world.run}", "split=train", f"users=[{','.join(users)}]"]))
        write_lines(folder / "users.jsonl", [person(n) | {"reviews": [person(n)["text"]]} for n in range(4)])
        (folder / "elsewhere").mkdir()
        words = [
            f"run={world.run}",
            f"out={out}",
            "name=feelings",
            "classifier=t5",
            "classifier.text=mmprofile:tiny/text",
        ]
        apply(load_config("apply", [*words, PURPOSE, "trainer.max_epochs=1", "trainer.progress=false", "resamples=10"]))
        words = [f"input={folder / 'users.jsonl'}", f"output={folder / 'elsewhere' / 'profiles.jsonl'}", PURPOSE]
        predict(load_config("predict", [f"run={world.run}", f"photo_root={raw}", *words]))
        observed = Schema.from_yaml(raw / "shops.yaml")
        cfg = load_config("llm", [*world.words, f"out={out / 'llm'}", PURPOSE, "samples=2", "progress=false"])
        cfg.observed = observed.to_dict()
        assert prepare_data(cfg.data, observed) == world.prepared
        for step in (teach, vote, attach):
            step(cfg)
        people = People(out / "people", observed)
        for n in range(PEOPLE):
            content = (raw / str(person(n)["photos"][0])).read_bytes()  # type: ignore[index]
            people.add(person(n) | {"photos": [content]}, n)
        people.write()
        yield world


@pytest.fixture
def copy(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The world, for one test to change."""
    for name in ("raw", "cache", "outputs", "elsewhere"):
        shutil.copytree(world.folder / name, tmp_path / name)
    monkeypatch.setenv("MMPROFILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MMPROFILE_USER_KEY", KEY)
    return World(tmp_path)


def everything(folders: list[Path]) -> dict[Path, bytes]:
    """Every byte of every file, and what Arrow, Parquet and npz files hold when they are decoded."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = {}
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes() + str(path).encode()
        if path.suffix == ".arrow":
            content += json.dumps(pa.ipc.open_stream(path).read_all().to_pylist(), default=repr).encode()
        elif path.suffix == ".parquet":
            content += json.dumps(pq.read_table(path).to_pylist(), default=repr).encode()
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                content += json.dumps(
                    {name: arrays[name].tolist() for name in arrays if arrays[name].dtype.kind == "U"}
                ).encode()
        found[path] = content
    return found
