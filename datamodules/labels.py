"""Label rules: a user's profile from the reviews that were kept and the businesses they are about.

A rule is data (``rule`` of an attribute in ``conf/profile``, checked by :mod:`datamodules.rules`): a source, an aggregation,
and for some how a number becomes a value. Every review counts as one visit. Written as Ibis expressions.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from operator import itemgetter
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np

from datamodules.columns import READERS, as_list
from datamodules.engine import Engine
from datamodules.rules import AGGREGATIONS, NUMBERS, TRAIN_QUANTILES
from mmprofile.profile.schema import Attribute, Profile, Schema

Labels = dict[str, Profile]
"""Raw user id -> profile; an attribute is missing where there is no label, and () where the label is Unknown."""


def as_label(number: float) -> tuple[str, ...]:
    """Return the label of a number that waits for its bin (:mod:`datamodules.bins`)."""
    return (repr(float(number)),)


def evidence(attribute: Attribute, reviews: ir.Table, businesses: ir.Table | None) -> ir.Table:
    """Return a row per visit that says something about an attribute: user_id and value (never null).

    Of a list those of its items count that are values of the attribute, compared without case: a row each, with the value's
    position in the schema. For ``count`` and ``share`` the value is whether the list holds the rule's ``of``, or anything.

    Raises:
        UserError: the rule reads businesses and there are none.
    """
    assert attribute.rule is not None
    source = str(attribute.rule["source"])
    if source.startswith("review."):
        column = reviews["stars" if source == "review.stars" else source]
        return _read(attribute, reviews.select("user_id", value=column), "user_id")
    assert businesses is not None
    known = _read(attribute, businesses.select("business_id", value=businesses[source]), "business_id")
    return reviews.select("user_id", "business_id").inner_join(known, "business_id").select("user_id", "value")


def _read(attribute: Attribute, rows: ir.Table, owner: str) -> ir.Table:
    """Return owner and value of rows as an attribute's rule reads them, without null."""
    assert attribute.rule is not None
    aggregation = attribute.rule["aggregation"]
    rows = rows.drop_null("value")
    values = READERS[AGGREGATIONS[aggregation]](rows.value)
    if aggregation in ("count", "share"):
        of = attribute.rule.get("of")
        if of is not None:
            values = values.map(lambda item: item.lower()).contains(as_list(ibis.literal(str(of)))[0].lower())
        return rows.select(owner, value=values if of is not None else True)
    rows = rows.select(owner, value=values).drop_null("value")
    if AGGREGATIONS[aggregation] != "list":
        return rows
    spelled = [value.lower() for value in attribute.values]
    names = ibis.memtable({"spelled": spelled, "position": range(len(spelled))})
    items = rows.select(owner, item=rows.value.unnest())
    return items.inner_join(names, items.item.lower() == names.spelled).select(owner, value="position")


def means(visits: ir.Table) -> ir.Table:
    """Return user_id and number: the mean of a user's values to six decimals, exact and so independent of their order."""
    exact = visits.value.cast("decimal(18, 6)")
    total = visits.group_by("user_id").aggregate(total=exact.sum(), n=visits.count())
    return total.select("user_id", number=total.total.cast("float64") / total.n)


def rounded(visits: ir.Table) -> ir.Table:
    """Return user_id and label: the mean rounded half up (Python's round is half to even)."""
    mean = means(visits)
    return mean.select("user_id", label=(mean.number + 0.5).floor().cast("int64").cast("string"))


def number(visits: ir.Table, rule: Mapping[str, Any]) -> ir.Table:
    """Return user_id and number: what a rule of :data:`datamodules.rules.NUMBERS` computes of a user's values."""
    by_user = visits.group_by("user_id")
    match rule["aggregation"]:
        case "quantile":
            return by_user.aggregate(number=visits.value.cast("float64").quantile(float(rule["q"])))
        case "share":
            return by_user.aggregate(number=visits.value.cast("float64").mean())
        case "count":
            return by_user.aggregate(number=visits.value.cast("int64").sum())
        case _:
            return means(visits)


def share_true(visits: ir.Table, threshold: float) -> ir.Table:
    """Return user_id and label: ``True`` where the share of true values reaches the threshold."""
    counts = visits.group_by("user_id").aggregate(yes=visits.value.cast("int64").sum(), n=visits.count())
    return counts.select("user_id", label=ibis.ifelse(counts.yes >= threshold * counts.n, "True", "False"))


def most_frequent(visits: ir.Table, size: int, least: int) -> ir.Table:
    """Return user_id, label (a position in the schema) and place of the ``size`` commonest values, ties by schema order.

    Users who saw fewer different values than ``least``, or none, have no row.
    """
    counts = visits.group_by("user_id", label="value").aggregate(n=visits.count())
    place = ibis.row_number().over(group_by=counts.user_id, order_by=[ibis.desc(counts.n), counts.label])
    ranked = counts.mutate(place=place)
    enough = ranked.filter(ranked.place == max(least, 1) - 1).select("user_id")
    return ranked.filter(ranked.place < size).semi_join(enough, "user_id").select("user_id", "label", "place")


@dataclass
class Derived:
    """Labels by rule, labels from a file, and the numbers that wait for cuts.

    Args:
        by_rule: attributes that a rule could say something about here -> user -> values.
        numbers: attribute whose rule gives a number -> user -> number; its cuts may be fitted on the training users.
        from_file: the same of the labels file; for the attributes it has, it alone counts.
        outside: attribute -> the users whose mean is no value of the schema; that of fewer reviews may be one.
    """

    schema: Schema
    by_rule: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    numbers: dict[str, dict[str, float]] = field(default_factory=dict)
    from_file: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    outside: dict[str, set[str]] = field(default_factory=dict)

    @property
    def derived(self) -> set[str]:
        """Return the attributes that are labelled by a rule."""
        return self.by_rule.keys() - self.from_file.keys()

    def add_file(self, labels: Labels, columns: set[str]) -> None:
        """Add the labels of a file."""
        for name in columns:
            self.from_file[name] = {user: profile[name] for user, profile in labels.items() if name in profile}

    def _known(self, name: str, foresee: bool) -> set[str]:
        """Return the users of whom an attribute is known, or may be."""
        if name in self.from_file:
            return set(self.from_file[name])
        known = self.by_rule[name].keys() | self.numbers.get(name, {}).keys()
        return known | self.outside.get(name, set()) if foresee else known

    def labelled(self, people: set[str], least: int | None, foresee: bool = False) -> tuple[set[str], dict[str, int]]:
        """Return the users with enough labels, and attribute -> the number of users without a label of it.

        An attribute that neither a rule nor a file says anything about is asked of nobody.

        Args:
            people: users.
            least: labels that a user must have; None: of all attributes but those that may be ``Unknown``.
            foresee: count whoever may have enough once reviews are lost, too.
        """
        known = {name: people & self._known(name, foresee) for name in self.schema.names if self._says(name)}
        needed = [name for name in known if least is not None or not self.schema[name].unknown]
        count = Counter(user for name in needed for user in known[name])
        enough = len(needed) if least is None else min(least, len(needed))
        kept = {user for user in people if count[user] >= enough}
        return kept, {name: len(people) - len(users) for name, users in known.items()}

    def _says(self, name: str) -> bool:
        """Whether a rule or the file says anything about an attribute."""
        return name in self.by_rule or name in self.from_file

    def cut(self, train: list[str]) -> dict[str, float | list[float]]:
        """Turn numbers into labels: a number that equals a cut belongs to the value above it, but with ``mean_above``.

        Args:
            train: users of the training split; ``train_median`` and ``train_quantiles`` are fitted on them alone.

        Returns:
            Attribute -> the cuts that were used; of ``mean_above`` it is one, and a number waits for bins instead.
        """
        used: dict[str, float | list[float]] = {}
        for name, by_user in self.numbers.items():
            attribute = self.schema[name]
            if name in self.from_file or attribute.rule is None:
                continue
            if attribute.kind == "number":
                self.by_rule[name] = {user: as_label(number) for user, number in by_user.items()}
                continue
            cuts = _cuts(attribute, [by_user[user] for user in train if user in by_user] or [0.0])
            above = attribute.rule["aggregation"] == "mean_above"
            used[name], place = (cuts[0], bisect_left) if above else (cuts, bisect_right)
            values = [(value,) for value in attribute.values]
            self.by_rule[name] = {user: values[place(cuts, number)] for user, number in by_user.items()}
        return used

    def profiles(self, users: Iterable[str]) -> Labels:
        """Return the profile of each user, without the attributes that have no label."""
        labels = {name: self.from_file.get(name, self.by_rule.get(name, {})) for name in self.schema.names}
        return {user: {name: known[user] for name, known in labels.items() if user in known} for user in users}


def _cuts(attribute: Attribute, train: list[float]) -> list[float]:
    """Return an attribute's cuts, ascending: given, or fitted on the numbers of training users."""
    assert attribute.rule is not None
    cuts = attribute.rule["threshold" if attribute.rule["aggregation"] == "mean_above" else "cuts"]
    if cuts == "train_median":
        return [float(np.median(train))]
    if cuts == TRAIN_QUANTILES:
        parts = len(attribute.values)
        return [float(cut) for cut in np.quantile(train, [part / parts for part in range(1, parts)])]
    return [float(cut) for cut in (cuts if isinstance(cuts, list | tuple) else [cuts])]


def derive(schema: Schema, reviews: ir.Table, businesses: ir.Table | None, engine: Engine) -> Derived:
    """Return the labels of every rule of the schema.

    Args:
        reviews: the kept reviews: user_id, business_id, stars, and a column for each other source.
        businesses: business_id and a column for each source; None: rules about businesses say nothing.
    """
    result = Derived(schema)
    for attribute in schema.attributes:
        rule = attribute.rule
        if rule is None or (businesses is None and str(rule["source"]).startswith("business.")):
            continue
        visits = evidence(attribute, reviews, businesses)
        if rule["source"] == "review.stars" and int(visits.count().execute()) == 0:
            continue  # reviews without stars
        labels = result.by_rule[attribute.name] = {}
        if rule["aggregation"] in NUMBERS:
            numbers = {row["user_id"]: row["number"] for row in engine.rows(number(visits, rule))}
            if rule["aggregation"] == "count":  # who has none has 0
                people = engine.rows(reviews.select("user_id").distinct())
                numbers = {row["user_id"]: 0 for row in people} | numbers
            result.numbers[attribute.name] = numbers
        elif AGGREGATIONS[rule["aggregation"]] == "list":
            ranked = most_frequent(visits, attribute.size, attribute.least)
            for row in sorted(engine.rows(ranked), key=itemgetter("place")):
                labels[row["user_id"]] = (*labels.get(row["user_id"], ()), attribute.values[row["label"]])
            canonical = cache(attribute.canonical)  # users share few values
            labels |= {user: canonical(values) for user, values in labels.items()}
        else:
            is_mean = rule["aggregation"] == "mean_round_half_up"
            decided = rounded(visits) if is_mean else share_true(visits, float(rule["threshold"]))
            known = {value: (value,) for value in attribute.values}
            rows = {row["user_id"]: row["label"] for row in engine.rows(decided)}
            labels |= {user: known[label] for user, label in rows.items() if label in known}
            result.outside[attribute.name] = rows.keys() - labels.keys()
    return result
