"""What a label rule may say (``rule`` of an attribute in ``conf/profile``), checked before anything is read.

A rule has a source and an aggregation. Sources are ``review.<column>`` and ``business.<column>``, any column of the tables;
of Yelp's businesses the columns are ``categories``, ``stars``, ``review_count`` and all attributes.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from mmprofile.errors import UserError, nearest
from mmprofile.profile.schema import Attribute, Schema

AGGREGATIONS = {
    "mean_round_half_up": "number",
    "mean_above": "number",
    "share_true": "flag",
    "top_k": "list",
    "argmax_flags": "list",
    "mode": "list",
    "count": "list",
    "share": "list",
    "mean": "number",
    "quantile": "number",
}
"""Aggregation -> what it reads from its source; a list may be one item (:mod:`datamodules.columns`)."""
NUMBERS = ("mean_above", "count", "share", "mean", "quantile")
"""Aggregations that give a number, which cuts turn into a value, or the bins of an attribute that is a number."""
TRAIN_QUANTILES = "train_quantiles"
_OPTIONS = {
    "mean_above": ("threshold",),
    "share_true": ("threshold",),
    "count": ("of", "cuts"),
    "share": ("of", "cuts"),
    "mean": ("cuts",),
    "quantile": ("q", "cuts"),
}
_NO_SOURCES = ("review.text", "business.business_id")

Columns = dict[str, set[str]]
"""Source, such as ``review.price`` -> what rules read from it: ``number``, ``flag`` or ``list``."""


def check_rules(schema: Schema) -> Columns:
    """Return the sources that the schema's rules read, without ``review.stars``, which every table of reviews has.

    Raises:
        UserError: an unknown source, aggregation or key, or a rule that does not fit its attribute's values.
    """
    columns: Columns = {}
    for attribute in schema.attributes:
        if attribute.rule is None:
            continue
        where = f"profile schema {schema.name!r}, rule of {attribute.name!r}"
        rule = dict(attribute.rule)
        aggregation = str(rule.get("aggregation"))
        if aggregation not in AGGREGATIONS:
            known = ", ".join(AGGREGATIONS)
            raise UserError(
                f"{where}: unknown aggregation {aggregation!r}; known: {known}{nearest(aggregation, AGGREGATIONS)}"
            )
        keys = ("source", "aggregation", *_OPTIONS.get(aggregation, ()))
        unknown = rule.keys() - set(keys)
        if unknown:
            raise UserError(f"{where}: unknown key {min(unknown)!r}; a rule with {aggregation} has {', '.join(keys)}")
        source, reads = str(rule.get("source")), AGGREGATIONS[aggregation]
        table, _, key = source.partition(".")
        if table not in ("review", "business") or not key or source in _NO_SOURCES:
            raise UserError(
                f"{where}: {source!r} is no source of a rule; known sources: review.<column> (but the text), business.<column>"
            )
        if source != "review.stars":
            columns.setdefault(source, set()).add(reads)
        elif reads == "flag" or aggregation in ("top_k", "argmax_flags"):
            raise UserError(f"{where}: source review.stars is a number and does not go with {aggregation}")
        _check_values(attribute, rule, where)
    return columns


def columns_of(columns: Columns, table: str) -> Columns:
    """Return what is read of a table, ``review`` or ``business``."""
    return {source: reads for source, reads in columns.items() if source.startswith(f"{table}.")}


def key_of(source: str) -> str:
    """Return the column of the file that a source stands for."""
    return source.partition(".")[2]


def _check_values(attribute: Attribute, rule: Mapping[str, Any], where: str) -> None:
    aggregation, threshold = rule["aggregation"], rule.get("threshold")
    if aggregation not in ("top_k", "mode") and attribute.size != 1:
        raise UserError(f"{where}: {aggregation} gives one value, but the attribute has size {attribute.size}")
    if aggregation == "share_true" and set(attribute.values) != {"True", "False"}:
        raise UserError(f"{where}: share_true needs the values True and False")
    if aggregation == "share_true" and not _is_number(threshold):
        raise UserError(f"{where}: share_true needs a threshold between 0 and 1")
    if aggregation == "mean_above" and (
        len(attribute.values) != 2 or not (_is_number(threshold) or threshold == "train_median")
    ):
        raise UserError(f"{where}: mean_above needs two values (low, high) and a threshold: a number or train_median")
    if aggregation == "mean_round_half_up" and not all(value.lstrip("-").isdigit() for value in attribute.values):
        raise UserError(f"{where}: mean_round_half_up needs whole numbers as values")
    if aggregation == "share" and rule.get("of") is None:
        raise UserError(f"{where}: share needs of: the item whose share it is")
    if aggregation == "quantile" and not (_is_number(rule.get("q")) and 0 <= rule["q"] <= 1):
        raise UserError(f"{where}: quantile needs q, a number between 0 and 1")
    if attribute.kind == "number":
        if aggregation not in NUMBERS or aggregation == "mean_above" or "cuts" in rule:
            raise UserError(
                f"{where}: a number is cut into its own bins: give count, share, mean or quantile, without cuts"
            )
    elif "cuts" in _OPTIONS.get(aggregation, ()):
        _check_cuts(rule.get("cuts"), len(attribute.values), where)


def _check_cuts(cuts: Any, values: int, where: str) -> None:
    edges = list(cuts) if isinstance(cuts, list | tuple) else [cuts]
    ascending = all(map(_is_number, edges)) and all(low < high for low, high in pairwise(edges))
    if cuts != TRAIN_QUANTILES and not (ascending and len(edges) == values - 1):
        raise UserError(
            f"{where}: cuts is {cuts!r}: give {values - 1} ascending numbers for {values} values, or {TRAIN_QUANTILES}"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
