"""A predicted profile: values, how sure they are, and why; in Jupyter a table."""

import html
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple


class Alternative(NamedTuple):
    """A value of an attribute (a list where it has several) and its probability, 0 to 1."""

    value: Any
    probability: float


class Evidence(NamedTuple):
    """What a photo or review does to an attribute.

    Attributes:
        source: ``review 0``, ``photo 1``, ...: counted from 0 among those that the model was shown.
        total_variation: how much the attribute's posterior changes without it, 0 to 1.
        before, after: the probability of the predicted value with and without it.
    """

    source: str
    total_variation: float
    before: float
    after: float


@dataclass(frozen=True)
class PredictedProfile:
    """A profile, how sure it is, and why.

    Attributes:
        user_id: as given.
        values: attribute -> value, a list where it has several, None for Unknown and where the model abstains.
        confidence: attribute -> the probability that the model gives to the value, calibrated on the validation users of
            its training.
        alternatives: attribute -> its likeliest values.
        abstained: attributes whose value is less likely than ``abstain_below``.
        sets: attribute -> the values among which the true one is, for all users but the share ``risk``; None: not asked
            for.
        evidence: attribute -> what each photo and review does to it, the most influential first; None: not asked for.
        reviews, photos: the texts that the model was shown, and the places of the photos among those given.
        purpose: what the profile was predicted for; None: none was stated.
    """

    user_id: str
    values: dict[str, Any]
    confidence: dict[str, float]
    alternatives: dict[str, list[Alternative]]
    abstained: list[str]
    sets: dict[str, list[Any]] | None
    evidence: dict[str, list[Evidence]] | None
    reviews: list[str]
    photos: list[int]
    purpose: str | None = None

    def __getitem__(self, attribute: str) -> Any:
        return self.values[attribute]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as JSON has them."""
        data = asdict(self)
        for name, rows in self.alternatives.items():
            data["alternatives"][name] = [row._asdict() for row in rows]
        for name, evidence in (self.evidence or {}).items():
            data["evidence"][name] = [row._asdict() for row in evidence]
        return data

    def __repr__(self) -> str:
        parts = [f"{name}: {_written(self.values[name])} ({share:.2f})" for name, share in self.confidence.items()]
        return f"<{'; '.join(parts)}>"

    def _repr_html_(self) -> str:
        """Return a table for Jupyter."""
        columns = ["attribute", "value", "confidence", "next"] + (["moved most by"] if self.evidence else [])
        head = "".join(f"<th style='text-align:left'>{column}</th>" for column in columns)
        rows = []
        for name, share in self.confidence.items():
            value = f"abstained ({_written(self.alternatives[name][0].value)})" if name in self.abstained else None
            after = [f"{_written(a.value)} {a.probability:.2f}" for a in self.alternatives[name][1:3]]
            cells = [name, value or _written(self.values[name]), f"{share:.2f}", ", ".join(after)]
            if self.evidence:
                most = self.evidence[name][:1]
                cells += [f"{most[0].source} ({most[0].total_variation:.2f})" if most else ""]
            rows.append("".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in cells))
        return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _written(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value if value is not None else "Unknown")
