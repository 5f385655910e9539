"""BLIP-2 captions by LAVIS: run ``lavis_script.py`` in the environment that uv makes for it, and read its JSON lines."""

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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch

from mmprofile.caption.store import CaptionStore
from mmprofile.config.settings import CaptionConfig
from mmprofile.errors import UserError

SCRIPT = Path(__file__).with_name("lavis_script.py")
NAMES = {"max_new_tokens": "max_length", "min_new_tokens": "min_length"}  # ours -> LAVIS's; others are the same
DECODING = ("num_beams", *NAMES, "length_penalty", "repetition_penalty")
OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")  # of this environment; LAVIS's must not inherit them
# The system's certificates, as pip uses them, by the newer and the older name.
CERTIFICATES = {"UV_SYSTEM_CERTS": "true", "UV_NATIVE_TLS": "true"}
NO_PYTHON = ("python-build-standalone", "No interpreter found", "Failed to inspect Python")
NO_PYTHON_HINT = (
    "; LAVIS needs Python 3.10 or 3.11, which uv has to find on the path, or download (uv python install 3.11)"
)


def identity(cfg: CaptionConfig, checkpoint: str) -> dict[str, str]:
    """Return what makes these captions: a text for each column of the captions file that records it.

    Args:
        cfg: the command's configuration.
        checkpoint: ``NAME/TYPE`` of LAVIS, or a Python file.

    Raises:
        UserError: LAVIS has no such setting, or the Python file does not exist.
    """
    if cfg.dtype != "auto" or cfg.revision is not None:
        raise UserError("backend=lavis has neither dtype=... nor revision=...: LAVIS chooses by itself")
    if unknown := sorted(set(cfg.decoding) - set(DECODING)):
        raise UserError(f"decoding.{unknown[0]}: LAVIS has only {', '.join(DECODING)}")
    is_file, file = checkpoint.endswith(".py"), Path(checkpoint)
    if is_file and not file.is_file():
        raise UserError(f"model={checkpoint}: no such file")
    version = re.search(r"salesforce-lavis==([\w.]+)", SCRIPT.read_text(encoding="utf-8"))
    return {
        "backend": "lavis",
        "backend_version": version[1] if version else "",
        "model": file.name if is_file else checkpoint,
        "revision": f"local-{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}" if is_file else "",
        "prompt": cfg.prompt,
        "decoding": json.dumps(dict(cfg.decoding), sort_keys=True),
        "dtype": "float32" if _device(cfg) == "cpu" else "mixed",  # what LAVIS does on a GPU
    }


def caption(cfg: CaptionConfig, captions: CaptionStore, *, checkpoint: str) -> Counter[str]:
    """Caption what is not captioned yet.

    Args:
        cfg: the command's configuration.
        captions: of the data set.
        checkpoint: ``NAME/TYPE`` of LAVIS, or a Python file.

    Returns:
        Numbers of captions by status.

    Raises:
        UserError: uv is not installed, LAVIS fails, or something else made the captions that are there.
    """
    maker = identity(cfg, checkpoint)
    uv = find_uv()
    todo = captions.todo(maker, cfg.existing, cfg.retry)
    count = len(captions.photos)
    print(f"{count - len(todo):,} of {count:,} photos are done, {len(todo):,} to do", flush=True)
    if todo:
        print(f"LAVIS {maker['backend_version']}, in an environment that uv makes on first use (6 GB)", flush=True)
        by_id = {photo.photo_id: photo for photo in todo}
        with tempfile.TemporaryDirectory() as folder, captions.shards(maker, size=cfg.shard) as shards:

            def take(row: Mapping[str, Any]) -> None:
                text = " ".join(row["caption"].split())
                shards.add(by_id[row["photo_id"]], text, row["error"] or (None if text else "the model wrote nothing"))

            ids = Path(folder) / "ids"
            ids.write_text("\n".join(by_id), encoding="utf-8")
            arguments = _arguments(cfg, checkpoint=checkpoint, photos=captions.folder.resolve() / "photos", ids=ids)
            _run([uv, "run", "--script", str(SCRIPT), *arguments], take)
    return captions.finish(maker, cfg.existing)


def find_uv() -> str:
    """Return the program uv, on the path or beside this environment's Python.

    Raises:
        UserError: there is none.
    """
    program = shutil.which("uv") or shutil.which("uv", path=sysconfig.get_path("scripts"))
    if program is None:
        raise UserError("backend=lavis needs uv, which makes LAVIS's own environment: pip install uv")
    return program


def _device(cfg: CaptionConfig) -> str:
    return "cuda" if cfg.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"


def _arguments(cfg: CaptionConfig, *, checkpoint: str, photos: Path, ids: Path) -> list[str]:
    """Return the script's command line.

    Args:
        cfg: the command's configuration.
        checkpoint: ``NAME/TYPE`` of LAVIS, or a Python file.
        photos: the folder of photos.
        ids: the file of the photo ids to caption.
    """
    decoding = {NAMES.get(name, name): value for name, value in cfg.decoding.items()}
    workers = (0 if _device(cfg) == "cpu" else 2) if cfg.workers is None else cfg.workers
    interval = (0.2 if sys.stderr.isatty() else 10) if cfg.trainer.progress else 0
    return [
        f"--photos={photos}", f"--ids={ids}", f"--model={checkpoint}",
        f"--prompt={cfg.prompt}", f"--decoding={json.dumps(decoding)}", f"--batch-size={cfg.batch_size}",
        f"--workers={workers}", f"--device={_device(cfg)}", f"--interval={interval}",
    ]  # fmt: skip


def _run(command: list[str], take: Callable[[Mapping[str, Any]], None]) -> None:
    """Run the script, hand over the JSON lines that it prints, and show what else it prints.

    Args:
        command: of the script.
        take: called with the object of each line.

    Raises:
        UserError: the script, or uv, fails; the message is theirs.
    """
    env = CERTIFICATES | {name: value for name, value in os.environ.items() if name not in OURS}
    errors: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        listener = threading.Thread(target=_show, args=(process.stderr, errors))
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
        reason = ": ".join(errors[:2]) or f"it stopped with exit status {process.returncode}, see above"
        hint = NO_PYTHON_HINT if any(sign in line for line in errors for sign in NO_PYTHON) else ""
        raise UserError(f"LAVIS: {reason}{hint}")


def _show(stream: IO[bytes], errors: list[str]) -> None:
    """Pass on what is printed, except errors and their causes, which are added to ``errors``."""
    for line in io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline=""):
        kind, colon, text = line.strip().partition(": ")
        if colon and kind in ("error", "cause"):
            errors.append(text)
        else:
            sys.stderr.write(line)
            sys.stderr.flush()
