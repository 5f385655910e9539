"""Measure what watching costs a training: ``python benchmarks/watching.py --page docs/inspection.md``.

One process runs epochs of the default training on the demo city, validation included, with gates and probe and without, by
turns (with, without, without, with, ...), after two epochs that are not counted. Processor time is that of the whole process, so
other processes on the machine disturb it less than clock time.
"""

import statistics
import time
from typing import Any

import pytorch_lightning as pl
import torch
from common import machine, parser, report, spread, table

from mmprofile.config.compose import load_config
from mmprofile.evaluate.predictions import UNPAIRED_SEED
from mmprofile.evaluate.runs import make_data
from mmprofile.inputs.data import prepare_data
from mmprofile.profile.schema import Schema
from mmprofile.train.module import ProfileModule
from mmprofile.train.probe import Probe
from mmprofile.train.run import make_model

EVERY = 10  # steps, as in mmprofile.train
SIDES = {"with": True, "without": False}


class Turns(pl.Callback):
    """Switches probe and gates on for every other epoch, and notes the seconds of each epoch."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.seconds: list[tuple[bool, float, float]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, module: Any) -> None:
        """Switch on or off: with, without, without, with."""
        self.watched = trainer.current_epoch % 4 in (0, 3)
        module.probe = self.probe if self.watched else None
        trainer.log_every_n_steps = EVERY if self.watched else 0  # type: ignore[attr-defined]
        self.processor = time.process_time()

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        """Note the seconds of the epoch, which is over."""
        processor = time.process_time() - self.processor
        self.seconds.append((self.watched, module.history[-1]["seconds"], processor))


def measure(overrides: list[str], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return ``clock`` and ``processor`` -> seconds of the epochs ``with`` and ``without``, one of each in every round."""
    cfg = load_config("train", ["paradigm=both", *overrides])
    schema = Schema.from_config(cfg.profile)
    pl.seed_everything(cfg.seed, verbose=False)
    model = make_model(cfg, schema)
    data = make_data(cfg, model, prepare_data(cfg.data, schema))
    probe = Probe.of(data, cfg.probe.users, UNPAIRED_SEED)
    assert probe is not None, "choose a paradigm with photos"
    epochs, turns = 2 * rounds + 2, Turns(probe)
    steps = epochs * data.steps_per_epoch()
    module = ProfileModule(model, views=data.views, weights=data.loss_weights, optim=cfg.optim, steps=steps)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    fixed = {"logger": False, "num_sanity_val_steps": 0, "use_distributed_sampler": False, **quiet}
    pl.Trainer(max_epochs=epochs, callbacks=[turns], gradient_clip_val=cfg.trainer.gradient_clip, **fixed).fit(
        module, data
    )
    counted = turns.seconds[2:]
    return {
        kind: {name: [epoch[place] for epoch in counted if epoch[0] == watched] for name, watched in SIDES.items()}
        for place, kind in ((1, "clock"), (2, "processor"))
    }


def main() -> None:
    """Measure, and report what watching costs."""
    options = parser((__doc__ or "").splitlines()[0])
    options.add_argument("overrides", nargs="*", help="settings as mmprofile.train takes them")
    arguments = options.parse_args()
    torch.set_flush_denormal(True)  # as mmprofile.train does
    seconds = measure(arguments.overrides, arguments.repeats)
    more = {
        kind: statistics.median(a / b - 1 for a, b in zip(sides["with"], sides["without"], strict=True))
        for kind, sides in seconds.items()
    }
    rows = [[kind, *(spread(sides[name]) for name in SIDES), f"{more[kind]:+.1%}"] for kind, sides in seconds.items()]
    text = f"`python benchmarks/watching.py`: {(__doc__ or '').partition(chr(10) * 2)[2].strip()}\n\n"
    text += table(["seconds an epoch", *SIDES, "more, median of the rounds"], rows)
    text += f"\n\nMedian (least to most) of {arguments.repeats}. {machine()}, {torch.get_num_threads()} threads."
    report("watching", text, {"more": more, "seconds": seconds}, arguments)


if __name__ == "__main__":
    main()
