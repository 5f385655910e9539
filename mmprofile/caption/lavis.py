"""BLIP-2 captions by LAVIS: runs ``lavis_script.py`` in the environment that uv makes for it, and takes its lines over."""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import torch

from mmprofile.errors import UserError

SCRIPT = Path(__file__).with_name("lavis_script.py")
NAMES = {"max_new_tokens": "max_length", "min_new_tokens": "min_length"}  # ours -> LAVIS's; others are the same
DECODING = ("num_beams", *NAMES, "length_penalty", "repetition_penalty")
OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")  # of this environment, not of that
CERTIFICATES = {
    "UV_SYSTEM_CERTS": "true",
    "UV_NATIVE_TLS": "true",
}  # the system's, as pip has it; the older name as well
NO_PYTHON = ("python-build-standalone", "No interpreter found", "Failed to inspect Python")
NO_PYTHON_HINT = (
    "; LAVIS needs Python 3.10 or 3.11, which uv has to find on the path, or download (uv python install 3.11)"
)


def identity(cfg: Any) -> dict[str, str]:
    """What makes these captions, a text for each column of the captions file that says so.

    Raises:
        UserError: a setting that LAVIS does not have; a Python file that is not there.
    """
    if cfg.dtype != "auto" or cfg.revision is not None:
        raise UserError("backend=lavis has neither dtype=... nor revision=...: LAVIS chooses by itself")
    if unknown := sorted(set(cfg.decoding) - set(DECODING)):
        raise UserError(f"decoding.{unknown[0]}: LAVIS has only {', '.join(DECODING)}")
    model, own = cfg.checkpoint, Path(cfg.checkpoint)
    if model.endswith(".py") and not own.is_file():
        raise UserError(f"model={model}: no such file")
    version = re.search(r"salesforce-lavis==([\w.]+)", SCRIPT.read_text(encoding="utf-8"))
    return {
        "backend": "lavis",
        "backend_version": version[1] if version else "",
        "model": own.name if model.endswith(".py") else model,
        "revision": f"local-{hashlib.sha256(own.read_bytes()).hexdigest()[:16]}" if model.endswith(".py") else "",
        "prompt": cfg.prompt,
        "decoding": json.dumps(dict(cfg.decoding), sort_keys=True),
        "dtype": "float32" if _device(cfg) == "cpu" else "mixed",  # what LAVIS does on a GPU
    }


def caption(cfg: Any, captions: Any) -> Counter[str]:
    """Captions what is not captioned yet.

    Args:
        cfg: see ``conf/caption.yaml``.
        captions: the data set's, a :class:`datamodules.captions.Captions`.

    Returns:
        Numbers of captions by status.

    Raises:
        UserError: there is no uv, LAVIS says so, or the captions that are there are another's.
    """
    maker = identity(cfg)
    uv = find_uv()
    todo = captions.todo(maker, cfg.existing, cfg.retry)
    count = len(captions.photos)
    print(f"{count - len(todo):,} of {count:,} photos are done, {len(todo):,} to do", flush=True)
    if todo:
        print(f"LAVIS {maker['backend_version']}, in an environment that uv makes on first use (6 GB)", flush=True)
        by_id = {photo.photo_id: photo for photo in todo}
        with tempfile.TemporaryDirectory() as folder, captions.shards(maker, size=cfg.shard) as shards:

            def take(row: Any) -> None:
                text = " ".join(row["caption"].split())
                shards.add(by_id[row["photo_id"]], text, row["error"] or (None if text else "the model wrote nothing"))

            ids = Path(folder) / "ids"
            ids.write_text("\n".join(by_id), encoding="utf-8")
            _run([uv, "run", "--script", str(SCRIPT), *_arguments(cfg, captions, ids)], take)
    return captions.finish(maker, cfg.existing)


def find_uv() -> str:
    """The program: on the path, or beside this environment's Python.

    Raises:
        UserError: there is none.
    """
    found = shutil.which("uv") or shutil.which("uv", path=sysconfig.get_path("scripts"))
    if found is None:
        raise UserError("backend=lavis needs uv, which makes LAVIS's own environment: pip install uv")
    return found


def _device(cfg: Any) -> str:
    return "cuda" if cfg.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"


def _arguments(cfg: Any, captions: Any, ids: Path) -> list[str]:
    decoding = {NAMES.get(name, name): value for name, value in cfg.decoding.items()}
    workers = (0 if _device(cfg) == "cpu" else 2) if cfg.workers is None else cfg.workers
    interval = (0.2 if sys.stderr.isatty() else 10) if cfg.trainer.progress else 0
    return [
        f"--photos={captions.folder.resolve() / 'photos'}", f"--ids={ids}", f"--model={cfg.checkpoint}",
        f"--prompt={cfg.prompt}", f"--decoding={json.dumps(decoding)}", f"--batch-size={cfg.batch_size}",
        f"--workers={workers}", f"--device={_device(cfg)}", f"--interval={interval}",
    ]  # fmt: skip


def _run(command: list[str], take: Callable[[Any], None]) -> None:
    """Runs the script, hands over the JSON lines that it prints, and shows what else it says.

    Raises:
        UserError: what the script, or uv, gives as its error.
    """
    env = CERTIFICATES | {name: value for name, value in os.environ.items() if name not in OURS}
    said: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        listener = threading.Thread(target=_show, args=(process.stderr, said))
        listener.start()
        try:
            for line in cast(IO[bytes], process.stdout):
                take(json.loads(line))
        except BaseException:
            process.terminate()
            raise
        finally:
            listener.join()
    if process.returncode:
        reason = ": ".join(said[:2]) or f"it stopped with exit status {process.returncode}, see above"
        hint = NO_PYTHON_HINT if any(sign in line for line in said for sign in NO_PYTHON) else ""
        raise UserError(f"LAVIS: {reason}{hint}")


def _show(stream: IO[bytes], said: list[str]) -> None:
    """Passes on what is said, but for errors and their causes, which are kept."""
    for line in io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline=""):
        kind, colon, text = line.strip().partition(": ")
        if colon and kind in ("error", "cause"):
            said.append(text)
        else:
            sys.stderr.write(line)
            sys.stderr.flush()
