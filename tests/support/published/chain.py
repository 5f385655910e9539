"""What the tests take every published checkpoint through, and the table of it in ``docs/checkpoints.md``."""

from collections.abc import Iterator

from omegaconf import OmegaConf

from mmprofile.config.compose import load_config
from mmprofile.paths import conf_dir
from tests.support.published import PUBLISHED, Published

COMMANDS = {
    "seq2seq": ["model=base", "paradigm=both"],
    "causal": ["model=llama", "model.size=base", "paradigm=uni"],
    "llava": ["model=llava", "model.size=base", "paradigm=basic", "model.vision.grid=2"],
}
"""Kind of a checkpoint -> the words that train it in ``tests/train/test_published_runs.py``."""
WRITERS = [name for name, published in PUBLISHED.items() if published.kind in COMMANDS]
SIBLINGS = (  # differ from another one in sizes alone; `python -m pytest -m slow` runs them
    "google/flan-t5-small", "google/flan-t5-large", "google/mt5-base", "facebook/bart-large", "huggyllama/llama-13b",
    "llava-hf/llava-1.5-13b-hf",
)  # fmt: skip
OF_TOKENIZER = {
    "t5": "google/flan-t5-small",
    "mt5": "google/mt5-small",
    "bart": "facebook/bart-base",
    "roberta": "facebook/bart-base",  # a blank is put before each text
    "llama": "huggyllama/llama-7b",
    "llava": "llava-hf/llava-1.5-7b-hf",
    "llama3": "meta-llama/Llama-3.2-1B",
    "qwen": "Qwen/Qwen3-8B",
    "glm": "zai-org/glm-4-9b-chat-hf",
}
"""Kind of a tokenizer -> a checkpoint that has it."""
SIZES = ("tiny", "base", "large")
TOKENIZERS = {
    "t5": "Unigram, sentinels",
    "mt5": "Unigram, spiece.model alone",
    "bart": "byte-level BPE",
    "llama": "BPE with byte fallback",
    "llava": "BPE with byte fallback, image token",
    "llama3": "byte-level BPE, Llama 3's splits",
    "qwen": "byte-level BPE, Qwen's splits",
    "glm": "byte-level BPE, [gMASK]&lt;sop&gt; in front",
}


def trained_models() -> Iterator[str]:
    """Yield the files of ``conf/model``, but those that only choose a size, and systems that are not trained here."""

    def system(name: str) -> str:
        content = OmegaConf.load(conf_dir() / "model" / f"{name}.yaml")
        return str(content.get("system") or system(content.defaults[0]))

    names = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
    return (name for name in names if name not in SIZES and system(name) == "neural")


def chain_table() -> str:
    """Return the table of text models and LLaVAs, in Markdown."""
    users: dict[str, list[str]] = {name: [] for name in WRITERS}
    for model in trained_models():
        sizes = load_config("train", [f"model={model}", "paradigm=multi"]).model.sizes
        for size in SIZES[1:]:
            users[sizes[size].text].append(f"{model} {size}")
    lines = [
        "| checkpoint | of `model=`, `model.size=` | tokenizer | weights as published | commands |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in WRITERS:
        published = PUBLISHED[name]
        lines.append(
            f"| {name} | {', '.join(users[name]) or 'by name'} | {TOKENIZERS[published.tokenizer or '']} | "
            f"{_layout(published)} | {'by hand (`-m slow`)' if name in SIBLINGS else 'in CI'} |"
        )
    return "\n".join(lines) + "\n"


def _layout(published: Published) -> str:
    """Return how the weights of a checkpoint are published, in a few words."""
    ending = "safetensors" if published.weights == "safetensors" else "pytorch_model.bin"
    files = ending if published.shards == 1 else f"{published.shards} shards of {ending}"
    tied = published.config.get("tie_word_embeddings", published.kind == "seq2seq")
    return f"{files}, {published.config.get('torch_dtype', 'float32')}, output weights {'tied' if tied else 'apart'}"
