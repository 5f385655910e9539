"""Sweeps as a user runs them: processes of their own, on a small city."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mmprofile.errors import UserError
from mmprofile.sweep.run import main, names, read_words
from tests.support.sweeps import MakeRun, rows, sweep


@pytest.fixture(scope="module")
def swept(folder: Path) -> tuple[Path, str]:
    """A table of which one row does not compose and one fails; where it is, and what was printed."""
    done = sweep(folder, "table=small.yaml", "threads=1", "out=o", code=1)
    return folder / "o", done.stdout


def test_rows_that_fail_say_why_and_the_others_finish(swept: tuple[Path, str]) -> None:
    out, printed = swept
    found = rows(out)
    assert list(found) == ["majority", "tfidf_lr", "typo", "gone", "gpt", "ceiling"]
    assert found["typo"]["error"].startswith("model=tfidf_rl: there is no such choice (did you mean tfidf_lr?)")
    assert "gone.jsonl" in found["gone"]["error"]
    assert found["gpt"]["error"] == "left out; to run it give rows.gpt=[model.options.url=http://...]"
    assert all(found[name]["macro_f1"] is None for name in ("typo", "gone", "gpt"))
    for name in ("majority", "tfidf_lr"):
        (run,) = found[name]["runs"]
        metrics = json.loads((out.parent / run / "metrics.json").read_text())
        assert found[name]["macro_f1"] == pytest.approx(metrics["test"]["macro_f1"])
        assert found[name]["interval"][0] <= found[name]["macro_f1"] <= found[name]["interval"][1]
        assert found[name]["minutes"] > 0
        assert found[name]["error"] is None
    assert 0 < found["tfidf_lr"]["p_vs_reference"] <= 1
    assert found["ceiling"]["macro_f1"] == metrics["baselines"]["ceiling"]["macro_f1"]
    assert "3 runs: 0 done, 3 to do" in printed
    assert [line.split()[1] for line in printed.splitlines() if line.endswith("...")] == ["[1/3]", "[2/3]", "[3/3]"]
    assert printed.count("; 2 left, about ") == 1
    assert f"{found['tfidf_lr']['macro_f1']:.2f}" in printed
    assert Image.open(out / "small" / "table.png").size[0] > 600
    for name in ("table.md", "table.csv", "table.tex"):
        assert "tfidf" in (out / "small" / name).read_text()


def test_the_same_command_again_does_what_is_not_done(
    swept: tuple[Path, str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = swept
    before = rows(out)
    done = sweep(
        folder, "table=small.yaml", "data=demo", "model.size=tiny", "out=o", code=1
    )  # the same runs in other words
    assert "3 runs: 2 done, 1 to do" in done.stdout
    assert rows(out) == before
    (run,) = before["gone"]["runs"]
    log = (folder / run / "log.txt").read_text()
    assert log.count("error: ") == 2
    monkeypatch.chdir(folder)
    assert main(["table=small.yaml", "only=[majority,tfidf_lr,gpt]", "out=o", "experiment=smoke"]) == 0
    assert "2 runs: 2 done, 0 to do" in capsys.readouterr().out
    assert list(rows(out)) == ["majority", "tfidf_lr", "gpt"]


def test_free_sweeps_are_rendered(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", "paradigm=text,uni", "model=flan_t5", "experiment=smoke", "trainer.max_epochs=1", "out=free"]
    train = [sys.executable, "-m", "mmprofile.train", *words, "trainer.progress=false"]
    done = subprocess.run(train, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.chdir(folder)
    assert main(["runs=free/*", "reference=text", "resamples=200", "out=o"]) == 0
    found = json.loads((folder / "o" / "runs-table" / "table.json").read_text())["rows"]
    assert [row["system"] for row in found] == ["majority", "tfidf_lr", "text", "uni", "ceiling"]
    assert all(row["macro_f1"] is not None for row in found)
    assert "against text" in capsys.readouterr().out


def test_runs_that_are_there_are_rendered(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (0, 1):
        make_run(f"both{seed}", 0.9, seed)
        make_run(f"text{seed}", 0.2, seed, "text")
    monkeypatch.chdir(tmp_path)
    assert main(["runs=made/*", "reference=text", "resamples=200", "out=o"]) == 0
    found = {
        row["system"]: row for row in json.loads((tmp_path / "o" / "runs-table" / "table.json").read_text())["rows"]
    }
    assert list(found) == ["majority", "tfidf_lr", "both", "text", "ceiling"]
    assert len(found["both"]["seeds"]) == 2
    assert found["both"]["reference"] == "text"
    assert found["both"]["p_vs_reference"] < 0.05
    assert found["majority"]["left_out"]
    assert f"{found['both']['macro_f1']:.2f}" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"'basic' is no row; rows: .*both, text"):
        main(["runs=made/*", "reference=basic", "out=o"])
    with pytest.raises(UserError, match="gone: no finished run there"):
        main(["runs=gone", "out=o"])


def test_words_are_sorted() -> None:
    words = read_words(
        ["table=[2,3]", "data=demo", "+trainer.max_epochs=2", "hydra/launcher=joblib", "rows.gpt=[a.b=c]"]
    )
    assert names(words.cfg.table) == ["2", "3"]
    assert words.common == ["data=demo", "+trainer.max_epochs=2"]
    assert words.launcher == ["hydra/launcher=joblib"]
    assert words.cfg.rows == {"gpt": ["a.b=c"]}
    assert names("2,own/3.yaml") == ["2", "own/3.yaml"]
    assert names(4) == ["4"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["table=9"], "table=9: there is no such table; choices: 2, 3, "),
        (["tabel=3"], "unknown config key 'tabel' (did you mean table?)"),
        (["table=3", "seeds=0"], "seeds=0: give 1 or more"),
        (["table=3", "seeds=many"], "config key 'seeds'"),
        (["table=["], "the command line cannot be read: table=["),
        (["-m", "table=3"], "the command line cannot be read: -m"),
        (["table=3", "runs=x"], "runs= and table= do not go together"),
        ([], "nothing to do"),
        (["table=3", "seed=1"], "give seeds=..."),
        (["table=3", "only=[our]"], "only: 'our' is no row"),
        (["table=3", "rows.bart=[seed=1]"], "rows: 'bart' is no row"),
        (["table=3", "paradigm=text"], "sets paradigm itself"),
        (["table=3", "inputs.reviws=2"], "unknown config key 'inputs.reviws' (did you mean inputs.reviews?)"),
        (["table=3", "hydra/launcher=nosuch"], "pip install 'mmprofile[sweep]'"),
        (["table=3", "out=s3://bucket/sweep"], "a sweep locks its runs, which no object store can"),
        (["search=nosuch"], "search=nosuch: there is no such search; choices: lr"),
        (["runs=nowhere/*"], "no finished run there"),
    ],
)
def test_mistakes_are_one_line_before_anything_runs(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        main(words)
    assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []
