"""Whether a training could start here, and what it would need: ``python -m mmprofile.doctor`` with the words of ``train``.

Nothing is fetched, prepared, allocated or written. The checks are those that ``train`` makes itself.
"""

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from huggingface_hub import constants

from mmprofile.config.command import quiet
from mmprofile.config.settings import TrainConfig
from mmprofile.doctor import machine
from mmprofile.doctor.catalogue import LANGUAGES
from mmprofile.doctor.estimate import ALLOWANCE, Estimate, estimate
from mmprofile.doctor.machine import Device
from mmprofile.doctor.screen import row, table
from mmprofile.doctor.weights import Weights, state, weights_of
from mmprofile.errors import UserError
from mmprofile.files import read_json, size
from mmprofile.inputs.data import completed_schema, find_data
from mmprofile.inputs.views import SPLITS
from mmprofile.paths import cache_dir
from mmprofile.profile.schema import Schema
from mmprofile.systems.systems import SYSTEMS
from mmprofile.train.checks import check_photos, check_settings
from mmprofile.train.devices import choose_precision
from mmprofile.train.run import peak_rss_mb, run_folder

T = TypeVar("T")
LIBRARIES = 1_100_000_000
"""Bytes of a process with all libraries, where the system does not tell."""


class Doctor:
    """Looks at all that a run needs and keeps what stands in its way.

    Args:
        cfg: the run's configuration.

    Attributes:
        problems: a line for each reason why the run could not start, and what to do.
        unknown: why there is no estimate, where there is none.
    """

    def __init__(self, cfg: TrainConfig) -> None:
        self.cfg, self.schema = cfg, Schema.from_config(cfg.profile)
        self.problems: list[str] = []
        self.neural = cfg.model.system == "neural"
        self.prepared: Path | None = None
        self.weights: list[Weights] = []
        self.unknown = "what it needs is not known before its weights are here"

    def tried(self, action: Callable[[], T]) -> T | None:
        """Return what an action returns; None after a mistake of the user, which becomes a problem."""
        try:
            return action()
        except UserError as error:
            self.problems.append(str(error))
            return None

    def software(self) -> list[str]:
        """Return the versions, and the optional packages that the run needs."""
        cfg, text, lines = self.cfg, self.cfg.model.text, [machine.packages()]
        wanted = {
            "peft": ("llm", self.neural and bool(text.lora.rank or text.adapter)),
            "spacy": ("aom", self.neural and str(cfg.model.fusion.parser).startswith("spacy:")),
            "openai": ("llm", cfg.model.system == "chat"),
        }
        for name, (extra, needed) in wanted.items():
            there = machine.package(name)
            if needed or name == "peft":
                lines.append(f"{name} {there or 'not installed'}{'' if needed else ', which this run does not need'}")
            if needed and there is None:
                self.problems.append(f"{name} is not installed: pip install 'mmprofile[{extra}]'")
        return ["; ".join(lines)]

    def run(self) -> str:
        """Return what the run's folder holds."""
        folder = self.tried(lambda: run_folder(self.cfg))
        if folder is None:
            return f"{Path(self.cfg.out).expanduser() / self.cfg.name}: holds a run with other settings"
        if (folder / "metrics.json").exists():
            return f"{folder}: finished; the same command only prints its scores"
        if (folder / "checkpoints" / "last.ckpt").exists():
            return f"{folder}: begun; the same command goes on from checkpoints/last.ckpt"
        return f"{folder}: new"

    def data(self) -> str:
        """Return whether the data are prepared."""
        found = self.tried(lambda: find_data(self.cfg.data, self.schema))
        if found is None:
            return f"{self.cfg.data.name}: cannot be prepared"
        self.tried(lambda: check_photos(self.cfg, found.photos))
        folder = found.folder
        if not found.there:
            return f"{self.cfg.data.name}: would be prepared in {folder}"
        self.prepared = folder
        self.schema = completed_schema(self.cfg.data, self.schema, str(folder))
        counts = read_json(folder / "manifest.json").get("splits", {})
        users = " / ".join(f"{counts.get(split, '?'):,}" if split in counts else "?" for split in SPLITS)
        return f"{self.cfg.data.name}: prepared in {folder}; users {users} (train / validation / test)"

    def checkpoints(self) -> list[tuple[str, str]]:
        """Return where the weights are, a label and a line for each checkpoint."""
        if not self.neural:
            self.tried(lambda: SYSTEMS[self.cfg.model.system](cfg=self.cfg, schema=self.schema, folder=Path()))
            return [
                ("system", f"{self.cfg.model.system}: not trained by gradient descent, needs no checkpoint and no GPU")
            ]
        self.weights = weights_of(self.cfg)
        self.problems += [part.problem for part in self.weights if part.problem is not None]
        return [(part.part, f"{part.name}: {state(part)}") for part in self.weights]

    def estimate(self, device: Device | None, precision: str) -> Estimate | None:
        """Return what the run would need; None where this is not known."""
        peak = peak_rss_mb()
        base = LIBRARIES if peak is None else int(peak * 2**20)
        if not self.neural or not self.weights[0].config or any(part.unreadable for part in self.weights):
            return None
        kind = "cpu" if device is None else device.kind
        bins = [a if a.is_fitted else a.fitted(range(a.quantiles or 0)) for a in self.schema.attributes]
        schema = Schema(self.schema.name, bins)  # before the data are prepared, some bins or other
        try:
            return self.tried(lambda: estimate(self.cfg, schema, self.weights, self.prepared, precision, kind, base))
        except (RuntimeError, TypeError) as error:  # an architecture that does what tensors without numbers cannot
            self.unknown = (
                f"its memory cannot be estimated ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
            )
            return None

    def compare(self, needed: Estimate, device: Device | None, free: int | None) -> str:
        """Return the table of what the run would need beside what there is."""
        need, fetched = needed.need, sum(part.fetched for part in self.weights)
        lines = [
            ("memory of a training", size(needed.training), self._memory(needed.training, device)),
            ("  weights", size(need.weights), ""),
            ("  gradients", size(need.gradients), ""),
            ("  Adam's two moments", size(need.moments), ""),
            ("  activations of a step", size(need.activations), ""),
            ("  or writing a checkpoint", size(need.saving), ""),
            ("  program, decoded photos", size(needed.process), ""),
            ("  allocator", f"{ALLOWANCE - 1:.0%}", ""),
            ("memory of a prediction", size(needed.prediction), self._memory(needed.prediction, device, "prediction")),
            ("disk for checkpoints and model", size(need.checkpoints), "" if free is None else f"{size(free)} free"),
        ]
        if free is not None and need.checkpoints > free:
            self.problems.append(
                f"out={self.cfg.out}: checkpoints and model need {size(need.checkpoints)}, and {size(free)} are free there; "
                "free some space or choose another out="
            )
        if fetched:
            lines.append(("weights to fetch", size(fetched), self._room_of_cache(fetched)))
        return table(("", "about", "here"), lines)

    def _memory(self, needed: int, device: Device | None, task: str = "training") -> str:
        """Return the memory of the device; a training that does not fit in it is a problem."""
        if device is None or device.memory is None:
            return ""
        words = f"{size(device.memory)} ({device.kind})"
        if device.free is not None:
            words += f", {size(device.free)} free"
        if needed > device.memory and task == "training":
            self.problems.append(
                f"a training needs about {size(needed)} of memory, and the {device.kind} has {size(device.memory)}: lower "
                "loader.batch_size or inputs.max_tokens, take a smaller model.size, or model.text.lora.rank=16"
            )
        return words + (": not enough" if needed > device.memory else "")

    def _room_of_cache(self, needed: float) -> str:
        """Return what is free in the hub's cache; too little is a problem."""
        found = self.tried(lambda: machine.disk(Path(constants.HF_HUB_CACHE)))
        if found is None:
            return ""
        if needed > found[1]:
            self.problems.append(
                f"the weights to fetch need {size(needed)}, and {size(found[1])} are free in {constants.HF_HUB_CACHE}: free "
                "some space or set HF_HOME to another folder"
            )
        return f"{size(found[1])} free"


def main(cfg: TrainConfig) -> None:
    """Print the screen; exit with status 1 if the run could not start."""
    quiet()  # once more: Lightning turned its messages on when it was imported
    precision = choose_precision(cfg.trainer.precision, cfg.trainer.accelerator)
    check_settings(cfg)
    doctor = Doctor(cfg)
    device = doctor.tried(lambda: machine.chosen_device(cfg.trainer))
    print(row("software", *doctor.software()))
    print(row("machine", *hardware()))
    print(row("device", f"{device.kind}, {precision}" if device is not None else "not here"))
    free, line = disks(doctor)
    print(row("disk", line))
    print(row("run", doctor.run()))
    print(row("data", doctor.data()))
    for label, line in doctor.checkpoints():
        print(row(label, line))
    constants.HF_HUB_OFFLINE = True  # from here on nothing is asked of a hub
    needed = doctor.estimate(device, precision)
    if needed is not None:
        print(row("model", *sizes(cfg, needed)), "", doctor.compare(needed, device, free), sep="\n")
    elif doctor.neural and not doctor.problems:
        print(row("model", doctor.unknown))
    if doctor.neural:
        print(row("language", *(f"{what}: {choice}" for what, choice in LANGUAGES.items())))
    words = [word for word in sys.argv[1:] if not word.startswith(("hydra", "-"))]
    command = shlex.join(["python", "-m", "mmprofile.train", *words])
    if not doctor.problems:
        print(f"\nready: {command}")
        return
    print(f"\nnot ready: {command}")
    for problem in doctor.problems:
        print(f"- {problem}")
    sys.exit(1)


def hardware() -> list[str]:
    """Return the processor and memory of this machine, and its GPUs."""
    total, free = machine.memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = "" if total is None else f", {size(total)} of memory" + ("" if free is None else f" ({size(free)} free)")
    return [f"{cores} cores{memory}", *(machine.gpus() or ["no GPU"])]


def disks(doctor: Doctor) -> tuple[int | None, str]:
    """Return the bytes that are free for the run's folder, and a line on all disks that a run writes to."""
    out = doctor.tried(lambda: machine.disk(Path(doctor.cfg.out) / doctor.cfg.name))
    cache = doctor.tried(lambda: machine.disk(cache_dir()))
    parts = [
        f"{name}: {'cannot be written' if found is None else f'{size(found[1])} free'}"
        for name, found in ((f"out={doctor.cfg.out}", out), (f"cache {cache_dir()}", cache))
    ]
    return None if out is None else out[1], "; ".join(parts)


def sizes(cfg: TrainConfig, needed: Estimate) -> list[str]:
    """Return a few words on the model and on the batch that the memory was estimated for."""
    need, batch = needed.need, needed.batches.training
    texts, length = batch.text_ids.shape
    views = len(set(batch.row_view.tolist()))
    rows, read = batch.row_tokens.shape
    photos = f", {len(batch.photos)} photos" if len(batch.photos) else ""
    return [
        f"{need.parameters / 1e6:,.1f} M parameters, {need.trained / 1e6:,.1f} M trained",
        f"largest batch: {cfg.loader.batch_size} users in {views} views, {rows} rows of {read} tokens; {texts} texts of "
        f"{length}{photos} ({needed.batches.source})",
    ]
