"""The embedded teacher: a weak labeller that looks for cue phrases in a part of a person's texts, another part for each sample."""

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from mmprofile.errors import UserError
from mmprofile.llm.answers import Claim, render_answer
from mmprofile.llm.people import Person
from mmprofile.llm.teacher.protocol import Question, Reply
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import UNKNOWN, Schema

CUES = conf_dir() / "llm" / "lexicon.yaml"
STRONG, WEAK = 0.85, 0.4  # how surely a cue tells the value
NOTHING = 0.4  # confidence that there is nothing to be found, where nothing was
STEP = 0.05  # confidences are given in these steps, as people and language models do


class Cue(NamedTuple):
    """A phrase that points at a value."""

    attribute: str
    value: str
    strength: float
    pattern: re.Pattern[str]


class Lexicon:
    """Draws answers from cues.

    A sample reads the share ``reads`` of the texts. Of the cues found in them each is overlooked with probability ``overlooks`` and
    taken for another value's with ``misreads``. With the strengths s of the cues left, a value's score is 1 - prod(1 - s); the
    highest wins, and its confidence is its score times its share of all scores.

    Args:
        cfg: see ``conf/llm/teacher/lexicon.yaml``.
        schema: what is asked; values that the lexicon does not know are never answered.

    Raises:
        UserError: the lexicon knows no attribute of the schema, or a setting is no probability.
    """

    def __init__(self, cfg: Any, schema: Schema) -> None:
        self.schema, self.batch, self.concurrency = schema, int(cfg.batch), 1
        for name in ("reads", "overlooks", "misreads"):
            if not 0 <= cfg[name] <= 1:
                raise UserError(f"teacher.{name}={cfg[name]} is not a probability (0 to 1)")
        self.reads, self.overlooks, self.misreads = cfg.reads, cfg.overlooks, cfg.misreads
        self.cues = [cue for cue in read_cues(CUES) if cue.attribute in schema.names]
        self.cues = [cue for cue in self.cues if cue.value in schema[cue.attribute].values]
        if not self.cues:
            raise UserError(
                f"teacher=lexicon knows no attribute of profile {schema.name}; take teacher=openai or local"
            )
        self.name = cfg.name
        text = hashlib.sha256(CUES.read_bytes()).hexdigest()[:16]
        self.settings = {
            "cues": text, "reads": self.reads, "overlooks": self.overlooks, "misreads": self.misreads,
            "schema": schema.to_dict(),
        }  # fmt: skip
        self._any = re.compile("|".join(cue.pattern.pattern for cue in self.cues), re.I)  # most texts have none
        self._found: dict[str, list[list[tuple[Cue, str]]]] = {}

    def check(self) -> None:
        """It is always there."""

    def ask(self, questions: Sequence[Question]) -> list[Reply]:
        """An answer to each."""
        return [Reply(self.answer(question.person, question.seed)) for question in questions]

    def answer(self, person: Person, seed: int) -> str:
        """One sample, as JSON."""
        name = hashlib.sha256(f"{person.user_id} {seed}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(name[:8], "little"))
        texts = self.found(person)
        read = rng.permutation(len(texts))[: math.ceil(self.reads * len(texts))]
        scores: dict[str, dict[str, float]] = {name: {} for name in self.schema.names}
        quotes: dict[tuple[str, str], str] = {}
        for cue, quote in (hit for i in sorted(read) for hit in texts[i]):
            luck, value = rng.random(), cue.value
            if luck < self.overlooks:
                continue
            if luck < self.overlooks + self.misreads:
                others = [other for other in self.schema[cue.attribute].values if other != value]
                value = str(rng.choice(others))
            of = scores[cue.attribute]
            of[value] = 1 - (1 - of.get(value, 0.0)) * (1 - cue.strength)
            quotes.setdefault((cue.attribute, value), quote)
        claims = {}
        for attribute, of in scores.items():
            if not of:
                claims[attribute] = Claim(UNKNOWN, self._rounded(NOTHING, rng), "no cue")
                continue
            value = max(of, key=lambda v: of[v])
            confidence = of[value] ** 2 / sum(of.values())
            claims[attribute] = Claim(value, self._rounded(confidence, rng), quotes[attribute, value])
        return render_answer(claims, self.schema)

    def found(self, person: Person) -> list[list[tuple[Cue, str]]]:
        """The cues of each of a person's texts, and the words that are one."""
        if person.user_id not in self._found:
            cues = [", ".join(phrases) for phrases in person.cues.values()]
            self._found[person.user_id] = [
                [(cue, match[0]) for cue in self.cues if (match := cue.pattern.search(text))]
                if self._any.search(text)
                else []
                for text in (*person.reviews, *cues)
            ]
        return self._found[person.user_id]

    def forget(self, person: Person) -> None:
        """Lets go of what was found of a person who will not be asked about again."""
        self._found.pop(person.user_id, None)

    @staticmethod
    def _rounded(confidence: float, rng: np.random.Generator) -> float:
        noisy = confidence + rng.normal(0.0, STEP)
        return float(np.clip(round(noisy / STEP) * STEP, STEP, 1.0))


def read_cues(path: Path) -> list[Cue]:
    """The phrases of ``conf/llm/lexicon.yaml``."""
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
