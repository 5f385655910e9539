"""What a classifier is shown: reviews that are held out, and the profiles beside them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from datamodules.draws import Draws
from datamodules.prepare import prepare
from mmprofile.apply.shown import PROFILES, Source, first_sentences, held_out, known_labels, shown_profiles
from mmprofile.evaluate.runs import load_run, run_data
from mmprofile.files import read_json_lines
from mmprofile.inputs.data import prepare_data
from mmprofile.inputs.evidence import EvidenceSelector, sentences_of
from mmprofile.inputs.views import SPLITS, donors
from mmprofile.profile.schema import Attribute, Schema
from tests.support.tinyclassifiers import SENTIMENT

pytestmark = pytest.mark.fast


def draws_of(folder: Path, **inputs: Any) -> Draws:
    """The draws of a run, or what they were with other inputs."""
    run = load_run(str(folder))
    prepared = prepare_data(run.cfg.data, run.model.schema)
    return Draws(prepared, run.model.schema, {**OmegaConf.to_container(run.cfg.inputs), **inputs}, captions=False)


def test_no_review_is_on_both_sides(trained: Path) -> None:
    draws = draws_of(trained)
    for split in SPLITS:
        found = held_out(draws, split, SENTIMENT, 3)
        drawn = {user.user_id: {row["review_id"] for row in rows} for rows, user in draws.of(split)}
        rows = {row["user_id"]: row["reviews"] for row in draws.prepared.datasets[split]}
        shown = {user.user_id: set(user.reviews) for user in draws.users(split)}
        assert (found.alone, found.unrated) == (0, 0)
        assert Counter(user.user_id for user in found.reviews) == dict.fromkeys(rows, 3)
        for user in found.reviews:
            (text,) = user.reviews
            same = [row for row in rows[user.user_id] if row["text"] == text]
            assert same
            assert not drawn[user.user_id] & {row["review_id"] for row in same}
            assert text not in shown[user.user_id]
            assert user.profile == {"Sentiment": (str(int(same[0]["stars"])),)}
        assert {(u.user_id, u.reviews) for u in held_out(draws, split, SENTIMENT, 1).reviews} <= {
            (u.user_id, u.reviews) for u in found.reviews
        }


def test_no_review_has_a_sentence_that_the_profile_is_made_of(trained: Path) -> None:
    draws = draws_of(trained)
    draws.selector = EvidenceSelector(4, {"soup": 1.0})
    for (_, user), review in zip(draws.of("test"), held_out(draws, "test", SENTIMENT, 1).reviews, strict=True):
        assert len(user.reviews) == 4
        assert not {*sentences_of(review.reviews[0])} & {*sentences_of(user.reviews[-1])}


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (1, "We had pie!"),
        (2, "We had pie! It cost $4.50, at 5 p.m.?!"),
        (3, "We had pie! It cost $4.50, at 5 p.m.?! Good。"),
        (4, "We had pie! It cost $4.50, at 5 p.m.?! Good。Very good"),
        (None, "We had pie! It cost $4.50, at 5 p.m.?! Good。Very good"),
    ],
)
def test_first_sentences(count: int | None, shown: str) -> None:
    assert first_sentences("We had pie! It cost $4.50, at 5 p.m.?! Good。Very good", count) == shown
    assert first_sentences("", count) == ""


def test_a_classifier_may_be_shown_the_first_sentence_alone(trained: Path) -> None:
    draws = draws_of(trained)
    whole, short = (held_out(draws, "test", SENTIMENT, 1, sentences).reviews for sentences in (None, 1))
    assert [(user.user_id, user.profile) for user in whole] == [(user.user_id, user.profile) for user in short]
    for all_of_it, first in zip(whole, short, strict=True):
        assert all_of_it.reviews[0].startswith(first.reviews[0])
    assert any(len(all_of_it.reviews[0]) > len(first.reviews[0]) for all_of_it, first in zip(whole, short, strict=True))


def test_users_without_another_review_are_left_out_and_counted(tmp_path: Path) -> None:
    reviews = {
        "one review": [("a", 5)],
        "no stars": [("a", None), ("b", None), ("c", None)],
        "the same text": [("a", 2), ("a", 2), ("a", 2)],
        "half stars": [("a", 2.5), ("b", 2.5), ("c", 2.5)],
        "beyond": [("a", 9), ("b", 9), ("c", 9)],
    }
    lines = [
        {"user_id": user, "text": text, "stars": stars, "review_id": f"{user} {i}"}
        for user, given in reviews.items()
        for i, (text, stars) in enumerate(given)
    ]
    (tmp_path / "reviews.jsonl").write_text("\n".join(map(json.dumps, lines)))
    schema = Schema("any", [Attribute("Meal", ("Lunch", "Dinner"), unknown=True)])
    folder = prepare(
        {"kind": "custom", "reviews": str(tmp_path / "reviews.jsonl")},
        {"min_words": 1, "max_words": 9, "min_reviews": 1, "photo_reviews": 0},
        {"train": 5, "validation": 0, "test": 0},
        folder=tmp_path / "prepared",
        schema=schema,
        progress=False,
    )
    inputs = {"reviews": 1, "photos_per_review": 0, "sample_seed": 0, "redraw": False}
    found = held_out(Draws(folder, schema, inputs, captions=False), "train", SENTIMENT, 5)
    assert found.left_out == {"no_other_review": 2, "no_stars": 2}
    assert [user.profile for user in found.reviews] == [{"Sentiment": ("3",)}] * 2
    assert len({user.reviews for user in found.reviews}) == 2


def test_gold_says_nothing_where_there_is_no_label() -> None:
    schema = Schema("two", [Attribute("Stars", ("1", "2")), Attribute("Age", ("young", "old"), unknown=True)])
    assert known_labels(schema, {"Stars": ("2",), "Age": ()}) == "Stars: 2; Age: Unknown"
    assert known_labels(schema, {"Age": ("old",)}) == "Age: old"
    assert known_labels(schema, {}) == ""


def test_profiles_are_the_users_own_nobodys_or_somebody_elses(trained: Path, tmp_path: Path) -> None:
    run = load_run(str(trained))
    model, data = run.model, run_data(run)
    source = Source(run.folder / "model" / "model.safetensors", tmp_path, None, False)
    users = data.users("test")
    shown = {choice: shown_profiles(choice, model, data, "test", source) for choice in PROFILES}
    assert shown["none"] == {}
    assert shown["gold"] == {user.user_id: model.schema.render(user.profile or {}) for user in users}
    written = {row["user_id"]: row["text"] for row in read_json_lines(trained / "predictions.jsonl")}
    assert shown["generated"] == written  # a run's test predictions, which are of the same draw
    assert sorted(shown["shuffled"].values()) == sorted(written.values())
    order = [user.user_id for user in users]
    donor = [order[i] for i in donors(len(order), run.cfg.inputs.sample_seed)]
    assert all(a != b for a, b in zip(order, donor, strict=True))
    assert shown["shuffled"] == {a: written[b] for a, b in zip(order, donor, strict=True)}

    (path,) = tmp_path.iterdir()
    kept = path.read_text()
    path.write_text(kept.replace("Dinner", "Lunch"))
    assert source.profiles(model, data, "test") == [model.schema.parse(text.replace("Dinner", "Lunch")).profile
                                                    for text in written.values()]  # fmt: skip
    source._replace(beams=2).profiles(model, data, "test")  # another search: another file
    assert len(list(tmp_path.iterdir())) == 2
