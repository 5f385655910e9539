"""Attributes that are hard on a grammar: values that begin alike, hold each other's words or those of names; sets and lists."""

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
    "one": [Attribute("Stars", ("1", "2", "3"))],
}
