"""The embedded teacher: a weak labeller that looks for cue phrases in a part of a person's texts, another part for each sample."""

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from mmprofile.errors import UserError
from mmprofile.llm.answers import Claim, render_answer
from mmprofile.llm.people import Person
from mmprofile.llm.teacher.protocol import Question
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import UNKNOWN, Schema
from mmprofile.systems.journal import ChatReply

CUES = conf_dir() / "llm" / "lexicon.yaml"
STRONG, WEAK = 0.85, 0.4  # how reliably a cue tells the value
NOTHING = 0.4  # confidence of Unknown, where no cue was found
STEP = 0.05  # confidences are given in these steps, as people and language models do


class Cue(NamedTuple):
    """A phrase that points at a value."""

    attribute: str
    value: str
    strength: float
    pattern: re.Pattern[str]


@dataclass
class LexiconConfig:
    """``conf/llm/teacher/lexicon.yaml``. A whole number stays one: the settings are a part of each request's hash."""

    kind: str
    name: str
    reads: int | float
    overlooks: int | float
    misreads: int | float
    batch: int
    concurrency: int

    def check(self) -> None:
        """Refuse what is no probability.

        Raises:
            UserError: names the setting.
        """
        for name in ("reads", "overlooks", "misreads"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"teacher.{name}={getattr(self, name)} is not a probability (0 to 1)")


class Lexicon:
    """Draw answers from cues.

    A sample reads the share ``reads`` of the texts. Each cue in them is overlooked with probability ``overlooks`` and taken for
    another value's with probability ``misreads``. With the strengths s of the remaining cues, a value's score is
    1 - prod(1 - s); the highest wins, and its confidence is its score times its share of all scores.

    Args:
        config: typed settings.
        schema: the attributes that are asked for; values that the lexicon does not know are never answered.

    Raises:
        UserError: the lexicon knows no attribute of the schema, or a setting is no probability.
    """

    concurrency = 1  # it only computes

    def __init__(self, config: LexiconConfig, schema: Schema) -> None:
        config.check()
        self.schema, self.name, self.batch = schema, config.name, config.batch
        self.reads, self.overlooks, self.misreads = config.reads, config.overlooks, config.misreads
        self.cues = [cue for cue in read_cues(CUES) if cue.attribute in schema.names]
        self.cues = [cue for cue in self.cues if cue.value in schema[cue.attribute].values]
        if not self.cues:
            raise UserError(
                f"teacher=lexicon knows no attribute of profile {schema.name}; take teacher=openai or local"
            )
        self.settings = {
            "cues": cues_key(CUES),
            "reads": self.reads,
            "overlooks": self.overlooks,
            "misreads": self.misreads,
            "schema": schema.to_dict(),
        }
        self._any = re.compile("|".join(cue.pattern.pattern for cue in self.cues), re.I)  # most texts have none
        self._matches: dict[str, list[list[tuple[Cue, str]]]] = {}  # by user

    def check(self) -> None:
        """Do nothing: the lexicon is always there."""

    def ask(self, questions: Sequence[Question]) -> list[ChatReply]:
        """Return an answer to each question."""
        return [ChatReply(self.answer(question.person, question.seed)) for question in questions]

    def answer(self, person: Person, seed: int) -> str:
        """Return one sample, as JSON."""
        entropy = hashlib.sha256(f"{person.user_id} {seed}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(entropy[:8], "little"))
        matches = self.matches(person)
        read = rng.permutation(len(matches))[: math.ceil(self.reads * len(matches))]
        scores: dict[str, dict[str, float]] = {name: {} for name in self.schema.names}
        quotes: dict[tuple[str, str], str] = {}
        for cue, quote in (match for i in sorted(read) for match in matches[i]):
            luck, value = rng.random(), cue.value
            if luck < self.overlooks:
                continue
            if luck < self.overlooks + self.misreads:
                wrong = [other for other in self.schema[cue.attribute].values if other != value]
                value = str(rng.choice(wrong))
            by_value = scores[cue.attribute]
            by_value[value] = 1 - (1 - by_value.get(value, 0.0)) * (1 - cue.strength)
            quotes.setdefault((cue.attribute, value), quote)
        claims = {}
        for attribute, by_value in scores.items():
            if not by_value:
                claims[attribute] = Claim(UNKNOWN, self._rounded(NOTHING, rng), "no cue")
                continue
            value = max(by_value, key=by_value.__getitem__)
            confidence = by_value[value] ** 2 / sum(by_value.values())
            claims[attribute] = Claim(value, self._rounded(confidence, rng), quotes[attribute, value])
        return render_answer(claims, self.schema)

    def matches(self, person: Person) -> list[list[tuple[Cue, str]]]:
        """Return the cues in each of a person's texts, each with the words that it matches."""
        if person.user_id not in self._matches:
            behaviour = [", ".join(phrases) for phrases in person.cues.values()]
            self._matches[person.user_id] = [
                [(cue, match[0]) for cue in self.cues if (match := cue.pattern.search(text))]
                if self._any.search(text)
                else []
                for text in (*person.reviews, *behaviour)
            ]
        return self._matches[person.user_id]

    def forget(self, person: Person) -> None:
        """Free the matches of a person who will not be asked about again."""
        self._matches.pop(person.user_id, None)

    @staticmethod
    def _rounded(confidence: float, rng: np.random.Generator) -> float:
        noisy = confidence + rng.normal(0.0, STEP)
        return float(np.clip(round(noisy / STEP) * STEP, STEP, 1.0))


def cues_key(path: Path) -> str:
    """Return a hash of the cues. The comment above them counts in its first wording, so that old journals stay valid."""
    text = path.read_text(encoding="utf-8").replace("mmprofile/llm/teacher/lexicon.py", "mmprofile/llm/lexicon.py")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_cues(path: Path) -> list[Cue]:
    """Return the phrases of a file like ``conf/llm/lexicon.yaml``."""
    cues = []
    for attribute, values in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        for value, phrases in values.items():
            strength = STRONG
            for phrase in phrases:
                if phrase == "weak":
                    strength = WEAK
                    continue
                words = re.escape(phrase).replace(r"\*", r"\w*").replace(r"\ ", r"\s+")
                cues.append(Cue(attribute, str(value), strength, re.compile(rf"\b{words}\b", re.I)))
    return cues
