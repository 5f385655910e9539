"""Votes of a person's answers, their winners, and labels of them with calibrated confidence."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple, cast

from omegaconf import OmegaConf

from mmprofile.config.llm_settings import LlmConfig, VoteConfig
from mmprofile.errors import UserError
from mmprofile.llm.answers import parse_answer
from mmprofile.llm.calibrate import AGREEMENT, ON_GOLD, ConfidenceMap, fit, priors, unknown_threshold
from mmprofile.llm.checks import METHODS
from mmprofile.llm.journal import Record
from mmprofile.llm.labels import Label, Vote
from mmprofile.llm.people import Person
from mmprofile.llm.stage import digest
from mmprofile.llm.vote.agreement import likelihoods
from mmprofile.profile.schema import UNKNOWN, Schema

NO_EVIDENCE = "not enough evidence"


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


class Ballot(NamedTuple):
    """The votes on one attribute of one person, and the rationale of each."""

    votes: tuple[Vote, ...]
    rationales: tuple[str, ...]


NO_VOTES = Ballot((), ())


def vote_settings(cfg: LlmConfig) -> VoteConfig:
    """Return the ``vote`` of ``conf/llm.yaml`` as a dataclass."""
    return cast(VoteConfig, OmegaConf.to_object(cfg.vote))


def of_whole_readings(settings: VoteConfig) -> VoteConfig:
    """Return how answers are voted that have each read all, as a student's: their Unknown is a judgement, and weighs as one."""
    return replace(settings, gamma=1.0, of_answers="mean")


def vote_weights(
    votes: Sequence[Vote], method: str = "confidence", temperature: float = 1.0, gamma: float = 1.0
) -> list[float]:
    """Return the weight of each vote.

    Args:
        votes: of one attribute of one person.
        method: ``confidence``: the vote's confidence to the power of ``gamma`` (all zero: all alike); ``majority``: all alike;
            ``cisc``: softmax of the confidences by ``temperature`` (Taubenfeld et al., 2025).
        temperature: of ``cisc``.
        gamma: 0 or more. Above 1 an answer that saw nothing, and says Unknown with little confidence, hardly counts against
            one that saw.

    Raises:
        UserError: the method is unknown, or the temperature not above 0.
    """
    if method not in METHODS:
        raise UserError(f"vote.method={method!r} is not one of {', '.join(METHODS)}")
    if not temperature > 0:
        raise UserError(f"vote.temperature={temperature}: give more than 0")
    if method == "cisc" and votes:
        highest = max(vote.confidence for vote in votes)
        exponentials = [math.exp((vote.confidence - highest) / temperature) for vote in votes]
        return [exponential / sum(exponentials) for exponential in exponentials]
    if method == "confidence" and any(vote.confidence for vote in votes):
        return [vote.confidence**gamma for vote in votes]
    return [1.0] * len(votes)


def value_scores(
    votes: Sequence[Vote], weights: Sequence[float], prior: Mapping[str, float], alpha: float
) -> dict[str, float]:
    """Return S(v), the sum of the weights of v's votes, divided by v's prior to the power of ``alpha``."""
    sums: dict[str, float] = {}
    for vote, weight in zip(votes, weights, strict=True):
        sums[vote.value] = sums.get(vote.value, 0.0) + weight
    return {value: total / prior.get(value, 1.0) ** alpha for value, total in sums.items()}


def find_winner(
    votes: Sequence[Vote],
    values: Sequence[str],
    method: str = "confidence",
    temperature: float = 1.0,
    prior: Mapping[str, float] | None = None,
    alpha: float = 0.0,
    gamma: float = 1.0,
) -> Winner:
    """Return the value with the highest score.

    A tie goes to the value with more votes, then with the higher single confidence, then to the first in the schema's order.

    Args:
        votes: of one attribute of one person; none: Unknown.
        values: the schema's; Unknown comes last.
        method: see :func:`vote_weights`.
        temperature: of ``cisc``.
        prior: how common each value is; see :func:`value_scores`.
        alpha: how far the prior is corrected for, 0 not at all.
        gamma: see :func:`vote_weights`.
    """
    if not votes:
        return Winner(UNKNOWN, 0.0, 0.0)
    scores = value_scores(votes, vote_weights(votes, method, temperature, gamma), prior or {}, alpha)
    order = {value: -place for place, value in enumerate((*values, UNKNOWN))}
    confidences: dict[str, list[float]] = {}
    for vote in votes:
        confidences.setdefault(vote.value, []).append(vote.confidence)

    def rank(value: str) -> tuple[float, int, float, int]:
        # rounded: sums of equal terms may differ
        return round(scores[value], 12), len(confidences[value]), max(confidences[value]), order[value]

    best = max(scores, key=rank)
    return Winner(
        value=best,
        q=scores[best] / sum(scores.values()),
        m=sum(confidences[best]) / len(confidences[best]),
    )


def collect_ballots(
    people: Sequence[Person], schema: Schema, records: Iterable[Record]
) -> dict[tuple[str, str], Ballot]:
    """Return the votes in the answers about these people, by user id and attribute; claims not understood cast no vote."""
    user_ids = {person.user_id for person in people}
    cast_votes: dict[tuple[str, str], list[tuple[Vote, str]]] = {}
    for record in sorted(records, key=lambda record: (record.user_id, record.sample, record.request)):
        if record.user_id not in user_ids or record.error is not None:
            continue
        for name, claim in parse_answer(record.answer, schema).claims.items():
            vote = Vote(record.sample, claim.value, claim.confidence, record.request)
            cast_votes.setdefault((record.user_id, name), []).append((vote, claim.rationale))
    return {
        key: Ballot(votes=tuple(vote for vote, _ in pairs), rationales=tuple(rationale for _, rationale in pairs))
        for key, pairs in cast_votes.items()
    }


def vote(
    people: Sequence[Person], ballots: Mapping[tuple[str, str], Ballot], schema: Schema, settings: VoteConfig
) -> tuple[list[Label], dict[str, Any]]:
    """Return labels of all people and attributes, and the calibration as plain data.

    Args:
        people: whose labels; only isotonic and temperature look at gold values, those of ``settings.gold_split``.
        ballots: as :func:`collect_ballots` returns.
        schema: the attributes.
        settings: the ``vote`` of ``conf/llm.yaml``.

    Raises:
        UserError: a setting makes no sense.
    """
    prior = {name: _prior(name, ballots, settings) if settings.alpha else {} for name in schema.names}
    origin = digest(asdict(settings), schema.to_dict(), prior)
    labels = [
        voted_label(
            user_id=person.user_id,
            attribute=name,
            ballot=ballots.get((person.user_id, name), NO_VOTES),
            schema=schema,
            settings=settings,
            prior=prior[name],
            origin=origin,
        )
        for person in people
        for name in schema.names
    ]
    if settings.calibration == AGREEMENT:
        of_values, evidence = likelihoods(labels, schema, settings.of_answers)
        told = {name: of_name._asdict() for name, of_name in evidence.items()}
        calibrated: dict[str, Any] = {"kind": AGREEMENT, "evidence": told}
        confidences = [of_label.get(label.voted, 0.0) for label, of_label in zip(labels, of_values, strict=True)]
    else:
        fitted = _fit_calibration(people, labels, settings)
        calibrated, confidences = asdict(fitted), [calibrated_confidence(label, fitted) for label in labels]
    labels = [replace(label, confidence=round(own, 6)) for label, own in zip(labels, confidences, strict=True)]
    thresholds = _thresholds(labels, schema, settings.unknown_rate)
    labels = [apply_threshold(label, thresholds[label.attribute]) for label in labels]
    origins = {"settings": origin, "vote": asdict(settings)}
    return labels, calibrated | {"thresholds": thresholds, "priors": prior} | origins


def voted_label(
    *,
    user_id: str,
    attribute: str,
    ballot: Ballot,
    schema: Schema,
    settings: VoteConfig,
    prior: Mapping[str, float],
    origin: str,
) -> Label:
    """Return the label that the votes give, not calibrated; its rationale is that of the winner's most confident vote."""
    winner = find_winner(
        ballot.votes,
        schema[attribute].values,
        settings.method,
        settings.temperature,
        prior,
        settings.alpha,
        settings.gamma,
    )
    rationales = [
        (vote.confidence, -vote.sample, rationale)
        for vote, rationale in zip(ballot.votes, ballot.rationales, strict=True)
        if vote.value == winner.value
    ]
    return Label(
        user_id=user_id,
        attribute=attribute,
        label=winner.value,
        confidence=0.0,
        voted=winner.value,
        q=winner.q,
        m=winner.m,
        rationale=max(rationales)[2] if rationales else NO_EVIDENCE,
        votes=ballot.votes,
        provenance=origin,
    )


def raw_confidence(label: Label) -> float:
    """Return the confidence before calibration: agreement times the winner's mean confidence."""
    return label.q * label.m


def calibrated_confidence(label: Label, calibration: ConfidenceMap) -> float:
    """Return the calibrated confidence of a label; Unknown keeps its raw one, since nothing was fitted to it."""
    raw = raw_confidence(label)
    return raw if label.label == UNKNOWN else float(calibration([raw])[0])


def apply_threshold(label: Label, threshold: float) -> Label:
    """Return the label, or Unknown where its confidence c is below the threshold; this Unknown has the confidence 1 - c."""
    if label.label == UNKNOWN or label.confidence >= threshold:
        return label
    return replace(label, label=UNKNOWN, confidence=round(1 - label.confidence, 6), rationale=NO_EVIDENCE)


def _fit_calibration(people: Sequence[Person], labels: Sequence[Label], settings: VoteConfig) -> ConfidenceMap:
    """Fit the map on the labels that are not Unknown; where it needs gold, on those with a gold value in the gold split."""
    fitted_on = [label for label in labels if label.label != UNKNOWN]
    correct = None
    if settings.calibration in ON_GOLD:
        gold = {person.user_id: person.gold for person in people if person.split == settings.gold_split}
        fitted_on = [label for label in fitted_on if label.attribute in gold.get(label.user_id, {})]
        correct = [gold[label.user_id][label.attribute] == (label.label,) for label in fitted_on] or None
    confidences = [raw_confidence(label) for label in fitted_on]
    return fit(settings.calibration, confidences, correct, (settings.target[0], settings.target[1]))


def _prior(name: str, ballots: Mapping[tuple[str, str], Ballot], settings: VoteConfig) -> dict[str, float]:
    """Return how common each value of an attribute is among the votes."""
    of_attribute = [ballot.votes for (_, attribute), ballot in ballots.items() if attribute == name]
    return priors(
        [
            value_scores(votes, vote_weights(votes, settings.method, settings.temperature, settings.gamma), {}, 0.0)
            for votes in of_attribute
        ]
    )


def _thresholds(labels: Sequence[Label], schema: Schema, rate: float | None) -> dict[str, float]:
    """Return for each attribute the confidence below which its labels become Unknown."""
    if rate is None:
        return dict.fromkeys(schema.names, 0.0)
    if not 0 <= rate <= 1:
        raise UserError(f"vote.unknown_rate={rate} is not a share (0 to 1)")
    thresholds = {}
    for name in schema.names:
        of_attribute = [label for label in labels if label.attribute == name]
        known = [label.confidence for label in of_attribute if label.label != UNKNOWN]
        thresholds[name] = unknown_threshold(known, len(of_attribute) - len(known), rate)
    return thresholds
