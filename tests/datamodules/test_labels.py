"""Label rules against users worked out by hand."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.engine import Engine
from datamodules.labels import derive
from datamodules.rules import check_rules
from datamodules.yelp import read_businesses
from mmprofile.errors import UserError
from mmprofile.profile.schema import Attribute, Profile, Schema
from tests.support.rawdata import yelp_schema

pytestmark = pytest.mark.fast


def one(name: str, values: list[str], rule: dict[str, Any], **options: Any) -> Schema:
    return Schema("test", [Attribute(name, tuple(values), rule=rule, **options)])


def labels(
    engine: Engine,
    schema: Schema,
    visits: list[tuple[str, str, float]],
    businesses: dict[str, Any],
    train: list[str] | None = None,
) -> dict[str, Profile]:
    """Profiles of the users in ``visits`` (user, business, stars); ``businesses``: id -> value of the one column."""
    reviews = engine.table(
        "reviews", pa.table(dict(zip(("user_id", "business_id", "stars"), zip(*visits, strict=True), strict=True)))
    )
    columns: dict[str, Any] = {"business_id": list(businesses)}
    kinds = {"list": pa.list_(pa.string()), "flag": pa.bool_(), "number": pa.float64()}
    for source, [kind] in check_rules(schema).items():
        columns[source] = pa.array(list(businesses.values()), kinds[kind])
    result = derive(schema, reviews, engine.table("businesses", pa.table(columns)), engine)
    result.cut(sorted({user for user, _, _ in visits}) if train is None else train)
    return result.profiles({user for user, _, _ in visits})


def test_stars_are_rounded_half_up(engine: Engine) -> None:
    schema = one("Stars", list("12345"), {"source": "review.stars", "aggregation": "mean_round_half_up"})
    visits = [("half", "b", 4.0), ("half", "b", 5.0), ("two and a half", "b", 2.0), ("two and a half", "b", 3.0)]
    visits += [("below", "b", stars) for stars in (4.0, 4.0, 5.0)] + [("one", "b", 1.0)]
    found = labels(engine, schema, visits, {"b": None})
    # Python's round would give 4 for 4.5 and 2 for 2.5.
    assert found["half"]["Stars"] == ("5",)
    assert found["two and a half"]["Stars"] == ("3",)
    assert found["below"]["Stars"] == ("4",)
    assert found["one"]["Stars"] == ("1",)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(2, 10).map(lambda n: n / 2), min_size=1, max_size=30))
def test_stars_against_exact_arithmetic(tmp_path_factory: pytest.TempPathFactory, stars: list[float]) -> None:
    made = Engine(tmp_path_factory.mktemp("engine"))
    schema = one("Stars", list("12345"), {"source": "review.stars", "aggregation": "mean_round_half_up"})
    found = labels(made, schema, [("u", "b", value) for value in stars], {"b": None})
    made.close()
    halves = sum(int(value * 2) for value in stars)  # the mean is halves / 2n; half up is floor((halves + n) / 2n)
    assert found["u"]["Stars"] == (str((halves + len(stars)) // (2 * len(stars))),)


def top_two(**options: Any) -> Schema:
    rule = {"source": "business.categories", "aggregation": "top_k"}
    return one("Favorite", ["Pizza", "Coffee & Tea", "Shopping"], rule, size=2, **{"kind": "set", **options})


def test_two_most_visited_categories(engine: Engine) -> None:
    businesses = {
        "p": ["pizza", "Italian"],
        "c": ["Coffee & Tea"],
        "s": ["SHOPPING", "Pizza"],
        "x": ["Coffee"],
        "none": None,
    }
    visits = [("ties", "s", 1.0), ("ties", "c", 1.0), ("ties", "none", 1.0)]  # Pizza 1, Shopping 1, Coffee & Tea 1
    visits += [("shopper", "s", 1.0), ("shopper", "s", 1.0), ("shopper", "c", 1.0)]  # Pizza 2, Shopping 2
    visits += [("repeat", "c", 1.0), ("repeat", "c", 1.0), ("repeat", "p", 1.0), ("repeat", "x", 1.0)]
    visits += [("only one", "p", 1.0), ("only one", "x", 1.0)]
    found = labels(engine, top_two(), visits, businesses)
    assert found["ties"]["Favorite"] == ("Pizza", "Coffee & Tea")  # ties go by schema order
    assert found["shopper"]["Favorite"] == ("Pizza", "Shopping")
    assert found["repeat"]["Favorite"] == ("Pizza", "Coffee & Tea")  # a set prints in schema order
    assert "Favorite" not in found["only one"]  # fewer than two is no label; Coffee is not Coffee & Tea
    visits += [("nothing", "x", 1.0)]
    any_size = labels(engine, top_two(min_size=0), visits, businesses)
    assert any_size["only one"]["Favorite"] == ("Pizza",)
    assert "Favorite" not in any_size["nothing"]  # what was not seen may be liked
    assert any_size["ties"] == found["ties"]


def test_ordered_top_k_keeps_the_order_of_visits(engine: Engine) -> None:
    visits = [("u", "c", 1.0), ("u", "c", 1.0), ("u", "p", 1.0)]
    found = labels(engine, top_two(kind="ordered"), visits, {"p": ["Pizza"], "c": ["Coffee & Tea"]})
    assert found["u"]["Favorite"] == ("Coffee & Tea", "Pizza")


def test_meal_with_most_true_flags(engine: Engine) -> None:
    meals = ["Breakfast", "Brunch", "Lunch", "Dinner"]
    schema = one("Meal", meals, {"source": "business.GoodForMeal", "aggregation": "argmax_flags"})
    businesses = {"ld": ["lunch", "dinner"], "d": ["dinner", "latenight"], "late": ["latenight"], "?": None}
    visits = [("tie", "ld", 1.0), ("tie", "?", 1.0), ("dinner", "ld", 1.0), ("dinner", "d", 1.0), ("late", "late", 1.0)]
    found = labels(engine, schema, visits, businesses)
    assert found["tie"]["Meal"] == ("Lunch",)  # first in the schema
    assert found["dinner"]["Meal"] == ("Dinner",)
    assert "Meal" not in found["late"]  # no flag of the schema


def test_share_of_true_among_known(engine: Engine) -> None:
    schema = one(
        "Discount", ["True", "False"], {"source": "business.HappyHour", "aggregation": "share_true", "threshold": 0.5}
    )
    businesses = {"yes": True, "no": False, "?": None}
    visits = [
        ("half", "yes", 1.0),
        ("half", "no", 1.0),
        ("half", "?", 1.0),
        ("third", "yes", 1.0),
        ("nobody", "?", 1.0),
    ]
    visits += [("third", "no", 1.0), ("third", "no", 1.0)]
    found = labels(engine, schema, visits, businesses)
    assert found == {"half": {"Discount": ("True",)}, "third": {"Discount": ("False",)}, "nobody": {}}


def budget(threshold: Any) -> Schema:
    rule = {"source": "business.Price", "aggregation": "mean_above", "threshold": threshold}
    return one("Budget", ["Low", "High"], rule)


def test_budget_cut_is_the_median_of_training_users_only(engine: Engine) -> None:
    prices = {"one": 1.0, "two": 2.0, "four": 4.0, "?": None}
    visits = [("a", "one", 1.0), ("b", "two", 1.0), ("c", "two", 1.0), ("c", "four", 1.0), ("d", "?", 1.0)]
    visits += [("rich", "four", 1.0), ("richer", "four", 1.0)]
    found = labels(
        engine, budget("train_median"), visits, prices, train=["a", "b", "c", "d"]
    )  # means 1, 2, 3: median 2
    assert {user: profile.get("Budget") for user, profile in found.items()} == {
        "a": ("Low",),
        "b": ("Low",),  # not above
        "c": ("High",),
        "d": None,
        "rich": ("High",),
        "richer": ("High",),
    }


def test_budget_cut_as_a_number(engine: Engine) -> None:
    found = labels(engine, budget(2.5), [("a", "x", 1.0), ("b", "y", 1.0)], {"x": 2.0, "y": 3.0})
    assert (found["a"]["Budget"], found["b"]["Budget"]) == (("Low",), ("High",))


def test_any_business_attribute_may_be_named(engine: Engine, tmp_path: Path) -> None:
    rule = {"source": "business.WiFi", "aggregation": "argmax_flags"}
    path = tmp_path / "business.json"
    path.write_text(
        '{"business_id": "a", "attributes": {"WiFi": "u\'free\'"}}\n'
        '{"business_id": "b", "attributes": {"WiFi": "\'no\'"}}\n'
    )
    schema = one("WiFi", ["Free", "No"], rule)
    table = read_businesses(path, {"WiFi": "list"}, {}).rename_columns({"WiFi": "business.WiFi"})
    visits = pa.table({"user_id": ["u", "u", "u"], "business_id": ["b", "a", "b"], "stars": [1.0, 1.0, 1.0]})
    result = derive(schema, engine.table("visits", visits), engine.table("places", table), engine)
    assert result.profiles(["u"]) == {"u": {"WiFi": ("No",)}}


def test_users_unknown_in_a_required_attribute_are_counted(engine: Engine) -> None:
    schema = Schema("test", [*top_two().attributes, Attribute("Age", ("young", "old"), text_only=True)])
    reviews = pa.table({"user_id": ["u", "v"], "business_id": ["b", "c"], "stars": [1.0, 2.0]})
    places = pa.table({"business_id": ["b", "c"], "business.categories": [["Pizza", "Shopping"], ["Pizza"]]})
    result = derive(schema, engine.table("reviews", reviews), engine.table("places", places), engine)
    assert result.labelled({"u", "v"}, None) == ({"u"}, {"Favorite": 1})
    assert result.labelled({"u", "v"}, 0) == ({"u", "v"}, {"Favorite": 1})
    assert result.profiles(["u", "v"]) == {"u": {"Favorite": ("Pizza", "Shopping")}, "v": {}}


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (
            {"source": "review.stars", "aggregation": "mean_rounded"},
            "mean_rounded.*known: mean_round_half_up.*did you mean",
        ),
        (
            {"source": "reviews.stars", "aggregation": "mean_round_half_up"},
            "known sources: review.<column>.*business.<column>",
        ),
        ({"source": "review.stars", "aggregation": "share_true", "threshold": 0.5}, "does not go with share_true"),
        ({"source": "business.X", "aggregation": "share_true"}, "needs a threshold"),
        ({"source": "business.X", "aggregation": "mean_above", "threshold": "median"}, "a number or train_median"),
        ({"source": "business.X", "aggregation": "top_k", "treshold": 1}, "unknown key 'treshold'"),
        ({"aggregation": "top_k"}, "'None' is no source"),
        ({"source": "review.text", "aggregation": "mode"}, "no source of a rule"),
        ({"source": "review.price", "aggregation": "mean"}, r"cuts is None: give 1 ascending numbers for 2 values"),
        ({"source": "review.price", "aggregation": "mean", "cuts": [1, 2]}, r"give 1 ascending numbers"),
        ({"source": "review.price", "aggregation": "quantile", "cuts": [1]}, "needs q"),
        ({"source": "review.price", "aggregation": "share", "cuts": [0.5]}, "needs of"),
        ({"source": "review.price", "aggregation": "mode", "cuts": [1]}, "unknown key 'cuts'; a rule with mode has"),
    ],
)
def test_wrong_rules_are_named(rule: dict[str, Any], said: str) -> None:
    values = ["True", "False"] if rule["aggregation"] == "share_true" else ["1", "2"]
    with pytest.raises(UserError, match=said):
        check_rules(one("A", values, rule))


def test_rules_of_the_yelp_schema_read_these_columns() -> None:
    assert check_rules(yelp_schema()) == {
        "business.categories": {"list"},
        "business.GoodForMeal": {"list"},
        "business.RestaurantsPriceRange2": {"number"},
        "business.HappyHour": {"flag"},
        "business.Caters": {"flag"},
    }


STARS_OF_VISITS = st.lists(st.tuples(st.sampled_from("uvw"), st.integers(1, 5), st.booleans()), min_size=1, max_size=15)


@settings(max_examples=30, deadline=None)
@given(STARS_OF_VISITS, st.sampled_from(["mean_round_half_up", "mode", "count"]), st.sampled_from([None, 0, 1, 2]))
def test_whoever_has_enough_labels_with_fewer_reviews_was_foreseen(
    tmp_path_factory: pytest.TempPathFactory, visits: list[tuple[str, int, bool]], aggregation: str, least: int | None
) -> None:
    """Before photos are read nobody knows which reviews stay; the answer then is an upper bound."""
    second = {"source": "review.stars", "aggregation": aggregation} | ({"cuts": [2]} if aggregation == "count" else {})
    mean = {"source": "review.stars", "aggregation": "mean_round_half_up"}
    schema = Schema("test", [Attribute("Mean", ("2", "4"), rule=mean), Attribute("Second", ("3", "5"), rule=second)])
    made = Engine(tmp_path_factory.mktemp("engine"))
    found = []
    for name, foresee in (("all", True), ("kept", False)):
        rows = [(user, "b", float(stars)) for user, stars, kept in visits if kept or foresee]
        columns = dict(zip(("user_id", "business_id", "stars"), zip(*rows, strict=True), strict=True)) if rows else {}
        if columns:
            result = derive(schema, made.table(name, pa.table(columns)), None, made)
            found.append(result.labelled({user for user, _, _ in rows}, least, foresee)[0])
    made.close()
    possible, *kept = found
    assert all(users <= possible for users in kept)
