"""Overlapping tiles: starts, weights and weighted mean."""

import itertools

import numpy as np
import pytest

from common.slices.tiling import WeightedMean, gaussian_window, tile_starts


def test_tiles_cover_a_length_evenly():
    """Every length, size and overlap: covered from end to end, no tile too many, and no two overlaps far apart."""
    for size, length in itertools.product((1, 2, 7, 8), range(1, 40)):
        for overlap in range(size):
            starts = tile_starts(length, size, overlap)
            if length <= size:
                assert len(starts) == 1 and starts[0] <= 0 and starts[0] + size >= length
                continue
            assert starts[0] == 0 and starts[-1] == length - size
            steps = np.diff(starts)
            assert steps.max() <= size - overlap and steps.max() - steps.min() <= 1
            assert (len(starts) - 2) * (size - overlap) + size < length, "one fewer would not do"


def test_window_is_a_gaussian_about_the_middle():
    for shape in ((8,), (9, 16), (6, 7, 8)):
        window = gaussian_window(shape)
        assert window.shape == (*shape, 1) and window.dtype == np.float32
        assert window.max() == window[tuple(n // 2 for n in shape)][0] and window.min() >= np.float32(1e-3)
        assert np.array_equal(window[..., 0], np.flip(window[..., 0]))
    line = gaussian_window((16,))[:, 0]
    assert np.allclose(line[8:12], np.exp(-0.5 * (np.arange(0.5, 4) / 2) ** 2), atol=1e-6)


@pytest.mark.parametrize("shape", [(20,), (20, 13), (12, 5, 9)])
def test_mean_of_tiles_is_the_array_that_they_were_cut_from(shape):
    """Also where a side is shorter than a tile, which then reaches over both edges."""
    rng = np.random.default_rng(0)
    array = rng.random((*shape, 2), np.float32)
    tile = (8,) * len(shape)
    padded = np.pad(array, [(8, 8)] * len(shape) + [(0, 0)])
    mean = WeightedMean(shape, 2)
    for start in itertools.product(*(tile_starts(length, 8, 4) for length in shape)):
        values = padded[tuple(slice(first + 8, first + 16) for first in start)]
        mean.add(start, values, gaussian_window(tile))
    np.testing.assert_allclose(mean.result(), array, atol=1e-6)
