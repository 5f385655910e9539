"""The commands of the text-only stage on each benchmark, as its page says to type them."""

import json
from pathlib import Path

import pytest

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.llm.evaluate.run import main as evaluate
from mmprofile.llm.teacher.run import main as teach
from mmprofile.llm.vote.run import main as vote
from tests.support.benchmarks import (
    PERSONA,
    PRISM_POSTS,
    PRISM_TARGET,
    edgewise,
    label,
    personamem,
    personamem_row,
    prism,
    routine,
    synthpai_person,
    talk,
    write_lines,
)

WOMAN, MAN = "My husband waits outside.", "Dad duty today, my beard is full of soup."


def written(folder: Path, form: str) -> Path:
    """A benchmark with a woman and a man whose words say so."""
    if form == "synthpai":
        sexes = [({"sex": label(sex, 1, 5)}, text) for sex, text in (("female", WOMAN), ("male", MAN))]
        rows = [synthpai_person(text[:2], [text], human, **human) for human, text in sexes]
        return write_lines(folder / "revised.jsonl", rows)
    if form == "prism":
        posts = {name: PRISM_POSTS | {"posts": {"post1": text}} for name, text in (("a", WOMAN), ("b", MAN))}
        return prism(folder, posts, {"a": PRISM_TARGET, "b": PRISM_TARGET | {"sex": "male"}})
    chats = {n: [{"role": "user", "content": text}] for n, text in enumerate((WOMAN, MAN))}
    return personamem(folder, [personamem_row(0), personamem_row(1, PERSONA | {"gender": "Male"})], chats)


@pytest.mark.parametrize("form", ["synthpai", "prism", "personamem_v2"])
def test_asked_voted_and_scored(form: str, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    words = [
        f"input={written(tmp_path / 'given', form)}", f"input_format={form}", f"profile={form}", "purpose=a test",
        f"out={tmp_path / 'out'}", "name=stage", "samples=2", "progress=false", "teacher.reads=1", "teacher.overlooks=0",
        "teacher.misreads=0",
    ]  # fmt: skip
    cfg = load_config("llm", words)
    for command in (teach, vote, evaluate):
        command(cfg)
    scores = json.loads((tmp_path / "out" / "stage" / "scores.json").read_text())
    gender = scores["per_attribute"]["Gender"]
    assert (gender["scored"], gender["said"], gender["correct"]) == (2, 2, 2)
    assert (scores["profile"], scores["purpose"]) == (form, "a test")


def test_the_lexicon_knows_nothing_of_homes(tmp_path: Path) -> None:
    folder = edgewise(tmp_path, [[routine("night")]], [[talk("Good night.")]])
    words = [
        f"input={folder}",
        "input_format=edgewise",
        "profile=edgewise",
        "purpose=a test",
        f"out={tmp_path / 'out'}",
    ]
    with pytest.raises(UserError, match="lexicon knows no attribute of profile edgewise; take teacher=openai or local"):
        teach(load_config("llm", words))
