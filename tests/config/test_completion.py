"""The completion script does in a real bash what its user expects."""

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from mmprofile.__main__ import COMMANDS, SHELLS, main
from mmprofile.config.completion import completion_script

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
if sys.platform != "win32":
    import pty


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shell") / "mmprofile.bash"
    path.write_text(completion_script("bash", COMMANDS))
    return path


def typed(script: Path, folder: Path, line: str, breaks: bool = True) -> list[str]:
    """Type a line into an interactive bash, tabs included; return the words that the command gets."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.environ |= {"INPUTRC": "/dev/null", "PS1": "$ ", "TERM": "dumb", "HISTFILE": ""}
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
    setup = [f"source {script}", "stty -echo", "mmprofile() { printf '<%s>' \"$@\"; echo; echo END; }"]
    setup += [] if breaks else ["COMP_WORDBREAKS=${COMP_WORDBREAKS//=}"]
    try:
        for command in setup:
            os.write(terminal, f"{command}\n".encode())
        os.write(terminal, f"echo REA''DY\n{line}\n".encode())
        output, until = b"", time.monotonic() + 60
        while b"\nEND" not in output:
            assert time.monotonic() < until, output
            output += os.read(terminal, 10_000)
    finally:
        os.write(terminal, b"\nexit\n")
        os.waitpid(pid, 0)
        os.close(terminal)
    last = output.decode().replace("\r", "").partition("\nEND")[0].splitlines()[-1]
    return last[last.index("<") + 1 :].rstrip(">").split("><")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("mmprofile pred\t", ["predict"]),
        ("mmprofile train paradig\t=mul\t see\t1", ["train", "paradigm=multi", "seed=1"]),
        (
            "mmprofile train data=cu\t data.prepare.source.rev\tx",
            ["train", "data=custom", "data.prepare.source.reviews=x"],
        ),
        ("mmprofile train trainer.prog\tf\t", ["train", "trainer.progress=false"]),
        ("mmprofile predict run=out\tbo\t inp\tpeo\t", ["predict", "run=outputs/both/", "input=people.jsonl"]),
        ("mmprofile llm.t\tte\t=op\t", ["llm.teacher", "teacher=openai"]),
        ("mmprofile sweep tab\t7\tmodel.si\tx", ["sweep", "table=7", "model.sizex"]),
        ("mmprofile prediction \t", ["prediction"]),
    ],
)
@pytest.mark.parametrize("breaks", [True, False])
def test_tabs(line: str, words: list[str], breaks: bool, script: Path, tmp_path: Path) -> None:
    (tmp_path / "outputs" / "both").mkdir(parents=True)
    (tmp_path / "people.jsonl").touch()
    assert typed(script, tmp_path, line, breaks) == words


def test_every_shell_has_a_script_of_every_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for shell in SHELLS:
        monkeypatch.setattr(sys, "argv", ["mmprofile", "completion", shell])
        main()
        printed = capsys.readouterr().out
        assert all(name in printed for name in COMMANDS)
        assert "photo_root=" in printed
    monkeypatch.setattr(sys, "argv", ["mmprofile", "completion", "ksh"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: mmprofile completion ksh: give bash, zsh, fish\n"
