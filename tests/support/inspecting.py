"""Views and comparisons that tests of the inspection share."""

from collections.abc import Callable
from typing import Any

import numpy as np

from mmprofile.inputs.batch import Collator
from mmprofile.inputs.views import User, build_view
from mmprofile.inspection.counterfactuals import total_variation
from mmprofile.inspection.inspector import Inspector
from mmprofile.model.decoding import Decoded
from mmprofile.model.model import ProfileModel

FUSION, TEXT = build_view("fusion", "both"), build_view("text", "both")
VIEWS = (FUSION, TEXT, build_view("masked_image", "both"), build_view("masked_profile", "both"))
Make = Callable[..., Inspector]


def close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), atol=tolerance, rtol=0)


def close_posteriors(actual: Decoded, expected: Decoded) -> None:
    assert actual.text == expected.text
    for name, values in expected.posteriors.items():
        assert total_variation(values, actual.posteriors[name]) < 1e-4


def posteriors(model: ProfileModel, collator: Collator, users: list[User]) -> list[Decoded]:
    return [one for user in users for one in model.decode(collator([user], [FUSION]))]
