"""Grids, boxes, and volumes on another grid."""

import numpy as np
from drawings import STRAIGHT, TURNED
from hypothesis import given
from hypothesis import strategies as st

from common.volumes.grids import (
    Box,
    Geometry,
    at_spacing,
    box_on_grid,
    coarsening_factor,
    coarser,
    grid_of_box,
    grow_box,
    image_at,
    smoothed_onto_grid,
)

SIZES = st.tuples(*[st.integers(1, 40)] * 3)
STEPS = st.tuples(*[st.floats(0.3, 4)] * 3)


def plain(size, spacing, direction=STRAIGHT):
    return Geometry(size, spacing, (3.0, -20.0, 7.5), direction)


@given(SIZES, STEPS, st.integers(10, 5000))
def test_coarser_grids_keep_their_faces_and_the_limit(size, spacing, voxels):
    grid = plain(size, spacing)
    less = coarser(grid, coarsening_factor(grid, voxels))
    assert np.prod(less.size) <= max(voxels, max(size) ** 2)  # an axis has a voxel at least
    near = [grid.to_points([(-0.5, -0.5, -0.5)]), less.to_points([(-0.5, -0.5, -0.5)])]
    assert np.allclose(*near)
    if np.prod(size) <= voxels:
        assert less == grid
    assert np.allclose(np.array(less.spacing) / grid.spacing, less.spacing[0] / grid.spacing[0])


@given(SIZES, STEPS, st.data())
def test_a_carried_box_covers_the_same_place(size, spacing, data):
    grid = plain(size, spacing, TURNED)
    start = [data.draw(st.integers(0, n - 1)) for n in size]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, size, strict=True)]
    box = Box(tuple(start), tuple(stop))
    assert box_on_grid(box, grid, grid) == box
    fine = at_spacing(grid, [0.5] * 3)
    there = box_on_grid(box, grid, fine)
    if there is not None:
        back = box_on_grid(there, fine, grid)
        for axis in range(3):
            ends = min(fine.size[axis] * 0.5 / spacing[axis], size[axis])  # the fine grid may end a little before
            assert back.start[axis] <= box.start[axis] and back.stop[axis] >= min(box.stop[axis], np.floor(ends))
    assert grid_of_box(grid, box).size == box.size
    assert np.allclose(grid_of_box(grid, box).to_points([(0, 0, 0)]), grid.to_points([box.start]))
    grown = grow_box(box, grid, 5, 0.2)
    assert all(n == side or n >= min(5, side) for n, side in zip(grown.size, size, strict=True))
    assert all(a <= b for a, b in zip(grown.start, box.start, strict=True))
    assert all(a >= b for a, b in zip(grown.stop, box.stop, strict=True))


def test_a_straight_ramp_stays_one_on_a_finer_and_a_coarser_grid():
    grid = plain((20, 24, 28), (1.0, 1.0, 1.0))
    k, j, i = np.meshgrid(*map(np.arange, grid.shape), indexing="ij")
    image = image_at((2 * i - 3 * j + 5 * k).astype(np.float32), grid)
    for spacing in (0.7, 2.0):
        other = at_spacing(grid, [spacing] * 3)
        found = smoothed_onto_grid(image, other)
        places = grid.to_voxels(other.to_points(np.argwhere(np.ones(other.shape))[:, ::-1]))
        expected = (places @ [2, -3, 5]).reshape(other.shape)
        inner = (slice(5, -5),) * 3  # at the faces the smoothing has nothing beyond
        assert np.allclose(found[inner], expected[inner], atol=0.05)


def test_coarse_grids_do_not_pick_up_noise():
    noise = np.random.default_rng(0).normal(size=(48, 48, 48)).astype(np.float32)
    grid = plain((48, 48, 48), (1.0, 1.0, 1.0))
    assert smoothed_onto_grid(image_at(noise, grid), at_spacing(grid, [4.0] * 3)).std() < 0.2


def test_short_sides_get_the_smallest_number_of_voxels():
    """By a finer spacing along their axes, between the same faces."""
    scan = Geometry((40, 30, 8), (1.0, 1.0, 5.0), (0.0, 0.0, 0.0), STRAIGHT)
    grid = at_spacing(scan, None, 24)
    assert grid.size == (40, 30, 24) and np.allclose(grid.spacing, (1, 1, 40 / 24))
    assert np.allclose(grid.to_points([(-0.5, -0.5, -0.5)]), scan.to_points([(-0.5, -0.5, -0.5)]))
    assert np.allclose(grid.to_points([(39.5, 29.5, 23.5)]), scan.to_points([(39.5, 29.5, 7.5)]))
    assert at_spacing(scan, 2, 0).size == (20, 15, 20) and at_spacing(scan, 2, 18).size == (20, 18, 20)
