"""How answers of a causal model begin and end, whatever else its authors did when they wrote with it."""

from typing import Any

from transformers import GenerationConfig


def plain_generation(model: Any, tokenizer: Any) -> GenerationConfig:
    """Return settings of generation that have the tokens that end an answer, and nothing else.

    ``generate`` adds to what it is given all that the model's own settings have beyond it: temperature, penalties, tokens
    that must not come. Published chat models have such settings, which would change greedy answers and draws.

    Args:
        model: its ``generation_config`` may have several ends, one for the turn and one for the text, for instance.
        tokenizer: its end token counts as well: a student learns to end with it.
    """
    ends = model.generation_config.eos_token_id
    own = ends if isinstance(ends, list) else [ends]
    ids = dict.fromkeys(token for token in (*own, tokenizer.eos_token_id) if token is not None)
    return GenerationConfig(eos_token_id=[*ids] or None, pad_token_id=tokenizer.pad_token_id)


def first_tokens(tokenizer: Any) -> str:
    """Return the special tokens that a tokenizer puts before a text, as text: ``<|begin_of_text|>`` of a Llama's."""
    ids = tokenizer("")["input_ids"]
    first = [token for token in ids if token != tokenizer.eos_token_id or token == tokenizer.bos_token_id]
    return "".join(tokenizer.convert_ids_to_tokens(first))
