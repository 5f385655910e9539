"""Pretrain the tiny student (``mmprofile/assets/tiny/student``): a Qwen3 of a million parameters.

    python scripts/pretrain_student.py --minutes 60

It starts from scratch, on people of generated cities like ``data=demo_indirect`` with other seeds. It reads a part of a person's
texts and learns to write the lexicon teacher's single answer to that part and, at a small weight, the texts themselves. Gold
values are not used. It stands in for what a pretrained language model can do when asked: about as much as one sample of the
teacher.
"""

import argparse
import json
import math
import random
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from datamodules.demo.city import write_city
from mmprofile.config.compose import load_config
from mmprofile.config.parts import typed_part
from mmprofile.llm.people import Person
from mmprofile.llm.student import TINY, condense
from mmprofile.llm.teacher.lexicon import Lexicon, LexiconConfig
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema

SEEDS = (9101, 9102, 9103, 9104)
SAMPLED = 512  # tokens of the source that a step learns
SOURCE_WEIGHT = 0.1
CONTEXT = 4096  # tokens at most
PAD, END, ANSWER = "<pad>", "<|end|>", "<|answer|>"
TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}" + END + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}" + ANSWER + "{% endif %}"
)


def build_tokenizer(texts: Iterable[str], schema: Schema, size: int = 3072) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with a token for each fixed piece of an answer, so that answers are short.

    Args:
        texts: like those of people and answers.
        schema: whose answers.
        size: of the vocabulary, without the pieces.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[PAD, END, ANSWER], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in answer_pieces(schema)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, additional_special_tokens=[ANSWER],
        padding_side="left", chat_template=TEMPLATE, clean_up_tokenization_spaces=False, model_max_length=CONTEXT,
    )  # fmt: skip


def answer_pieces(schema: Schema) -> Iterator[str]:
    """Yield the text that stands in every answer, as :func:`mmprofile.llm.answers.render_answer` writes it."""
    for place, name in enumerate(schema.names):
        yield ("}, " if place else "{") + f'"{name}": {{"rationale": "'
    yield from ('", "value": "', '", "confidence": ', "}}")


def build_model(tokenizer: PreTrainedTokenizerFast, width: int = 128, layers: int = 4) -> Qwen3ForCausalLM:
    """Return a new Qwen3 with random weights for a tokenizer."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
            num_attention_heads=width // 32, num_key_value_heads=max(1, width // 64), head_dim=32,
            max_position_embeddings=CONTEXT, tie_word_embeddings=True, attention_dropout=0.0,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        )
    )  # fmt: skip


def read_people(folder: Path, users: int, seed: int, indirect: float) -> list[Person]:
    """Return the people of a generated city, with the reviews that the demo data set would keep."""
    if not (folder / "yelp_academic_dataset_review.json").exists():
        write_city(folder, users=users, seed=seed, photographed=0.0, indirect=indirect)
    reviews: dict[str, list[str]] = {}
    with (folder / "yelp_academic_dataset_review.json").open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            if 10 <= len(row["text"].split()) <= 300:
                reviews.setdefault(row["user_id"], []).append(row["text"])
    return [Person(user, tuple(texts)) for user, texts in reviews.items() if len(texts) >= 30]


class Examples:
    """Random parts of random people, and the teacher's answers to them."""

    def __init__(self, people: list[Person], teacher: Lexicon, tokenizer: Any, seed: int) -> None:
        self.people, self.teacher, self.tokenizer, self.random = people, teacher, tokenizer, random.Random(seed)

    def draw(self) -> tuple[list[int], list[int]]:
        """Return the tokens of the prompt and of the answer."""
        person, share = self.random.choice(self.people), self.random.uniform(0.05, 0.7)
        texts = [text for text in person.reviews if self.random.random() < share] or [person.reviews[0]]
        part = Person(f"{person.user_id}-{self.random.random()}", tuple(texts))
        answer = self.teacher.answer(part, 0)
        self.teacher.forget(part)
        return self.tokenizer(condense(part, "first_person") + ANSWER).input_ids, self.tokenizer(answer + END).input_ids

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ids (B, T) and where each row's answer begins (B,), without end; rows of similar length come together."""
        while True:
            drawn = sorted((self.draw() for _ in range(8 * size)), key=lambda row: len(row[0]))
            groups = [drawn[i : i + size] for i in range(0, len(drawn), size)]
            self.random.shuffle(groups)
            yield from map(self.padded, groups)

    def padded(self, rows: list[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
        """Return B rows as ids (B, T), padded on the right, and where each row's answer begins (B,)."""
        width = max(len(prompt) + len(answer) for prompt, answer in rows)
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        for row, (prompt, answer) in zip(ids, rows, strict=True):
            row[: len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        return ids, torch.tensor([len(prompt) for prompt, _ in rows])


def losses(model: Any, ids: Tensor, starts: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy of the answers' tokens and of up to :data:`SAMPLED` of the sources', (,) each.

    Args:
        model: a causal model of transformers.
        ids: (B, T).
        starts: where each row's answer begins, (B,).
        pad: the id that fills rows up.
    """
    with torch.autocast("cpu", torch.bfloat16):
        states, target = model.model(input_ids=ids).last_hidden_state[:, :-1], ids[:, 1:]
        in_answer = (torch.arange(1, ids.shape[1])[None] >= starts[:, None]) & (target != pad)  # (B, T - 1)
        answer = F.cross_entropy(model.lm_head(states[in_answer]).float(), target[in_answer])
        in_source = (~in_answer & (target != pad)).flatten().nonzero().squeeze(1)
        in_source = in_source[torch.randperm(len(in_source))[:SAMPLED]]
        source = F.cross_entropy(model.lm_head(states.flatten(0, 1)[in_source]).float(), target.flatten()[in_source])
    return answer, source


def train(model: Any, examples: Examples, minutes: float, lr: float, size: int) -> int:
    """Train for a time; the learning rate follows the clock (warm-up 5 %, cosine). Return the number of steps."""
    adam = torch.optim.AdamW(model.parameters(), weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    pad, start, step, mean = examples.tokenizer.pad_token_id, time.perf_counter(), 0, [0.0, 0.0]
    batches = examples.batches(size)
    while (done := (time.perf_counter() - start) / (60 * minutes)) < 1:
        for group in adam.param_groups:
            group["lr"] = lr * min(1.0, done / 0.05, 0.5 * (1 + math.cos(math.pi * done)) + 0.01)
        answer, source = losses(model, *next(batches), pad)
        adam.zero_grad()
        (answer + SOURCE_WEIGHT * source).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        step += 1
        mean = [m + (loss.item() - m) / min(step, 100) for m, loss in zip(mean, (answer, source), strict=True)]
        if step % 100 == 0:
            print(
                f"{step:>6} steps  {60 * minutes * done:6.0f} s  answer {mean[0]:.3f}  source {mean[1]:.3f}", flush=True
            )
    return step


def main() -> None:
    """Read the command line, pretrain, and write the model's folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=TINY)
    parser.add_argument("--cities", type=Path, default=None, help="folder to keep the generated cities in")
    parser.add_argument("--users", type=int, default=1500, help="users of each city")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--lr", type=float, default=1.5e-3, help="the peak")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--start", action="store_true", help="go on from the weights in --out")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_flush_denormal(True)  # gradients below 1e-38 make a step on a CPU almost twice as long
    schema = Schema.from_yaml(conf_dir() / "profile" / "text_only.yaml")
    cfg = load_config("llm", ["data=demo_indirect"])
    indirect = cfg.data.prepare["source"]["indirect"]
    teacher = Lexicon(typed_part(LexiconConfig, cfg.teacher, "teacher"), schema)
    with tempfile.TemporaryDirectory() as temporary:
        root = args.cities or Path(temporary)
        people = [
            person for seed in SEEDS for person in read_people(root / f"indirect{seed}", args.users, seed, indirect)
        ]
    texts = [condense(person, "first_person") for person in people[: args.users]]
    tokenizer = build_tokenizer([*texts, *(teacher.answer(person, 0) for person in people[: args.users])], schema)
    model = AutoModelForCausalLM.from_pretrained(args.out, dtype="float32") if args.start else build_model(tokenizer)
    count = sum(p.numel() for p in model.parameters())
    print(f"student: {count} parameters, {len(tokenizer)} tokens, {len(people)} people of cities {SEEDS}", flush=True)
    steps = train(model.train(), Examples(people, teacher, tokenizer, 1), args.minutes, args.lr, args.batch)
    model.half().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    facts = {
        "seeds": SEEDS,
        "indirect": indirect,
        "people": len(people),
        "parameters": count,
        "steps": steps,
        "batch": args.batch,
        "lr": args.lr,
    }
    (args.out / "pretraining.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
