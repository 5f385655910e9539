"""Probe whether a model uses photos: its loss on gold profiles with the users' own photos, and with other users' photos."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import torch

from mmprofile.inputs.batch import Collator
from mmprofile.inputs.data import BatchData
from mmprofile.inputs.views import User, View, unpaired
from mmprofile.model.model import ProfileModel


class Probe:
    """The loss of users' gold profiles with their own photos and with other users' photos.

    Args:
        collator: of the model.
        view: the one for prediction, which shows photos or captions.
        users: two or more with photos and profiles, always the same, so that epochs can be compared.
        seed: decides who gets whose photos.
        batch_size: rows at a time.
    """

    def __init__(self, collator: Collator, view: View, users: Sequence[User], seed: int, batch_size: int = 64) -> None:
        others = unpaired(users, seed)
        variants = {"paired": users, "unpaired": others}
        if view.photos != "none" and view.captions != "none":
            pixels = [replace(user, photos=other.photos) for user, other in zip(users, others, strict=True)]
            variants["unpaired_pixels"] = pixels
        self.collator, self.size = collator, max(1, batch_size // len(variants))
        self.views = [replace(view, name=name) for name in variants]
        self.users = list(zip(*variants.values(), strict=True))

    @classmethod
    def of(cls, data: BatchData, count: int, seed: int) -> "Probe | None":
        """Return a probe of the first ``count`` validation users with photos and labels.

        None if no photos are shown, or too few users have any.
        """
        view = data.views[0]
        if count < 1 or view.photos == view.captions == "none":
            return None
        users = [user for user in data.users("validation") if user.photos and user.profile][:count]
        return cls(data.collator, view, users, seed, data.eval_batch_size) if len(users) > 1 else None

    @torch.no_grad()
    def __call__(self, model: ProfileModel) -> dict[str, float]:
        """Return the losses of a model in evaluation mode. No random number is drawn.

        Returns:
            ``paired``, ``unpaired`` and, where a view shows both photos and captions, ``unpaired_pixels`` (captions stay the
            user's): mean cross-entropy of a target token, as in training. ``gap`` and ``gap_pixels``: how much higher the
            loss is with other users' photos.
        """
        device = next(model.parameters()).device
        sums = []
        for start in range(0, len(self.users), self.size):
            users = self.users[start : start + self.size]
            # In one batch, what the variants show alike is read once; a view for each keeps their losses apart.
            drawn = [*range(len(self.views))] * len(users)
            output = model(self.collator([*chain(*users)], self.views, drawn=drawn).to(device))
            sums.append(torch.stack([output.view_totals, output.view_tokens]))
        totals, tokens = torch.stack(sums).sum(0)  # (variants,) each
        losses = dict(zip((view.name for view in self.views), (totals / tokens).tolist(), strict=True))
        gaps = {
            name.replace("unpaired", "gap"): loss - losses["paired"]
            for name, loss in losses.items()
            if name != "paired"
        }
        return losses | gaps
