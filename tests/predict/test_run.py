"""The command ``predict``: any input, bad rows listed, a killed command goes on, from a run or from its model."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.predict import run as predict
from mmprofile.predict.run import main
from tests.support.rawdata import write_lines

USERS: list[dict[str, Any]] = [
    {"user_id": f"u{i}", "reviews": [f"a fine place {i}", "nice pizza"], "photos": ["1.jpg"]} for i in range(10)
]


@pytest.fixture
def users(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 40), "red").save(tmp_path / "1.jpg")
    write_lines(tmp_path / "users.jsonl", USERS)
    return tmp_path / "users.jsonl"


def run(model_folder: Path, source: Path | str, output: Path | None = None, *words: str) -> None:
    chosen = [] if output is None else [f"output={output}"]
    main(load_config("predict", [f"run={model_folder}", f"input={source}", "batch_size=4", *chosen, *words]))


def ids(path: Path) -> list[str]:
    return [json.loads(line)["user_id"] for line in path.read_text().splitlines()]


def test_bad_rows_are_left_out_and_listed(
    model_folder: Path, users: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = users.read_text().splitlines()
    users.write_text("\n".join([*lines[:3], "{broken", *lines[3:], lines[0]]))
    run(model_folder, users, tmp_path / "out.jsonl")
    assert ids(tmp_path / "out.jsonl") == [user["user_id"] for user in USERS]
    listed = [json.loads(line) for line in (tmp_path / "out.errors.jsonl").read_text().splitlines()]
    assert [(row["row"], row["reason"].split(" (")[0]) for row in listed] == [
        (4, "no JSON"),
        (12, "user_id 'u0' was there before"),
    ]
    said = capsys.readouterr()
    assert f"10 profiles in {tmp_path / 'out.jsonl'}" in said.out
    assert f"rows left out, which are no users: 2, listed with reasons in {tmp_path / 'out.errors.jsonl'}" in said.err

    run(model_folder, users)
    said = capsys.readouterr()
    assert said.out == (tmp_path / "out.jsonl").read_text()
    assert "left out: row 4: no JSON" in said.err


def test_a_killed_command_goes_on(
    model_folder: Path, users: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any row: the file is in the end what it is without the kill, and what was written is not computed again."""
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    run(model_folder, users, whole)
    assert not (tmp_path / "whole.errors.jsonl").exists()

    def killed(rows: Iterator[dict[str, Any]], done: int, after: int) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(rows):
            if number == after:
                raise KeyboardInterrupt
            yield row

    for after in range(len(USERS)):
        with monkeypatch.context() as patch:
            patch.setattr(predict, "_with_progress", lambda rows, done, ranks: killed(rows, done, after))  # noqa: B023
            with pytest.raises(KeyboardInterrupt):
                run(model_folder, users, out)
        assert not out.exists()
        kept = len((tmp_path / "out.jsonl.partial").read_bytes().splitlines())
        with (tmp_path / "out.jsonl.partial").open("ab") as file:
            file.write(b'{"user_id": "cut of')
        computed: list[dict[str, Any]] = []
        with monkeypatch.context() as patch:
            patch.setattr(predict, "_with_progress", lambda rows, *_: (computed.append(row) or row for row in rows))  # noqa: B023
            run(model_folder, users, out)
        assert out.read_bytes() == whole.read_bytes()
        assert len(computed) == len(USERS) - kept // 4 * 4
        assert not list(tmp_path.glob("out.jsonl.*"))
        out.unlink()


def test_rows_of_another_input_are_not_continued(
    model_folder: Path, users: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"

    def killed(rows: Iterator[dict[str, Any]], *_: object) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(rows):
            if number == 5:
                raise KeyboardInterrupt
            yield row

    with monkeypatch.context() as patch:
        patch.setattr(predict, "_with_progress", killed)
        with pytest.raises(KeyboardInterrupt):
            run(model_folder, users, out)
    write_lines(users, [{**user, "user_id": user["user_id"] + "!"} for user in USERS])
    run(model_folder, users, out)
    assert ids(out) == [user["user_id"] + "!" for user in USERS]


def test_rows_with_other_photos_are_not_continued(
    model_folder: Path, users: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is what another input has left in the same place, or a file with a damaged line."""
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    (tmp_path / "empty").mkdir()
    run(model_folder, users, whole)

    def killed(rows: Iterator[dict[str, Any]], *_: object) -> Iterator[dict[str, Any]]:
        yield from (row for number, row in enumerate(rows) if number < 9 or kill())

    def kill() -> bool:
        raise KeyboardInterrupt

    def interrupted(source: Path | str, *words: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(predict, "_with_progress", killed)
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(users.read_bytes().replace(b'"u', b'"other'))))
            with pytest.raises(KeyboardInterrupt):
                run(model_folder, source, out, *words)

    interrupted(users, f"photo_root={tmp_path / 'empty'}")
    run(model_folder, users, out)
    assert out.read_bytes() == whole.read_bytes()
    interrupted(users)
    interrupted("-", f"photo_root={tmp_path}")
    run(model_folder, users, out)
    assert out.read_bytes() == whole.read_bytes()
    interrupted(users)
    partial = tmp_path / "out.jsonl.partial"
    partial.write_bytes(partial.read_bytes()[:700] + b"\0" * 50 + b"\n" + partial.read_bytes()[700:])
    run(model_folder, users, out)
    assert out.read_bytes() == whole.read_bytes()


def test_users_of_whom_nothing_can_be_read_are_counted(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(tmp_path / "users.jsonl", [{"photos": ["nowhere.jpg"]}, {"reviews": ["a"]}])
    run(model_folder, tmp_path / "users.jsonl", tmp_path / "new" / "out.jsonl")  # the folder is made
    assert "of 1 user the model could read nothing" in capsys.readouterr().err


def test_an_output_that_is_no_file(model_folder: Path, users: Path, tmp_path: Path) -> None:
    """A link leads to a file, which is written; a device is written to as it comes."""
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "target.jsonl")
    run(model_folder, users, tmp_path / "link.jsonl")
    assert (tmp_path / "link.jsonl").is_symlink()
    assert len(ids(tmp_path / "target.jsonl")) == len(USERS)
    run(model_folder, users, Path(os.devnull))
    assert Path(os.devnull).exists()
    assert not Path(os.devnull).is_file()


def test_standard_input_to_standard_output(
    model_folder: Path, users: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(users.parent)  # where photos are looked for
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(users.read_bytes())))
    run(model_folder, "-")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["user_id"] for row in rows] == [user["user_id"] for user in USERS]
    assert {row["used"]["photos"] for row in rows} == {1}


def test_a_reader_who_leaves_and_a_terminal_without_utf8(model_folder: Path, tmp_path: Path) -> None:
    """``| head -1``: no error is printed. JSON is UTF-8 wherever it goes."""
    write_lines(
        tmp_path / "users.jsonl", [{"user_id": f"李{i}", "reviews": ["好" * 500]} for i in range(400)]
    )  # more than a pipe holds
    with subprocess.Popen(
        [sys.executable, "-m", "mmprofile.predict", f"run={model_folder}", f"input={tmp_path / 'users.jsonl'}"],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline().decode())["user_id"] == "李0"
        process.stdout.close()
        assert process.wait(timeout=120) == 1
        assert process.stderr.read() == b""


def test_photos_lie_beside_the_input_or_in_photo_root(
    model_folder: Path, users: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deep").mkdir()
    source = tmp_path / "deep" / "users.jsonl"
    write_lines(source, [{"reviews": ["a"], "photos": [str(tmp_path / "1.jpg")]}])
    run(model_folder, source)
    said = capsys.readouterr()
    assert json.loads(said.out)["used"] == {
        "reviews": 1, "photos": 0, "captions": 0, "unusable_photos": {str(tmp_path / "1.jpg"): "outside"},
    }  # fmt: skip
    assert "photos left out: 1 outside" in said.err
    assert "photo_root=" in said.err
    run(model_folder, source, None, f"photo_root={tmp_path}")
    assert json.loads(capsys.readouterr().out)["used"]["photos"] == 1


def test_what_is_refused(model_folder: Path, users: Path, tmp_path: Path) -> None:
    for output, says in ((users, "writes the input, which would be lost"), (tmp_path, "this is a folder")):
        with pytest.raises(UserError, match=says):
            run(model_folder, users, output)
    users.rename(tmp_path / "out.errors.jsonl")
    with pytest.raises(UserError, match="writes the input, which would be lost"):
        run(model_folder, tmp_path / "out.errors.jsonl", tmp_path / "out.jsonl")
    (tmp_path / "out.errors.jsonl").rename(users)
    with pytest.raises(
        UserError, match=r"run=.*: no such folder; give a folder that mmprofile\.train wrote, or its model/"
    ):
        run(tmp_path / "nowhere", users)
    with pytest.raises(UserError, match=r"neither config\.yaml of a run nor config\.json of a model is there"):
        run(tmp_path, users)
    with pytest.raises(UserError, match="cannot be written"):
        run(model_folder, users, users / "out.jsonl")
    empty, bad = tmp_path / "empty.jsonl", tmp_path / "bad.jsonl"
    empty.touch()
    bad.write_text("{}\n[]\n")
    with pytest.raises(UserError, match="no rows in it"):
        run(model_folder, empty)
    with pytest.raises(UserError, match="none of its 2 rows is a user; the first: row 1: user 'row-1' has neither"):
        run(model_folder, bad)
    with pytest.raises(UserError, match="none of its 2 rows is a user"):
        run(model_folder, bad, tmp_path / "none.jsonl")
    assert [path.name for path in tmp_path.glob("none*")] == ["none.errors.jsonl"]
