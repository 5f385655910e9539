"""The embedded teacher, alone and through its command."""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mmprofile.config.compose import load_config
from mmprofile.config.parts import typed_part
from mmprofile.errors import UserError
from mmprofile.llm.answers import parse_answer
from mmprofile.llm.people import Person
from mmprofile.llm.stage import stage_folder
from mmprofile.llm.teacher.lexicon import STRONG, WEAK, Lexicon, LexiconConfig, read_cues
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import UNKNOWN, Attribute, Schema

TEXT_ONLY, SYNTHPAI = (Schema.from_yaml(conf_dir() / "profile" / f"{name}.yaml") for name in ("text_only", "synthpai"))


def lexicon(**settings: float) -> Lexicon:
    cfg = load_config("llm", [f"teacher.{name}={value}" for name, value in settings.items()])
    return Lexicon(typed_part(LexiconConfig, cfg.teacher, "teacher"), TEXT_ONLY)


def claims(teacher: Lexicon, person: Person, seed: int = 0) -> Any:
    answer = parse_answer(teacher.answer(person, seed), TEXT_ONLY)
    assert not answer.faults
    assert set(answer.claims) == set(TEXT_ONLY.names)
    return answer.claims


SURE = {"reads": 1.0, "overlooks": 0.0, "misreads": 0.0}


@pytest.mark.parametrize(
    ("text", "attribute", "value", "quote"),
    [
        ("The waiter called me Ma'am.", "Gender", "Female", "Ma'am"),
        ("I'm late; my wife waits.", "Gender", "Male", "my wife"),
        ("We came with our two Toddlers", "Life Stage", "Young Family", "Toddlers"),
        ("I am  seventy\ntwo and do not rush.", "Age", "65+", "I am seventy"),
        ("A stew. My thesis is due.", "Education Level", "Postgraduate", "My thesis"),
        ("My scrubs were still on.", "Occupation", "Nurse", "My scrubs"),
    ],
)
def test_cues_are_found_and_quoted(text: str, attribute: str, value: str, quote: str) -> None:
    claim = claims(lexicon(**SURE), Person("u", ("Nice soup.", text)))[attribute]
    assert (claim.value, claim.rationale) == (value, quote)
    assert claim.confidence > 0.5


def test_words_are_whole_and_nothing_is_unknown() -> None:
    unknown = claims(lexicon(**SURE), Person("u", ("The pharmacist manages scrubsy soups, a bugle.",)))
    assert unknown["Gender"].value == UNKNOWN
    assert unknown["Occupation"].value == UNKNOWN


def test_cues_that_contradict_each_other_lower_the_confidence() -> None:
    agreeing = claims(lexicon(**SURE), Person("u1", ("my wife",)))["Gender"]
    contradicting = claims(lexicon(**SURE), Person("u1", ("my wife", "my husband", "my wife")))["Gender"]
    assert contradicting.confidence < agreeing.confidence


def test_samples_differ_and_each_is_the_same_again() -> None:
    person = Person("u", (*(f"text {i}" for i in range(9)), "my wife and I"))
    teacher, again = lexicon(), lexicon()
    drawn = [claims(teacher, person, seed)["Gender"].value for seed in range(400)]
    assert drawn == [claims(again, person, seed)["Gender"].value for seed in range(400)]
    shares = {value: count / 400 for value, count in Counter(drawn).items()}
    # read with 6 of 10, not overlooked (0.1); misread (0.05) is the other of two values
    assert shares["Male"] == pytest.approx(0.6 * 0.85, abs=0.08)
    assert shares["Female"] == pytest.approx(0.6 * 0.05, abs=0.03)


def test_cues_of_behaviour_are_read_as_well() -> None:
    person = Person("u", (), {"searched": ("stroller", "high chair"), "signature": ("just me",)})
    assert claims(lexicon(**SURE), person)["Life Stage"].value == "Young Family"


def test_every_value_has_cues_that_speak_for_it() -> None:
    cues = read_cues(conf_dir() / "llm" / "lexicon.yaml")
    of_schemas = {(a.name, v) for schema in (TEXT_ONLY, SYNTHPAI) for a in schema.attributes for v in a.values}
    assert {(cue.attribute, cue.value) for cue in cues} == of_schemas
    repeated = Counter((cue.attribute, cue.value, cue.phrase) for cue in cues)
    assert [key for key, times in repeated.items() if times > 1] == []


def test_the_longest_phrase_counts_and_others_may_overlap_it() -> None:
    lines = ["I graduated from college graduation day", "my wife and I"]
    found = [{quote for _, quote in cues} for cues in lexicon().matches(Person("u", tuple(lines)))]
    assert "college graduation" in found[0]
    assert "college" not in found[0]
    assert {"my wife and I", "wife"} <= found[1]


@pytest.mark.parametrize(
    "text", ["I'm retired.", "I’m retired.", "I am retired.", "i am  retired", "We're happy: I'm retired"]
)
def test_short_forms_and_apostrophes_of_any_kind(text: str) -> None:
    assert claims(lexicon(**SURE), Person("u", (text,)))["Occupation"].value == "Retired"


@pytest.mark.parametrize(
    ("texts", "likelihood", "values"),
    [
        (("i am a lawyer",), STRONG, 13),
        (("lawyers",), WEAK, 13),
        (("lawyers",) * 30, WEAK, 13),  # the same again is no new evidence
        (("lawyers", "the jury", "a lawsuit"), WEAK**3, 13),
        (("lawyers", "the jury", "i am a lawyer"), WEAK**2 * STRONG, 13),
    ],
)
def test_the_confidence_is_the_posterior_of_the_value(texts: tuple[str, ...], likelihood: float, values: int) -> None:
    claim = claims(lexicon(**SURE), Person("u", texts))["Occupation"]
    assert claim.value == "Lawyer"
    assert claim.confidence == pytest.approx(
        likelihood / (likelihood + values - 1), abs=0.15
    )  # noise, and steps of 5 %


def test_the_rationale_is_a_telling_cue() -> None:
    claim = claims(lexicon(**SURE), Person("u", ("lawyers", "the jury", "I am a lawyer", "a lawsuit")))["Occupation"]
    assert claim.rationale == "I am a lawyer"


def test_of_equally_likely_values_any_is_taken() -> None:
    person, teacher = Person("u", ("my scrubs", "i am a lawyer")), lexicon(**SURE)
    drawn = Counter(claims(teacher, person, seed)["Occupation"].value for seed in range(400))
    assert drawn["Nurse"] / 400 == pytest.approx(0.5, abs=0.1)
    assert drawn["Lawyer"] == 400 - drawn["Nurse"]


def test_a_profile_of_other_values_is_labelled_as_well() -> None:
    teacher = Lexicon(typed_part(LexiconConfig, load_config("llm", []).teacher, "teacher"), SYNTHPAI)
    person = Person("u", ("My dissertation took years.", "Since my divorce I live alone.") * 8)
    answer = parse_answer(teacher.answer(person, 0), SYNTHPAI).claims
    assert answer["Education Level"].value == "PhD"
    assert answer["Income Level"].value == UNKNOWN


def test_a_whole_number_stays_one_in_requests() -> None:
    schema = Schema("toy", [Attribute("Gender", ("Female", "Male"))])
    teacher = Lexicon(typed_part(LexiconConfig, load_config("llm", ["teacher.reads=1"]).teacher, "teacher"), schema)
    assert json.dumps(teacher.settings["reads"]) == "1"  # 1.0 would be another request


def test_what_it_cannot_do() -> None:
    config = typed_part(LexiconConfig, load_config("llm", []).teacher, "teacher")
    with pytest.raises(UserError, match="knows no attribute of profile toy"):
        Lexicon(config, Schema("toy", [Attribute("Letter", ("a", "b"))]))
    with pytest.raises(UserError, match=r"teacher.reads=2.* is not a probability"):
        lexicon(reads=2.0)


def people(path: Path, count: int = 40) -> Path:
    texts = ["my wife waits", "our two toddlers", "nothing at all", "my thesis", "I had soup"]
    rows = [{"user_id": f"u{i:02}", "reviews": [texts[(i + j) % 5] for j in range(3)]} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def command(stage: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"mmprofile.llm.{stage}", "progress=false", *arguments]


def run(stage: str, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(command(stage, *arguments), capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_command_and_the_vote(tmp_path: Path) -> None:
    how = [f"input={people(tmp_path / 'people.jsonl')}", f"out={tmp_path / 'out'}", "samples=4", "purpose=a test"]
    everybody = "splits=[train,validation,test]"
    assert "160 answers of lexicon about 40 people (4 each), 0 of them from before" in run("teacher", *how, everybody)
    journal = tmp_path / "out" / "people" / "answers.jsonl"
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    assert {(row["user_id"], row["sample"]) for row in rows} == {(f"u{i:02}", k) for i in range(40) for k in range(4)}
    assert len({row["request"] for row in rows}) == 160
    assert all(row["time"] and row["prompt"] and row["seed"] == row["sample"] for row in rows)
    assert "160 of them from before" in run("teacher", *how)
    assert len(journal.read_text().splitlines()) == 160
    printed = run("vote", *how)
    assert "40 people, 6 attributes" in printed
    assert "most often Male" in printed
    calibration = json.loads((journal.parent / "calibration.json").read_text())
    assert calibration["kind"] == "agreement"
    # what was asked last votes, whatever else the journal holds
    labels = (journal.parent / "labels.parquet").read_bytes()
    assert "0 of them from before" in run("teacher", *how, "seed=1")
    run("vote", *how)
    assert (journal.parent / "labels.parquet").read_bytes() != labels
    assert "160 of them from before" in run("teacher", *how)
    run("vote", *how)
    assert (journal.parent / "labels.parquet").read_bytes() == labels
    # of whom something else is known now, the old answers do not vote
    file = tmp_path / "people.jsonl"
    file.write_text(file.read_text().replace('"user_id": "u00", "reviews": ["', '"user_id": "u00", "reviews": ["New. '))
    printed = run("vote", *how)
    assert "4 answers do not vote: the questions about these people have changed since" in printed
    assert "1 of 40 people have fewer than samples=4 answers" in printed
    assert "160 answers of lexicon about 40 people (4 each), 156 of them from before" in run("teacher", *how)
    assert "fewer" not in run("vote", *how)


def test_a_killed_run_loses_no_answer(tmp_path: Path) -> None:
    how = [
        f"input={people(tmp_path / 'people.jsonl', 400)}",
        f"out={tmp_path / 'out'}",
        "purpose=a test",
        "teacher.batch=1",
    ]
    journal = tmp_path / "out" / "people" / "answers.jsonl"
    started = subprocess.Popen(command("teacher", *how), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not journal.exists() or journal.stat().st_size < 2000:
        assert started.poll() is None
        time.sleep(0.001)
    started.kill()
    started.wait()
    whole = journal.read_bytes()
    before = whole[: whole.rfind(b"\n") + 1].decode().splitlines()
    assert 0 < len(before) < 3200
    with journal.open("ab") as file:
        file.write(b'{"user_id": "u0')  # as if killed within a line
    assert f"3,200 answers of lexicon about 400 people (8 each), {len(before):,} of them from before" in run(
        "teacher", *how
    )
    after = journal.read_text().splitlines()
    assert after[: len(before)] == before
    assert len({json.loads(line)["request"] for line in after}) == len(after) == 3200


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["purpose=null"],
            "profile text_only: Gender, Age, Industry, Occupation, Education Level, Life Stage are sensitive",
        ),
        (["samples=0"], "samples=0: give 1 to 1000"),
        (["teacher=oracle"], "llm/teacher=oracle: there is no such choice"),
        (["splits=[dev]"], "splits=['dev']: give some of train, validation, test"),
        (["vote.gold_split=test"], "vote.gold_split=test: give train or validation; what is scored stays apart"),
        (["prompt.user='{nobody}'"], "prompt: 'nobody' is no placeholder"),
        (["input=nowhere.jsonl"], "input=nowhere.jsonl: cannot be read"),
        (["teacher.read=1"], "unknown config key 'teacher.read'"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], says: str, tmp_path: Path) -> None:
    how = [f"input={people(tmp_path / 'people.jsonl', 3)}", f"out={tmp_path / 'out'}", "purpose=a test"]
    printed = run("teacher", *how, *arguments, code=2)
    assert printed.startswith(f"error: {says}")
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_vote_without_answers_says_so(tmp_path: Path) -> None:
    printed = run("vote", f"input={people(tmp_path / 'people.jsonl', 3)}", f"out={tmp_path}", "purpose=a test", code=2)
    assert "nothing was asked" in printed
    assert "run python -m mmprofile.llm.teacher" in printed


def test_the_demo_city_needs_no_purpose() -> None:
    cfg = load_config("llm", ["out=somewhere"])
    assert stage_folder(cfg) == Path("somewhere/demo")
