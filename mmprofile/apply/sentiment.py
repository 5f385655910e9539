"""Classify the sentiment of a review, with and without a profile of its writer (Qiang et al., section 7.3).

Dimension letters: R reviews of a batch, N tokens of the longest, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler
from transformers import AutoModelForSequenceClassification

from mmprofile.config.settings import ClassifierConfig, OptimConfig
from mmprofile.errors import UserError
from mmprofile.inputs.batch import pad
from mmprofile.inputs.views import Example, User
from mmprofile.model.backbones import TRAINED_DTYPES, add_adapter, attention_queries
from mmprofile.model.checkpoints import DTYPES, load_config, load_model, load_tokenizer
from mmprofile.model.hub import fetch
from mmprofile.profile.schema import Profile, Schema
from mmprofile.train.guard import StepGuard
from mmprofile.train.module import Learner
from mmprofile.train.scores import SplitMetric

LEAST_ROOM = 16  # tokens of a review


class Encoder:
    """``review: ...`` and ``profile: ...`` as token ids. A review that is too long is cut; the profile is never cut.

    Args:
        tokenizer: of the classifier. Its special tokens stay around the text: one end token, whose state T5 and BART
            classify, and BERT's first token.
        limit: tokens that the classifier can read; None: any number.
        max_tokens: of a review.
    """

    def __init__(self, tokenizer: Any, limit: int | None, max_tokens: int) -> None:
        self.tokenizer, self.limit, self.max_tokens = tokenizer, limit, max_tokens
        inside, whole = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
        start = next(i for i in range(len(whole)) if whole[i : i + len(inside)] == inside)
        first, last = [tokenizer.cls_token_id], [tokenizer.eos_token_id or tokenizer.sep_token_id]
        self.before = whole[:start] or [token for token in first if token is not None]
        self.after = whole[start + len(inside) :] or [token for token in last if token is not None]
        self.special = {*self.before, *self.after, tokenizer.pad_token_id}

    def __call__(self, review: str, profile: str | None = None) -> list[int]:
        """Return the tokens of a review and of its writer's profile, if there is one.

        Raises:
            UserError: the profile leaves no room for the review.
        """
        tail = self._tokens(f" profile: {profile}") if profile is not None else []
        rest = len(self.before) + len(tail) + len(self.after)
        room = self.max_tokens if self.limit is None else min(self.max_tokens, self.limit - rest)
        if room < LEAST_ROOM:
            raise UserError(
                f"the classifier reads {self.limit} tokens, the profile takes {len(tail)} and inputs.max_tokens is "
                f"{self.max_tokens}: {room} are left for a review, of {LEAST_ROOM} at least"
            )
        return [*self.before, *self._tokens(f"review: {review}")[:room], *tail, *self.after]

    def _tokens(self, text: str) -> list[int]:
        """Return the tokens of a text, without special tokens: a review may spell one."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [token for token in ids if token not in self.special]


class TextClassifier(NamedTuple):
    """A classifier as transformers builds it.

    Attributes:
        model: the classifier.
        tokenizer: its tokenizer.
        new: the parameters that are not in the checkpoint.
        limit: tokens that it can read; None: any number.
    """

    model: Any
    tokenizer: Any
    new: list[nn.Parameter]
    limit: int | None


def load_classifier(cfg: ClassifierConfig, classes: int) -> TextClassifier:
    """Return transformers' own classifier over a checkpoint.

    It classifies BERT's pooled first token, the decoder's state of T5 and BART at the end token, or the last token of a
    causal model.

    Raises:
        UserError: the checkpoint cannot be loaded, or transformers has no classifier of its kind.
    """
    if cfg.dtype not in TRAINED_DTYPES:
        raise UserError(f"classifier.dtype={cfg.dtype!r} is not one of {', '.join(TRAINED_DTYPES)}")
    checkpoint = fetch(str(cfg.text), "classifier.text", cfg.revision)
    config = load_config(checkpoint, num_labels=classes)
    tokenizer = load_tokenizer(checkpoint, config)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model, missing = load_model(
        AutoModelForSequenceClassification, checkpoint, head=True, config=config, dtype=DTYPES[cfg.dtype]
    )
    new = [parameter for key, parameter in model.named_parameters() if key in missing]
    if cfg.lora.rank:
        lora: Any = OmegaConf.to_container(cfg.lora)
        add_adapter(model, lora, new=sorted({key.rpartition(".")[0] for key in missing}))
        new = [parameter for parameter in model.parameters() if parameter.requires_grad]
    longest = [getattr(config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length]
    limit = min((n for n in longest if n is not None), default=None)
    return TextClassifier(model=model, tokenizer=tokenizer, new=new, limit=limit)


class ReviewBatch(NamedTuple):
    """Reviews as a classifier reads them.

    Attributes:
        ids: (R, N) token ids.
        mask: (R, N) 1 for tokens, 0 for padding.
        labels: (R,) classes.
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor


class Reviews(pl.LightningDataModule):
    """Batches of reviews.

    Args:
        reviews: split -> reviews.
        profiles: split -> user id -> text of the profile; empty: none is shown.
        schema: of one attribute, the class.
        encoder: turns texts into tokens.
        batch_size: reviews per step.
        seed: of the order in training.
    """

    def __init__(
        self,
        *,
        reviews: Mapping[str, Sequence[User]],
        profiles: Mapping[str, Mapping[str, str]],
        schema: Schema,
        encoder: Encoder,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.reviews, self.batch_size, self.seed = reviews, batch_size, seed
        self.pad = encoder.tokenizer.pad_token_id
        (attribute,) = schema.attributes
        self.rows = {
            split: [
                (
                    encoder(user.reviews[0], profiles[split].get(user.user_id)),
                    attribute.values.index((user.profile or {})[attribute.name][0]),
                )
                for user in users
            ]
            for split, users in reviews.items()
        }

    def examples(self, split: str) -> list[Example]:
        """Return the reviews for the classical baselines, which see no profile."""
        return [Example.of(user) for user in self.reviews[split]]

    def steps_per_epoch(self, world: int) -> int:
        """Return the optimizer steps of an epoch on each of ``world`` ranks."""
        return -(-len(self.rows["train"]) // (world * self.batch_size))

    def train_dataloader(self) -> DataLoader:
        """Return batches of training reviews, in another order each epoch; Lightning tells the sampler the epoch."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        rows: Any = self.rows["train"]
        order: Any = DistributedSampler(rows, world, rank, seed=self.seed)
        return DataLoader(rows, self.batch_size, sampler=order, collate_fn=self._collate)

    def val_dataloader(self) -> DataLoader:
        """Return batches of the validation split, the whole split on each rank."""
        return self.loader("validation")

    def loader(self, split: str) -> DataLoader:
        """Return batches of a split, in order."""
        rows: Any = self.rows[split]
        return DataLoader(rows, 4 * self.batch_size, collate_fn=self._collate)

    def _collate(self, rows: Sequence[tuple[list[int], int]]) -> ReviewBatch:
        # Lengths, not ids, tell what is padding: some tokenizers pad with a token of the text.
        ids = pad([tokens for tokens, _ in rows], self.pad)
        lengths = torch.tensor([len(tokens) for tokens, _ in rows])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        return ReviewBatch(ids=ids, mask=mask, labels=torch.tensor([label for _, label in rows]))


class SentimentModule(Learner):
    """Training of a classifier by cross-entropy; ``optim``, ``steps``, ``guard``: see :class:`mmprofile.train.module.Learner`."""

    def __init__(
        self,
        classifier: TextClassifier,
        schema: Schema,
        optim: OptimConfig,
        steps: int,
        guard: StepGuard | None = None,
    ) -> None:
        super().__init__(optim, steps, guard)
        self.model, self.schema = classifier.model.train(), schema
        new = {id(parameter) for parameter in classifier.new}
        self._groups = (
            [p for p in self.model.parameters() if p.requires_grad and id(p) not in new],
            classifier.new,
        )
        self.validation_scores = SplitMetric(schema)

    def forward(self, batch: ReviewBatch) -> Tensor:
        """Return logits, (R, C)."""
        logits: Tensor = self.model(input_ids=batch.ids, attention_mask=batch.mask).logits
        return logits.float()

    def training_step(self, batch: ReviewBatch, index: int) -> Tensor:
        """Return the cross-entropy of a batch, a scalar."""
        loss = F.cross_entropy(self(batch), batch.labels)
        self.log("loss", loss.detach(), prog_bar=True, batch_size=len(batch.labels))
        self._losses.append(loss.detach())
        return loss

    def validation_step(self, batch: ReviewBatch, index: int) -> None:
        """Classify the reviews of a batch."""
        gold, predicted = batch.labels.tolist(), self(batch).argmax(1).tolist()
        self.validation_scores.update([self.profile(i) for i in gold], [self.profile(i) for i in predicted])

    def on_validation_epoch_end(self) -> None:
        """Log macro-F1 of the whole split."""
        macro_f1 = self.validation_scores.compute().macro_f1
        self.validation_scores.reset()
        self.end_epoch(macro_f1)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return Adam and its schedule, see :meth:`Learner.adam`."""
        return self.adam(*self._groups, attention_queries(self.model))

    def profile(self, index: int) -> Profile:
        """Return a class as a profile of one attribute."""
        (attribute,) = self.schema.attributes
        return {attribute.name: (attribute.values[index],)}

    @torch.no_grad()
    def predict(self, batches: DataLoader) -> list[str]:
        """Return the likeliest class of each review, rendered."""
        self.eval()
        classes = [self(ReviewBatch(*(part.to(self.device) for part in batch))).argmax(1).tolist() for batch in batches]
        return [self.schema.render(self.profile(index)) for indices in classes for index in indices]
