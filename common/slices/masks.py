"""Masks: values in files, class numbers, and cleaning of predictions in 2-D and 3-D."""

import itertools

import cv2
import numpy as np
import scipy  # loads scipy.ndimage at first use, so that importers start faster

from common.errors import InputError, summarize
from common.slices.classes import IGNORED, are_sets, classes_in, has_class
from common.slices.images import to_gray
from common.words import number_of

BLACK, MOST_COLORS = "#000000", 6  # background of colored masks; colors in a message
MOST_VALUES = 32  # a mask with more gray levels has soft edges, or is no mask
NEAREST = 4  # gray levels of different classes are at least this far apart

# --- values


def values_of(mask):
    """Set of values in a mask, as int.

    Args:
        mask: (H, W) uint8 or uint16.
    """
    if mask.dtype != np.uint8:
        return set(np.unique(mask).tolist())
    full = np.count_nonzero(mask == 255)
    if full == np.count_nonzero(mask):  # common case, many times faster than counting every value
        return {value for value, occurs in ((0, full < mask.size), (255, full > 0)) if occurs}
    counts = cv2.calcHist([mask], [0], None, [256], [0, 256])
    return set(np.flatnonzero(counts).tolist())


def check_mask_values(values, where):
    """Check that values can be mask values.

    Args:
        values: set of int.
        where: file or folder, for the message.

    Raises:
        InputError: unless the values, apart from IGNORED, are within {0, 255} or all under 100.
    """
    values = values - {IGNORED}
    if values <= {0, 255} or max(values) < 100:
        return
    expected = f"{where}: expected mask values 0 and 255, or class numbers from 0"
    if are_soft(values):
        found = "found many gray levels, as in JPEG files"
        raise InputError(f"{expected} ({found}); import with --mask-threshold {max(values) // 2}")
    raise InputError(
        f"{expected} (found {_shown(values)}); import with --mask-values, or with --mask-threshold if edges are soft"
    )


def are_soft(values):
    """Whether values of a mask, a set of int, are of soft edges or JPEG: many, or gray levels close together."""
    grays = sorted(values - set(range(100)))
    close = any(after - before < NEAREST for before, after in itertools.pairwise(grays))
    return bool(grays) and (close or len(values) > MOST_VALUES)


def class_count(values, where):
    """Number of classes in a set of masks.

    Args:
        values: set of int, the values in all masks of the set.
        where: file or folder, for the message.

    Returns:
        1 for values within {0, 255}; K for class numbers 0..K with K at least 2. IGNORED does not count.

    Raises:
        InputError: for any other values.
    """
    check_mask_values(values, where)
    values = values - {IGNORED}
    if values <= {0, 255}:
        return 1
    if values <= {0, 1}:
        raise InputError(
            f'{where}: expected mask values 0 and 255 (found 0 and 1); import with --mask-values "{{1: 255}}"'
        )
    return max(values)


def class_count_of_files(values, where):
    """Number of classes in a set of masks, as `class_count`; an error lists the files that do not fit the others.

    Args:
        values: dict of file to set of values.
        where: folder or list, for the message.
    """
    try:
        return class_count(frozenset().union(*values.values()), where)
    except InputError as error:
        full = [file for file, found in values.items() if 255 in found]
        numbered = [file for file, found in values.items() if found - {0, 255, IGNORED}]
        if not (full and numbered):
            files = ", ".join(map(str, numbered[:10])) + (", ..." if len(numbered) > 10 else "")
            raise InputError(f"{error} (in {len(numbered)} of {number_of(len(values), 'mask')}: {files})") from None
    expected, fewer = ("0 and 255", numbered) if len(numbered) <= len(full) else ("class numbers", full)
    advice = "replace it, or import it with --mask-values"
    problems = [
        f"{file}: expected {expected} as in the other masks (found {_shown(values[file])}); {advice}" for file in fewer
    ]
    raise InputError(summarize(problems, f"masks in {where} have other values than the rest"))


def _shown(values):
    values = sorted(values)
    return ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")


def gray_mask(mask, where):
    """A mask with equal channels as (H, W).

    Raises:
        InputError: if it has colors; the message names them.
    """
    if mask.ndim == 2:
        return mask
    refuse_samples(mask, where)
    gray = to_gray(mask)
    if np.array_equal(gray, mask[..., 0]):
        return gray
    found = [color for color in colors_of(mask) if color != BLACK]
    entries = ", ".join(f"'{color}': {number}" for number, color in enumerate(found[:MOST_COLORS], 1))
    more = f" and {len(found) - MOST_COLORS} more; are these the masks?" if len(found) > MOST_COLORS else ""
    raise InputError(
        f'{where}: expected a gray mask (found {number_of(len(found), "color")}); pass --colors "{{{entries}}}"{more}'
    )


def refuse_samples(mask, where):
    """Raise InputError for a mask, (H, W) or (H, W, C), with another number of channels than gray or RGB."""
    if mask.ndim == 3 and mask.shape[2] != 3:
        raise InputError(f"{where}: expected a gray or RGB mask (found {mask.shape[2]} channels); convert it to PNG")


def colors_of(image):
    """Colors of an RGB image, such as "#ff0000", sorted."""
    return [f"#{code:06x}" for code in np.unique(_codes(image)).tolist()]


def from_colors(image, colors, where):
    """Mask of an image that has a color for each class.

    Args:
        image: (H, W) gray, or (H, W, 3 or 4) RGB uint8.
        colors: dict of color, such as "#ff0000", to class number.
        where: file, for messages.

    Returns:
        (H, W) uint8 class numbers; 255 instead of 1 if that is the only class.

    Raises:
        InputError: for a color without an entry; black is the background.
    """
    refuse_samples(image, where)
    if image.dtype != np.uint8:
        raise InputError(f"{where}: expected 8 bits for --colors (found {8 * image.itemsize}); convert it")
    codes = _codes(np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image)
    numbers = {0: 0} | {int(color[1:], 16): number for color, number in colors.items()}
    found, places = np.unique(codes, return_inverse=True)
    if unknown := [f"#{code:06x}" for code in found.tolist() if code not in numbers]:
        shown = ", ".join(unknown[:MOST_COLORS]) + (", ..." if len(unknown) > MOST_COLORS else "")
        raise InputError(f"{where}: colors without an entry in COLORS (found {shown}); add them")
    one = set(colors.values()) == {1}
    mapped = np.array([numbers[code] * (255 if one else 1) for code in found.tolist()], np.uint8)
    return mapped[places].reshape(codes.shape)


def _codes(image):
    """One number for each RGB color."""
    red, green, blue = np.moveaxis(image[..., :3].astype(np.uint32), -1, 0)
    return red << 16 | green << 8 | blue


def map_values(mask, mapping):
    """Map the values of a mask.

    Args:
        mask: (H, W) uint8 or uint16.
        mapping: dict of old to new values, 0..255; all other values become 0.

    Returns:
        (H, W) uint8.
    """
    table = np.zeros(np.iinfo(mask.dtype).max + 1, np.uint8)
    for old, new in mapping.items():
        if old < len(table):
            table[old] = new
    return table[mask]


# --- class numbers


def to_classes(masks, classes, overlapping=False):
    """Convert masks from files to class numbers 0..K and IGNORED, (...) uint8; with one class, 255 becomes 1.

    Sets of overlapping classes, uint16, stay as they are.
    """
    if classes > 1:
        return masks if overlapping else masks.astype(np.uint8, copy=False)
    numbers = (masks > 127).astype(np.uint8)
    numbers[masks == IGNORED] = IGNORED
    return numbers


def from_classes(numbers, classes):
    """Convert class numbers, or sets of overlapping classes, to masks for files: 0 and 255 for one class."""
    return (numbers * 255).astype(np.uint8) if classes == 1 else numbers


# --- cleaning


def clean(numbers, median=0, share=0.0, near=0.0, smallest=0, fill=False):
    """Clean a mask, one class at a time, with steps in the order of the arguments.

    Diagonal neighbors are connected. If smoothed or filled exclusive classes overlap, the larger number wins.

    Args:
        numbers: (H, W) or (S, H, W), uint8 class numbers or uint16 sets of overlapping classes.
        median: side length of a median filter in pixels, odd; 0: none.
        share: drop components smaller than this share of the largest one; 1 keeps only the largest; 0 keeps all.
        near: keep components that `share` drops if they are within this many pixels of one that stays, repeatedly.
        smallest: drop components with fewer pixels.
        fill: whether to fill holes.

    Returns:
        the same shape and type.

    Raises:
        ValueError: for an argument out of range.
    """
    if not 0 <= share <= 1 or near < 0 or smallest < 0 or median < 0 or (median and median % 2 == 0):
        raise ValueError(
            f"expected median odd or 0, share 0 to 1, near and smallest at least 0 (found median {median}, "
            f"share {share}, near {near}, smallest {smallest})"
        )
    result, overlapping = np.zeros_like(numbers), are_sets(numbers)
    for number in classes_in(numbers):
        mask = has_class(numbers, number)
        if median and median**mask.ndim > 2 * mask.size:  # most of the box is outside, around any pixel
            mask = np.zeros_like(mask)
        elif median:
            mask = scipy.ndimage.median_filter(mask, median, mode="constant")
        mask = keep_components(mask, share, near, smallest)
        if fill:
            mask = scipy.ndimage.binary_fill_holes(mask)
        result[mask] = result[mask] | 1 << (number - 1) if overlapping else number
    return result


def keep_components(mask, share, near, smallest):
    """Components of a mask that `clean` keeps; bool arrays."""
    if not (share or smallest) or not mask.any():
        return mask
    components, count = scipy.ndimage.label(mask, np.ones((3,) * mask.ndim))
    sizes = np.bincount(components.ravel(), minlength=count + 1)
    sizes[0] = 0
    keep = sizes >= share * sizes.max()
    if share == 1:  # the first one if several are largest
        keep = np.arange(count + 1) == sizes.argmax()
    keep[0] = False
    kept = 0
    while near and kept < np.count_nonzero(keep):  # a part that is kept keeps those near it, and so on
        kept = np.count_nonzero(keep)
        distances = scipy.ndimage.distance_transform_edt(~keep[components])
        keep[1:] |= scipy.ndimage.minimum(distances, components, np.arange(1, count + 1)) <= near
    return (keep & (sizes >= max(smallest, 1)))[components]
