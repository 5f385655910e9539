"""The grammar of profiles: which tokens may follow which, so that decoding can only write legal profiles.

:class:`Grammar` turns a profile into token ids (training targets) and is, at the same time, the automaton of all legal
profiles that decoders walk along (:mod:`mmprofile.model.decoding`; ``prefix_allowed_tokens_fn`` of transformers' ``generate``).
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from mmprofile.errors import UserError
from mmprofile.profile.schema import UNKNOWN, Attribute, Profile, Schema


class Stage(NamedTuple):
    """How far a profile is written: the attribute (by number) that is being written, and how many of its values stand."""

    attribute: int
    values: int


class Forced(NamedTuple):
    """The tokens that can only follow a state, the state they lead to, and how many attributes are written before each
    of them and after the last (one number more than tokens)."""

    tokens: tuple[int, ...]
    state: int
    written: tuple[int, ...]


# The rest of the tokens of the piece being written, its stage, and what follows it: attribute number, values written of it.
_Todo = tuple[tuple[int, ...], Stage, int, tuple[str, ...]]


class Grammar:
    """All legal profiles of a schema in the tokens of a tokenizer.

    A profile is written piece by piece, split at blanks (`` Favorite Category:``, `` Pizza,``, `` Coffee & Tea;``), which
    T5's and BART's tokenizers never join, so that the pieces' tokens are the tokens of the whole text.

    States of the automaton are numbers; 0 is the empty text. They are found as they are reached.

    Args:
        schema: what is legal.
        tokenizer: a transformers tokenizer with an end-of-sequence token.
        known: attributes whose values are given: nothing else is legal then.

    Raises:
        UserError: the tokenizer has no tokens for the schema's names or values; ``known`` is not of the schema.
    """

    def __init__(self, schema: Schema, tokenizer: Any, known: Profile | None = None) -> None:
        self.schema, self.tokenizer = schema, tokenizer
        self.known = {name: self._known(name, values) for name, values in (known or {}).items()}
        self.eos = int(tokenizer.eos_token_id)
        self._pieces: dict[str, tuple[int, ...]] = {}
        self._todo: list[frozenset[_Todo]] = [frozenset(self._after(0, ()))]
        self._values: dict[tuple[int, tuple[int, ...]], tuple[str, ...]] = {}
        self._forced: dict[int, Forced] = {}
        self._number = {self._todo[0]: 0}
        self._moves: list[dict[int, int] | None] = [None]
        self._legal: dict[tuple[int, ...], np.ndarray] = {}
        self._check()
        self.max_tokens = 1 + sum(self._longest(attribute) for attribute in schema.attributes)

    @cached_property
    def parts(self) -> tuple["Grammar", ...]:
        """A grammar of each attribute alone."""
        schemas = [Schema(self.schema.name, [attribute]) for attribute in self.schema.attributes]
        return tuple(Grammar(schema, self.tokenizer) for schema in schemas)

    def encode(self, profile: Profile) -> list[int]:
        """The token ids of the rendered profile, end-of-sequence token last.

        Raises:
            ValueError: a value is not the schema's.
        """
        return [*chain(*self.encode_attributes(profile)), self.eos]

    def encode_attributes(self, profile: Profile) -> list[list[int]]:
        """The token ids of each attribute: its name, its values and what separates it from the next.

        Raises:
            ValueError: a value is not the schema's.
        """
        found: list[list[int]] = []
        for i, attribute in enumerate(self.schema.attributes):
            ids = [*self._piece(f" {attribute.name}:")]
            values = attribute.canonical(profile.get(attribute.name, ())) or (UNKNOWN,)
            for j, value in enumerate(values):
                if value not in attribute.values and value != UNKNOWN:
                    raise ValueError(f"{attribute.name}: {value!r} is not a value of the schema")
                ids += self._piece(self._value(i, value, j == len(values) - 1))
            found.append(ids)
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """Token ids -> text without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def moves(self, state: int) -> dict[int, int]:
        """The token ids that may follow in a state, by increasing id, and the states they lead to; none at the end."""
        known = self._moves[state]
        if known is None:
            after: dict[int, set[_Todo]] = {}
            for tokens, stage, index, chosen in self._todo[state]:
                rest = {(tokens[1:], stage, index, chosen)} if len(tokens) > 1 else self._after(index, chosen)
                after.setdefault(tokens[0], set()).update(rest)
            known = self._moves[state] = {token: self._state(frozenset(after[token])) for token in sorted(after)}
        return known

    def stage(self, state: int) -> Stage:
        """How far a profile in this state is; past the last attribute once all is written."""
        over = Stage(len(self.schema.attributes) + 1, 0)
        return min((stage for _, stage, _, _ in self._todo[state]), default=over)

    def forced(self, state: int) -> Forced:
        """What is forced after a state."""
        known = self._forced.get(state)
        if known is None:
            tokens, end, written = [], state, [self._written(state)]
            while len(moves := self.moves(end)) == 1:
                [(token, end)] = moves.items()
                tokens.append(token)
                written.append(self._written(end))
            known = self._forced[state] = Forced(tuple(tokens), end, tuple(written))
        return known

    def _written(self, state: int) -> int:
        return min(self.stage(state).attribute, len(self.schema.attributes))

    def values(self, attribute: int, tokens: Sequence[int]) -> tuple[str, ...]:
        """The values that the tokens of an attribute (by number) say, its name among them; () for Unknown."""
        key = attribute, tuple(tokens)
        known = self._values.get(key)
        if known is None:
            name = self.schema.names[attribute]
            known = self._values[key] = self.schema.parse(self.decode(tokens)).profile[name]
        return known

    def walk(self, ids: Sequence[int], state: int = 0) -> int | None:
        """The state that ``ids`` lead to; None where they are not legal."""
        for token in ids:
            after = self.moves(state).get(token)
            if after is None:
                return None
            state = after
        return state

    def allowed(self, prefix: Sequence[int]) -> list[int]:
        """The ids that may follow ``prefix`` (without the decoder's start token); only end-of-sequence when nothing may."""
        state = self.walk(prefix)
        return list(self.moves(state)) if state is not None and self.moves(state) else [self.eos]

    def legal(self, ids: list[int]) -> np.ndarray:
        """What a target competes with: every (place, id) that :meth:`allowed` names along ``ids``, and ``ids`` themselves.

        Targets may be what the grammar would not write: fewer values than a set has, where no more are known.

        Returns:
            (n, 2) long.
        """
        key = tuple(ids)
        known = self._legal.get(key)
        if known is None:
            pairs = [(place, other) for place in range(len(key)) for other in {*self.allowed(key[:place]), key[place]}]
            known = self._legal[key] = np.array(pairs, dtype=np.int64)
        return known

    def prefix_allowed_tokens_fn(self, batch: int, ids: Tensor) -> list[int]:
        """As transformers' ``generate`` wants it; ``ids`` begins with the decoder's start token."""
        return self.allowed(ids.tolist()[1:])

    def _state(self, todo: frozenset[_Todo]) -> int:
        if todo not in self._number:
            self._number[todo] = len(self._todo)
            self._todo.append(todo)
            self._moves.append(None)
        return self._number[todo]

    def _after(self, index: int, chosen: tuple[str, ...]) -> Iterator[_Todo]:
        """What may be written once ``chosen`` values of attribute number ``index`` stand there."""
        attributes, stage = self.schema.attributes, Stage(index, len(chosen))
        if index > len(attributes):
            return
        if index == len(attributes):
            yield (self.eos,), stage, index + 1, ()
            return
        attribute = attributes[index]
        head = self._piece(f" {attribute.name}:") if not chosen else ()
        left = attribute.size - len(chosen)
        for value in self._choices(attribute, chosen):
            last = left == 1 or value == UNKNOWN
            after = (index + 1, ()) if last else (index, (*chosen, value))
            yield head + self._piece(self._value(index, value, last)), stage, *after

    def _choices(self, attribute: Attribute, chosen: tuple[str, ...]) -> list[str]:
        """Values that may come next: in the schema's order for a set, with enough of them left to fill it."""
        if attribute.name in self.known:
            return [self.known[attribute.name][len(chosen)]]
        unknown = [UNKNOWN] if attribute.unknown and not chosen else []
        if attribute.kind != "set":
            return [value for value in attribute.values if value not in chosen] + unknown
        start = attribute.values.index(chosen[-1]) + 1 if chosen else 0
        stop = len(attribute.values) - (attribute.size - len(chosen)) + 1
        return [*attribute.values[start:stop], *unknown]

    def _known(self, name: str, values: Sequence[str]) -> tuple[str, ...]:
        """The given values of an attribute as the grammar writes them.

        Raises:
            UserError: no such attribute or value, or not as many as it has.
        """
        if name not in self.schema.names:
            raise UserError(f"known: {name!r} is not an attribute of the schema: {', '.join(self.schema.names)}")
        attribute = self.schema[name]
        if not values and attribute.unknown:
            return (UNKNOWN,)
        for value in values:
            if value not in attribute.values:
                raise UserError(f"known: {name}: {value!r} is not one of {', '.join(attribute.values)}")
        found = attribute.canonical(values)
        if len(set(found)) != attribute.size or len(values) != attribute.size:
            raise UserError(f"known: {name} has {attribute.size} different values, not {len(values)}: {list(values)}")
        return found

    def _value(self, index: int, value: str, last: bool) -> str:
        if not last:
            return f" {value},"
        return f" {value}" if index == len(self.schema.attributes) - 1 else f" {value};"

    def _piece(self, text: str) -> tuple[int, ...]:
        ids = self._pieces.get(text)
        if ids is None:
            ids = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
            self._pieces[text] = ids
        return ids

    def _longest(self, attribute: Attribute) -> int:
        longest = max(len(self._piece(f" {value};")) for value in (*attribute.values, UNKNOWN))
        return len(self._piece(f" {attribute.name}:")) + attribute.size * (longest + 1)

    def _check(self) -> None:
        """Every name and value must come back from its tokens, also beside its neighbours."""
        for attribute in self.schema.attributes:
            for value in attribute.values:
                profile = {a.name: self._some(a) for a in self.schema.attributes}
                profile[attribute.name] = self._some(attribute, value)
                text, written = self.schema.render(profile), self.decode(self.encode(profile))
                if self.schema.parse(written).profile != self.schema.parse(text).profile:
                    raise UserError(
                        f"the tokenizer cannot write the profile schema {self.schema.name!r}: {text!r} comes back as "
                        f"{written!r}; choose another model.text.name or rename {attribute.name!r}: {value!r}"
                    )

    @staticmethod
    def _some(attribute: Attribute, value: str | None = None) -> tuple[str, ...]:
        """A legal value tuple, with ``value`` in it."""
        others = [v for v in attribute.values if v != value]
        return attribute.canonical([value, *others][: attribute.size] if value else others[: attribute.size])
