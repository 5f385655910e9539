"""Prepared folder -> batches: the LightningDataModule."""

import io
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from torch.utils.data import DataLoader, Sampler
from torchdata.stateful_dataloader import StatefulDataLoader

from datamodules.draws import Draws
from datamodules.prepared import Prepared
from mmprofile.errors import UserError
from mmprofile.inputs.batch import Batch, Collator
from mmprofile.inputs.views import VIEW_SCHEDULES, Example, InputSettings, Masking, User, View
from mmprofile.model.model import ProfileModel


class PhotoPixels:
    """Photo id -> uint8 (3, H, W) at the model's size: decoded from the prepared folder, the latest ones remembered.

    Args:
        prepared: where the JPEG bytes lie.
        transform: RGB image -> uint8 (3, H, W).
        cache_mb: memory for decoded photos, in MiB; 0 remembers none.
    """

    def __init__(self, prepared: Prepared, transform: Callable[[Image.Image], np.ndarray], cache_mb: int) -> None:
        self.prepared, self.transform, self.left = prepared, transform, cache_mb << 20
        self.cache: OrderedDict[str, np.ndarray] = OrderedDict()

    def __call__(self, photo_id: str) -> np.ndarray:
        if photo_id in self.cache:
            self.cache.move_to_end(photo_id)
            return self.cache[photo_id]
        jpeg = self.prepared.jpeg(photo_id)
        pixels = np.asarray(self.transform(Image.open(io.BytesIO(jpeg)).convert("RGB")))
        self.cache[photo_id] = pixels
        self.left -= pixels.nbytes
        while self.left < 0 and self.cache:
            self.left += self.cache.popitem(last=False)[1].nbytes
        return pixels


class EpochSampler(Sampler[int]):
    """A seeded permutation that differs from epoch to epoch; Lightning calls ``set_epoch``."""

    def __init__(self, size: int, seed: int, epoch: int = 0) -> None:
        self.size, self.seed, self.epoch = size, seed, epoch

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng([self.seed, self.epoch]).permutation(self.size).tolist())

    def __len__(self) -> int:
        return self.size


class BucketBatches(Sampler[list[tuple[int, int]]]):
    """Batches of users of similar text length, in random order, the same on every rank.

    The permutation is cut into pools of ``pool`` batches, each pool is sorted by length and cut into batches, and the
    batches are shuffled. Rank r of w takes every w-th user of each: together the ranks have the batches that one process has
    whose batches are w times as large. A last batch of fewer than w users is dropped.

    Args:
        sampler: the order of the users in an epoch.
        lengths: epoch -> a length per user.
        batch_size: users per batch of a rank.
        rank, world: whose batches, of how many ranks.
        pool: batches sorted by length together.

    Yields:
        Lists of (epoch, index), so that masks can depend on the epoch in any worker.
    """

    def __init__(
        self,
        sampler: EpochSampler,
        lengths: Callable[[int], Sequence[int]],
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        pool: int = 16,
    ) -> None:
        self.sampler, self.lengths, self.pool = sampler, lengths, pool
        self.size, self.rank, self.world = batch_size * world, rank, world

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = self.sampler.epoch, list(self.sampler)
        lengths = self.lengths(epoch)
        batches: list[list[int]] = []
        for start in range(0, len(order), self.pool * self.size):
            pool = sorted(order[start : start + self.pool * self.size], key=lambda i: lengths[i])
            batches += [pool[i : i + self.size] for i in range(0, len(pool), self.size)]
        np.random.default_rng([self.sampler.seed, epoch, 1]).shuffle(batches)
        for batch in batches:
            if len(batch) >= self.world:
                yield [(epoch, index) for index in batch[self.rank :: self.world]]
        self.lengths(epoch + 1)  # remembered when the next epoch asks: its first step waits less

    def __len__(self) -> int:
        whole, rest = divmod(len(self.sampler), self.size)
        return whole + (rest >= self.world)


@dataclass
class TrainCollate:
    """A list of (epoch, user) -> batch, by the ``paired`` schedule or, one view each, by the ``sampled`` one.

    With ``size`` it is a list of batches of so many users, the last one of the rest.
    """

    collator: Collator
    views: tuple[View, ...]
    weights: Sequence[float] | None
    seed: int
    size: int | None = None

    def __call__(self, items: Sequence[tuple[int, User]]) -> Batch | list[Batch]:
        if self.size is None:
            return self._batch(items)
        return [self._batch(items[start : start + self.size]) for start in range(0, len(items), self.size)]

    def _batch(self, items: Sequence[tuple[int, User]]) -> Batch:
        epoch, users = items[0][0], [user for _, user in items]
        drawn = None
        if self.weights is not None:
            share = np.asarray(self.weights) / sum(self.weights)
            # One draw per user and epoch, whatever batch the user is in.
            drawn = [
                int(np.random.default_rng([self.seed, epoch, *user.user_id.encode()]).choice(len(share), p=share))
                for user in users
            ]
        return self.collator(users, self.views, epoch, drawn)


@dataclass
class EvalCollate:
    """A list of users -> batch in the one view that prediction uses."""

    collator: Collator
    view: View

    def __call__(self, users: Sequence[User]) -> Batch:
        return self.collator(users, (self.view,))


class _Epochs:
    """Training users indexed by (epoch, index), passing the epoch on."""

    def __init__(self, draws: Draws, size: int) -> None:
        self.draws, self.size = draws, size

    def __getitem__(self, item: tuple[int, int]) -> tuple[int, User]:
        epoch, index = item
        return epoch, self.draws.training(epoch, index)

    def __len__(self) -> int:
        return self.size


class Prefetcher:
    """A stateful loader read one batch ahead, in a thread: a step does not wait for its batch.

    Args:
        loader: whose state is taken with every batch, so that resuming repeats none and leaves out none.
    """

    def __init__(self, loader: StatefulDataLoader) -> None:
        self.loader = loader
        self._state: dict[str, Any] | None = None
        self._next: Future | None = None

    @property
    def batch_sampler(self) -> Any:
        """Return the sampler, which Lightning tells the epoch."""
        return self.loader.batch_sampler

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch | list[Batch]]:
        batches = iter(self.loader)

        def fetch() -> tuple[Batch | list[Batch] | None, dict[str, Any]]:
            return next(batches, None), self.loader.state_dict()

        with ThreadPoolExecutor(1) as thread:
            self._next = thread.submit(fetch)
            while True:
                batch, state = self._next.result()
                if batch is None:
                    return
                self._next, self._state = thread.submit(fetch), state
                yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the place of the last batch that was yielded, not of the one that waits; after an epoch, the next one's start."""
        if self._state is None or self._next is None:
            return self.loader.state_dict()
        return {} if self._next.result()[0] is None else self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the batch that was yielded last."""
        self.loader.load_state_dict(state)
        self._state = self._next = None


class ProfileDataModule(pl.LightningDataModule):
    """Batches for training, validation and test of one prepared folder.

    Args:
        folder: a prepared folder.
        model: gives tokenizer, grammar and photo transform.
        views: the paradigm's views, the one for prediction first.
        inputs: ``max_tokens``, ``encoding``, and those of :class:`datamodules.draws.Draws`.
        masking: probabilities of hiding.
        schedule: ``paired``: every user in all views; ``sampled``: in one view, drawn by ``weights``.
        weights: a weight per view.
        seed: of order, masks and drawn views.
        batch_size: users per step, on each rank.
        micro_batch_size: users whose part of a step is computed at a time; None: all.
        eval_batch_size: users per step of validation and test.
        workers: processes that make batches; 0: the main one.
        cache_mb: memory for decoded photos, per process.

    Raises:
        UserError: the folder's schema is not the model's, an empty split, an unknown schedule, or an impossible size.
    """

    def __init__(
        self,
        folder: Path,
        model: ProfileModel,
        views: tuple[View, ...],
        inputs: InputSettings,
        masking: Masking,
        schedule: str = "paired",
        weights: Sequence[float] = (),
        seed: int = 0,
        batch_size: int = 16,
        micro_batch_size: int | None = None,
        eval_batch_size: int = 64,
        workers: int = 0,
        cache_mb: int = 512,
    ) -> None:
        super().__init__()
        if schedule not in VIEW_SCHEDULES:
            raise UserError(f"paradigm.schedule={schedule!r} is not one of {', '.join(VIEW_SCHEDULES)}")
        if micro_batch_size is not None and micro_batch_size < 1:
            raise UserError(f"loader.micro_batch_size={micro_batch_size}: give 1 or more, or null")
        captions = any(view.captions != "none" for view in views)
        self.draws = Draws(folder, model.schema, inputs, captions, model.selector)
        self.prepared = self.draws.prepared
        self.views, self.inputs, self.seed, self.workers = views, self.draws.inputs, seed, workers
        self.batch_size, self.micro_batch_size, self.eval_batch_size = batch_size, micro_batch_size, eval_batch_size
        pixels = PhotoPixels(self.prepared, model.transform, cache_mb) if model.transform is not None else None
        self.collator = model.collator(self.inputs, pixels, masking, seed)
        every = list(weights or [1.0] * len(views))
        self.loss_weights = every if schedule == "paired" else None
        self.draw_weights = every if schedule == "sampled" else None

    def users(self, split: str) -> list[User]:
        """See :meth:`datamodules.draws.Draws.users`."""
        return self.draws.users(split)

    def judged(self, split: str) -> list[User]:
        """See :meth:`datamodules.draws.Draws.judged`."""
        return self.draws.judged(split)

    def examples(self, split: str) -> list[Example]:
        """See :meth:`datamodules.draws.Draws.examples`."""
        return self.draws.examples(split)

    def steps_per_epoch(self, world: int = 1) -> int:
        """Return the optimizer steps of an epoch on each of ``world`` ranks."""
        return len(self._batches(0, 0, world))

    def train_dataloader(self) -> Prefetcher:
        """Return training batches; they can be resumed within an epoch."""
        trainer = self.trainer
        epoch, rank, world = (trainer.current_epoch, trainer.global_rank, trainer.world_size) if trainer else (0, 0, 1)
        loader = StatefulDataLoader(
            _Epochs(self.draws, len(self.users("train"))),
            batch_sampler=self._batches(epoch, rank, world),
            collate_fn=TrainCollate(self.collator, self.views, self.draw_weights, self.seed, self.micro_batch_size),
            num_workers=self.workers,
            persistent_workers=self.workers > 0,  # they remember tokens and pixels
        )
        return Prefetcher(loader)

    def val_dataloader(self) -> DataLoader:
        """Return this rank's users of the validation split in the view that prediction uses."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return self.loader(self.users("validation")[rank::world])

    def loader(self, users: Sequence[User]) -> DataLoader:
        """Return any users in the view that prediction uses, in order."""
        return DataLoader(
            users,  # type: ignore[arg-type]
            batch_size=self.eval_batch_size,
            collate_fn=EvalCollate(self.collator, self.views[0]),
            num_workers=self.workers,
        )

    def _batches(self, epoch: int, rank: int, world: int) -> BucketBatches:
        sampler = EpochSampler(len(self.users("train")), self.seed, epoch)
        return BucketBatches(sampler, self._lengths, self.batch_size, rank, world)

    def _lengths(self, epoch: int) -> list[int]:
        """Return the number of tokens of each training user's reviews in an epoch."""
        users = [self.draws.training(epoch, index) for index in range(len(self.users("train")))]
        tokens = iter(self.collator.review_tokens([text for user in users for text in user.reviews]))
        return [sum(len(next(tokens)) for _ in user.reviews) for user in users]
