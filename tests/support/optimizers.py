"""Settings of Adam for tests: those of ``conf/train.yaml`` unless a test gives others."""

from typing import Any

from mmprofile.config.settings import OptimConfig


def optim_config(**changes: Any) -> OptimConfig:
    """The default settings with changes."""
    defaults = {"lr_pretrained": 5e-5, "lr_new": 5e-5, "query_factor": 1.0}
    defaults |= {"weight_decay": 0.0, "warmup": 0.1, "schedule": "linear"}
    return OptimConfig(**defaults | changes)
