"""``calibration.json``: written and read; a damaged one is one line."""

from pathlib import Path

import pytest

from mmprofile.errors import UserError
from mmprofile.model.confidence import Confidence, WithoutCaptions, load_confidence
from mmprofile.profile.calibrator import AttributeCalibration, Calibrator

pytestmark = pytest.mark.fast

FULL, BARE = (Calibrator({"Ä": AttributeCalibration(t, (0.1, 0.25))}) for t in (1.5, 2.0))


@pytest.mark.parametrize("bare", [None, WithoutCaptions(BARE, 70.0, 73.5)])
def test_what_is_written_is_read_again(bare: WithoutCaptions | None, tmp_path: Path) -> None:
    known = Confidence(20, FULL, bare)
    assert load_confidence(tmp_path) is None
    known.save(tmp_path)
    assert load_confidence(tmp_path) == known


def test_photos_without_captions_have_a_calibrator_of_their_own() -> None:
    known = Confidence(20, FULL, WithoutCaptions(BARE, 70.0, 73.5))
    assert known.of(photos=2, captions=0) is BARE
    assert known.of(photos=2, captions=1) is known.of(photos=0, captions=0) is FULL
    assert Confidence(20, FULL).of(photos=2, captions=0) is FULL
    assert known.without_captions is not None
    assert "costs 3.5 points of macro-F1 (73.5 with captions, 70.0 without)" in known.without_captions.cost()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"users": 1, "attributes": {"A": {}}}', '{"users": 1, "attributes": 3}']
)
def test_a_damaged_file_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(UserError, match=r"calibration\.json: damaged .* remove it"):
        load_confidence(tmp_path)
