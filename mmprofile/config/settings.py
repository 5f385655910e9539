"""The keys that each command takes, with their types.

The values are in ``conf/``, and only there: a field is ``MISSING`` here, or a node of further fields. Thus a default stands
in one place, and these classes say which keys there are and what a value may be.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from mmprofile.config.data_settings import (
    DataConfig,
    LoaderConfig,
    PartialConfig,
    PhotosConfig,
    ReaderConfig,
    ShowConfig,
)


@dataclass
class MaskingConfig:
    """Probabilities of hiding a pixel, a caption's token, an attribute."""

    image: float = MISSING
    caption: float = MISSING
    profile: float = MISSING


@dataclass
class ParadigmConfig:
    """What a model is trained on; see :mod:`mmprofile.inputs.views`."""

    name: str = MISSING
    modality: str = MISSING
    views: list[str] = MISSING
    fusion: str = MISSING
    union: bool = MISSING
    schedule: str = MISSING
    weights: dict[str, float] = MISSING
    masking: MaskingConfig = field(default_factory=MaskingConfig)


@dataclass
class LoraConfig:
    """Low-rank adaptation of a text model by peft; rank 0 trains all of its weights."""

    rank: int = MISSING
    alpha: int = MISSING
    dropout: float = MISSING


@dataclass
class TextConfig:
    """The text model: hub id, local folder or ``mmprofile:tiny/text``; ``adapter``: a peft adapter to start from.

    ``revision``, ``adapter_revision``: branch, tag or commit of the hub's repository (None: its main branch).
    ``instruction`` and ``answer``: what a causal model reads before the texts (``<image>`` in it: where photos stand), and
    what it writes on from.
    """

    name: str = MISSING
    revision: str | None = MISSING
    instruction: str = MISSING
    answer: str = MISSING
    dropout: float | None = MISSING
    dtype: str = MISSING
    lora: LoraConfig = field(default_factory=LoraConfig)
    adapter: str | None = MISSING
    adapter_revision: str | None = MISSING


@dataclass
class VisionConfig:
    """The timm ViT; see :class:`mmprofile.model.vision.VisionEncoder`."""

    name: str = MISSING
    revision: str | None = MISSING
    tokens: str = MISSING
    grid: int = MISSING
    trainable: bool = MISSING


@dataclass
class FusionConfig:
    """See :func:`mmprofile.model.fusion.build_fusion`."""

    kind: str = MISSING
    norm: str = MISSING
    gate: str = MISSING
    heads: int = MISSING
    parser: str = MISSING


@dataclass
class RatesConfig:
    """Learning rates that suit a model's pretrained parts and its new ones.

    ``query_factor`` multiplies the rate of what makes attention scores, lest they grow until each query reads one key. These
    are the queries of a T5 and the queries and keys of the fusion. A T5 does not divide scores by sqrt(d_kv); d_kv ** -0.5
    makes Adam's steps those of a model that does.
    """

    pretrained: float = MISSING
    new: float = MISSING
    query_factor: float = MISSING


@dataclass
class ModelConfig:
    """A system: the parts of a model, or what stands in for one.

    ``size`` chooses among ``sizes``, whose entries other keys refer to. ``system``: ``neural`` is trained by us; see
    :mod:`mmprofile.systems` for the others. ``head``: what writes the profile, ``lm``, or one of the classifiers per
    attribute. ``auxiliary``: the weight in training of classifiers beside a decoder (see
    :class:`mmprofile.model.auxiliary.Auxiliary`). ``target``: the whole ``profile``, or each attribute in a row of its own (see
    :class:`mmprofile.inputs.batch.Collator`).
    """

    name: str = MISSING
    size: str = MISSING
    sizes: dict[str, Any] = MISSING  # what a size is made of differs from model to model
    system: str = MISSING
    options: dict[str, Any] = MISSING  # a system checks its own
    head: str = MISSING
    auxiliary: float = MISSING
    target: str = MISSING
    lr: RatesConfig = field(default_factory=RatesConfig)
    text: TextConfig = field(default_factory=TextConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)


@dataclass
class EncodingConfig:
    """How texts are encoded, ``joint`` or in ``segments``; see :class:`mmprofile.inputs.batch.Collator`."""

    encoding: str = MISSING


@dataclass
class DecoderConfig:
    """What a target token competes with; see :class:`mmprofile.model.model.ProfileModel`."""

    vocabulary: str = MISSING


@dataclass
class InputsConfig:
    """What a model is shown of a user; the same draw (``sample_seed``) for every system.

    ``photos``: at most so many of a user (None: all that were drawn). ``pairing``: ``unpaired`` shows everybody's photos and
    captions to somebody else of the split. ``missing``: the probability that a photo is not there, nor its caption. These
    three hold in all splits. ``missing_labels``: the probability that a label of the training or validation split is not there.
    ``redraw``: in training, other reviews of a user in each epoch; validation and test keep theirs. ``evidence``: see
    :class:`mmprofile.inputs.evidence.EvidenceSelector`.
    """

    reviews: int = MISSING
    photos_per_review: int = MISSING
    photos: int | None = MISSING
    pairing: str = MISSING
    missing: float = MISSING
    missing_labels: float = MISSING
    max_tokens: int = MISSING
    sample_seed: int = MISSING
    redraw: bool = MISSING
    evidence: int = MISSING


@dataclass
class OptimConfig:
    """Adam: the model's learning rates (see :class:`RatesConfig`) by default, and warm-up as a share of all steps."""

    lr_pretrained: float = MISSING
    lr_new: float = MISSING
    query_factor: float = MISSING
    weight_decay: float = MISSING
    warmup: float = MISSING
    schedule: str = MISSING


@dataclass
class TrainerConfig:
    """The part of Lightning's Trainer that users turn."""

    accelerator: str = MISSING
    devices: Any = MISSING  # a number, a list of them, or "auto"
    strategy: str = MISSING
    num_nodes: int = MISSING
    precision: str = MISSING
    max_epochs: int = MISSING
    patience: int = MISSING
    gradient_clip: float = MISSING
    checkpoint_every: int = MISSING
    on_nan: str = MISSING
    progress: bool = MISSING


@dataclass
class EvaluationConfig:
    """Beam sizes on the test and validation splits, rows per batch, resamples.

    Without a beam size, the search of :mod:`mmprofile.model.decoding` writes the profiles. ``missing``: score the test users
    once more, each photo not there with this probability (None: do not). ``risk``: of the sets of values in
    ``predictions.jsonl`` (:meth:`mmprofile.profile.calibrator.Calibrator.sets`).
    """

    beams: int | None = MISSING
    validation_beams: int | None = MISSING
    batch_size: int = MISSING
    resamples: int = MISSING
    missing: float | None = MISSING
    risk: float = MISSING


@dataclass
class ProbeConfig:
    """So many ``users`` of the validation split are asked with other users' photos each epoch; 0: none.

    See :mod:`mmprofile.train.probe`.
    """

    users: int = MISSING


@dataclass
class TrainConfig:
    """``conf/train.yaml``."""

    name: str = MISSING
    out: str = MISSING
    seed: int = MISSING
    purpose: str | None = MISSING
    data: DataConfig = field(default_factory=DataConfig)
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    profile: Any = MISSING  # a schema, or parts of one: Schema.from_config checks it
    paradigm: ParadigmConfig = field(default_factory=ParadigmConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    inputs: InputsConfig = field(default_factory=InputsConfig)
    text: EncodingConfig = field(default_factory=EncodingConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    report: ShowConfig = field(default_factory=ShowConfig)


@dataclass
class PrepareConfig:
    """``conf/prepare.yaml``."""

    data: DataConfig = field(default_factory=DataConfig)
    profile: Any = MISSING  # a schema, or parts of one: Schema.from_config checks it
    clean: Any = MISSING  # false, list or true
    cleaner: PartialConfig = field(default_factory=PartialConfig)
    suggest: str | None = MISSING
    suggester: PartialConfig = field(default_factory=PartialConfig)


@dataclass
class EvaluateConfig:
    """``conf/evaluate.yaml``."""

    run: str = MISSING
    purpose: str | None = MISSING
    split: str = MISSING
    beams: int | None = MISSING


@dataclass
class InspectionConfig:
    """``conf/inspection.yaml``."""

    run: str = MISSING
    purpose: str | None = MISSING
    split: str = MISSING
    users: list[str] = MISSING
    count: int = MISSING
    folder: str | None = MISSING


@dataclass
class ReportConfig:
    """``conf/report.yaml``."""

    run: str = MISSING
    purpose: str | None = MISSING
    count: int = MISSING
    texts: bool | None = MISSING
    folder: str | None = MISSING


@dataclass
class CaptionerConfig:
    """``conf/captioner/blip2.yaml``."""

    checkpoint: str | None = MISSING
    revision: str | None = MISSING
    prompt: str = MISSING
    decoding: dict[str, Any] = MISSING  # what the backend generates with
    dtype: str = MISSING


@dataclass
class PredictConfig:
    """``conf/predict.yaml``."""

    run: str = MISSING
    purpose: str | None = MISSING
    input: str = MISSING
    output: str | None = MISSING
    photo_root: str | None = MISSING
    beams: int | None = MISSING
    risk: float | None = MISSING
    batch_size: int = MISSING
    ray_workers: int | None = MISSING
    captioner: CaptionerConfig = field(default_factory=CaptionerConfig)
    photos: PhotosConfig = field(default_factory=PhotosConfig)


@dataclass
class SweepConfig:
    """``conf/sweep.yaml``; see :mod:`mmprofile.sweep.run`."""

    table: Any = MISSING  # a name, which may be a number, or several
    figure: Any = MISSING
    search: str | None = MISSING
    runs: Any = MISSING  # a folder or pattern, or several
    out: str = MISSING
    seeds: int = MISSING
    only: list[str] = MISSING
    rows: dict[str, list[str]] = MISSING
    reference: str | None = MISSING
    trials: int | None = MISSING
    threads: int | None = MISSING
    resamples: int = MISSING


@dataclass
class ClassifierConfig:
    """A text classifier: a checkpoint (hub id with its ``revision``, local folder or ``mmprofile:tiny/...``) with a new head.

    ``size`` chooses among ``sizes``, whose entries other keys refer to.
    """

    name: str = MISSING
    size: str = MISSING
    sizes: dict[str, Any] = MISSING
    text: str = MISSING
    revision: str | None = MISSING
    dtype: str = MISSING
    lora: LoraConfig = field(default_factory=LoraConfig)
    lr: RatesConfig = field(default_factory=RatesConfig)


@dataclass
class ShownConfig:
    """What a classifier is shown: ``profile`` beside the review, and how many reviews of each training user.

    ``max_tokens``, ``sentences``: how much of a review at most (None: all sentences).
    """

    profile: str = MISSING
    train_reviews: int = MISSING
    max_tokens: int = MISSING
    sentences: int | None = MISSING


@dataclass
class ApplyConfig:
    """``conf/apply.yaml``. ``profile``: what is predicted of a review, as a schema of one attribute."""

    name: str = MISSING
    out: str = MISSING
    seed: int = MISSING
    run: str = MISSING
    purpose: str | None = MISSING
    task: str = MISSING
    profile: Any = MISSING  # a schema, or parts of one: Schema.from_config checks it
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    inputs: ShownConfig = field(default_factory=ShownConfig)
    batch_size: int = MISSING
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    resamples: int = MISSING


@dataclass
class CaptionConfig(CaptionerConfig):
    """``conf/caption.yaml``."""

    data: DataConfig = field(default_factory=DataConfig)
    profile: Any = MISSING  # a schema, or parts of one: Schema.from_config checks it
    folder: str | None = MISSING
    backend: str = MISSING
    path: str | None = MISSING
    batch_size: int = MISSING
    workers: int | None = MISSING
    ray_workers: int | None = MISSING
    shard: int = MISSING
    existing: str = MISSING
    retry: bool = MISSING
    verify: bool = MISSING
    captions: PartialConfig = field(default_factory=PartialConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
