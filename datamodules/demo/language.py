"""The review grammar: turns a review's cues into natural sentences, and adds nothing that gives away anything else."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from datamodules.demo.cuewords import CUE_SLOTS, CUES, DISTRACTORS
from datamodules.demo.smalltalk import (
    ADJECTIVES,
    ASPECT_TEMPLATES,
    CLOSERS,
    EMOJI,
    NEUTRAL,
    OPENERS,
    SHORT,
    SHORT_NEUTRAL,
    SLOTS,
    VERDICTS,
)
from datamodules.demo.trades import TRADE_DISTRACTORS, TRADE_TEMPLATES, TRADES

WORDS = (25, 75)  # length of an ordinary review, in words
LONG_WORDS = (310, 380)
TYPO_RATE = 0.01  # per word
DISTRACTOR_RATE = 0.10  # reviews with a mention that is not about the business
AMBIGUOUS_RATE = 0.15  # sentiment sentences shared with a neighbouring level
EMOJI_RATE, NEWLINE_RATE = 0.05, 0.10

_SLOT = re.compile(r"\{(\w+)\}")
_POOLS: dict[str, tuple[str, ...]] = {**SLOTS, **CUE_SLOTS}
_TRADE_NAMES = tuple(TRADES)


def write_review(
    cues: Mapping[str, str], leak: Sequence[str], rng: random.Random, length: str = "usual"
) -> str:
    """Text of one review.

    Args:
        cues: attribute -> value to show; what is absent is not mentioned.
        leak: whole sentences about the writer to work in.
        rng: the review's own stream.
        length: "usual" (25-75 words), "short" (under ten words; shows the stars only) or "long" (over 300).
    """
    if length == "short":
        return fill(rng.choice(SHORT[cues["Stars"]] if "Stars" in cues else SHORT_NEUTRAL), rng)
    target = rng.randint(*(LONG_WORDS if length == "long" else WORDS))
    body = [*(cue_sentence(name, value, rng) for name, value in cues.items() if name != "Stars"), *leak]
    if "Stars" in cues:
        body += sentiment(cues["Stars"], rng)
    if rng.random() < DISTRACTOR_RATE:
        body.append(_distractor(rng))
    head = [fill(rng.choice(OPENERS), rng)] if rng.random() < 0.7 else []
    tail = [fill(rng.choice(CLOSERS), rng)] if rng.random() < 0.15 else []
    words = sum(sentence.count(" ") + 1 for sentence in (*head, *body, *tail))
    while words < target - 4 or words < WORDS[0]:
        sentence = fill(rng.choice(NEUTRAL), rng)
        if sentence not in body or length == "long":
            body.append(sentence)
            words += sentence.count(" ") + 1
    rng.shuffle(body)
    return _join([*head, *body, *tail], rng)


def cue_sentence(name: str, value: str, rng: random.Random) -> str:
    """One sentence that shows `value` of attribute `name` (any but Stars)."""
    if name != "Favorite Category":
        return fill(rng.choice(CUES[name][value]), rng)
    trade = TRADES[value]
    if rng.random() < 0.4:
        return fill(rng.choice(trade.lines), rng)
    return fill(rng.choice(TRADE_TEMPLATES), rng, doing=trade.doing, thing=trade.thing, staff=trade.staff)


def sentiment(stars: str, rng: random.Random) -> list[str]:
    """One to three sentences of the given level; now and then in words that a neighbouring level would use too."""
    sentences = []
    shared = [key for key in VERDICTS if len(key) == 2 and stars in key]
    for _ in range(rng.choices((1, 2, 3), (0.35, 0.45, 0.2))[0]):
        level = rng.choice(shared) if rng.random() < AMBIGUOUS_RATE else stars
        if rng.random() < 0.5:
            sentences.append(fill(rng.choice(VERDICTS[level]), rng))
        else:
            sentences.append(fill(rng.choice(ASPECT_TEMPLATES), rng, adjective=ADJECTIVES[level]))
    return sentences


def fill(template: str, rng: random.Random, **own: Sequence[str]) -> str:
    """Replace each {slot} by a random entry of its pool, entries' own slots included; {slot_cap} is capitalised."""

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        capital = name.endswith("_cap")
        name = name.removesuffix("_cap")
        text = rng.choice(own[name] if name in own else _POOLS[name])
        if "{" in text:
            text = fill(text, rng)
        return text[0].upper() + text[1:] if capital else text

    return _SLOT.sub(replace, template) if "{" in template else template


def _distractor(rng: random.Random) -> str:
    if rng.random() < 0.4:
        trade = TRADES[rng.choice(_TRADE_NAMES)]
        return fill(rng.choice(TRADE_DISTRACTORS), rng, doing=trade.doing)
    return fill(rng.choice(DISTRACTORS), rng)


def _join(sentences: list[str], rng: random.Random) -> str:
    """Sentences to a text: usually one paragraph, with a typo in one word of a hundred and a rare emoji."""
    if rng.random() < EMOJI_RATE:
        spot = rng.randrange(len(sentences))
        sentences[spot] = f"{sentences[spot]} {rng.choice(EMOJI)}"
    gap = rng.choice(("\n", "\n\n")) if rng.random() < NEWLINE_RATE else " "
    cut = rng.randrange(len(sentences)) + 1
    text = gap.join(part for part in (" ".join(sentences[:cut]), " ".join(sentences[cut:])) if part)
    words = text.split(" ")
    for index in range(len(words)):
        if rng.random() < TYPO_RATE and len(words[index]) > 3 and words[index].isalpha():
            words[index] = _typo(words[index], rng)
    return " ".join(words)


def _typo(word: str, rng: random.Random) -> str:
    spot = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(3)
    if kind == 0:
        return word[:spot] + word[spot + 1] + word[spot] + word[spot + 2 :]
    return word[:spot] + word[spot + 1 :] if kind == 1 else word[:spot] + word[spot] + word[spot:]
