"""Decoding: the likeliest legal profile, and how probability is spread over the values of each attribute.

A profile's language is finite and mostly forced: between two choices there is nothing to search. So the search goes from
choice to choice (of a value, or of a token where values share their first ones), reads the forced tokens between two
choices in one piece, and keeps the partial profiles that carry the probability. Partial profiles of one user share what
they have in common: they are a tree.

Dimension letters as in :mod:`mmprofile.model.trees`.
"""

import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmprofile.model.trees import States
from mmprofile.profile.grammar import Grammar, Stage
from mmprofile.profile.schema import Profile, Schema

WIDTH = 8
TOLERANCE = 1e-3
NEGLIGIBLE = 15.0
"""Partial profiles e^-15 less likely than the likeliest count as lost without a look at what they say."""


class Decoded(NamedTuple):
    """What decoding finds for one user.

    Attributes:
        text: the likeliest profile found.
        profile: the same, parsed.
        log_probability: natural logarithm of its probability given the input.
        posteriors: attribute -> its values, likeliest first -> their probability, whatever the other attributes are; ()
            stands for Unknown. Of the partial profiles that were looked at.
        lost: the share of probability in what was given up, much or little of which may be legal further on: the format
            in the full vocabulary, and attributes yet to come that are known, can still cost any part of it. Every
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
        """Attribute -> the probability of its values in the profile, not calibrated."""
        return {name: self.posteriors[name][values] for name, values in self.profile.items()}


def merged(schema: Schema, parts: Sequence[Decoded]) -> Decoded:
    """One profile out of what was written apart: each part has some of the schema's attributes, independent of the others."""
    if len(parts) == 1:
        return parts[0]
    profile = {name: values for part in parts for name, values in part.profile.items()}
    posteriors = {name: found for part in parts for name, found in part.posteriors.items()}
    log_probability = sum(part.log_probability for part in parts)
    lost, exact = max(part.lost for part in parts), all(part.exact for part in parts)
    return Decoded(schema.render(profile), profile, log_probability, posteriors, lost, exact)


class _Path(NamedTuple):
    """A partial profile: its tokens, the decoder's start token first, up to the next choice."""

    tokens: tuple[int, ...]
    score: float = 0.0
    read: int = 0  # how many of the tokens the decoder has read
    node: int = -1  # the last of them
    state: int = 0  # in the grammar
    known: int = 0  # in the grammar of what is possible
    values: tuple[tuple[str, ...], ...] = ()  # of the attributes that are written
    begin: int = 1  # where the tokens of the next one begin


class _Choice(NamedTuple):
    """A path and what may come next; the path as it is where ``token`` is None."""

    score: float
    path: _Path
    token: int | None


class Search:
    """Finds the likeliest profile of each user, and the posteriors.

    All partial profiles of a user advance together, from choice to choice; where they arrive at the next value, those are
    kept that carry the probability.

    Args:
        grammar: what is legal, and what a token competes with if ``vocabulary`` is ``schema``.
        start: the decoder's start token; of a causal model, the last token of every prompt.
        logits: (states (R, d), ids (k,) or None for all) -> logits (R, k or vocabulary).
        vocabulary: ``schema`` or ``full``, see :class:`mmprofile.model.model.ProfileModel`.
        width: partial profiles to keep of a user at a time.
        tolerance: share of a user's probability that may be given up at a time even if ``width`` allows to keep it.
        exact: take up again what was given up as long as it could beat the profile found.
    """

    def __init__(
        self,
        grammar: Grammar,
        start: int,
        logits: Callable[[Tensor, Tensor | None], Tensor],
        vocabulary: str,
        width: int = WIDTH,
        tolerance: float = TOLERANCE,
        exact: bool = False,
    ) -> None:
        self.grammar, self.start, self.logits, self.full = grammar, start, logits, vocabulary == "full"
        self.width, self.tolerance, self.exact = width, tolerance, exact

    def __call__(self, states: States, known: Sequence[Grammar]) -> list[Decoded]:
        """Searches for all users at once; ``known`` is the grammar of what is possible for each."""
        live = [[self._grown(_Choice(0.0, _Path((self.start,)), None), grammar)] for grammar in known]
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
                choices[b] += [_Choice(path.score, path, None) for path in waiting]
                if choices[b] and min(self._stage(choice) for choice in choices[b]) != stage:
                    choices[b], dropped = self._prune(choices[b])
                    given_up[b] += dropped
                live[b] = self._sort(choices[b], known[b], done[b])
                while self.exact and not live[b] and (again := self._beating(done[b], given_up[b])):
                    given_up[b] = [choice for choice in given_up[b] if choice not in again]
                    live[b] = self._sort(again, known[b], done[b])
        return [self._result(*found) for found in zip(done, given_up, known, strict=True)]

    def _sort(self, choices: list[_Choice], known: Grammar, done: list[_Path]) -> list[_Path]:
        """The paths that are not at their end; those that are go to ``done``."""
        paths = [self._grown(choice, known) for choice in choices]
        done += [path for path in paths if self._is_done(path)]
        return [path for path in paths if not self._is_done(path)]

    def _beating(self, done: list[_Path], given_up: list[_Choice]) -> list[_Choice]:
        """What was given up and could still beat what was found, as much of it as goes on at a time."""
        best = max((path.score for path in done), default=math.inf)
        return sorted((choice for choice in given_up if choice.score > best), key=lambda c: -c.score)[: self.width]

    def _stage(self, choice: _Choice) -> Stage:
        """How far a choice leads."""
        state = choice.path.state
        if choice.token is not None:
            state = self.grammar.forced(self.grammar.moves(state)[choice.token]).state
        return self.grammar.stage(state)

    def _grown(self, choice: _Choice, known: Grammar) -> _Path:
        """The path with its choice and the tokens that are forced after it."""
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
        return _Path(tokens, choice.score, path.read, path.node, forced.state, possible, values, begin)

    def _is_done(self, path: _Path) -> bool:
        ended = not self.grammar.moves(path.state)
        return ended and (not self.full or path.read >= len(path.tokens) - 1)

    def _advance(self, states: States, turns: list[list[_Path]], known: Sequence[Grammar]) -> list[list[_Choice]]:
        """Reads what is unread of the paths -> what may come next, scored."""
        chunks = [[(path.node, path.tokens[path.read : self._readable(path)]) for path in paths] for paths in turns]
        hidden, nodes = states.extend(chunks)
        asked: list[tuple[int, int, list[int]]] = []  # user, column, the tokens whose probabilities are wanted
        for b, paths in enumerate(turns):
            column = 0
            for path, (_, chunk) in zip(paths, chunks[b], strict=True):
                if self.full:
                    forced = path.tokens[path.read + 1 :]
                    asked += [(b, column + i, [token]) for i, token in enumerate(forced)]
                column += len(chunk)
                if moves := self.grammar.moves(path.state):
                    asked.append((b, column - 1, list(moves)))
        answers = iter(self._log_probabilities(hidden, asked))
        choices: list[list[_Choice]] = [[] for _ in turns]
        for b, paths in enumerate(turns):
            for path, node in zip(paths, nodes[b], strict=True):
                score = path.score
                if self.full:
                    score += sum(next(answers)[0] for _ in path.tokens[path.read + 1 :])
                read = path._replace(score=score, node=node, read=len(path.tokens))
                moves = self.grammar.moves(path.state)
                if not moves:
                    choices[b].append(_Choice(score, read, None))
                    continue
                possible = known[b].moves(path.known)
                choices[b] += [
                    _Choice(score + log_probability, read, token)
                    for token, log_probability in zip(moves, next(answers), strict=True)
                    if token in possible
                ]
        return choices

    def _readable(self, path: _Path) -> int:
        """How many tokens of a path the decoder has to read: an end-of-sequence token never."""
        return len(path.tokens) - (not self.grammar.moves(path.state))

    def _log_probabilities(self, hidden: Tensor, asked: list[tuple[int, int, list[int]]]) -> list[list[float]]:
        users, columns, tokens = zip(*asked, strict=True)
        rows = hidden[list(users), list(columns)]
        row = torch.tensor([i for i, some in enumerate(tokens) for _ in some], device=hidden.device)
        token = torch.tensor([t for some in tokens for t in some], device=hidden.device)
        if self.full:
            table = self.logits(rows, None).float().log_softmax(-1)[row, token]
        else:
            ids, place = token.unique(return_inverse=True)
            illegal = torch.ones(len(rows), len(ids), dtype=torch.bool, device=hidden.device)
            illegal[row, place] = False
            logits = self.logits(rows, ids).float().masked_fill(illegal, -torch.inf)
            table = logits.log_softmax(-1)[row, place]
        flat = iter(table.tolist())
        return [list(islice(flat, len(some))) for some in tokens]

    def _prune(self, choices: list[_Choice]) -> tuple[list[_Choice], list[_Choice]]:
        """What to go on with, likeliest first, and what to give up."""
        choices = sorted(choices, key=lambda choice: -choice.score)
        mass = np.exp(np.array([choice.score for choice in choices]) - choices[0].score).cumsum()
        enough = int((mass < (1 - self.tolerance) * mass[-1]).sum()) + 1
        keep = min(enough, self.width)
        return choices[:keep], choices[keep:]

    def _result(self, done: list[_Path], given_up: list[_Choice], known: Grammar) -> Decoded:
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
        posteriors = {name: _shares(found) for name, found in scores.items()}
        profile = dict(zip(names, best.values, strict=True))
        text = self.grammar.decode(best.tokens[1:])  # a causal model's start token need not be a special one
        return Decoded(text, profile, best.score, posteriors, lost / total, best.score >= top)


def _shares(scores: dict[tuple[str, ...], list[float]]) -> dict[tuple[str, ...], float]:
    """Each value's share of the probability, from the log-probabilities of the profiles with it; likeliest first."""
    top = max(max(some) for some in scores.values())
    mass = {values: sum(math.exp(score - top) for score in some) for values, some in scores.items()}
    total = sum(mass.values())
    return {values: mass[values] / total for values in sorted(mass, key=lambda values: -mass[values])}
