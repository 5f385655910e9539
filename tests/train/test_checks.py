"""Settings of ``train`` that make no sense."""

from pathlib import Path

import pytest

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.train.checks import DATA, check_settings, keep_data, unknown_tokens

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model=flan_t5", "paradigm=both"], "sees no photos"),
        (["model=bart", "paradigm=multi"], "choose paradigm=text or paradigm=uni"),
        (["model=od_tup", "paradigm=text", "model.target=each"], "model.target='each' is not one of"),
        (["model.auxiliary=-1"], "model.auxiliary=-1.0: give 0 or more"),
        (["model=od_tup", "model.auxiliary=0.5"], "unless a decoder writes whole profiles"),
        (["model=coopnet", "model.auxiliary=0.5"], "unless a decoder writes whole profiles"),
        (["model=majority", "paradigm=text", "model.auxiliary=0.5"], "does not go with the other choices"),
        (["model.auxiliary=nan"], "model.auxiliary=nan: give 0 or more"),
        (["model=llama", "paradigm=text", "model.text.lora.rank=-2"], "lora.rank=-2: give 1 or more"),
        (["model=bart", "paradigm=text", "model.size=huge"], "model bart has the sizes tiny, base, large"),
    ],
)
def test_settings_without_meaning(overrides: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_settings(load_config("train", overrides))


def test_a_run_goes_on_with_the_data_that_it_began_with(tmp_path: Path) -> None:
    data = {"train": "a", "photos": "b"}
    keep_data(tmp_path, data, generated=False)
    keep_data(tmp_path, other := data | {"train": "c"}, generated=False)  # nothing is learned yet
    (tmp_path / "checkpoints").mkdir()
    keep_data(tmp_path, other, generated=False)
    with pytest.raises(UserError, match=r"the data have changed since this run began \(train\): choose another name="):
        keep_data(tmp_path, data, generated=True)
    (tmp_path / DATA).unlink()  # a run of an earlier version, which put own data in another order
    with pytest.raises(UserError, match=r"the data have changed since this run began \(train, photos\)"):
        keep_data(tmp_path, data, generated=False)
    keep_data(tmp_path, data, generated=True)


def test_the_share_of_unknown_tokens() -> None:
    assert unknown_tokens([[2, 5, 2], [7]], 2) == 0.5
    assert unknown_tokens([[2, 5], []], None) == 0.0
    assert unknown_tokens([], 2) == unknown_tokens([[]], 2) == 0.0
