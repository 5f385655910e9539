"""Training and decoding on a GPU against what people run: ``python benchmarks/gpu.py``, under 8 minutes, offline.

Random weights and dropout of flan-t5-base's shape with vit_base_patch16_224; 3 reviews of 58.7 words on average and 3 photos
of 224 px a user, nobody's texts and photos another's. Sides of a training step (forward, backward, Adam; batches wait on the
device):

- *literal* (a): every view of every user a sample of its own, padded to 600 tokens, float32 without TF32, stock transformers
  T5 and timm, views one after another;
- *good* (b): a batch a view, padded to its longest text, bf16 by autocast, one backward pass for the mean of the views' losses;
- *joint*, *segments*: mmprofile's step, bf16 by autocast, loss over the schema's tokens; what a view shows as one text, as in
  the paper, or each review, the captions and the masked profile apart.

T5's attention is sdpa for all on a GPU. Every side steps at the same number of users, then at its best: the smallest batch
within 3 % of the side's fastest, of those tried on the way to the largest that fits. FLOPs are the step's own, padding
included, as PyTorch counts them: matrix products, convolutions and attention; norms, softmax, sparsemax, look-ups, dropout
and Adam are none, nor is sdpa's kernel on a CPU. Their rate is a share of a large bf16 product's in the same run. Peak memory
is what PyTorch allocates, with weights, gradients and Adam's moments. Decoding: weights in bf16, the encoder left out.
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
from common import alternate, machine, parser, ratio, report, table
from decode import Setting
from decode import sides as decoders
from torch.utils.flop_counter import FlopCounterMode
from train_step import REVIEWS, SIZES, TOKENS, Side, Stepper, Town, build, check_losses, separate_losses

from mmprofile.inputs.views import VIEWS, User, paradigm_views
from mmprofile.model.kernels import ATTENTION
from mmprofile.model.model import ProfileModel
from mmprofile.train.module import joint_loss

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
synchronize: Callable[[], None] = torch.cuda.synchronize if CUDA else lambda: None
MODALITIES = ("multi", "both")
PEERS, OURS = ("literal", "good"), ("joint", "segments")
GOALS = {"matmul_share": 0.35, "vs_good": 4.0}
MEASURED = ("users", "users_per_s", "peak_mb", "tflop", "matmul_share", "vs_literal", "vs_good", "repeats")
ERRORS = (Exception, SystemExit)
"""Which end a phase and not the run: check_losses exits, a compiler may fail in any way."""


class Load(NamedTuple):
    """How much: users of a step, most users tried, users and input states decoded, width of the large matrices."""

    users: int = 16
    most: int = 512
    decoded: int = 32
    states: int = 230
    matmul: int = 8192


LOADS = {"toy": Load(1, 1, 2, 20, 256)}


class Crowd(Town):
    """A town of any size: who lives there twice has other words and photos, as far as a batch can tell."""

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
    """A side with a batch of that many users on the device."""
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
    """Seconds that it takes, the device's part included."""
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def largest(fits: Callable[[int], bool], start: int, most: int, until: float) -> tuple[int, str]:
    """The most users that fit, to an eighth, and what ended the search: memory, the ``most`` users asked for, or time.

    By doubling from ``start``, then by bisection, until that time of ``time.monotonic``.
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
    """What went wrong."""
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
        """Seconds."""
        return self.end - time.monotonic()

    def phase(self, name: str, work: Callable[[], None], needs: float = 0.0) -> bool:
        """Does a part of the run unless less than ``needs`` seconds are left; says how it went, keeps the figures."""
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
        if self.arguments.json:  # what is measured is kept, whatever comes
            self.arguments.json.write_text(json.dumps(self.figures, indent=2) + "\n", encoding="utf-8")
        return status == "done"

    def prepare(self) -> None:
        """The model and the town."""
        model = build(SIZES[self.arguments.size]).to(DEVICE)
        self.stepper, self.town = Stepper(model), Crowd(model)
        # Adam's moments are allocated in a small step: in a large one they would end up among blocks of activations.
        self.stepper.step(make_side(self.town, "multi", "joint", 1))
        gc.freeze()  # what lives now lives on: collecting the rest takes no time

    def free(self) -> None:
        """Gives back what the last step, or one that ran out of memory, left."""
        self.stepper.optimizer.zero_grad()
        self.stepper.side = None  # it holds a batch
        gc.collect()
        if CUDA:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def matmul(self) -> None:
        """The rate of a large product in bf16."""
        n, times = self.load.matmul, 20
        a, b = (torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))

        def products() -> None:
            for _ in range(times):
                a @ b

        seconds = statistics.median(alternate({"": products}, self.arguments.repeats)[""])
        self.figures["matmul_tflops"] = times * 2 * n**3 / seconds / 1e12

    def losses(self, modality: str) -> None:
        """The losses of both peers and of *joint*, which are to be the same."""
        sides = {name: make_side(self.town, modality, name, 2) for name in (*PEERS, "joint")}
        self.figures["loss_difference"][modality] = check_losses(self.stepper, sides)

    def repeats(self, round_: float, limit: float) -> int:
        """As many as were asked for, or as take no more than ``limit`` seconds at ``round_`` seconds each."""
        found = min(self.arguments.repeats, int(min(limit, self.left) / round_))
        if found < 1:
            raise RuntimeError(f"no time left: a round takes {round_:.0f} s")
        return found

    def measure(self, modality: str, users: Mapping[str, int], limit: float) -> dict[str, dict[str, Any]]:
        """Times the sides, each at its number of users -> figures of each."""
        sides = {name: make_side(self.town, modality, name, count) for name, count in users.items()}
        found: dict[str, dict[str, Any]] = {name: dict.fromkeys(MEASURED) for name in users}
        steps, round_ = {}, 0.0
        for name, side in sides.items():
            self.free()
            with FlopCounterMode(display=False) as counter:
                self.stepper.step(side)
            took = clock(partial(self.stepper.step, side))
            peak = round(torch.cuda.max_memory_allocated() / 2**20) if CUDA else None
            found[name] |= {"users": users[name], "peak_mb": peak, "tflop": counter.get_total_flops() / 1e12}
            steps[name] = min(max(round(0.5 / took), 1), 10) if CUDA else 1
            round_ += took * (steps[name] + 1)
        repeats = self.repeats(round_, limit)
        per_user: dict[str, list[float]] = {name: [] for name in sides}
        for name, side in list(sides.items()) * repeats:
            self.free()
            self.stepper.step(side)  # readies the model and allocates, which a training does once
            # Several at a time: the device is given the next step's work during the last one's.
            seconds = clock(lambda side=side, n=steps[name]: [self.stepper.step(side) for _ in range(n)])
            per_user[name].append(seconds / steps[name] / users[name])
        for name, one in found.items():
            one["users_per_s"] = 1 / statistics.median(per_user[name])
            one["matmul_share"] = self.share(one["tflop"], users[name], one["users_per_s"])
            one |= {f"vs_{peer}": ratio(per_user, peer, name) for peer in PEERS if peer in users}
            one["repeats"] = repeats
        return found

    def share(self, tflop: float | None, users: int, rate: float) -> float | None:
        """What a step's teraflops for so many users are, at that many users a second, of the large product's rate."""
        return tflop / users * rate / self.figures["matmul_tflops"] if tflop and self.figures["matmul_tflops"] else None

    def same(self, modality: str) -> None:
        """All sides at the same number of users."""
        users = dict.fromkeys((*PEERS, *OURS), self.load.users)
        for name, found in self.measure(modality, users, 40).items():
            self.figures[modality][name] |= found

    def search(self, modality: str, name: str) -> None:
        """The largest batch of a side, and its best one."""
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
        found, ended_by = largest(fits, self.load.users, self.load.most, until)
        self.free()
        if not rates:
            raise RuntimeError("no batch fits")
        self.figures[modality][name] |= {"largest": found, "largest_ended_by": ended_by}
        fast = [users for users, rate in rates.items() if rate >= 0.97 * max(rates.values())]
        self.figures[modality][name]["best"]["users"] = min(fast)

    def best(self, modality: str, share: float) -> None:
        """Every side at the batch where it is fastest, in that share of the time left."""
        figures = self.figures[modality]
        users = {name: one["best"]["users"] for name, one in figures.items() if one["best"]["users"]}
        for name, found in self.measure(modality, users, share * self.left).items():
            figures[name]["best"] = found

    def decode(self) -> None:
        """Ours against transformers' generate."""
        self.free()
        model, users, states = self.stepper.model, self.load.decoded, self.load.states
        text = copy.deepcopy(model.text).to(torch.bfloat16).eval()
        text.set_attn_implementation(ATTENTION)
        hidden = torch.randn(users, states, text.config.d_model, device=DEVICE, dtype=torch.bfloat16)
        mask = torch.ones(users, states, dtype=torch.bool, device=DEVICE)
        calls = decoders(Setting(text, model.grammar, "schema", hidden, mask))
        repeats = self.repeats(sum(map(clock, calls.values())), 60)
        seconds = alternate(calls, repeats)
        figures: dict[str, Any] = {"users": users, "states": states, "repeats": repeats}
        figures |= {f"{name}_users_per_s": users / statistics.median(one) for name, one in seconds.items()}
        figures |= {"vs_generate": ratio(seconds, "generate", "ours"), "vs_prefix_fn": ratio(seconds, "prefix", "ours")}
        self.figures["decode"] = figures

    def compile(self, modality: str, name: str) -> None:
        """One of our sides compiled against the same as it is."""
        model, users = self.stepper.model, self.load.users
        if not self.figures["compile"]:
            assert model.vision is not None
            for part in (model.text.get_encoder(), model.text.get_decoder()):
                part.compile(dynamic=True)
            vit = model.vision.vit
            vit.forward_features = torch.compile(vit.forward_features, dynamic=True)
            # Encoder and decoder share the frame of a decorator: at 8 recompilations it would run eagerly unnoticed.
            torch._dynamo.config.recompile_limit = 64
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
        """All phases, the most wanted first."""
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


def cell(value: Any, form: str = ",.1f") -> str:
    """A figure in a table."""
    return "not measured" if value is None else format(value, form)


def training(figures: Mapping[str, Any]) -> list[str]:
    """The table of training steps, and what became of the goals."""
    forms = {"users": "d", "users_per_s": ",.1f", "peak_mb": ",d", "matmul_share": ".1%"}
    forms |= {"vs_literal": ".2f", "vs_good": ".2f"}
    rows, goals = [], []
    for modality, batch, name in product(MODALITIES, ("same", "best"), (*PEERS, *OURS)):
        side = figures[modality][name]
        one = side["best"] if batch == "best" else side
        most = f"{side['largest']} ({side['largest_ended_by']})" if side["largest"] else cell(None)
        shown = [cell(one[key], form) for key, form in forms.items()]
        rows.append([f"{modality}, {name}, {batch} batch", *shown, most if batch == "best" else ""])
        if batch == "best" and name in OURS:
            for key, goal in GOALS.items():
                verdict = "" if one[key] is None else " (reached)" if one[key] >= goal else " (missed)"
                goals.append(f"{modality}, {name}, {key}: {cell(one[key], forms[key])}{verdict}")
    head = ["users", "users/s", "peak, MB", "of matmul", "times (a)", "times (b)", "largest batch (ended by)"]
    said = "Goals, each side at its best batch: >= 35 % of the matmul's rate, >= 4 times (b)."
    return [table(["paradigm, side, batch", *head], rows), f"{said} {'; '.join(goals)}."]


def render(figures: Mapping[str, Any]) -> str:
    """Everything as Markdown."""
    parts = training(figures)
    if found := figures["decode"]:
        head = ["decoding", "ours, users/s", "generate, beam 5", "with prefix_allowed_tokens_fn", "times", "times"]
        keys = ("ours_users_per_s", "generate_users_per_s", "prefix_users_per_s", "vs_generate", "vs_prefix_fn")
        what = f"{found['users']} users, {found['states']} states"
        parts.append(table(head, [[what, *(cell(found[key]) for key in keys)]]))
    if compiled := figures["compile"]:
        forms = {"users_per_s": ",.1f", "vs_eager": ".2f", "matmul_share": ".1%"}
        rows = [[name, *(cell(one[key], form) for key, form in forms.items())] for name, one in compiled.items()]
        parts.append(table(["torch.compile", "users/s", "times eager", "of matmul"], rows))
    parts.append(f"The large bf16 product: {cell(figures['matmul_tflops'])} TFLOP/s.")
    for modality, one in figures["loss_difference"].items():
        parts[-1] += (
            f" {modality}: losses of (a), (b), joint differ by {one['fp32']:.0e}, in bf16 by {one['bf16']:.0e}."
        )
    return "\n\n".join([*parts, *(f"{name}: {why}." for name, why in figures["not_measured"].items())])


def main() -> int:
    """Command line -> exit code: 2 without a GPU, 1 where the sides' losses or the model failed."""
    made = parser((__doc__ or "").splitlines()[0])
    made.add_argument("--size", choices=list(SIZES), default="base", help="toy also runs on a CPU")
    made.add_argument("--minutes", type=float, default=7.0, help="no part of the run begins later")
    made.add_argument("--compile", action="store_true", help="also our step with torch.compile")
    arguments = made.parse_args()
    if not CUDA and arguments.size != "toy":
        print("no GPU here; to try this at tiny shapes on the CPU: gpu.py --size toy --repeats 1", file=sys.stderr)
        return 2
    torch.set_flush_denormal(True)  # as mmprofile.train does
    torch.backends.cudnn.allow_tf32 = False  # convolutions' default; float32 is to mean float32
    bench = Bench(arguments)
    bench.run()
    text = f"## On a GPU\n\n`python benchmarks/gpu.py`: {(__doc__ or '').partition(chr(10) * 2)[2].strip()}\n\n"
    text += f"{machine()}; size {arguments.size}; medians of up to {arguments.repeats}.\n\n{render(bench.figures)}"
    report("gpu", text, bench.figures, arguments)
    return int(any(name.startswith(("model", "losses")) for name in bench.not_measured))


if __name__ == "__main__":
    sys.exit(main())
