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
