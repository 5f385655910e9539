"""The script that makes the tiny student: its tokenizer, and a run as a user starts it."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from mmprofile.llm.answers import render_answer
from tests.support.tinystudent import CLAIMS, SCHEMA, save_random_student, script

SCRIPT = Path(__file__).parents[2] / "scripts" / "pretrain_student.py"


def test_answers_survive_the_tokenizer(tmp_path: Path) -> None:
    text = render_answer(CLAIMS, SCHEMA)
    save_random_student(tmp_path, [text], SCHEMA)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    for piece in script.answer_pieces(SCHEMA):
        assert len(tokenizer(piece, add_special_tokens=False).input_ids) == 1
        assert piece in text
    strange = 'naïve "quotes" {braces} 日本 🙂\n'
    assert tokenizer.decode(tokenizer(strange, add_special_tokens=False).input_ids) == strange
    asked = [{"role": "system", "content": ""}, {"role": "user", "content": "I am me."}]
    assert (
        tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) == f"I am me.{script.ANSWER}"
    )


def test_a_short_run_writes_a_student_that_loads(cities: Sequence[str | Path], tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, *cities, "--out", tmp_path, "--minutes", "0.03"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "pretraining.json").read_text())
    assert facts["steps"] > 0
    assert facts["people"] > 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert sum(p.numel() for p in model.parameters()) == facts["parameters"] < 1_500_000
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == model.config.vocab_size
