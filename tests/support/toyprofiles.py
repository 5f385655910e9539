"""A small schema of all kinds of attributes, and random profiles of it."""

import numpy as np

from mmprofile.profile.schema import Attribute, Profile, Schema

STARS = Attribute("Stars", ("1", "2", "3", "4", "5"))
MEAL = Attribute("Meal", ("Lunch", "Dinner"), unknown=True)
LIKES = Attribute("Likes", ("Pizza", "Coffee", "Cars", "Books"), kind="set", size=2)
SCHEMA = Schema("toy", [STARS, LIKES, MEAL])
ONE = Schema("one", [STARS])


def profiles(rng: np.random.Generator, users: int, wrong: float = 0.0) -> list[Profile]:
    """Random profiles; a share ``wrong`` of the values is missing, out of the schema, or of a wrong number."""
    result: list[Profile] = []
    for _ in range(users):
        profile: Profile = {}
        for attribute in SCHEMA.attributes:
            values = tuple(
                rng.choice(attribute.values[:-1] or attribute.values, attribute.size, replace=False).tolist()
            )
            bad = [(), ("bogus",), (*values, "bogus"), values[:-1], attribute.values]
            profile[attribute.name] = bad[rng.integers(len(bad))] if rng.random() < wrong else values
        result.append(profile)
    return result


def stars(*values: str) -> list[Profile]:
    return [{"Stars": (value,) if value else ()} for value in values]
