"""The profile schema: the attributes of a profile, and the text that a model reads and writes for them.

The rest is derived from it: targets and masked inputs (:mod:`mmprofile.inputs`), the decoder's grammar
(:mod:`mmprofile.profile.grammar`), the classes of a score (:mod:`mmprofile.profile.metrics`). A new schema is a new YAML
file under ``conf/profile/`` and no code.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from mmprofile.errors import UserError
from mmprofile.files import read_schema_file

Profile = dict[str, tuple[str, ...]]
"""Attribute name -> its values. An empty tuple is ``Unknown``, an attribute that is not there is not labelled."""
KINDS = ("single", "set", "ordered")
UNKNOWN = "Unknown"
_RESERVED = (";", ",", ":", "\n")


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
        kind: ``single`` value, ``set`` of ``size`` values in the schema's order, or ``ordered`` list of ``size`` values.
        values: all values, in the order used for rendering sets and breaking ties.
        size: number of values of a ``set`` or ``ordered`` attribute.
        unknown: whether ``Unknown`` is a legal value.
        text_only: labelled by the auxiliary LLM stage (:mod:`mmprofile.llm`) from text, not by a rule.
        sensitive: refused unless a purpose is stated.
        rule: how the label is derived from raw data (``datamodules.labels``); None: not derived.

    Raises:
        UserError: the definition contradicts itself.
    """

    name: str
    values: tuple[str, ...]
    kind: str = "single"
    size: int = 1
    unknown: bool = False
    text_only: bool = False
    sensitive: bool = False
    rule: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(str(value) for value in self.values))
        where = f"profile schema, attribute {self.name!r}"
        if self.kind not in KINDS:
            raise UserError(f"{where}: kind {self.kind!r} is not one of {', '.join(KINDS)}")
        if len(self.values) < 2 or len({value.lower() for value in self.values}) != len(self.values):
            raise UserError(f"{where}: needs at least two values, all different (case is ignored)")
        if self.kind == "single" and self.size != 1:
            raise UserError(f"{where}: kind single has size 1, not {self.size}")
        if not 1 <= self.size <= len(self.values):
            raise UserError(f"{where}: size {self.size} does not fit {len(self.values)} values")
        for text in (self.name, *self.values):
            if not text or text != " ".join(text.split()) or any(mark in text for mark in _RESERVED):
                raise UserError(
                    f"{where}: {text!r} is empty, has stray blanks, or contains one of ; , : or a line break"
                )
        if UNKNOWN.lower() in {value.lower() for value in self.values}:
            raise UserError(f"{where}: leave {UNKNOWN!r} out of the values and set `unknown: true`")

    def canonical(self, values: Iterable[str]) -> tuple[str, ...]:
        """Return ``values`` in the order in which they are rendered: the schema's for a set, the given one otherwise."""
        values = tuple(values)
        return tuple(v for v in self.values if v in values) if self.kind == "set" else values


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
        rows = []
        for attribute in self.attributes:
            row = asdict(attribute)
            row["values"] = list(attribute.values)
            row["rule"] = dict(attribute.rule) if attribute.rule is not None else None
            rows.append(row)
        return {"name": self.name, "attributes": rows}

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
            faults.append(f"{attribute.name}: {len(values)} values, expected {attribute.size}")
            values = values[: attribute.size]
        elif 0 < len(values) < attribute.size:
            faults.append(f"{attribute.name}: {len(values)} of {attribute.size} values")
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
