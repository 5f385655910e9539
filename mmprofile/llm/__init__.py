"""Conf-Profile's auxiliary stage: labels of text-only attributes by a language model, with confidence, distilled and refined."""

import os

os.environ.setdefault(
    "HF_HUB_DISABLE_TELEMETRY", "1"
)  # read when the hub's library is first imported; TRL reports each training
