"""Looks inside a trained model while it predicts users.

It records what the gate lets in of the photos at each token, where each token attends, the posterior of each attribute, and
how that moves when a photo, a review or the gate is taken away (:mod:`mmprofile.inspection.counterfactuals`). Arrays are
made here; :mod:`mmprofile.inspection.drawing` turns them into files and figures.

Dimension letters as in :mod:`mmprofile.model`, of one user: N text tokens, K photos, M visual tokens a photo,
V = K * M, d the text model's width. Photos, reviews, tokens and heads are counted from 0.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmprofile.errors import UserError, nearest
from mmprofile.evaluate.predictions import UNPAIRED_SEED
from mmprofile.evaluate.runs import checked_data, load_run
from mmprofile.inputs.batch import Batch, Collator
from mmprofile.inputs.data import BatchData
from mmprofile.inputs.reading import Reader, Token, Word
from mmprofile.inputs.views import User, View, donors, unpaired
from mmprofile.inspection.counterfactuals import Effect, black_photos, blackened, changes, effects
from mmprofile.model.decoding import SEARCH_WIDTH, Decoded
from mmprofile.model.fusion import CrossAttention, Fused, Gates, SelectiveAttention, row_gates
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import check_purpose


class Inspection(NamedTuple):
    """What happens inside the model when it predicts one user.

    Attributes:
        user: reviews, photos, captions and gold profile.
        attribute: what is predicted from these tokens, where the model writes each attribute apart; None: the whole profile.
        tokens: N.
        words: those of reviews and captions, in order; ``review:``, ``photo:`` and ends of texts are no words.
        gate: (N, d) float32, 0 without photos.
        visual: H*, (N, d) float32, what the gate multiplies.
        hidden: (N, d) float32, what the decoder reads: H_txt + gate * H* with ``xattn``.
        attention: (heads, N, V) float32, rows sum to 1; V = 0 without photos.
        decoded: the profile and each attribute's posterior.
    """

    user: User
    attribute: str | None
    tokens: list[Token]
    words: list[Word]
    gate: np.ndarray
    visual: np.ndarray
    hidden: np.ndarray
    attention: np.ndarray
    decoded: Decoded

    @property
    def added(self) -> np.ndarray:
        """gate * H*, what comes from the photos: (N, d)."""
        return self.gate * self.visual

    @property
    def support(self) -> np.ndarray:
        """The number of visual tokens that each text token attends to, those with a weight above 0: (heads, N) long."""
        return (self.attention > 0).sum(-1)

    @property
    def photo_attention(self) -> np.ndarray:
        """Each photo's share of each token's attention, summed over its visual tokens, mean over heads: (N, K)."""
        heads, length, _ = self.attention.shape
        photos = len(self.user.photos)
        if not photos:
            return np.zeros((length, 0), np.float32)
        return self.attention.reshape(heads, length, photos, -1).sum(-1).mean(0)

    def by_word(self, values: np.ndarray) -> np.ndarray:
        """Return the mean over each word's tokens: (N, ...) -> (words, ...)."""
        rows = [values[slice(*word.span)].mean(0) for word in self.words]
        return np.stack(rows) if rows else values[:0]

    def by_review(self, values: np.ndarray) -> np.ndarray:
        """Return the mean over the tokens of each review's words: (N, ...) -> (reviews, ...); NaN for a review cut off."""
        means = np.full((len(self.user.reviews), *values.shape[1:]), np.nan, np.float32)
        for number in range(len(means)):
            spans = [word.span for word in self.words if (word.source, word.number) == ("review", number)]
            places = [place for span in spans for place in range(*span)]
            if places:
                means[number] = values[places].mean(0)
        return means


class Inspector:
    """Looks at users as a model with a gate reads them in order to predict.

    Args:
        model: with a gate; put into evaluation mode.
        collator: of the model.
        views: the paradigm's, the one for prediction first.
        users: to choose from.
        batch_size: users at a time.

    Raises:
        UserError: the model has no gate.
    """

    def __init__(
        self,
        model: ProfileModel,
        collator: Collator,
        views: Sequence[View],
        users: Sequence[User],
        batch_size: int = 64,
    ) -> None:
        check_gate(model)
        self.model, self.views, self.batch_size = model.eval(), tuple(views), batch_size
        self.users_by_id = {user.user_id: user for user in users}
        self.collator = copy.copy(collator)
        self.collator.load_photo = blackened(collator.load_photo) if collator.load_photo is not None else None
        self.reader = Reader(self.collator, self.views[0])
        self.purpose: str | None = None
        """Of sensitive attributes; see :func:`mmprofile.profile.schema.check_purpose`."""

    @classmethod
    def of_data(cls, model: ProfileModel, data: BatchData, split: str) -> "Inspector":
        """Return an inspector of a model and the users of a split of its data.

        Raises:
            UserError: the model has no gate, or the split has no users.
        """
        return cls(
            model=model,
            collator=data.collator,
            views=data.views,
            users=data.users(split),
            batch_size=data.eval_batch_size,
        )

    @classmethod
    def of_run(
        cls, run: str, split: str = "test", folder: str | None = None, purpose: str | None = None
    ) -> "Inspector":
        """Return an inspector of a finished run and the users of one of its splits.

        Args:
            run: its folder.
            split: ``train``, ``validation`` or ``test``.
            folder: where the prepared data are that it was trained on; None: where its configuration has them.
            purpose: what sensitive attributes are shown for; None: what the run was trained for.

        Raises:
            UserError: there is no finished run, it has no gate, its data are gone or have other users, or sensitive
                attributes have no purpose.
        """
        trained = load_run(run)
        try:
            stated = check_purpose(trained.model.schema, purpose, trained_for=trained.cfg.purpose)
            check_gate(trained.model)
            inspector = cls.of_data(trained.model, checked_data(trained, folder), split)
            inspector.purpose = stated
            return inspector
        except UserError as error:
            raise UserError(f"run={run}: {error}") from error

    def select(self, ids: Sequence[str] | None = None) -> list[User]:
        """Return the users with these ids, or all who have photos.

        Raises:
            UserError: an id is unknown, its user has no photos, or nobody has any.
        """
        if ids is None:
            users = [user for user in self.users_by_id.values() if user.photos]
            if not users:
                raise UserError(f"none of the {len(self.users_by_id)} users has a photo: there is no gate to look at")
            return users
        for name in ids:
            if name not in self.users_by_id:
                near = nearest(name, [*self.users_by_id])
                raise UserError(
                    f"user {name!r} is not one of the {len(self.users_by_id)} here{near}: take an id of the run's "
                    f"predictions.jsonl, or another split="
                )
            if not self.users_by_id[name].photos:
                raise UserError(f"user {name!r} has no photos: the gate lets nothing in, there is nothing to look at")
        return [self.users_by_id[name] for name in ids]

    def inspect(self, users: Sequence[User]) -> Iterator[Inspection]:
        """Inspect users, in order: once per user, or once per attribute where the model writes each attribute apart."""
        for batch, batch_users in self._batches(users, self.views[0]):
            fused, decoded = self._encode(batch), self.model.decode(batch)
            parts = [part.float().cpu().numpy() for part in _gate_tensors(fused, self._heads)]
            for row, (u, a) in enumerate(zip(batch.row_user.tolist(), batch.row_attribute.tolist(), strict=True)):
                user = batch_users[u]
                tokens, words = self.reader(user, a)
                hidden, gate, attention, visual = (part[row] for part in parts)
                n, v = len(tokens), len(user.photos) * self._per_photo
                yield Inspection(
                    user=user,
                    attribute=self.model.schema.names[a] if a >= 0 else None,
                    tokens=tokens,
                    words=words,
                    gate=gate[:n],
                    visual=visual[:n],
                    hidden=hidden[:n],
                    attention=attention[:, :n, :v],
                    decoded=decoded[u],
                )

    def decode(self, users: Sequence[User], width: int = SEARCH_WIDTH) -> list[Decoded]:
        """Return the profile and the posteriors of each user; ``width``: see :meth:`ProfileModel.decode`."""
        batches = self._batches(users, self.views[0])
        return [decoded for batch, _ in batches for decoded in self.model.decode(batch, width=width)]

    def counterfactuals(
        self,
        users: Sequence[User],
        change: Callable[[User, User], Mapping[str, User]] = changes,
        width: int = SEARCH_WIDTH,
    ) -> list[Effect]:
        """Predict each user before and after changes; return a row per user, change, attribute and value.

        Args:
            users: with photos.
            change: (user, another user with photos) -> the user after each change, by the change's name.
            width: of the search for posteriors.
        """
        changed = [change(user, donor) for user, donor in zip(users, self._donors(users), strict=True)]
        queries = [query for user, versions in zip(users, changed, strict=True) for query in (user, *versions.values())]
        decoded = iter(self.decode(queries, width))
        rows: list[Effect] = []
        for user, versions in zip(users, changed, strict=True):
            before = next(decoded)
            for name in versions:
                rows += effects(user.user_id, name, before, next(decoded))
        return rows

    def gates(self, users: Sequence[User], view: View | None = None) -> Gates:
        """Return gate and attention of users in a view, by default the one for prediction: (users,) each, 0 without photos."""
        means = []
        for batch, batch_users in self._batches(users, view or self.views[0]):
            rows = row_gates(self._encode(batch), batch.row_photo_mask)
            number = torch.bincount(batch.row_user, minlength=len(batch_users))
            zeros = rows.new_zeros(len(batch_users), rows.shape[1])
            means.append(zeros.index_add(0, batch.row_user, rows) / number[:, None])
        return Gates._make(torch.cat(means).cpu().numpy().T)

    def gates_by_view(self, users: Sequence[User]) -> dict[str, Gates]:
        """Return :meth:`gates` in each view of the paradigm; hidden pixels and attributes are those of the first epoch."""
        return {view.name: self.gates(users, view) for view in self.views}

    def gates_by_photos(self, users: Sequence[User]) -> dict[str, Gates]:
        """Return :meth:`gates` with the users' own photos and with others in their place.

        ``paired``: their own. ``unpaired``: another user's photos and captions. ``unpaired pixels``: another user's photos,
        but their own captions. ``black``: black photos.
        """
        others = unpaired(users, UNPAIRED_SEED)
        pixels = [replace(other, captions=user.captions) for user, other in zip(users, others, strict=True)]
        versions = {
            "paired": users,
            "unpaired": others,
            "unpaired pixels": pixels,
            "black": [*map(black_photos, users)],
        }
        return {name: self.gates(changed) for name, changed in versions.items()}

    @property
    def _heads(self) -> int:
        fusion: Any = self.model.fusion
        return int(fusion.attention.heads)

    @property
    def _per_photo(self) -> int:
        return int(self.model.vision.count)  # type: ignore[union-attr]

    def _donors(self, users: Sequence[User]) -> list[User]:
        """Return another user with photos for each user."""
        candidates = [user for user in self.users_by_id.values() if user.photos]
        places = {candidate.user_id: place for place, candidate in enumerate(candidates)}
        order = donors(len(candidates), UNPAIRED_SEED)
        return [candidates[order[places[user.user_id]]] if user.user_id in places else candidates[0] for user in users]

    def _batches(self, users: Sequence[User], view: View) -> Iterator[tuple[Batch, Sequence[User]]]:
        device = next(self.model.parameters()).device
        for first in range(0, len(users), self.batch_size):
            batch_users = users[first : first + self.batch_size]
            plain = [replace(user, profile=user.profile if view.profile else None, weights={}) for user in batch_users]
            yield self.collator(plain, (view,)).to(device), batch_users

    @torch.no_grad()
    def _encode(self, batch: Batch) -> Fused:
        return self.model.encode(batch)


def check_gate(model: ProfileModel) -> None:
    """Refuse a model whose photos do not pass a gate.

    Raises:
        UserError: says what the model has instead.
    """
    modality, kind = model.settings["inputs"]["modality"], model.settings["fusion"]["kind"]
    if modality in ("text", "uni"):
        reason = f"its paradigm ({modality}) shows the model no photos"
    elif model.head is not None:
        reason = "classifiers stand in the decoder's place"
    elif model.vision is None or not isinstance(model.fusion, CrossAttention | SelectiveAttention):
        reason = f"its fusion is {kind}"
    else:
        return
    raise UserError(
        f"there is no gate to look at: {reason}; train with paradigm=multi or both, and model.fusion.kind=xattn"
    )


def _gate_tensors(fused: Fused, heads: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return hidden states, gate, attention and H* of rows; zeros where nobody has photos.

    Shapes: (R, N, d), (R, N, d), (R, heads, N, V), (R, N, d).
    """
    hidden = fused.hidden
    if fused.gate is None or fused.attention is None or fused.visual is None:
        nothing = torch.zeros_like(hidden)
        return hidden, nothing, hidden.new_zeros(len(hidden), heads, hidden.shape[1], 0), nothing
    return hidden, fused.gate, fused.attention, fused.visual
