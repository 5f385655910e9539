"""Classifiers beside the decoder, whose probabilities are mixed with the decoder's.

Dimension letters as in :mod:`mmprofile.model`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mmprofile.model.decoding import Decoded
from mmprofile.model.heads import LEAST, LateFusion, Votes, mixture
from mmprofile.profile.schema import Profile, Schema


class Auxiliary(LateFusion):
    """Classifiers of what the decoder reads, trained beside it; predictions mix their probabilities with the decoder's.

    Args:
        schema: what is predicted.
        width: d.
        weight: of their loss in training.

    Attributes:
        share: (A,) their share in an attribute's probabilities; the rest is the decoder's. Half until :meth:`fit_share`.
    """

    def __init__(self, schema: Schema, width: int, weight: float) -> None:
        super().__init__(schema, width, 0)
        self.weight = weight
        self.share: Tensor
        self.register_buffer("share", torch.full((len(schema.attributes),), 0.5))

    def votes(self, hidden: Tensor, mask: Tensor) -> Votes:
        """Return the votes on R rows by what the decoder reads, (R, N', d) and (R, N') bool."""
        votes: Votes = self(hidden, mask, hidden[:, :0, :0], mask[:, :0])
        return votes

    def join(self, written: Sequence[Decoded], classified: Sequence[Decoded]) -> list[Decoded]:
        """Mix the posteriors of decoder and classifiers, and take the likeliest value of each attribute by itself.

        Only the decoder knows Unknown; the classifiers share what it leaves to the other values.

        Args:
            written: each user's profile by the decoder.
            classified: each user's profile by the classifiers.
        """
        return [self._joined(decoder, classes) for decoder, classes in zip(written, classified, strict=True)]

    def _joined(self, written: Decoded, classified: Decoded) -> Decoded:
        """Mix the posteriors of one user."""
        shares = dict(zip(self.schema.names, self.share.tolist(), strict=True))
        posteriors: dict[str, dict[tuple[str, ...], float]] = {}
        for name, share in shares.items():
            decoder, classes = written.posteriors[name], known_share(written, classified, name)
            mixed = {
                value: (1 - share) * decoder.get(value, 0.0) + share * classes.get(value, 0.0)
                for value in decoder | classes
            }
            posteriors[name] = dict(sorted(mixed.items(), key=lambda item: -item[1]))
        profile = {name: next(iter(values)) for name, values in posteriors.items()}
        log_probability = sum(math.log(posteriors[name][values]) for name, values in profile.items())
        lost = written.lost * (1 - min(shares.values()))
        return Decoded(
            text=self.schema.render(profile),
            profile=profile,
            log_probability=log_probability,
            posteriors=posteriors,
            lost=lost,
            exact=not lost,
        )

    def fit_share(self, written: Sequence[Decoded], classified: Sequence[Decoded], gold: Sequence[Profile]) -> None:
        """Fit the share of each attribute to make the gold values likeliest; unknown ones do not count.

        Args:
            written, classified: see :meth:`join`.
            gold: each user's gold profile.
        """
        for a, name in enumerate(self.schema.names):
            right = [
                [
                    decoder.posteriors[name].get(profile[name], 0.0),
                    known_share(decoder, classes, name).get(profile[name], 0.0),
                ]
                for decoder, classes, profile in zip(written, classified, gold, strict=True)
                if profile.get(name)
            ]
            if right:
                probabilities = torch.tensor(right, dtype=torch.double).clamp_min(LEAST)
                self.share[a] = mixture(probabilities, torch.ones_like(probabilities, dtype=torch.bool))[1]


def known_share(written: Decoded, classified: Decoded, name: str) -> dict[tuple[str, ...], float]:
    """Return the classifiers' posterior of an attribute, scaled to what the decoder leaves to values but Unknown."""
    unknown = written.posteriors[name].get((), 0.0)
    shares = {value: (1 - unknown) * share for value, share in classified.posteriors[name].items()}
    return shares | {(): unknown} if unknown else shares
