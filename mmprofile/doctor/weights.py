"""Where the weights of a run are: in this package, in a folder, in the hub's cache, or not on this machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import constants, get_token

from mmprofile.config.settings import TrainConfig
from mmprofile.doctor.catalogue import CheckpointFacts, published
from mmprofile.files import read_json, size
from mmprofile.model.checkpoints import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG,
    MODEL_WEIGHTS,
    local_name,
    missing_weights,
)
from mmprofile.model.hub import HubError, ask, cached, download_command, is_hub_id

MISSING = "not here"


@dataclass(frozen=True)
class Weights:
    """A checkpoint that a run loads.

    Attributes:
        part: text, vision or adapter.
        name: as the configuration gives it.
        where: where it is, in words.
        folder: its files; None where they are not on this machine.
        facts: of a published checkpoint.
        problem: why a run could not load it, and what to do; None if it could.
        repository: on the hub, and its revision; empty for a folder.
    """

    part: str
    name: str
    where: str
    folder: Path | None = None
    facts: CheckpointFacts | None = None
    problem: str | None = None
    repository: tuple[str, str | None] = ("", None)

    @property
    def fetched(self) -> float:
        """Bytes that would be fetched, as far as is known."""
        return self.facts.bytes if self.folder is None and self.facts is not None else 0.0

    @property
    def unreadable(self) -> bool:
        """Whether nothing tells what it is made of."""
        needs_config = self.part == "text" or self.name.startswith("hf-hub:")  # timm knows the models that it names
        return self.folder is None and self.facts is None and needs_config

    @property
    def config(self) -> dict[str, Any]:
        """What its config.json says, or what is known of it; empty if nothing is."""
        if self.folder is not None:
            try:
                config: dict[str, Any] = read_json(self.folder / CONFIG)
            except (OSError, ValueError):
                return {}
            return config
        return self.facts.config if self.facts is not None else {}


def weights_of(cfg: TrainConfig) -> list[Weights]:
    """Return the checkpoints that a run loads: of the text model, of the photos' model if it sees any, of its adapter."""
    text = cfg.model.text
    found = [locate("text", "model.text.name", str(text.name), text.revision)]
    if text.adapter:
        found.append(locate("adapter", "model.text.adapter", str(text.adapter), text.adapter_revision, ADAPTER_CONFIG))
    own_tower = found[0].config.get("model_type") == "llava"
    blind = cfg.model.fusion.kind == "none" and cfg.model.head == "lm"
    if cfg.paradigm.modality in ("multi", "both") and not own_tower and not blind:
        found.append(locate("vision", "model.vision.name", str(cfg.model.vision.name), cfg.model.vision.revision))
    return found


def locate(part: str, key: str, name: str, revision: str | None = None, config: str = CONFIG) -> Weights:
    """Return where a checkpoint is; a hub is asked about it only if it is not on this machine, and nothing is fetched.

    Args:
        part: text, vision or adapter.
        key: the setting that names it.
        name: hub id, folder, name of a timm model, or ``mmprofile:...``.
        revision: branch, tag or commit on the hub.
        config: the file that such a checkpoint must have.
    """
    if name.startswith("mmprofile:"):
        return Weights(part, name, "in this package", Path(local_name(name)))
    plain = name.removeprefix("local-dir:").removeprefix("hf-hub:")
    if Path(plain).expanduser().is_dir():
        return _in_folder(part, key, name, Path(plain).expanduser(), "local folder", config)
    hub: str | None = plain
    if part == "vision" and "/" not in name:  # a name of timm's
        known = timm.get_pretrained_cfg(plain, allow_unregistered=True) if timm.is_model(plain.split(".")[0]) else None
        hub = known.hf_hub_id if known is not None else None
    if hub is None or not is_hub_id(hub) or name.startswith("local-dir:"):
        wrong = f"{key}={name!r}: there is no such folder, and it is no hub id; check the path"
        return Weights(part, name, "not found", problem=wrong)
    facts = published().get(hub)
    snapshot = cached(hub, revision, config)
    if snapshot is not None:
        where = f"in the cache, revision {snapshot.name[:12]}"
        return _in_folder(part, key, name, snapshot, where, config, facts)
    problem = _to_fetch(key, name, hub, revision, facts)
    return Weights(part, name, MISSING, facts=facts, problem=problem, repository=(hub, revision))


def _in_folder(
    part: str, key: str, name: str, folder: Path, where: str, config: str, facts: CheckpointFacts | None = None
) -> Weights:
    """Return a checkpoint in a folder, which may lack files."""
    forms = ADAPTER_WEIGHTS if config == ADAPTER_CONFIG else MODEL_WEIGHTS
    lacking = missing_weights(folder, forms) if (folder / config).is_file() else config
    if lacking is None:
        return Weights(part, name, where, folder, facts)
    problem = f"{key}={name!r}: {folder} has no {lacking}; fetch or copy it again"
    return Weights(part, name, f"{where}, without {lacking}", folder, facts, problem)


def _to_fetch(key: str, name: str, hub: str, revision: str | None, facts: CheckpointFacts | None) -> str | None:
    """Return why a checkpoint that is not here could not be fetched when a run starts; None if it could."""
    command = download_command(hub, revision)
    try:
        ask(hub, revision)
    except HubError as error:
        if error.reached:
            return f"{key}={name!r}: {error}"
        return f"{key}={name!r}: {error}; run `{command}` on a machine with network and copy its cache here"
    if facts is not None and facts.gated and get_token() is None:
        return f"{key}={name!r} is gated: accept its licence on {constants.ENDPOINT}/{hub}, then `hf auth login`"
    return None


def state(weights: Weights) -> str:
    """Return where a checkpoint is, or what would be fetched."""
    if weights.where != MISSING:
        return weights.where
    facts, (hub, revision) = weights.facts, weights.repository
    known = "" if facts is None else f" ({size(facts.bytes)}, {facts.licence}{', gated' if facts.gated else ''})"
    return f"not here; {download_command(hub, revision)}{known}"
