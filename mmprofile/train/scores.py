"""Scores of the validation split while a model trains: counts of batches and ranks, summed before anything is divided."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from mmprofile.profile.metrics import Counts, class_spans, count, macro_scores, mean_of_attributes
from mmprofile.profile.schema import Profile, Schema


class SplitScores(NamedTuple):
    """Scores of all users together, as :func:`mmprofile.profile.metrics.score` gives them.

    Attributes:
        macro_f1: mean over the attributes that have a scored user, 0..100.
        per_attribute: macro-F1 of each attribute; NaN without a scored user.
        parse_fault_rate: share of the users whose text has a fault.
    """

    macro_f1: float
    per_attribute: dict[str, float]
    parse_fault_rate: float


class SplitMetric(Metric):
    """Macro-F1 of a split whose users come in batches, on one rank or several.

    A mean of the ranks' macro-F1 would not be the macro-F1 of the split. Hence the states are counts per class (C,), which
    are summed over the ranks. Ranks may see different users, or all of them the same users: to count each user equally
    often changes no score. To count only some of them twice would (PyTorch's ``DistributedSampler`` does it where the
    ranks do not divide the split).

    Args:
        schema: the attributes that are scored.
    """

    full_state_update = False
    tp: Tensor
    fp: Tensor
    fn: Tensor
    users: Tensor
    faulty: Tensor

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        classes = sum(len(attribute.values) for attribute in schema.attributes)
        for name, shape in (("tp", classes), ("fp", classes), ("fn", classes), ("users", ()), ("faulty", ())):
            self.add_state(name, torch.zeros(shape, dtype=torch.long), dist_reduce_fx="sum")

    def update(
        self, gold: Sequence[Profile], predicted: Sequence[Profile], faults: Sequence[Sequence[str]] = ()
    ) -> None:
        """Add the users of a batch; ``faults``: the parse faults of each, if there are any.

        Raises:
            UserError: a gold value that the schema does not list.
        """
        counts = count(self.schema, gold, predicted)
        for state, table in ((self.tp, counts.tp), (self.fp, counts.fp), (self.fn, counts.fn)):
            state += torch.from_numpy(table.sum(axis=0)).to(state)
        self.users += len(gold)
        self.faulty += sum(map(bool, faults))

    def compute(self) -> SplitScores:
        """Return the scores of all users of all ranks."""
        tp, fp, fn = (state.cpu().double().numpy()[None] for state in (self.tp, self.fp, self.fn))
        f1 = macro_scores(Counts(tp=tp, fp=fp, fn=fn, spans=class_spans(self.schema)), np.ones((1, 1))).present
        return SplitScores(
            macro_f1=float(mean_of_attributes(f1)[0]),
            per_attribute=dict(zip(self.schema.names, f1[0].tolist(), strict=True)),
            parse_fault_rate=int(self.faulty) / int(self.users),
        )
