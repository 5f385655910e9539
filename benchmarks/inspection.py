"""Measures what gates and attention of a trained run say: ``python benchmarks/inspection.py --run outputs/both``.

Gates: each user's mean |gate * H*| with the own photos, compared with another user's photos and with black ones. The result
is a mean difference with a 95 % interval (bootstrap over users) and the share of users for whom it is positive.
Attention: the posteriors move when the photo with most attention is taken away; do they move more than without the photo
with least (mean total variation of the attributes)? Users count who have two photos or more with different shares.
Cues: if the prepared data say what each photo shows (the demo city's do), the share of attention by a photo's number of
cues, and |gate * H*| of users shown only the photo with most cues, compared with only the one with fewest.
Time: arrays and posteriors of up to 500 training users.
"""

import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from common import machine, parser, report, table

from mmprofile.evaluate.runs import load_run, run_data
from mmprofile.inputs.views import User, pick_photos
from mmprofile.inspection.counterfactuals import black_photo, drop_photo, hide_photo, total_variation
from mmprofile.inspection.inspector import Inspector
from mmprofile.model.decoding import Decoded

RESAMPLES = 2000
REMOVALS: dict[str, Callable[[User, int], User]] = {
    "taken away, its caption stays": hide_photo,
    "taken away with its caption": drop_photo,
    "black": black_photo,
}


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the mean over users."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def compare_gates(inspector: Inspector, users: Sequence[User]) -> dict[str, Any]:
    """Compare users' own photos with others in their place."""
    by_photos = inspector.gates_by_photos(users)
    paired = by_photos["paired"]
    figures: dict[str, Any] = {"zeros": float(paired.zeros.mean()), "support": float(paired.support.mean())}
    figures["added"] = {name: float(gates.added.mean()) for name, gates in by_photos.items()}
    for name in [name for name in by_photos if name != "paired"]:
        more = paired.added - by_photos[name].added
        low, high = interval(more)
        figures[name] = {"difference": float(more.mean()), "low": low, "high": high, "larger": float((more > 0).mean())}
    return figures


def distance(before: Decoded, after: Decoded) -> float:
    """Return the mean total variation of the attributes."""
    return float(np.mean([total_variation(old, after.posteriors[name]) for name, old in before.posteriors.items()]))


def compare_attention(inspector: Inspector, users: Sequence[User], width: int) -> dict[str, Any]:
    """Compare what happens without the photo with most attention and without the one with least."""
    shares = [inspection.photo_attention.mean(0) for inspection in inspector.inspect(users)]
    chosen = [(user, share) for user, share in zip(users, shares, strict=True) if len(share) > 1 and np.ptp(share) > 0]
    before = inspector.decode([user for user, _ in chosen], width)
    figures: dict[str, Any] = {"users": len(chosen)}
    for name, remove in REMOVALS.items():
        moved = []
        for pick in (np.argmax, np.argmin):
            after = inspector.decode([remove(user, int(pick(share))) for user, share in chosen], width)
            moved.append(np.array([distance(old, new) for old, new in zip(before, after, strict=True)]))
        most, least = moved
        figures[name] = {
            "larger": float((most > least).mean()), "most": float(most.mean()), "least": float(least.mean()),
        }  # fmt: skip
    return figures


def compare_cues(inspector: Inspector, users: Sequence[User], cues: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
    """Compare photos with many cues of the profile and photos with few."""
    counts = {
        photo: sum(v is not None for v in cues.get(("photo", photo), {}).values()) for u in users for photo in u.photos
    }
    shares: dict[int, list[float]] = {}
    for inspection in inspector.inspect(users):
        for photo, share in zip(inspection.user.photos, inspection.photo_attention.mean(0), strict=True):
            shares.setdefault(counts[photo], []).append(float(share))
    ordered = [(user, sorted(range(len(user.photos)), key=lambda k: counts[user.photos[k]])) for user in users]
    chosen = [(u, order) for u, order in ordered if counts[u.photos[order[0]]] < counts[u.photos[order[-1]]]]
    few, many = (inspector.gates([pick_photos(u, [order[end]]) for u, order in chosen]).added for end in (0, -1))
    low, high = interval(many - few)
    larger = {"users": len(chosen), "few": float(few.mean()), "many": float(many.mean()), "low": low, "high": high}
    larger["larger"] = float((many > few).mean())
    return {"shares": {str(n): [len(shares[n]), float(np.mean(shares[n]))] for n in sorted(shares)}, "alone": larger}


def measure(arguments: Namespace) -> dict[str, Any]:
    """Return all figures."""
    run = load_run(arguments.run)
    model, data = run.model, run_data(run)
    inspector, training = (Inspector.of_data(model, data, split) for split in ("test", "train"))
    users = inspector.select()[: arguments.users]
    figures = {"gates": compare_gates(inspector, users)}
    figures["attention"] = compare_attention(inspector, users, arguments.width)
    if data.prepared.cues:
        figures["cues"] = compare_cues(inspector, users, data.prepared.cues)
    timed = training.select()[: arguments.timed]
    start = time.perf_counter()
    count = sum(1 for _ in training.inspect(timed))
    figures["time"] = {"users": count, "seconds": time.perf_counter() - start, "threads": torch.get_num_threads()}
    return figures


def describe(figures: dict[str, Any]) -> str:
    """Return the section of the page."""
    gates, attention, took = figures["gates"], figures["attention"], figures["time"]
    rows = [["own (`paired`)", f"{gates['added']['paired']:.3f}", "", ""]]
    for name, mean in gates["added"].items():
        if name != "paired":
            difference = gates[name]
            span = f"{difference['difference']:+.3f} ({difference['low']:+.3f} to {difference['high']:+.3f})"
            rows.append([f"`{name}`", f"{mean:.3f}", span, f"{100 * difference['larger']:.1f} %"])
    text = table(["photos", "mean abs(gate * H*)", "own photos: more by (95 %)", "users with more"], rows)
    text += f"\n\nA token attends to {gates['support']:.2f} visual tokens; of the weights of photos that are there, "
    text += f"{100 * gates['zeros']:.1f} % are exactly 0."
    rows = [
        [name, f"{one['most']:.3f}", f"{one['least']:.3f}", f"{100 * one['larger']:.1f} %"]
        for name, one in attention.items()
        if name != "users"
    ]
    text += f"\n\n{table(['photo', 'most attention', 'least', 'users with most > least'], rows)}"
    text += f"\n\nMean total variation of the attributes, {attention['users']} users.\n\n"
    if "cues" in figures:
        shares, one = figures["cues"]["shares"], figures["cues"]["alone"]
        head = ["attributes that a photo has a cue of", *shares]
        rows = [["photos", *(str(n) for n, _ in shares.values())]]
        rows += [["mean share of attention", *(f"{100 * share:.0f} %" for _, share in shares.values())]]
        text += (
            f"{table(head, rows)}\n\nShown only the photo with most cues, mean abs(gate * H*) is {one['many']:.3f}, "
        )
        text += f"with fewest {one['few']:.3f} (difference {one['low']:+.3f} to {one['high']:+.3f}); larger for "
        text += f"{100 * one['larger']:.1f} % of {one['users']} users.\n\n"
    text += f"Arrays and posteriors of {took['users']} users: {took['seconds']:.1f} s on {took['threads']} thread(s)."
    return f"{text}\n\n{machine()}."


def main() -> None:
    """Print the figures, and write what the arguments ask for."""
    options = parser(__doc__ or "")
    options.add_argument("--run", required=True, help="a trained run with a gate")
    options.add_argument("--name", default="inspection", help="section of the page")
    options.add_argument("--users", type=int, default=None, help="test users; all by default")
    options.add_argument("--timed", type=int, default=500, help="training users to time")
    options.add_argument("--width", type=int, default=32, help="of the search for posteriors")
    arguments = options.parse_args()
    torch.set_flush_denormal(True)
    figures = measure(arguments)
    report(arguments.name, describe(figures), figures, arguments)


if __name__ == "__main__":
    main()
