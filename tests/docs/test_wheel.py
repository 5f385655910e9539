"""The wheel, in an environment that holds nothing of this project: configs, assets and commands are all in it."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_wheel_trains_from_another_folder(tmp_path: Path) -> None:
    source = tmp_path / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in tracked.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w"]
    subprocess.run([*build, str(tmp_path / "dist"), str(source)], check=True, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"mmprofile/conf/train.yaml", "mmprofile/conf/experiment/paper.yaml", "mmprofile/py.typed"} <= set(names)
    parts = ("text", "vision", "bart", "llama", "glm4", "bert")
    assert {f"mmprofile/assets/tiny/{part}/model.safetensors" for part in parts} <= set(names)
    assert wheel.stat().st_size < 20e6
    assert not any(name.startswith(("tests/", "scripts/")) for name in names)

    # An environment of its own, which sees the installed libraries but not this checkout: a path in a .pth file is
    # added without its own .pth files, so an editable install is not seen.
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    zipfile.ZipFile(wheel).extractall(site)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    where = subprocess.run(
        [python, "-c", "import mmprofile, datamodules; print(mmprofile.__file__, datamodules.__file__)"],
        capture_output=True, text=True, check=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert where.stdout.count(str(site)) == 2
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [python, "-m", "mmprofile.train", "experiment=smoke", "trainer.max_epochs=1", "name=wheel"],
        capture_output=True, text=True, cwd=elsewhere, env=environment, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (elsewhere / "outputs" / "wheel" / "metrics.json").is_file()
