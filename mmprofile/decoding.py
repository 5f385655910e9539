"""Decoding: the likeliest legal profile, and how probability is spread over the values of each attribute.

A profile's language is finite and mostly forced: between two choices there is nothing to search. So the search goes from
choice to choice (of a value, or of a token where values share their first ones), reads the forced tokens between two
choices in one piece, and keeps the partial profiles that carry the probability. Partial profiles of one user share what
they have in common: they are a tree.

Dimension letters: B users, n new nodes, V all nodes of a user's tree (some of them padding), N input tokens, d width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from mmprofile.grammar import Grammar
from mmprofile.profile import Profile

WIDTH = 16
TOLERANCE = 1e-3


class Decoded(NamedTuple):
    """What decoding finds for one user.

    Attributes:
        text: the likeliest profile found.
        profile: the same, parsed.
        log_probability: its natural logarithm of probability given the input.
        posteriors: attribute -> its values -> their probability, whatever the other attributes are; () stands for Unknown.
        lost: the largest probability that the search gave up before an attribute was decided. Every posterior is within
            ``lost`` of the true one; a profile that was not looked at has less than ``lost``.
    """

    text: str
    profile: Profile
    log_probability: float
    posteriors: dict[str, dict[tuple[str, ...], float]]
    lost: float


@dataclass(frozen=True)
class _Path:
    """A partial profile: its tokens, the decoder's start token first, up to the next choice."""

    tokens: tuple[int, ...]
    score: float = 0.0
    read: int = 0  # how many of the tokens the decoder has read
    node: int = -1  # the last of them
    state: int = 0  # in the grammar
    known: int = 0  # in the grammar of what is possible
    values: tuple[tuple[str, ...], ...] = ()  # of the attributes that are written
    begin: int = 1  # where the tokens of the next one begin


class States(Protocol):
    """Decoder states along the paths of trees, one tree for each user."""

    def extend(self, chunks: Sequence[Sequence[tuple[int, Sequence[int]]]]) -> tuple[Tensor, list[list[int]]]:
        """Reads more tokens.

        Args:
            chunks: for every user, pairs of a node (-1: above the root) and the tokens that follow it.

        Returns:
            The states (B, n, d) of the new nodes, chunk after chunk; for every user and chunk its last node.
        """
        ...


class Search:
    """Finds the likeliest profile of each user, and the posteriors.

    All partial profiles of a user advance together, from choice to choice; where they arrive at the next value, those are
    kept that carry the probability. One given up is taken up again if in the end it could still beat what was found, so
    the profile returned is the likeliest of all, not of a beam.

    Args:
        grammar: what is legal, and what a token competes with if ``vocabulary`` is ``schema``.
        start: the decoder's start token.
        logits: (states (R, d), ids (k,) or None for all) -> logits (R, k or vocabulary).
        vocabulary: ``schema`` or ``full``, see :class:`mmprofile.model.ProfileModel`.
        width: partial profiles to keep of a user at a time.
        tolerance: share of a user's probability that may be given up at a time even if ``width`` allows to keep it.
    """

    def __init__(
        self,
        grammar: Grammar,
        start: int,
        logits: Callable[[Tensor, Tensor | None], Tensor],
        vocabulary: str,
        width: int = WIDTH,
        tolerance: float = TOLERANCE,
    ) -> None:
        self.grammar, self.start, self.logits, self.full = grammar, start, logits, vocabulary == "full"
        self.width, self.tolerance = width, tolerance

    def __call__(self, states: States, known: Sequence[Grammar]) -> list[Decoded]:
        """Searches for all users at once; ``known`` is the grammar of what is possible for each."""
        live = [[self._follow(_Path((self.start,)), grammar)] for grammar in known]
        given_up: list[list[_Path]] = [[] for _ in known]
        done: list[list[_Path]] = [[] for _ in known]
        while any(live):
            stages = [min((self.grammar.stage(path.state) for path in paths), default=None) for paths in live]
            turns = [
                [path for path in paths if self.grammar.stage(path.state) == stage]
                for paths, stage in zip(live, stages, strict=True)
            ]
            children = self._advance(states, turns, known)
            for b, stage in enumerate(stages):
                waiting = [path for path in live[b] if self.grammar.stage(path.state) != stage]
                done[b] += [path for path in children[b] if self._is_done(path)]
                live[b] = waiting + [path for path in children[b] if not self._is_done(path)]
                if live[b] and min(self.grammar.stage(path.state) for path in live[b]) != stage:
                    live[b], dropped = self._prune(live[b])
                    given_up[b] += dropped
                if not live[b] and done[b]:
                    best = max(path.score for path in done[b])
                    again = sorted((p for p in given_up[b] if p.score > best), key=lambda p: -p.score)[: self.width]
                    given_up[b] = [path for path in given_up[b] if path not in again]
                    live[b] = again
        return [self._result(d, g) for d, g in zip(done, given_up, strict=True)]

    def _follow(self, path: _Path, known: Grammar) -> _Path:
        """The path with the tokens that are forced after it."""
        while len(moves := self.grammar.moves(path.state)) == 1:
            path = self._step(path, next(iter(moves)), known)
        return path

    def _step(self, path: _Path, token: int, known: Grammar) -> _Path:
        state, tokens = self.grammar.moves(path.state)[token], (*path.tokens, token)
        begin, values = path.begin, path.values
        if len(values) < min(self.grammar.stage(state).attribute, len(self.grammar.schema.attributes)):
            values = (*values, self.grammar.values(len(values), tokens[begin:]))
            begin = len(tokens)
        return replace(
            path, tokens=tokens, state=state, known=known.moves(path.known)[token], values=values, begin=begin
        )

    def _is_done(self, path: _Path) -> bool:
        ended = not self.grammar.moves(path.state)
        return ended and (not self.full or path.read >= len(path.tokens) - 1)

    def _advance(self, states: States, turns: list[list[_Path]], known: Sequence[Grammar]) -> list[list[_Path]]:
        """Reads what is unread of the paths -> their continuations, scored; a path at its end is its own."""
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
        continued: list[list[_Path]] = []
        for b, paths in enumerate(turns):
            continued.append([])
            for path, node in zip(paths, nodes[b], strict=True):
                score = path.score
                if self.full:
                    score += sum(next(answers)[0] for _ in path.tokens[path.read + 1 :])
                path = replace(path, score=score, node=node, read=len(path.tokens))
                if not (moves := self.grammar.moves(path.state)):
                    continued[b].append(path)
                    continue
                possible = known[b].moves(path.known)
                for token, log_probability in zip(moves, next(answers), strict=True):
                    if token in possible:
                        child = self._step(replace(path, score=score + log_probability), token, known[b])
                        continued[b].append(self._follow(child, known[b]))
        return continued

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

    def _prune(self, paths: list[_Path]) -> tuple[list[_Path], list[_Path]]:
        """The paths to keep, best first, and those to give up."""
        paths = sorted(paths, key=lambda path: -path.score)
        mass = np.exp(np.array([path.score for path in paths]) - paths[0].score).cumsum()
        enough = int((mass < (1 - self.tolerance) * mass[-1]).sum()) + 1
        keep = min(enough, self.width)
        return paths[:keep], paths[keep:]

    def _result(self, done: list[_Path], given_up: list[_Path]) -> Decoded:
        best = max(done, key=lambda path: path.score)
        top = max(path.score for path in (*done, *given_up))
        share: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in self.grammar.schema.names}
        for path in (*done, *given_up):
            for name, values in zip(share, path.values, strict=False):
                share[name][values] = share[name].get(values, 0.0) + math.exp(path.score - top)
        posteriors = {}
        for name, found in share.items():
            total = sum(found.values())
            ranked = sorted(found.items(), key=lambda item: -item[1])
            posteriors[name] = {values: mass / total for values, mass in ranked}
        lost = sum(math.exp(path.score - top) for path in given_up)
        total = lost + sum(math.exp(path.score - top) for path in done)
        profile = dict(zip(self.grammar.schema.names, best.values, strict=True))
        return Decoded(self.grammar.decode(best.tokens), profile, best.score, posteriors, lost / total)


class T5Trees:
    """States of a T5 decoder: keys and values of a user's tree are computed once, those of the input as well.

    A node sees its ancestors only, at the distance that it has from them in the text.

    Args:
        text: T5ForConditionalGeneration.
        hidden: (B, N, d), what the decoder reads.
        mask: (B, N) bool.
    """

    def __init__(self, text: Any, hidden: Tensor, mask: Tensor) -> None:
        self.decoder, self.hidden = text.get_decoder(), hidden
        self.lowest = torch.finfo(hidden.dtype).min
        self.unseen_input = (~mask[:, None, None, :]).to(hidden.dtype) * self.lowest
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.depth = np.zeros((len(hidden), 0), dtype=np.int64)
        self.seen = np.zeros((len(hidden), 0, 0), dtype=bool)

    def extend(self, chunks: Sequence[Sequence[tuple[int, Sequence[int]]]]) -> tuple[Tensor, list[list[int]]]:
        """See :class:`States`."""
        ids, nodes = self._grow(chunks)
        new = ids.shape[1]
        device = self.hidden.device
        depth = torch.from_numpy(self.depth).to(device)
        attention = self.decoder.block[0].layer[0].SelfAttention
        bucket = attention._relative_position_bucket(
            depth[:, None, :] - depth[:, -new:, None],
            bidirectional=False,
            num_buckets=attention.relative_attention_num_buckets,
            max_distance=attention.relative_attention_max_distance,
        )
        bias = attention.relative_attention_bias(bucket).permute(0, 3, 1, 2)
        bias = bias.masked_fill(~torch.from_numpy(self.seen[:, -new:]).to(device)[:, None], self.lowest)
        states = self.decoder.embed_tokens(ids.to(device))
        for block in self.decoder.block:
            states = block.layer[0](states, position_bias=bias, past_key_values=self.cache)[0]
            states = block.layer[1](
                states, key_value_states=self.hidden, position_bias=self.unseen_input, past_key_values=self.cache
            )[0]
            states = block.layer[2](states)
        return self.decoder.final_layer_norm(states), nodes

    def _grow(self, chunks: Sequence[Sequence[tuple[int, Sequence[int]]]]) -> tuple[Tensor, list[list[int]]]:
        """Adds nodes to depth and seen -> their ids (B, n), and the last node of each chunk."""
        users, old = self.depth.shape
        new = max(sum(len(tokens) for _, tokens in user) for user in chunks)
        ids = torch.zeros(users, new, dtype=torch.long)
        depth = np.zeros((users, new), dtype=np.int64)
        seen = np.zeros((users, old + new, old + new), dtype=bool)
        seen[:, :old, :old] = self.seen
        seen[:, old:, old:] |= np.eye(new, dtype=bool)  # padding sees itself
        nodes: list[list[int]] = []
        for b, user in enumerate(chunks):
            first = 0
            nodes.append([])
            for parent, tokens in user:
                count = len(tokens)
                ids[b, first : first + count] = torch.tensor(tokens)
                here = slice(old + first, old + first + count)
                if parent >= 0:
                    seen[b, here] |= seen[b, parent]
                seen[b, here, here] |= np.tri(count, dtype=bool)
                depth[b, first : first + count] = np.arange(count) + (self.depth[b, parent] + 1 if parent >= 0 else 0)
                first += count
                nodes[b].append(old + first - 1)
        self.depth, self.seen = np.concatenate([self.depth, depth], 1), seen
        return ids, nodes


class Rows:
    """States of any encoder-decoder's decoder: every partial profile is a row of its own and is read anew each time."""

    def __init__(self, text: Any, hidden: Tensor, mask: Tensor) -> None:
        self.decoder, self.hidden, self.mask = text.get_decoder(), hidden, mask
        self.paths: list[list[tuple[int, ...]]] = [[] for _ in range(len(hidden))]

    def extend(self, chunks: Sequence[Sequence[tuple[int, Sequence[int]]]]) -> tuple[Tensor, list[list[int]]]:
        """See :class:`States`."""
        users = [b for b, user in enumerate(chunks) for _ in user]
        paths = [
            (*(self.paths[b][parent] if parent >= 0 else ()), *tokens)
            for b, user in enumerate(chunks)
            for parent, tokens in user
        ]
        ids = torch.zeros(len(paths), max(map(len, paths)), dtype=torch.long)
        for row, path in enumerate(paths):
            ids[row, : len(path)] = torch.tensor(path)
        states = self.decoder(
            input_ids=ids.to(self.hidden.device),
            encoder_hidden_states=self.hidden[users],
            encoder_attention_mask=self.mask[users],
            use_cache=False,
        ).last_hidden_state
        new = max(sum(len(tokens) for _, tokens in user) for user in chunks)
        found = states.new_zeros(len(self.hidden), new, states.shape[-1])
        nodes: list[list[int]] = []
        row = 0
        for b, user in enumerate(chunks):
            column = 0
            nodes.append([])
            for _, tokens in user:
                count, end = len(tokens), len(paths[row])
                found[b, column : column + count] = states[row, end - count : end]
                self.paths[b].append(paths[row])
                nodes[b].append(len(self.paths[b]) - 1)
                column, row = column + count, row + 1
        return found, nodes
