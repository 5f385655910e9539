"""Answers that fit the JSON schema, of a model in this process: xgrammar rules out every token that would leave it."""

import json
from typing import Any

from transformers import LogitsProcessorList

from mmprofile.errors import UserError
from mmprofile.llm.answer_schema import answer_schema
from mmprofile.llm.answers import Claim, render_answer
from mmprofile.profile.schema import UNKNOWN, Schema

LONGEST = 300
"""Characters of a rationale: without a limit, a model that finds no end fills an answer with its first attribute."""


class Guide:
    """The JSON schema as a grammar of a model's tokens.

    Args:
        tokenizer: of transformers.
        rows: tokens that the model gives scores to, which may be more than the tokenizer has.
        schema: the attributes that are asked for.
        name: of the model, for error messages.

    Raises:
        UserError: the tokenizer cannot write every answer.
    """

    def __init__(self, tokenizer: Any, rows: int, schema: Schema, name: str) -> None:
        import xgrammar

        wanted = json.dumps(answer_schema(schema, LONGEST))
        try:
            info = xgrammar.TokenizerInfo.from_huggingface(
                tokenizer, vocab_size=rows, stop_token_ids=[tokenizer.eos_token_id]
            )
            compiler = xgrammar.GrammarCompiler(info, max_threads=1)
            self._grammar = compiler.compile_json_schema(wanted, any_whitespace=False)
        except (RuntimeError, ValueError, TypeError) as error:
            raise UserError(
                f"teacher.guided=true: xgrammar cannot guide {name}: {str(error).splitlines()[0]}"
            ) from error
        tokens = {*info.decoded_vocab}
        for character in sorted(_characters(schema)):
            whole = character.encode()
            if whole not in tokens and not all(bytes([byte]) in tokens for byte in whole):
                raise UserError(
                    f"teacher.guided=true: {name} has no token for {character!r}, which answers need; set "
                    "teacher.guided=false, or take another model"
                )

    def processors(self) -> LogitsProcessorList:
        """Return what ``generate`` takes; of use for one batch."""
        from xgrammar.contrib.hf import LogitsProcessor

        return LogitsProcessorList([LogitsProcessor(self._grammar)])


def _characters(schema: Schema) -> set[str]:
    """Return the characters that some answer needs: those of names, values, numbers and JSON."""
    answers = (
        render_answer({attribute.name: Claim(value, 0.5)}, schema)
        for attribute in schema.attributes
        for value in (*attribute.values, UNKNOWN)
    )
    return {*"0123456789,"}.union(*answers)
