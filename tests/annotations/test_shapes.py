"""Outlines become masks: a pixel is inside if its center is, and (0, 0) is the corner of the top left pixel."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.draw import polygon
from skimage.measure import points_in_poly

import common.annotations.shapes as shapes_module
from common.annotations.classes import as_numbers, names_of, number_classes
from common.annotations.shapes import Collected, Shape, draw, ellipse, fill, rectangle
from common.errors import InputError

SHAPE = (50, 70)
CENTERS = np.stack(np.meshgrid(np.arange(70) + 0.5, np.arange(50) + 0.5), axis=-1)


def star(seed, points=12):
    """A polygon without crossings, between pixel centers."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * math.pi, points))
    radii = rng.uniform(5, 30, points)
    return np.column_stack([35 + radii * np.cos(angles), 25 + radii * np.sin(angles)])


@pytest.mark.parametrize("seed", range(8))
def test_a_polygon_contains_the_pixels_whose_centers_are_inside(seed):
    ring = star(seed)
    mask = fill([ring], SHAPE)
    assert np.array_equal(mask, points_in_poly(CENTERS.reshape(-1, 2), ring).reshape(SHAPE))
    rows, columns = polygon(ring[:, 1] - 0.5, ring[:, 0] - 0.5, SHAPE)
    other = np.zeros(SHAPE, bool)
    other[rows, columns] = True
    assert np.array_equal(mask, other)


def test_whole_numbers_are_corners_of_pixels():
    mask = fill([rectangle(2, 3, 5, 7)], (10, 10))
    assert mask.sum() == 3 * 4 and mask[3:7, 2:5].all()
    assert fill([rectangle(2.4, 3.4, 5.4, 7.4)], (10, 10))[3:7, 2:5].all()
    assert not fill([rectangle(2.6, 3.6, 2.9, 3.9)], (10, 10)).any()


def test_a_ring_in_a_ring_is_a_hole_and_what_is_outside_is_cut():
    mask = fill([rectangle(-5, -5, 8, 8), rectangle(2, 2, 4, 4)], (10, 10))
    assert mask.sum() == 64 - 4 and not mask[2:4, 2:4].any()
    assert not fill([rectangle(20, 20, 30, 30)], (10, 10)).any()


@given(st.floats(0.5, 20), st.floats(0.5, 20), st.floats(-360, 360))
def test_an_ellipse_is_within_a_fraction_of_a_pixel(radius_x, radius_y, degrees):
    ring = ellipse(35, 25, radius_x, radius_y, degrees) - (35, 25)
    angle = math.radians(degrees)
    along = ring @ (math.cos(angle), math.sin(angle)) / radius_x
    across = ring @ (-math.sin(angle), math.cos(angle)) / radius_y
    assert np.allclose(np.hypot(along, across), 1)
    middles = (ring + np.roll(ring, 1, axis=0)) / 2
    inside = np.hypot(
        middles @ (math.cos(angle), math.sin(angle)) / radius_x,
        middles @ (-math.sin(angle), math.cos(angle)) / radius_y,
    )
    assert ((1 - inside) * max(radius_x, radius_y) <= 0.02 + 1e-9).all()


def test_shapes_turn_clockwise_on_the_screen():
    ring = rectangle(10, 10, 30, 14, 90)
    assert np.allclose(ring.min(axis=0), (18, 2)) and np.allclose(ring.max(axis=0), (22, 22))
    first = ring[0]  # the top left corner is now at the top right
    assert np.allclose(first, (22, 2))


def test_masks_are_placed_and_cut():
    def pixels(corner):
        mask, _ = draw([Shape("a", mask=np.ones((4, 5), bool), corner=corner)], {"a": 1}, (10, 12))
        return np.argwhere(mask)

    for (left, top), count in (
        ((3, 2), 20),
        ((-2, -1), 9),
        ((9, 8), 6),
        ((-9, 0), 0),
        ((0, 50), 0),
        ((-(10**9), 0), 0),
    ):
        found = pixels((left, top))
        assert len(found) == count
        assert all(top <= y < top + 4 and left <= x < left + 5 for y, x in found)
    corners = np.zeros((4, 5), bool)
    corners[3, 4] = True
    mask, _ = draw([Shape("a", mask=corners, corner=(-4, -3))], {"a": 1}, (10, 12))
    assert np.argwhere(mask).tolist() == [[0, 0]]


@pytest.mark.parametrize("move", [(0, 0), (-20, 3.25), (30.5, -17), (500, 0), (-35, -25)])
def test_an_outline_is_cut_at_the_edges_of_the_image(move):
    ring = star(3) + move
    mask, _ = draw([Shape("a", (ring, ring / 2 + (9, 9)))], {"a": 1}, SHAPE)
    assert np.array_equal(mask > 0, fill([ring, ring / 2 + (9, 9)], SHAPE))


def test_long_outlines_are_filled_in_parts(monkeypatch):
    ring = star(5, points=500)
    whole = fill([ring], SHAPE)
    monkeypatch.setattr(shapes_module, "MOST_CROSSINGS", 7 * SHAPE[0])
    assert whole.any() and np.array_equal(fill([ring], SHAPE), whole)


def test_where_classes_overlap_the_largest_or_the_last_wins():
    shapes = [
        Shape("b", (rectangle(0, 0, 6, 6),)),
        Shape("a", (rectangle(4, 4, 10, 10),)),
        Shape("c", mask=np.ones((1, 1), bool)),
    ]
    mask, several = draw(shapes, {"a": 1, "b": 2}, (10, 10))
    assert several == 4 and (mask == 2).sum() == 36 and (mask == 1).sum() == 32
    mask, several = draw(shapes, {"a": 1, "b": 2}, (10, 10), overlap="last")
    assert several == 4 and (mask == 2).sum() == 32 and (mask == 1).sum() == 36
    mask, several = draw(shapes, {"a": 1, "b": 2}, (10, 10), overlap="keep")
    assert several == 4 and mask.dtype == np.uint16 and [(mask == value).sum() for value in (1, 2, 3)] == [32, 32, 4]


def test_shapes_are_collected():
    collected = Collected()
    collected.outline("a", [[(0, 0), (1, 1)], [(0, 0), (4, 0), (4, 4)]], "x")
    collected.outline("a", [[(0, 0), (1, 1)]], "x")
    collected.mask("b", np.pad(np.ones((2, 3), bool), ((1, 4), (2, 5))), (10, 20))
    collected.mask("b", np.zeros((2, 3), bool))
    outline, mask = collected.shapes
    assert len(outline.rings) == 1 and mask.corner == (12, 21) and mask.mask.shape == (2, 3)
    assert collected.ignored == {"outline of fewer than three points": 1, "empty mask": 1}
    for wrong, found in ((float("nan"), "nan, 2"), (1e9, r"1e\+09, 2"), (float("-inf"), "-inf, 2")):
        with pytest.raises(InputError, match=f"x: a point is not in the image .found {found}"):
            collected.outline("a", [[(0, 0), (1, 1), (wrong, 2)]], "x")


def test_names_become_classes():
    assert number_classes({"tumor", "liver"}, {}) == {"liver": 1, "tumor": 2}
    classes = {"lesion*": 2, "lesion 3": 1, "organ": 4}
    numbers = number_classes({"lesion 3", "lesion 4", "organ", "air"}, classes)
    assert numbers == {"lesion 3": 1, "lesion 4": 2, "organ": 4}
    assert names_of(numbers, classes) == ["lesion 3", "lesion", "3", "organ"]
    assert number_classes({"b", "a"}, as_numbers(["b", "a"])) == {"a": 2, "b": 1} and as_numbers({"a": 3}) == {"a": 3}
    assert names_of({"a": 1}, {"*": 1}) == ["1"] and names_of({"liver": 1, "tumor": 2}, {}) == ["liver", "tumor"]
    for names, classes, words in (
        (set(), {}, "no shape with an area"),
        ({f"p{i}" for i in range(100)}, {}, "100 different names"),
        ({"liver"}, {"livr": 1}, "no shape has one of these names"),
    ):
        with pytest.raises(InputError, match=words):
            number_classes(names, classes)
