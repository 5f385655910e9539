"""Which sentences of a person's reviews look like evidence of text-only attributes; importable without torch.

The language-model stage quotes, for each label, the words that the label rests on (its rationale). A naive Bayes classifier learns
from the training users which words stand in sentences that are quoted. It then needs no label, so it reads anybody's reviews.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmprofile.errors import UserError
from mmprofile.files import MALFORMED, read_json, write_json
from mmprofile.inputs.views import User

FILE = "evidence.json"
SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)|[。！？]")
_UNSPACED = r"\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = rf"(?u)[{_UNSPACED}]|[^\W{_UNSPACED}]{{2,}}"
"""A term: a word of two letters or more or, in a script without blanks (Chinese, Japanese, Thai), a character."""
_WORD = re.compile(WORD)
_QUOTED = re.compile(r"[\"“]([^\"“”]{3,})[\"”]")
LEAST_USERS = 5
"""A word that fewer training users write says nothing about others, and would tell about them: it is not kept."""
MOST_WORDS = 10_000
"""Words that are kept, those of the most users: 200 KB in an exported model."""
MOST_USERS = 5_000
"""Training users that words are counted of: seconds, whatever the size of the data."""
SMOOTHING = 0.5
"""Added to each count, so that a word that is never quoted has a finite weight."""


@dataclass(frozen=True)
class EvidenceSelector:
    """Selects sentences.

    Attributes:
        count: sentences of a person, at most.
        weights: word -> log P(word | quoted sentence) - log P(word | another sentence). Other words weigh 0.
    """

    count: int
    weights: Mapping[str, float]

    @classmethod
    def fit(cls, people: Iterable[tuple[Sequence[str], Sequence[str]]], count: int) -> "EvidenceSelector":
        """Learn the weights from people whose labels have rationales.

        Args:
            people: the reviews and the rationales of each.
            count: see the class.

        Raises:
            UserError: no rationale quotes a review.
        """
        quoted, other, users = Counter[str](), Counter[str](), Counter[str]()
        n_quoted = n_other = 0
        for reviews, rationales in people:
            quotes = [quote.lower() for rationale in rationales for quote in quotes_of(rationale)]
            words = set[str]()
            for sentence in distinct_sentences(reviews):
                terms = words_of(sentence)
                words |= terms
                if any(quote in sentence.lower() for quote in quotes):
                    quoted.update(terms)
                    n_quoted += 1
                else:
                    other.update(terms)
                    n_other += 1
            users.update(words)
        if not n_quoted:
            raise UserError(
                f"inputs.evidence={count}: no rationale of the labels quotes a review of a training user; attach labels whose "
                f"rationales do (python -m mmprofile.llm.attach), or leave inputs.evidence at 0"
            )
        kept = sorted((word for word, n in users.items() if n >= LEAST_USERS), key=lambda word: (-users[word], word))
        return cls(
            count,
            {
                word: round(_log_share(quoted[word], n_quoted) - _log_share(other[word], n_other), 3)
                for word in sorted(kept[:MOST_WORDS])
            },
        )

    def select(self, reviews: Sequence[str]) -> list[str]:
        """Return the sentences that look most like evidence, in the order of the reviews; ties: the earlier ones."""
        sentences = distinct_sentences(reviews)
        scores = [sum(self.weights.get(word, 0.0) for word in sorted(words_of(sentence))) for sentence in sentences]
        best = sorted(range(len(sentences)), key=lambda i: -scores[i])[: self.count]
        return [sentences[i] for i in sorted(best)]

    def shown(self, user: User, others: Sequence[str]) -> User:
        """Return the user with sentences of ``others``, reviews that are not shown, as one more review, a line for each."""
        sentences = self.select(others)
        return replace(user, reviews=(*user.reviews, "\n".join(sentences))) if sentences else user

    def save(self, folder: Path) -> None:
        """Write ``evidence.json``."""
        write_json(folder / FILE, {"sentences": self.count, "weights": {**self.weights}}, ensure_ascii=False)


def load_selector(folder: Path) -> EvidenceSelector | None:
    """Return what :meth:`EvidenceSelector.save` wrote; None where there is no such file.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        data = read_json(path)
        return EvidenceSelector(int(data["sentences"]), {str(word): float(w) for word, w in data["weights"].items()})
    except (OSError, *MALFORMED) as error:
        raise UserError(f"{path}: damaged ({error}); export the model again") from error


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a text: up to ``.``, ``!`` or ``?`` before a blank, to their full-width forms, or to a line's end."""
    parts = SENTENCE_END.sub(lambda end: f"{end[0]}\n", text).split("\n")
    return [sentence for part in parts if (sentence := " ".join(part.split()))]


def distinct_sentences(texts: Iterable[str]) -> list[str]:
    """Return the different sentences of texts, in order."""
    return [*dict.fromkeys(sentence for text in texts for sentence in sentences_of(text))]


def words_of(sentence: str) -> set[str]:
    """Return the different words of a sentence, in small letters."""
    return {*_WORD.findall(sentence.lower())}


def quotes_of(rationale: str) -> list[str]:
    """Return what a rationale quotes: its parts in quotation marks or, without any, all of it; nothing of a blank one."""
    return _QUOTED.findall(rationale) or ([rationale.strip()] if rationale.strip() else [])


def _log_share(count: int, total: int) -> float:
    """Return the logarithm of a smoothed share."""
    return math.log((count + SMOOTHING) / (total + 2 * SMOOTHING))
