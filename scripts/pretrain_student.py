"""Pretrains the tiny student (``mmprofile/assets/tiny/student``): a Qwen3 of a million parameters.

    python scripts/pretrain_student.py --minutes 60

From scratch, on people of generated cities with other seeds than the demo city's: it learns to write single answers of the lexicon
teacher, a part of whose texts it reads, and (at a small weight) the text itself. Gold values are not used. It stands in for what a
pretrained language model can do when asked: about as much as one sample of the teacher.
"""

import argparse
import json
import math
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from datamodules.demo.city import write_city
from mmprofile.config.compose import load_config
from mmprofile.llm.people import Person
from mmprofile.llm.student import ANSWER, END, TINY, build_model, build_tokenizer, condense
from mmprofile.llm.teacher.lexicon import Lexicon
from mmprofile.paths import conf_dir
from mmprofile.profile.schema import Schema

SEEDS = (9101, 9102, 9103, 9104)
SAMPLED = 512  # tokens of the source that a step learns
SOURCE_WEIGHT = 0.1


def read_people(folder: Path, users: int, seed: int) -> list[Person]:
    """People of a generated city, with the reviews that the demo data set would keep."""
    if not (folder / "yelp_academic_dataset_review.json").exists():
        write_city(folder, users=users, seed=seed, photographed=0.0)
    reviews: dict[str, list[str]] = {}
    with (folder / "yelp_academic_dataset_review.json").open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            if 10 <= len(row["text"].split()) <= 300:
                reviews.setdefault(row["user_id"], []).append(row["text"])
    return [Person(user, tuple(texts)) for user, texts in reviews.items() if len(texts) >= 30]


class Examples:
    """Random parts of random people, and what the teacher answers to them."""

    def __init__(self, people: list[Person], teacher: Lexicon, tokenizer: Any, seed: int) -> None:
        self.people, self.teacher, self.tokenizer, self.random = people, teacher, tokenizer, random.Random(seed)
        self.ids: dict[str, list[int]] = {}  # of texts seen before

    def draw(self) -> tuple[list[int], list[int]]:
        """Tokens of what is read and of what is to be written."""
        person, share = self.random.choice(self.people), self.random.uniform(0.05, 0.7)
        texts = [text for text in person.reviews if self.random.random() < share] or [person.reviews[0]]
        part = Person(f"{person.user_id}-{self.random.random()}", tuple(texts))
        answer = self.teacher.answer(part, 0)
        self.teacher.forget(part)
        return self.tokenizer(condense(part, "first_person") + ANSWER).input_ids, self.tokenizer(answer + END).input_ids

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """ids (B, T) and where each row's answer begins (B,), for ever; those of a length come together."""
        while True:
            drawn = sorted((self.draw() for _ in range(8 * size)), key=lambda row: len(row[0]))
            groups = [drawn[i : i + size] for i in range(0, len(drawn), size)]
            self.random.shuffle(groups)
            yield from map(self.padded, groups)

    def padded(self, rows: list[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
        """A batch of rows."""
        width = max(len(read) + len(written) for read, written in rows)
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        for row, (read, written) in zip(ids, rows, strict=True):
            row[: len(read) + len(written)] = torch.tensor(read + written)
        return ids, torch.tensor([len(read) for read, _ in rows])


def losses(model: Any, ids: Tensor, starts: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of the answers' tokens and of some of the sources'."""
    with torch.autocast("cpu", torch.bfloat16):
        states, target = model.model(input_ids=ids).last_hidden_state[:, :-1], ids[:, 1:]
        written = (torch.arange(1, ids.shape[1])[None] >= starts[:, None]) & (target != pad)
        answer = F.cross_entropy(model.lm_head(states[written]).float(), target[written])
        read = (~written & (target != pad)).flatten().nonzero().squeeze(1)
        read = read[torch.randperm(len(read))[:SAMPLED]]
        source = F.cross_entropy(model.lm_head(states.flatten(0, 1)[read]).float(), target.flatten()[read])
    return answer, source


def train(model: Any, examples: Examples, minutes: float, lr: float, size: int) -> int:
    """Trains for a time; the learning rate follows the clock (warm-up 5 %, cosine). Returns the steps."""
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
    """Command line."""
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
    teacher = Lexicon(load_config("llm", []).teacher, schema)
    with tempfile.TemporaryDirectory() as temporary:
        root = args.cities or Path(temporary)
        people = [person for seed in SEEDS for person in read_people(root / f"city{seed}", args.users, seed)]
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
        "people": len(people),
        "parameters": count,
        "steps": steps,
        "batch": args.batch,
        "lr": args.lr,
    }
    (args.out / "pretraining.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
