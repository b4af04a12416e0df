"""Fill closed outlines: a pixel is inside if its center is."""

import numpy as np


def fill_outlines(lines, shape):
    """Fill closed outlines by the even-odd rule: an outline within an outline is a hole.

    Args:
        lines: (N, 2, 2) array: end points (x, y) of the outlines' line segments in pixels, in any order.
        shape: (height, width).

    Returns:
        (height, width) uint8 of 0 and 1.
    """
    height, width = shape
    row, crossing = crossings_of(lines[:, 0], lines[:, 1], height)
    column = np.ceil(crossing).clip(0, width).astype(int)  # inside and outside swap from here on
    crossings = np.bincount(row * (width + 1) + column, minlength=height * (width + 1)).reshape(height, width + 1)
    return (crossings.cumsum(1)[:, :width] % 2).astype(np.uint8)


def crossings_of(starts, stops, height):
    """Where line segments cross the lines through the pixel centers of each row; the lower end belongs to a segment.

    Args:
        starts, stops: (N, 2) end points (x, y) in pixels.
        height: number of rows.

    Returns:
        row (int) and x of each crossing, (M,).
    """
    (x, y), (to_x, to_y) = starts.T, stops.T
    first, end = (np.ceil(f(y, to_y)).clip(0, height).astype(int) for f in (np.minimum, np.maximum))
    counts = end - first  # rows crossed by each segment
    segment = np.repeat(np.arange(len(starts)), counts)
    row = np.arange(len(segment)) - np.repeat(counts.cumsum() - counts, counts) + first[segment]
    return row, x[segment] + (row - y[segment]) / (to_y - y)[segment] * (to_x - x)[segment]
