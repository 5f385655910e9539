"""The HTML report: nothing in data gets out of its place, and its tables are right."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from mmprofile.inputs.views import User
from mmprofile.profile.calibration import calibration
from mmprofile.profile.metrics import score
from mmprofile.profile.schema import Attribute, Schema
from mmprofile.report.html import confidence_table, write_html
from mmprofile.report.stories import Evidence, evidence_of_model, evidence_of_system
from mmprofile.report.summary import write_report
from tests.support.htmlpage import Page
from tests.support.stories import City, MakeRun, rows_of, written_rows

EVIL = (
    "<script>alert(\"1\")</script> & 'quotes' {{ 7*7 }} \0\x1b\u202e😀 "
    "</blockquote><img src=http://x.example/a.png onerror=a()> &amp;"
)


SAFE = EVIL.replace("\0", "\ufffd").replace("\x1b", "\ufffd")


def render(
    folder: Path, schema: Schema, rows: list[dict[str, Any]], evidence: Evidence | None, **config: Any
) -> tuple[Page, str]:
    gold, predicted = ([{n: tuple(v) for n, v in row[part].items()} for row in rows] for part in ("gold", "parsed"))
    metrics = {"test": score(schema, gold, predicted, resamples=20).to_dict(), "config": {"name": "run", **config}}
    write_report(folder, metrics, [{"epoch": 0, "loss": 2.0}, {"epoch": 1, "loss": 1.0}])
    write_html(folder, schema, metrics, rows, evidence)
    text = (folder / "report.html").read_text(encoding="utf-8")
    return Page(text), text


def test_nothing_gets_out_of_its_place(tmp_path: Path) -> None:
    name, value = EVIL.translate(dict.fromkeys(map(ord, ";,:\0"))), "<b>\"V'</b>&"
    schema = Schema(
        "evil", [Attribute(name, (value, "plain"), sensitive=True, text_only=True), Attribute("<i>", ("a", "b"))]
    )
    gold = {name: (value,), "<i>": ("a",)}
    user = User("user-0", (EVIL, "fine"), ('"><img src=//x.example>.jpg',), (EVIL,), gold)
    rows = rows_of([gold] * 2, [gold, {name: ("plain",), "<i>": ("b",)}], [0.9, 0.4])
    evidence = evidence_of_system(schema, City([user]), rows)
    page, _ = render(tmp_path, schema, rows, evidence, name=EVIL, purpose=EVIL, data=EVIL)
    assert page.text.count(SAFE) == 7  # title, heading, two notes, purpose, review, caption
    assert page.tables[1][1][0] == f"{value} (2)"
    assert f"Sensitive attributes, in this profile for that purpose alone: {name}" in page.text.replace(
        "\ufffd", "\x1b"
    )
    assert user.photos[0] in page.text
    assert page.images[-1] == f"Captioned: {SAFE}"


def test_it_is_one_small_file_of_the_same_bytes_with_a_language_and_headers(
    tmp_path: Path, schema: Schema, users: list[User]
) -> None:
    profiles = [user.profile or {} for user in users]
    rows = rows_of(profiles, profiles, [0.5] * 4)
    texts = []
    for name in "ab":
        (tmp_path / name).mkdir()
        texts.append(render(tmp_path / name, schema, rows, evidence_of_system(schema, City(users), rows))[1])
    assert texts[0] == texts[1]
    assert len(texts[0]) < 1e6
    assert '<html lang="en">' in texts[0]
    assert texts[0].count("<table") == texts[0].count("<thead")
    assert "default-src 'none'" in texts[0]


def test_confusion_of_the_page_is_that_of_sklearn(tmp_path: Path) -> None:
    schema, rng = Schema("stars", [Attribute("Stars", ("1", "2", "3"))]), np.random.default_rng(0)
    gold, predicted = (rng.choice(["1", "2", "3"], 60).tolist() for _ in range(2))
    rows = rows_of([{"Stars": (v,)} for v in gold], [{"Stars": (v,)} for v in predicted])
    page, _ = render(tmp_path, schema, rows, None)
    matrix = [[int(cell or 0) for cell in row[1:4]] for row in page.tables[1][1:]]
    assert matrix == confusion_matrix(gold, predicted).tolist()
    assert [row[0] for row in page.tables[1][1:]] == [f"{v} ({gold.count(v)})" for v in "123"]
    assert "There are no confidences" in page.text
    assert not {"gates", "users"} & page.ids


def test_confidence_is_of_answers_with_gold_and_of_observed_attributes_together() -> None:
    schema = Schema("two", [Attribute("A", ("a", "b")), Attribute("T", ("c", "d"), unknown=True, text_only=True)])
    gold = [{"A": ("a",), "T": ("c",)}, {"A": ("b",), "T": ()}, {"A": ("b",), "T": ("d",)}]
    predicted = [{"A": ("a",), "T": ("c",)}, {"A": ("a",), "T": ("c",)}, {"A": ("b",), "T": ()}]
    table = confidence_table(schema, ["A"], rows_of(gold, predicted, [0.9, 0.8, 0.3]))
    assert {name: row.answers for name, row in table.rows.items()} == {"all": 3, "A": 3, "T": 2}
    mine = calibration([0.9, 0.8, 0.3], [True, False, True], 15)
    assert table.rows["all"][1:6] == pytest.approx((2 / 3, 2 / 3, mine.ece, mine.brier, mine.aurc))
    assert table.rows["T"][1:3] == pytest.approx((1 / 2, 0.6))
    assert table.rows["all"].ece_uncalibrated is table.rows["all"].coverage is None
    assert set(table.figures) == {"reliability", "risk_coverage"}


def test_users_without_photos_come_last_and_have_no_gate(make_run: MakeRun, users: list[User], tmp_path: Path) -> None:
    model, data = make_run()
    rows = written_rows(model, data)
    evidence = evidence_of_model(model, data, rows)
    bare = evidence.stories[-1]
    assert bare.user_id == "user-1"
    assert (bare.photos, bare.words, bare.distances) == ([], [], {})  # one review alone: nothing could be left out
    assert all(answer.influence is None and answer.probability for answer in bare.attributes)
    page, _ = render(tmp_path, model.schema, rows, evidence)
    assert "This user has no photos." in page.text
    assert "Means over the first 3 test users with photos" in page.text


@pytest.mark.parametrize(
    ("fusion", "modality", "reason"),
    [
        ("none", "text", "its paradigm (text) shows the model no photos"),
        ("none", "uni", "its paradigm (uni) shows the model no photos"),
        ("concat", "multi", "its fusion is concat"),
    ],
)
def test_a_run_without_gates_says_so(
    fusion: str, modality: str, reason: str, make_run: MakeRun, tmp_path: Path
) -> None:
    model, data = make_run(fusion, modality)
    rows = written_rows(model, data)
    evidence = evidence_of_model(model, data, rows)
    page, _ = render(tmp_path, model.schema, rows, evidence)
    assert reason in page.text
    assert "Means over the first" not in page.text
    assert "of attention" not in page.text
    assert ("The model is shown no photos" in page.text) == (modality != "multi")
    assert [len(story.photos) for story in evidence.stories] == ([0] * 4 if modality == "text" else [3, 1, 2, 0])
    changes = {change.split()[0] for story in evidence.stories for change in story.distances}
    assert changes == ({"review"} if modality == "text" else {"review", "photo"})


def test_nobody_has_photos(make_run: MakeRun, users: list[User], tmp_path: Path) -> None:
    model, data = make_run(chosen=[replace(user, photos=(), captions=()) for user in users])
    rows = written_rows(model, data)
    page, _ = render(tmp_path, model.schema, rows, evidence_of_model(model, data, rows))
    assert "there is nothing to see of the gate: no user has a photo" in page.text
    assert page.text.count("This user has no photos.") == 4
