"""A part of a configuration as a dataclass: what is wrong is named with its full path."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from omegaconf import MISSING, OmegaConf

from mmprofile.config.parts import typed_part
from mmprofile.errors import UserError

pytestmark = pytest.mark.fast


@dataclass
class Prices:
    prompt: float | None = None


@dataclass(frozen=True)
class Teacher:
    name: str = MISSING
    retries: int = 5
    size: int | float = 0.5
    prices: Prices = field(default_factory=Prices)


def test_values_and_what_is_left_out() -> None:
    assert typed_part(Teacher, {"name": "x", "size": 3}, "teacher") == Teacher("x", 5, 3)
    config = OmegaConf.create({"seed": 7, "teacher": {"name": "x", "retries": "${seed}", "prices": {"prompt": 2}}})
    assert typed_part(Teacher, config.teacher, "teacher") == Teacher("x", 7, 0.5, Prices(2.0))


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (
            {"name": "x", "retry": 1},
            "teacher has no key 'retry' (did you mean retries?); keys: name, retries, size, prices",
        ),
        ({"name": "x", "prices": {"promt": 1}}, "teacher.prices has no key 'promt'"),
        (
            {"name": "x", "retries": "many"},
            "teacher.retries: Value 'many' of type 'str' could not be converted to Integer",
        ),
        ({"name": "x", "prices": {"prompt": "dear"}}, "teacher.prices.prompt: Value 'dear' of type 'str'"),
        ({"name": "x", "size": True}, "teacher.size: Value 'True' of type 'bool' is incompatible"),
        ({"name": "???"}, "teacher.name is not set"),
        ({}, "teacher.name is not set"),
        ([1], "teacher is [1]: expected keys with values"),
        ("x", "teacher is 'x': expected keys with values"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda part: part, OmegaConf.create], ids=["plain", "omegaconf"])
def test_mistakes_are_named(part: Any, says: str, wrap: Any) -> None:
    if isinstance(part, str):
        wrap = str  # OmegaConf would parse it
    with pytest.raises(UserError) as raised:
        typed_part(Teacher, wrap(part), "teacher")
    assert str(raised.value).startswith(says)
