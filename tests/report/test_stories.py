"""The stories of a report say what the model says when it is asked by hand."""

import io

import numpy as np
import pytest
from PIL import Image

from mmprofile.inputs.views import User
from mmprofile.inspection.counterfactuals import distances_by_change, drop_photo, drop_review
from mmprofile.inspection.inspector import Inspector
from mmprofile.report.stories import THUMBNAIL, evidence_of_model, thumbnail
from tests.support.stories import MakeRun, written_rows

pytestmark = pytest.mark.fast


def test_stories_are_what_the_model_says_when_asked_by_hand(make_run: MakeRun, users: list[User]) -> None:
    model, data = make_run()
    inspector = Inspector(model, data.collator, data.views, users)
    evidence = evidence_of_model(model, data, written_rows(model, data), 3)
    assert [story.user_id for story in evidence.stories] == ["user-0", "user-2", "user-3"]  # those with photos first
    assert evidence.gate_users == 3
    for story in evidence.stories:
        user = inspector.users_by_id[story.user_id]
        (inspection,) = inspector.inspect([user])
        assert ["".join(text for text, _ in pieces) for pieces in story.reviews] == list(user.reviews)
        shares = inspection.photo_attention.mean(0)
        assert [photo.share for photo in story.photos] == pytest.approx(shares.tolist())
        strength = np.abs(inspection.added).mean(1)
        means = [
            (w.text, f"{w.source} {w.number}", float(strength[slice(*w.span)].mean()))
            for w in inspection.words
            if w.text != "."
        ]
        assert story.words == [
            (*word, pytest.approx(mean)) for *word, mean in sorted(means, key=lambda one: -one[2])[:8]
        ]
        marked = [shade for pieces in story.reviews for _, shade in pieces if shade is not None]
        assert len(marked) == sum(word.source == "review" for word in inspection.words)
        assert 0 <= min(marked) <= max(marked) <= 1

        wanted = {f"photo {i}": drop_photo(user, i) for i in range(len(user.photos))}
        wanted |= {f"review {i}": drop_review(user, i) for i in range(len(user.reviews))}
        table = distances_by_change(inspector.counterfactuals([user], lambda user, _, wanted=wanted: wanted))  # type: ignore[misc]
        for place, answer in enumerate(story.attributes):
            name = answer.attribute.name
            each = {change: float(by_attribute[name][0]) for change, by_attribute in table.items()}
            assert {change: distances[place] for change, distances in story.distances.items()} == pytest.approx(
                each, abs=1e-5
            )
            assert answer.influence is not None
            assert answer.influence.distance == pytest.approx(max(each.values()), abs=1e-5)
            assert each[answer.influence.source] == pytest.approx(max(each.values()), abs=1e-5)
            posterior = inspection.decoded.posteriors[name]
            assert answer.predicted == ", ".join(inspection.decoded.profile[name])
            assert answer.probability == pytest.approx(posterior[inspection.decoded.profile[name]], abs=1e-5)
            assert answer.influence.before == pytest.approx(answer.probability, abs=1e-5)
            gold = (user.profile or {})[name]
            assert answer.gold_probability == pytest.approx(posterior.get(gold, 0.0), abs=1e-5)
            assert answer.right == (answer.predicted == ", ".join(gold))


def test_a_thumbnail_is_small_and_says_nothing_of_the_camera() -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x010F] = "camera"
    Image.new("RGB", (1000, 500), "red").save(file, format="JPEG", exif=exif)
    small = Image.open(io.BytesIO(thumbnail(file.getvalue())))
    assert small.size == (THUMBNAIL, THUMBNAIL // 2)
    assert not small.getexif()
