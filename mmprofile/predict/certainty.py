"""How sure a prediction is: calibrated posteriors and, for a risk, sets of values."""

from typing import Any, NamedTuple

from mmprofile.errors import UserError
from mmprofile.model.decoding import Decoded
from mmprofile.model.model import ProfileModel
from mmprofile.predict.users import Selection, plain
from mmprofile.profile.calibrator import Calibrator, check_risk


class Certainty(NamedTuple):
    """How sure the profile of a user is.

    Attributes:
        decoded: with calibrated posteriors, if the model has a calibrator.
        sets: attribute -> values as JSON has them, the likeliest first; None where no risk is given.
    """

    decoded: Decoded
    sets: dict[str, list[Any]] | None

    @classmethod
    def of(cls, model: ProfileModel, selection: Selection, decoded: Decoded, risk: float | None) -> "Certainty":
        """Return how sure a profile is.

        Args:
            model: after :func:`check_calibrator`.
            selection: what the model was shown of the user.
            decoded: what it made of that.
            risk: see :meth:`mmprofile.profile.calibrator.Calibrator.sets`.
        """
        calibrator, sets = choose_calibrator(model, selection), None
        if risk is not None:
            chosen = calibrator.sets(decoded.posteriors, decoded.profile, risk)
            sets = {name: [plain(model.schema[name], values) for values in found] for name, found in chosen.items()}
        return cls(decoded.calibrated(calibrator), sets)


def choose_calibrator(model: ProfileModel, selection: Selection) -> Calibrator:
    """Return the calibrator for what a model is shown of a user; one that changes nothing where the model has none."""
    known = model.confidence
    return Calibrator({}) if known is None else known.of(len(selection.user.photos), selection.used["captions"])


def check_calibrator(model: ProfileModel, risk: float | None, beams: int | None = None) -> None:
    """Refuse a risk where there can be no sets.

    Raises:
        UserError: the risk is none, the model has no calibrator, or beams give no probabilities.
    """
    check_risk(risk)
    if risk is None:
        return
    if model.confidence is None:
        raise UserError("risk=: this model has no calibration.json: train it again with this version")
    if beams is not None:
        raise UserError("risk=: beam search gives no probabilities; leave one of beams= and risk= out")
