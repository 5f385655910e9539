"""Times decoding against transformers' ``generate``: ``python benchmarks/decode.py [--run outputs/both]``.

Random weights of flan-t5-small's shape, the shipped profile schema, 8 users, 230 input states, the encoder left out; beam 5
with and without ``prefix_allowed_tokens_fn``. Without it a model may stop when it likes, so it is made to write as many
tokens as a profile has. With ``--run``, a trained model's test users: whose profile is likelier, its own beam 5's or ours.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from common import alternate, machine, parser, ratio, report, spread, table
from hydra.utils import instantiate
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from mmprofile.batch import Batch
from mmprofile.decoding import Decoded, Search, T5Trees
from mmprofile.evaluate import load_run, make_data
from mmprofile.grammar import Grammar
from mmprofile.model import ATTENTION, ProfileModel
from mmprofile.paths import ASSETS, conf_dir
from mmprofile.profile import Schema
from mmprofile.views import User

USERS, STATES = 8, 230
SMALL = {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_decoder_layers": 8, "num_heads": 6}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def sides(dtype: torch.dtype, vocabulary: str) -> dict[str, Callable[[], Any]]:
    """Ours and both of generate's, as functions without arguments."""
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny" / "text")
    schema = Schema.from_yaml(conf_dir() / "profile" / "yelp.yaml")
    grammar = Grammar(schema, tokenizer)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=32128, feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0, **SMALL
    )
    config._attn_implementation = ATTENTION
    text = T5ForConditionalGeneration(config).to(dtype).eval()
    hidden, mask = torch.randn(USERS, STATES, config.d_model, dtype=dtype), torch.ones(USERS, STATES, dtype=torch.bool)
    length = len(grammar.encode({a.name: a.values[: a.size] for a in schema.attributes}))

    def logits(states: torch.Tensor, ids: torch.Tensor | None) -> torch.Tensor:
        weight = text.lm_head.weight
        return torch.nn.functional.linear(states, weight if ids is None else weight[ids])

    def ours() -> list[Decoded]:
        with torch.no_grad():
            return Search(grammar, 0, logits, vocabulary)(T5Trees(text, hidden, mask), [grammar] * USERS)

    def generate(**options: Any) -> Any:
        return text.generate(
            encoder_outputs=BaseModelOutput(hidden), attention_mask=mask.long(), num_beams=5, do_sample=False, **options
        )

    return {
        "ours": ours,
        "generate": lambda: generate(max_new_tokens=length, min_new_tokens=length),
        "prefix": lambda: generate(
            max_new_tokens=grammar.max_tokens, prefix_allowed_tokens_fn=grammar.prefix_allowed_tokens_fn
        ),
    }


def log_probabilities(model: ProfileModel, batch: Batch, labels: list[list[int]]) -> list[float]:
    """Of a target per row, by one pass over whole targets: what a wrong search could not agree with."""
    fused = model.encode(batch)
    found = []
    for row, target in enumerate(labels):
        logits = (
            model.text(
                encoder_outputs=BaseModelOutput(fused.hidden[row : row + 1]),
                attention_mask=fused.mask[row : row + 1],
                labels=torch.tensor([target]),
            )
            .logits[0]
            .double()
        )
        total = 0.0
        for place, token in enumerate(target):
            rivals = logits[place]
            if model.settings["vocabulary"] == "schema":
                rivals = rivals[model.grammar.allowed(target[:place])]
            total += float(logits[place, token] - rivals.logsumexp(0))
        found.append(total)
    return found


@torch.no_grad()
def against_beams(run: str) -> dict[str, float]:
    """On a trained model's test users: share whose profile is no less likely than beam 5's, faults, seconds of both."""
    _, cfg, model = load_run(run)
    data = make_data(cfg, model, instantiate(cfg.data.prepare, _partial_=True)(schema=model.schema))
    users: list[User] = data.users("test")
    no_less, faults, seconds, exact, lost = 0, 0, [0.0, 0.0], 0, []
    for batch in data.loader(users):
        clock = time.perf_counter()
        decoded = model.decode(batch)
        seconds[0] += time.perf_counter() - clock
        clock = time.perf_counter()
        beams = model.generate(batch, 5)
        seconds[1] += time.perf_counter() - clock
        ids = [[model.grammar.encode(model.schema.parse(text).profile) for text in texts] for texts in (
            [one.text for one in decoded], beams
        )]  # fmt: skip
        pairs = zip(*(log_probabilities(model, batch, labels) for labels in ids), strict=True)
        no_less += sum(ours >= theirs - 1e-4 for ours, theirs in pairs)
        faults += sum(bool(model.schema.parse(one.text).faults) for one in decoded)
        exact += sum(one.exact for one in decoded)
        lost += [one.lost for one in decoded]
    return {
        "parse_fault_rate": faults / len(users),
        "logprob_not_below": no_less / len(users),
        "exact": exact / len(users),
        "median_lost": sorted(lost)[len(lost) // 2],
        "seconds": seconds[0],
        "seconds_generate": seconds[1],
    }


def main() -> None:
    """Command line."""
    made = parser((__doc__ or "").splitlines()[0])
    made.add_argument("--run", default=None, help="a finished run, to compare with beam 5 on its test users")
    arguments = made.parse_args()
    figures: dict[str, Any] = {}
    rows = []
    for name, dtype in DTYPES.items():
        for vocabulary in ("schema", "full"):
            seconds = alternate(sides(dtype, vocabulary), arguments.repeats)
            found = {f"vs_{other}": ratio(seconds, other, "ours") for other in ("generate", "prefix")}
            figures[name if vocabulary == "schema" else f"{name}_full"] = {
                "vs_generate": round(found["vs_generate"], 2),
                "vs_prefix_fn": round(found["vs_prefix"], 2),
            }
            times = [spread(seconds[side]) for side in ("ours", "generate", "prefix")]
            rows.append([f"{name}, {vocabulary}", *times, *(f"{value:.1f}" for value in found.values())])
    head = [
        "dtype, vocabulary",
        "ours, s",
        "generate, s",
        "generate with prefix_allowed_tokens_fn, s",
        "ratio",
        "ratio",
    ]
    text = f"## Decoding\n\n`python benchmarks/decode.py`: {(__doc__ or '').partition(chr(10) * 2)[2].strip()}\n\n"
    text += f"{machine()}, {torch.get_num_threads()} threads; median (least to most) of {arguments.repeats}.\n\n"
    text += table(head, rows)
    if arguments.run:
        trained = against_beams(arguments.run)
        figures |= trained
        text += (
            f"\n\nOf a trained tiny model's test users {100 * trained['logprob_not_below']:.1f} % get a profile at least as "
            f"likely as beam 5's; parse faults: {100 * trained['parse_fault_rate']:.1f} %; for "
            f"{100 * trained['exact']:.1f} % it is certain that no profile is likelier; "
            f"{trained['seconds']:.1f} s against {trained['seconds_generate']:.1f} s, encoder included."
        )
    report("decode", text, figures, arguments)


if __name__ == "__main__":
    main()
