"""Answers -> labels with calibrated confidence: ``python -m mmprofile.llm.vote data=demo``."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from mmprofile.config.settings import VoteConfig
from mmprofile.errors import UserError
from mmprofile.llm.answers import parse_answer
from mmprofile.llm.calibrate import ON_GOLD, Calibration, fit, priors, unknown_threshold
from mmprofile.llm.journal import Record
from mmprofile.llm.labels import Label, Vote
from mmprofile.llm.people import Person
from mmprofile.llm.stage import digest
from mmprofile.profile.schema import UNKNOWN, Schema

NO_EVIDENCE = "not enough evidence"
METHODS = ("confidence", "majority", "cisc")


class Winner(NamedTuple):
    """The outcome of a vote.

    Attributes:
        value: the winner; Unknown where nobody voted.
        q: its share of all weights, 0 to 1.
        m: the mean confidence of its votes.
    """

    value: str
    q: float
    m: float


def weights(votes: Sequence[Vote], method: str = "confidence", temperature: float = 1.0) -> list[float]:
    """What each vote weighs.

    Args:
        votes: of one attribute of one person.
        method: ``confidence``: as confident as it is (all zero: all alike); ``majority``: all alike; ``cisc``: softmax of the
            confidences by ``temperature`` (Taubenfeld et al., 2025).

    Raises:
        UserError: an unknown method, or a temperature that is not above 0.
    """
    if method not in METHODS:
        raise UserError(f"vote.method={method!r} is not one of {', '.join(METHODS)}")
    if not temperature > 0:
        raise UserError(f"vote.temperature={temperature}: give more than 0")
    if method == "cisc" and votes:
        highest = max(vote.confidence for vote in votes)
        raised = [math.exp((vote.confidence - highest) / temperature) for vote in votes]
        return [one / sum(raised) for one in raised]
    if method == "confidence" and any(vote.confidence for vote in votes):
        return [vote.confidence for vote in votes]
    return [1.0] * len(votes)


def scores(
    votes: Sequence[Vote], weighed: Sequence[float], prior: Mapping[str, float], alpha: float
) -> dict[str, float]:
    """S(v) = sum of the weights of v's votes, divided by v's prior to the power of ``alpha``."""
    found: dict[str, float] = {}
    for vote, weight in zip(votes, weighed, strict=True):
        found[vote.value] = found.get(vote.value, 0.0) + weight
    return {value: score / prior.get(value, 1.0) ** alpha for value, score in found.items()}


def elect(
    votes: Sequence[Vote],
    values: Sequence[str],
    method: str = "confidence",
    temperature: float = 1.0,
    prior: Mapping[str, float] | None = None,
    alpha: float = 0.0,
) -> Winner:
    """The value with the highest score; a tie goes to more votes, then the higher single confidence, then the schema's order.

    Args:
        votes: of one attribute of one person; none: Unknown.
        values: the schema's; Unknown comes last.
        method: see :func:`weights`.
        temperature: of ``cisc``.
        prior: how common each value is; see :func:`scores`.
        alpha: how far the prior is corrected for, 0 not at all.
    """
    if not votes:
        return Winner(UNKNOWN, 0.0, 0.0)
    found = scores(votes, weights(votes, method, temperature), prior or {}, alpha)
    order = {value: -place for place, value in enumerate((*values, UNKNOWN))}

    def rank(value: str) -> tuple[float, int, float, int]:
        own = [vote.confidence for vote in votes if vote.value == value]
        return round(found[value], 12), len(own), max(own), order[value]  # rounded: sums of equal terms may differ

    best = max(found, key=rank)
    own = [vote.confidence for vote in votes if vote.value == best]
    return Winner(best, found[best] / sum(found.values()), sum(own) / len(own))


class Ballot(NamedTuple):
    """The votes on one attribute of one person, and the rationale of each."""

    votes: tuple[Vote, ...]
    rationales: tuple[str, ...]


def ballots(people: Sequence[Person], schema: Schema, records: Iterable[Record]) -> dict[tuple[str, str], Ballot]:
    """The votes in the answers of these people; what was not understood votes for nothing."""
    wanted = {person.user_id for person in people}
    votes: dict[tuple[str, str], list[tuple[Vote, str]]] = {}
    for record in sorted(records, key=lambda record: (record.user_id, record.sample, record.request)):
        if record.user_id not in wanted or record.error is not None:
            continue
        for name, claim in parse_answer(record.answer, schema).claims.items():
            one = Vote(record.sample, claim.value, claim.confidence, record.request)
            votes.setdefault((record.user_id, name), []).append((one, claim.rationale))
    return {
        key: Ballot(tuple(one for one, _ in own), tuple(rationale for _, rationale in own))
        for key, own in votes.items()
    }


def vote(
    people: Sequence[Person], polled: Mapping[tuple[str, str], Ballot], schema: Schema, settings: VoteConfig
) -> tuple[list[Label], dict[str, Any]]:
    """Labels of all people and attributes, and the calibration as plain data.

    Args:
        people: whose labels; gold values of ``settings.gold_split`` are looked at by isotonic and temperature only.
        polled: as :func:`ballots` gives.
        settings: the ``vote`` of ``conf/llm.yaml``.

    Raises:
        UserError: a setting without meaning.
    """
    prior = {name: _prior(name, polled, settings) if settings.alpha else {} for name in schema.names}
    origin = digest(asdict(settings), schema.to_dict(), prior)
    labels = [
        elected(
            person.user_id,
            name,
            polled.get((person.user_id, name), Ballot((), ())),
            schema,
            settings,
            prior[name],
            origin,
        )
        for person in people
        for name in schema.names
    ]
    known = [label for label in labels if label.label != UNKNOWN]
    correct = None
    fitted_on = known
    if settings.calibration in ON_GOLD:
        gold = {person.user_id: person.gold for person in people if person.split == settings.gold_split}
        fitted_on = [label for label in known if label.attribute in gold.get(label.user_id, {})]
        correct = [gold[label.user_id][label.attribute] == (label.label,) for label in fitted_on] or None
    calibration = fit(
        settings.calibration, [raw(label) for label in fitted_on], correct, (settings.target[0], settings.target[1])
    )
    labels = [replace(label, confidence=calibrated(label, calibration)) for label in labels]
    thresholds = _thresholds(labels, schema, settings.unknown_rate)
    labels = [doubted(label, thresholds[label.attribute]) for label in labels]
    origins = {"settings": origin, "vote": asdict(settings)}
    plain = asdict(calibration) | {"thresholds": thresholds, "priors": prior} | origins
    return labels, plain


def raw(label: Label) -> float:
    """The confidence before calibration: agreement times the winner's mean confidence."""
    return label.q * label.m


def calibrated(label: Label, calibration: Calibration) -> float:
    """The calibrated confidence of what is said; Unknown keeps its raw one, since nothing was fitted to it."""
    return round(raw(label) if label.label == UNKNOWN else float(calibration([raw(label)])[0]), 6)


def elected(
    user_id: str,
    name: str,
    ballot: Ballot,
    schema: Schema,
    settings: VoteConfig,
    prior: Mapping[str, float],
    origin: str,
) -> Label:
    """The label that the votes give, not calibrated; its rationale is that of the winner's most confident vote."""
    found = elect(ballot.votes, schema[name].values, settings.method, settings.temperature, prior, settings.alpha)
    own = [(one.confidence, -one.sample, why) for one, why in zip(*ballot, strict=True) if one.value == found.value]
    why = max(own)[2] if own else NO_EVIDENCE
    return Label(user_id, name, found.value, 0.0, found.value, found.q, found.m, why, ballot.votes, origin)


def doubted(label: Label, threshold: float) -> Label:
    """The label, or Unknown where its confidence is below the threshold: as sure as the value that is given up was doubtful."""
    if label.label == UNKNOWN or label.confidence >= threshold:
        return label
    return replace(label, label=UNKNOWN, confidence=round(1 - label.confidence, 6), rationale=NO_EVIDENCE)


def _prior(name: str, polled: Mapping[tuple[str, str], Ballot], settings: VoteConfig) -> dict[str, float]:
    ballots_ = [ballot.votes for (_, attribute), ballot in polled.items() if attribute == name]
    return priors([scores(votes, weights(votes, settings.method, settings.temperature), {}, 0.0) for votes in ballots_])


def _thresholds(labels: Sequence[Label], schema: Schema, rate: float | None) -> dict[str, float]:
    if rate is None:
        return dict.fromkeys(schema.names, 0.0)
    if not 0 <= rate <= 1:
        raise UserError(f"vote.unknown_rate={rate} is not a share (0 to 1)")
    found = {}
    for name in schema.names:
        own = [label for label in labels if label.attribute == name]
        known = [label.confidence for label in own if label.label != UNKNOWN]
        found[name] = unknown_threshold(known, len(own) - len(known), rate)
    return found
