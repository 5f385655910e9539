"""Parts of a configuration whose keys depend on a choice: a dataclass per choice, checked where the part is used."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from mmprofile.errors import UserError, nearest
from mmprofile.files import MALFORMED, read_yaml_text

T = TypeVar("T")


def typed_file(kind: type[T], path: Path) -> T:
    """Return a YAML file as a dataclass.

    Raises:
        UserError: it cannot be read, or a key or value is none of the dataclass.
    """
    try:
        given = OmegaConf.create(read_yaml_text(path))
        if not OmegaConf.is_dict(given):
            raise ValueError("expected keys with values")
        return cast(T, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), given)))
    except (OSError, OmegaConfBaseException, yaml.YAMLError, AssertionError, *MALFORMED) as error:
        raise UserError(f"{path}: {(str(error) or 'expected keys with values').splitlines()[0]}") from error


def typed_part(kind: type[T], part: Any, key: str) -> T:
    """Return a part of the configuration as a dataclass.

    Args:
        kind: the dataclass.
        part: the node of the configuration, or plain data.
        key: where the node stands, such as ``teacher``; error messages name it.

    Raises:
        UserError: a key is unknown or missing, or a value has the wrong type.
    """
    try:
        plain = OmegaConf.to_container(part, resolve=True) if OmegaConf.is_config(part) else part
        if not isinstance(plain, Mapping):
            raise UserError(f"{key} is {plain!r}: expected keys with values")
        node = OmegaConf.merge(OmegaConf.structured(kind), dict(plain))
        missing = sorted(OmegaConf.missing_keys(node))
        if missing:
            raise UserError(f"{key}.{missing[0]} is not set: give it on the command line or in its file of conf/")
        return cast(T, OmegaConf.to_object(node))
    except (ConfigKeyError, ConfigAttributeError) as error:
        *path, name = str(error.full_key).split(".")
        known = [] if path else [field.name for field in fields(kind)]  # type: ignore[arg-type]
        listed = f"; keys: {', '.join(known)}" if known else ""
        raise UserError(f"{'.'.join([key, *path])} has no key {name!r}{nearest(name, known)}{listed}") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{key}.{error.full_key}: {str(error).splitlines()[0]}") from error
