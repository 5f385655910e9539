"""Attributes that are hard on a grammar: values that begin alike, hold others' words or names; sets, lists, numbers."""

from mmprofile.profile.schema import Attribute

ODD = {
    "prefixes": [
        Attribute("Budget", ("Low", "Low End", "Low End Shop", "High")),
        Attribute("Budget Range", ("Low", "End", "Low End"), unknown=True),
    ],
    "sets": [
        Attribute("Likes", ("Pizza", "Coffee & Tea", "Tea", "Cars"), "set", 2),
        Attribute("Meal", ("Lunch", "Dinner"), unknown=True),
        Attribute("Hates", ("Tea", "Cars", "Pizza"), "set", 3),
    ],
    "ordered": [
        Attribute("First", ("1", "2", "12"), "ordered", 2, unknown=True),
        Attribute("Last", ("a", "b", "a b", "b a"), "ordered", 3),
    ],
    "any size": [
        Attribute("Likes", ("Tea", "Tea Oven", "None of it"), "set", 2, unknown=True, min_size=0),
        Attribute("Hates", ("Tea", "Cars", "Pizza"), "set", 3, min_size=1),
    ],
    "in order": [
        Attribute("Size", ("S", "M", "L"), "ordinal"),
        Attribute("Spends", kind="number", edges=(-5, 0.5, 10), unknown=True),
        Attribute("Any", ("M", "L"), "set", 1, min_size=0),
    ],
    "one": [Attribute("Stars", ("1", "2", "3"))],
}
