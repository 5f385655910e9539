"""Decoder states along the partial profiles of a search, for every kind of text model that we know.

Partial profiles of one user share what they have in common: they are a tree, of which a trees class reads every node once.
A rows class reads each partial profile anew, whatever the model does inside.

Dimension letters: B users, n new nodes and V all nodes of a user's tree (some of them padding), R new nodes of all users
(none of them padding), P partial profiles, N input tokens, H heads, d width.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from mmprofile.model.checkpoints import cache_name

T5_LIKE = ("t5", "mt5", "longt5")
"""Their decoders are the same: distances are looked up in the first block, for all blocks; umT5 has them in each."""
CAUSAL = ("glm", "glm4", "gpt2", "llama", "mistral", "qwen2", "qwen3")
"""Causal models that take any mask and any positions, unless a window slides over the text."""
Chunks = Sequence[Sequence[tuple[int, Sequence[int]]]]


class States(Protocol):
    """Decoder states along the paths of trees, one tree for each user."""

    def extend(self, chunks: Chunks) -> tuple[Tensor, list[list[int]]]:
        """Reads more tokens.

        Args:
            chunks: for every user, pairs of a node, which must have been the last of a chunk (-1: above the root), and
                the tokens that follow it.

        Returns:
            The states (B, n, d) of the new nodes, chunk after chunk; for every user and chunk its last node.
        """
        ...


def decoder_states(text: Any, hidden: Tensor, mask: Tensor) -> States:
    """The fastest states that are right for a text model.

    Args:
        text: an encoder-decoder or a causal language model of transformers.
        hidden: (B, N, d) what the decoder reads: encoder states, or the embeddings of a causal model's prompt without its
            last token, which is the start token of the search.
        mask: (B, N) bool, False where there is nothing to read.
    """
    config = text.config
    if config.is_encoder_decoder:
        return (T5Trees if config.model_type in T5_LIKE else Rows)(text, hidden, mask)
    return (CausalTrees if takes_trees(text.get_decoder().config) else CausalRows)(text, hidden, mask)


def takes_trees(config: Any) -> bool:
    """Whether a causal model looks at whatever a mask lets it see, and computes positions from nothing else."""
    return (
        config.model_type in CAUSAL
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and (getattr(config, "sliding_window", None) is None or getattr(config, "use_sliding_window", True) is False)
        and (getattr(config, "rope_parameters", None) or {}).get("rope_type") not in ("dynamic", "longrope")
        and config._attn_implementation in ("eager", "sdpa")
    )


class _Grown(NamedTuple):
    """New nodes of all users.

    Attributes:
        ids: (R,) their tokens, user after user.
        users: (R,) whose they are.
        columns: (R,) their places among their user's n.
        distance: (B, n, V) how many tokens before a new node each node stands; -1 where it is not on its path.
        depth: (R,) their places on their paths, from 0.
        last: for every user and chunk its last node.
    """

    ids: Tensor
    users: Tensor
    columns: Tensor
    distance: Tensor
    depth: Tensor
    last: list[list[int]]


class _Forest:
    """The shape of the users' trees: which nodes are on which paths."""

    def __init__(self, users: int) -> None:
        self.nodes = 0
        self.paths: list[dict[int, list[int]]] = [{-1: []} for _ in range(users)]

    def grow(self, chunks: Chunks, device: torch.device) -> _Grown:
        new = max(sum(len(tokens) for _, tokens in user) for user in chunks)
        distance = np.full((len(chunks), new, self.nodes + new), -1)
        last: list[list[int]] = []
        flat: list[tuple[int, int, int, int]] = []  # token, user, column, depth
        for b, user in enumerate(chunks):
            column = 0
            last.append([])
            for parent, tokens in user:
                columns = np.arange(column, column + len(tokens))
                path = [*self.paths[b][parent], *(self.nodes + columns).tolist()]
                depth = np.arange(len(path) - len(tokens), len(path))
                distance[b, columns[:, None], path] = np.maximum(depth[:, None] - np.arange(len(path)), -1)
                flat += zip(tokens, [b] * len(tokens), columns.tolist(), depth.tolist(), strict=True)
                self.paths[b][path[-1]] = path
                last[b].append(path[-1])
                column += len(tokens)
        self.nodes += new
        ids, users, places, depths = torch.tensor(flat, device=device).T
        return _Grown(ids, users, places, torch.from_numpy(distance).to(device), depths, last)


class T5Trees:
    """States of a T5's decoder: keys and values of a user's tree are computed once, those of the input as well.

    A node sees its ancestors only, at the distance that it has from them in the text.

    The decoder's layers are called one by one, as its own ``forward`` does without dropout. That one knows no trees; and
    here everything but the attention is computed for the nodes alone, without the padding of smaller trees.

    Args:
        text: a model of one of the types :data:`T5_LIKE`.
        hidden, mask: see :func:`decoder_states`.
    """

    def __init__(self, text: Any, hidden: Tensor, mask: Tensor) -> None:
        self.decoder = text.get_decoder()
        self.forest = _Forest(len(hidden))
        self.input: list[tuple[Tensor, Tensor]] = []
        self.tree: list[tuple[Tensor, Tensor]] = []
        for block in self.decoder.block:
            cross = block.layer[1].EncDecAttention
            keys, values = (_heads(part(hidden), cross.n_heads).contiguous() for part in (cross.k, cross.v))
            self.input.append((keys, values))
            self.tree.append((keys[:, :, :0], values[:, :, :0]))
        self.unseen_input = _unseen(mask[:, None, None], keys.dtype)  # autocast makes it another than that of hidden

    def extend(self, chunks: Chunks) -> tuple[Tensor, list[list[int]]]:
        """See :class:`States`."""
        grown = self.forest.grow(chunks, self.unseen_input.device)
        place = grown.users.new_zeros(grown.distance.shape[:2])  # padding is a copy of any node: nobody looks at it
        place[grown.users, grown.columns] = torch.arange(len(grown.ids), device=place.device)
        bias = self._bias(grown.distance)
        states = self.decoder.embed_tokens(grown.ids)
        for i, block in enumerate(self.decoder.block):
            own, cross, feed = block.layer
            attention, normed = own.SelfAttention, own.layer_norm(states)
            query, key, value = (
                _heads(part(normed)[place], attention.n_heads) for part in (attention.q, attention.k, attention.v)
            )
            old = self.tree[i]
            self.tree[i] = torch.cat([old[0], key], 2), torch.cat([old[1], value], 2)
            found = _attend(query, *self.tree[i], bias)
            states = states + attention.o(found[grown.users, grown.columns])
            attention = cross.EncDecAttention
            query = _heads(attention.q(cross.layer_norm(states))[place], attention.n_heads)
            found = _attend(query, *self.input[i], self.unseen_input)
            states = feed(states + attention.o(found[grown.users, grown.columns]))
        return self.decoder.final_layer_norm(states)[place], grown.last

    def _bias(self, distance: Tensor) -> Tensor:
        """(B, H, n, V) what is added to the scores: T5's bias of the distance, or so much that a node is not seen."""
        attention = self.decoder.block[0].layer[0].SelfAttention
        away = torch.arange(int(distance.max()) + 1, device=distance.device)
        bucket = attention._relative_position_bucket(
            -away,
            bidirectional=False,
            num_buckets=attention.relative_attention_num_buckets,
            max_distance=attention.relative_attention_max_distance,
        )
        seen = attention.relative_attention_bias(bucket).to(self.unseen_input.dtype)
        table = F.pad(seen.T, (0, 1), value=torch.finfo(seen.dtype).min)  # (H, distances, and last what is not seen)
        return table[:, distance].transpose(0, 1).contiguous()


def _unseen(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores: 0 where something is seen, the least number elsewhere."""
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


def _heads(states: Tensor, heads: int) -> Tensor:
    """(B, n, H * width) -> (B, H, n, width)."""
    return states.unflatten(-1, (heads, -1)).transpose(1, 2)  # type: ignore[no-any-return]


def _attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """T5's attention, whose scores are not scaled -> (B, n, H * width).

    With so few queries, two products are faster on a CPU than the fused kernel, as long as keys and values are contiguous.
    """
    scores = query @ keys.transpose(2, 3)
    return (scores.add_(bias).softmax(-1) @ values).transpose(1, 2).flatten(2)


class CausalTrees:
    """States of a causal model: a user's prompt is read once, so is every node of the tree below it.

    A node sees the prompt and its ancestors, at the positions that they have in the text.

    Args:
        text: a causal language model that :func:`takes_trees`.
        hidden, mask: see :func:`decoder_states`; the padding may be on either side.
    """

    def __init__(self, text: Any, hidden: Tensor, mask: Tensor) -> None:
        self.decoder, self.mask = text.get_decoder(), mask
        self.forest, self.cache = _Forest(len(hidden)), DynamicCache()
        self.cache_name = cache_name(self.decoder)
        if mask.shape[1]:
            causal = torch.ones(mask.shape[1:] * 2, dtype=torch.bool, device=mask.device).tril()
            itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)  # padding has to see something
            position = (mask.cumsum(1) - 1).clamp_min(0)
            self._read(hidden, causal & mask[:, None] | itself, position)

    def extend(self, chunks: Chunks) -> tuple[Tensor, list[list[int]]]:
        """See :class:`States`."""
        grown = self.forest.grow(chunks, self.mask.device)
        shape, at = grown.distance.shape[:2], (grown.users, grown.columns)
        ids, depth = (part.new_zeros(shape).index_put(at, part) for part in (grown.ids, grown.depth))
        prompt = self.mask[:, None].expand(*shape, -1)
        position = self.mask.sum(1, keepdim=True) + depth
        states = self._read(
            self.decoder.get_input_embeddings()(ids), torch.cat([prompt, grown.distance >= 0], 2), position
        )
        return states, grown.last

    def _read(self, embeddings: Tensor, seen: Tensor, position: Tensor) -> Tensor:
        """Embeddings (B, n, d), what each sees (B, n, all so far), its position (B, n) -> states (B, n, d)."""
        states: Tensor = self.decoder(
            inputs_embeds=embeddings,
            attention_mask=_unseen(seen[:, None], embeddings.dtype),
            position_ids=position,
            use_cache=True,
            **{self.cache_name: self.cache},
        ).last_hidden_state
        return states


class Rows:
    """States of any encoder-decoder's decoder: every partial profile is a row of its own and is read anew each time.

    Args:
        text: the model.
        hidden, mask: see :func:`decoder_states`.
    """

    def __init__(self, text: Any, hidden: Tensor, mask: Tensor) -> None:
        self.decoder, self.hidden, self.mask = text.get_decoder(), hidden, mask
        self.paths: list[list[tuple[int, ...]]] = [[] for _ in range(len(hidden))]

    def extend(self, chunks: Chunks) -> tuple[Tensor, list[list[int]]]:
        """See :class:`States`."""
        users = [b for b, user in enumerate(chunks) for _ in user]
        paths = [
            (*(self.paths[b][parent] if parent >= 0 else ()), *tokens)
            for b, user in enumerate(chunks)
            for parent, tokens in user
        ]
        states = self._read(users, paths)
        new = max(sum(len(tokens) for _, tokens in user) for user in chunks)
        found = states.new_zeros(len(self.hidden), new, states.shape[-1])
        last: list[list[int]] = []
        row = 0
        for b, user in enumerate(chunks):
            column = 0
            last.append([])
            for _, tokens in user:
                count, end = len(tokens), len(paths[row])
                found[b, column : column + count] = states[row, end - count : end]
                self.paths[b].append(paths[row])
                last[b].append(len(self.paths[b]) - 1)
                column, row = column + count, row + 1
        return found, last

    def _read(self, users: list[int], paths: list[tuple[int, ...]]) -> Tensor:
        """Partial profiles and whose they are -> the states (P, longest, d) of their tokens."""
        states: Tensor = self.decoder(
            input_ids=self._ids(paths),
            encoder_hidden_states=self.hidden[users],
            encoder_attention_mask=self.mask[users],
            use_cache=False,
        ).last_hidden_state
        return states

    def _ids(self, paths: list[tuple[int, ...]]) -> Tensor:
        """(P, longest), filled up behind."""
        rows = [torch.tensor(path, device=self.hidden.device) for path in paths]
        return pad_sequence(rows, batch_first=True)


class CausalRows(Rows):
    """States of any causal model: every partial profile is read anew each time, its user's prompt before it.

    Nothing is asked of the model but that no token sees a later one: neither masks nor positions nor a cache.
    """

    def _read(self, users: list[int], paths: list[tuple[int, ...]]) -> Tensor:
        profiles = self.decoder.get_input_embeddings()(self._ids(paths))
        prompts = [self.hidden[b][self.mask[b]] for b in users]
        rows = pad_sequence([torch.cat(parts) for parts in zip(prompts, profiles, strict=True)], batch_first=True)
        states = self.decoder(inputs_embeds=rows, use_cache=False).last_hidden_state
        own = [one[len(prompt) :][: profiles.shape[1]] for one, prompt in zip(states, prompts, strict=True)]
        return torch.stack(own)
