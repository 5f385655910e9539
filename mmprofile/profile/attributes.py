"""The attributes of a profile: their kinds, their values, and how many of them a person has."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mmprofile.errors import UserError
from mmprofile.profile.numbers import bin_names, bin_of, is_number, number_text, quantile_edges, typical_numbers

Profile = dict[str, tuple[str, ...]]
"""Attribute name -> its values. An empty tuple is ``Unknown``, an attribute that is not there is not labelled."""
KINDS = ("single", "set", "ordered", "ordinal", "number")
UNKNOWN = "Unknown"
NONE = "None"
"""The only value of an empty set, where a set may be empty."""
LONGEST = 200
"""Characters of a name or value. A decoder takes one token after the other, and its grammar every beginning of a value."""
_RESERVED = (";", ",", ":", "\n")
_OF_NUMBERS = ("edges", "quantiles", "typical", "unit")


@dataclass(frozen=True)
class Attribute:
    """One attribute of a profile.

    Args:
        name: as printed, without ``; , :``.
        kind: ``single`` value; ``set`` of ``min_size`` to ``size`` values in the schema's order; ``ordered`` list of ``size``
            values; ``ordinal``: a single value of several that are in order, the least first; ``number``, which is written
            as the bin that it is in.
        values: all values, in the order used for rendering sets and breaking ties; of a number, its bins.
        size: number of values of a ``set`` or ``ordered`` attribute.
        unknown: whether ``Unknown`` is a legal value.
        text_only: labelled by the auxiliary LLM stage (:mod:`mmprofile.llm`) from text, not by a rule.
        sensitive: refused unless a purpose is stated.
        rule: how the label is derived from raw data (``datamodules.labels``); None: not derived.
        min_size: the least values of a set; None: ``size``. An empty set is the value ``None``.
        edges: of a number, where one bin ends and the next begins.
        quantiles: of a number without edges: how many bins preparing the data cuts the training users' numbers into.
        typical: of a number: what each bin stands for, the median of the training users in it. Preparing the data adds it.
        unit: of a number.

    Raises:
        UserError: the definition contradicts itself.
    """

    name: str
    values: tuple[str, ...] = ()
    kind: str = "single"
    size: int = 1
    unknown: bool = False
    text_only: bool = False
    sensitive: bool = False
    rule: Mapping[str, Any] | None = None
    min_size: int | None = None
    edges: tuple[float, ...] = ()
    quantiles: int | None = None
    typical: tuple[float, ...] = ()
    unit: str = ""

    def __post_init__(self) -> None:
        where = f"profile schema, attribute {self.name!r}"
        if self.kind not in KINDS:
            raise UserError(f"{where}: kind {self.kind!r} is not one of {', '.join(KINDS)}")
        if self.rule is not None and not isinstance(self.rule, Mapping):
            raise UserError(f"{where}: rule {self.rule!r} is no mapping with source and aggregation")
        self._check_number(where)
        object.__setattr__(self, "values", tuple(str(value) for value in self.values))
        fewest = 2 if self.is_fitted else 0
        if len(self.values) < fewest or len({value.lower() for value in self.values}) != len(self.values):
            raise UserError(f"{where}: needs at least two values, all different (case is ignored)")
        if not self.several and self.size != 1:
            raise UserError(f"{where}: kind {self.kind} has size 1, not {self.size}")
        if not 1 <= self.size <= max(1, len(self.values)):
            raise UserError(f"{where}: size {self.size} does not fit {len(self.values)} values")
        self._check_least(where)
        for text in (self.name, *self.values):
            if len(text) > LONGEST:
                raise UserError(f"{where}: {text[:20]!r}... has {len(text):,} characters: give at most {LONGEST}")
            if not text or text != " ".join(text.split()) or any(mark in text for mark in _RESERVED):
                raise UserError(
                    f"{where}: {text!r} is empty, has stray blanks, or contains one of ; , : or a line break"
                )
        if UNKNOWN.lower() in {value.lower() for value in self.values}:
            raise UserError(f"{where}: leave {UNKNOWN!r} out of the values and set `unknown: true`")

    def _check_number(self, where: str) -> None:
        """Refuse the edges and quantiles of what is no number, and name the bins of what is one."""
        if self.kind != "number":
            for key in _OF_NUMBERS:
                if getattr(self, key):
                    raise UserError(f"{where}: {key} goes with kind number, not {self.kind}")
            return
        if (self.quantiles is None) != bool(self.edges):
            raise UserError(f"{where}: a number has edges, or else quantiles")
        if self.quantiles is not None and (type(self.quantiles) is not int or self.quantiles < 2):
            raise UserError(f"{where}: quantiles {self.quantiles!r} is not a number of bins: give 2 or more")
        if self.text_only and not self.is_fitted:
            raise UserError(
                f"{where}: quantiles are those of prepared data, which have no text-only attributes: give edges"
            )
        for key in ("edges", "typical"):
            numbers = tuple(getattr(self, key))
            if not all(is_number(number) for number in numbers):
                raise UserError(f"{where}: {key} are not all numbers: {list(numbers)}")
            object.__setattr__(self, key, tuple(float(number) for number in numbers))
        if list(self.edges) != sorted(set(self.edges)):
            raise UserError(f"{where}: edges must grow: {', '.join(map(number_text, self.edges))}")
        if self.typical and len(self.typical) != len(self.edges) + 1:
            raise UserError(
                f"{where}: {len(self.edges)} edges make {len(self.edges) + 1} bins, not {len(self.typical)}"
            )
        object.__setattr__(self, "unit", str(self.unit))
        bins = bin_names(self.edges) if self.edges else ()
        if tuple(self.values) not in ((), bins):
            raise UserError(f"{where}: a number has no values: its bins are its values")
        object.__setattr__(self, "values", bins)

    def _check_least(self, where: str) -> None:
        """Refuse a ``min_size`` that does not fit; that of a set of exactly ``size`` values is None."""
        if self.min_size is None:
            return
        if self.kind != "set" or not 0 <= self.min_size <= self.size:
            raise UserError(f"{where}: min_size {self.min_size} should be 0 to size ({self.size}), of kind set")
        if not self.min_size and NONE.lower() in {value.lower() for value in self.values}:
            raise UserError(f"{where}: leave {NONE!r} out of the values: it stands for the empty set (min_size 0)")
        if self.min_size == self.size:
            object.__setattr__(self, "min_size", None)

    @property
    def several(self) -> bool:
        """Whether it has several values at a time."""
        return self.kind in ("set", "ordered")

    @property
    def least(self) -> int:
        """The least values that it has at a time."""
        return self.size if self.min_size is None else self.min_size

    @property
    def sizes(self) -> str:
        """How many values it has at a time, in words: ``2``, ``0 to 3``."""
        return f"{self.size}" if self.least == self.size else f"{self.least} to {self.size}"

    @property
    def is_fitted(self) -> bool:
        """Whether its values are known: not those of a number that has quantiles and no edges yet."""
        return self.quantiles is None

    @property
    def scale(self) -> tuple[float, ...] | None:
        """How far the values lie from each other: 0, 1, 2, ... of an ordinal, the bins' typical numbers; None: in no order."""
        if self.kind == "number":
            return self.typical or typical_numbers(self.edges)
        return tuple(map(float, range(len(self.values)))) if self.kind == "ordinal" else None

    def canonical(self, values: Iterable[str]) -> tuple[str, ...]:
        """Return ``values`` in the order in which they are rendered: the schema's for a set, the given one otherwise."""
        values = tuple(values)
        if self.kind != "set":
            return values
        return tuple(v for v in self.values if v in values) or (values if self.is_empty(values) else ())

    @property
    def empty(self) -> tuple[str, ...]:
        """The value of an empty set, where a set may be empty; else no word at all."""
        return () if self.least else (NONE,)

    def is_empty(self, values: Sequence[str]) -> bool:
        """Whether ``values`` are the empty set; not Unknown, which has no value at all."""
        return bool(values) and tuple(values) == self.empty

    def allows(self, values: Sequence[str]) -> bool:
        """Whether ``values`` are different values of the schema, as many as it asks for. Unknown is none."""
        listed = all(value in self.values for value in values) and len(set(values)) == len(values)
        return self.is_empty(values) or (listed and max(1, self.least) <= len(values) <= self.size)

    def bin(self, number: float) -> str:
        """Return the value that a number is written as.

        Raises:
            ValueError: it is not finite.
        """
        return self.values[bin_of(self.edges, number)]

    def words(self, value: Any) -> list[Any]:
        """Return the words of a value as JSON has it: a number is its bin, and an empty list the empty set, if there is one."""
        items = list(value) if isinstance(value, list | tuple) else [value]
        binned = [self.bin(item) if self.kind == "number" and is_number(item) else item for item in items]
        return binned or list(self.empty)

    def fitted(self, numbers: Sequence[float]) -> "Attribute":
        """Return a number's attribute with the edges and typical numbers that it lacks, from those of training users.

        Raises:
            UserError: the numbers do not give two bins.
        """
        edges = self.edges
        if not edges and not (edges := quantile_edges(numbers, self.quantiles or 0) if numbers else ()):
            shown = f"are all {number_text(numbers[0])}" if numbers else "are missing"
            raise UserError(
                f"{self.name}: the numbers of the training users {shown}: they cannot be cut into quantiles"
            )
        return replace(
            self, values=(), edges=edges, quantiles=None, typical=self.typical or typical_numbers(edges, numbers)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, from which the attribute can be made again; newer keys only where they say something."""
        row = asdict(self)
        for key in ("min_size", *_OF_NUMBERS):
            if row[key] in (None, (), ""):
                del row[key]
        row["rule"] = dict(self.rule) if self.rule is not None else None
        row["values"] = list(self.values)
        row |= {key: [int(n) if n.is_integer() else n for n in row[key]] for key in ("edges", "typical") if key in row}
        if self.kind == "number":
            del row["values"]
        return row
