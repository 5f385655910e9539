"""Labels beside people: what cannot be joined."""

from pathlib import Path

import pytest

from mmprofile.errors import UserError
from mmprofile.llm.labels import Label, join
from mmprofile.llm.people import Person
from mmprofile.profile.schema import Attribute, Schema

pytestmark = pytest.mark.fast

SCHEMA = Schema(
    "toy", [Attribute("Age", ("young", "old"), unknown=True), Attribute("Pet", ("cat", "dog"), unknown=True)]
)
PEOPLE = [Person("ann", gold={"Age": ("old",)}), Person("bob", gold={"Age": ()})]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([Label("ann", "Age", "old", 0.5), Label("ann", "Age", "old", 0.5)], "Age of ann has two labels"),
        ([Label("ann", "Age", "ancient", 0.5)], "label 'ancient' is not in profile toy"),
        ([Label("ann", "Age", "old", 1.5)], "confidence 1.5 lies outside 0 to 1"),
        ([Label("ann", "Age", "old", float("nan"))], "confidence nan lies outside 0 to 1"),
    ],
)
def test_labels_that_cannot_be_joined(labels: list[Label], message: str) -> None:
    with pytest.raises(UserError, match=message):
        join(PEOPLE, labels, SCHEMA, Path("labels.parquet"))
