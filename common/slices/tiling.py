"""Overlapping tiles in any number of dimensions: starts, weights, and weighted mean of values."""

import functools

import numpy as np


def tile_starts(length, size, overlap):
    """Start positions of the fewest evenly spaced tiles that cover one side of an array.

    Args:
        length: side length of the array, in pixels or voxels.
        size: side length of a tile.
        overlap: minimum overlap of neighboring tiles; less than `size`.

    Returns:
        list of int, ascending; a side shorter than a tile has one start that centers it, 0 or negative.
    """
    if length <= size:
        return [(length - size) // 2]
    count = -(-(length - overlap) // (size - overlap))
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


def gaussian_window(shape):
    """Weights of the values in a tile: a centered Gaussian; sigma is an eighth of each side.

    As in nnU-Net (Isensee et al., doi 10.1038/s41592-020-01008-z), but at least 0.001, so that array edges
    count.

    Args:
        shape: side lengths of the tile.

    Returns:
        (*shape, 1) float32, maximum 1.
    """
    sides = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in shape]
    return np.maximum(functools.reduce(np.multiply.outer, sides), 1e-3).astype(np.float32)[..., None]


class WeightedMean:
    """Weighted mean of overlapping tiles, which must cover the whole array.

    Args:
        shape: array shape without channels.
        channels: number of channels of the tiles.
    """

    def __init__(self, shape, channels):
        self._total = np.zeros((*shape, channels), np.float32)
        self._weights = np.zeros((*shape, 1), np.float32)

    def add(self, start, values, weights):
        """Add a tile; parts beyond the edges are ignored.

        Args:
            start: start position along each side; may be negative.
            values: (*tile, channels) float32.
            weights: (*tile, 1) float32, above 0.
        """
        place, inside = [], []
        for first, size, length in zip(start, values.shape, self._total.shape, strict=False):
            low, high = max(first, 0), min(first + size, length)
            place.append(slice(low, high))
            inside.append(slice(low - first, high - first))
        place, inside = tuple(place), tuple(inside)
        self._total[place] += values[inside] * weights[inside]
        self._weights[place] += weights[inside]

    def result(self):
        """The mean, (*shape, channels) float32. It is computed in place: call it once, after adding all tiles."""
        self._total /= self._weights
        return self._total
