"""The profile schema: the attributes of a profile, and the text that a model reads and writes for them.

The rest is derived from it: targets and masked inputs (:mod:`mmprofile.inputs`), the decoder's grammar
(:mod:`mmprofile.profile.grammar`), the classes of a score (:mod:`mmprofile.profile.metrics`). A new schema is a new YAML
file under ``conf/profile/`` and no code.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf

from mmprofile.errors import UserError
from mmprofile.files import MALFORMED, read_schema_file
from mmprofile.profile.attributes import NONE, UNKNOWN, Attribute, Profile

__all__ = ["NONE", "UNKNOWN", "Attribute", "Parsed", "Profile", "Schema", "check_purpose"]


class Parsed(NamedTuple):
    """A text that :meth:`Schema.parse` has read.

    Attributes:
        profile: what it understood.
        faults: a line for each thing that it did not understand.
    """

    profile: Profile
    faults: list[str]


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
        name = "profile"
        try:
            if "parts" in data:
                parts = [cls.from_dict(part) for part in data["parts"].values()]
                return cls("+".join(part.name for part in parts), [a for part in parts for a in part.attributes])
            name = str(data.get("name", name))
            rows = [dict(row) for row in data["attributes"]]
            return cls(name, [Attribute(**row) for row in rows])
        except MALFORMED as error:
            known = ", ".join(Attribute.__dataclass_fields__)
            raise UserError(f"profile schema {name!r}: {error}; an attribute has the keys {known}") from error

    @classmethod
    def from_config(cls, node: Any) -> "Schema":
        """Return the schema of a configuration's ``profile``.

        Raises:
            UserError: as :meth:`from_dict`.
        """
        return cls.from_dict(OmegaConf.to_container(node) if OmegaConf.is_config(node) else node)  # type: ignore[arg-type]

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


def check_purpose(schema: Schema, purpose: str | None, trained_for: str | None = None) -> str | None:
    """Return what profiles are used for; refuse sensitive attributes without it.

    Whatever predicts, shows or exports profiles calls this first, and writes the purpose beside them.

    Args:
        schema: of the profiles.
        purpose: as it is stated for this use.
        trained_for: the purpose of the run whose own people are shown, which holds where no other is stated; None where other
            people are predicted, for whom it has to be stated.

    Raises:
        UserError: the schema has sensitive attributes, and no purpose is stated.
    """
    stated = purpose if purpose and purpose.strip() else trained_for
    sensitive = [attribute.name for attribute in schema.attributes if attribute.sensitive]
    if sensitive and not (stated and stated.strip()):
        raise UserError(
            f'profile {schema.name}: {", ".join(sensitive)} are sensitive: say what they are for, purpose="..."; it is '
            "written beside the results"
        )
    return stated
