"""Helpers for tests of teachers: people in a file, the command in this process, a tiny causal model in the hub's layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from mmprofile.config.compose import load_config
from mmprofile.llm.teacher import run as teacher

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}> {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{{ style | default('') }}{% endif %}"
)


def toy(url: str, *more: str) -> list[str]:
    """The teacher at an endpoint of our own."""
    return ["teacher=openai", f"teacher.url={url}", "teacher.name=toy", "teacher.key_env=null", *more]


def who(body: dict[str, Any]) -> str:
    """Whom a request is about: the only review of :func:`people` is the user's id."""
    return str(body["messages"][-1]["content"].rstrip().rpartition("- ")[2])


def people(folder: Path, *names: str) -> Path:
    """JSON lines of people who wrote their names and nothing else."""
    return people_file(folder, {name: name for name in names})


def people_file(folder: Path, reviews: Mapping[str, str]) -> Path:
    """JSON lines of people with one review each."""
    path = folder / "people.jsonl"
    path.write_text("".join(json.dumps({"user_id": user, "reviews": [text]}) + "\n" for user, text in reviews.items()))
    return path


def overrides(people: Path, *more: str) -> list[str]:
    """The command line; what it writes lies beside ``people``."""
    return [f"input={people}", f"out={people.parent / 'out'}", "purpose=a test", "samples=3", "progress=false", *more]


def ask(people: Path, *more: str) -> list[dict[str, Any]]:
    """Run the command in this process and return the last record of each question. It exits where one failed."""
    teacher.main(load_config("llm", overrides(people, *more)))
    return journal(people)


def journal(people: Path) -> list[dict[str, Any]]:
    """Return the last record of each question, by user and sample."""
    lines = (people.parent / "out" / "people" / "answers.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    last = {row["request"]: row for row in map(json.loads, lines)}
    return sorted(last.values(), key=lambda row: (row["user_id"], row["sample"]))


def save_qwen3(
    folder: Path, tokenizer: PreTrainedTokenizerFast, template: str | None = None, context: int = 512
) -> Path:
    """Save a random Qwen3 for ``tokenizer``; its weights are large, so that what it writes depends on what it reads."""
    torch.manual_seed(0)
    tokenizer.chat_template = template
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=context,
        initializer_range=0.5,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
