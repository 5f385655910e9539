"""The embedded teacher: a weak labeller that looks for cue phrases in a part of a person's texts, another part for each sample."""

import hashlib
import math
import re
import string
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
STRONG, WEAK = 20.0, 2.0  # how many times likelier a cue makes its value
NOTHING = 0.4  # confidence of Unknown, where no cue was found
STEP = 0.05  # confidences are given in these steps, as people and language models do
PLAIN = str.maketrans(string.ascii_uppercase + "’", string.ascii_lowercase + "'")  # keeps the length of a text
START = re.compile(r"(?<!\w)\w{1,2}")  # of a word: the few phrases that begin like it are tried
SHORT = {"i am": "i'm", "we are": "we're"}


class Cue(NamedTuple):
    """A phrase that points at a value.

    Attributes:
        attribute: of the schema.
        value: one of its values.
        strength: how many times likelier it makes the value.
        phrase: as the lexicon has it.
        pattern: what it matches in plain text, a regular expression.
    """

    attribute: str
    value: str
    strength: float
    phrase: str
    pattern: str


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
    another value's with probability ``misreads``. Each remaining cue makes its value :data:`STRONG` or :data:`WEAK` times as
    likely; the same phrase again is no new evidence. The likeliest value wins (of equals any), and its confidence is its share of
    the likelihoods of all values, those without a cue having 1: the posterior of naive Bayes where all values are as common.
    So a weak cue is worth little where there are many values, and many weak cues of several values are no certainty.

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
            "cues": hashlib.sha256(CUES.read_bytes()).hexdigest()[:16],
            "reads": self.reads,
            "overlooks": self.overlooks,
            "misreads": self.misreads,
            "schema": schema.to_dict(),
        }
        self._by_start: dict[str, list[Cue]] = {}
        for cue in sorted(self.cues, key=lambda cue: -len(cue.phrase)):  # the longest first
            self._by_start.setdefault(START.findall(cue.phrase)[0], []).append(cue)
        self._phrases = {
            start: re.compile(rf"(?:{'|'.join(dict.fromkeys(cue.pattern for cue in cues))})(?!\w)")
            for start, cues in self._by_start.items()
        }
        self._meanings: dict[str, list[Cue]] = {}  # by the words that matched
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
        found = [match for i in read for match in matches[i]]
        evidence: dict[str, dict[str, list[tuple[float, str]]]] = {name: {} for name in self.schema.names}
        seen = set[Cue]()
        for cue, quote in (found[i] for i in rng.permutation(len(found))):  # the first of equals is any of them
            luck, value = rng.random(), cue.value
            if luck < self.overlooks or cue in seen:
                continue
            seen.add(cue)
            if luck < self.overlooks + self.misreads:
                wrong = [other for other in self.schema[cue.attribute].values if other != value]
                value = wrong[rng.integers(len(wrong))]
            evidence[cue.attribute].setdefault(value, []).append((cue.strength, quote))
        claims = {}
        for attribute, by_value in evidence.items():
            if not by_value:
                claims[attribute] = Claim(UNKNOWN, self._rounded(NOTHING, rng), "no cue")
                continue
            likelihoods = {value: math.prod(strength for strength, _ in cues) for value, cues in by_value.items()}
            value = max(likelihoods, key=likelihoods.__getitem__)
            others = len(self.schema[attribute].values) - len(likelihoods)
            confidence = likelihoods[value] / (sum(likelihoods.values()) + others)
            claims[attribute] = Claim(value, self._rounded(confidence, rng), max(by_value[value])[1])
        return render_answer(claims, self.schema)

    def matches(self, person: Person) -> list[list[tuple[Cue, str]]]:
        """Return the cues in each of a person's texts, each with the words that it matches."""
        if person.user_id not in self._matches:
            behaviour = [", ".join(phrases) for phrases in person.cues.values()]
            self._matches[person.user_id] = [self._cues_in(text) for text in (*person.reviews, *behaviour)]
        return self._matches[person.user_id]

    def _cues_in(self, text: str) -> list[tuple[Cue, str]]:
        """Return each cue in a text once, with the words that it matches first."""
        found: dict[Cue, str] = {}
        plain = text.translate(PLAIN)
        for start in START.finditer(plain):
            phrases = self._phrases.get(start[0])
            match = phrases.match(plain, start.start()) if phrases else None
            if match is None:
                continue
            words = match[0]
            if words not in self._meanings:
                self._meanings[words] = [cue for cue in self._by_start[start[0]] if re.fullmatch(cue.pattern, words)]
            for cue in self._meanings[words]:
                found.setdefault(cue, text[slice(*match.span())])
        return list(found.items())

    def forget(self, person: Person) -> None:
        """Free the matches of a person who will not be asked about again."""
        self._matches.pop(person.user_id, None)

    @staticmethod
    def _rounded(confidence: float, rng: np.random.Generator) -> float:
        noisy = confidence + rng.normal(0.0, STEP)
        return float(np.clip(round(noisy / STEP) * STEP, STEP, 1.0))


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
                cues.append(Cue(attribute, str(value), strength, phrase, pattern_of(phrase)))
    return cues


def pattern_of(phrase: str) -> str:
    """Return the regular expression of what a phrase matches in lower-case text with straight apostrophes."""
    words = re.escape(phrase).replace(r"\*", r"\w*")
    for long, short in SHORT.items():
        words = words.replace(re.escape(long), f"(?:{re.escape(long)}|{short})")
    return words.replace(r"\ ", r"[\s-]+")
