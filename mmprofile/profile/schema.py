"""The profile schema: the attributes of a profile, and the text that a model reads and writes for them.

The rest is derived from it: targets and masked inputs (:mod:`mmprofile.inputs`), the decoder's grammar
(:mod:`mmprofile.profile.grammar`), the classes of a score (:mod:`mmprofile.profile.metrics`). A new schema is a new YAML
file under ``conf/profile/`` and no code.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf

from mmprofile.errors import UserError
from mmprofile.files import read_schema_file
from mmprofile.profile.numbers import bin_names, bin_of, is_number, number_text, quantile_edges, typical_numbers

Profile = dict[str, tuple[str, ...]]
"""Attribute name -> its values. An empty tuple is ``Unknown``, an attribute that is not there is not labelled."""
KINDS = ("single", "set", "ordered", "ordinal", "number")
UNKNOWN = "Unknown"
NONE = "None"
"""The only value of an empty set, where a set may be empty."""
_RESERVED = (";", ",", ":", "\n")
_OF_NUMBERS = ("edges", "quantiles", "typical", "unit")


class Parsed(NamedTuple):
    """A text that :meth:`Schema.parse` has read.

    Attributes:
        profile: what it understood.
        faults: a line for each thing that it did not understand.
    """

    profile: Profile
    faults: list[str]


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
        if self.values or (self.quantiles is None) != bool(self.edges):
            raise UserError(f"{where}: a number has edges, or else quantiles, and no values: its values are the bins")
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
        object.__setattr__(self, "values", bin_names(self.edges) if self.edges else ())

    def _check_least(self, where: str) -> None:
        """Refuse a ``min_size`` that does not fit, and sets that are too many."""
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
        row |= {key: list(row[key]) for key in ("values", "edges", "typical") if key in row}
        if self.kind == "number":
            del row["values"]
        return row


class Schema:
    """An ordered collection of attributes, and the text form of a profile.

    Raises:
        UserError: there is no attribute, or two have the same name.
    """

    def __init__(self, name: str, attributes: Sequence[Attribute]) -> None:
        self.name = name
        self.attributes = tuple(attributes)
        self._by_name = {attribute.name.lower(): attribute for attribute in attributes}
        if not attributes or len(self._by_name) != len(self.attributes):
            raise UserError(f"profile schema {name!r}: needs at least one attribute, all names different")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Schema":
        """Return the schema of the mapping in a ``conf/profile`` file: its attributes, or ``parts``, schemas to be joined.

        Raises:
            UserError: a key is missing or unknown.
        """
        if "parts" in data:
            parts = [cls.from_dict(part) for part in data["parts"].values()]
            return cls("+".join(part.name for part in parts), [a for part in parts for a in part.attributes])
        name = str(data.get("name", "profile"))
        try:
            rows = [dict(row) for row in data["attributes"]]
            return cls(name, [Attribute(**row) for row in rows])
        except (KeyError, TypeError, ValueError) as error:
            known = ", ".join(Attribute.__dataclass_fields__)
            raise UserError(f"profile schema {name!r}: {error}; an attribute has the keys {known}") from error

    @classmethod
    def from_config(cls, node: Any) -> "Schema":
        """Return the schema of a configuration's ``profile``.

        Raises:
            UserError: as :meth:`from_dict`.
        """
        return cls.from_dict(OmegaConf.to_container(node))  # type: ignore[arg-type]

    @classmethod
    def from_yaml(cls, path: str | Path) -> "Schema":
        """Return the schema of a YAML file like ``conf/profile/yelp.yaml``.

        Raises:
            UserError: the file cannot be read, or does not hold a schema.
        """
        return cls.from_dict(read_schema_file(Path(path)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, from which :meth:`from_dict` makes the schema again."""
        return {"name": self.name, "attributes": [attribute.to_dict() for attribute in self.attributes]}

    def to_yaml(self) -> str:
        """Return the text of a file for :meth:`from_yaml`."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, width=120)

    @property
    def names(self) -> tuple[str, ...]:
        """Attribute names in rendering order."""
        return tuple(attribute.name for attribute in self.attributes)

    @property
    def observed(self) -> "Schema":
        """The schema without text-only attributes, for which data are prepared; joined schemas take the first name.

        Raises:
            UserError: all attributes are text-only.
        """
        if self.text_only is None:
            return self
        attributes = [attribute for attribute in self.attributes if not attribute.text_only]
        if not attributes:
            raise UserError(
                f"profile {self.name}: all of its attributes are text-only, so there are no data to prepare for it; "
                f"join it to another one, as profile=yelp+text_only does"
            )
        return Schema(self.name.split("+")[0], attributes)

    @property
    def text_only(self) -> "Schema | None":
        """A schema of the text-only attributes; None where there are none."""
        attributes = [attribute for attribute in self.attributes if attribute.text_only]
        return Schema(self.name, attributes) if attributes else None

    @property
    def has_numbers(self) -> bool:
        """Whether preparing the data completes the schema: bins, and what each stands for."""
        return any(attribute.kind == "number" for attribute in self.attributes)

    def completed(self, prepared: "Schema") -> "Schema":
        """Return the schema with its numbers as in that of prepared data."""
        numbers = {attribute.name: attribute for attribute in prepared.attributes if attribute.kind == "number"}
        return Schema(self.name, [numbers.get(attribute.name, attribute) for attribute in self.attributes])

    def __getitem__(self, name: str) -> Attribute:
        return self._by_name[name.lower()]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.attributes == other.attributes

    __hash__ = None  # type: ignore[assignment]

    def render(self, profile: Profile) -> str:
        """Return the profile as the text that a model is trained to write; missing attributes are ``Unknown``."""
        return self.mask(profile, (), "")

    def mask(self, profile: Profile, names: Iterable[str], tokens: str | Sequence[str]) -> str:
        """Return the rendered profile with the values of ``names`` replaced by mask tokens.

        Args:
            profile: what to render.
            names: attributes to hide.
            tokens: one token for all, or one per hidden attribute in rendering order (T5's sentinels). The last one
                is used again where there are fewer tokens than hidden attributes.
        """
        hidden = set(names)
        supply = [tokens] if isinstance(tokens, str) else list(tokens)
        parts, used = [], 0
        for attribute in self.attributes:
            if attribute.name in hidden:
                value = supply[min(used, len(supply) - 1)]
                used += 1
            else:
                value = ", ".join(attribute.canonical(profile.get(attribute.name, ()))) or UNKNOWN
            parts.append(f"{attribute.name}: {value}")
        return "; ".join(parts)

    def parse(self, text: str) -> Parsed:
        """Read a generated profile, whatever it looks like; never raise.

        Differences in case, extra blanks, the order of attributes and line breaks for semicolons are no faults. What is
        not understood is left out and named in ``faults``: an unknown attribute or value, a doubled or missing
        attribute, a wrong number of values.

        Returns:
            A profile with every attribute of the schema (``()`` where nothing was understood), and the faults.
        """
        profile: Profile = {}
        faults: list[str] = []
        for part in text.replace("\n", ";").split(";"):
            if not part.strip():
                continue
            name, colon, rest = part.partition(":")
            attribute = self._by_name.get(" ".join(name.split()).lower())
            if not colon or attribute is None:
                faults.append(f"not an attribute: {part.strip()[:60]!r}")
            elif attribute.name in profile:
                faults.append(f"{attribute.name}: given twice")
            else:
                profile[attribute.name] = self._parse_values(attribute, rest, faults)
        for attribute in self.attributes:
            if attribute.name not in profile:
                faults.append(f"{attribute.name}: missing")
        return Parsed({name: profile.get(name, ()) for name in self.names}, faults)

    @staticmethod
    def _parse_values(attribute: Attribute, text: str, faults: list[str]) -> tuple[str, ...]:
        """Return the values of an attribute that ``text`` names, and add to ``faults`` what is wrong with it."""
        spelled = {value.lower(): value for value in attribute.values}
        values: list[str] = []
        for word in (" ".join(item.split()) for item in text.split(",")):
            value = spelled.get(word.lower())
            if value is not None and value not in values:
                values.append(value)
            elif attribute.empty and word.lower() == NONE.lower() and "," not in text:
                return attribute.empty
            elif word.lower() == UNKNOWN.lower() and "," not in text:
                if not attribute.unknown:
                    faults.append(f"{attribute.name}: {UNKNOWN} is not allowed")
                return ()
            else:
                faults.append(
                    f"{attribute.name}: not a value: {word[:60]!r}"
                    if value is None
                    else f"{attribute.name}: {word!r} twice"
                )
        if len(values) > attribute.size:
            faults.append(f"{attribute.name}: {len(values)} values, expected {attribute.sizes}")
            values = values[: attribute.size]
        elif 0 < len(values) < attribute.least:
            faults.append(f"{attribute.name}: {len(values)} of {attribute.sizes} values")
        return attribute.canonical(values)


def check_purpose(schema: Schema, purpose: str | None) -> None:
    """Refuse sensitive attributes unless a purpose is stated.

    Raises:
        UserError: the schema has sensitive attributes, and ``purpose`` is empty.
    """
    sensitive = [attribute.name for attribute in schema.attributes if attribute.sensitive]
    if sensitive and not (purpose and purpose.strip()):
        raise UserError(
            f'profile {schema.name}: {", ".join(sensitive)} are sensitive: say what they are for, purpose="..."; it goes '
            "into the manifest and the cards"
        )
