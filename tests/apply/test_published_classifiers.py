"""Classifiers over the checkpoints that conf names, in their published layout, against stock transformers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mmprofile.apply import run as apply
from mmprofile.apply.sentiment import Encoder, TextClassifier, load_classifier
from mmprofile.config.compose import load_config
from mmprofile.files import read_json_lines
from mmprofile.inputs.batch import pad
from tests.support.published import PUBLISHED, save_miniature
from tests.support.tinyclassifiers import KINDS

FAST = [
    "trainer.max_epochs=1",
    "inputs.train_reviews=1",
    "inputs.max_tokens=64",
    "resamples=50",
    "trainer.progress=false",
]
TEXTS = ("the soup was warm </s> and <pad> bread", "we waited so long. Never again! " * 9, "Good")
HEADS = {"bert": "classifier.", "t5": "classification_head.", "bart": "classification_head.", "causal": "score."}
"""What no checkpoint brings. BERT's was pretrained with the layer that its classifier reads."""
UNUSED = ("lm_head.", "cls.", "final_logits_bias", "bert.embeddings.position_ids")
"""What a classifier has no use for: heads of the pretraining."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A miniature of what the size ``base`` of each classifier names."""
    made = {}
    for kind in KINDS:
        cfg = load_config("apply", ["run=x", f"classifier={kind}", "classifier.size=base"])
        made[kind] = save_miniature(cfg.classifier.text, tmp_path_factory.mktemp(kind))
    return made


def classifier_of(folder: Path, kind: str, *words: str) -> TextClassifier:
    torch.manual_seed(0)
    base = ["run=x", f"classifier={kind}", "classifier.size=base", f"classifier.text={folder}"]
    return load_classifier(load_config("apply", [*base, *words]).classifier, 5)


def weights_of(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint's files."""
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def batch_of(classifier: TextClassifier) -> dict[str, Tensor]:
    encoder = Encoder(classifier.tokenizer, classifier.limit, 64)
    rows = [encoder(text, "Stars: 4") for text in TEXTS]
    ids = pad(rows, classifier.tokenizer.pad_token_id)
    return {"input_ids": ids, "attention_mask": pad([[1] * len(row) for row in rows], 0)}


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_stock_transformers_and_only_the_head_is_new(kind: str, folders: dict[str, Path]) -> None:
    classifier = classifier_of(folders[kind], kind, "classifier.dtype=float32", "classifier.lora.rank=0")
    model = classifier.model.eval()
    parameters = dict(model.named_parameters())
    new = {name for name, parameter in parameters.items() if any(parameter is other for other in classifier.new)}
    assert new == {name for name in parameters if name.startswith(HEADS[kind])}

    loaded = {value.numpy().tobytes() for value in model.state_dict().values()}
    weights = weights_of(folders[kind])
    used = {name: tensor for name, tensor in weights.items() if not name.startswith(UNUSED)}
    assert [name for name, tensor in used.items() if tensor.float().numpy().tobytes() not in loaded] == []
    assert len(parameters) - len(new) == len(used)

    stock, report = AutoModelForSequenceClassification.from_pretrained(
        folders[kind], num_labels=5, dtype=torch.float32, pad_token_id=classifier.tokenizer.pad_token_id,
        output_loading_info=True,
    )  # fmt: skip
    assert set(report["missing_keys"]) == new
    stock.load_state_dict({name: parameters[name] for name in new}, strict=False)
    inputs = batch_of(classifier)
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, stock.eval()(**inputs).logits, rtol=0, atol=1e-5)
        for row, mask in enumerate(inputs["attention_mask"]):
            alone = {name: values[row : row + 1, : int(mask.sum())] for name, values in inputs.items()}
            one, together = model(**alone).logits, model(**inputs).logits[row : row + 1]
            torch.testing.assert_close(one, together, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_is_as_the_tokenizer_writes_it(kind: str, folders: dict[str, Path]) -> None:
    """Special tokens stand where the checkpoint's tokenizer puts them, and a causal model's text has an end."""
    classifier = classifier_of(folders[kind], kind)
    tokenizer = AutoTokenizer.from_pretrained(folders[kind])
    text = "review: Good soup profile: Stars: 4"
    ids = Encoder(classifier.tokenizer, classifier.limit, 64)("Good soup", "Stars: 4")
    whole = tokenizer(text)["input_ids"]
    assert classifier.tokenizer.decode(ids) == tokenizer.decode(whole) + ("<|end_of_text|>" if kind == "causal" else "")
    published = PUBLISHED[load_config("apply", ["run=x", f"classifier={kind}", "classifier.size=base"]).classifier.text]
    limits = [published.config.get("max_position_embeddings"), tokenizer.model_max_length]
    assert classifier.limit == min(limit for limit in limits if limit is not None)


@pytest.fixture(scope="module")
def classify(out: Path, trained: Path, folders: dict[str, Path]) -> Callable[..., Path]:
    """``classify(kind, name, *overrides)`` runs the command with all that conf has for the published size; the folder."""

    def make(kind: str, name: str, *overrides: str) -> Path:
        words = [f"classifier={kind}", "classifier.size=base", f"classifier.text={folders[kind]}", f"run={trained}"]
        apply.main(load_config("apply", [*words, f"out={out}", f"name={name}", *FAST, *overrides]))
        return out / name

    return make


def result(folder: Path) -> tuple[Any, list[Any]]:
    metrics = json.loads((folder / "metrics.json").read_text())
    return [row["loss"] for row in metrics["history"]], read_json_lines(folder / "predictions.jsonl")


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_and_scores(kind: str, classify: Callable[..., Path]) -> None:
    losses, predictions = result(classify(kind, f"published-{kind}"))
    assert len(predictions) == 12
    assert losses
    if kind == "causal":
        assert result(classify(kind, f"published-{kind}-again")) == (losses, predictions)


def test_it_trains_the_same_whether_or_not_profiles_are_there_already(
    classify: Callable[..., Path], tmp_path: Path
) -> None:
    classify("bert", "without", f"out={tmp_path}")
    classify("bert", "with", f"out={tmp_path}")
    assert result(tmp_path / "without") == result(tmp_path / "with")


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_an_adapter_leaves_the_checkpoint_as_it_is(
    kind: str, classify: Callable[..., Path], folders: dict[str, Path]
) -> None:
    if kind == "t5":
        folder = classify(kind, f"published-{kind}-lora", "classifier.lora.rank=2")
        assert len(read_json_lines(folder / "predictions.jsonl")) == 12
    model = classifier_of(folders[kind], kind, "classifier.lora.rank=2").model
    frozen = {parameter.numpy().tobytes() for parameter in model.parameters() if not parameter.requires_grad}
    used = {name: tensor for name, tensor in weights_of(folders[kind]).items() if not name.startswith(UNUSED)}
    assert [name for name, tensor in used.items() if tensor.numpy().tobytes() not in frozen] == []
