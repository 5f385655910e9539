"""The page on scale: its commands compose, the recipe for a cluster runs, and the plan follows from its own figures."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmprofile.config.compose import load_config
from mmprofile.config.words import translate
from tests.support.extras import extra
from tests.support.preparing import digests
from tests.support.rawdata import city

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
BLOCKS = [block.replace("\\\n", " ") for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)]
COMMANDS = [shlex.split(line) for block in BLOCKS for line in block.splitlines() if line.strip()]
SUBMIT = [command for command in COMMANDS if command[0] == "spark-submit"]


def parts(command: list[str]) -> tuple[dict[str, str], dict[str, str], Path, list[str]]:
    """Return the options, the settings, the script and the script's words of a spark-submit."""
    options, settings, words = {}, {}, command[1:]
    while words[0].startswith("--"):
        name, value, *words = words
        if name == "--conf":
            key, equals, setting = value.partition("=")
            assert equals
            settings[key] = setting
        else:
            options[name] = value
    return options, settings, ROOT / words[0], words[1:]


@pytest.mark.fast
def test_commands_compose() -> None:
    checked = []
    for command in COMMANDS:
        if command[:2] == ["python", "-m"] and command[2] != "mmprofile.sweep":
            name = command[2].removeprefix("mmprofile.")
            load_config(name, translate(name, command[3:]))
            checked.append(name)
    assert set(checked) == {"prepare", "predict", "caption", "train"}


@pytest.mark.fast
def test_the_recipe_composes() -> None:
    [command] = SUBMIT
    options, settings, script, words = parts(command)
    assert options.keys() == {
        "--master", "--deploy-mode", "--num-executors", "--executor-cores", "--executor-memory", "--driver-memory"
    }  # fmt: skip
    assert {"spark.pyspark.python", "spark.sql.shuffle.partitions"} == settings.keys()
    assert script.is_file()
    cfg = load_config("prepare", translate("prepare", words))
    assert cfg.data.prepare.engine == "spark"


@pytest.mark.parametrize("command", [pytest.param(command, marks=extra("spark", "pyspark")) for command in SUBMIT])
def test_the_recipe_runs(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one machine in place of the cluster."""
    monkeypatch.setenv("MMPROFILE_USER_KEY", "a key for tests, of some length, 0123456789")
    raw = city(tmp_path / "raw")
    options, settings, script, words = parts(command)
    options |= {"--master": "local[2]", "--driver-memory": "1g"}
    settings |= {"spark.pyspark.python": sys.executable, "spark.sql.shuffle.partitions": "4"}
    small = ["selection.min_reviews=4", "selection.max_words=30", "split.train=4", "split.validation=1", "split.test=1"]
    words = [
        word.replace("/shared/prepared/yelp", str(tmp_path / "spark")).replace("/shared/yelp", str(raw))
        for word in words
    ]
    words += [f"data.prepare.{word}" for word in small]
    submit = [
        str(shutil.which("spark-submit") or Path(sys.executable).parent / "spark-submit"),
        *(part for option in options.items() for part in option),
        *(part for name, value in settings.items() for part in ("--conf", f"{name}={value}")),
    ]
    subprocess.run([*submit, str(script), *words], check=True, cwd=ROOT)
    words = [
        word.replace("engine=spark", "engine=duckdb").replace(str(tmp_path / "spark"), str(tmp_path / "duckdb"))
        for word in words
    ]
    subprocess.run([sys.executable, "-m", "mmprofile.prepare", *words], check=True, cwd=ROOT)
    one, other = digests(tmp_path / "duckdb"), digests(tmp_path / "spark")
    assert {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)} == {"manifest.json"}


def row(name: str) -> list[float]:
    """The first number of each cell of a row of the plan, behind its name."""
    [line] = re.findall(rf"^\| {re.escape(name)} \|(.*)\|$", PAGE.split("## A plan")[1], re.MULTILINE)
    return [float(re.findall(r"[\d,.]+", cell)[0].replace(",", "")) for cell in line.split("|")]


def said(pattern: str) -> float:
    return float(re.findall(pattern, PAGE)[0].replace(",", ""))


@pytest.mark.fast
def test_the_plan_follows_from_the_figures() -> None:
    core, gpu, gigabyte = (
        said(r"USD ([\d.]+) an hour for a core"),
        said(r"USD ([\d.]+) for a GPU"),
        said(r"USD ([\d.]+) a GB"),
    )
    reviews, photos, people = row("reviews"), row("photos"), row("people kept (the paper: 14,821)")
    assert [photos[0] * times for times in (1, 10, 1000)] == photos
    rate, captioned = (
        said(r"and ([\d]+) photos of 600 x 400 pixels a second"),
        said(r"captions ([\d]+) photos a second"),
    )
    file, stored = said(r"takes ([\d]+) kB as a file") / 1e6, 20.4e-6
    machines, gpus = [1, 1, 10], [1, 8, 64]
    million = 999_677 / said(r"\| 999,677 \| (\d+) ")  # reviews of a MB
    for n in range(3):
        raw = reviews[n] / million / 1000 + photos[n] * file
        assert row("raw files, GB")[n] == pytest.approx(raw, rel=0.06)
        assert row("prepared photos, GB")[n] == pytest.approx(photos[n] * stored, rel=0.03)
        assert row("tables, hours on 2 cores")[n] == pytest.approx(reviews[n] / 7e6 * 44 / 3600, rel=0.02)
        assert row("photos, hours on 16 cores")[n] == pytest.approx(photos[n] / rate / 16 / 3600, rel=0.05)
        assert row("predictions (tiny model), hours on 16 cores")[n] == pytest.approx(
            people[n] / (8 * 95) / 3600, rel=0.03
        )
        captions = photos[n] / captioned / 3600
        assert row("captions, GPU hours")[n] == pytest.approx(captions, rel=0.02)
        days = captions / gpus[n] / 24
        assert row("wall time with them, days, nearly all of it captions")[n] == pytest.approx(days, rel=0.1)
        assert row("GPUs, USD")[n] == pytest.approx(captions * gpu, rel=0.02)
        assert row("cores, USD")[n] == pytest.approx(machines[n] * 16 * core * days * 24, rel=0.03)
        assert row("storage of a month, USD")[n] == pytest.approx((raw + photos[n] * stored) * gigabyte, rel=0.06)
