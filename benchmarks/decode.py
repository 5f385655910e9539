"""Times decoding against transformers' ``generate``: ``python benchmarks/decode.py [--run outputs/both]``.

The model has random weights and the shape of flan-t5-small; the schema is the shipped one. There are 8 users and 230 input
states, without the encoder; beam 5 runs with and without ``prefix_allowed_tokens_fn``. Without it a model may stop at any token,
so it must write as many tokens as a profile has. ``flat``: the output weights are so small that all profiles are about equally
likely. This is the worst case for a search that drops unlikely profiles: its beam is always full. Unchanged random weights are
near the best case (1.4 partial profiles per user at a time, 6.6 with ``flat``); a trained model lies between. Here transformers
ties the output weights to the embeddings, on both sides; flan-t5 has separate ones. So ``flat`` has small embeddings as well.

For 32 users of the random model or, with ``--run``, for the test users of a trained model, we compare which profile is
likelier: that of beam 5 or ours.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from common import alternate, machine, parser, ratio, report, spread, table
from torch import Tensor
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from mmprofile.evaluate.runs import load_run, run_data
from mmprofile.inputs.views import User
from mmprofile.model.decoding import Decoded, ProfileSearch
from mmprofile.model.kernels import ATTENTION
from mmprofile.model.trees import decoder_states
from mmprofile.paths import ASSETS, conf_dir
from mmprofile.profile.grammar import Grammar
from mmprofile.profile.schema import Schema

SHAPES = {
    "flan-t5-small": {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6},
    "tiny": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2},
}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
CASES = {"": ("schema", False), "_full": ("full", False), "_flat": ("schema", True)}
"""Suffix of the figures -> vocabulary, and whether all profiles are about equally likely."""


class Setting(NamedTuple):
    """A random model, its grammar and what it reads.

    Attributes:
        text: the model.
        grammar: of the schema.
        vocabulary: what a token competes with.
        hidden, mask: input states (U, N', d) and (U, N').
    """

    text: Any
    grammar: Grammar
    vocabulary: str
    hidden: Tensor
    mask: Tensor

    def ours(self) -> list[Decoded]:
        """Return the profiles of our search."""

        def logits(states: Tensor, ids: Tensor | None) -> Tensor:
            weight = self.text.lm_head.weight
            return torch.nn.functional.linear(states, weight if ids is None else weight[ids])

        with torch.no_grad():
            states = decoder_states(self.text, self.hidden, self.mask)
            search = ProfileSearch(grammar=self.grammar, start=0, logits=logits, vocabulary=self.vocabulary)
            return search(states, [self.grammar] * len(self.hidden))

    def generate(self, **options: Any) -> Tensor:
        """Return the token ids of beam 5 by transformers, the start token first."""
        ids: Tensor = self.text.generate(
            encoder_outputs=BaseModelOutput(self.hidden),
            attention_mask=self.mask.long(),
            num_beams=5,
            do_sample=False,
            **options,
        )
        return ids

    def generate_legal(self, **options: Any) -> Tensor:
        """Return the same over legal profiles only."""
        prefix = self.grammar.constraint(1)
        return self.generate(max_new_tokens=self.grammar.max_tokens, prefix_allowed_tokens_fn=prefix, **options)


def setting(shape: str, users: int, states: int, dtype: torch.dtype, vocabulary: str, flat: bool = False) -> Setting:
    """Return the same random weights and inputs each time."""
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny" / "text")
    schema = Schema.from_yaml(conf_dir() / "profile" / "yelp.yaml")
    torch.manual_seed(0)
    sizes = {"vocab_size": 32128, "num_decoder_layers": SHAPES[shape]["num_layers"], **SHAPES[shape]}
    config = T5Config(feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0, **sizes)
    text = T5ForConditionalGeneration(config).to(dtype).eval()
    text.set_attn_implementation(ATTENTION)
    if flat:
        text.lm_head.weight.data.mul_(1e-3)
    hidden, mask = torch.randn(users, states, config.d_model, dtype=dtype), torch.ones(users, states, dtype=torch.bool)
    return Setting(text=text, grammar=Grammar(schema, tokenizer), vocabulary=vocabulary, hidden=hidden, mask=mask)


def sides(made: Setting) -> dict[str, Callable[[], Any]]:
    """Return our search and both ways of ``generate``, as functions without arguments."""
    schema = made.grammar.schema
    length = len(made.grammar.encode({a.name: a.values[: a.size] for a in schema.attributes}))
    return {
        "ours": made.ours,
        "generate": lambda: made.generate(max_new_tokens=length, min_new_tokens=length),
        "prefix": made.generate_legal,
    }


def log_probabilities(made: Setting, labels: Sequence[list[int]]) -> list[float]:
    """Return the log-probability of a target per row, by one pass over whole targets: an oracle for the search."""
    results = []
    for row, target in enumerate(labels):
        logits = made.text(
            encoder_outputs=BaseModelOutput(made.hidden[row : row + 1]),
            attention_mask=made.mask[row : row + 1],
            labels=torch.tensor([target]),
        ).logits[0]
        total = 0.0
        for place, token in enumerate(target):
            rivals = logits[place].double()
            if made.vocabulary == "schema":
                rivals = rivals[made.grammar.allowed(target[:place])]
            total += float(logits[place, token].double() - rivals.logsumexp(0))
        results.append(total)
    return results


class Compared(NamedTuple):
    """Our profile of a user against that of beam 5.

    Attributes:
        no_less: whether ours is at least as likely.
        fault: whether ours has a parse fault.
        exact: whether no profile can be likelier than ours.
        lost: the share of probability that our search gave up.
    """

    no_less: bool
    fault: bool
    exact: bool
    lost: float


def compare(made: Setting, decoded: Sequence[Decoded], beams: Sequence[str]) -> list[Compared]:
    """Compare our profiles with those of beam 5."""
    grammar = made.grammar
    ids = [
        [grammar.encode(grammar.schema.parse(text).profile) for text in texts]
        for texts in ([profile.text for profile in decoded], beams)
    ]
    ours, theirs = (log_probabilities(made, labels) for labels in ids)
    return [
        Compared(
            no_less=a >= b - 1e-4,
            fault=bool(grammar.schema.parse(profile.text).faults),
            exact=profile.exact,
            lost=profile.lost,
        )
        for a, b, profile in zip(ours, theirs, decoded, strict=True)
    ]


def summary(users: Sequence[Compared]) -> dict[str, float]:
    """Return shares of users, and the median of what was lost."""
    return {
        "parse_fault_rate": sum(user.fault for user in users) / len(users),
        "logprob_not_below": sum(user.no_less for user in users) / len(users),
        "exact": sum(user.exact for user in users) / len(users),
        "median_lost": sorted(user.lost for user in users)[len(users) // 2],
        "compared": len(users),
    }


@torch.no_grad()
def against_beams(shape: str, users: int, states: int) -> dict[str, float]:
    """Compare on the random model in fp32."""
    made = setting(shape, users, states, torch.float32, "schema")
    beams = made.generate_legal(renormalize_logits=True)
    return summary(compare(made, made.ours(), [made.grammar.decode(row) for row in beams.tolist()]))


@torch.no_grad()
def against_beams_trained(run: str) -> dict[str, float]:
    """Compare on a trained model's test users; add the seconds of both sides, encoder included."""
    trained = load_run(run)
    model, data = trained.model, run_data(trained)
    users: list[User] = data.users("test")
    compared: list[Compared] = []
    seconds = [0.0, 0.0]
    for batch in data.loader(users):
        clock = time.perf_counter()
        decoded = model.decode(batch)
        seconds[0] += time.perf_counter() - clock
        clock = time.perf_counter()
        beams = model.generate(batch, 5)
        seconds[1] += time.perf_counter() - clock
        fused = model.encode(batch)
        made = Setting(
            text=model.text,
            grammar=model.grammar,
            vocabulary=model.settings["vocabulary"],
            hidden=fused.hidden,
            mask=fused.mask,
        )
        compared += compare(made, decoded, beams)
    return {**summary(compared), "seconds": seconds[0], "seconds_generate": seconds[1]}


def main() -> None:
    """Run the command line."""
    made = parser((__doc__ or "").splitlines()[0])
    made.add_argument("--run", default=None, help="a finished run, to compare with beam 5 on its test users")
    made.add_argument("--shape", choices=SHAPES, default="flan-t5-small")
    made.add_argument("--users", type=int, default=8, help="in a batch")
    made.add_argument("--states", type=int, default=230, help="input states of a user")
    made.add_argument("--compared", type=int, default=32, help="users of the random model to compare with beam 5")
    arguments = made.parse_args()
    sizes = arguments.shape, arguments.users, arguments.states
    figures: dict[str, Any] = {}
    rows = []
    for name, dtype in DTYPES.items():
        for suffix, case in CASES.items():
            seconds = alternate(sides(setting(*sizes, dtype, *case)), arguments.repeats)
            ratios = {f"vs_{other}": ratio(seconds, other, "ours") for other in ("generate", "prefix")}
            figures[name + suffix] = {
                "vs_generate": round(ratios["vs_generate"], 2),
                "vs_prefix_fn": round(ratios["vs_prefix"], 2),
            }
            times = [spread(seconds[side]) for side in ("ours", "generate", "prefix")]
            label = f"{name}, {case[0]}{', flat' * case[1]}"
            rows.append([label, *times, *(f"{value:.1f}" for value in ratios.values())])
    head = [
        "dtype, vocabulary",
        "ours, s",
        "generate, s",
        "generate with prefix_allowed_tokens_fn, s",
        "ratio",
        "ratio",
    ]
    text = f"## Decoding\n\n`python benchmarks/decode.py`: {(__doc__ or '').partition(chr(10) * 2)[2].strip()}\n\n"
    text += f"{sizes[0]}, {sizes[1]} users, {sizes[2]} states; {machine()}, {torch.get_num_threads()} threads; "
    text += f"median (least to most) of {arguments.repeats}.\n\n"
    text += table(head, rows)
    who = f"{arguments.compared} users of the random model"
    if arguments.run:
        who = "a trained tiny model's test users"
        trained = against_beams_trained(arguments.run)
        took = f"; {trained['seconds']:.1f} s against {trained['seconds_generate']:.1f} s, encoder included, once each"
    else:
        trained, took = against_beams(arguments.shape, arguments.compared, arguments.states), ""
    figures |= trained
    text += (
        f"\n\nOf {who} {100 * trained['logprob_not_below']:.1f} % get a profile at least as likely as beam 5's; parse "
        f"faults: {100 * trained['parse_fault_rate']:.1f} %; for {100 * trained['exact']:.1f} % it is certain that no "
        f"profile is likelier{took}."
    )
    report("decode", text, figures, arguments)


if __name__ == "__main__":
    main()
