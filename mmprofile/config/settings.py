"""What every command can be told, with types and defaults; the choices are in ``conf/``."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class MaskingConfig:
    """Probabilities of hiding a pixel, a caption's token, an attribute."""

    image: float = 0.3
    caption: float = 0.3
    profile: float = 0.5


@dataclass
class ParadigmConfig:
    """What a model is trained on; see :mod:`mmprofile.inputs.views`."""

    name: str = MISSING
    modality: str = MISSING
    views: list[str] = MISSING
    fusion: str = "xattn"
    union: bool = False
    schedule: str = "paired"
    weights: dict[str, float] = field(default_factory=dict)
    masking: MaskingConfig = field(default_factory=MaskingConfig)


@dataclass
class LoraConfig:
    """Low-rank adaptation of a text model by peft; rank 0 trains all of its weights."""

    rank: int = 0
    alpha: int = 32
    dropout: float = 0.05


@dataclass
class TextConfig:
    """The text model: hub id, local folder or ``mmprofile:tiny/text``; ``adapter``: a peft adapter to start from.

    ``instruction`` and ``answer``: what a causal model reads before the texts (``<image>`` in it: where photos stand), and
    what it writes on from.
    """

    name: str = ""  # none: a system that is not trained here
    instruction: str = ""
    answer: str = " Profile:"
    dropout: float | None = None
    dtype: str = "float32"
    lora: LoraConfig = field(default_factory=LoraConfig)
    adapter: str | None = None


@dataclass
class VisionConfig:
    """The timm ViT; see :class:`mmprofile.model.vision.VisionEncoder`."""

    name: str = ""
    tokens: str = "cls"
    grid: int = 7
    trainable: bool = True


@dataclass
class FusionConfig:
    """See :func:`mmprofile.model.fusion.build_fusion`."""

    kind: str = "xattn"
    norm: str = "sparsemax"
    gate: str = "tanh"
    heads: int = 1
    parser: str = "window"


@dataclass
class RatesConfig:
    """Learning rates that suit a model's pretrained parts and its new ones."""

    pretrained: float = 5e-5
    new: float = 5e-5


@dataclass
class ModelConfig:
    """A system: the parts of a model, or what stands in for one.

    ``size`` chooses among ``sizes``, whose entries other keys refer to. ``system``: ``neural`` is trained by us; see
    :mod:`mmprofile.baselines` for the others. ``head``: what writes the profile, ``lm``, or one of the classifiers per
    attribute. ``auxiliary``: the weight in training of classifiers beside a decoder (see
    :class:`mmprofile.model.heads.Auxiliary`). ``target``: the whole ``profile``, or each attribute in a row of its own (see
    :class:`mmprofile.inputs.batch.Collator`).
    """

    name: str = MISSING
    size: str = "tiny"
    sizes: dict[str, Any] = field(default_factory=dict)
    system: str = "neural"
    options: dict[str, Any] = field(default_factory=dict)
    head: str = "lm"
    auxiliary: float = 0.0
    target: str = "profile"
    lr: RatesConfig = field(default_factory=RatesConfig)
    text: TextConfig = field(default_factory=TextConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)


@dataclass
class EncodingConfig:
    """How texts are encoded, ``joint`` or in ``segments``; see :class:`mmprofile.inputs.batch.Collator`."""

    encoding: str = "segments"


@dataclass
class DecoderConfig:
    """What a target token competes with; see :class:`mmprofile.model.model.ProfileModel`."""

    vocabulary: str = "schema"


@dataclass
class InputsConfig:
    """What a model is shown of a user; the same draw (``sample_seed``) for every system.

    ``photos``: at most so many of a user (None: all that were drawn). ``pairing``: ``unpaired`` shows everybody's photos and
    captions to somebody else of the split. ``missing``: the probability that a photo is not there, nor its caption. These
    three hold in all splits. ``redraw``: in training, other reviews of a user in each epoch; validation and test keep theirs.
    """

    reviews: int = 3
    photos_per_review: int = 1
    photos: int | None = None
    pairing: str = "paired"
    missing: float = 0.0
    max_tokens: int = 600
    sample_seed: int = 0
    redraw: bool = True


@dataclass
class OptimConfig:
    """Adam: learning rates of pretrained and new parts (the model's by default), warm-up as a share of all steps."""

    lr_pretrained: float = 5e-5
    lr_new: float = 5e-5
    weight_decay: float = 0.0
    warmup: float = 0.1
    schedule: str = "linear"


@dataclass
class TrainerConfig:
    """The part of Lightning's Trainer that users turn."""

    accelerator: str = "auto"
    devices: Any = 1
    strategy: str = "auto"
    num_nodes: int = 1
    precision: str = "auto"
    max_epochs: int = 10
    patience: int = 3
    gradient_clip: float = 1.0
    checkpoint_every: int = 500
    progress: bool = True


@dataclass
class EvaluationConfig:
    """Beam sizes on the test and dev splits (None: the search of :mod:`mmprofile.model.decoding`), rows per batch, resamples.

    ``missing``: score the test users once more, each photo not there with this probability (None: do not).
    """

    beams: int | None = None
    dev_beams: int | None = None
    batch_size: int = 64
    resamples: int = 2000
    missing: float | None = None


@dataclass
class ProbeConfig:
    """``users`` of the dev split whose loss with other users' photos is logged each epoch (see :mod:`mmprofile.train.probe`); 0: none."""

    users: int = 64


@dataclass
class TrainConfig:
    """``conf/train.yaml``."""

    name: str = MISSING
    out: str = "outputs"
    seed: int = 0
    purpose: str | None = None
    data: Any = None
    reader: Any = None
    loader: Any = None
    profile: Any = None
    paradigm: ParadigmConfig = field(default_factory=ParadigmConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    inputs: InputsConfig = field(default_factory=InputsConfig)
    text: EncodingConfig = field(default_factory=EncodingConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)


@dataclass
class PrepareConfig:
    """``conf/prepare.yaml``."""

    data: Any = None
    profile: Any = None


@dataclass
class EvaluateConfig:
    """``conf/evaluate.yaml``."""

    run: str = MISSING
    split: str = "test"
    beams: int | None = None


@dataclass
class InspectionConfig:
    """``conf/inspection.yaml``."""

    run: str = MISSING
    split: str = "test"
    users: list[str] = field(default_factory=list)
    count: int = 3
    folder: str | None = None


@dataclass
class ReportConfig:
    """``conf/report.yaml``."""

    run: str = MISSING
    count: int = 5
    folder: str | None = None


@dataclass
class PredictConfig:
    """``conf/predict.yaml``."""

    run: str = MISSING
    input: str = MISSING
    output: str | None = None
    beams: int | None = None
    batch_size: int = 16
    photos: Any = None


@dataclass
class SweepConfig:
    """``conf/sweep.yaml``; see :mod:`mmprofile.sweep.run`."""

    table: Any = None
    figure: Any = None
    search: str | None = None
    runs: Any = None
    out: str = "outputs/sweep"
    seeds: int = 1
    only: list[str] = field(default_factory=list)
    rows: dict[str, list[str]] = field(default_factory=dict)
    reference: str | None = None
    trials: int | None = None
    threads: int | None = None
    resamples: int = 10_000


@dataclass
class ClassifierConfig:
    """A text classifier: a checkpoint (hub id, local folder or ``mmprofile:tiny/...``) with a new head.

    ``size`` chooses among ``sizes``, whose entries other keys refer to.
    """

    name: str = MISSING
    size: str = "tiny"
    sizes: dict[str, Any] = field(default_factory=dict)
    text: str = MISSING
    dtype: str = "float32"
    lora: LoraConfig = field(default_factory=LoraConfig)
    lr: RatesConfig = field(default_factory=RatesConfig)


@dataclass
class ShownConfig:
    """What a classifier is shown: ``profile`` beside the review, reviews of each training user, tokens of a review at most."""

    profile: str = "generated"
    train_reviews: int = 1
    max_tokens: int = 320


@dataclass
class ApplyConfig:
    """``conf/apply.yaml``. ``profile``: what is predicted of a review, as a schema of one attribute."""

    name: str = MISSING
    out: str = "outputs"
    seed: int = 0
    run: str = MISSING
    task: str = MISSING
    profile: Any = None
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    inputs: ShownConfig = field(default_factory=ShownConfig)
    batch_size: int = 16
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    resamples: int = 2000


@dataclass
class CaptionConfig:
    """``conf/caption.yaml``."""

    data: Any = None
    profile: Any = None
    folder: str | None = None
    backend: str = "transformers"
    checkpoint: str | None = None
    revision: str | None = None
    path: str | None = None
    prompt: str = "a photo of"
    decoding: dict[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    batch_size: int = 16
    workers: int | None = None
    shard: int = 512
    existing: str = "refuse"
    retry: bool = False
    verify: bool = False
    captions: Any = None
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


@dataclass
class PromptsConfig:
    """Templates: ``system`` has ``{format}`` in it, ``user`` has ``{attributes}`` and ``{person}``."""

    system: str = MISSING
    user: str = MISSING


@dataclass
class VoteConfig:
    """See :mod:`mmprofile.llm.vote.voting` and :mod:`mmprofile.llm.calibrate`."""

    method: str = "confidence"
    temperature: float = 0.3
    alpha: float = 0.0
    calibration: str = "quantile"
    target: tuple[float, float] = (2.0, 0.5)
    gold_split: str = "validation"
    unknown_rate: float | None = None


@dataclass
class StudentConfig:
    """How a student is asked and trained; see :class:`mmprofile.llm.student.Student`."""

    reads: str = "all"
    prompt: PromptsConfig = field(default_factory=PromptsConfig)
    template: dict[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    lora: int = 0
    lr: float = 1e-4
    rl_lr: float = 1e-6
    epochs: int = 3
    batch_size: int = 8
    max_new_tokens: int = 768
    rollout_batch: int = 32


@dataclass
class DistillConfig:
    """See :mod:`mmprofile.llm.distill.training`."""

    weighted: bool = False
    thin: float = 0.5


@dataclass
class ReinforceConfig:
    """See :mod:`mmprofile.llm.reinforce.training`."""

    reward: str = "confidence"
    rollouts: int = 16
    low: float = 0.3
    high: float = 0.9
    group: int = 8
    people: int = 4
    steps: int = 60
    temperature: float = 1.0
    clip: tuple[float, float] = (0.2, 0.28)
    beta: float = 0.0
    vllm: bool = False


@dataclass
class TableConfig:
    """See :mod:`mmprofile.llm.run.run`."""

    draws: int = 4
    temperature: float = 0.6
    top_p: float = 0.95


@dataclass
class LlmConfig:
    """``conf/llm.yaml``: all commands of :mod:`mmprofile.llm`. ``teacher``: what its kind takes (``conf/llm/teacher``)."""

    data: Any = None
    observed: Any = None
    profile: Any = None
    teacher: Any = None
    name: str | None = None
    out: str = "outputs/llm"
    input: str | None = None
    input_format: str = "people"
    purpose: str | None = None
    splits: list[str] = field(default_factory=list)
    samples: int = 8
    seed: int = 0
    labels: str | None = None
    progress: bool = True
    people: Any = None
    attach: Any = None
    vote: VoteConfig = field(default_factory=VoteConfig)
    student: str = "tiny"
    students: dict[str, StudentConfig] = field(default_factory=dict)
    distill: DistillConfig = field(default_factory=DistillConfig)
    reinforce: ReinforceConfig = field(default_factory=ReinforceConfig)
    table: TableConfig = field(default_factory=TableConfig)
    prompt: PromptsConfig = field(default_factory=PromptsConfig)


CONFIGS: dict[str, type] = {
    "train": TrainConfig,
    "prepare": PrepareConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "inspection": InspectionConfig,
    "report": ReportConfig,
    "sweep": SweepConfig,
    "apply": ApplyConfig,
    "caption": CaptionConfig,
    "llm": LlmConfig,
}
