"""What gates and attention say of photos after a real training by the main command, on a part of the demo city."""

import subprocess
import sys

import numpy as np
import pytest

from mmprofile.evaluate.runs import load_run, run_data
from mmprofile.inputs.views import pick_photos
from mmprofile.inspection.counterfactuals import hide_photo, total_variation
from mmprofile.inspection.inspector import Inspector

TRAINING = [
    "paradigm=multi", "data.prepare.source.users=600",
    "evaluation.resamples=20", "trainer.progress=false", "name=gates", "out=out",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("gates")
    subprocess.run([sys.executable, "-m", "mmprofile.train", *TRAINING], cwd=folder, check=True, timeout=900)
    return str(folder / "out" / "gates")


@pytest.fixture(scope="module")
def inspector(folder: str) -> Inspector:
    return Inspector.of_run(folder)


def test_a_photo_that_shows_more_lets_in_more(folder: str, inspector: Inspector) -> None:
    cues = run_data(load_run(folder)).prepared.cues
    shown = {
        photo: sum(value is not None for value in of.values()) for (kind, photo), of in cues.items() if kind == "photo"
    }
    ordered = [
        (user, sorted(range(len(user.photos)), key=lambda k: shown[user.photos[k]])) for user in inspector.select()
    ]
    chosen = [(user, order) for user, order in ordered if shown[user.photos[order[0]]] < shown[user.photos[order[-1]]]]
    few, many = (inspector.gates([pick_photos(user, [order[end]]) for user, order in chosen]) for end in (0, -1))
    more = many.added - few.added
    assert len(more) > 80
    assert more.mean() > 3 * more.std() / len(more) ** 0.5  # beyond chance


def test_the_photo_with_most_attention_matters_more_than_the_one_with_least(inspector: Inspector) -> None:
    shares = [
        (inspection.user, inspection.photo_attention.mean(0)) for inspection in inspector.inspect(inspector.select())
    ]
    chosen = [(user, share) for user, share in shares if len(share) > 1 and np.ptp(share) > 0]
    before = inspector.decode([user for user, _ in chosen])
    moved = []
    for pick in (np.argmax, np.argmin):
        after = inspector.decode([hide_photo(user, int(pick(share))) for user, share in chosen])
        moved.append([
            np.mean([total_variation(value, new.posteriors[name]) for name, value in old.posteriors.items()])
            for old, new in zip(before, after, strict=True)
        ])  # fmt: skip
    assert (np.array(moved[0]) > moved[1]).mean() >= 0.7
