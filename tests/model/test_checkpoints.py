"""Names of checkpoints."""

import pytest

from mmprofile.model.checkpoints import local_name
from mmprofile.paths import ASSETS

pytestmark = pytest.mark.fast


def test_names_inside_the_package() -> None:
    assert local_name("mmprofile:tiny/text") == str(ASSETS / "tiny" / "text")
    assert local_name("mmprofile:tiny/vision", "local-dir:") == f"local-dir:{ASSETS / 'tiny' / 'vision'}"
    assert local_name("google/flan-t5-base", "local-dir:") == "google/flan-t5-base"
