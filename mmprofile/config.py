"""The typed configuration, and the way from a command line to it: every mistake is one line that names the nearest choice."""

import difflib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hydra
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmprofile.errors import UserError
from mmprofile.paths import conf_dir


@dataclass
class MaskingConfig:
    """Probabilities of hiding a pixel, a caption's token, an attribute."""

    image: float = 0.3
    caption: float = 0.3
    profile: float = 0.5


@dataclass
class ParadigmConfig:
    """What a model is trained on; see :mod:`mmprofile.views`."""

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
    """The timm ViT; see :class:`mmprofile.vision.VisionEncoder`."""

    name: str = ""
    tokens: str = "cls"
    grid: int = 7
    trainable: bool = True


@dataclass
class FusionConfig:
    """See :func:`mmprofile.fusion.build_fusion`."""

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
    attribute. ``hints``: the weight of auxiliary classifiers of the attributes in training (see
    :class:`mmprofile.model.ProfileModel`). ``target``: the whole ``profile``, or each attribute in a row of its own (see
    :class:`mmprofile.batch.Collator`).
    """

    name: str = MISSING
    size: str = "tiny"
    sizes: dict[str, Any] = field(default_factory=dict)
    system: str = "neural"
    options: dict[str, Any] = field(default_factory=dict)
    head: str = "lm"
    hints: float = 0.0
    target: str = "profile"
    lr: RatesConfig = field(default_factory=RatesConfig)
    text: TextConfig = field(default_factory=TextConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)


@dataclass
class EncodingConfig:
    """How texts are encoded, ``joint`` or in ``segments``; see :class:`mmprofile.batch.Collator`."""

    encoding: str = "segments"


@dataclass
class DecoderConfig:
    """What a target token competes with; see :class:`mmprofile.model.ProfileModel`."""

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
    """Beam sizes on the test and dev splits (None: the search of :mod:`mmprofile.decoding`), rows per batch, resamples.

    ``missing``: score the test users once more, each photo not there with this probability (None: do not).
    """

    beams: int | None = None
    dev_beams: int | None = None
    batch_size: int = 64
    resamples: int = 2000
    missing: float | None = None


@dataclass
class TrainConfig:
    """``conf/train.yaml``."""

    name: str = MISSING
    out: str = "outputs"
    seed: int = 0
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
    """``conf/sweep.yaml``; see :mod:`mmprofile.sweep`."""

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


# Run folders are ours (<out>/<name>): Hydra adds neither folders nor log files of its own to a sweep.
HYDRA_QUIET = [
    "hydra/job_logging=disabled",
    "hydra/hydra_logging=disabled",
    "hydra.output_subdir=null",
    "hydra.run.dir=.",
    "hydra.sweep.dir=.",
    "hydra.sweep.subdir=.",
]
INTERRUPTED = "interrupted; the same command goes on from the last checkpoint"
CONFIGS: dict[str, type] = {
    "train": TrainConfig,
    "prepare": PrepareConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "sweep": SweepConfig,
    "apply": ApplyConfig,
}
SIZED = {"train": "model", "apply": "classifier"}  # the part that has sizes


def load_config(name: str, overrides: list[str]) -> Any:
    """Composes ``conf/<name>.yaml`` with overrides and checks every key and type.

    Raises:
        UserError: an unknown key or group choice, a wrong type, a value that must be given and is not.
    """
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            return typed(name, compose(config_name=name, overrides=overrides))
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:  # ValueError: group=true
        raise UserError(explain(error, name)) from error
    finally:
        GlobalHydra.instance().clear()


def typed(name: str, cfg: DictConfig) -> Any:
    """The composed configuration merged into its dataclasses: a DictConfig that knows its types.

    Raises:
        UserError: as :func:`load_config`.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(CONFIGS[name]), cfg)
        if name in SIZED:
            _check_size(SIZED[name], merged)
        OmegaConf.resolve(merged)
    except OmegaConfBaseException as error:
        raise UserError(explain(error, name)) from error
    missing = sorted(OmegaConf.missing_keys(merged))
    if missing:
        raise UserError(
            f"python -m mmprofile.{name}: {missing[0]} is not set; add {missing[0]}=... to the command line"
        )
    return merged


def _check_size(part: str, cfg: Any) -> None:
    """Whatever depends on the size would be a reference to nowhere."""
    sizes = list(cfg[part].sizes)
    if sizes and cfg[part].size not in sizes:
        raise UserError(f"{part}.size={cfg[part].size}: {part} {cfg[part].name} has the sizes {', '.join(sizes)}")


def difference(old: Any, new: Any, shared: bool = False) -> list[str]:
    """The keys in which two configurations of ``train`` differ in what a run computes, as ``key: old -> new``.

    Args:
        old: one configuration.
        new: the other.
        shared: only keys that both have: one that came with a later version is no other setting.
    """
    flat = [_flatten(OmegaConf.to_container(cfg)) for cfg in (old, new)]
    ignored = ("out", "trainer.progress", "loader.workers", "loader.cache_mb", "trainer.checkpoint_every")
    keys = sorted(set(flat[0]) & set(flat[1]) if shared else set(flat[0]) | set(flat[1]))
    return [
        f"{k}: {flat[0].get(k)} -> {flat[1].get(k)}"
        for k in keys
        if flat[0].get(k) != flat[1].get(k) and k not in ignored
    ]


def _flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix[:-1]: node}
    return {k: v for key, value in node.items() for k, v in _flatten(value, f"{prefix}{key}.").items()}


def explain(error: Exception, name: str) -> str:
    """One line for what Hydra and OmegaConf say in several."""
    texts = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__
    text = "\n".join(texts)
    group = re.search(
        r"Could not find '([\w+./-]+)'.*?Available options in '([\w/]+)':\s*(.*?)\n(?:Config search|\Z)", text, re.S
    )
    if group:
        choice, options = group[1].split("/")[-1], group[3].split()
        return f"{group[2]}={choice}: there is no such choice{nearest(choice, options)}; choices: {', '.join(options)}"
    full = re.search(r"full_key: ([\w./\[\]-]+)", text)
    key = re.search(r"Could not override '([\w./@-]+)'|Key '([\w./-]+)' (?:is )?not in", text)
    if key:
        wrong = full[1] if full else next(found for found in key.groups() if found)
        return f"unknown config key {wrong!r}{nearest(wrong.replace('/', '.'), _all_keys(name))}"
    first = text.splitlines()[0]
    if "override" in first or "viable alternative" in first or "mismatched" in first:
        return f"the command line cannot be read: {first}; give key=value, in quotes where it has blanks or brackets"
    return f"config key {full[1]!r}: {first}" if full else f"config: {first}"


def _all_keys(name: str) -> list[str]:
    def walk(node: Any, prefix: str) -> list[str]:
        keys = []
        for key in node:
            keys.append(prefix + str(key))
            if not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
                keys += walk(node[key], f"{prefix}{key}.")
        return keys

    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        cfg = compose(config_name=name)
    merged = OmegaConf.merge(OmegaConf.structured(CONFIGS[name]), cfg)
    groups = [path.name for path in conf_dir().iterdir() if path.is_dir()]
    return walk(merged, "") + groups


def nearest(word: str, choices: list[str]) -> str:
    """`` (did you mean ...?)``, or nothing."""
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    if not near:
        tail = word.split(".")[-1]
        near = [choice for choice in choices if choice.split(".")[-1] == tail][:1]
    return f" (did you mean {near[0]}?)" if near else ""


def check_command_line(name: str) -> None:
    """Answers a mistake on the command line at once: called above a command's imports, which take many seconds."""
    if not _has_flags():
        guarded(lambda: load_config(name, sys.argv[1:]))


def entry_point(name: str, run: Callable[[Any], None]) -> None:
    """Runs a command: checks the command line, hands over to Hydra (for ``-m`` sweeps), prints errors as one line.

    Exit status 2 for a user's mistake, 130 for an interrupt.
    """
    quiet()
    if not _has_flags():
        guarded(lambda: run(load_config(name, sys.argv[1:])))
        return

    def job(cfg: DictConfig) -> None:
        guarded(lambda: run(typed(name, cfg)))

    sys.argv += HYDRA_QUIET
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(job)()


def _has_flags() -> bool:
    return any(word.startswith("-") for word in sys.argv[1:])


def guarded(action: Callable[[], Any], interrupted: str = INTERRUPTED) -> Any:
    """Does it; a user's mistake is one line and exit status 2, an interrupt the line ``interrupted`` and 130."""
    try:
        return action()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        sys.exit(130)


def quiet() -> None:
    """Turns off chatter that no user of ours can act on."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings(
        "ignore", module=r"(pytorch_lightning|lightning_fabric|torch|torchdata|torchmetrics|timm|entmax)\b.*"
    )
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\b.*")  # of each other
    for logger in ("pytorch_lightning", "lightning_fabric", "lightning", "transformers", "timm", "datasets"):
        logging.getLogger(logger).setLevel(logging.ERROR)
