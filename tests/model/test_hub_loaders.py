"""All that loads a checkpoint takes a hub id and a revision, then the cache where no hub is reached, by the same function."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from mmprofile.apply.sentiment import load_classifier
from mmprofile.caption.blip2 import identity
from mmprofile.config.compose import load_config
from mmprofile.config.parts import typed_part
from mmprofile.errors import UserError
from mmprofile.llm.people import Person
from mmprofile.llm.student import Student, student_settings
from mmprofile.llm.teacher.local import Local, LocalConfig
from mmprofile.llm.teacher.protocol import Question
from mmprofile.model.captioner import load_blip2
from mmprofile.model.model import ProfileModel
from mmprofile.profile.schema import Schema
from tests.support.hubserver import Hub, connect, serving
from tests.support.tinyblip import save_blip2

pytestmark = [pytest.mark.fast, pytest.mark.allow_hosts(["127.0.0.1"])]

QUESTION = [Question(Person("u"), [{"role": "user", "content": "we stayed"}], 0)]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as hub:
        connect(monkeypatch, hub.url, tmp_path / "hub-cache")
        yield hub


def classifier(name: str, revision: str | None) -> Any:
    words = ["run=x", "classifier=causal", f"classifier.text={name}", f"classifier.revision={revision or 'null'}"]
    return load_classifier(load_config("apply", words).classifier, 5).model.get_input_embeddings().weight


def student(name: str, revision: str | None) -> Any:
    cfg = load_config("llm", [f"student={name}", f"student_revision={revision or 'null'}"])
    weights = Student(cfg.student, student_settings(cfg), Schema.from_config(cfg.profile), cfg.student_revision).model
    return weights.get_input_embeddings().weight


def teacher(name: str, revision: str | None) -> Any:
    words = ["teacher=local", f"teacher.name={name}", f"teacher.revision={revision or 'null'}"]
    cfg = load_config("llm", [*words, "teacher.parameters.max_new_tokens=9"])
    local = Local(typed_part(LocalConfig, cfg.teacher, "teacher"), Schema.from_config(cfg.profile))
    local.check()
    local.ask(QUESTION)
    assert str(local.settings["revision"]).startswith("local-") == Path(name).is_dir()
    return local._model.get_input_embeddings().weight


def captioner(name: str, revision: str | None) -> Any:
    cfg = load_config("caption", [f"model={name}", f"revision={revision or 'null'}", "trainer.accelerator=cpu"])
    assert identity(cfg, name)["revision"].startswith("local-") == Path(name).is_dir()
    return load_blip2(cfg, name, "float32")[0].get_input_embeddings().weight


@pytest.mark.parametrize(
    ("load", "kind", "key"),
    [
        (classifier, "llama", "classifier.text"),
        (student, "llama", "student"),
        (teacher, "llama", "teacher.name"),
        (captioner, "blip2", "model"),
    ],
)
def test_a_hub_id_a_revision_and_the_cache(
    load: Callable[[str, str | None], torch.Tensor], kind: str, key: str, hub: Hub, hub_folders: dict[str, Path],
    make_tokenizer: Callable[..., PreTrainedTokenizerFast], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = hub_folders[kind] if kind in hub_folders else save_blip2(tmp_path / "blip2", "t5", make_tokenizer)
    hub.add("org/model", folder, "v1")
    weights = load(str(folder), None)
    assert torch.equal(load("org/model", "v1"), weights)
    line = rf"{key}='org/model' cannot be loaded: {hub.url} has it, but no revision 'main' of it"
    with pytest.raises(UserError, match=line.replace("'main'", "None")):
        load("org/model", None)
    hub.die()
    assert torch.equal(load("org/model", "v1"), weights)
    monkeypatch.setattr("mmprofile.model.hub._silent", {})
    with pytest.raises(
        UserError, match=rf"{key}='org/other' cannot be loaded: it is no folder here, and {hub.url} cannot be"
    ):
        load("org/other", None)


def test_a_llava_takes_its_image_processor_from_its_snapshot(
    hub: Hub, hub_folders: dict[str, Path], hub_model: Callable[..., ProfileModel]
) -> None:
    hub.add("org/llava", hub_folders["llava"], "v1")
    model = hub_model("llava", "prefix", "grid", name="org/llava", revision="v1")
    local = hub_model("llava", "prefix", "grid")
    assert model.vision is not None
    assert model.vision.processor.to_dict() == local.vision.processor.to_dict()  # type: ignore[union-attr]
    assert all(torch.equal(weight, local.state_dict()[name]) for name, weight in model.state_dict().items())
