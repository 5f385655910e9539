"""docs/checkpoints.md: its table is made of the catalogue, of the miniatures and of the doctor's estimates.

``MMPROFILE_REWRITE=1 python -m pytest -n 0 -m "" tests/docs/test_checkpoints.py`` writes the table anew.
"""

import os
import re
from pathlib import Path

import pytest

from mmprofile.config.compose import load_config
from mmprofile.doctor.batches import largest_batches
from mmprofile.doctor.catalogue import LANGUAGES, CheckpointFacts, published
from mmprofile.doctor.estimate import without_weights
from mmprofile.doctor.memory import needs
from mmprofile.doctor.weights import MISSING, Weights
from mmprofile.files import size
from mmprofile.profile.schema import Schema
from tests.support.published import PUBLISHED
from tests.support.published.chain import chain_table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md"
MARKS = re.compile(r"(<!-- checkpoints -->\n).*?(<!-- /checkpoints -->)", re.DOTALL)
CHAIN = re.compile(r"(<!-- chain -->\n)(.*?)(<!-- /chain -->)", re.DOTALL)
HEAD = (
    "checkpoint", "parameters", "float32", "bfloat16", "training, bf16-mixed", "to fetch", "reads at most", "tokenizer",
    "licence", "run here",
)  # fmt: skip
TRAINED = {
    "t5": "experiment=paper",
    "mt5": "experiment=paper",
    "bart": "experiment=paper model=bart model.size=base paradigm=uni",
    "llava": "experiment=paper model=llava model.size=base paradigm=basic",
}
"""Architecture -> the words of its training at the paper's batch; all others: LoRA of a causal model, by captions."""
MEMORY = HEAD.index("training, bf16-mixed")


def words_of(facts: CheckpointFacts) -> str:
    """Return the words that train a checkpoint."""
    return TRAINED.get(facts.config["model_type"], "experiment=paper model=llama model.size=base paradigm=uni")


def training(facts: CheckpointFacts) -> int:
    """Return the bytes that a training step of a checkpoint holds, in bf16-mixed; nothing is on this machine."""
    cfg = load_config("train", [*words_of(facts).split(), f"model.text.name={facts.name}"])
    schema = Schema.from_config(cfg.profile)
    weights = [
        Weights("text", facts.name, MISSING, facts=facts),
        Weights("vision", str(cfg.model.vision.name), MISSING),
    ]
    with without_weights(cfg, schema, weights) as model:
        batches = largest_batches(cfg, model, None)
        need = needs(model, batches.training, batches.prediction, batches.weights, "cpu", True, 1)
    return need.weights + need.gradients + need.moments + need.activations


def cells(facts: CheckpointFacts, memory: str) -> list[str]:
    """Return the row of a checkpoint."""
    return [
        facts.name,
        f"{facts.parameters / 1e6:,.1f} M",
        size(4 * facts.parameters),
        size(2 * facts.parameters),
        memory,
        size(facts.bytes),
        f"{facts.context:,} tokens" if facts.context else "-",
        facts.tokenizer or "-",
        facts.licence + (", gated" if facts.gated else ""),
        "miniature" if facts.name in PUBLISHED else "-",
    ]


def rows() -> dict[str, list[str]]:
    """Return the page's rows by checkpoint."""
    match = MARKS.search(PAGE.read_text(encoding="utf-8"))
    assert match is not None
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in match[0].splitlines() if line[:1] == "|"]
    assert tuple(lines[0]) == HEAD
    return {line[0]: line for line in lines[2:]}


def rewrite() -> None:
    """Write the table of the page anew."""
    lines = [HEAD, ["---", *["---:"] * 6, *["---"] * 3]]
    lines += [cells(facts, size(training(facts)) if facts.config else "-") for facts in published().values()]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    text = MARKS.sub(rf"\g<1>{table}\g<2>", PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(CHAIN.sub(rf"\g<1>{chain_table()}\g<3>", text), encoding="utf-8")


def number(text: str) -> float:
    """Return the bytes that :func:`size` wrote."""
    count, unit = text.split()
    return float(count) * {"MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]


def test_the_table_says_what_the_catalogue_says() -> None:
    if os.environ.get("MMPROFILE_REWRITE"):
        rewrite()
    page = rows()
    assert list(page) == list(published())
    for name, line in page.items():
        assert line == cells(published()[name], line[MEMORY])
        assert (line[MEMORY] == "-") == (not published()[name].config)


def test_the_languages_are_those_of_the_doctor() -> None:
    page = PAGE.read_text(encoding="utf-8").replace("`", "")
    for what, choice in LANGUAGES.items():
        assert f"| {what} | {choice} |" in page


def test_the_chain_is_that_of_the_tests() -> None:
    match = CHAIN.search(PAGE.read_text(encoding="utf-8"))
    assert match is not None
    assert match[2] == chain_table()


@pytest.mark.parametrize("name", ["google/flan-t5-base", "facebook/bart-base"])
def test_the_memory_of_small_checkpoints_is_that_of_the_doctor(name: str) -> None:
    assert training(published()[name]) == pytest.approx(number(rows()[name][MEMORY]), rel=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, facts in published().items() if facts.config])
def test_the_memory_of_every_checkpoint_is_that_of_the_doctor(name: str) -> None:
    assert training(published()[name]) == pytest.approx(number(rows()[name][MEMORY]), rel=0.06)


def test_every_command_of_the_page_is_one_that_runs_or_is_marked() -> None:
    """Commands in a block are those of tests/doctor or stand below the mark of pages that need weights."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"(<!-- needs weights -->\n)?```(?:bash)?\n(.*?)```", text, re.DOTALL)
    assert blocks
    for mark, block in blocks:
        assert mark or re.fullmatch(r"(python -m mmprofile\.doctor[^\n]*\n)+", block)
