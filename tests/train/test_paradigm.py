"""The default paradigm follows the data, and one that the data cannot serve is refused before they are prepared."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from datamodules.prepared import CAPTION_COLUMNS, save_parquet
from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.inputs.data import find_data, prepare_data
from mmprofile.profile.schema import Schema
from mmprofile.train.checks import check_photos
from mmprofile.train.paradigm import follow_data, is_chosen
from mmprofile.train.run import main
from tests.support.rawdata import jpeg, write_lines


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPROFILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MMPROFILE_USER_KEY", "9f2c 41d7 b8e0 635a of tests")


def own(folder: Path, photos: bool) -> list[str]:
    """The words for ten people with a review each."""
    rows = [{"user_id": f"u{n}", "text": "a warm soup", "stars": 1 + n % 5} for n in range(10)]
    if photos:
        (folder / "one.jpg").write_bytes(jpeg())
        rows[0]["photos"] = ["one.jpg"]
    path = folder / f"reviews-{photos}.jsonl"
    write_lines(path, rows)
    return ["data=custom", f"data.prepare.source.reviews={path}"]


def follow(*words: str) -> list[str]:
    return follow_data(load_config("train", list(words)), words)


def test_photos_without_captions_are_multi_until_they_are_captioned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same before and after the data are prepared, so the same command finds its run again."""
    words = own(tmp_path, photos=True)
    assert follow(*words) == ["paradigm=multi"]
    cfg = load_config("train", [*words, "paradigm=multi"])
    assert (cfg.name, cfg.paradigm.modality) == ("multi-tiny-custom-seed0", "multi")
    folder = prepare_data(cfg.data, Schema.from_config(cfg.profile))
    assert follow(*words) == ["paradigm=multi"]
    assert capsys.readouterr().out == "no captions: paradigm=multi\n" * 2
    save_parquet(folder / "captions.parquet", {name: [] for name in CAPTION_COLUMNS})
    assert follow(*words) == []
    assert capsys.readouterr().out == ""


def test_no_photos_are_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (own(tmp_path, photos=False), [*own(tmp_path, photos=True), "photos=none"], ["photos=none"]):
        assert follow(*words) == ["paradigm=text"]
        assert capsys.readouterr().out == "no photos: paradigm=text\n"
    words = own(tmp_path, photos=False)
    cfg = load_config("train", words)
    prepare_data(cfg.data, Schema.from_config(cfg.profile))
    assert follow(*words) == ["paradigm=text"]
    manifest = find_data(cfg.data, Schema.from_config(cfg.profile)).folder / "manifest.json"
    manifest.write_text(json.dumps({}))  # of a preparation of one's own, say: nothing is known, so it is not refused
    assert find_data(cfg.data, Schema.from_config(cfg.profile)).photos


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        (["data=custom"], False),
        (["paradigm=multi"], True),
        (["paradigm.schedule=sampled"], False),
        (["experiment=smoke"], False),
        (["experiment=paper"], True),
        (["experiment=[smoke,paper]"], True),
        (["experiment=null"], False),
    ],
)
def test_what_chooses_a_paradigm(words: list[str], chosen: bool) -> None:
    assert is_chosen(words) == chosen


def test_the_demo_city_is_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert follow("experiment=smoke") == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("paradigm", ["basic", "multi", "uni", "both"])
def test_what_reads_photos_is_refused_where_there_are_none(paradigm: str, tmp_path: Path) -> None:
    for words in (own(tmp_path, photos=False), ["photos=none"]):
        cfg = load_config("train", [*words, f"paradigm={paradigm}"])
        photos = find_data(cfg.data, Schema.from_config(cfg.profile)).photos
        with pytest.raises(UserError, match=rf"^paradigm={paradigm} reads .*photos, and data=.* choose paradigm=text"):
            check_photos(cfg, photos)
        check_photos(load_config("train", [*words, "paradigm=text"]), photos)
        check_photos(load_config("train", [*words, f"paradigm={paradigm}", "model=majority"]), photos)


def test_the_refusal_comes_before_the_preparation(tmp_path: Path) -> None:
    """Unless only the preparation shows that no review with a photo is kept."""
    words = own(tmp_path, photos=False)
    with pytest.raises(UserError, match="choose paradigm=text, or prepare data with photos"):
        main(load_config("train", [*words, "paradigm=multi", f"out={tmp_path}"]))
    assert not (tmp_path / "cache" / "prepared").exists()
    words = own(tmp_path, photos=True)
    rows = [json.loads(line) for line in (tmp_path / "reviews-True.jsonl").read_text().splitlines()]
    write_lines(tmp_path / "reviews-True.jsonl", [{**rows[0], "text": "too long " * 200}, *rows[1:]])
    assert follow(*words) == ["paradigm=multi"]
    with pytest.raises(UserError, match="paradigm=multi reads photos, and data=custom has no photos here"):
        main(load_config("train", [*words, "paradigm=multi", f"out={tmp_path}"]))
    assert follow(*words) == ["paradigm=text"]


def test_each_run_of_a_multirun_follows_its_data(tmp_path: Path) -> None:
    (tmp_path / "stars.yaml").write_text(
        "{name: s, attributes: [{name: Stars, values: [1, 2, 3, 4, 5], rule: "
        "{source: review.stars, aggregation: mean_round_half_up}}]}"
    )
    words = [*own(tmp_path, photos=True), "profile=stars.yaml", "model=majority", "photos=drop,none", "-m"]
    command = [sys.executable, "-m", "mmprofile.train", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("no ")] == [
        "no captions: paradigm=multi", "no photos: paradigm=text",
    ]  # fmt: skip
    for paradigm in ("multi", "text"):
        run = tmp_path / "outputs" / f"{paradigm}-majority-custom-seed0"
        assert OmegaConf.load(run / "config.yaml").paradigm.name == paradigm
        assert (run / "metrics.json").is_file()


@pytest.mark.parametrize("experiment", ["smoke", "paper"])
@pytest.mark.parametrize(
    "words",
    [
        ["data=demo"],
        ["data=custom", "data.prepare.source.reviews=r.jsonl"],
        ["data=yelp", "data.prepare.source.path=y"],
    ],
)
def test_each_experiment_goes_with_all_data(experiment: str, words: list[str]) -> None:
    """Composing is not enough: a source refuses keys of another one when it is prepared."""
    cfg = load_config("train", [f"experiment={experiment}", *words])
    assert set(cfg.data.prepare.source) == set(load_config("train", words).data.prepare.source)
