"""The typed configuration, and the way from a command line to it: every mistake is one line that names the nearest choice."""

import json
import re
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mmprofile.config.data_settings import ForgetConfig
from mmprofile.config.llm_settings import LlmConfig
from mmprofile.config.settings import (
    ApplyConfig,
    CaptionConfig,
    EvaluateConfig,
    InspectionConfig,
    PredictConfig,
    PrepareConfig,
    ReportConfig,
    SweepConfig,
    TrainConfig,
)
from mmprofile.config.words import as_words, rename_keys, translate
from mmprofile.errors import UserError, nearest
from mmprofile.files import MALFORMED, read_schema_file, read_yaml_text
from mmprofile.paths import conf_dir

CONFIGS: dict[str, type] = {
    "train": TrainConfig,
    "prepare": PrepareConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "inspection": InspectionConfig,
    "report": ReportConfig,
    "sweep": SweepConfig,
    "apply": ApplyConfig,
    "caption": CaptionConfig,
    "llm": LlmConfig,
    "forget": ForgetConfig,
}

# Run folders are ours (<out>/<name>): Hydra adds neither folders nor log files of its own to a sweep.
HYDRA_QUIET = [
    "hydra/job_logging=disabled",
    "hydra/hydra_logging=disabled",
    "hydra.output_subdir=null",
    "hydra.run.dir=.",
    "hydra.sweep.dir=.",
    "hydra.sweep.subdir=.",
]
SIZED = {"train": "model", "apply": "classifier"}  # the part that has sizes
PARTS = {"train": ("model", "model/shared/parts.yaml")}
"""The values of a node whose file need not list them all: a system that is not trained here has no learning rates to set."""
NO_RESULT = (
    "out", "trainer.progress", "loader.workers", "loader.cache_mb", "trainer.checkpoint_every", "trainer.on_nan",
    "probe.users", "report.texts",
)  # fmt: skip
"""Keys of ``train`` that change nothing in what a run computes, or that a run may go on with if it was stopped."""

NOT_NEEDED = {"suggest": "data.prepare.source.reviews"}
"""A key -> one that need not be set where the first one is."""


def load_config(name: str, overrides: list[str]) -> Any:
    """Compose ``conf/<name>.yaml`` with overrides and check every key and type.

    Raises:
        UserError: an unknown key or group choice, a wrong type, a value that must be given and is not.
    """
    return typed(name, compose_config(name, translate(name, overrides)))


def compose_config(name: str, words: list[str]) -> DictConfig:
    """Compose ``conf/<name>.yaml`` with overrides; nothing is checked or resolved yet.

    Args:
        name: the file in ``conf/``.
        words: what :func:`mmprofile.config.words.translate` returns.

    Raises:
        UserError: an unknown key or group choice, or a word that is no override.
    """
    try:
        return _compose(name, words)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:  # ValueError: group=true
        raise UserError(explain(error, name)) from error


def _compose(name: str, words: list[str]) -> DictConfig:
    """Compose ``conf/<name>.yaml`` as Hydra does; a composition that is under way (a multirun) is not disturbed."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            return compose(config_name=name, overrides=words)
    finally:
        GlobalHydra.instance().clear()
        GlobalHydra.instance().hydra = outer


def read_run_config(folder: Path) -> DictConfig:
    """Return the ``config.yaml`` of a run's folder as it stands there: values, and no references to anything.

    Raises:
        UserError: it cannot be read, or a value outside the profile refers to another one or to the environment.
    """
    path = folder / "config.yaml"
    try:
        cfg = OmegaConf.create(read_yaml_text(path))
        if not isinstance(cfg, DictConfig) or "profile" not in cfg:
            raise ValueError("expected keys with values, and a profile among them")
        plain = OmegaConf.to_container(cfg)
    except (OSError, yaml.YAMLError, OmegaConfBaseException, AssertionError, *MALFORMED) as error:
        reason = (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be read ({reason}); a run is a folder that mmprofile.train wrote") from error
    if any("${" in str(value) for key, value in _flatten(plain).items() if not key.startswith("profile.")):
        raise UserError(
            f"{path}: it refers to other values (${{...}}), which no run's configuration does; it was changed"
        )
    return cfg


def typed(name: str, cfg: DictConfig) -> Any:
    """Merge a composed configuration into its dataclasses: a DictConfig that knows its types.

    Raises:
        UserError: as :func:`load_config`.
    """
    try:
        if "path" in (cfg.get("profile") or {}):
            with open_dict(cfg):
                cfg.profile = read_schema_file(Path(cfg.profile.path).expanduser())
        merged = OmegaConf.merge(OmegaConf.structured(CONFIGS[name]), _complete(name, cfg))
        if name in SIZED:
            _check_size(SIZED[name], merged)
        _resolve(merged)
    except OmegaConfBaseException as error:
        raise UserError(explain(error, name)) from error
    flat = _flatten(OmegaConf.to_container(merged))
    unused = {free for key, free in NOT_NEEDED.items() if flat.get(key) is not None}
    missing = [key for key, value in flat.items() if value == "???" and key not in unused]
    if missing:
        raise UserError(f"{missing[0]} is not set; add {missing[0]}=... to the command line")
    return merged


def _resolve(cfg: Any) -> None:
    """Resolve interpolations in place. A profile schema has none: what looks like one is a name or value as it was written."""
    schema = OmegaConf.to_container(cfg.profile) if "profile" in cfg else None
    written = json.dumps(schema, default=str)
    if "${" in written:
        cfg.profile = json.loads(written.replace("${", r"\\${"))
    OmegaConf.resolve(cfg)
    if "${" in written:
        cfg.profile = schema


def _complete(name: str, cfg: DictConfig) -> DictConfig:
    """Add the keys that a configuration lacks: a system that is not trained here, or a run of an earlier version."""
    fields = OmegaConf.to_container(OmegaConf.structured(CONFIGS[name]))
    plain = OmegaConf.to_container(cfg)
    assert isinstance(fields, dict)
    assert isinstance(plain, dict)
    given = rename_keys(name, plain)  # type: ignore[arg-type]
    if given == plain and not _lacks(given, fields):
        return cfg
    if name in PARTS:
        node, path = PARTS[name]
        _fill(given.get(node, {}), fields[node], OmegaConf.to_container(OmegaConf.load(conf_dir() / path)))
    if _lacks(given, fields):
        _fill(given, fields, OmegaConf.to_container(_compose(name, []), resolve=True))
    complete = OmegaConf.create(given)
    OmegaConf.set_struct(complete, OmegaConf.is_struct(cfg))
    return complete


def _lacks(given: Any, fields: Any) -> bool:
    """Whether a configuration lacks one of the fields."""
    if not isinstance(given, dict) or not isinstance(fields, dict):
        return False
    return any(key not in given or _lacks(given[key], field) for key, field in fields.items())


def _fill(given: Any, fields: Any, values: Any) -> None:
    """Set the fields that a configuration lacks to their values, in place."""
    if not isinstance(given, dict) or not isinstance(fields, dict):
        return
    for key, field in fields.items():
        if key not in values:
            continue
        if key in given:
            _fill(given[key], field, values[key])
        else:
            given[key] = values[key]


def _check_size(part: str, cfg: Any) -> None:
    """Refuse an unknown size: whatever depends on it would be a reference to nowhere."""
    sizes = list(cfg[part].sizes)
    if sizes and cfg[part].size not in sizes:
        raise UserError(f"{part}.size={cfg[part].size}: {part} {cfg[part].name} has the sizes {', '.join(sizes)}")


def chosen_settings(cfg: Any) -> list[str]:
    """Return the words that make a training's configuration of the defaults, but for its data, profile, folder and purpose."""
    names = {group: str(cfg[group].name) for group in ("paradigm", "model")}  # a name may also be one's own
    groups = [f"{group}={name}" for group, name in names.items() if (conf_dir() / group / f"{name}.yaml").is_file()]
    default, chosen = (
        _flatten(OmegaConf.to_container(node)) for node in (load_config("train", [*groups, f"seed={cfg.seed}"]), cfg)
    )
    elsewhere = (*NO_RESULT, "name", "purpose", "seed")
    changed = {
        key: value
        for key, value in chosen.items()
        if key not in elsewhere and not key.startswith(("data.", "profile.")) and value != default.get(key)
    }
    return [*groups, f"seed={cfg.seed}", *(word for key, value in changed.items() for word in as_words(key, value))]


def difference(old: Any, new: Any, shared: bool = False) -> list[str]:
    """Return the keys in which two configurations of ``train`` differ in what a run computes, as ``key: old -> new``.

    Args:
        old: one configuration.
        new: the other.
        shared: only keys that both have: one that came with a later version is no other setting.
    """
    flat = [_flatten(rename_keys("train", OmegaConf.to_container(cfg))) for cfg in (old, new)]  # type: ignore[arg-type]
    keys = sorted(set(flat[0]) & set(flat[1]) if shared else set(flat[0]) | set(flat[1]))
    return [
        f"{k}: {flat[0].get(k)} -> {flat[1].get(k)}"
        for k in keys
        if flat[0].get(k) != flat[1].get(k) and k not in NO_RESULT
    ]


def _flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix[:-1]: node}
    return {k: v for key, value in node.items() for k, v in _flatten(value, f"{prefix}{key}.").items()}


def explain(error: Exception, name: str) -> str:
    """Return one line for what Hydra and OmegaConf say in several."""
    texts = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__
    text = "\n".join(texts)
    group = re.search(
        r"Could not find '([\w+./-]+)'.*?Available options in '([\w/]+)':\s*(.*?)\n(?:Config search|\Z)", text, re.S
    )
    if group:
        choice, options = group[1].split("/")[-1], group[3].split()
        more = "; or a YAML file: profile=path/to/mine.yaml" if group[2] == "profile" else ""
        known = ", ".join(options)
        return f"{group[2]}={choice}: there is no such choice{nearest(choice, options)}; choices: {known}{more}"
    several = re.search(r"Ambiguous value for argument '(.*)'", text)
    if several:
        return f"{several[1]}: several values are a multirun, which needs -m; quotes around a value keep its comma"
    full = re.search(r"full_key: ([\w./\[\]-]+)", text)
    key = re.search(r"Could not override '([\w./@-]+)'|Key '([\w./-]+)' (?:is )?not in", text)
    if key:
        wrong = full[1] if full else next(found for found in key.groups() if found)
        keys = _all_keys(name)
        if wrong in keys:
            return f"config key {wrong!r} does not go with the other choices (model=..., data=...): leave it out"
        return f"unknown config key {wrong!r}{nearest(wrong.replace('/', '.'), keys)}"
    first = text.splitlines()[0]
    if "override" in first or "viable alternative" in first or "mismatched" in first or "Lexer" in first:
        return f"the command line cannot be read: {first}; give key=value, in quotes where it has blanks or brackets"
    return f"config key {full[1]!r}: {first}" if full else f"config: {first}"


def _all_keys(name: str) -> list[str]:
    def walk(node: Any, prefix: str) -> list[str]:
        keys = []
        for key in node:
            keys.append(prefix + str(key))
            if not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
                keys += walk(node[key], f"{prefix}{key}.")
        return keys

    merged = OmegaConf.merge(OmegaConf.structured(CONFIGS[name]), _compose(name, []))
    groups = [path.name for path in conf_dir().iterdir() if path.is_dir()]
    return walk(merged, "") + groups
