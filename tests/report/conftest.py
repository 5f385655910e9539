"""Small random models with what a datamodule gives of them."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from mmprofile.inputs.batch import Collator
from mmprofile.inputs.views import User, build_view
from mmprofile.model.model import ProfileModel
from tests.support.stories import City, MakeRun


@pytest.fixture(scope="module")
def make_run(
    tiny_model: Callable[..., ProfileModel], make_collator: Callable[..., Collator], users: list[User]
) -> MakeRun:
    """``make_run(fusion, modality, users)`` -> a random model, and what its datamodule gives of it."""

    def new(fusion: str = "xattn", modality: str = "both", chosen: Sequence[User] = users) -> tuple[ProfileModel, Any]:
        model = tiny_model(fusion, vocabulary="schema")
        model.settings["inputs"] = {**model.settings["inputs"], "modality": modality}
        kinds = ("text",) if modality == "text" else ("fusion", "text")
        views, collator, city = tuple(build_view(kind, modality) for kind in kinds), make_collator(model), City(chosen)
        data = SimpleNamespace(
            users=city.users, draws=city, views=views, collator=collator, eval_batch_size=2,
            loader=lambda users: [collator([user], (views[0],)) for user in users],
        )  # fmt: skip
        return model, data

    return new
