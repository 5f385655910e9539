"""The checks of ``conf/llm.yaml``: settings that make no sense are refused before anything is asked or trained."""

from collections.abc import Callable
from typing import Any, cast

from omegaconf import Container, OmegaConf

from mmprofile.config.llm_settings import LlmConfig
from mmprofile.errors import UserError
from mmprofile.inputs.views import SPLITS
from mmprofile.llm.calibrate import KINDS

METHODS = ("confidence", "majority", "cisc")
"""The ways of voting."""
REWARDS = ("confidence", "majority")
"""The kinds of reward; each goes with the way of voting of the same name."""
READS = ("first_person", "all")
"""What a student reads; see :func:`mmprofile.llm.student.condense`."""
DTYPES = ("auto", "float32", "bfloat16", "float16")
Rule = tuple[Callable[[Any], bool], str]
"""Whether a value makes sense, and the end of the error message where it does not."""


def _least(low: float) -> Rule:
    return lambda value: value >= low, f"give {low} or more"


def _one_of(*choices: str) -> Rule:
    return lambda value: value in choices, f"is not one of {', '.join(choices)}"


POSITIVE: Rule = (lambda value: value > 0, "give more than 0")
SHARE: Rule = (lambda value: 0 <= value <= 1, "is not a share (0 to 1)")
RULES: dict[str, Rule] = {
    "samples": (lambda value: 1 <= value <= 1000, "give 1 to 1000"),
    "splits": (lambda value: value and set(value) <= {*SPLITS}, f"give some of {', '.join(SPLITS)}"),
    "vote.method": _one_of(*METHODS),
    "vote.temperature": POSITIVE,
    "vote.calibration": _one_of(*KINDS),
    "vote.target": (lambda value: min(value) > 0, "give two numbers above 0, a and b of a beta distribution"),
    "vote.gold_split": (lambda value: value in SPLITS[:2], "give train or validation; what is scored stays apart"),
    "vote.unknown_rate": (lambda value: value is None or 0 <= value <= 1, "is not a share (0 to 1)"),
    "distill.thin": SHARE,
    "reinforce.reward": _one_of(*REWARDS),
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
STUDENT_RULES: dict[str, Rule] = {
    "reads": _one_of(*READS),
    "dtype": _one_of(*DTYPES),
    "lora": _least(0),
    "lr": POSITIVE,
    "rl_lr": POSITIVE,
    "epochs": _least(1),
    "batch_size": _least(1),
    "max_new_tokens": _least(1),
    "rollout_batch": _least(1),
}


def check_settings(cfg: LlmConfig) -> None:
    """Refuse settings that make no sense.

    Raises:
        UserError: names the first.
    """
    rules = RULES | {f"students.{kind}.{key}": rule for kind in cfg.students for key, rule in STUDENT_RULES.items()}
    for key, (makes_sense, message) in rules.items():
        value = OmegaConf.select(cast(Container, cfg), key)
        if not makes_sense(value):
            raise UserError(f"{key}={value} {message}" if message.startswith("is") else f"{key}={value}: {message}")
    if cfg.reinforce.low > cfg.reinforce.high:
        raise UserError(f"reinforce.low={cfg.reinforce.low} is above reinforce.high={cfg.reinforce.high}")
