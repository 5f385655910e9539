"""The stage's gate: a purpose is asked for by what the data are."""

import pytest

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.llm.stage import DEMO_PURPOSE, open_schema, purpose


@pytest.mark.parametrize(
    "words",
    [
        ["data=custom", "data.prepare.source.reviews=reviews.jsonl", "data.name=demo"],
        ["data=yelp", "data.prepare.source.path=yelp", "data.name=demo"],
        ["data.prepare._target_=mine.prepare"],
        ["input=people.jsonl"],
    ],
)
def test_other_people_called_demo_need_a_purpose(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"are sensitive: say what they are for, purpose="):
        open_schema(load_config("llm", words))
    stated = load_config("llm", [*words, "purpose=a survey"])
    open_schema(stated)
    assert purpose(stated) == "a survey"


def test_the_demo_city_needs_none_whatever_it_is_called() -> None:
    cfg = load_config("llm", ["data=demo", "data.name=town"])
    open_schema(cfg)
    assert purpose(cfg) == DEMO_PURPOSE
