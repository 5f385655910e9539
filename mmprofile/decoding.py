"""The grammar of profiles: which tokens may follow a prefix, so that generation can only write legal profiles.

The seam for decoders: :class:`Grammar` turns a profile into token ids (training targets) and token prefixes into the ids
that may come next (``prefix_allowed_tokens_fn`` of transformers' ``generate``). A faster decoder needs no more than that.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from mmprofile.errors import UserError
from mmprofile.profile import UNKNOWN, Attribute, Profile, Schema

# What is still to be written: the rest of a piece's tokens, then attribute number, and values written of it so far.
_Todo = tuple[tuple[int, ...], int, tuple[str, ...]]


class Grammar:
    """All legal profiles of a schema in the tokens of a tokenizer.

    A profile is written piece by piece, split at blanks (`` Favorite Category:``, `` Pizza,``, `` Coffee & Tea;``), which
    T5's and BART's tokenizers never join, so that the pieces' tokens are the tokens of the whole text.

    Args:
        schema: what is legal.
        tokenizer: a transformers tokenizer with an end-of-sequence token.

    Raises:
        UserError: the tokenizer has no tokens for the schema's names or values.
    """

    def __init__(self, schema: Schema, tokenizer: Any) -> None:
        self.schema, self.tokenizer = schema, tokenizer
        self.eos = int(tokenizer.eos_token_id)
        self._pieces: dict[str, tuple[int, ...]] = {}
        self._states: dict[tuple[int, ...], frozenset[_Todo]] = {(): frozenset(self._after(0, ()))}
        self._allowed: dict[tuple[int, ...], list[int]] = {}
        self._legal: dict[tuple[int, ...], np.ndarray] = {}
        self._check()
        self.max_tokens = 1 + sum(self._longest(attribute) for attribute in schema.attributes)

    def encode(self, profile: Profile) -> list[int]:
        """The token ids of the rendered profile, end-of-sequence token last.

        Raises:
            ValueError: a value is not the schema's.
        """
        ids: list[int] = []
        for i, attribute in enumerate(self.schema.attributes):
            ids += self._piece(f" {attribute.name}:")
            values = attribute.canonical(profile.get(attribute.name, ())) or (UNKNOWN,)
            for j, value in enumerate(values):
                if value not in attribute.values and value != UNKNOWN:
                    raise ValueError(f"{attribute.name}: {value!r} is not a value of the schema")
                ids += self._piece(self._value(i, value, j == len(values) - 1))
        return [*ids, self.eos]

    def decode(self, ids: list[int]) -> str:
        """Token ids -> text without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def allowed(self, prefix: tuple[int, ...]) -> list[int]:
        """The ids that may follow ``prefix`` (without the decoder's start token); only end-of-sequence when nothing may."""
        known = self._allowed.get(prefix)
        if known is None:
            todo = self._state(prefix)
            known = sorted({tokens[0] for tokens, _, _ in todo}) or [self.eos]
            self._allowed[prefix] = known
        return known

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
        return self.allowed(tuple(ids.tolist()[1:]))

    def _state(self, prefix: tuple[int, ...]) -> frozenset[_Todo]:
        state = self._states.get(prefix)
        if state is None:
            todo: set[_Todo] = set()
            for tokens, attribute, chosen in self._state(prefix[:-1]):
                if tokens[0] == prefix[-1]:
                    if len(tokens) > 1:
                        todo.add((tokens[1:], attribute, chosen))
                    else:
                        todo.update(self._after(attribute, chosen))
            state = self._states[prefix] = frozenset(todo)
        return state

    def _after(self, index: int, chosen: tuple[str, ...]) -> Iterator[_Todo]:
        """What may be written once ``chosen`` values of attribute number ``index`` stand there."""
        attributes = self.schema.attributes
        if index > len(attributes):
            return
        if index == len(attributes):
            yield (self.eos,), index + 1, ()
            return
        attribute = attributes[index]
        head = self._piece(f" {attribute.name}:") if not chosen else ()
        left = attribute.size - len(chosen)
        for value in self._choices(attribute, chosen):
            last = left == 1
            after = (index + 1, ()) if last else (index, (*chosen, value))
            yield head + self._piece(self._value(index, value, last)), *after
        if attribute.unknown and not chosen:
            yield head + self._piece(self._value(index, UNKNOWN, True)), index + 1, ()

    @staticmethod
    def _choices(attribute: Attribute, chosen: tuple[str, ...]) -> list[str]:
        """Values that may come next: in the schema's order for a set, with enough of them left to fill it."""
        if attribute.kind != "set":
            return [value for value in attribute.values if value not in chosen]
        start = attribute.values.index(chosen[-1]) + 1 if chosen else 0
        stop = len(attribute.values) - (attribute.size - len(chosen)) + 1
        return list(attribute.values[start:stop])

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
