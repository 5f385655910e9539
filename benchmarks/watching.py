"""What does watching cost a training? ``python benchmarks/watching.py --page docs/inspection.md``.

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
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mmprofile.config.compose import load_config
from mmprofile.evaluate.predictions import UNPAIRED_SEED
from mmprofile.evaluate.runs import make_data
from mmprofile.profile.schema import Schema
from mmprofile.train.module import ProfileModule
from mmprofile.train.probe import Probe
from mmprofile.train.run import make_model

EVERY = 10  # steps, as in mmprofile.train
SIDES = {"with": True, "without": False}


class Turns(pl.Callback):
    """Puts the probe in, and has gates told, for every other epoch; notes the seconds of each."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.seconds: list[tuple[bool, float, float]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, module: Any) -> None:
        """With, without, without, with."""
        self.watched = trainer.current_epoch % 4 in (0, 3)
        module.probe = self.probe if self.watched else None
        trainer.log_every_n_steps = EVERY if self.watched else 0  # type: ignore[attr-defined]
        self.processor = time.process_time()

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        """The epoch is over."""
        processor = time.process_time() - self.processor
        self.seconds.append((self.watched, module.history[-1]["seconds"], processor))


def measure(overrides: list[str], rounds: int) -> dict[str, dict[str, list[float]]]:
    """``clock`` and ``processor`` -> seconds of the epochs ``with`` and ``without``, one of each in every round."""
    cfg = load_config("train", ["paradigm=both", *overrides])
    schema = Schema.from_dict(OmegaConf.to_container(cfg.profile))  # type: ignore[arg-type]
    pl.seed_everything(cfg.seed, verbose=False)
    model = make_model(cfg, schema)
    data = make_data(cfg, model, instantiate(cfg.data.prepare, _partial_=True)(schema=schema))
    probe = Probe.of(data, cfg.probe.users, UNPAIRED_SEED)
    assert probe is not None, "a paradigm with photos, please"
    epochs, turns = 2 * rounds + 2, Turns(probe)
    module = ProfileModule(model, data.views, data.loss_weights, cfg.optim, epochs * data.steps_per_epoch())
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    fixed = {"logger": False, "num_sanity_val_steps": 0, "use_distributed_sampler": False, **quiet}
    pl.Trainer(max_epochs=epochs, callbacks=[turns], gradient_clip_val=cfg.trainer.gradient_clip, **fixed).fit(
        module, data
    )
    counted = turns.seconds[2:]
    return {
        kind: {name: [one[place] for one in counted if one[0] == watched] for name, watched in SIDES.items()}
        for place, kind in ((1, "clock"), (2, "processor"))
    }


def main() -> None:
    """Command line."""
    made = parser((__doc__ or "").splitlines()[0])
    made.add_argument("overrides", nargs="*", help="settings as mmprofile.train takes them")
    arguments = made.parse_args()
    torch.set_flush_denormal(True)  # as mmprofile.train does
    seconds = measure(arguments.overrides, arguments.repeats)
    more = {
        kind: statistics.median(a / b - 1 for a, b in zip(found["with"], found["without"], strict=True))
        for kind, found in seconds.items()
    }
    rows = [[kind, *(spread(found[name]) for name in SIDES), f"{more[kind]:+.1%}"] for kind, found in seconds.items()]
    text = f"`python benchmarks/watching.py`: {(__doc__ or '').partition(chr(10) * 2)[2].strip()}\n\n"
    text += table(["seconds an epoch", *SIDES, "more, median of the rounds"], rows)
    text += f"\n\nMedian (least to most) of {arguments.repeats}. {machine()}, {torch.get_num_threads()} threads."
    report("watching", text, {"more": more, "seconds": seconds}, arguments)


if __name__ == "__main__":
    main()
