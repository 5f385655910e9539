"""The checks of ``conf/llm.yaml``: settings that make no sense are refused before anything is asked or trained."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, cast

from omegaconf import Container, OmegaConf

from mmprofile.config.llm_settings import LlmConfig, ReinforceConfig
from mmprofile.config.parts import typed_part
from mmprofile.errors import UserError
from mmprofile.inputs.views import SPLITS
from mmprofile.llm.calibrate import AGREEMENT, KINDS

METHODS = ("confidence", "majority", "cisc")
"""The ways of voting."""
REWARDS = ("expected", "weighted", "agreement", "same", "brier", "strict")
"""What an answer's values earn; see :mod:`mmprofile.llm.reinforce.rewards`."""
READS = ("first_person", "all")
"""What a student reads; see :func:`mmprofile.llm.student.condense`."""
ENGINES = ("transformers", "vllm")
"""What writes the answers of a student."""
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio", "swanlab", "clearml", "comet_ml")
"""Those of transformers that are called as their package."""
DTYPES = ("auto", "float32", "bfloat16", "float16")
Rule = tuple[Callable[[Any], bool], str]
"""Whether a value makes sense, and the end of the error message where it does not."""


def _least(low: float) -> Rule:
    return lambda value: value >= low, f"give {low} or more"


def _one_of(*choices: str) -> Rule:
    return lambda value: value in choices, f"is not one of {', '.join(choices)}"


POSITIVE: Rule = (lambda value: value > 0, "give more than 0")
POSITIVE_SHARE: Rule = (lambda value: 0 < value <= 1, "give more than 0, at most 1")
SHARE: Rule = (lambda value: 0 <= value <= 1, "is not a share (0 to 1)")
RULES: dict[str, Rule] = {
    "samples": (lambda value: 1 <= value <= 1000, "give 1 to 1000"),
    "splits": (lambda value: value and set(value) <= {*SPLITS}, f"give some of {', '.join(SPLITS)}"),
    "vote.method": _one_of(*METHODS),
    "vote.gamma": _least(0),
    "vote.of_answers": _one_of("highest", "mean"),
    "vote.temperature": POSITIVE,
    "vote.calibration": _one_of(AGREEMENT, *KINDS),
    "vote.target": (lambda value: min(value) > 0, "give two numbers above 0, a and b of a beta distribution"),
    "vote.gold_split": (lambda value: value in SPLITS[:2], "give train or validation; what is scored stays apart"),
    "vote.unknown_rate": (lambda value: value is None or 0 <= value <= 1, "is not a share (0 to 1)"),
    "distill.thin": SHARE,
    "vllm.gpu_memory_utilization": (lambda value: value is None or 0 < value <= 1, "give more than 0, at most 1"),
    "vllm.max_model_len": (lambda value: value is None or value >= 1, "give 1 or more, or null"),
    "table.recipes": (lambda value: len(value) > 0, "give one or more"),
    "table.draws": _least(1),
    "table.temperature": POSITIVE,
    "table.top_p": POSITIVE_SHARE,
}
RECIPE_RULES: dict[str, Rule] = {
    "reward": _one_of(*REWARDS),
    "credit": _one_of("attribute", "answer"),
    "vote": _one_of("frozen", "online"),
    "calibration": _one_of(AGREEMENT, "none"),
    "rollouts": _least(1),
    "low": SHARE,
    "high": SHARE,
    "group": _least(2),
    "people": _least(1),
    "steps": _least(1),
    "updates": _least(1),
    "scale": _one_of("none", "group"),
    "temperature": POSITIVE,
    "clip": (lambda value: min(value) > 0, "give two numbers above 0"),
    "beta": _least(0),
    "repair": _least(0),
}
STUDENT_RULES: dict[str, Rule] = {
    "reads": _one_of(*READS),
    "dtype": _one_of(*DTYPES),
    "bits": (lambda value: value in (None, 4), "give 4 or null"),
    "lora": (lambda value: 0 <= value <= 512, "give 0 to 512"),
    "lr": POSITIVE,
    "rl_lr": POSITIVE,
    "epochs": _least(1),
    "batch_size": _least(1),
    "micro_batch_size": (lambda value: value is None or value >= 1, "give 1 or more, or null"),
    "max_new_tokens": _least(1),
    "rollout_batch": _least(1),
    "engine": _one_of(*ENGINES),
}


def check_settings(cfg: LlmConfig) -> None:
    """Refuse settings that make no sense.

    Raises:
        UserError: names the first.
    """
    rules = RULES | {f"students.{kind}.{key}": rule for kind in cfg.students for key, rule in STUDENT_RULES.items()}
    for key, rule in rules.items():
        _check(key, OmegaConf.select(cast(Container, cfg), key), rule)
    for recipe in (cfg.recipe, *cfg.table.recipes):
        settings = recipe_settings(cfg, recipe)
        for key, rule in RECIPE_RULES.items():
            _check(_key(cfg, recipe, key), getattr(settings, key), rule)
        if settings.low > settings.high:
            low, high = (_key(cfg, recipe, key) for key in ("low", "high"))
            raise UserError(f"{low}={settings.low} is above {high}={settings.high}")

    for name in cfg.trackers:
        if name not in TRACKERS:
            raise UserError(f"trackers={list(cfg.trackers)}: {name} is not one of {', '.join(TRACKERS)}")
        if find_spec(name) is None:
            raise UserError(f"trackers={list(cfg.trackers)}: {name} is not installed (pip install {name})")
    _check_memory(cfg)


def _check_memory(cfg: LlmConfig) -> None:
    """Refuse settings of memory and speed that do not go together, or need what is not there.

    Raises:
        UserError: names the first.
    """
    by_vllm = ["reinforce.vllm=true"] if cfg.reinforce.vllm else []
    for kind, student in cfg.students.items():
        key = f"students.{kind}"
        if student.bits and not student.lora:
            raise UserError(f"{key}.bits={student.bits} trains an adapter only: give {key}.lora=16, or {key}.bits=null")
        for size, of in (
            (student.batch_size, "batch_size"),
            (cfg.reinforce.people * cfg.reinforce.group, "people x group"),
        ):
            if student.micro_batch_size and size % student.micro_batch_size:
                raise UserError(
                    f"{key}.micro_batch_size={student.micro_batch_size} does not divide the {size} answers of a step ({of})"
                )
        by_vllm += [f"{key}.engine=vllm"] if student.engine == "vllm" else []
    if by_vllm and find_spec("vllm") is None:
        raise UserError(
            f"{by_vllm[0]} needs vLLM, which needs an NVIDIA GPU: pip install vllm, or leave it at its default"
        )


def recipe_settings(cfg: LlmConfig, recipe: str) -> ReinforceConfig:
    """Return ``reinforce`` with what a recipe changes in it.

    Raises:
        UserError: there is no such recipe, or it has a key that ``reinforce`` does not have.
    """
    if recipe not in cfg.recipes:
        raise UserError(f"recipe={recipe} is not one of recipes: {', '.join(cfg.recipes)}")
    given = cast(dict[str, Any], OmegaConf.to_container(cast(Container, cfg.reinforce)))
    return typed_part(ReinforceConfig, {**given, **cfg.recipes[recipe]}, f"recipes.{recipe}")


def _key(cfg: LlmConfig, recipe: str, key: str) -> str:
    """Return where a setting of a recipe stands."""
    return f"recipes.{recipe}.{key}" if key in cfg.recipes[recipe] else f"reinforce.{key}"


def _check(key: str, value: Any, rule: Rule) -> None:
    makes_sense, message = rule
    if not makes_sense(value):
        raise UserError(f"{key}={value} {message}" if message.startswith("is") else f"{key}={value}: {message}")
