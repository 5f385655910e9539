"""A person who went through every command is forgotten: afterwards no byte of them is left."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from datamodules.captions import Captions
from datamodules.prepared import open_prepared
from datamodules.pseudonyms import Pseudonyms
from mmprofile.config.compose import load_config
from mmprofile.erasing import Change
from mmprofile.errors import UserError
from mmprofile.forget.run import main
from mmprofile.report.run import main as report
from tests.forget.conftest import PEOPLE, World, everything, person


def forget(world: World, user: str, *more: str) -> None:
    words = [f"user={user}", f"out={world.folder / 'outputs'}", f"files=[{world.folder / 'elsewhere'}]"]
    main(load_config("forget", [*words, *more]))


def split_of(world: World, hashed: str) -> str:
    datasets = open_prepared(world.prepared).datasets
    return next(name for name, rows in datasets.items() if hashed in [*rows["user_id"]])


def someone(world: World, split: str) -> int:
    """Return the first person of a split."""
    names = Pseudonyms.of("custom")
    return next(n for n in range(PEOPLE) if split_of(world, names.user(str(person(n)["user_id"]))) == split)


def traces(world: World, number: int) -> dict[str, bytes]:
    """Return what only this person has: the ids, words of the texts, and the photo."""
    names, prepared, row = Pseudonyms.of("custom"), open_prepared(world.prepared), person(number)
    hashed = names.user(str(row["user_id"]))
    [stored] = [row for rows in prepared.datasets.values() for row in rows if row["user_id"] == hashed]
    photo = names.photo(row["photos"][0])  # type: ignore[index]
    kept = prepared.photos[prepared.photo_index[photo]]
    return {
        "raw id": str(row["user_id"]).encode(),
        "hashed id": hashed.encode(),
        "words": str(row["text"]).rsplit(" ", 1)[1].encode(),
        "photo": bytes(kept["jpeg"])[-150:-20],
        "photo id": photo.encode(),
        "sha256": kept["sha256"].encode(),
        "raw photo": (world.folder / "raw" / str(row["photos"][0])).read_bytes()[-150:-20],  # type: ignore[index]
        **{f"review {i}": review["review_id"].encode() for i, review in enumerate(stored["reviews"])},
    }


def places(world: World, found: dict[str, bytes]) -> dict[str, set[str]]:
    """Return trace -> the files that have it."""
    files = everything([world.folder / name for name in ("cache", "outputs", "elsewhere")])
    return {
        name: {
            path.name
            for path, content in files.items()
            if trace in content.replace(str(path).encode(), path.name.encode())
        }
        for name, trace in found.items()
    }


@pytest.mark.parametrize("by", ["raw", "hashed"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_no_byte_is_left(copy: World, split: str, by: str, capsys: pytest.CaptureFixture[str]) -> None:
    number = someone(copy, split)
    found = traces(copy, number)
    before = places(copy, found)
    assert all(before[name] for name in found if name != "raw id"), before
    assert {"answers.jsonl", "labels.parquet", "text_only.parquet"} <= before["hashed id"]
    assert before["sha256"] >= {"captions.parquet"}
    if split == "train":
        assert "predictions-train.jsonl" in before["hashed id"]
    if split == "test":
        assert {"predictions.jsonl", "report.html"} <= before["hashed id"]
    given = found["raw id"].decode() if by == "raw" else found["hashed id"].decode()
    forget(copy, given)
    after = places(copy, found)
    assert {name: files for name, files in after.items() if files} == {}
    printed = capsys.readouterr().out
    assert ("its model was trained on this person" in printed) == (split == "train")
    assert ("its classifier may have been trained on this person" in printed) == (split == "train")
    assert "remove the person from your own files, too" in printed
    prepared = open_prepared(copy.prepared)
    assert sum(map(len, prepared.datasets.values())) == PEOPLE - 1 == sum(prepared.manifest["splits"].values())
    assert len(prepared.photos) == PEOPLE - 1 == prepared.manifest["photos"]["stored"]
    assert (
        sum(n for counts in prepared.manifest["labels"]["balance"]["Age"].values() for n in counts.values())
        == PEOPLE - 1
    )
    assert not Captions(copy.prepared).verify().problems
    report(load_config("report", [f"run={copy.run}", f"folder={copy.prepared}"]))
    with pytest.raises(UserError, match="there is nobody with this id in the prepared data, nor in"):
        forget(copy, given)


def test_a_dry_run_changes_nothing_and_tells_the_same(copy: World, capsys: pytest.CaptureFixture[str]) -> None:
    number = someone(copy, "train")
    before = everything([copy.folder])
    forget(copy, str(person(number)["user_id"]), "dry_run=true")
    assert everything([copy.folder]) == before
    said = capsys.readouterr().out
    forget(copy, str(person(number)["user_id"]))
    done = capsys.readouterr().out
    assert said.replace("would remove", "removed").replace("nothing was changed (dry_run=true)\n", "") == done


class Killed(BaseException):
    """Not an error that a command could catch."""


def test_a_killed_command_is_run_again(copy: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after each change in turn, the same command ends where an undisturbed one does."""
    number = someone(copy, "train")
    found, kills = traces(copy, number), 0
    apply = Change.apply

    def killed_after_one(change: Change) -> None:
        if done:
            raise Killed
        done.append(change)
        apply(change)

    monkeypatch.setattr(Change, "apply", killed_after_one)
    done: list[Change] = []
    for _ in range(20):
        done.clear()
        try:
            forget(copy, str(person(number)["user_id"]))
        except Killed:
            kills += 1
        else:
            break
    assert kills == 9
    assert {name: files for name, files in places(copy, found).items() if files} == {}
    prepared = open_prepared(copy.prepared)
    assert sum(prepared.manifest["splits"].values()) == PEOPLE - 1 == len(prepared.photos)
    assert prepared.manifest["forgotten"] == 1
    assert not Captions(copy.prepared).verify().problems


def busy(script: str, *words: Path) -> subprocess.Popen[str]:
    """Start a process that does something and then waits."""
    code = f"import sys\nfrom pathlib import Path\n{script}\nprint('ready', flush=True)\nsys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


READS = "from datamodules.prepared import open_prepared\nheld = open_prepared(sys.argv[1])"
TRAINS = "from mmprofile.files import lock_of\nheld = lock_of(Path(sys.argv[1]))\nheld.acquire()"
WRITES = "held = open(sys.argv[1], 'a')"


def test_a_command_at_work_is_not_disturbed(copy: World) -> None:
    user, before = (
        str(person(someone(copy, "train"))["user_id"]),
        everything([copy.folder / "cache", copy.folder / "outputs"]),
    )
    profiles = copy.folder / "elsewhere" / "profiles.jsonl"
    for script, path, said in (
        (
            READS,
            copy.prepared,
            f"{copy.prepared} is in use: forget the person when the command that reads it has ended",
        ),
        (TRAINS, copy.run, f"another process is at work on {copy.run}: forget the person when it has ended"),
        (WRITES, profiles, f"another process has {profiles} open: forget the person when it has ended"),
    ):
        process = busy(script, path)
        with pytest.raises(UserError) as refused:
            forget(copy, user)
        assert str(refused.value) == said
        process.communicate("")
    after = everything([copy.folder / "cache", copy.folder / "outputs"])
    assert {path for path in before if after.get(path) != before[path] and path.name != "lock"} == set()
    forget(copy, user)


def test_files_that_are_no_json_are_searched_all_the_same(copy: World) -> None:
    """Nested too deep, or torn: the bytes decide."""
    user = str(person(someone(copy, "train"))["user_id"])
    deep = "[" * 20_000
    his = f'{deep}"{user}"'
    given = {"deep.json": deep, "his.json": his, "deep.jsonl": f"{deep}\n", "his.jsonl": f"{his}\n"}
    for name, content in given.items():
        (copy.run / name).write_text(content)
    forget(copy, user)
    assert [name for name in given if (copy.run / name).exists()] == ["deep.json", "deep.jsonl", "his.jsonl"]
    assert (copy.run / "deep.jsonl").read_text() == f"{deep}\n"
    assert user not in (copy.run / "his.jsonl").read_text()


@pytest.mark.parametrize("name", ["data-00000-of-00001.arrow", "labels.parquet"])
def test_a_table_that_cannot_be_read_is_not_passed_over(copy: World, name: str) -> None:
    """Whether the person is in it cannot be told: one line names it, and nothing is changed."""
    user = str(person(someone(copy, "train"))["user_id"])
    path = next(path for path in sorted(copy.folder.rglob(name)) if "train" in path.parts or path.suffix == ".parquet")
    path.write_bytes(path.read_bytes()[:-200])
    before = {path: path.read_bytes() for path in copy.folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"cannot be read .*: remove it, and forget the person again"):
        forget(copy, user)
    assert {path: path.read_bytes() for path in before} == before


def test_others_stay_as_they_were(copy: World) -> None:
    """The rows of all others, byte for byte, and a table that the library still opens."""
    number = someone(copy, "train")
    hashed = Pseudonyms.of("custom").user(str(person(number)["user_id"]))
    rows = {
        name: [row for row in rows if row["user_id"] != hashed]
        for name, rows in open_prepared(copy.prepared).datasets.items()
    }
    lines = [line for line in (copy.run / "predictions-train.jsonl").read_text().splitlines() if hashed not in line]
    held = open_prepared(copy.prepared).datasets["train"]  # memory-mapped, as by whoever is slow to close it
    forget(copy, hashed)
    assert {name: list(rows) for name, rows in open_prepared(copy.prepared).datasets.items()} == rows
    assert (copy.run / "predictions-train.jsonl").read_text().splitlines() == lines
    assert hashed in [*held["user_id"]]  # who had the old file open reads on in it
    assert json.loads((copy.prepared / "manifest.json").read_text())["forgotten"] == 1


def test_the_command_that_trains_again_is_the_runs_own(copy: World, capsys: pytest.CaptureFixture[str]) -> None:
    forget(copy, str(person(someone(copy, "train"))["user_id"]), "dry_run=true")
    [command] = re.findall(r"train again: (python -m mmprofile\.train .*)", capsys.readouterr().out)
    words = shlex.split(command)[1:]
    shown = subprocess.run([sys.executable, *words, "--cfg", "job"], capture_output=True, text=True, check=True).stdout
    again, cfg = yaml.safe_load(shown), yaml.safe_load((copy.run / "config.yaml").read_text())
    assert again == cfg | {"name": "shops-again"}
