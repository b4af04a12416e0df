"""Cleaning of predicted masks, in 2-D and 3-D: parts, holes and edges."""

import numpy as np
from scipy import ndimage

STEPS = ("median", "share", "near", "smallest", "fill")


def check_cleaning(settings):
    """Raise ValueError where a dict holds other than arguments of `clean` in their ranges."""
    if unknown := settings.keys() - set(STEPS):
        raise ValueError(f"no step is called {min(unknown)!r}; there are {', '.join(STEPS)}")
    clean(np.zeros((1, 1), np.uint8), **settings)


def clean(numbers, median=0, share=0.0, near=0.0, smallest=0, fill=False):
    """Clean class numbers, each class by itself and the steps in this order.

    Parts are connected over edges and corners. Where filled or smoothed classes meet, the greater number wins.

    Args:
        numbers: (H, W) or (S, H, W) uint8.
        median: side of a median filter in pixels, odd; 0: none.
        share: parts of less than this share of the largest one are dropped; 1 keeps the largest alone; 0: all stay.
        near: parts that `share` drops stay if they are within so many pixels of one that is kept.
        smallest: parts of fewer pixels are dropped.
        fill: whether holes are filled.

    Returns:
        uint8 of the same shape.

    Raises:
        ValueError: for a setting out of its range.
    """
    if not 0 <= share <= 1 or near < 0 or smallest < 0 or median < 0 or (median and median % 2 == 0):
        raise ValueError(
            f"median is {median}, share {share}, near {near}, smallest {smallest}; expected an odd number or 0, "
            "0 to 1, and at least 0"
        )
    result = np.zeros_like(numbers)
    for number in range(1, int(numbers.max(initial=0)) + 1):
        mask = numbers == number
        if median:
            mask = ndimage.median_filter(mask, median, mode="constant")
        mask = keep_parts(mask, share, near, smallest)
        if fill:
            mask = ndimage.binary_fill_holes(mask)
        result[mask] = number
    return result


def keep_parts(mask, share, near, smallest):
    """The parts of a mask that `clean` keeps; bool arrays."""
    if not (share or smallest) or not mask.any():
        return mask
    parts, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    keep = sizes >= share * sizes.max()
    if share == 1:  # of equals, the first
        keep = np.arange(count + 1) == sizes.argmax()
    keep[0] = False
    if near:
        distances = ndimage.distance_transform_edt(~keep[parts])
        closest = ndimage.minimum(distances, parts, np.arange(1, count + 1))
        keep[1:] |= closest <= near
    return (keep & (sizes >= max(smallest, 1)))[parts]
