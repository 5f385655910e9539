"""Label rules: a user's profile from the reviews that were kept and the businesses they are about.

A rule is data (``rule`` of an attribute in ``conf/profile``): a source, an aggregation, and for some a threshold. The
sources are ``review.stars`` and ``business.<key>``, where the key is ``categories``, ``stars``, ``review_count`` or any
attribute of the raw business file. Every review counts as one visit. Written as Ibis expressions.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from operator import itemgetter
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np

from datamodules.engine import Engine
from mmprofile.errors import UserError, nearest
from mmprofile.profile.schema import Attribute, Profile, Schema

AGGREGATIONS = {
    "mean_round_half_up": "number",
    "mean_above": "number",
    "share_true": "flag",
    "top_k": "list",
    "argmax_flags": "list",
}
"""Aggregation -> what it reads from its source (``datamodules.yelp.READERS``)."""

Labels = dict[str, Profile]
"""Raw user id -> profile; an attribute is missing where there is no label, and () where the label is Unknown."""


def check_rules(schema: Schema) -> dict[str, str]:
    """Return the business columns that the schema's rules read, and how (``number``, ``flag`` or ``list``).

    Raises:
        UserError: an unknown source or aggregation, or a rule that does not fit its attribute's values.
    """
    columns: dict[str, str] = {}
    for attribute in schema.attributes:
        if attribute.rule is None:
            continue
        where = f"profile schema {schema.name!r}, rule of {attribute.name!r}"
        rule = dict(attribute.rule)
        unknown = set(rule) - {"source", "aggregation", "threshold"}
        if unknown:
            raise UserError(f"{where}: unknown key {min(unknown)!r}; a rule has source, aggregation and threshold")
        aggregation = str(rule.get("aggregation"))
        if aggregation not in AGGREGATIONS:
            known = ", ".join(AGGREGATIONS)
            raise UserError(
                f"{where}: unknown aggregation {aggregation!r}; known: {known}{nearest(aggregation, AGGREGATIONS)}"
            )
        table, _, key = str(rule.get("source")).partition(".")
        reads = AGGREGATIONS[aggregation]
        if table == "business" and key and key != "business_id":
            if columns.setdefault(key, reads) != reads:
                raise UserError(
                    f"{where}: business.{key} is read as {columns[key]} by another rule and as {reads} here"
                )
        elif (table, key) != ("review", "stars") or reads != "number":
            raise UserError(
                f"{where}: source {rule.get('source')!r} does not go with {aggregation}; known sources: business.<key>"
                + (", review.stars" if reads == "number" else "")
            )
        _check_values(attribute, aggregation, rule.get("threshold"), where)
    return columns


def _check_values(attribute: Attribute, aggregation: str, threshold: Any, where: str) -> None:
    is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    if aggregation in ("share_true", "argmax_flags", "mean_above", "mean_round_half_up") and attribute.size != 1:
        raise UserError(f"{where}: {aggregation} gives one value, but the attribute has size {attribute.size}")
    if aggregation == "share_true" and set(attribute.values) != {"True", "False"}:
        raise UserError(f"{where}: share_true needs the values True and False")
    if aggregation == "share_true" and not is_number:
        raise UserError(f"{where}: share_true needs a threshold between 0 and 1")
    if aggregation == "mean_above" and (len(attribute.values) != 2 or not (is_number or threshold == "train_median")):
        raise UserError(f"{where}: mean_above needs two values (low, high) and a threshold: a number or train_median")
    if aggregation == "mean_round_half_up" and not all(value.lstrip("-").isdigit() for value in attribute.values):
        raise UserError(f"{where}: mean_round_half_up needs whole numbers as values")


def evidence(attribute: Attribute, reviews: ir.Table, businesses: ir.Table | None) -> ir.Table:
    """Return a row per visit that says something about an attribute: user_id and value (never null).

    Of a list those of its items count that are values of the attribute, compared without case: a row each, with the value's
    position in the schema.

    Raises:
        UserError: the rule reads businesses and there are none.
    """
    assert attribute.rule is not None
    table, _, key = str(attribute.rule["source"]).partition(".")
    if table == "review":
        return reviews.select("user_id", value=reviews[key]).drop_null("value")
    assert businesses is not None
    known = businesses.select("business_id", value=businesses[key]).drop_null("value")
    if AGGREGATIONS[attribute.rule["aggregation"]] == "list":
        spelled = [value.lower() for value in attribute.values]
        names = ibis.memtable({"spelled": spelled, "position": range(len(spelled))})
        items = known.select("business_id", item=known.value.unnest())
        known = items.inner_join(names, items.item.lower() == names.spelled).select("business_id", value="position")
    return reviews.select("user_id", "business_id").inner_join(known, "business_id").select("user_id", "value")


def means(visits: ir.Table) -> ir.Table:
    """Return user_id and mean: the mean of a user's values, exact and so independent of their order."""
    exact = visits.value.cast("decimal(18, 6)")
    total = visits.group_by("user_id").aggregate(total=exact.sum(), n=visits.count())
    return total.select("user_id", mean=total.total.cast("float64") / total.n)


def rounded(visits: ir.Table) -> ir.Table:
    """Return user_id and label: the mean rounded half up (Python's round is half to even)."""
    mean = means(visits)
    return mean.select("user_id", label=(mean.mean + 0.5).floor().cast("int64").cast("string"))


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
    """Labels by rule, labels from a file, and the means that wait for a cut.

    Args:
        by_rule: attributes that a rule could say something about here -> user -> values.
        means: attribute of a ``mean_above`` rule -> user -> mean; its cut may be fitted on the training users.
        from_file: the same of the labels file; for the attributes it has, it alone counts.
    """

    schema: Schema
    by_rule: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    means: dict[str, dict[str, float]] = field(default_factory=dict)
    from_file: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)

    @property
    def derived(self) -> set[str]:
        """Return the attributes that are labelled by a rule."""
        return self.by_rule.keys() - self.from_file.keys()

    def add_file(self, labels: Labels, columns: set[str]) -> None:
        """Add the labels of a file."""
        for name in columns:
            self.from_file[name] = {user: profile[name] for user, profile in labels.items() if name in profile}

    def _known(self, name: str) -> set[str]:
        """Return the users of whom an attribute is known."""
        if name in self.from_file:
            return set(self.from_file[name])
        return self.by_rule[name].keys() | self.means.get(name, {}).keys()

    def labelled(self, people: set[str], least: int | None) -> tuple[set[str], dict[str, int]]:
        """Return the users with enough labels, and attribute -> the number of users without a label of it.

        An attribute that neither a rule nor a file says anything about is asked of nobody.

        Args:
            people: users.
            least: labels that a user must have; None: of all attributes but those that may be ``Unknown``.
        """
        known = {name: people & self._known(name) for name in self.schema.names if self._says(name)}
        needed = [name for name in known if least is not None or not self.schema[name].unknown]
        count = Counter(user for name in needed for user in known[name])
        enough = len(needed) if least is None else min(least, len(needed))
        kept = {user for user in people if count[user] >= enough}
        return kept, {name: len(people) - len(users) for name, users in known.items()}

    def _says(self, name: str) -> bool:
        """Whether a rule or the file says anything about an attribute."""
        return name in self.by_rule or name in self.from_file

    def cut(self, train: list[str]) -> dict[str, float]:
        """Turn the means of ``mean_above`` rules into labels: the second value where a mean exceeds the cut.

        Args:
            train: users of the training split; a ``train_median`` is fitted on them alone.

        Returns:
            Attribute -> the cut that was used.
        """
        cuts: dict[str, float] = {}
        for name, by_user in self.means.items():
            attribute = self.schema[name]
            if name in self.from_file or attribute.rule is None:
                continue
            threshold = attribute.rule["threshold"]
            if threshold == "train_median":
                known = [by_user[user] for user in train if user in by_user]
                threshold = np.median(known) if known else 0.0
            cuts[name] = float(threshold)
            low, high = ((value,) for value in attribute.values)
            self.by_rule[name] = {user: high if mean > cuts[name] else low for user, mean in by_user.items()}
        return cuts

    def profiles(self, users: Iterable[str]) -> Labels:
        """Return the profile of each user, without the attributes that have no label."""
        labels = {name: self.from_file.get(name, self.by_rule.get(name, {})) for name in self.schema.names}
        return {user: {name: known[user] for name, known in labels.items() if user in known} for user in users}


def derive(schema: Schema, reviews: ir.Table, businesses: ir.Table | None, engine: Engine) -> Derived:
    """Return the labels of every rule of the schema.

    Args:
        reviews: the kept reviews: user_id, business_id, stars.
        businesses: as ``datamodules.yelp.read_businesses`` gives; None: rules about businesses say nothing.
    """
    result = Derived(schema)
    for attribute in schema.attributes:
        rule = attribute.rule
        if rule is None or (businesses is None and str(rule["source"]).startswith("business.")):
            continue
        visits = evidence(attribute, reviews, businesses)
        if businesses is None and int(visits.count().execute()) == 0:
            continue  # reviews without stars
        labels = result.by_rule[attribute.name] = {}
        if rule["aggregation"] == "mean_above":
            result.means[attribute.name] = {row["user_id"]: row["mean"] for row in engine.rows(means(visits))}
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
            labels |= {row["user_id"]: known[row["label"]] for row in engine.rows(decided) if row["label"] in known}
    return result
