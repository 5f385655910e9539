"""Parts of a configuration whose keys depend on a choice: a dataclass per choice, checked when the part is used."""

from typing import Any, TypeVar, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmprofile.errors import UserError

T = TypeVar("T")


def typed_part(kind: type[T], part: Any, key: str) -> T:
    """Return a part of the configuration as a dataclass.

    Args:
        kind: the dataclass.
        part: the node of the configuration.
        key: where the node stands, such as ``teacher``; error messages name it.

    Raises:
        UserError: a key is unknown or missing, or a value has the wrong type.
    """
    try:
        return cast(T, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), part)))
    except OmegaConfBaseException as error:
        raise UserError(f"{key}.{error.full_key}: {str(error).splitlines()[0]}") from error
