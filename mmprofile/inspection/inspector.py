"""Looks inside a run: ``python -m mmprofile.inspection run=outputs/both``.

What the gate lets in of the photos at each token, where each token looks, what the model makes of each attribute, and how
that moves when a photo, a review or the gate is taken away (:mod:`mmprofile.inspection.counterfactuals`). Arrays here, files and figures
of them in :mod:`mmprofile.inspection.drawing`.

Dimension letters as in :mod:`mmprofile.model.fusion`, of one user: N text tokens, K photos, M visual tokens a photo, V = K * M, d
the text model's width. Photos, reviews, tokens and heads are counted from 0.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmprofile.config.compose import nearest
from mmprofile.errors import UserError
from mmprofile.evaluate.predictions import UNPAIRED_SEED
from mmprofile.evaluate.runs import check_data, find_prepared, load_run, make_data
from mmprofile.inputs.batch import Batch, Collator
from mmprofile.inputs.reading import Reader, Token, Word
from mmprofile.inputs.views import User, View, donors, unpaired
from mmprofile.inspection.counterfactuals import Effect, black_photos, blackened, changes, effects
from mmprofile.model.decoding import WIDTH, Decoded
from mmprofile.model.fusion import CrossAttention, Fused, Gates, SelectiveAttention, row_gates
from mmprofile.model.model import ProfileModel


class Inspection(NamedTuple):
    """What happens inside the model when it predicts one user.

    Attributes:
        user: reviews, photos, captions and gold profile.
        attribute: what is predicted of these tokens, where the model writes each attribute apart; None: the whole profile.
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
        """(N, d) gate * H*, what comes from the photos."""
        return self.gate * self.visual

    @property
    def support(self) -> np.ndarray:
        """(heads, N) long, how many visual tokens a text token attends to: those of a weight above 0."""
        return (self.attention > 0).sum(-1)

    @property
    def photo_attention(self) -> np.ndarray:
        """(N, K) each photo's share of a token's attention: summed over its visual tokens, mean over heads."""
        heads, length, _ = self.attention.shape
        photos = len(self.user.photos)
        if not photos:
            return np.zeros((length, 0), np.float32)
        return self.attention.reshape(heads, length, photos, -1).sum(-1).mean(0)

    def by_word(self, values: np.ndarray) -> np.ndarray:
        """(N, ...) -> (words, ...), the mean over each word's tokens."""
        rows = [values[slice(*word.span)].mean(0) for word in self.words]
        return np.stack(rows) if rows else values[:0]

    def by_review(self, values: np.ndarray) -> np.ndarray:
        """(N, ...) -> (reviews, ...), the mean over the tokens of each review's words; NaN for one of which none was read."""
        found = np.full((len(self.user.reviews), *values.shape[1:]), np.nan, np.float32)
        for number in range(len(found)):
            spans = [word.span for word in self.words if (word.source, word.number) == ("review", number)]
            places = [place for span in spans for place in range(*span)]
            if places:
                found[number] = values[places].mean(0)
        return found


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
        self.people = {user.user_id: user for user in users}
        self.collator = copy.copy(collator)
        self.collator.load_photo = blackened(collator.load_photo) if collator.load_photo is not None else None
        self.read = Reader(self.collator, self.views[0])

    @classmethod
    def of_run(cls, run: str, split: str = "test", folder: str | None = None) -> "Inspector":
        """Of a finished run and the users of one of its splits.

        Args:
            run: its folder.
            split: ``train``, ``validation`` or ``test``.
            folder: where the prepared data lie that it was trained on; None: where its configuration has them.

        Raises:
            UserError: no finished run, one without a gate, or its data are not there or not the same any more.
        """
        where, cfg, model = load_run(run)
        try:
            check_gate(model)
            data = make_data(cfg, model, find_prepared(cfg, model.schema, folder))
            check_data(where, data)
            return cls(model, data.collator, data.views, data.users(split), data.eval_batch_size)
        except UserError as error:
            raise UserError(f"run={run}: {error}") from error

    def select(self, ids: Sequence[str] | None = None) -> list[User]:
        """The users with these ids, or all who have photos.

        Raises:
            UserError: an id that is not there, a user without photos, or nobody with any.
        """
        if ids is None:
            found = [user for user in self.people.values() if user.photos]
            if not found:
                raise UserError(f"none of the {len(self.people)} users has a photo: there is no gate to look at")
            return found
        for name in ids:
            if name not in self.people:
                near = nearest(name, [*self.people])
                raise UserError(
                    f"user {name!r} is not one of the {len(self.people)} here{near}: take an id of the run's "
                    f"predictions.jsonl, or another split="
                )
            if not self.people[name].photos:
                raise UserError(f"user {name!r} has no photos: the gate lets nothing in, there is nothing to look at")
        return [self.people[name] for name in ids]

    def inspect(self, users: Sequence[User]) -> Iterator[Inspection]:
        """Looks at users, in order; one at a time where a model writes whole profiles, else one for each attribute of each."""
        for batch, some in self._batches(users, self.views[0]):
            fused, decoded = self._encode(batch), self.model.decode(batch)
            parts = [part.float().cpu().numpy() for part in _whole(fused, self._heads)]
            for row, (u, a) in enumerate(zip(batch.row_user.tolist(), batch.row_attribute.tolist(), strict=True)):
                tokens, words = self.read(some[u], a)
                hidden, gate, attention, visual = (part[row] for part in parts)
                n, v = len(tokens), len(some[u].photos) * self._per_photo
                yield Inspection(
                    some[u], self.model.schema.names[a] if a >= 0 else None, tokens, words,
                    gate[:n], visual[:n], hidden[:n], attention[:, :n, :v], decoded[u],
                )  # fmt: skip

    def decode(self, users: Sequence[User], width: int = WIDTH) -> list[Decoded]:
        """Profile and posteriors of each user; ``width``: see :meth:`ProfileModel.decode`."""
        return [
            one for batch, _ in self._batches(users, self.views[0]) for one in self.model.decode(batch, width=width)
        ]

    def counterfactuals(
        self, users: Sequence[User], wanted: Callable[[User, User], Mapping[str, User]] = changes, width: int = WIDTH
    ) -> list[Effect]:
        """What would be predicted if: a row per user, change, attribute and value.

        Args:
            users: with photos.
            wanted: (user, somebody else with photos) -> a name -> the user changed.
            width: of the search for posteriors.
        """
        asked = [(user, wanted(user, donor)) for user, donor in zip(users, self._donors(users), strict=True)]
        flat = [one for user, changed in asked for one in (user, *changed.values())]
        found = iter(self.decode(flat, width))
        rows: list[Effect] = []
        for user, changed in asked:
            before = next(found)
            for change in changed:
                rows += effects(user.user_id, change, before, next(found))
        return rows

    def gates(self, users: Sequence[User], view: View | None = None) -> Gates:
        """Gate and attention of users in a view, by default the one for prediction: arrays (users,), 0 without photos."""
        found = []
        for batch, some in self._batches(users, view or self.views[0]):
            rows = row_gates(self._encode(batch), batch.row_photo_mask)
            number = torch.bincount(batch.row_user, minlength=len(some))
            zeros = rows.new_zeros(len(some), rows.shape[1])
            found.append(zeros.index_add(0, batch.row_user, rows) / number[:, None])
        return Gates(*torch.cat(found).cpu().numpy().T)

    def gates_by_view(self, users: Sequence[User]) -> dict[str, Gates]:
        """The same in each view of the paradigm; hidden pixels and attributes are those of the first epoch."""
        return {view.name: self.gates(users, view) for view in self.views}

    def gates_by_photos(self, users: Sequence[User]) -> dict[str, Gates]:
        """The same with users' own photos (``paired``), somebody else's, photos that are black, and somebody else's in pixels only.

        With ``unpaired`` captions are the other's, too; with ``unpaired pixels`` words are the user's own.
        """
        others = unpaired(users, UNPAIRED_SEED)
        pixels = [replace(other, captions=user.captions) for user, other in zip(users, others, strict=True)]
        asked = {"paired": users, "unpaired": others, "unpaired pixels": pixels}
        return {name: self.gates(some) for name, some in (asked | {"black": [*map(black_photos, users)]}).items()}

    @property
    def _heads(self) -> int:
        fusion: Any = self.model.fusion
        return int(fusion.attention.heads)

    @property
    def _per_photo(self) -> int:
        return int(self.model.vision.count)  # type: ignore[union-attr]

    def _donors(self, users: Sequence[User]) -> list[User]:
        """Somebody else with photos for each user."""
        others = [user for user in self.people.values() if user.photos]
        places = {other.user_id: place for place, other in enumerate(others)}
        order = donors(len(others), UNPAIRED_SEED)
        return [others[order[places[user.user_id]]] if user.user_id in places else others[0] for user in users]

    def _batches(self, users: Sequence[User], view: View) -> Iterator[tuple[Batch, Sequence[User]]]:
        device = next(self.model.parameters()).device
        for first in range(0, len(users), self.batch_size):
            some = users[first : first + self.batch_size]
            plain = [replace(user, profile=user.profile if view.profile else None, weights={}) for user in some]
            yield self.collator(plain, (view,)).to(device), some

    @torch.no_grad()
    def _encode(self, batch: Batch) -> Fused:
        return self.model.encode(batch)


def check_gate(model: ProfileModel) -> None:
    """Refuses a model that nothing of the photos gets into through a gate.

    Raises:
        UserError: says what the model has instead.
    """
    modality, kind = model.settings["inputs"]["modality"], model.settings["fusion"]["kind"]
    if modality in ("text", "uni"):
        what = f"its paradigm ({modality}) shows the model no photos"
    elif model.head is not None:
        what = "classifiers stand in the decoder's place"
    elif model.vision is None or not isinstance(model.fusion, CrossAttention | SelectiveAttention):
        what = f"its fusion is {kind}"
    else:
        return
    raise UserError(
        f"there is no gate to look at: {what}; train with paradigm=multi or both, and model.fusion.kind=xattn"
    )


def _whole(fused: Fused, heads: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, gate, attention and H*; zeros where nobody has photos."""
    hidden = fused.hidden
    if fused.gate is None or fused.attention is None or fused.visual is None:
        nothing = torch.zeros_like(hidden)
        return hidden, nothing, hidden.new_zeros(len(hidden), heads, hidden.shape[1], 0), nothing
    return hidden, fused.gate, fused.attention, fused.visual
