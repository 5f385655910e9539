"""The grammar of profiles: which tokens may follow which, so that decoding can only write legal profiles.

:class:`Grammar` turns a profile into token ids, which are training targets. It is also the automaton of all legal
profiles, along which decoders search (:mod:`mmprofile.model.decoding`, and ``generate`` of transformers).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from mmprofile.errors import UserError
from mmprofile.profile.schema import UNKNOWN, Attribute, Profile, Schema

BLANK = re.compile(r"\s+([,;:])")
"""T5's tokenizer puts a blank behind a token that was added to it."""
FRONT = ":"
"""Stands before a text while it is tokenised as a continuation."""


def continuation_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids that texts have behind other text, without special tokens.

    The tokenizers of Llama, Llama 2 and LLaVA put a blank before whatever they are given. A text that begins with a blank
    would get two, which the same words inside a longer text do not have.

    Args:
        tokenizer: of transformers.
        texts: those that begin with no blank are taken as they are.
    """
    if not texts:
        return []
    inner = [FRONT + text if text.startswith(" ") else text for text in texts]
    rows: list[list[int]]
    front, *rows = tokenizer([FRONT, *inner], add_special_tokens=False)["input_ids"]
    for i, (text, ids) in enumerate(zip(texts, rows, strict=True)):
        if text.startswith(" "):
            apart = ids[: len(front)] == front
            rows[i] = ids[len(front) :] if apart else tokenizer(text, add_special_tokens=False)["input_ids"]
    return rows


class Stage(NamedTuple):
    """How far a profile is written.

    Attributes:
        attribute: the number of the attribute that is being written.
        values: how many of its values are written.
    """

    attribute: int
    values: int


class Forced(NamedTuple):
    """The tokens that must follow a state.

    Attributes:
        tokens: ids.
        state: the state after them.
        written: how many attributes are written before each token and after the last: one number more than tokens.
    """

    tokens: tuple[int, ...]
    state: int
    written: tuple[int, ...]


class Target(NamedTuple):
    """What a model is trained to write of a profile.

    Attributes:
        ids: the tokens of the attributes that the profile has and, behind the schema's last attribute, of the end.
        lengths: how many tokens each attribute of the schema has, and the end; 0 for what is left out.
        legal: (n, 2) long, pairs of a place in ``ids`` and a token that the grammar allows there; ``ids`` are among them.
    """

    ids: list[int]
    lengths: list[int]
    legal: np.ndarray


class _Piece(NamedTuple):
    """A piece that is being written: the rest of its tokens, its stage, and what follows it.

    Attributes:
        tokens: ids that are still to be written.
        stage: of the profile.
        attribute: the number of the attribute that follows.
        chosen: the values that are written of it.
    """

    tokens: tuple[int, ...]
    stage: Stage
    attribute: int
    chosen: tuple[str, ...]


class Grammar:
    """All legal profiles of a schema in the tokens of a tokenizer.

    A profile is written piece by piece, split at blanks (`` Favorite Category:``, `` Pizza,``, `` Coffee & Tea;``). The
    tokenizers of the models that we know never join text across such a blank, so the tokens of the pieces are the tokens
    of the whole text.

    States of the automaton are numbers, created when they are first reached; 0 is the empty text.

    Args:
        schema: defines the legal profiles.
        tokenizer: a transformers tokenizer with an end-of-sequence token.
        known: attributes whose values are given; no other values of them are legal.

    Raises:
        UserError: the tokenizer has no tokens for the schema's names or values, a number has no bins yet, or ``known`` is not
            of the schema.
    """

    def __init__(self, schema: Schema, tokenizer: Any, known: Profile | None = None) -> None:
        self.schema, self.tokenizer = schema, tokenizer
        for attribute in schema.attributes:
            if not attribute.is_fitted:
                raise UserError(f"{attribute.name} has no bins yet: take the schema.yaml of the prepared data")
        self.known = {name: self._known(name, values) for name, values in (known or {}).items()}
        self.eos = int(tokenizer.eos_token_id)
        self._pieces: dict[str, tuple[int, ...]] = {}
        self._open: list[frozenset[_Piece]] = [frozenset(self._after(0, ()))]
        self._values: dict[tuple[int, tuple[int, ...]], tuple[str, ...]] = {}
        self._forced: dict[int, Forced] = {}
        self._number = {self._open[0]: 0}
        self._moves: list[dict[int, int] | None] = [None]
        self._targets: dict[tuple[tuple[int, ...], ...], Target] = {}
        self._check()
        self.max_tokens = 1 + sum(self._longest(attribute) for attribute in schema.attributes)

    @cached_property
    def parts(self) -> tuple["Grammar", ...]:
        """One grammar for each attribute alone."""
        schemas = [Schema(self.schema.name, [attribute]) for attribute in self.schema.attributes]
        return tuple(Grammar(schema, self.tokenizer) for schema in schemas)

    def encode(self, profile: Profile) -> list[int]:
        """Return the token ids of :meth:`target`.

        Raises:
            ValueError: a value is not in the schema.
        """
        return self.target(profile).ids

    def target(self, profile: Profile) -> Target:
        """Return what a model is trained to write of a profile.

        An attribute that the profile lacks is left out, so that nothing is learned of it: neither a value nor that it is
        unknown. The next attribute is written as if the one left out stood before it.

        Raises:
            ValueError: a value is not in the schema.
        """
        parts = [self._attribute_ids(i, profile) for i in range(len(self.schema.attributes))]
        parts.append((self.eos,) if parts[-1] else ())
        key = tuple(parts)
        if key not in self._targets:
            ids = [*chain(*parts)]
            rivals = [moves | {token} for moves, token in zip(self._allowed_along(parts), ids, strict=True)]
            pairs = [(place, token) for place, tokens in enumerate(rivals) for token in tokens]
            legal = np.array(pairs, dtype=np.int64).reshape(-1, 2)
            self._targets[key] = Target(ids=ids, lengths=[*map(len, parts)], legal=legal)
        return self._targets[key]

    def _attribute_ids(self, index: int, profile: Profile) -> tuple[int, ...]:
        """Return the tokens of an attribute: its name, its values and the separator; none if the profile lacks it."""
        attribute = self.schema.attributes[index]
        if attribute.name not in profile:
            return ()
        ids = self._tokens(f" {attribute.name}:")
        values = attribute.canonical(profile[attribute.name]) or (UNKNOWN,)
        for j, value in enumerate(values):
            if value not in attribute.values and value != UNKNOWN and not attribute.is_empty(values):
                raise ValueError(f"{attribute.name}: {value!r} is not a value of the schema")
            ids += self._tokens(self._value(index, value, j == len(values) - 1))
        return ids

    def _allowed_along(self, parts: Sequence[Sequence[int]]) -> Iterator[set[int]]:
        """Yield the tokens that may follow before each token of attributes, each of which begins where it stands in a profile.

        The grammar would not write every target: a target may have fewer values than a set, where no more are known.
        Behind such a place only the end may follow in that attribute.
        """
        for index, ids in enumerate(parts):
            state: int | None = self._state(frozenset(self._after(index, ())))
            for token in ids:
                moves = {} if state is None else self.moves(state)
                yield {*moves} or {self.eos}
                state = moves.get(token)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens and without blanks in front of ``, ; :``."""
        return BLANK.sub(r"\1", str(self.tokenizer.decode(ids, skip_special_tokens=True))).strip()

    def moves(self, state: int) -> dict[int, int]:
        """Return the token ids that may follow a state, in increasing order, with the states after them; {} at the end."""
        moves = self._moves[state]
        if moves is None:
            after: dict[int, set[_Piece]] = {}
            for piece in self._open[state]:
                first, *rest = piece.tokens
                pieces = {piece._replace(tokens=tuple(rest))} if rest else self._after(piece.attribute, piece.chosen)
                after.setdefault(first, set()).update(pieces)
            moves = self._moves[state] = {token: self._state(frozenset(after[token])) for token in sorted(after)}
        return moves

    def stage(self, state: int) -> Stage:
        """Return how far a profile in this state is written; past the last attribute at the end."""
        end = Stage(attribute=len(self.schema.attributes) + 1, values=0)
        return min((piece.stage for piece in self._open[state]), default=end)

    def forced(self, state: int) -> Forced:
        """Return the tokens that must follow a state."""
        forced = self._forced.get(state)
        if forced is None:
            tokens, end, written = [], state, [self._written(state)]
            while len(moves := self.moves(end)) == 1:
                [(token, end)] = moves.items()
                tokens.append(token)
                written.append(self._written(end))
            forced = self._forced[state] = Forced(tokens=tuple(tokens), state=end, written=tuple(written))
        return forced

    def _written(self, state: int) -> int:
        """Return the number of attributes that are written in full."""
        return min(self.stage(state).attribute, len(self.schema.attributes))

    def values(self, attribute: int, tokens: Sequence[int]) -> tuple[str, ...]:
        """Return the values that the tokens of an attribute mean; () for Unknown.

        Args:
            attribute: its number in the schema.
            tokens: ids of its name, its values and the separator.
        """
        key = attribute, tuple(tokens)
        values = self._values.get(key)
        if values is None:
            name = self.schema.names[attribute]
            values = self._values[key] = self.schema.parse(self.decode(tokens)).profile[name]
        return values

    def walk(self, ids: Sequence[int], state: int = 0) -> int | None:
        """Return the state after ``ids``; None where they are not legal."""
        for token in ids:
            after = self.moves(state).get(token)
            if after is None:
                return None
            state = after
        return state

    def allowed(self, prefix: Sequence[int]) -> list[int]:
        """Return the ids that may follow ``prefix``, which has no start token; only end-of-sequence when nothing may."""
        state = self.walk(prefix)
        return list(self.moves(state)) if state is not None and self.moves(state) else [self.eos]

    def constraint(self, skip: int) -> Callable[[int, Tensor], list[int]]:
        """Return the ``prefix_allowed_tokens_fn`` that ``generate`` of transformers takes.

        Args:
            skip: how many of the ids that ``generate`` passes stand before the profile: 1 for the start token of an
                encoder-decoder, 0 for a causal model whose prompt is given as embeddings.
        """
        return lambda batch, ids: self.allowed(ids.tolist()[skip:])

    def _state(self, pieces: frozenset[_Piece]) -> int:
        """Return the number of a state."""
        if pieces not in self._number:
            self._number[pieces] = len(self._open)
            self._open.append(pieces)
            self._moves.append(None)
        return self._number[pieces]

    def _after(self, index: int, chosen: tuple[str, ...]) -> Iterator[_Piece]:
        """Yield the pieces that may be written after the values ``chosen`` of attribute number ``index``."""
        attributes, stage = self.schema.attributes, Stage(attribute=index, values=len(chosen))
        if index > len(attributes):
            return
        if index == len(attributes):
            yield _Piece(tokens=(self.eos,), stage=stage, attribute=index + 1, chosen=())
            return
        attribute = attributes[index]
        head = self._tokens(f" {attribute.name}:") if not chosen else ()
        for value in self._choices(attribute, chosen):
            for last in self._lasts(attribute, (*chosen, value)):
                tokens = head + self._tokens(self._value(index, value, last))
                if last:
                    yield _Piece(tokens=tokens, stage=stage, attribute=index + 1, chosen=())
                else:
                    yield _Piece(tokens=tokens, stage=stage, attribute=index, chosen=(*chosen, value))

    def _choices(self, attribute: Attribute, chosen: tuple[str, ...]) -> list[str]:
        """Return the values that may come next; of a set in the schema's order, with enough values left to fill it."""
        if attribute.name in self.known:
            return [self.known[attribute.name][len(chosen)]]
        others = [] if chosen else [*([UNKNOWN] if attribute.unknown else []), *attribute.empty]
        if attribute.kind != "set":
            return [value for value in attribute.values if value not in chosen] + others
        start = attribute.values.index(chosen[-1]) + 1 if chosen else 0
        stop = len(attribute.values) - max(1, attribute.least - len(chosen)) + 1
        return [*attribute.values[start:stop], *others]

    def _lasts(self, attribute: Attribute, chosen: tuple[str, ...]) -> list[bool]:
        """Return whether the last of the values ``chosen`` ends the attribute: True, False or both where it may."""
        count, known = len(chosen), self.known.get(attribute.name)
        if chosen == (UNKNOWN,) or attribute.is_empty(chosen):
            return [True]
        if known is not None:
            return [count == len(known)]
        is_full = count == attribute.size or (attribute.kind == "set" and chosen[-1] == attribute.values[-1])
        return [last for last in (True, False) if (count >= attribute.least if last else not is_full)]

    def _known(self, name: str, values: Sequence[str]) -> tuple[str, ...]:
        """Return the given values of an attribute as the grammar writes them.

        Raises:
            UserError: the schema has no such attribute or value, or there are too few or too many values.
        """
        if name not in self.schema.names:
            raise UserError(f"known: {name!r} is not an attribute of the schema: {', '.join(self.schema.names)}")
        attribute = self.schema[name]
        if not values and attribute.unknown:
            return (UNKNOWN,)
        if attribute.is_empty(values):
            return attribute.empty
        for value in values:
            if value not in attribute.values:
                raise UserError(f"known: {name}: {value!r} is not one of {', '.join(attribute.values)}")
        ordered = attribute.canonical(values)
        if not attribute.allows(values):
            raise UserError(f"known: {name} has {attribute.sizes} different values, not {len(values)}: {list(values)}")
        return ordered

    def _value(self, index: int, value: str, last: bool) -> str:
        """Return a value of attribute number ``index`` with the separator behind it."""
        if not last:
            return f" {value},"
        return f" {value}" if index == len(self.schema.attributes) - 1 else f" {value};"

    def _tokens(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a piece of text."""
        ids = self._pieces.get(text)
        if ids is None:
            ids = self._pieces[text] = tuple(continuation_ids(self.tokenizer, [text])[0])
        return ids

    def _longest(self, attribute: Attribute) -> int:
        """Return the most tokens that an attribute can take."""
        longest = max(len(self._tokens(f" {value};")) for value in (*attribute.values, UNKNOWN, *attribute.empty))
        return len(self._tokens(f" {attribute.name}:")) + attribute.size * (longest + 1)

    def _check(self) -> None:
        """Refuse a tokenizer from whose tokens a name or value does not come back unchanged, alone or beside others."""
        for attribute in self.schema.attributes:
            for value in (*attribute.values, *attribute.empty):
                profile = {a.name: self._example(a) for a in self.schema.attributes}
                profile[attribute.name] = self._example(attribute, value)
                text, written = self.schema.render(profile), self.decode(self.encode(profile))
                if self.schema.parse(written).profile != self.schema.parse(text).profile:
                    raise UserError(
                        f"the tokenizer cannot write the profile schema {self.schema.name!r}: "
                        f"{self._culprit() or f'{text!r} comes back as {written!r}'}; rename it or choose another "
                        "model.text.name"
                    )

    def _culprit(self) -> str | None:
        """Return what is wrong with the first name or value that does not come back alone; None where each does."""
        for attribute in self.schema.attributes:
            for word in (attribute.name, *attribute.values):
                back = self.decode(self._tokens(f" {word}"))
                if back.lower() == word.lower():
                    continue
                lost = " ".join(character for character in dict.fromkeys(word) if character not in f"{back} ")
                what = "the attribute" if word == attribute.name else f"of the attribute {attribute.name!r} the value"
                return f"{what} {word!r} comes back as {back!r}" + (f", without the characters {lost}" if lost else "")
        return None

    @staticmethod
    def _example(attribute: Attribute, value: str | None = None) -> tuple[str, ...]:
        """Return legal values of an attribute, ``value`` among them."""
        if value in attribute.empty:
            return attribute.empty
        others = [v for v in attribute.values if v != value]
        return attribute.canonical([value, *others][: attribute.size] if value else others[: attribute.size])
