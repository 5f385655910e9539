"""What shows a run of sensitive attributes asks for a purpose where the run has none, and takes the run's where it has one."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from mmprofile.apply.run import main as apply
from mmprofile.config.compose import load_config
from mmprofile.errors import UserError
from mmprofile.evaluate.run import main as evaluate
from mmprofile.inspection.run import main as inspect
from mmprofile.report.run import main as report
from tests.forget.conftest import World

SHOWING = {"evaluate": evaluate, "report": report, "inspection": inspect, "apply": apply}


@pytest.mark.parametrize("name", SHOWING)
def test_a_run_without_a_purpose_is_not_shown(copy: World, name: str) -> None:
    """A run of a version that asked for none, or one whose configuration was edited."""
    config = copy.run / "config.yaml"
    config.write_text(config.read_text().replace("purpose: a test of forgetting", "purpose: null"))
    command: Callable[[Any], None] = SHOWING[name]
    with pytest.raises(UserError, match=r"profile shops: Age are sensitive: say what they are for, purpose="):
        command(
            load_config(name, [f"run={copy.run}", *([f"out={copy.folder / 'outputs'}"] if name == "apply" else [])])
        )


def test_the_purpose_stands_in_what_is_written(copy: World) -> None:
    report(load_config("report", [f"run={copy.run}"]))
    assert "Purpose:</strong> a test of forgetting" in (copy.run / "report.html").read_text()
    report(load_config("report", [f"run={copy.run}", "purpose=a check of the run"]))
    assert "Purpose:</strong> a check of the run" in (copy.run / "report.html").read_text()
    evaluate(load_config("evaluate", [f"run={copy.run}", "purpose=a check of the run"]))
    assert json.loads((copy.run / "evaluation-test.json").read_text())["config"]["purpose"] == "a check of the run"
    assert json.loads((copy.run / "inspection" / "purpose.json").read_text()) == {"purpose": "a test of forgetting"}
    assert {row["purpose"] for row in map(json.loads, (copy.folder / "elsewhere" / "profiles.jsonl").open())} == {
        "a test of forgetting"
    }


def test_reports_of_other_peoples_data_show_no_texts(copy: World) -> None:
    """Neither reviews nor photos unless they are asked for; predictions and what moved them are there."""
    rows = [json.loads(line) for line in (copy.run / "predictions.jsonl").read_text().splitlines()]
    trained = (copy.run / "report.html").read_text()
    report(load_config("report", [f"run={copy.run}"]))
    for page in (trained, (copy.run / "report.html").read_text()):
        assert "zebra" not in page
        assert "data:image/jpeg" not in page
        assert "a student" not in page
        assert "noise number" not in page
        assert rows[0]["user_id"] in page
        assert "This file contains reviews" not in page
    report(load_config("report", [f"run={copy.run}", "texts=true"]))
    page = (copy.run / "report.html").read_text()
    assert "zebra" in page
    assert "data:image/jpeg" in page
