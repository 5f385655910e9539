"""Features of photos without any learned model, colours and edges; beside TF-IDF of the reviews."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy import sparse
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from mmprofile.inputs.views import Example
from mmprofile.systems.classical import Array, Estimators, FitFeatures, Matrix, Transform, logistic, tfidf

SIDE = 64  # pixels to which photos are scaled
COLOURS = (8, 2, 4)  # bins of hue, saturation and value
CELL, BLOCK, ORIENTATIONS = 16, 2, 9
N_COLOURS = COLOURS[0] * COLOURS[1] * COLOURS[2]
N_FEATURES = N_COLOURS + (SIDE // CELL - BLOCK + 1) ** 2 * BLOCK**2 * ORIENTATIONS
N_PHOTO_COLUMNS = 1 + 2 * N_FEATURES


class PhotoFeatures:
    """The colour histogram and the HOG of photos; each photo is decoded once.

    Args:
        jpeg: photo id -> its file.
    """

    def __init__(self, jpeg: Callable[[str], bytes]) -> None:
        self.jpeg = jpeg
        self._vectors: dict[str, Array] = {}

    def __call__(self, photos: Sequence[str]) -> Array:
        """Return (K, D) features of K photos; D is ``N_FEATURES``."""
        for photo in photos:
            if photo not in self._vectors:
                image = Image.open(io.BytesIO(self.jpeg(photo))).convert("RGB")
                image = image.resize((SIDE, SIDE), Image.Resampling.BOX)
                self._vectors[photo] = np.concatenate([colours(image), hog(np.asarray(image.convert("L"), float))])
        return np.array([self._vectors[photo] for photo in photos])


def colours(image: Image.Image) -> Array:
    """Return the share of the pixels in each bin of hue x saturation x value: (64,)."""
    levels = np.asarray(image.convert("HSV"), dtype=int).reshape(-1, 3) * COLOURS // 256
    places = np.ravel_multi_index(tuple(levels.T), COLOURS)
    return np.bincount(places, minlength=N_COLOURS) / len(places)


def hog(grey: Array) -> Array:
    """Compute histograms of oriented gradients (Dalal and Triggs, 2005), as ``skimage.feature.hog`` gives them.

    Args:
        grey: (H, W), both multiples of ``CELL``.

    Returns:
        For each block of ``BLOCK`` x ``BLOCK`` cells, the cells' histograms of ``ORIENTATIONS`` bins over 180 degrees,
        normalised by L2-Hys: (blocks * ``BLOCK`` ** 2 * ``ORIENTATIONS``,).
    """
    rows, columns = np.zeros_like(grey), np.zeros_like(grey)
    rows[1:-1], columns[:, 1:-1] = grey[2:] - grey[:-2], grey[:, 2:] - grey[:, :-2]
    angle = np.rad2deg(np.arctan2(rows, columns)) % 180
    of_bin = np.floor(angle / 180 * ORIENTATIONS) == np.arange(ORIENTATIONS)[:, None, None]
    height, width = (side // CELL for side in grey.shape)
    cells = (np.hypot(rows, columns) * of_bin).reshape(ORIENTATIONS, height, CELL, width, CELL).mean((2, 4))
    blocks = np.lib.stride_tricks.sliding_window_view(cells, (BLOCK, BLOCK), axis=(1, 2))  # (O, h, w, BLOCK, BLOCK)
    flat = np.moveaxis(blocks, 0, -1).reshape(*blocks.shape[1:3], -1)
    flat = np.minimum(_unit(flat), 0.2)
    return _unit(flat).ravel()


def _unit(vectors: Array) -> Array:
    return vectors / np.sqrt((vectors**2).sum(axis=-1, keepdims=True) + 1e-10)


def tfidf_and_photos(vectors: PhotoFeatures) -> FitFeatures:
    """Return features: ``1 + 2 D`` columns on the photos (whether there are any, their mean, their maximum), then TF-IDF.

    Mean and maximum are standardised on the train users with photos and divided by the square root of D, so that they
    weigh as much as a text does. A user without photos has zeros.
    """
    text = tfidf()

    def fit(train: Sequence[Example]) -> Transform:
        words = text(train)
        mean, deviation = np.zeros(2 * N_FEATURES), np.ones(2 * N_FEATURES)
        if with_photos := [example for example in train if example.photos]:
            raw = np.array([_mean_and_max(vectors(example.photos)) for example in with_photos])
            mean, deviation = raw.mean(axis=0), np.maximum(raw.std(axis=0), 1e-6)

        def transform(examples: Sequence[Example]) -> Matrix:
            table = np.zeros((len(examples), N_PHOTO_COLUMNS))
            for row, example in zip(table, examples, strict=True):
                if example.photos:
                    row[0] = 1.0
                    scaled = (_mean_and_max(vectors(example.photos)) - mean) / deviation
                    row[1:] = scaled / np.sqrt(N_FEATURES)
            return sparse.hstack([table, words(examples)]).tocsr()

        return transform

    return fit


def weighted(features: Matrix, weight: float, columns: int) -> Matrix:
    """Return the first ``columns`` of the columns on the photos, times ``weight``, beside the words."""
    return sparse.hstack([features[:, :columns] * weight, features[:, N_PHOTO_COLUMNS:]]).tocsr()


def _estimator(c: float, weight: float, columns: int) -> Callable[[], Any]:
    weigh = FunctionTransformer(weighted, accept_sparse=True, kw_args={"weight": weight, "columns": columns})
    return lambda: make_pipeline(weigh, logistic(c)())


PHOTOS_AND_TEXT: Estimators = {
    f"{name} x {weight} C={c}": _estimator(c, weight, columns)
    for name, columns in (("mean", 1 + N_FEATURES), ("mean, max", N_PHOTO_COLUMNS))
    for weight, c in ((1.0, 10.0), (0.3, 30.0))
}


def _mean_and_max(vectors: Array) -> Array:
    """Return the mean and the maximum over photos: (K, D) -> (2 D,)."""
    return np.concatenate([vectors.mean(axis=0), vectors.max(axis=0)])
