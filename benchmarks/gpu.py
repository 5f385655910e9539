"""Times training and decoding on a GPU against what people run: ``python benchmarks/gpu.py``, under 8 minutes, offline.

The model has random weights and dropout, and the shape of flan-t5-base with vit_base_patch16_224. Each user has 3 reviews of
58.7 words on average and 3 photos of 224 px; no two users share texts or photos. A training step is forward, backward and
Adam, with batches that lie on the device. Its sides are:

- *literal* (a): each view of each user is a sample, padded to 600 tokens, in float32 without TF32, with stock transformers T5
  and timm, one view after another;
- *good* (b): a batch per view, padded to its longest text, bf16 by autocast, one backward pass for the mean of the views' losses;
- *joint*, *segments*: the step of mmprofile, bf16 by autocast, with the loss over the schema's tokens. In *joint* all that a view
  shows is one text, as in the paper; in *segments* each review, the captions and the masked profile are separate texts.

On a GPU all sides use sdpa for T5's attention. Each side steps at the same number of users, then at its best batch: the
smallest within 3 % of the side's fastest, of those tried in the search for the largest that fits. FLOPs are those of the step,
padding included, as PyTorch counts them: matrix products, convolutions and attention. PyTorch counts no norms, softmax,
sparsemax, look-ups, dropout or Adam, and no sdpa on a CPU. The rate of FLOPs is given as a share of a large bf16 product's in the
same run. Peak memory is what PyTorch allocates, with weights, gradients and Adam's moments. Decoding has weights in bf16 and
leaves out the encoder.
"""

import argparse
import copy
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.compiler.config
from common import alternate, machine, parser, ratio, report
from decode import Setting
from decode import sides as decoders
from gpu_report import GOALS, MODALITIES, OURS, PEERS, render
from torch.utils.flop_counter import FlopCounterMode
from train_step import REVIEWS, SIZES, TOKENS, Side, Stepper, Town, build, check_losses, separate_losses

from mmprofile.inputs.views import VIEWS, User, paradigm_views
from mmprofile.model.kernels import ATTENTION
from mmprofile.model.model import ProfileModel
from mmprofile.train.module import joint_loss

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
synchronize: Callable[[], None] = torch.cuda.synchronize if CUDA else lambda: None
MEASURED = ("users", "users_per_s", "peak_mb", "tflop", "matmul_share", "vs_literal", "vs_good", "repeats")
ERRORS = (Exception, SystemExit)
"""Errors that end a phase but not the run: check_losses exits, a compiler may fail in any way."""


class Load(NamedTuple):
    """Sizes of a run.

    Attributes:
        users: of a step.
        most: users tried in a step at most.
        decoded, states: users decoded, and input states of each.
        matmul: width of the large matrices.
    """

    users: int = 16
    most: int = 512
    decoded: int = 32
    states: int = 230
    matmul: int = 8192


LOADS = {"toy": Load(users=1, most=1, decoded=2, states=20, matmul=256)}


class Crowd(Town):
    """A town of any size: a user who is drawn twice has other words and photos, as far as a batch can tell."""

    def __init__(self, model: ProfileModel) -> None:
        super().__init__(model)
        stored: Callable[[str], np.ndarray] = self.pixels
        self.pixels = lambda photo: stored(photo.rpartition("|")[0])  # type: ignore[assignment]

    def users(self, count: int, reviews: int = REVIEWS, photos: int = REVIEWS) -> list[User]:
        """See :meth:`Town.users`."""
        return [
            replace(
                user,
                reviews=tuple(f"{text} {i}" for text in user.reviews),
                photos=tuple(f"{photo}|{i}" for photo in user.photos),
                captions=tuple(caption and f"{caption} {i}" for caption in user.captions),
            )
            for i, user in enumerate(super().users(count, reviews, photos))
        ]


def make_side(town: Town, modality: str, name: str, users: int) -> Side:
    """Return a side with a batch of that many users on the device."""
    model, views, people = town.model, paradigm_views(modality, VIEWS), town.users(users)
    if name in OURS:
        batch = town.collator(name)(people, views).to(DEVICE)
        weights = torch.ones(len(views), device=DEVICE)
        return Side(lambda: [joint_loss(model(batch), weights)])
    collate = town.collator("joint")
    apart = [collate(people, views, drawn=[v] * users).to(DEVICE) for v in range(len(views))]
    if name == "literal":
        return Side(lambda: separate_losses(model, apart, TOKENS), torch.float32, stock=True, attention="sdpa")
    attention = "sdpa" if CUDA else "eager"
    return Side(lambda: [torch.stack([*separate_losses(model, apart)]).mean()], stock=True, attention=attention)


def clock(work: Callable[[], Any]) -> float:
    """Return the seconds that ``work`` takes, the device's part included."""
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def largest(fits: Callable[[int], bool], start: int, most: int, until: float) -> tuple[int, str]:
    """Return the most users that fit, to an eighth, and what ended the search: ``memory``, ``number`` or ``time``.

    The search doubles from ``start``, then bisects.

    Args:
        fits: whether a step of so many users fits.
        start: users of the first try.
        most: users to try at most.
        until: time of ``time.monotonic`` when the search ends.
    """
    good, bad, size = 0, 0, min(start, most)
    while time.monotonic() < until:
        if fits(size):
            good = size
        else:
            bad = size
        if bad and bad - good <= max(1, good // 8):
            return good, "memory"
        if good == most:
            return good, "number"
        size = (good + bad) // 2 if bad else min(2 * good, most)
    return good, "time"


def in_a_line(error: BaseException) -> str:
    """Return an error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


class Bench:
    """A run: the model and its users, the time that is left, and the figures so far."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.load = arguments, LOADS.get(arguments.size, Load())
        self.begun = time.monotonic()
        self.end = self.begun + 60 * arguments.minutes
        self.not_measured: dict[str, str] = {}
        self.figures: dict[str, Any] = {"device": machine(), "size": arguments.size, "goals": GOALS}
        self.figures |= {"matmul_tflops": None, "loss_difference": {}, "decode": None, "compile": {}}
        for modality in MODALITIES:
            none = dict.fromkeys((*MEASURED, "largest", "largest_ended_by"))
            self.figures[modality] = {name: {**none, "best": dict.fromkeys(MEASURED)} for name in (*PEERS, *OURS)}
        self.figures["not_measured"] = self.not_measured

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.end - time.monotonic()

    def phase(self, name: str, work: Callable[[], None], needs: float = 0.0) -> bool:
        """Do a part of the run unless less than ``needs`` seconds are left; print how it went, and keep the figures."""
        start, status = time.monotonic(), "done"
        if self.left <= needs:
            status = "not measured, no time left"
        else:
            try:
                work()
            except ERRORS as error:
                status = f"not measured, {in_a_line(error)}"
        if status != "done":
            self.not_measured[name] = status
        now = time.monotonic()
        print(f"[{now - self.begun:4.0f} s] {name}: {status} ({now - start:.1f} s)", flush=True)
        if self.arguments.json:  # keeps what is measured, whatever comes
            self.arguments.json.write_text(json.dumps(self.figures, indent=2) + "\n", encoding="utf-8")
        return status == "done"

    def prepare(self) -> None:
        """Build the model and the town."""
        model = build(SIZES[self.arguments.size]).to(DEVICE)
        self.stepper, self.town = Stepper(model), Crowd(model)
        # Adam allocates its moments in a small step: in a large one they would lie among blocks of activations.
        self.stepper.step(make_side(self.town, "multi", "joint", 1))
        gc.freeze()  # what is allocated now stays, so collecting the rest is fast

    def free(self) -> None:
        """Free the memory of the last step, or of one that ran out of memory."""
        self.stepper.optimizer.zero_grad()
        self.stepper.side = None  # it holds a batch
        gc.collect()
        if CUDA:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def matmul(self) -> None:
        """Measure the rate of a large product in bf16."""
        n, times = self.load.matmul, 20
        a, b = (torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))

        def products() -> None:
            for _ in range(times):
                a @ b

        seconds = statistics.median(alternate({"": products}, self.arguments.repeats)[""])
        self.figures["matmul_tflops"] = times * 2 * n**3 / seconds / 1e12

    def losses(self, modality: str) -> None:
        """Compare the losses of both peers and of *joint*, which must be equal."""
        sides = {name: make_side(self.town, modality, name, 2) for name in (*PEERS, "joint")}
        self.figures["loss_difference"][modality] = check_losses(self.stepper, sides)

    def repeats(self, round_: float, limit: float) -> int:
        """Return the repeats asked for, or as many as take no more than ``limit`` seconds at ``round_`` seconds each."""
        repeats = min(self.arguments.repeats, int(min(limit, self.left) / round_))
        if repeats < 1:
            raise RuntimeError(f"no time left: a round takes {round_:.0f} s")
        return repeats

    def measure(self, modality: str, users: Mapping[str, int], limit: float) -> dict[str, dict[str, Any]]:
        """Time the sides, each at its number of users, and return the figures of each."""
        sides = {name: make_side(self.town, modality, name, count) for name, count in users.items()}
        figures: dict[str, dict[str, Any]] = {name: dict.fromkeys(MEASURED) for name in users}
        steps, round_ = {}, 0.0
        for name, side in sides.items():
            self.free()
            with FlopCounterMode(display=False) as counter:
                self.stepper.step(side)
            took = clock(partial(self.stepper.step, side))
            peak = round(torch.cuda.max_memory_allocated() / 2**20) if CUDA else None
            figures[name] |= {"users": users[name], "peak_mb": peak, "tflop": counter.get_total_flops() / 1e12}
            steps[name] = min(max(round(0.5 / took), 1), 10) if CUDA else 1
            round_ += took * (steps[name] + 1)
        repeats = self.repeats(round_, limit)
        per_user: dict[str, list[float]] = {name: [] for name in sides}
        for name, side in list(sides.items()) * repeats:
            self.free()
            self.stepper.step(side)  # prepares the model and allocates, which a training does once
            # Several at a time: the device gets the work of the next step during the last one.
            seconds = clock(lambda side=side, n=steps[name]: [self.stepper.step(side) for _ in range(n)])
            per_user[name].append(seconds / steps[name] / users[name])
        for name, measured in figures.items():
            measured["users_per_s"] = 1 / statistics.median(per_user[name])
            measured["matmul_share"] = self.share(measured["tflop"], users[name], measured["users_per_s"])
            measured |= {f"vs_{peer}": ratio(per_user, peer, name) for peer in PEERS if peer in users}
            measured["repeats"] = repeats
        return figures

    def share(self, tflop: float | None, users: int, rate: float) -> float | None:
        """Return the rate of a step, ``tflop`` for ``users`` at ``rate`` users a second, as a share of the large product's."""
        return tflop / users * rate / self.figures["matmul_tflops"] if tflop and self.figures["matmul_tflops"] else None

    def same(self, modality: str) -> None:
        """Time all sides at the same number of users."""
        users = dict.fromkeys((*PEERS, *OURS), self.load.users)
        for name, measured in self.measure(modality, users, 40).items():
            self.figures[modality][name] |= measured

    def search(self, modality: str, name: str) -> None:
        """Search the largest batch of a side, and its best one."""
        rates: dict[int, float] = {}

        def fits(users: int) -> bool:
            self.free()
            try:
                side = make_side(self.town, modality, name, users)
                took = clock(partial(self.stepper.step, side))
                if took < 2:  # the first step at a size also allocates
                    took = clock(partial(self.stepper.step, side))
            except RuntimeError as error:  # out of memory is one; cuBLAS has its own
                if not isinstance(error, torch.OutOfMemoryError):
                    print(f"        {modality}, {name}: {users} users: {in_a_line(error)}", flush=True)
                return False
            rates[users] = users / took
            return True

        until = time.monotonic() + min(25.0, self.left / 8)
        most, ended_by = largest(fits, self.load.users, self.load.most, until)
        self.free()
        if not rates:
            raise RuntimeError("no batch fits")
        self.figures[modality][name] |= {"largest": most, "largest_ended_by": ended_by}
        fast = [users for users, rate in rates.items() if rate >= 0.97 * max(rates.values())]
        self.figures[modality][name]["best"]["users"] = min(fast)

    def best(self, modality: str, share: float) -> None:
        """Time each side at the batch where it is fastest, in that share of the time left."""
        figures = self.figures[modality]
        users = {name: side["best"]["users"] for name, side in figures.items() if side["best"]["users"]}
        for name, measured in self.measure(modality, users, share * self.left).items():
            figures[name]["best"] = measured

    def decode(self) -> None:
        """Time our search against ``generate`` of transformers."""
        self.free()
        model, users, states = self.stepper.model, self.load.decoded, self.load.states
        text = copy.deepcopy(model.text).to(torch.bfloat16).eval()
        text.set_attn_implementation(ATTENTION)
        hidden = torch.randn(users, states, text.config.d_model, device=DEVICE, dtype=torch.bfloat16)
        mask = torch.ones(users, states, dtype=torch.bool, device=DEVICE)
        calls = decoders(Setting(text=text, grammar=model.grammar, vocabulary="schema", hidden=hidden, mask=mask))
        repeats = self.repeats(sum(map(clock, calls.values())), 60)
        seconds = alternate(calls, repeats)
        figures: dict[str, Any] = {"users": users, "states": states, "repeats": repeats}
        figures |= {f"{name}_users_per_s": users / statistics.median(times) for name, times in seconds.items()}
        figures |= {"vs_generate": ratio(seconds, "generate", "ours"), "vs_prefix_fn": ratio(seconds, "prefix", "ours")}
        self.figures["decode"] = figures

    def compile(self, modality: str, name: str) -> None:
        """Time one of our sides compiled against the same side uncompiled."""
        model, users = self.stepper.model, self.load.users
        if not self.figures["compile"]:
            assert model.vision is not None
            for part in (model.text.get_encoder(), model.text.get_decoder()):
                part.compile(dynamic=True)
            vit = model.vision.vit
            vit.forward_features = torch.compile(vit.forward_features, dynamic=True)
            # Encoder and decoder share the frame of a decorator: at 8 recompilations it would run eagerly unnoticed.
            torch.compiler.config.recompile_limit = 64
        side = make_side(self.town, modality, name, users)

        def eager() -> None:
            with torch.compiler.set_stance("force_eager"):
                self.stepper.step(side)

        calls = {"eager": eager, "compiled": partial(self.stepper.step, side)}
        for _ in range(2):  # the first time compiles
            took = sum(map(clock, calls.values()))
        seconds = alternate(calls, self.repeats(took, 30))
        rate = users / statistics.median(seconds["compiled"])
        self.figures["compile"][f"{modality}, {name}"] = {
            "users_per_s": rate,
            "vs_eager": ratio(seconds, "eager", "compiled"),
            "matmul_share": self.share(self.figures[modality][name]["tflop"], users, rate),
        }

    def run(self) -> None:
        """Do all phases, the most important first."""
        if not self.phase("model and users", self.prepare):
            return
        self.phase("bf16 matmul", self.matmul)
        for modality in MODALITIES:
            self.phase(f"losses, {modality}", partial(self.losses, modality))
            self.phase(f"same number of users, {modality}", partial(self.same, modality))
        self.phase("decoding", self.decode)
        for modality, name in product(MODALITIES, (*OURS, *reversed(PEERS))):
            self.phase(f"largest batch, {modality}, {name}", partial(self.search, modality, name))
        for modality, share in zip(MODALITIES, (0.4, 0.7), strict=True):
            self.phase(f"best batch, {modality}", partial(self.best, modality, share))
        if self.arguments.compile:
            for modality, name in product(MODALITIES, OURS):
                needs = 90 * CUDA  # compiling is not interrupted
                self.phase(f"torch.compile, {modality}, {name}", partial(self.compile, modality, name), needs)


def main() -> int:
    """Run the command line and return its exit code: 2 without a GPU, 1 where the model or the losses failed."""
    made = parser((__doc__ or "").splitlines()[0])
    made.add_argument("--size", choices=list(SIZES), default="base", help="toy also runs on a CPU")
    made.add_argument("--minutes", type=float, default=7.0, help="no part of the run begins later")
    made.add_argument("--compile", action="store_true", help="also our step with torch.compile")
    arguments = made.parse_args()
    if not CUDA and arguments.size != "toy":
        print("no GPU here; to try this at tiny shapes on the CPU: gpu.py --size toy --repeats 1", file=sys.stderr)
        return 2
    torch.set_flush_denormal(True)  # as mmprofile.train does
    torch.backends.cudnn.allow_tf32 = False  # the default for convolutions; float32 must mean float32
    bench = Bench(arguments)
    bench.run()
    text = f"## On a GPU\n\n`python benchmarks/gpu.py`: {(__doc__ or '').partition(chr(10) * 2)[2].strip()}\n\n"
    text += f"{machine()}; size {arguments.size}; medians of up to {arguments.repeats}.\n\n{render(bench.figures)}"
    report("gpu", text, bench.figures, arguments)
    return int(any(name.startswith(("model", "losses")) for name in bench.not_measured))


if __name__ == "__main__":
    sys.exit(main())
