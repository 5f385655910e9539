"""The diffs of CONTRIBUTING.md apply to the packages as they are, and what they add works."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
DIFFS = dict(re.findall(r"^### An? (\w+)$.*?^```diff\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))

STEP = """
import json
import numpy as np
import torch
from mmprofile.config.compose import load_config
from mmprofile.inputs.views import User, check_paradigm
from mmprofile.profile.schema import Schema
from mmprofile.train.run import make_model

cfg = load_config("train", ["paradigm=multi", "paradigm.views=[fusion,photos_only]", "model.fusion.kind=mean"])
schema = Schema.from_config(cfg.profile)
torch.manual_seed(0)
model = make_model(cfg, schema)
paradigm = check_paradigm(cfg.paradigm)
profile = {attribute.name: attribute.values[: attribute.size] for attribute in schema.attributes}
texts = ("The soup was good.", "Far too loud.")
users = [User(str(i), (text,), (str(i),), (None,), profile) for i, text in enumerate(texts)]
rng = np.random.default_rng(0)
photos = {str(i): rng.integers(0, 255, (3, 96, 96)).astype(np.uint8) for i in range(2)}
collate = model.collator({**cfg.inputs, "encoding": cfg.text.encoding}, photos.__getitem__, paradigm.masking, 0)
batch = collate(users, paradigm.views)
optimizer = torch.optim.Adam(model.parameters(), 1e-3)
losses = []
for _ in range(3):
    loss = model(batch).view_losses
    losses.append(loss.tolist())
    optimizer.zero_grad()
    loss.mean().backward()
    optimizer.step()
print(json.dumps({
    "views": [view.name for view in paradigm.views],
    "shown": [[view.reviews, view.photos] for view in paradigm.views],
    "losses": losses,
    "fusion": type(model.fusion).__name__,
    "gradients": [float(p.grad.abs().sum()) for p in model.fusion.parameters()],
}))
"""
FUSION = """
import torch
from mmprofile.model.fusion import build_fusion

torch.manual_seed(0)
fusion = build_fusion("mean", 4, 6)
hidden, mask, visual = torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool), torch.randn(2, 2, 6)
photos = torch.tensor([[True, False], [False, False]])
fused = fusion(hidden, mask, visual, photos).hidden
assert torch.allclose(fused[0], hidden[0] + fusion.project(visual[0, 0]))
assert torch.equal(fused[1], hidden[1])
"""


def test_there_is_a_diff_of_every_part() -> None:
    assert list(DIFFS) == ["view", "fusion", "attribute", "system", "teacher"]
    for name, diff in DIFFS.items():
        added = [line for line in diff.splitlines() if line.startswith("+") and not line.startswith("+++")]
        assert 2 <= len(added) <= 45, name


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the packages and their configuration; weights are linked."""
    copy = tmp_path_factory.mktemp("contributing") / "copy"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "mmprofile", "datamodules", "conf"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith("mmprofile/assets/"):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    (copy / "mmprofile" / "assets").symlink_to(ROOT / "mmprofile" / "assets")
    return copy


def apply(copy: Path, part: str, *options: str) -> None:
    """Apply the diff of a part, or fail with its name and what git says."""
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(copy.parent)}
    done = subprocess.run(
        ["git", "apply", "--verbose", *options],
        input=DIFFS[part], cwd=copy, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, f"CONTRIBUTING.md: the diff of a {part} no longer applies; make it anew\n{done.stderr}"


@pytest.mark.parametrize("part", DIFFS)
def test_each_diff_applies(plain: Path, part: str) -> None:
    apply(plain, part, "--check")


@pytest.fixture(scope="module")
def extended(plain: Path) -> Path:
    """Apply all diffs to a copy."""
    copy = plain.with_name("extended")
    shutil.copytree(plain, copy, symlinks=True)
    for part in DIFFS:
        apply(copy, part)
    return copy


def run(copy: Path, *arguments: str, cache: Path | None = None) -> str:
    """Run Python with the packages of a copy, in the folder beside it."""
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    if cache is not None:
        environment["MMPROFILE_CACHE"] = str(cache)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=copy.parent, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_code_of_the_diffs_is_formatted(extended: Path) -> None:
    shutil.copyfile(ROOT / "pyproject.toml", extended / "pyproject.toml")
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        run(extended, "-m", "ruff", *command, str(extended / "mmprofile"), str(extended / "datamodules"))


def test_the_view_is_trained(extended: Path) -> None:
    told = json.loads(run(extended, "-c", STEP).splitlines()[-1])
    assert told["views"] == ["fusion", "photos_only"]
    assert told["shown"] == [[True, "plain"], [False, "plain"]]
    first, *_, last = told["losses"]
    assert len(first) == 2
    assert sum(last) < sum(first)
    assert told["fusion"] == "MeanPhoto"
    assert min(told["gradients"]) > 0


def test_the_fusion_adds_the_mean_photo(extended: Path) -> None:
    run(extended, "-c", FUSION)


def test_the_attribute_is_derived_and_the_system_predicts_it(extended: Path, tmp_path: Path) -> None:
    command = ["-m", "mmprofile.train", "experiment=smoke", "model=nearest", "paradigm=text", "trainer.progress=false"]
    run(extended, *command, f"out={tmp_path}", "name=nearest", cache=tmp_path / "cache")
    folder = tmp_path / "nearest"
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert "Place Rating" in metrics["test"]["per_attribute"]
    assert metrics["words"] > 100
    assert metrics["test"]["parse_fault_rate"] == 0
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["gold"]["Place Rating"][0] for row in rows} == {"Low", "High"}
    assert all("; Place Rating: " in row["text"] for row in rows)


def test_the_teacher_answers(extended: Path, tmp_path: Path) -> None:
    people = [
        {"user_id": "ann", "reviews": ["As a retired teacher I like quiet places."]},
        {"user_id": "bob", "reviews": ["Good soup."]},
    ]
    (tmp_path / "people.jsonl").write_text("".join(json.dumps(person) + "\n" for person in people))
    words = [f"input={tmp_path / 'people.jsonl'}", f"out={tmp_path}", "purpose=a test", "samples=1", "progress=false"]
    run(extended, "-m", "mmprofile.llm.teacher", "teacher=named", *words)
    lines = (tmp_path / "people" / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    answers = {row["user_id"]: json.loads(row["answer"]) for row in map(json.loads, lines)}
    assert "Retired" in json.dumps(answers["ann"])
    assert "Retired" not in json.dumps(answers["bob"])
