"""Measure the memory of a step of distillation: ``python benchmarks/sft_memory.py --page docs/llm.md``.

A step is loss and gradients of a random Qwen3 with a large vocabulary (64 wide, 2 layers, tied embeddings) in float32 on a CPU,
for answers of 250 tokens behind prompts of 750. The loss is taken from the logits of all tokens, as before, and from those of the
answers' alone, as :class:`mmprofile.llm.fine_tuning.WeightedTrainer` does. Each figure is the peak of a process of its own,
less what it had before the step.
"""

import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from common import machine, parser, report, table
from torch.nn import functional as F
from transformers import Qwen3Config, Qwen3ForCausalLM

from mmprofile.inputs.batch import IGNORE
from mmprofile.llm.fine_tuning import AnswerCollator, WeightedTrainer

PROMPT, ANSWER = 750, 250
SIDES = {"all": "all tokens", "answers": "answers alone"}


def peak() -> float:
    """Return the most memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def step(side: str, rows: int, vocabulary: int) -> dict[str, float]:
    """Return GiB and seconds of a step in this process, and the loss."""
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=vocabulary, num_hidden_layers=2, tie_word_embeddings=True, **sizes))
    rng = random.Random(0)
    ids = [[rng.randrange(vocabulary) for _ in range(PROMPT + ANSWER)] for _ in range(rows)]
    batch = AnswerCollator(0)(
        [{"input_ids": row, "labels": [IGNORE] * PROMPT + row[PROMPT:], "weights": [1.0] * len(row)} for row in ids]
    )
    before, start = peak(), time.perf_counter()
    loss: Any
    if side == "all":
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
        losses = F.cross_entropy(
            logits[:, :-1].float().transpose(1, 2), batch["labels"][:, 1:], ignore_index=IGNORE, reduction="none"
        )
        loss = losses.sum() / (rows * ANSWER)
    else:
        loss = WeightedTrainer.compute_loss(None, model, batch)  # type: ignore[arg-type]
    loss.backward()
    return {"gib": peak() - before, "seconds": time.perf_counter() - start, "loss": loss.item()}


def main() -> None:
    """Print the table."""
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--rows", type=int, default=8)
    options.add_argument("--vocabulary", type=int, default=150_000)
    options.add_argument("--side", choices=[*SIDES], default=None, help="measure this one here, and print it as JSON")
    arguments = options.parse_args()
    if arguments.side:
        print(json.dumps(step(arguments.side, arguments.rows, arguments.vocabulary)))
        return
    figures = {}
    for side in SIDES:
        command = [sys.executable, __file__, "--side", side, "--rows", str(arguments.rows)]
        done = subprocess.run(
            [*command, "--vocabulary", str(arguments.vocabulary)],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent,
        )
        figures[side] = json.loads(done.stdout.splitlines()[-1])
    rows = [[SIDES[side], f"{of['gib']:.2f}", f"{of['seconds']:.0f}"] for side, of in figures.items()]
    text = (
        f"`python benchmarks/sft_memory.py`: {arguments.rows} x {PROMPT + ANSWER:,} tokens, {ANSWER} of them the answer's, and a "
        f"vocabulary of {arguments.vocabulary:,}; {machine()}\n\n{table(['logits of', 'GiB', 'seconds'], rows)}\n"
    )
    report("sft_memory", text, figures, arguments)


if __name__ == "__main__":
    main()
