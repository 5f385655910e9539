"""Does a training step wait for its batch? ``python benchmarks/loader.py``.

This is the default training on the demo city, as in ``mmprofile.train paradigm=both``. The process makes the batches itself
(ahead, in a thread), or two workers make them. *Waits* is the time between asking for a batch and having it. Making batches also
takes cores from the step; steps whose batches were all made beforehand show this cost. In the first epoch a process decodes
photos, which it then keeps. The loader alone is timed over the batches of later epochs.
"""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from common import machine, parser, report, spread, table

from mmprofile.config.compose import load_config
from mmprofile.evaluate.runs import make_data
from mmprofile.inputs.batch import Batch
from mmprofile.inputs.data import prepare_data
from mmprofile.profile.schema import Schema
from mmprofile.train.module import ProfileModule, joint_loss
from mmprofile.train.run import make_model

WORKERS = (0, 2)


def waits(batches: Iterable[Any]) -> Iterator[tuple[float, Any]]:
    """Yield the seconds waited for each batch, and the batch."""
    start = time.perf_counter()
    for batch in batches:
        yield time.perf_counter() - start, batch
        start = time.perf_counter()


class Training:
    """The configured training on the configured data, step by step."""

    def __init__(self, overrides: list[str]) -> None:
        self.cfg = load_config("train", ["paradigm=both", *overrides])
        schema = Schema.from_config(self.cfg.profile)
        torch.manual_seed(self.cfg.seed)
        self.model = make_model(self.cfg, schema)
        self.folder = prepare_data(self.cfg.data, schema)

    def epochs(self, workers: int, count: int) -> list[dict[str, list[float]]]:
        """Return the seconds of each batch, epoch by epoch.

        They are ``step``, how long a step waits; ``work``, how long it takes; ``loader``, how long the loader takes alone;
        ``bare``, how long a step takes without it.
        """
        self.cfg.loader.workers = workers
        data = make_data(self.cfg, self.model, self.folder)
        module = ProfileModule(self.model, data.views, data.loss_weights, self.cfg.optim, steps=10**6)
        optimizer = module.configure_optimizers()["optimizer"]
        loader = data.train_dataloader()

        def step(batch: Batch) -> float:
            start = time.perf_counter()
            optimizer.zero_grad()
            joint_loss(self.model(batch), module.weights).backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), self.cfg.trainer.gradient_clip)
            optimizer.step()
            return time.perf_counter() - start

        seconds: list[dict[str, list[float]]] = []
        for epoch in range(2 * count):
            loader.batch_sampler.sampler.set_epoch(epoch)
            if epoch < count:
                seconds.append({"step": [], "work": []})
                for waited, batch in waits(loader):
                    seconds[-1]["step"].append(waited)
                    seconds[-1]["work"].append(step(batch))
            else:
                alone = list(waits(loader))
                seconds[epoch - count] |= {
                    "loader": [waited for waited, _ in alone],
                    "bare": [step(batch) for _, batch in alone],
                }
        return seconds


def main() -> None:
    """Run the command line."""
    made = parser((__doc__ or "").splitlines()[0])
    made.add_argument("--epochs", type=int, default=3, help="epochs of training with each number of workers")
    made.add_argument("overrides", nargs="*", help="settings as mmprofile.train takes them")
    arguments = made.parse_args()
    torch.set_flush_denormal(True)  # as mmprofile.train does
    training = Training(arguments.overrides)
    figures: dict[str, Any] = {"step_waits_share": 0.0, "workers": {}}
    rows = []
    for workers in WORKERS:
        for epoch, seconds in enumerate(training.epochs(workers, arguments.epochs), 1):
            waited, worked, loader, bare = (sum(seconds[name]) for name in ("step", "work", "loader", "bare"))
            count, share = len(seconds["step"]), waited / (waited + worked)
            figures["step_waits_share"] = max(figures["step_waits_share"], share)
            figures["workers"].setdefault(workers, []).append(round(share, 4))
            rates = [f"{count / loader:.0f}", f"{count / (waited + worked):.2f}", f"{count / bare:.2f}"]
            rows.append([f"{workers}, {epoch}", *rates, spread([1000 * s for s in seconds["step"]]), f"{share:.1%}"])
    figures["step_waits_share"] = round(figures["step_waits_share"], 4)
    rates = ["batches/s, loader alone", "steps/s", "batches made beforehand, steps/s"]
    head = ["workers, epoch", *rates, "a step waits, ms", "share of the time"]
    text = f"## Loader\n\n`python benchmarks/loader.py`: {(__doc__ or '').partition(chr(10) * 2)[2].strip()}\n\n"
    text += f"{machine()}, {torch.get_num_threads()} threads; median (least to most).\n\n{table(head, rows)}"
    report("loader", text, figures, arguments)


if __name__ == "__main__":
    main()
