"""Masks as people have them, in colors, with other values or soft edges, and as case folders have them."""

import numpy as np

from common.errors import InputError
from common.slices.classes import IGNORED
from common.slices.images import read_image
from common.slices.masks import check_mask_values, from_colors, gray_mask, map_values, values_of


def read_source_mask(path, colors=None, mapping=None, threshold=None, ignore=None):
    """Read a mask and map its values to those of a case folder.

    Args:
        path: image file.
        colors: setting COLORS, a dict of color to class, or empty.
        mapping: setting MASK_VALUES, a dict of value to value, or None.
        threshold: setting MASK_THRESHOLD; gray levels above it are foreground; None: off.
        ignore: setting IGNORE, the value of pixels that do not count; None: none.

    Returns:
        (H, W) uint8: 0 and 255, or class numbers; IGNORED where pixels do not count.

    Raises:
        InputError: if the file is unreadable, or has values or colors that do not fit.
    """
    mask = read_image(path)
    if colors:
        return from_colors(mask, colors, path)
    mask = gray_mask(mask, path)
    if ignore is None:
        return _mapped(mask, path, mapping, threshold)
    ignored = mask == ignore
    others = np.where(ignored, mask.dtype.type(0), mask)
    return np.where(ignored, np.uint8(IGNORED), _mapped(others, path, mapping, threshold))


def _mapped(mask, path, mapping, threshold):
    if threshold is not None:
        return np.where(mask > threshold, 255, 0).astype(np.uint8)
    values = values_of(mask)
    if mapping is not None:
        if unknown := sorted(values - {0, *mapping}):
            raise InputError(f"{path}: values without an entry in MASK_VALUES (found {unknown[:8]}); add them")
        return map_values(mask, mapping)
    check_mask_values(values, path)
    if IGNORED in values:
        raise InputError(
            f"{path}: {IGNORED} would mean pixels that count in no loss and no score (found in a mask without IGNORE); "
            f"pass --ignore {IGNORED} if it does, or --mask-values"
        )
    return mask.astype(np.uint8)
