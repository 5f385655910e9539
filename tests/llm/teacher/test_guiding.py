"""Guided answers of a random model, which never writes one by itself: all of them fit the schema."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mmprofile.errors import UserError
from mmprofile.llm.answer_schema import answer_schema
from mmprofile.llm.answers import parse_answer
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema
from tests.support.extras import extra
from tests.support.toyteacher import TEMPLATE, ask, people_file, save_qwen3

GUIDED = extra("guided", "xgrammar")
SCHEMA = Schema.from_yaml(conf_dir() / "profile" / "text_only.yaml")
TEXTS = ['A nurse was at the "grand" hotel; she said: naïve \\ café, 70 years of soup.', json.dumps(SCHEMA.to_dict())]


@pytest.fixture(scope="module")
def bpe() -> PreTrainedTokenizerFast:
    """A tokenizer that can spell everything, byte by byte if need be, as those of Qwen and Llama."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<pad>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


def local(folder: Path, *more: str) -> list[str]:
    return ["teacher=local", f"teacher.name={folder}", "teacher.parameters.max_new_tokens=3000", *more]


class TestWithXgrammar:
    pytestmark = GUIDED

    @pytest.mark.parametrize("temperature", [1.0, 0])
    def test_every_answer_fits(self, bpe: PreTrainedTokenizerFast, tmp_path: Path, temperature: float) -> None:
        folder = save_qwen3(tmp_path / "toy", bpe, TEMPLATE, context=6000)
        people = people_file(
            tmp_path, {"ann": "A nurse.", "bob": "A longer text, of several sentences. Soup, and soup."}
        )
        options = local(
            folder, "teacher.guided=true", f"teacher.parameters.temperature={temperature}", "teacher.batch=3"
        )
        rows = ask(people, *options)
        assert len(rows) == 6
        valid = jsonschema.Draft202012Validator(answer_schema(SCHEMA))  # what is no UTF-8 makes a rationale longer
        for row in rows:
            valid.validate(json.loads(row["answer"]))
            assert parse_answer(row["answer"], SCHEMA).faults == []
        assert ask(people, *options) == rows
        if temperature:
            assert len({row["answer"] for row in rows}) == 6

    def test_a_tokenizer_that_cannot_spell_the_answers_is_one_line(
        self, make_tokenizer: Callable[..., PreTrainedTokenizerFast], tmp_path: Path
    ) -> None:
        folder = save_qwen3(tmp_path / "words", make_tokenizer(["nurse soup { } : Female"]), TEMPLATE, context=6000)
        people = people_file(tmp_path, {"ann": "A nurse."})
        with pytest.raises(
            UserError, match=r"teacher.guided=true: .*words has no token for .*, which answers need; set"
        ):
            ask(people, *local(folder, "teacher.guided=true"))
        assert not (tmp_path / "out").exists()


@pytest.mark.skipif(find_spec("xgrammar") is not None, reason="xgrammar is there")
def test_xgrammar_is_named_where_it_is_missing(bpe: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    folder = save_qwen3(tmp_path / "toy", bpe, TEMPLATE)
    with pytest.raises(UserError, match=r"teacher.guided=true needs xgrammar: pip install 'mmprofile\[guided\]'"):
        ask(people_file(tmp_path, {"ann": "A nurse."}), *local(folder, "teacher.guided=true"))
