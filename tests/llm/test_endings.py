"""How answers begin and end: tokenizers and generation settings of each kind."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig, PreTrainedTokenizerFast

from mmprofile.llm.endings import first_tokens, plain_generation

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(("of_model", "ends"), [(1, [1]), ([7, 5], [7, 5, 1]), ([1, 7], [1, 7]), (None, [1])])
def test_the_models_ends_and_the_tokenizers(
    of_model: Any, ends: list[int], make_tokenizer: Callable[..., PreTrainedTokenizerFast]
) -> None:
    model = SimpleNamespace(generation_config=GenerationConfig(eos_token_id=of_model, temperature=0.3, top_k=2))
    plain = plain_generation(model, make_tokenizer(["so"]))
    assert plain.eos_token_id == ends
    assert plain.to_diff_dict().keys() - {"transformers_version"} == {"eos_token_id", "pad_token_id"}


@pytest.mark.parametrize(
    ("template", "bos", "first"),
    [
        ("$A", "<unk>", ""),
        ("<unk> $A", "<unk>", "<unk>"),
        ("<unk> $A </s>", "<unk>", "<unk>"),
        ("</s> $A", "</s>", "</s>"),
    ],
)
def test_first_tokens_are_those_before_a_text(
    template: str, bos: str, first: str, make_tokenizer: Callable[..., PreTrainedTokenizerFast]
) -> None:
    tokenizer = make_tokenizer(["so"], bos_token=bos)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=[(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<unk>", "</s>")]
    )
    assert first_tokens(tokenizer) == first
