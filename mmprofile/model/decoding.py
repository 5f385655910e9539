"""Decoding: the likeliest legal profile, and how probability is spread over the values of each attribute.

The legal profiles are finite, and most of their tokens are forced, so there is nothing to search between two choices. The
search goes from choice to choice (of a value, or of a token where values share their first ones), reads the forced tokens
between two choices in one piece, and keeps the partial profiles that carry the probability. The partial profiles of one
user are a tree, since they share their beginnings.

Dimension letters as in :mod:`mmprofile.model`.
"""

import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmprofile.model.trees import States
from mmprofile.profile.calibrator import Calibrator
from mmprofile.profile.grammar import Grammar, Stage
from mmprofile.profile.schema import Profile, Schema

SEARCH_WIDTH = 8
TOLERANCE = 1e-3
NEGLIGIBLE = 15.0
"""Partial profiles e^-15 less likely than the likeliest count as lost whatever their values are."""


class Decoded(NamedTuple):
    """The decoded profile of one user.

    Attributes:
        text: the likeliest profile found.
        profile: the same, parsed.
        log_probability: natural logarithm of its probability given the input.
        posteriors: attribute -> its values, likeliest first -> their probability, whatever the other attributes are; ()
            stands for Unknown. They cover the partial profiles that were looked at.
        lost: the share of probability of the partial profiles that were given up. Any part of it may be illegal further
            on: in the full vocabulary by the format, else by known attributes that are still to be written. Each
            posterior is within ``lost`` of the true one.
        exact: whether no profile at all can be likelier.
    """

    text: str
    profile: Profile
    log_probability: float
    posteriors: dict[str, dict[tuple[str, ...], float]]
    lost: float
    exact: bool

    @property
    def confidence(self) -> dict[str, float]:
        """Attribute -> the probability of the profile's values; calibrated only after :meth:`calibrated`."""
        return {name: self.posteriors[name][values] for name, values in self.profile.items()}

    def calibrated(self, calibrator: Calibrator) -> "Decoded":
        """Return the same profile with calibrated posteriors."""
        return self._replace(posteriors=calibrator.calibrated(self.posteriors))


def merged(schema: Schema, parts: Sequence[Decoded]) -> Decoded:
    """Join parts of a profile, each with some of the schema's attributes, independent of the other parts."""
    if len(parts) == 1:
        return parts[0]
    profile = {name: values for part in parts for name, values in part.profile.items()}
    posteriors = {name: shares for part in parts for name, shares in part.posteriors.items()}
    return Decoded(
        text=schema.render(profile),
        profile=profile,
        log_probability=sum(part.log_probability for part in parts),
        posteriors=posteriors,
        lost=max(part.lost for part in parts),
        exact=all(part.exact for part in parts),
    )


class _Path(NamedTuple):
    """A partial profile.

    Attributes:
        tokens: up to the next choice, the decoder's start token first.
        score: log-probability.
        read: how many of the tokens the decoder has read.
        node: the last token read, in the tree; -1 above the root.
        state: in the grammar.
        known: state in the grammar of what is possible for the user.
        values: of the attributes that are written.
        begin: where the tokens of the next attribute begin.
    """

    tokens: tuple[int, ...]
    score: float = 0.0
    read: int = 0
    node: int = -1
    state: int = 0
    known: int = 0
    values: tuple[tuple[str, ...], ...] = ()
    begin: int = 1


class _Choice(NamedTuple):
    """A path and a token that may come next; None leaves the path as it is."""

    score: float
    path: _Path
    token: int | None


class TokenQuery(NamedTuple):
    """Tokens whose probabilities are needed.

    Attributes:
        user: number of the user.
        column: of the new nodes of the user's tree, behind which they may follow.
        tokens: ids.
    """

    user: int
    column: int
    tokens: list[int]


class ProfileSearch:
    """Finds the likeliest profile of each user, and the posteriors.

    All partial profiles of a user advance together, from choice to choice. Where they arrive at the next value, the search
    keeps those that carry the probability.

    Args:
        grammar: what is legal, and what a token competes with if ``vocabulary`` is ``schema``.
        start: the decoder's start token; of a causal model, the last token of its prompt.
        logits: (states (n, d), token ids (n2,) or None for all) -> logits (n, n2 or vocabulary).
        vocabulary: ``schema`` or ``full``, see :class:`mmprofile.model.model.ProfileModel`.
        width: partial profiles to keep of a user at a time.
        tolerance: share of a user's probability that may be given up at a time even if ``width`` allows to keep it.
        exact: take up again what was given up as long as it could beat the profile found.
    """

    def __init__(
        self,
        *,
        grammar: Grammar,
        start: int,
        logits: Callable[[Tensor, Tensor | None], Tensor],
        vocabulary: str,
        width: int = SEARCH_WIDTH,
        tolerance: float = TOLERANCE,
        exact: bool = False,
    ) -> None:
        self.grammar, self.start, self.logits, self.full = grammar, start, logits, vocabulary == "full"
        self.width, self.tolerance, self.exact = width, tolerance, exact

    def __call__(self, states: States, known: Sequence[Grammar]) -> list[Decoded]:
        """Search for all users at once.

        Args:
            states: of the decoder, for U users.
            known: the grammar of what is possible for each user.
        """
        root = _Choice(score=0.0, path=_Path((self.start,)), token=None)
        live = [[self._grown(root, grammar)] for grammar in known]
        given_up: list[list[_Choice]] = [[] for _ in known]
        done: list[list[_Path]] = [[] for _ in known]
        while any(live):
            stages = [min((self.grammar.stage(path.state) for path in paths), default=None) for paths in live]
            turns = [
                [path for path in paths if self.grammar.stage(path.state) == stage]
                for paths, stage in zip(live, stages, strict=True)
            ]
            choices = self._advance(states, turns, known)
            for b, stage in enumerate(stages):
                waiting = [path for path in live[b] if self.grammar.stage(path.state) != stage]
                choices[b] += [_Choice(score=path.score, path=path, token=None) for path in waiting]
                if choices[b] and min(self._stage(choice) for choice in choices[b]) != stage:
                    choices[b], dropped = self._prune(choices[b])
                    given_up[b] += dropped
                live[b] = self._sort(choices[b], known[b], done[b])
                while self.exact and not live[b] and (again := self._beating(done[b], given_up[b])):
                    given_up[b] = [choice for choice in given_up[b] if choice not in again]
                    live[b] = self._sort(again, known[b], done[b])
        return [self._result(done[b], given_up[b], grammar) for b, grammar in enumerate(known)]

    def _sort(self, choices: list[_Choice], known: Grammar, done: list[_Path]) -> list[_Path]:
        """Return the paths that are not at their end, and add the others to ``done``."""
        paths = [self._grown(choice, known) for choice in choices]
        done += [path for path in paths if self._is_done(path)]
        return [path for path in paths if not self._is_done(path)]

    def _beating(self, done: list[_Path], given_up: list[_Choice]) -> list[_Choice]:
        """Return what was given up but could still beat the best profile, at most ``width`` choices."""
        best = max((path.score for path in done), default=math.inf)
        return sorted((choice for choice in given_up if choice.score > best), key=lambda c: -c.score)[: self.width]

    def _stage(self, choice: _Choice) -> Stage:
        """Return how far a choice leads."""
        state = choice.path.state
        if choice.token is not None:
            state = self.grammar.forced(self.grammar.moves(state)[choice.token]).state
        return self.grammar.stage(state)

    def _grown(self, choice: _Choice, known: Grammar) -> _Path:
        """Return the path with its choice and the tokens that are forced after it."""
        path, chosen = choice.path, () if choice.token is None else (choice.token,)
        state = path.state if choice.token is None else self.grammar.moves(path.state)[choice.token]
        forced = self.grammar.forced(state)
        tokens, values, begin = (*path.tokens, *chosen, *forced.tokens), path.values, path.begin
        for end, written in enumerate(forced.written, len(path.tokens) + len(chosen)):
            while len(values) < written:
                values = (*values, self.grammar.values(len(values), tokens[begin:end]))
                begin = end
        possible = known.walk((*chosen, *forced.tokens), path.known)
        assert possible is not None
        return _Path(
            tokens=tokens,
            score=choice.score,
            read=path.read,
            node=path.node,
            state=forced.state,
            known=possible,
            values=values,
            begin=begin,
        )

    def _is_done(self, path: _Path) -> bool:
        """Tell whether a path is a whole profile and, in the full vocabulary, read to its end."""
        ended = not self.grammar.moves(path.state)
        return ended and (not self.full or path.read >= len(path.tokens) - 1)

    def _advance(self, states: States, turns: list[list[_Path]], known: Sequence[Grammar]) -> list[list[_Choice]]:
        """Read the unread tokens of the paths, and return what may come next with scores."""
        chunks = [[(path.node, path.tokens[path.read : self._readable(path)]) for path in paths] for paths in turns]
        hidden, nodes = states.extend(chunks)
        questions: list[TokenQuery] = []
        for b, paths in enumerate(turns):
            column = 0
            for path, (_, chunk) in zip(paths, chunks[b], strict=True):
                if self.full:
                    forced = path.tokens[path.read + 1 :]
                    questions += [TokenQuery(user=b, column=column + i, tokens=[t]) for i, t in enumerate(forced)]
                column += len(chunk)
                if moves := self.grammar.moves(path.state):
                    questions.append(TokenQuery(user=b, column=column - 1, tokens=list(moves)))
        answers = iter(self._log_probabilities(hidden, questions))
        choices: list[list[_Choice]] = [[] for _ in turns]
        for b, paths in enumerate(turns):
            for path, node in zip(paths, nodes[b], strict=True):
                score = path.score
                if self.full:
                    score += sum(next(answers)[0] for _ in path.tokens[path.read + 1 :])
                read = path._replace(score=score, node=node, read=len(path.tokens))
                moves = self.grammar.moves(path.state)
                if not moves:
                    choices[b].append(_Choice(score=score, path=read, token=None))
                    continue
                possible = known[b].moves(path.known)
                choices[b] += [
                    _Choice(score=score + log_probability, path=read, token=token)
                    for token, log_probability in zip(moves, next(answers), strict=True)
                    if token in possible
                ]
        return choices

    def _readable(self, path: _Path) -> int:
        """Return how many tokens of a path the decoder has to read: all but an end-of-sequence token."""
        return len(path.tokens) - (not self.grammar.moves(path.state))

    def _log_probabilities(self, hidden: Tensor, questions: Sequence[TokenQuery]) -> list[list[float]]:
        """Return the log-probabilities of each question's tokens, by the states (U, W, d) of the new nodes."""
        rows = hidden[[question.user for question in questions], [question.column for question in questions]]
        row = torch.tensor([i for i, q in enumerate(questions) for _ in q.tokens], device=hidden.device)
        token = torch.tensor([t for question in questions for t in question.tokens], device=hidden.device)
        if self.full:
            table = self.logits(rows, None).float().log_softmax(-1)[row, token]
        else:
            ids, place = token.unique(return_inverse=True)
            illegal = torch.ones(len(rows), len(ids), dtype=torch.bool, device=hidden.device)
            illegal[row, place] = False
            logits = self.logits(rows, ids).float().masked_fill(illegal, -torch.inf)
            table = logits.log_softmax(-1)[row, place]
        flat = iter(table.tolist())
        return [list(islice(flat, len(question.tokens))) for question in questions]

    def _prune(self, choices: list[_Choice]) -> tuple[list[_Choice], list[_Choice]]:
        """Return the choices to go on with, likeliest first, and those to give up."""
        choices = sorted(choices, key=lambda choice: -choice.score)
        mass = np.exp(np.array([choice.score for choice in choices]) - choices[0].score).cumsum()
        enough = int((mass < (1 - self.tolerance) * mass[-1]).sum()) + 1
        keep = min(enough, self.width)
        return choices[:keep], choices[keep:]

    def _result(self, done: list[_Path], given_up: list[_Choice], known: Grammar) -> Decoded:
        """Return the likeliest profile of a user, and the posteriors."""
        best = max(done, key=lambda path: path.score)
        top = max([best.score, *(choice.score for choice in given_up)])
        lost = sum(math.exp(choice.score - top) for choice in given_up)
        total = lost + sum(math.exp(path.score - top) for path in done)
        looked_at = [self._grown(choice, known) for choice in given_up if choice.score > best.score - NEGLIGIBLE]
        names = self.grammar.schema.names
        scores: dict[str, dict[tuple[str, ...], list[float]]] = {name: {} for name in names}
        for path in (*done, *looked_at):
            for name, values in zip(names, path.values, strict=False):
                scores[name].setdefault(values, []).append(path.score)
        posteriors = {name: _shares(value_scores) for name, value_scores in scores.items()}
        profile = dict(zip(names, best.values, strict=True))
        text = self.grammar.decode(best.tokens[1:])  # a causal model's start token need not be a special one
        return Decoded(
            text=text,
            profile=profile,
            log_probability=best.score,
            posteriors=posteriors,
            lost=lost / total,
            exact=best.score >= top,
        )


def _shares(scores: dict[tuple[str, ...], list[float]]) -> dict[tuple[str, ...], float]:
    """Return each value's share of the probability, likeliest first, from the log-probabilities of profiles with it."""
    top = max(max(logs) for logs in scores.values())
    mass = {values: sum(math.exp(score - top) for score in logs) for values, logs in scores.items()}
    total = sum(mass.values())
    return {values: mass[values] / total for values in sorted(mass, key=lambda values: -mass[values])}
