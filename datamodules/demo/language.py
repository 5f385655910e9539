"""The review grammar: turns a review's cues into natural sentences, and adds nothing that gives away anything else."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from datamodules.demo.cuewords import CUE_SLOTS, CUES, DISTRACTORS
from datamodules.demo.smalltalk import CLOSERS, EMOJI, LINKS, NEUTRAL, OPENERS, SLOTS
from datamodules.demo.trades import TRADE_DISTRACTORS, TRADE_TEMPLATES, TRADES
from datamodules.demo.verdicts import ADJECTIVES, ASPECT_TEMPLATES, SHORT, SHORT_NEUTRAL, VERDICTS

WORDS = (12, 30)  # length of an ordinary review, in words
LONG_WORDS = (310, 380)
TYPO_RATE = 0.01  # per word
DISTRACTOR_RATE = 0.10  # reviews with a mention that is not about the business
AMBIGUOUS_RATE = 0.15  # sentiment sentences shared with a neighbouring level
EMOJI_RATE, NEWLINE_RATE = 0.05, 0.10
LINK_RATE = 0.12  # sentences that begin with "Also," and the like

_SLOT = re.compile(r"\{(\w+)\}")
_POOLS: dict[str, tuple[str, ...]] = {**SLOTS, **CUE_SLOTS}
_LINKABLE = ("The ", "There ", "They ", "We ", "It ", "My ", "You ", "Our ", "A ")
_TRADE_NAMES, _TOPICS = tuple(TRADES), tuple(NEUTRAL)
# When in a visit a cue is mentioned, on the scale of `smalltalk.NEUTRAL`.
_STAGES = {
    "Favorite Category": 1.0,
    "Preferred Meal": 1.6,
    "Discount Preference": 2.2,
    "Service Preference": 2.7,
    "Budget Range": 3.2,
}
Pools = Mapping[str, Sequence[str]]


def write_review(
    cues: Mapping[str, str],
    leak: Sequence[str],
    rng: random.Random,
    length: str = "usual",
    words: tuple[int, int] = WORDS,
) -> str:
    """Text of one review.

    Args:
        cues: attribute -> value to show; what is absent is not mentioned.
        leak: whole sentences about the writer to work in.
        rng: the review's own stream.
        length: "usual" (about `words`), "short" (under ten words, shows the stars only) or "long" (over 300).
    """
    dish, side = rng.sample(SLOTS["dish"], 2)
    own = {"dish": (dish,), "side": (side,), "friend": (rng.choice(SLOTS["friend"]),)}  # the same throughout the review
    if length == "short":
        return fill(rng.choice(SHORT[cues["Stars"]] if "Stars" in cues else SHORT_NEUTRAL), rng, own)
    target = rng.randint(*(LONG_WORDS if length == "long" else words))
    body = [(_STAGES[name], cue_sentence(name, value, rng, own)) for name, value in cues.items() if name != "Stars"]
    body += [(rng.uniform(0.0, 2.5), sentence) for sentence in leak]
    if "Stars" in cues:
        body += [(rng.uniform(2.4, 4.2), sentence) for sentence in sentiment(cues["Stars"], rng, own)]
    if rng.random() < DISTRACTOR_RATE:
        body.append((rng.uniform(0.0, 4.0), _distractor(rng, own)))
    head = [fill(rng.choice(OPENERS), rng, own)] if rng.random() < 0.7 else []
    tail = [fill(rng.choice(CLOSERS), rng, own)] if rng.random() < 0.15 else []
    said = sum(sentence.count(" ") + 1 for sentence in (*head, *tail, *(sentence for _, sentence in body)))
    topics: list[str] = []
    while said < max(target - 4, WORDS[0]):
        topics = topics or rng.sample(_TOPICS, len(_TOPICS))  # a long review goes round the topics more than once
        stage, sentences = NEUTRAL[topics.pop()]
        sentence = fill(rng.choice(sentences), rng, own)
        body.append((stage, sentence))
        said += sentence.count(" ") + 1
    told = sorted(body, key=lambda item: item[0] + rng.uniform(0.0, 0.8))
    return _join([*head, *(sentence for _, sentence in told), *tail], rng)


def cue_sentence(name: str, value: str, rng: random.Random, own: Pools) -> str:
    """One sentence that shows `value` of attribute `name` (any but Stars)."""
    if name != "Favorite Category":
        return fill(rng.choice(CUES[name][value]), rng, own)
    trade = TRADES[value]
    if rng.random() < 0.4:
        return fill(rng.choice(trade.lines), rng, own)
    return fill(
        rng.choice(TRADE_TEMPLATES), rng, {**own, "doing": trade.doing, "thing": trade.thing, "staff": trade.staff}
    )


def sentiment(stars: str, rng: random.Random, own: Pools) -> list[str]:
    """One to three sentences of the given level; now and then in words that a neighbouring level would use too."""
    count = rng.choices((1, 2, 3), (0.35, 0.45, 0.2))[0]
    shared = [key for key in VERDICTS if len(key) == 2 and stars in key]
    sentences = []
    for template in rng.sample(ASPECT_TEMPLATES, count):
        level = rng.choice(shared) if rng.random() < AMBIGUOUS_RATE else stars
        template = template if rng.random() < 0.5 else rng.choice(VERDICTS[level])
        sentences.append(fill(template, rng, {**own, "adjective": ADJECTIVES[level]}))
    return sentences


def fill(template: str, rng: random.Random, own: Pools) -> str:
    """Replace each {slot} by a random entry of its pool (`own` first), its slots too; {slot_cap} is capitalised."""

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        capital = name.endswith("_cap")
        name = name.removesuffix("_cap")
        text = rng.choice(own[name] if name in own else _POOLS[name])
        if "{" in text:
            text = fill(text, rng, own)
        return text[0].upper() + text[1:] if capital else text

    return _SLOT.sub(replace, template) if "{" in template else template


def _distractor(rng: random.Random, own: Pools) -> str:
    if rng.random() < 0.4:
        trade = TRADES[rng.choice(_TRADE_NAMES)]
        return fill(rng.choice(TRADE_DISTRACTORS), rng, {**own, "doing": trade.doing})
    return fill(rng.choice(DISTRACTORS), rng, own)


def _join(sentences: list[str], rng: random.Random) -> str:
    """Sentences to a text: usually one paragraph, with a typo in one word of a hundred and a rare emoji."""
    if rng.random() < EMOJI_RATE:
        spot = rng.randrange(len(sentences))
        sentences[spot] = f"{sentences[spot]} {rng.choice(EMOJI)}"
    for index in range(1, len(sentences)):
        if rng.random() < LINK_RATE and sentences[index].startswith(_LINKABLE):
            sentences[index] = f"{rng.choice(LINKS)} {sentences[index][0].lower()}{sentences[index][1:]}"
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
