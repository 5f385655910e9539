"""Inspectors of small random models."""

from collections.abc import Callable
from typing import Any

import pytest

from mmprofile.inputs.batch import Collator
from mmprofile.inputs.views import User
from mmprofile.inspection.inspector import Inspector
from mmprofile.model.model import ProfileModel
from tests.support.inspecting import VIEWS


@pytest.fixture(scope="module")
def make(
    tiny_model: Callable[..., ProfileModel], make_collator: Callable[..., Collator], users: list[User]
) -> Callable[..., Inspector]:
    """``make(tokens, encoding, max_tokens, batch_size, **fusion)`` -> an inspector of a random model and the four users."""

    def inspector(
        tokens: str = "cls", encoding: str = "segments", max_tokens: int = 64, batch_size: int = 3, **fusion: Any
    ) -> Inspector:
        kind = fusion.pop("fusion", "xattn")
        model = tiny_model(kind, tokens, vocabulary="schema", **fusion)
        collator = make_collator(model, max_tokens=max_tokens, encoding=encoding)
        return Inspector(model, collator, VIEWS, users, batch_size)

    return inspector
