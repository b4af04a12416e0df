"""Masks that do not lie on their images are found, and right ones are not suspected."""

import cv2
import numpy as np
import pytest
from drawings import disc_slice, textured
from running import REAL_DATA

from common.slices.images import read_image, read_mask, read_slice, resize, to_gray
from common.slices.shifts import Alignment, edges_under_outline, find_offset, in_words


def moved(mask, down, right):
    matrix = np.float32([[1, 0, right], [0, 1, down]])
    return cv2.warpAffine(mask, matrix, mask.shape[::-1], flags=cv2.INTER_NEAREST)


def aligned(cases, moves=None):
    """Alignment of cases, a list of lists of (image, mask), with the masks of some moved: dict of case to offset."""
    alignment = Alignment()
    for number, slices in enumerate(cases):
        for image, mask in slices:
            mask = moved(mask, *(moves or {}).get(number, (0, 0)))
            alignment.add(f"case{number}", edges_under_outline(image, mask))
    return alignment


def everywhere(cases, offset):
    return dict.fromkeys(range(len(cases)), offset)


@pytest.fixture(scope="module")
def organs():
    """Five cases of eight slices with an organ whose edges are not the strongest ones in the slice."""
    rng = np.random.default_rng(2)
    cases = []
    for _ in range(5):
        slices = []
        for _ in range(8):
            image, mask = textured(rng, (128, 128), 90, 12, 9), np.zeros((128, 128), np.uint8)
            place, axes = rng.integers(45, 80, 2).tolist(), rng.integers(12, 25, 2).tolist()
            cv2.ellipse(mask, place, axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
            image[mask > 0] += 25
            cv2.rectangle(image, *rng.integers(0, 128, (2, 2)).tolist(), 200.0, 2)
            slices.append((cv2.GaussianBlur(image, (0, 0), 1.0).clip(0, 255).astype(np.uint8), mask))
        cases.append(slices)
    return cases


def test_right_masks_are_not_suspected(organs):
    alignment = aligned(organs)
    assert alignment.finish() is None and alignment.shifted == {}


def test_the_edge_of_what_is_ignored_is_no_outline(organs):
    image, mask = organs[0][0]
    half = np.where(np.indices(mask.shape)[0] < 50, np.uint8(254), np.uint8(0))
    assert edges_under_outline(image, half) is None
    assert edges_under_outline(image, np.where(half, half, mask)) is not None


@pytest.mark.parametrize("offset", [(8, 0), (-8, 8), (0, -5), (3, 20)])
def test_a_shifted_set_is_found_with_its_offset(organs, offset):
    down, right, stronger = aligned(organs, everywhere(organs, offset)).finish()
    assert abs(down + offset[0]) <= 1 and abs(right + offset[1]) <= 1 and stronger > 1.2


def test_a_shifted_case_is_found_among_right_ones(organs):
    alignment = aligned(organs, {3: (0, 8)})
    assert alignment.finish() is None
    assert list(alignment.shifted) == ["case3"] and abs(alignment.shifted["case3"][1] + 8) <= 1


def test_few_slices_prove_nothing(organs):
    assert aligned([organs[0][:5]], {0: (8, 0)}).finish() is None
    assert aligned([organs[0]], {0: (8, 0)}).finish()


def test_slices_without_outline_or_edges_are_left_out():
    image, mask = disc_slice(64, 1)
    assert edges_under_outline(image, np.zeros_like(mask)) is None
    assert edges_under_outline(image, np.full_like(mask, 255)) is None
    assert edges_under_outline(np.full_like(image, 7), mask) is None
    edges = edges_under_outline(image, mask)
    assert edges.shape == (25, 25) and abs(edges.mean() - 1) < 1e-5
    assert np.unravel_index(edges.argmax(), edges.shape) == pytest.approx((12, 12), abs=1)
    assert edges_under_outline(image.astype(np.uint16) * 257, mask) == pytest.approx(edges, rel=1e-3)


def test_an_offset_needs_both_halves_a_clear_gain_and_one_place():
    def peaks(*places):
        edges = np.ones((33, 33))
        for row, column, height in places:
            edges[16 + row, 16 + column] = height
        return edges

    there, here = peaks((8, -3, 2.0)), peaks((0, 0, 2.0))
    assert find_offset(there, there) == (8, -3, 2.0)
    assert find_offset(there, here) is None  # one half only
    assert find_offset(peaks((8, -3, 2.0), (0, 0, 1.9)), there) is None  # hardly stronger
    assert find_offset(*[peaks((8, -3, 2.0), (-9, 9, 1.95))] * 2) is None  # as strong elsewhere
    assert find_offset(*[peaks((16, 0, 2.0))] * 2) is None  # at the border
    assert find_offset(*[peaks((2, 0, 2.0))] * 2) is None  # too near


def test_words_of_an_offset():
    assert in_words(-8, 0) == "8 pixels up"
    assert in_words(3, -4) == "3 pixels down and 4 pixels to the left"
    assert in_words(0, 5) == "5 pixels to the right"


# --- real images


def tumours():
    """Brain MR with outlines of tumours, 256x256: four cases of eleven slices."""
    masks = sorted((REAL_DATA / "brain_tumour" / "masks").glob("*.png"))
    slices = []
    for path in masks:
        image = to_gray(read_image(path.parents[1] / "images" / path.name.replace("_mask", "")))
        mask = to_gray(read_image(path))
        slices.append((resize(image, (256, 256)), resize(mask, (256, 256), cv2.INTER_NEAREST)))
    return [slices[i : i + 11] for i in range(0, len(slices), 11)]


def membranes():
    """Electron microscopy with outlines of membranes."""
    cases = [sorted((case / "x").glob("*.png")) for case in sorted((REAL_DATA / "membrane").glob("case*"))]
    return [[(read_slice(x), read_mask(x.parents[1] / "y" / x.name)) for x in case] for case in cases]


@pytest.mark.skipif(not REAL_DATA.exists(), reason="needs the real images")
@pytest.mark.parametrize("make", [tumours, membranes])
def test_real_masks_are_not_suspected_and_shifted_ones_found(make):
    cases = make()
    alignment = aligned(cases)
    assert alignment.finish() is None and alignment.shifted == {}
    for offset in ((8, 0), (-5, 6)):
        down, right, _ = aligned(cases, everywhere(cases, offset)).finish()
        one = aligned([[pair for case in cases for pair in case]], {0: offset})  # as if they were one patient
        assert one.finish() and list(one.shifted) == ["case0"]
        assert abs(down + offset[0]) <= 1 and abs(right + offset[1]) <= 1
