"""The keys that the commands of :mod:`mmprofile.llm` take, with their types; the values are in ``conf/llm.yaml``."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from mmprofile.config.data_settings import DataConfig, PartialConfig


@dataclass
class PeopleConfig(PartialConfig):
    """The function that reads people; see :func:`datamodules.people.read_people`."""

    input_format: str = MISSING


@dataclass
class PromptsConfig:
    """Templates: ``system`` has ``{format}`` in it, ``user`` has ``{attributes}`` and ``{person}``."""

    system: str = MISSING
    user: str = MISSING


@dataclass
class VoteConfig:
    """See :mod:`mmprofile.llm.vote.voting` and :mod:`mmprofile.llm.calibrate`."""

    method: str = MISSING
    gamma: float = MISSING
    of_answers: str = MISSING
    temperature: float = MISSING
    alpha: float = MISSING
    calibration: str = MISSING
    target: tuple[float, float] = MISSING
    gold_split: str = MISSING
    unknown_rate: float | None = MISSING


@dataclass
class VllmConfig:
    """What vLLM's ``LLM`` takes; None leaves one out."""

    gpu_memory_utilization: float | None = MISSING
    max_model_len: int | None = MISSING
    quantization: str | None = MISSING


@dataclass
class StudentConfig:
    """How a student is asked and trained; see :class:`mmprofile.llm.student.Student`."""

    reads: str = MISSING
    prompt: PromptsConfig = field(default_factory=PromptsConfig)
    template: dict[str, Any] = MISSING
    dtype: str = MISSING
    bits: int | None = MISSING
    lora: int = MISSING
    lr: float = MISSING
    rl_lr: float = MISSING
    epochs: int = MISSING
    batch_size: int = MISSING
    micro_batch_size: int | None = MISSING
    gradient_checkpointing: bool = MISSING
    max_new_tokens: int = MISSING
    rollout_batch: int = MISSING
    engine: str = MISSING
    vllm: VllmConfig = field(default_factory=VllmConfig)


@dataclass
class DistillConfig:
    """See :mod:`mmprofile.llm.fine_tuning`."""

    weighted: bool = MISSING
    thin: float = MISSING


@dataclass
class ReinforceConfig:
    """See :mod:`mmprofile.llm.reinforce.training`."""

    reward: str = MISSING
    credit: str = MISSING
    vote: str = MISSING
    calibration: str = MISSING
    rollouts: int = MISSING
    low: float = MISSING
    high: float = MISSING
    group: int = MISSING
    people: int = MISSING
    steps: int = MISSING
    updates: int = MISSING
    scale: str = MISSING
    temperature: float = MISSING
    clip: tuple[float, float] = MISSING
    beta: float = MISSING
    repair: int = MISSING
    vllm: bool = MISSING
    vllm_memory: float = MISSING


@dataclass
class StageTableConfig:
    """See :mod:`mmprofile.llm.run.comparison`."""

    draws: int = MISSING
    temperature: float = MISSING
    top_p: float = MISSING
    recipes: list[str] = MISSING


@dataclass
class LlmConfig:
    """``conf/llm.yaml``: all commands of :mod:`mmprofile.llm`. ``teacher``: what its kind takes (``conf/llm/teacher``)."""

    data: DataConfig = field(default_factory=DataConfig)
    observed: Any = MISSING  # schemas: Schema.from_config checks them
    profile: Any = MISSING
    teacher: Any = MISSING
    name: str | None = MISSING
    out: str = MISSING
    input: str | None = MISSING
    input_format: str = MISSING
    purpose: str | None = MISSING
    splits: list[str] = MISSING
    samples: int = MISSING
    estimate: bool = MISSING
    seed: int = MISSING
    labels: str | None = MISSING
    progress: bool = MISSING
    trackers: list[str] = MISSING
    to: str | None = MISSING
    vllm: VllmConfig = field(default_factory=VllmConfig)
    people: PeopleConfig = field(default_factory=PeopleConfig)
    attach: PartialConfig = field(default_factory=PartialConfig)
    vote: VoteConfig = field(default_factory=VoteConfig)
    student: str = MISSING
    student_revision: str | None = MISSING
    students: dict[str, StudentConfig] = MISSING
    distill: DistillConfig = field(default_factory=DistillConfig)
    reinforce: ReinforceConfig = field(default_factory=ReinforceConfig)
    recipe: str = MISSING
    recipes: dict[str, dict[str, Any]] = MISSING
    table: StageTableConfig = field(default_factory=StageTableConfig)
    prompt: PromptsConfig = field(default_factory=PromptsConfig)
