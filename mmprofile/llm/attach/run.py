"""Labels -> the prepared data set: ``python -m mmprofile.llm.attach data=demo``.

They go to ``text_only.parquet`` in the prepared folder; ``python -m mmprofile.train profile=yelp+text_only purpose="..."``
trains on them, each as much as it is confident.
"""

from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from mmprofile.errors import UserError
from mmprofile.llm.stage import labels_path, open_schema, prepared_folder, purpose
from mmprofile.profile.schema import UNKNOWN


def main(cfg: Any) -> None:
    """Entry point: attaches, and says to whom."""
    if cfg.input is not None:
        raise UserError(f"input={cfg.input}: labels are attached to a prepared data set; give data=... in its place")
    schema = open_schema(cfg)
    path = labels_path(cfg)
    folder = prepared_folder(cfg)
    print(describe(folder, instantiate(cfg.attach)(folder, path, schema, purpose(cfg) or "")))


def describe(folder: Path, about: dict[str, Any]) -> str:
    """What is printed at the end: ``about`` is what the manifest says."""
    width = max(map(len, about["balance"]))
    lines = [f"{folder}: {about['users']:,} users, purpose: {about['purpose']}"]
    lines += [
        f"  {name:<{width}}  {sum(one['values'].values()):,} labelled, {one['values'][UNKNOWN]:,} of them Unknown; "
        f"{one['without_label']:,} without a label; mean confidence {one['mean_confidence']:.2f}"
        for name, one in about["balance"].items()
    ]
    if about["labels_of_others"]:
        lines.append(f"  {about['labels_of_others']:,} labels are of other people or attributes: left out")
    if not about["calibration"]:
        lines.append("  no calibration.json of theirs beside the labels: settings and thresholds are not recorded")
    return "\n".join(lines)
