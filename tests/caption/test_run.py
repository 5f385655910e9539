"""The caption command: imports, verification, and mistakes in its settings."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mmprofile.caption.run import main
from mmprofile.config.compose import load_config
from tests.support.captioning import run


def test_imported_and_verified(models: dict[str, Path], prepared: Path, tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("path,caption\nmoon.jpg,the moon\nghost.jpg,a ghost\ncoffee.jpg,a cup of coffee\n")
    printed = run(f"folder={prepared}", "backend=file", f"path={table}")
    assert (
        "3 rows; 2 captions of photos that had none; of no use: 1 of no photo here, 0 empty, 0 of a photo once more"
        in printed
    )
    assert '{"path": "ghost.jpg", "caption": "a ghost"}' in printed
    printed = run(f"folder={prepared}", "--verify", code=1)
    assert "2 of 13 photos have a caption\n  2 by file mine.csv\n  11 not captioned yet: " in printed
    printed = run(f"folder={prepared}", f"model={models['opt']}", "existing=keep")
    assert "2 of 13 photos are done, 11 to do" in printed
    assert "13 captions, 0 failed" in printed
    assert run(f"folder={prepared}", "--verify").endswith(
        "  11 by transformers " + models["opt"].name + "\n  2 by file mine.csv\n"
    )


def test_the_configuration_is_only_read(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.csv").write_text("path,caption\nmoon.jpg,the moon\n")
    cfg = load_config("caption", [f"folder={prepared}", "backend=file", f"path={tmp_path / 'mine.csv'}"])
    OmegaConf.set_readonly(cfg, True)
    main(cfg)
    assert "1 captions, 0 failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["model=/nowhere/blip2"], "model='/nowhere/blip2' cannot be loaded"),
        (["backend=blip"], "backend='blip' is not one of transformers, lavis, file"),
        (["dtype=half"], "dtype='half' is not one of auto, float32"),
        (["batch_size=0"], "batch_size=0: give 1 or more"),
        (["decoding.num_beams=0"], "decoding.num_beams=0: give 1 or more"),
        (["decoding.beams=3"], "unknown config key 'decoding.beams'"),
        (["path=captions.csv"], "backend=file and path=... go together"),
        (["existing=drop"], "existing='drop' is not one of refuse, keep, replace"),
        (["dtype=int8"], "dtype=int8 needs an NVIDIA GPU and bitsandbytes"),
    ],
)
def test_bad_settings_are_one_line(arguments: list[str], says: str, models: dict[str, Path], prepared: Path) -> None:
    printed = run(f"folder={prepared}", f"model={models['t5']}", *arguments, code=2)
    assert printed.startswith(f"error: {says}")
    assert printed.count("\n") == 1
