"""People of the demo city who only hint at who they are."""

import hashlib
import json
from collections import Counter
from itertools import chain
from typing import Any

import pytest

from datamodules.demo.city import user_lines
from datamodules.demo.hints import HINTS
from datamodules.demo.people import AGE_LINES, EDUCATION_LINES, GENDER_LINES, JOBS, LIFE_LINES
from mmprofile.config.compose import load_config
from mmprofile.config.parts import typed_part
from mmprofile.llm.people import Person
from mmprofile.llm.student import condense
from mmprofile.llm.teacher.lexicon import Lexicon, LexiconConfig
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema

USERS = 150
TOLD, HINTED = [*chain(*HINTS)], [*chain(*HINTS.values())]


def reviews(users: int, seed: int, indirect: float) -> list[dict[str, Any]]:
    return [json.loads(line) for line in user_lines("", users, seed, 0, users, indirect=indirect)["review"]]


@pytest.fixture(scope="module")
def cues() -> Any:
    """Return whether a text has any cue of the lexicon."""
    schema = Schema.from_yaml(conf_dir() / "profile" / "text_only.yaml")
    teacher = Lexicon(typed_part(LexiconConfig, load_config("llm", []).teacher, "teacher"), schema)
    return lambda text: any(teacher.matches(Person(text, (text,))))


def test_every_value_is_hinted_at_in_as_many_ways_as_it_is_told() -> None:
    tables = (GENDER_LINES, AGE_LINES, EDUCATION_LINES, LIFE_LINES, {name: job.lines for name, job in JOBS.items()})
    assert set(HINTS) == {lines for table in tables for lines in table.values()}
    assert all(len(hints) >= max(5, len(lines)) for lines, hints in HINTS.items())
    assert len({*TOLD, *HINTED}) == len(TOLD) + len(HINTED)


def test_the_student_reads_every_hint() -> None:
    assert [hint for hint in HINTED if hint not in condense(Person("u", (hint,)), "first_person")] == []


def test_half_of_the_sentences_have_no_word_of_the_lexicon(cues: Any) -> None:
    assert sum(not cues(sentence) for sentence in (*TOLD, *HINTED)) >= (len(TOLD) + len(HINTED)) / 2


def test_half_of_what_a_city_gives_away_has_no_word_of_the_lexicon(cues: Any) -> None:
    share = load_config("llm", ["data=demo_indirect"]).data.prepare["source"]["indirect"]
    texts = [row["text"] for row in reviews(USERS, 3, share)]
    # a link word before a sentence changes its first letter
    given = Counter(sentence for text in texts for sentence in (*TOLD, *HINTED) if sentence[1:] in text)
    assert sum(given[hint] for hint in HINTED) / given.total() == pytest.approx(share, abs=0.06)
    assert sum(count for sentence, count in given.items() if not cues(sentence)) / given.total() >= 0.5


def test_without_hints_a_city_is_as_it_was_and_with_hints_the_rest_of_it_stays() -> None:
    lines = user_lines("", 4, 5, 0, 4)
    digest = hashlib.sha256(json.dumps(lines, sort_keys=True).encode()).hexdigest()
    assert digest == "98c9f7c014f4655a1a37431a26afaf247f1db826eee9b337acb0f5531bf3c0dd"
    told, hinted = reviews(20, 5, 0.0), reviews(20, 5, 1.0)
    for name in ("review_id", "user_id", "business_id", "stars"):
        assert [row[name] for row in told] == [row[name] for row in hinted]
    changed = [(a["text"], b["text"]) for a, b in zip(told, hinted, strict=True) if a["text"] != b["text"]]
    assert 0.08 < len(changed) / len(told) < 0.14  # give-aways, of 12 % of the reviews
    assert not any(sentence[1:] in text for _, text in changed for sentence in TOLD)
