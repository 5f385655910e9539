"""Labels -> the prepared data set: ``python -m mmprofile.llm.attach data=demo``.

It writes them to ``text_only.parquet`` in the prepared folder; ``python -m mmprofile.train profile=yelp+text_only purpose="..."``
trains on them, each weighted by its confidence.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmprofile.config.llm_settings import LlmConfig
from mmprofile.config.targets import build
from mmprofile.errors import UserError
from mmprofile.llm.stage import labels_path, open_schema, prepared_folder, purpose
from mmprofile.profile.schema import UNKNOWN


def main(cfg: LlmConfig) -> None:
    """Attach the labels, and print how many users have them."""
    if cfg.input is not None:
        raise UserError(f"input={cfg.input}: labels are attached to a prepared data set; give data=... in its place")
    schema = open_schema(cfg)
    path = labels_path(cfg)
    folder = prepared_folder(cfg)
    about = build(cfg.attach)(folder, path, schema, purpose(cfg) or "")
    print(describe(folder, about))


def describe(folder: Path, about: Mapping[str, Any]) -> str:
    """Return the lines that are printed at the end; ``about`` is the entry of the labels in the manifest."""
    width = max(map(len, about["balance"]))
    lines = [f"{folder}: {about['users']:,} users, purpose: {about['purpose']}"]
    lines += [
        f"  {name:<{width}}  {sum(balance['values'].values()):,} labelled, {balance['values'][UNKNOWN]:,} of them Unknown; "
        f"{balance['without_label']:,} without a label; mean confidence {balance['mean_confidence']:.2f}"
        for name, balance in about["balance"].items()
    ]
    if about["labels_of_others"]:
        lines.append(f"  {about['labels_of_others']:,} labels are of other people or attributes: left out")
    if not about["calibration"]:
        lines.append("  no matching calibration.json beside the labels: settings and thresholds are not recorded")
    return "\n".join(lines)
