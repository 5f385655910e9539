"""Whether a model uses the photos at all, asked of it during training: how likely it finds the gold profiles of some users
with their own photos, and with somebody else's."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch

from mmprofile.inputs.batch import Collator
from mmprofile.inputs.views import User, View, unpaired
from mmprofile.model.model import ProfileModel


class Probe:
    """The loss of users' gold profiles when they are shown with their own and with other users' photos.

    Args:
        collator: of the model.
        view: the one for prediction, which shows photos or captions.
        users: two or more with photos and profiles, always the same, so that epochs can be compared.
        seed: of who gets whose photos.
        batch_size: rows at a time.
    """

    def __init__(self, collator: Collator, view: View, users: Sequence[User], seed: int, batch_size: int = 64) -> None:
        others = unpaired(users, seed)
        shown = {"paired": users, "unpaired": others}
        if view.photos != "none" and view.captions != "none":
            pixels = [replace(user, photos=other.photos) for user, other in zip(users, others, strict=True)]
            shown["unpaired_pixels"] = pixels
        self.collator, self.size = collator, max(1, batch_size // len(shown))
        self.views = [replace(view, name=name) for name in shown]
        self.users = list(zip(*shown.values(), strict=True))

    @classmethod
    def of(cls, data: Any, count: int, seed: int) -> "Probe | None":
        """Of the first ``count`` dev users with photos of a datamodule; None where photos are not shown or nobody has any."""
        view = data.views[0]
        if count < 1 or view.photos == view.captions == "none":
            return None
        users = [user for user in data.users("validation") if user.photos][:count]
        return cls(data.collator, view, users, seed, data.eval_batch_size) if len(users) > 1 else None

    @torch.no_grad()
    def __call__(self, model: ProfileModel) -> dict[str, float]:
        """Asks a model, which is in evaluation mode. No random number is drawn.

        Returns:
            ``paired``, ``unpaired`` and, where a view shows both photos and captions, ``unpaired_pixels`` (captions stay the
            user's): mean cross-entropy of a target token, as in training. ``gap`` and ``gap_pixels``: how much more that is
            with somebody else's photos.
        """
        device = next(model.parameters()).device
        found = []
        for first in range(0, len(self.users), self.size):
            some = self.users[first : first + self.size]
            # In one batch, what the three show alike is read once; a view each keeps their losses apart.
            drawn = [*range(len(self.views))] * len(some)
            output = model(self.collator([*chain(*some)], self.views, drawn=drawn).to(device))
            found.append(torch.stack([output.view_totals, output.view_tokens]))
        total, tokens = torch.stack(found).sum(0)
        losses = dict(zip((view.name for view in self.views), (total / tokens).tolist(), strict=True))
        gaps = {
            name.replace("unpaired", "gap"): loss - losses["paired"]
            for name, loss in losses.items()
            if name != "paired"
        }
        return losses | gaps
