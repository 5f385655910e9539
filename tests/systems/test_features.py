"""Features of photos: HOG against scikit-image, colours by hand, and what becomes of them beside the words."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from skimage.feature import hog as oracle

from mmprofile.inputs.views import Example
from mmprofile.profile.metrics import score
from mmprofile.profile.schema import Attribute, Schema
from mmprofile.systems.classical import AttributeClassifiers
from mmprofile.systems.features import (
    BLOCK,
    CELL,
    N_COLOURS,
    N_FEATURES,
    N_PHOTO_COLUMNS,
    ORIENTATIONS,
    PHOTOS_AND_TEXT,
    PhotoFeatures,
    colours,
    hog,
    tfidf_and_photos,
    weighted,
)

pytestmark = pytest.mark.fast

MEAL = Schema("meal", [Attribute("Meal", ("Lunch", "Dinner"))])


def jpeg(colour: str, size: tuple[int, int] = (96, 80)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture
def vectors() -> PhotoFeatures:
    """Photos that are named after their colour, with a number behind."""
    return PhotoFeatures(lambda photo: jpeg(photo.rstrip("0123456789")))


@pytest.mark.parametrize("shape", [(64, 64), (48, 96)])
@pytest.mark.parametrize(
    "make", [lambda rng, s: rng.random(s) * 255, lambda rng, s: np.tile(np.arange(s[1]) * 2.0, (s[0], 1))]
)
def test_hog_is_scikit_images(shape: tuple[int, int], make: Callable[..., np.ndarray]) -> None:
    grey = make(np.random.default_rng(0), shape)
    expected = oracle(grey, ORIENTATIONS, (CELL, CELL), (BLOCK, BLOCK), block_norm="L2-Hys")
    assert hog(grey) == pytest.approx(expected, abs=1e-6)


def test_a_photo_without_edges_has_no_gradients() -> None:
    assert not hog(np.full((64, 64), 7.0)).any()


def test_colours_are_shares_of_pixels() -> None:
    image = Image.new("RGB", (64, 64), (255, 0, 0))  # hue 0, full saturation and value: bin 0, 1, 3
    image.paste((0, 0, 0), (0, 0, 64, 16))  # black: all bins 0
    found = colours(image)
    assert found[np.ravel_multi_index((0, 1, 3), (8, 2, 4))] == 0.75
    assert found[0] == 0.25
    assert found.sum() == 1


def test_a_photo_is_decoded_once_and_has_its_vector(vectors: PhotoFeatures) -> None:
    opened: list[str] = []

    def counted(photo: str) -> bytes:
        opened.append(photo)
        return jpeg(photo)

    features = PhotoFeatures(counted)
    found = features(["red", "blue", "red"])
    assert found.shape == (3, N_FEATURES)
    assert np.array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[1])
    assert np.array_equal(features(["blue"]), found[1:2])
    assert opened == ["red", "blue"]


def test_photos_stand_before_the_words_standardised(vectors: PhotoFeatures) -> None:
    train = [
        Example("soup", photos=("red", "blue")),
        Example("bread", photos=("green",)),
        Example("soup bread"),
        Example("soup", photos=("red",)),
    ]
    table = tfidf_and_photos(vectors)(train)(train).toarray()
    words = table.shape[1] - N_PHOTO_COLUMNS
    assert words == 3  # soup, bread, soup bread
    assert table[:, 0].tolist() == [1, 1, 0, 1]
    assert not table[2, :N_PHOTO_COLUMNS].any()
    shown = table[[0, 1, 3], 1:N_PHOTO_COLUMNS] * np.sqrt(N_FEATURES)
    assert shown.mean(axis=0) == pytest.approx(0, abs=1e-9)
    varies = shown.std(axis=0) > 0
    assert shown.std(axis=0)[varies] == pytest.approx(1)
    # Bin by bin: red and blue have half the pixels each in the mean, all in the maximum.
    raw = {name: vectors([name])[0, :N_COLOURS] for name in ("red", "blue", "green")}
    means = np.array([(raw["red"] + raw["blue"]) / 2, raw["green"], raw["red"]])
    tops = np.array([np.maximum(raw["red"], raw["blue"]), raw["green"], raw["red"]])
    for place, values in ((0, means), (N_FEATURES, tops)):
        expected = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-6)
        assert shown[:, place : place + N_COLOURS] == pytest.approx(expected)
    half = weighted(tfidf_and_photos(vectors)(train)(train), 0.5, 1 + N_FEATURES).toarray()
    assert half == pytest.approx(np.hstack([table[:, : 1 + N_FEATURES] / 2, table[:, N_PHOTO_COLUMNS:]]))


def test_nobody_has_photos(vectors: PhotoFeatures) -> None:
    train = [Example("soup"), Example("bread soup")]
    assert not tfidf_and_photos(vectors)(train)(train).toarray()[:, :N_PHOTO_COLUMNS].any()


def test_what_only_photos_tell_is_learned(vectors: PhotoFeatures) -> None:
    def users(number: int, seed: int) -> list[Example]:
        rng = np.random.default_rng(seed)
        meals = rng.choice(["Lunch", "Dinner"], number).tolist()
        shown = {"Lunch": "yellow", "Dinner": "navy"}
        return [Example("a place", profile={"Meal": (meal,)}, photos=(shown[meal], "grey")) for meal in meals]

    train, test = users(40, 0), users(20, 1)
    fitted = AttributeClassifiers(MEAL, train, tfidf_and_photos(vectors), PHOTOS_AND_TEXT)
    predicted = fitted.predict(test)
    assert score(MEAL, [example.profile for example in test], predicted, resamples=0).macro_f1 == 100
    name, _ = fitted.choices["Meal"]
    columns = N_PHOTO_COLUMNS if name.startswith("mean, max") else 1 + N_FEATURES
    assert fitted.n_parameters == columns + 1 + 1  # a binary regression: "place", the intercept
