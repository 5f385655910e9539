"""Decoder states along the partial profiles of a search, for every kind of text model that we know.

The partial profiles of one user are a tree, since they share their beginnings. The classes of trees read each node once.
The classes of rows read each partial profile anew and need only the public interface of transformers, so they work
whatever a model does inside.

Dimension letters as in :mod:`mmprofile.model`; each of the U users has one row.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from mmprofile.model.checkpoints import cache_name

T5_LIKE = ("t5", "mt5", "longt5")
"""Their decoders are the same: the first block holds the biases of distances for all blocks; umT5 has them in each."""
CAUSAL = ("glm", "glm4", "gpt2", "llama", "mistral", "qwen2", "qwen3")
"""Causal models that take any mask and any positions, unless a window slides over the text."""
ANY_MASK = ("eager", "sdpa")
"""Attention that adds any mask to its scores."""
_ATTENTION_PARTS = attrgetter("q", "k", "v", "o", "n_heads")
Chunks = Sequence[Sequence[tuple[int, Sequence[int]]]]


class States(Protocol):
    """Decoder states along the paths of trees, one tree for each of U users."""

    def extend(self, chunks: Chunks) -> tuple[Tensor, list[list[int]]]:
        """Read more tokens.

        Args:
            chunks: for each user, pairs of a node, which must have been the last of a chunk (-1: above the root), and the
                tokens that follow it.

        Returns:
            The states (U, W, d) of the new nodes, chunk after chunk; for each user and chunk its last node.
        """
        ...


def decoder_states(text: Any, hidden: Tensor, mask: Tensor) -> States:
    """Return the fastest states that are right for a text model.

    Args:
        text: an encoder-decoder or a causal language model of transformers.
        hidden: (U, N', d) what the decoder reads: encoder states, or the embeddings of a causal model's prompt without its
            last token, which is the start token of the search.
        mask: (U, N') bool.
    """
    if text.config.is_encoder_decoder:
        return (T5Trees if has_t5_layers(text) else Rows)(text, hidden, mask)
    return (CausalTrees if takes_trees(text.get_decoder().config) else CausalRows)(text, hidden, mask)


def has_t5_layers(text: Any) -> bool:
    """Tell whether a model is a T5 whose decoder has the parts that :class:`T5Trees` calls one by one."""
    if text.config.model_type not in T5_LIKE:
        return False
    try:
        decoder = text.get_decoder()
        attrgetter("embed_tokens", "final_layer_norm")(decoder)
        for block in decoder.block:
            itself, cross, _ = block.layer
            _ATTENTION_PARTS(itself.SelfAttention), _ATTENTION_PARTS(cross.EncDecAttention)
            attrgetter("layer_norm")(itself), attrgetter("layer_norm")(cross)
        attrgetter("compute_bias")(decoder.block[0].layer[0].SelfAttention)
    except (AttributeError, TypeError, ValueError, IndexError):
        return False
    return True


def takes_trees(config: Any) -> bool:
    """Tell whether a causal model sees whatever a mask lets it see, and takes positions from ``position_ids`` alone.

    transformers has no public name for the attention in use: where the private one is gone, the answer is no.
    """
    return (
        config.model_type in CAUSAL and _sees_all(config) and getattr(config, "_attn_implementation", None) in ANY_MASK
    )


def _sees_all(config: Any) -> bool:
    """Tell whether no window slides over the text and positions do not depend on its length."""
    return (
        set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and (getattr(config, "sliding_window", None) is None or getattr(config, "use_sliding_window", True) is False)
        and (getattr(config, "rope_parameters", None) or {}).get("rope_type") not in ("dynamic", "longrope")
    )


class _Grown(NamedTuple):
    """New nodes of all users.

    Attributes:
        ids: (F,) their tokens, user after user.
        users: (F,) the numbers of their users.
        columns: (F,) their places among the W of their user.
        distance: (U, W, G) how many tokens before a new node each node stands; -1 where it is not on its path.
        depth: (F,) their places on their paths, from 0.
        last: for each user and chunk its last node.
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
        """Add the nodes of chunks, see :meth:`States.extend`."""
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
        return _Grown(
            ids=ids,
            users=users,
            columns=places,
            distance=torch.from_numpy(distance).to(device),
            depth=depths,
            last=last,
        )


class T5Trees:
    """States of a T5's decoder: keys and values of a user's tree are computed once, and so are those of the input.

    A node sees its ancestors only, at the distance that it has from them in the text.

    The decoder's layers are called one by one, as its ``forward`` does without dropout. That method knows no trees; and
    here everything but the attention is computed for the nodes alone, without the padding of smaller trees.

    Args:
        text: a model that :func:`has_t5_layers`.
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
        self.unseen_input = _unseen(mask[:, None, None], keys.dtype)  # with autocast it is not that of hidden
        self.distance_bias = self.unseen_input.new_zeros(self.decoder.block[0].layer[0].SelfAttention.n_heads, 0)

    def extend(self, chunks: Chunks) -> tuple[Tensor, list[list[int]]]:
        """See :class:`States`."""
        grown = self.forest.grow(chunks, self.unseen_input.device)
        place = grown.users.new_zeros(grown.distance.shape[:2])  # padding is a copy of any node, and is not used
        place[grown.users, grown.columns] = torch.arange(len(grown.ids), device=place.device)
        bias = self._bias(grown.distance)
        at = grown.users, grown.columns
        states = self.decoder.embed_tokens(grown.ids)
        for i, block in enumerate(self.decoder.block):
            itself, cross, feed = block.layer
            attention, normed = itself.SelfAttention, itself.layer_norm(states)
            query, key, value = (
                _heads(part(normed)[place], attention.n_heads) for part in (attention.q, attention.k, attention.v)
            )
            old = self.tree[i]
            self.tree[i] = torch.cat([old[0], key], 2), torch.cat([old[1], value], 2)
            keys, values = self.tree[i]
            states = states + attention.o(_attend(query, keys, values, bias)[at])
            attention = cross.EncDecAttention
            query = _heads(attention.q(cross.layer_norm(states))[place], attention.n_heads)
            keys, values = self.input[i]
            states = feed(states + attention.o(_attend(query, keys, values, self.unseen_input)[at]))
        return self.decoder.final_layer_norm(states)[place], grown.last

    def _bias(self, distance: Tensor) -> Tensor:
        """Return what is added to the scores, (U, H, W, G): T5's bias of the distance, or the least number.

        Args:
            distance: (U, W, G), see :class:`_Grown`.
        """
        longest = int(distance.max()) + 1
        if longest > self.distance_bias.shape[1]:
            biases = self.decoder.block[0].layer[0].SelfAttention.compute_bias(longest, longest)
            self.distance_bias = (
                biases[0, :, -1].flip(-1).to(self.unseen_input.dtype)
            )  # of the last token: the nearest first
        seen = self.distance_bias[:, :longest]
        table = F.pad(seen, (0, 1), value=torch.finfo(seen.dtype).min)  # (H, distances, and last what is not seen)
        return table[:, distance].transpose(0, 1).contiguous()


def _unseen(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to the scores: 0 where ``seen`` (any shape, bool), the least number elsewhere."""
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


def _heads(states: Tensor, heads: int) -> Tensor:
    """Split heads: (U, n, d) -> (U, H, n, d / H)."""
    return states.unflatten(-1, (heads, -1)).transpose(1, 2)  # type: ignore[no-any-return]


def _attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Return T5's attention, whose scores are not scaled.

    With so few queries, two products are faster on a CPU than the fused kernel, as long as keys and values are contiguous.

    Args:
        query: (U, H, W, d / H).
        keys, values: (U, H, n, d / H).
        bias: broadcasts to (U, H, W, n).

    Returns:
        (U, W, d).
    """
    scores = query @ keys.transpose(2, 3)
    return (scores.add_(bias).softmax(-1) @ values).transpose(1, 2).flatten(2)


class CausalTrees:
    """States of a causal model: a user's prompt is read once, and so is each node of the tree below it.

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
        """Embeddings (U, n, d), what each sees (U, n, all so far), its position (U, n) -> states (U, n, d)."""
        states: Tensor = self.decoder(
            inputs_embeds=embeddings,
            attention_mask=_unseen(seen[:, None], embeddings.dtype),
            position_ids=position,
            use_cache=True,
            **{self.cache_name: self.cache},
        ).last_hidden_state
        return states


class Rows:
    """States of any encoder-decoder's decoder: each partial profile is a row and is read anew each time.

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
        spread = states.new_zeros(len(self.hidden), new, states.shape[-1])
        last: list[list[int]] = []
        row = 0
        for b, user in enumerate(chunks):
            column = 0
            last.append([])
            for _, tokens in user:
                count, end = len(tokens), len(paths[row])
                spread[b, column : column + count] = states[row, end - count : end]
                self.paths[b].append(paths[row])
                last[b].append(len(self.paths[b]) - 1)
                column, row = column + count, row + 1
        return spread, last

    def _read(self, users: list[int], paths: list[tuple[int, ...]]) -> Tensor:
        """Return the states (Q, longest, d) of the tokens of partial profiles, whose users are given."""
        states: Tensor = self.decoder(
            input_ids=self._ids(paths),
            encoder_hidden_states=self.hidden[users],
            encoder_attention_mask=self.mask[users],
            use_cache=False,
        ).last_hidden_state
        return states

    def _ids(self, paths: list[tuple[int, ...]]) -> Tensor:
        """Return (Q, longest) long, filled up behind."""
        rows = [torch.tensor(path, device=self.hidden.device) for path in paths]
        return pad_sequence(rows, batch_first=True)


class CausalRows(Rows):
    """States of any causal model: each partial profile is read anew each time, its user's prompt before it.

    It needs neither masks nor positions nor a cache, only that no token of the model sees a later one.
    """

    def _read(self, users: list[int], paths: list[tuple[int, ...]]) -> Tensor:
        """See :meth:`Rows._read`: (Q, longest, d)."""
        profiles = self.decoder.get_input_embeddings()(self._ids(paths))
        prompts = [self.hidden[b][self.mask[b]] for b in users]
        rows = pad_sequence([torch.cat(parts) for parts in zip(prompts, profiles, strict=True)], batch_first=True)
        states = self.decoder(inputs_embeds=rows, use_cache=False).last_hidden_state
        parts = [row[len(prompt) :][: profiles.shape[1]] for row, prompt in zip(states, prompts, strict=True)]
        return torch.stack(parts)
