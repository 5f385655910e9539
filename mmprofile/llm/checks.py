"""Settings of ``conf/llm.yaml`` that make no sense, found before anything is asked or trained."""

from collections.abc import Callable
from typing import Any

from omegaconf import OmegaConf

from mmprofile.errors import UserError
from mmprofile.llm.calibrate import KINDS

SPLITS = ("train", "validation", "test")
DTYPES = ("auto", "float32", "bfloat16", "float16")


def _least(low: float) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value >= low, f"give {low} or more"


def _one_of(*known: Any) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value in known, f"is not one of {', '.join(map(str, known))}"


POSITIVE: tuple[Callable[[Any], bool], str] = (lambda value: value > 0, "give more than 0")
SHARE: tuple[Callable[[Any], bool], str] = (lambda value: 0 <= value <= 1, "is not a share (0 to 1)")
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "samples": (lambda value: 1 <= value <= 1000, "give 1 to 1000"),
    "splits": (lambda value: value and set(value) <= {*SPLITS}, f"give some of {', '.join(SPLITS)}"),
    "vote.method": _one_of("confidence", "majority", "cisc"),
    "vote.temperature": POSITIVE,
    "vote.calibration": _one_of(*KINDS),
    "vote.target": (lambda value: min(value) > 0, "give two numbers above 0, a and b of a beta distribution"),
    "vote.gold_split": (lambda value: value in SPLITS[:2], "give train or validation; what is scored stays apart"),
    "vote.unknown_rate": (lambda value: value is None or 0 <= value <= 1, "is not a share (0 to 1)"),
    "distill.thin": SHARE,
    "reinforce.reward": _one_of("confidence", "majority"),
    "reinforce.rollouts": _least(1),
    "reinforce.low": SHARE,
    "reinforce.high": SHARE,
    "reinforce.group": _least(2),
    "reinforce.people": _least(1),
    "reinforce.steps": _least(1),
    "reinforce.temperature": POSITIVE,
    "reinforce.clip": (lambda value: min(value) > 0, "give two numbers above 0"),
    "reinforce.beta": _least(0),
    "table.draws": _least(1),
    "table.temperature": POSITIVE,
    "table.top_p": (lambda value: 0 < value <= 1, "give more than 0, at most 1"),
}
STUDENT_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "reads": _one_of("first_person", "all"),
    "dtype": _one_of(*DTYPES),
    "lora": _least(0),
    "lr": POSITIVE,
    "rl_lr": POSITIVE,
    "epochs": _least(1),
    "batch_size": _least(1),
    "max_new_tokens": _least(1),
    "rollout_batch": _least(1),
}


def check_settings(cfg: Any) -> None:
    """Refuses settings without meaning.

    Raises:
        UserError: names the first.
    """
    rules = RULES | {f"students.{kind}.{key}": rule for kind in cfg.students for key, rule in STUDENT_RULES.items()}
    for key, (holds, says) in rules.items():
        value = OmegaConf.select(cfg, key)
        if not holds(value):
            raise UserError(f"{key}={value}: {says}" if not says.startswith("is") else f"{key}={value} {says}")
    if cfg.reinforce.low > cfg.reinforce.high:
        raise UserError(f"reinforce.low={cfg.reinforce.low} is above reinforce.high={cfg.reinforce.high}")
