"""Gray values of a window, and cutting and pasting."""

import numpy as np
import pytest

from common.errors import InputError
from common.slices.images import fit_boxes, paste, window_to_gray


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("bits", [8, 16])
def test_gray_levels_are_rounded_and_cut_off(kind, bits):
    values = np.random.default_rng(0).integers(0, 200, (50, 61)).astype(kind)
    top = 2**bits - 1
    expected = np.clip((values.astype(np.float64) - 20) / 130 * top, 0, top)
    gray = window_to_gray(values, 20, 150, bits)
    assert gray.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert np.abs(gray - expected).max() <= 0.5 + 1e-3


def test_paste_is_the_way_back_of_cut():
    mask = np.arange(16, dtype=np.uint8).reshape(4, 4)
    whole = paste(mask, (-1, 2, 4, 4), (5, 6))
    expected = np.zeros((5, 6), np.uint8)
    expected[2:5, 0:3] = mask[:3, 1:]
    np.testing.assert_array_equal(whole, expected)


@pytest.mark.parametrize(("size", "overlap"), [(8, 7), (2000, 1995)])
def test_tiles_that_would_fill_the_memory_are_refused(size, overlap):
    assert len(fit_boxes((4000, 4000), 100, "tile", 50)) == 79 * 79
    with pytest.raises(InputError, match=r"TILE_OVERLAP: too many tiles of a 4000x4000 image"):
        fit_boxes((4000, 4000), size, "tile", overlap)
