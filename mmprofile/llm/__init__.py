"""Conf-Profile's auxiliary stage: text-only attributes labelled by a language model with confidence, then distilled and refined."""

import os

# Read when the hub's library is first imported; TRL would report each training.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
