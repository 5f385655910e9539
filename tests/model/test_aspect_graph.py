"""AoM's graph against direct computation, and the model around it: rows with and without nouns and photos, the command."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.inputs.batch import Batch
from mmprofile.inputs.syntax import Syntax
from mmprofile.inputs.views import VIEWS, Masking, User, build_view, paradigm_views
from mmprofile.model.aspect_graph import SHARE, AspectGraph, GraphConvolution, adjacency, links
from mmprofile.model.build import build_model
from mmprofile.model.exports import load_pretrained
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Schema

FUSION = build_view("fusion", "multi")
INPUTS = {"modality": "multi", "reviews": 3, "photos_per_review": 1, "max_tokens": 64, "encoding": "segments"}
D = 8


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def save_bart(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A random BART for ``tokenizer`` in the hub's layout."""
    torch.manual_seed(0)
    layers = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 1}
    sizes = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 512}
    model = BartForConditionalGeneration(BartConfig(vocab_size=len(tokenizer), dropout=0.0, **layers, **ids, **sizes))
    with torch.no_grad():  # as they are initialised, all tokens are about as likely
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bart_folder(
    schema: Schema,
    schema_tokenizer: Callable[[Schema], PreTrainedTokenizerFast],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    return save_bart(tmp_path_factory.mktemp("bart"), schema_tokenizer(schema))


@pytest.fixture(scope="module")
def model(bart_folder: Path, vit_folder: Path, schema: Schema) -> ProfileModel:
    vision = {"name": f"local-dir:{vit_folder}", "tokens": "grid", "grid": 2, "trainable": True}
    torch.manual_seed(3)
    return build_model(
        text={"name": str(bart_folder)}, vision=vision, fusion={"kind": "prefix_aspect"}, schema=schema, inputs=INPUTS
    ).eval()


@pytest.fixture(scope="module")
def collate(photos: dict[str, np.ndarray]) -> Callable[..., Batch]:
    def batch(model: ProfileModel, users: list[User], *views: Any, **masking: float) -> Batch:
        return model.collator(INPUTS, photos.__getitem__, Masking(**masking), 0)(users, views)

    return batch


def test_a_graph_of_four_nodes_by_hand() -> None:
    """A photo, a noun, two other words; edges noun-word and word-word, and photo-noun."""
    hidden = torch.tensor([[[1.0, 0.0], [3.0, 4.0], [0.0, 2.0], [-1.0, 0.0]]])
    nouns, visual = torch.tensor([[False, True, False, False]]), torch.tensor([[True, False, False, False]])
    linked = links(nouns, visual, torch.tensor([[0, 0], [1, 2], [2, 3]]))
    weights = adjacency(hidden, linked)
    expected = torch.tensor([[1.0, 0.6, 0.0, 0.0], [0.6, 1.0, 0.8, 0.0], [0.0, 0.8, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    close(weights[0], expected)
    layer = GraphConvolution(2)
    with torch.no_grad():
        layer.map.weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 2.0]]))
        layer.bias.copy_(torch.tensor([0.5, -3.0]))
    mapped = torch.tensor([[1.0, 0.0], [-1.0, 8.0], [-2.0, 4.0], [-1.0, 0.0]])
    shares = expected / torch.tensor([[2.6], [3.4], [2.8], [2.0]])  # degree with the self-loop, plus one
    close(layer(hidden, weights)[0], (shares @ mapped + torch.tensor([0.5, -3.0])).clamp_min(0))
    close(layer(hidden, weights)[0, 1], torch.tensor([0.5 - 2 / 3.4, 11.2 / 3.4 - 3]).clamp_min(0))


def test_a_negative_cosine_never_divides_by_nothing() -> None:
    hidden = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]])
    weights = adjacency(hidden, links(*torch.zeros(2, 1, 3, dtype=torch.bool), torch.tensor([[0, 0], [0, 0], [1, 2]])))
    close(weights[0], torch.tensor([[1.0, -1, -1], [-1, 1, 0], [-1, 0, 1]]))  # a plain sum and one: 0 in the first row
    layer = GraphConvolution(2)
    with torch.no_grad():
        layer.map.weight.copy_(torch.eye(2))
    close(layer(hidden, weights)[0, 0], torch.tensor([3 / 4, 0.0]))


def released_gate(graph: AspectGraph, hidden: Tensor, nouns: list[int]) -> Tensor:
    """The gate of one row as the released code computes it, state by state, with attention that reads the state as well."""
    reads_state = torch.randn(D, D, dtype=hidden.dtype), torch.randn(D, dtype=hidden.dtype)
    rows = []
    for state in hidden:
        scores = torch.stack(
            [
                torch.cat([graph.noun_score.weight[0], reads_state[1]])
                @ torch.tanh(torch.cat([graph.noun(hidden[j]), reads_state[0] @ state]))
                for j in nouns
            ]
        )
        noun = scores.softmax(0) @ hidden[nouns]
        both = torch.cat([graph.gate_state(state), graph.gate_noun(noun)])
        gate = 1 / (1 + (-(graph.gate.weight[0] @ both + graph.gate.bias)).exp())
        rows.append((1 - gate) * state + gate * noun)
    return torch.stack(rows)


def test_the_gate_by_direct_computation() -> None:
    torch.manual_seed(0)
    graph, hidden = AspectGraph(D).double(), torch.randn(3, 5, D, dtype=torch.double)
    nouns = torch.tensor([[0, 1, 0, 1, 1], [0] * 5, [1, 0, 0, 0, 0]]).bool()
    found = graph.guided(hidden, nouns)
    for row in (0, 2):
        close(found[row], released_gate(graph, hidden[row], nouns[row].nonzero().squeeze(1).tolist()), 1e-6)
        assert (found[row] - hidden[row]).abs().amax(-1)[~nouns[row]].min() > 1e-3
    assert torch.equal(found[1], hidden[1])


def test_the_whole_of_one_row() -> None:
    """Two visual tokens, then four of the text, one of them past the end."""
    torch.manual_seed(1)
    graph, hidden = AspectGraph(D), torch.randn(1, 6, D)
    mask = torch.tensor([[True] * 5 + [False]])
    syntax = Syntax(torch.tensor([[False, True, False]]), torch.tensor([[0], [0], [1]]), torch.tensor([3]))
    guided = released_gate(graph, hidden[0], [3])
    linked = torch.zeros(6, 6)
    for i, j in ((0, 3), (1, 3), (2, 3)):  # photo - noun twice, and the text's edge
        linked[i, j] = linked[j, i] = 1
    unit = guided / guided.norm(dim=1, keepdim=True)
    weights = (unit @ unit.T) * linked + torch.eye(6)
    states = guided
    for layer in graph.layers:
        states = (
            (weights / (weights.abs().sum(1, keepdim=True) + 1)) @ (states @ layer.map.weight.T) + layer.bias
        ).relu()
    found = graph(hidden, mask, syntax)
    close(found[0, :5], (guided + SHARE * states)[:5])
    assert SHARE == 0.5
    assert len(graph.layers) == 2


def test_what_is_not_there_changes_nothing() -> None:
    torch.manual_seed(2)
    graph = AspectGraph(D)
    lengths, photos = [3, 5, 2, 4], [2, 0, 1, 0]  # the third row has no nouns, the last no edges
    nouns = [[0, 2], [1], [], [3]]
    edges = [[(0, 1), (1, 2)], [(0, 4), (2, 3)], [(0, 1)], []]
    states = [torch.randn(n + v, D) for n, v in zip(lengths, photos, strict=True)]

    def run(rows: list[int], noise: float) -> list[Tensor]:
        width = max(len(states[r]) for r in rows) + 1
        hidden, mask = noise * torch.randn(len(rows), width, D), torch.zeros(len(rows), width, dtype=torch.bool)
        noun_mask = torch.zeros(len(rows), max(lengths[r] for r in rows), dtype=torch.bool)
        for i, r in enumerate(rows):
            hidden[i, : len(states[r])], mask[i, : len(states[r])] = states[r], True
            noun_mask[i, nouns[r]] = True
        pairs = [(i, *pair) for i, r in enumerate(rows) for pair in edges[r]]
        places = torch.tensor(pairs, dtype=torch.long).reshape(-1, 3).T
        found = graph(hidden, mask, Syntax(noun_mask, places, torch.tensor([lengths[r] for r in rows])))
        return [found[i, : len(states[r])] for i, r in enumerate(rows)]

    together = run([0, 1, 2, 3], 1.0)
    for r, expected in enumerate(together):
        close(run([r], 100.0)[0], expected)
    for found, expected in zip(run([3, 1, 0, 2], 7.0), (together[r] for r in (3, 1, 0, 2)), strict=True):
        close(found, expected)


def test_decoders_read_the_refined_states_of_the_encoder(
    model: ProfileModel, collate: Callable[..., Batch], users: list[User]
) -> None:
    for user in users:
        batch = collate(model, [user], FUSION)
        ids = batch.text_ids.flatten()[batch.row_tokens[0]][None]
        embedded = model.text.get_encoder().get_input_embeddings()(ids)
        photos = 0
        if user.photos:
            tokens = model.vision(batch.photos).flatten(0, 1)[None]
            photos = tokens.shape[1]
            embedded = torch.cat([model.fusion.project(tokens), embedded], 1)
        states = model.text.get_encoder()(inputs_embeds=embedded).last_hidden_state
        assert batch.syntax.nouns.any()
        mask = torch.ones(states.shape[:2], dtype=torch.bool)
        refined = model.fusion.graph(states, mask, batch.syntax)
        assert (refined - states).abs().amax(-1).min() > 1e-3
        close(model.encode(batch).hidden, refined)
        assert mask.shape[1] == photos + batch.syntax.lengths.item()
        stock = model.text(encoder_outputs=(refined,), labels=batch.labels)
        close(model(batch).view_losses[0], stock.loss)


def test_a_user_alone_is_that_user_in_a_batch(
    model: ProfileModel, collate: Callable[..., Batch], users: list[User]
) -> None:
    twice = replace(users[0], user_id="twice", reviews=("the soup was warm", "the soup was warm"))
    silent = replace(users[2], user_id="silent", reviews=("so so",), photos=(), captions=())  # not a noun in it
    everybody = [*users, twice, silent]
    views = paradigm_views("multi", VIEWS)
    together = model(collate(model, everybody, *views, image=0.5))
    each = [model(collate(model, [user], *views, image=0.5)).view_totals for user in everybody]
    close(together.view_totals, torch.stack(each).sum(0), 1e-3)
    batch = collate(model, everybody, FUSION)
    words = [model.tokenizer.decode(batch.text_ids.flatten()[row[row >= 0]]) for row in batch.row_tokens]
    assert words[4].count("soup") == batch.syntax.nouns[4].sum() - 2 - 2 == 2  # review and warm are content words, too
    texts = model.generate(batch)
    assert texts == [model.generate(collate(model, [user], FUSION))[0] for user in everybody]


def test_a_row_without_nouns_or_photos_is_still_read(
    model: ProfileModel, collate: Callable[..., Batch], users: list[User]
) -> None:
    batch = collate(model, [replace(users[1], reviews=("so so",))], FUSION)
    bare = replace(batch, syntax=batch.syntax._replace(nouns=torch.zeros_like(batch.syntax.nouns)))
    embedded = model.text.get_encoder().get_input_embeddings()(batch.text_ids)
    states = model.text.get_encoder()(inputs_embeds=embedded).last_hidden_state
    weights = adjacency(states, links(*torch.zeros(2, *states.shape[:2], dtype=torch.bool), batch.syntax.edges))
    expected = states
    for layer in model.fusion.graph.layers:
        expected = layer(expected, weights)
    close(model.encode(bare).hidden, states + 0.5 * expected)


def test_gradients_reach_every_part_and_the_loss_falls(
    bart_folder: Path, vit_folder: Path, schema: Schema, model: ProfileModel, collate: Callable[..., Batch],
    users: list[User],
) -> None:  # fmt: skip
    batch = collate(model, users, *paradigm_views("multi", VIEWS), image=0.5)
    model(batch).view_losses.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.fusion.parameters())
    assert {id(p) for p in model.new_parts()} == {id(p) for p in model.fusion.parameters()}
    model.zero_grad()
    vision = {"name": f"local-dir:{vit_folder}", "tokens": "grid", "grid": 2, "trainable": True}
    torch.manual_seed(4)
    fresh = build_model(
        text={"name": str(bart_folder)}, vision=vision, fusion={"kind": "prefix_aspect"}, schema=schema, inputs=INPUTS
    )
    adam = torch.optim.Adam(fresh.parameters(), 3e-3)
    losses = []
    for _ in range(8):
        loss = fresh(batch).view_losses.mean()
        losses.append(loss.item())
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert losses[-1] < losses[0] - 0.2


def test_saved_and_loaded(
    model: ProfileModel, collate: Callable[..., Batch], users: list[User], tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path / "model")
    again = load_pretrained(tmp_path / "model")
    batch = collate(again, users, FUSION)
    assert torch.equal(again(batch).logits, model(collate(model, users, FUSION)).logits)
    assert again.settings == model.settings
    config = tmp_path / "model" / "config.json"
    data = json.loads(config.read_text())
    data["fusion"]["parser"] = "spacy:nothing_of_that_name"
    config.write_text(json.dumps(data))
    with pytest.raises(UserError, match="python -m spacy download en_core_web_sm"):
        load_pretrained(tmp_path / "model")


def test_only_a_fusion_that_asks_has_texts_parsed(
    tiny_model: Callable[..., ProfileModel], model: ProfileModel, collate: Callable[..., Batch], users: list[User]
) -> None:
    assert collate(model, users, FUSION).syntax is not None
    for kind in ("prefix", "xattn"):
        other = tiny_model(kind)
        other.settings |= {"target": "profile"}
        assert other.collator(INPUTS, None, Masking(), 0).annotator is None


def test_a_batch_moves_whole(model: ProfileModel, collate: Callable[..., Batch], users: list[User]) -> None:
    batch = collate(model, users, FUSION)
    moved = batch.to("meta")
    assert {part.device.type for part in moved.syntax} == {"meta"}
    assert all(torch.equal(a, b) for a, b in zip(batch.to("cpu").syntax, batch.syntax, strict=True))


def test_the_configuration() -> None:
    small = load_config("train", ["model=aom", "paradigm=basic"]).model
    assert (small.fusion.kind, small.fusion.parser, small.vision.tokens, small.vision.grid) == (
        "prefix_aspect", "window", "grid", 3,
    )  # fmt: skip
    real = load_config("train", ["model=aom", "model.size=base"]).model
    assert (real.text.name, real.vision.name) == ("facebook/bart-base", "vit_base_patch16_224")
    assert (real.fusion.parser, real.vision.grid) == ("spacy:en_core_web_sm", 7)
    assert real.lr.pretrained == real.lr.new == 7.5e-5


def test_the_command_trains_it(bart_folder: Path, tmp_path: Path) -> None:
    command = [
        "model=aom", "paradigm=basic", "experiment=smoke", f"model.text.name={bart_folder}", "trainer.progress=false",
        "name=aom", f"out={tmp_path}",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "mmprofile.train", *command], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr
    assert "fusion prefix_aspect" in done.stdout
    metrics = json.loads((tmp_path / "aom" / "metrics.json").read_text())
    assert metrics["test"]["parse_fault_rate"] == 0
    assert len(metrics["history"]) == 2
    again = load_pretrained(tmp_path / "aom" / "model")
    assert again.settings["fusion"]["parser"] == "window"
