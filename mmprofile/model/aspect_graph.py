"""AoM's module behind the encoder (Zhou et al., ACL Findings 2023): a gate guided by nouns, then a graph convolution.

Dimension letters as in :mod:`mmprofile.model`; of the N' states of a row, visual tokens come first, then text.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmprofile.inputs.syntax import Syntax

LAYERS = 2
SHARE = 0.5
"""Share of the graph's states in the result, as in the released code."""
MASKED = -1e4


class GraphConvolution(nn.Module):
    """``relu(A (W h) / (degree + 1) + c)``, degree = sum of |A| over a row, with the self-loop.

    The released code has the plain sum, which is the same unless a cosine is negative; it can then be -1, and divides by 0.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, states: Tensor, weights: Tensor) -> Tensor:
        """States h (R, N', d) and weights A (R, N', N') -> (R, N', d)."""
        degree = weights.abs().sum(-1, keepdim=True) + 1
        return torch.relu((weights / degree).to(states.dtype) @ self.map(states) + self.bias)


class AspectGraph(nn.Module):
    """``h' = (1 - b) h + b n``, then ``H = h' + 0.5 GCN(h')``.

    n is one vector per row, its nouns' states weighted by ``softmax(w tanh(W n_j))``. The released code adds a term of the
    state h inside the softmax, which is the same for all nouns and has no effect. It also lets padded nouns take part;
    here they do not. ``b = sigmoid(W_b [W_1 h; W_2 n])`` is one number per state. A row without nouns keeps h.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.noun, self.noun_score = nn.Linear(width, width), nn.Linear(width, 1, bias=False)
        self.gate_state, self.gate_noun = nn.Linear(width, width), nn.Linear(width, width)
        self.gate = nn.Linear(2 * width, 1)
        self.layers = nn.ModuleList(GraphConvolution(width) for _ in range(LAYERS))

    def forward(self, hidden: Tensor, mask: Tensor, syntax: Syntax) -> Tensor:
        """Refine the encoder's states.

        Args:
            hidden, mask: states (R, N', d) and (R, N').
            syntax: of the rows' texts.

        Returns:
            (R, N', d).
        """
        ahead = mask.sum(1) - syntax.lengths
        place = torch.arange(mask.shape[1], device=mask.device) - ahead[:, None]
        inside = (place >= 0) & mask
        nouns = syntax.nouns.gather(1, place.clamp(0, syntax.nouns.shape[1] - 1)) & inside
        row, first, second = syntax.edges
        edges = torch.stack([row, first + ahead[row], second + ahead[row]])
        hidden = self.guided(hidden, nouns)
        linked = links(nouns, mask & ~inside, edges)
        states = hidden
        weights = adjacency(hidden, linked)
        for layer in self.layers:
            states = layer(states, weights)
        return hidden + SHARE * states

    def guided(self, hidden: Tensor, nouns: Tensor) -> Tensor:
        """Apply the gate: states (R, N', d) and nouns (R, N') bool -> (R, N', d)."""
        scores = self.noun_score(torch.tanh(self.noun(hidden))).squeeze(-1).float()
        weights = scores.masked_fill(~nouns, MASKED).softmax(-1) * nouns
        noun = (weights.to(hidden.dtype)[:, None] @ hidden).expand_as(hidden)
        gate = torch.sigmoid(self.gate(torch.cat([self.gate_state(hidden), self.gate_noun(noun)], -1)))
        return torch.where(nouns.any(1)[:, None, None], (1 - gate) * hidden + gate * noun, hidden)


def links(nouns: Tensor, visual: Tensor, edges: Tensor) -> Tensor:
    """Return which states are linked: by the text's edges, and each visual token with each noun.

    Args:
        nouns, visual: (R, N') bool.
        edges: (3, E) long, row and two places.

    Returns:
        (R, N', N') bool, symmetric.
    """
    linked = visual[:, :, None] & nouns[:, None, :]
    row, first, second = edges
    linked[row, first, second] = True
    return linked | linked.transpose(1, 2)


def adjacency(hidden: Tensor, linked: Tensor) -> Tensor:
    """Return the cosines of linked states, 1 on the diagonal; no gradient, as in the released code.

    States (R, N', d) and links (R, N', N') bool -> (R, N', N').
    """
    with torch.no_grad():
        unit = F.normalize(hidden.float(), dim=-1)
        weights = (unit @ unit.transpose(1, 2)).float() * linked
        weights.diagonal(dim1=1, dim2=2).fill_(1)
        return weights
