"""Colors that every reader can tell apart."""

from itertools import combinations

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from common.slices.classes import IGNORED, IGNORED_SET
from common.slices.drawing import (
    CLASS_COLORS,
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    PREDICTED_COLOR,
    TRUE_POSITIVE,
    TRUTH_COLOR,
    paint,
    paint_errors,
)

SEEN = {  # linear RGB as seen with a color vision deficiency (Machado et al., 2009, severity 1)
    "all": np.eye(3),
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def difference(first, second, matrix):
    """Difference of two RGB colors, CIEDE2000, for a reader."""

    def seen(color):
        linear = (np.asarray(color) / 255) ** 2.2 @ np.transpose(matrix)
        return rgb2lab(np.clip(linear, 0, 1)[None, None] ** (1 / 2.2))

    return deltaE_ciede2000(seen(first), seen(second)).item()


@pytest.mark.parametrize("reader", SEEN)
def test_colors_of_errors_and_outlines_differ_for_every_reader(reader):
    assert difference(TRUTH_COLOR, PREDICTED_COLOR, SEEN[reader]) > 20
    for gray in (40, 128, 210):
        image = np.full((1, 3), gray, np.uint8)
        painted = paint_errors(image, np.array([[1, 1, 0]]), np.array([[1, 0, 1]]))[0]
        assert min(difference(*pair, SEEN[reader]) for pair in combinations(painted, 2)) > 12


def test_colors_have_the_names_that_the_pages_give_them():
    for color, channel in ((TRUE_POSITIVE, 1), (FALSE_POSITIVE, 0), (FALSE_NEGATIVE, 2), (TRUTH_COLOR, 1)):
        assert np.argmax(color) == channel


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (np.array([0, 1, 2, 7, IGNORED], np.uint8), [[], [1], [2], [7], []]),
        (np.array([0, 1, 3, 0b1000101, IGNORED_SET], np.uint16), [[], [1], [1, 2], [1, 3, 7], []]),
    ],
)
def test_a_painted_pixel_is_six_tenths_slice_and_four_tenths_the_mean_of_its_classes(values, classes):
    rng = np.random.default_rng(0)
    which = rng.integers(0, len(values), (23, 31))
    colors = [
        np.mean([CLASS_COLORS[(number - 1) % 6] for number in found], axis=0) if found else 0 for found in classes
    ]
    tints = np.array([np.broadcast_to(color, 3) for color in colors])
    painted = np.array([bool(found) for found in classes])[which][..., None]
    for image in (rng.integers(0, 256, (23, 31)), rng.integers(0, 256, (23, 31, 3))):
        picture = np.broadcast_to(image.reshape(23, 31, -1), (23, 31, 3))
        expected = np.where(painted, np.rint(0.6 * picture + 0.4 * tints[which]), picture)
        found = paint(image.astype(np.uint8), values[which])
        assert found.dtype == np.uint8 and np.array_equal(found, expected)
        assert np.array_equal(paint(image.astype(np.uint8), values[which.T].T), expected)  # in another memory order
