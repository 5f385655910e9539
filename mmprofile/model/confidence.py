"""How sure a model may be of its profiles: ``calibration.json`` of an exported model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mmprofile.errors import UserError
from mmprofile.files import MALFORMED, read_json, write_json
from mmprofile.profile.calibrator import Calibrator

FILE = "calibration.json"


class WithoutCaptions(NamedTuple):
    """Predictions of a model that reads captions where photos have none.

    Attributes:
        calibrator: of these predictions.
        macro_f1: of the validation users without any captions, 0 to 100.
        macro_f1_with: of the same users with theirs.
    """

    calibrator: Calibrator
    macro_f1: float
    macro_f1_with: float

    def cost(self) -> str:
        """Return what missing captions cost, in words."""
        return (
            f"on the validation users of its training that costs {self.macro_f1_with - self.macro_f1:.1f} points of "
            f"macro-F1 ({self.macro_f1_with:.1f} with captions, {self.macro_f1:.1f} without)"
        )


@dataclass(frozen=True)
class Confidence:
    """What the validation users tell of a model.

    Attributes:
        users: their number.
        calibrator: of predictions from all that the model reads.
        without_captions: None for a model that reads none.
    """

    users: int
    calibrator: Calibrator
    without_captions: WithoutCaptions | None = None

    def of(self, photos: int, captions: int) -> Calibrator:
        """Return the calibrator of a user with so many photos and captions."""
        missing = self.without_captions is not None and photos and not captions
        return self.without_captions.calibrator if self.without_captions and missing else self.calibrator

    def save(self, folder: Path) -> None:
        """Write ``calibration.json``."""
        data: dict[str, Any] = {"split": "validation", "users": self.users, "attributes": self.calibrator.to_dict()}
        if self.without_captions is not None:
            calibrator, macro_f1, macro_f1_with = self.without_captions
            data["without_captions"] = {
                "macro_f1": macro_f1,
                "macro_f1_with": macro_f1_with,
                "attributes": calibrator.to_dict(),
            }
        write_json(folder / FILE, data, ensure_ascii=False)


def load_confidence(folder: Path) -> Confidence | None:
    """Return what :meth:`Confidence.save` wrote; None where there is no such file: an older version wrote the model.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        data = read_json(path)
        bare = data.get("without_captions")
        return Confidence(
            users=int(data["users"]),
            calibrator=Calibrator.from_dict(data["attributes"]),
            without_captions=None
            if bare is None
            else WithoutCaptions(
                Calibrator.from_dict(bare["attributes"]), float(bare["macro_f1"]), float(bare["macro_f1_with"])
            ),
        )
    except (OSError, *MALFORMED) as error:
        raise UserError(f"{path}: damaged ({error}); remove it for confidences that are not calibrated") from error
