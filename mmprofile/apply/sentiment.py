"""Sentiment of a review, with and without a profile of its writer (Qiang et al., section 7.3): reviews and classifiers."""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from mmprofile.config.settings import OptimConfig
from mmprofile.errors import UserError
from mmprofile.evaluate.predictions import predict_users, write_predictions
from mmprofile.inputs.batch import pad
from mmprofile.inputs.views import Example, User, donors, user_rng
from mmprofile.model.backbones import DTYPES, add_adapter
from mmprofile.model.checkpoints import loading, local_name
from mmprofile.model.model import ProfileModel
from mmprofile.profile.metrics import score
from mmprofile.profile.schema import Profile, Schema
from mmprofile.train.module import Learner

SPLITS = ("train", "validation", "test")
PROFILES = ("none", "generated", "gold", "shuffled")
LEAST_ROOM = 16  # tokens of a review
_HELD_OUT = 1_000_033  # purpose of a draw: no epoch's, whose draws are of the same reviews


class HeldOut(NamedTuple):
    """Reviews to classify. Each is a :class:`User` of one review, whose profile is the review's sentiment.

    ``alone``: users left out because all of their reviews went into the profile; ``unrated``: because no other one has
    stars that are a value of the schema.
    """

    reviews: list[User]
    alone: int
    unrated: int

    @property
    def left_out(self) -> dict[str, int]:
        """For ``metrics.json``."""
        return {"no_other_review": self.alone, "no_stars": self.unrated}


class Batch(NamedTuple):
    """Token ids (B, N), which there are (B, N), and classes (B,)."""

    ids: Tensor
    mask: Tensor
    labels: Tensor


def held_out(draws: Any, split: str, schema: Schema, count: int) -> HeldOut:
    """Draws up to ``count`` reviews of each user that are none of those their profile is made of, nor have their text.

    It depends on the run's ``inputs.sample_seed`` and the user alone: it is the same for all classifiers and seeds.

    Args:
        draws: the run's :class:`datamodules.draws.Draws`.
        split: whose users.
        schema: of one attribute, whose values are stars.
        count: reviews of a user at most.
    """
    (attribute,) = schema.attributes
    reviews, alone, unrated = list[User](), 0, 0
    for row, (drawn, user) in zip(draws.prepared.datasets[split], draws.of(split), strict=True):
        ids, texts = {one["review_id"] for one in drawn}, set(user.reviews)
        others = [one for one in row["reviews"] if one["review_id"] not in ids and one["text"] not in texts]
        rated = [(one["text"], value) for one in others if (value := sentiment(one["stars"])) in attribute.values]
        alone, unrated = alone + (not others), unrated + bool(others and not rated)
        rng = user_rng(draws.inputs["sample_seed"], user.user_id, _HELD_OUT)
        for i in sorted(rng.permutation(len(rated))[:count].tolist()):
            text, value = rated[i]
            reviews.append(User(user.user_id, (text,), profile={attribute.name: (value,)}))
    return HeldOut(reviews, alone, unrated)


def sentiment(stars: float | None) -> str | None:
    """A review's stars, rounded half up."""
    return None if stars is None or not math.isfinite(stars) else str(math.floor(stars + 0.5))


def shown_profiles(choice: str, model: ProfileModel, data: Any, split: str, source: "Source") -> dict[str, str]:
    """What stands beside a review: user id -> profile text, one of :data:`PROFILES`; empty for ``none``.

    ``generated``: by the model, from the run's draw of reviews; ``gold``: the labels; ``shuffled``: generated, but somebody
    else's of the split.
    """
    users = data.judged(split)
    if choice == "none":
        return {}
    found = [user.profile or {} for user in users] if choice == "gold" else source.profiles(model, data, split)
    if choice == "shuffled":
        found = [found[donor] for donor in donors(len(users), data.inputs["sample_seed"])]
    return {user.user_id: model.schema.render(profile) for user, profile in zip(users, found, strict=True)}


class Source(NamedTuple):
    """Where generated profiles come from.

    Attributes:
        weights: the file of the model's.
        cache: folder in which they are kept, for all classifiers.
        beams: see :func:`mmprofile.evaluate.predictions.predict_users`.
        progress: whether to show a bar.
    """

    weights: Path
    cache: Path
    beams: int | None
    progress: bool

    def profiles(self, model: ProfileModel, data: Any, split: str) -> list[Profile]:
        """The profile that the model writes of each user of a split, or has written before.

        The file's name tells weights, search, and what the users showed: runs may share a folder.
        """
        users = data.users(split)
        with self.weights.open("rb") as file:
            key = hashlib.file_digest(file, "sha256")
        key.update(repr((self.beams, users)).encode())
        path = self.cache / f"{split}-{key.hexdigest()[:16]}.jsonl"
        if not path.exists():
            print(f"generating the profiles of {len(users)} users ({split})", flush=True)
            label = f"profiles, {split}" if self.progress else None
            self.cache.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}")  # another classifier may be at it, too
            write_predictions(partial, predict_users(model, data, users, self.beams, label))
            partial.replace(path)
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        return [{name: tuple(values) for name, values in row["parsed"].items()} for row in rows]


class Encoder:
    """``review: ...`` and ``profile: ...`` as token ids; a review that is too long is cut, the profile never.

    Args:
        tokenizer: of the classifier. What it puts around a text stays around it; it must end in one end token, whose
            state T5 and BART classify, and begin with BERT's first token.
        limit: tokens that the classifier reads; None: any number.
        max_tokens: of a review.
    """

    def __init__(self, tokenizer: Any, limit: int | None, max_tokens: int) -> None:
        self.tokenizer, self.limit, self.max_tokens = tokenizer, limit, max_tokens
        inside, whole = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
        at = next(i for i in range(len(whole)) if whole[i : i + len(inside)] == inside)
        first, last = [tokenizer.cls_token_id], [tokenizer.eos_token_id or tokenizer.sep_token_id]
        self.before = whole[:at] or [token for token in first if token is not None]
        self.after = whole[at + len(inside) :] or [token for token in last if token is not None]
        self.special = {*self.before, *self.after, tokenizer.pad_token_id}

    def __call__(self, review: str, profile: str | None = None) -> list[int]:
        """The tokens of a review, and of its writer's profile where there is one.

        Raises:
            UserError: the profile leaves no room for the review.
        """
        behind = self._tokens(f" profile: {profile}") if profile is not None else []
        rest = len(self.before) + len(behind) + len(self.after)
        room = self.max_tokens if self.limit is None else min(self.max_tokens, self.limit - rest)
        if room < LEAST_ROOM:
            raise UserError(
                f"the classifier reads {self.limit} tokens, the profile takes {len(behind)} and inputs.max_tokens is "
                f"{self.max_tokens}: {room} are left for a review, of {LEAST_ROOM} at least"
            )
        return [*self.before, *self._tokens(f"review: {review}")[:room], *behind, *self.after]

    def _tokens(self, text: str) -> list[int]:
        """Without those with a meaning to the classifier, whatever is written in a review."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [token for token in ids if token not in self.special]


class Classifier(NamedTuple):
    """A classifier, its tokenizer, the parameters that no checkpoint brought, and the tokens it can read (None: any number)."""

    model: Any
    tokenizer: Any
    new: list[nn.Parameter]
    limit: int | None


def load_classifier(cfg: Any, classes: int) -> Classifier:
    """Transformers' own classifier over a checkpoint: BERT's pooled first token, T5's and BART's decoder at the end token, a
    causal model's last token.

    Raises:
        UserError: it cannot be had, or transformers has no classifier of its kind.
    """
    if cfg.dtype not in DTYPES:
        raise UserError(f"classifier.dtype={cfg.dtype!r} is not one of {', '.join(DTYPES)}")
    name = local_name(str(cfg.text))
    with loading("classifier.text", name):
        config = AutoConfig.from_pretrained(name, num_labels=classes)
        tokenizer: Any = AutoTokenizer.from_pretrained(name)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        config.get_text_config().pad_token_id = tokenizer.pad_token_id
        model, info = AutoModelForSequenceClassification.from_pretrained(
            name, config=config, dtype=DTYPES[cfg.dtype], output_loading_info=True
        )
    missing = set(info["missing_keys"])
    new = [parameter for key, parameter in model.named_parameters() if key in missing]
    if cfg.lora.rank:
        add_adapter(model, cfg.lora, sorted({key.rpartition(".")[0] for key in missing}))
        new = [parameter for parameter in model.parameters() if parameter.requires_grad]
    longest = [getattr(config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length]
    return Classifier(model, tokenizer, new, min((n for n in longest if n is not None), default=None))


class Reviews(pl.LightningDataModule):
    """Batches of reviews.

    Args:
        reviews: of each split.
        profiles: of each split, user id -> text; empty: none is shown.
        schema: of one attribute, the class.
        encoder: texts -> tokens.
        batch_size: reviews per step.
        seed: of their order.
    """

    def __init__(
        self,
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
        """The reviews for the classical baselines, which see no profile."""
        return [Example.of(user) for user in self.reviews[split]]

    def steps_per_epoch(self, world: int) -> int:
        """Optimizer steps of an epoch, on each of ``world`` ranks."""
        return -(-len(self.rows["train"]) // (world * self.batch_size))

    def train_dataloader(self) -> DataLoader:
        """Training reviews in another order each epoch; Lightning tells the sampler which."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        rows: Any = self.rows["train"]
        order: Any = DistributedSampler(rows, world, rank, seed=self.seed)
        return DataLoader(rows, self.batch_size, sampler=order, collate_fn=self._collate)

    def val_dataloader(self) -> DataLoader:
        """The dev split."""
        return self.loader("validation")

    def loader(self, split: str) -> DataLoader:
        """A split, in order."""
        rows: Any = self.rows[split]
        return DataLoader(rows, 4 * self.batch_size, collate_fn=self._collate)

    def _collate(self, rows: Sequence[tuple[list[int], int]]) -> Batch:
        # Lengths, not ids, tell what is there: some tokenizers pad with a token of the text.
        ids = pad([tokens for tokens, _ in rows], self.pad)
        lengths = torch.tensor([len(tokens) for tokens, _ in rows])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        return Batch(ids, mask, torch.tensor([label for _, label in rows]))


class SentimentModule(Learner):
    """Training of a classifier by cross-entropy; ``optim`` and ``steps``: see :class:`mmprofile.train.module.Learner`."""

    def __init__(self, classifier: Classifier, schema: Schema, optim: OptimConfig, steps: int) -> None:
        super().__init__(optim, steps)
        self.model, self.schema = classifier.model.train(), schema
        known = {id(parameter) for parameter in classifier.new}
        self._groups = (
            [p for p in self.model.parameters() if p.requires_grad and id(p) not in known],
            classifier.new,
        )
        self._dev: list[tuple[int, int]] = []

    def forward(self, batch: Batch) -> Tensor:
        """(B, classes) logits."""
        logits: Tensor = self.model(input_ids=batch.ids, attention_mask=batch.mask).logits
        return logits.float()

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """One step."""
        loss = F.cross_entropy(self(batch), batch.labels)
        self.log("loss", loss.detach(), prog_bar=True, batch_size=len(batch.labels))
        self._losses.append(loss.detach())
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        """Predicts dev reviews."""
        self._dev += zip(batch.labels.tolist(), self(batch).argmax(1).tolist(), strict=True)

    def on_validation_epoch_end(self) -> None:
        """Dev macro-F1 over the whole split."""
        gold, found = ([self.profile(index) for index in column] for column in zip(*self._dev, strict=True))
        self._dev = []
        self.end_epoch(score(self.schema, gold, found, resamples=0).macro_f1)

    def configure_optimizers(self) -> Any:
        """See :meth:`Learner.adam`."""
        return self.adam(*self._groups)

    def profile(self, index: int) -> Profile:
        """A class as a profile of one attribute."""
        (attribute,) = self.schema.attributes
        return {attribute.name: (attribute.values[index],)}

    @torch.no_grad()
    def predict(self, batches: DataLoader) -> list[str]:
        """The likeliest class of each review, rendered."""
        self.eval()
        found = [self(Batch(*(part.to(self.device) for part in batch))).argmax(1).tolist() for batch in batches]
        return [self.schema.render(self.profile(index)) for part in found for index in part]
