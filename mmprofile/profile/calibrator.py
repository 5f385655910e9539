"""Confidence that means something, fitted on validation users: temperatures, and sets that hold the truth.

Sources: Guo et al. 2017 (temperature), Vovk et al. 2005 and Sadinle et al. 2019 (split conformal sets of the least size).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmprofile.errors import UserError
from mmprofile.profile.schema import Profile

Values = tuple[str, ...]
Posteriors = Mapping[str, Mapping[Values, float]]
"""Attribute -> its values -> their probability; () stands for Unknown."""

LEAST = 1e-6
"""A gold value of less probability counts as if it had this one."""
BOUNDS = (-2.0, 3.0)
"""Of the natural logarithm of a temperature."""
SPREAD = 0.5
"""Standard deviation of the logarithm of temperatures before any user is seen, around 0: a few users move it little."""


@dataclass(frozen=True)
class AttributeCalibration:
    """What the validation users tell of one attribute.

    Attributes:
        temperature: probabilities p become p^(1/temperature), scaled to sum to 1; above 1 they become less sure.
        scores: 1 minus the model's probability of each validation user's gold value, ascending.
    """

    temperature: float = 1.0
    scores: tuple[float, ...] = ()

    def threshold(self, risk: float) -> float:
        """Return the least probability of a value in a set that lacks the truth with probability ``risk`` at most.

        Of n users the k-th score counts, k = ceil((n + 1)(1 - risk)); with fewer users than that, sets hold all values.
        """
        k = math.ceil((len(self.scores) + 1) * (1 - risk) - 1e-9)
        return 1 - self.scores[k - 1] if k <= len(self.scores) else 0.0


@dataclass(frozen=True)
class Calibrator:
    """Makes a model's posteriors trustworthy.

    Args:
        attributes: by name; others stay as they are.
    """

    attributes: Mapping[str, AttributeCalibration]

    @classmethod
    def fit(cls, posteriors: Sequence[Posteriors], gold: Sequence[Profile]) -> "Calibrator":
        """Return the calibrator of validation users; what is not labelled does not count.

        Args:
            posteriors: of each user, by the model.
            gold: their profiles, values in the order in which the schema renders them.
        """
        attributes = {}
        for name in posteriors[0] if posteriors else ():
            labelled = [
                (posterior[name], profile[name])
                for posterior, profile in zip(posteriors, gold, strict=True)
                if name in profile
            ]
            scores = sorted(1 - shares.get(values, 0.0) for shares, values in labelled)
            attributes[name] = AttributeCalibration(_fit_temperature(labelled), tuple(scores))
        return cls(attributes)

    def calibrated(self, posteriors: Posteriors) -> dict[str, dict[Values, float]]:
        """Return posteriors at the fitted temperatures; the order of an attribute's values stays."""
        return {
            name: _at_temperature(shares, self.attributes[name].temperature)
            if name in self.attributes
            else dict(shares)
            for name, shares in posteriors.items()
        }

    def sets(self, posteriors: Posteriors, profile: Profile, risk: float) -> dict[str, list[Values]]:
        """Return, per attribute, values among which the true one is for all but a share ``risk`` of users.

        This holds on average over users like those of the validation split, whatever the model is worth; a bad one
        gets large sets.

        Args:
            posteriors: by the model, not calibrated.
            profile: what was predicted; it is in the sets.
            risk: above 0 and below 1.

        Returns:
            The likeliest values first.
        """
        sets: dict[str, list[Values]] = {}
        for name, shares in posteriors.items():
            least = self.attributes.get(name, AttributeCalibration()).threshold(risk)
            chosen = {values for values, share in shares.items() if share >= least} | {profile[name]}
            likeliest = {**dict.fromkeys(chosen, 0.0), **shares}
            sets[name] = sorted(chosen, key=likeliest.__getitem__, reverse=True)
        return sets

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, from which :meth:`from_dict` makes the calibrator again."""
        return {
            name: {"temperature": part.temperature, "scores": list(part.scores)}
            for name, part in self.attributes.items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Calibrator":
        """Return the calibrator of plain data.

        Raises:
            KeyError, TypeError, ValueError: they are none.
        """
        return cls(
            {
                name: AttributeCalibration(float(part["temperature"]), tuple(map(float, part["scores"])))
                for name, part in data.items()
            }
        )


def check_risk(risk: float | None) -> None:
    """Refuse what is no risk.

    Raises:
        UserError: it is not above 0 and below 1.
    """
    if risk is not None and not 0 < risk < 1:
        raise UserError(f"risk={risk}: give the share of users whose set may lack the truth, above 0 and below 1")


def _at_temperature(shares: Mapping[Values, float], temperature: float) -> dict[Values, float]:
    powers = {values: share ** (1 / temperature) for values, share in shares.items()}
    total = sum(powers.values())
    return {values: power / total for values, power in powers.items()} if total else dict(shares)


def _fit_temperature(labelled: Sequence[tuple[Mapping[Values, float], Values]]) -> float:
    """Return the temperature that makes gold values likeliest; that of few users stays near 1 (see SPREAD)."""
    from scipy.optimize import minimize_scalar  # predictions need no SciPy

    def loss(logarithm: float) -> float:
        temperature = math.exp(logarithm)
        gold = (_at_temperature(shares, temperature).get(values, 0.0) for shares, values in labelled)
        return (logarithm / SPREAD) ** 2 / 2 - sum(math.log(max(share, LEAST)) for share in gold)

    return math.exp(minimize_scalar(loss, bounds=BOUNDS, method="bounded").x) if labelled else 1.0
