"""Classes of pixels: one for each pixel, or several where classes overlap.

Masks of exclusive classes are uint8 and hold class numbers. Masks of overlapping classes are uint16 and hold the set of
classes of each pixel: the sum of 1 for class 1, 2 for class 2, 4 for class 3 and so on. So the number type of a mask
tells which it is, in memory, in packed sets and in PNG files of 8 and 16 bits.
"""

import numpy as np

IGNORED = 254  # value of pixels, in masks and as class number, that count in no loss and in no score
IGNORED_SET = 2**15  # the same in masks of overlapping classes
MOST_OVERLAPPING = 15
OVERLAPPING, NESTED = "overlapping", "nested"  # how classes share pixels; "" for exclusive ones


def are_sets(masks):
    """Whether masks, an array or a number type, are of overlapping classes."""
    return np.dtype(getattr(masks, "dtype", masks)) == np.uint16


def type_of_masks(overlap):
    """Number type of masks whose classes share pixels by `overlap`: OVERLAPPING, NESTED or ""."""
    return np.dtype(np.uint16 if overlap else np.uint8)


def is_ignored(masks):
    """Whether each pixel of masks, (...) uint8 or uint16, counts in no loss and no score."""
    return masks == (IGNORED_SET if are_sets(masks) else IGNORED)


def is_target(masks):
    """Whether each pixel of a mask, or of class numbers, belongs to a class."""
    return (masks > 0) & ~is_ignored(masks)


def without_ignored(predicted, truth):
    """Predicted and true masks, with background in both where the truth is ignored."""
    ignored = is_ignored(truth)
    if not ignored.any():
        return predicted, truth
    return np.where(ignored, 0, predicted), np.where(ignored, 0, truth)


def has_class(masks, number):
    """Whether each pixel of masks, (...) uint8 or uint16, belongs to a class; ignored pixels do not."""
    return ((masks >> (number - 1)) & 1).astype(bool) if are_sets(masks) else masks == number


def classes_in(masks):
    """Class numbers in masks, a sorted list of int."""
    if are_sets(masks):
        found = int(np.bitwise_or.reduce(masks, axis=None)) if masks.size else 0
        return [number for number in range(1, MOST_OVERLAPPING + 1) if found >> (number - 1) & 1]
    return [number for number in np.flatnonzero(np.bincount(masks.ravel())).tolist() if number not in (0, IGNORED)]


def highest_class(masks):
    """Highest class number of each pixel, (...) uint8; 0 where none, IGNORED where ignored."""
    if not are_sets(masks):
        return masks
    highest = np.zeros(masks.shape, np.uint8)
    for number in classes_in(masks):
        highest[has_class(masks, number)] = number
    highest[is_ignored(masks)] = IGNORED
    return highest


def overlap_in(masks):
    """Whether any pixel of masks belongs to several classes."""
    return are_sets(masks) and bool((masks & (masks - 1)).any())  # 0 - 1 wraps around


# --- conversions


def sets_of_classes(classes):
    """Mask of overlapping classes.

    Args:
        classes: list of bool arrays of the same shape, of class 1, 2 and so on, up to MOST_OVERLAPPING.

    Returns:
        uint16 array of that shape.
    """
    sets = np.zeros(classes[0].shape, np.uint16)
    for index, pixels in enumerate(classes):
        sets |= pixels.astype(np.uint16) << index
    return sets


def sets_of_numbers(numbers, nested=False):
    """Mask of overlapping classes of class numbers.

    Args:
        numbers: (...) uint8, 0..MOST_OVERLAPPING or IGNORED.
        nested: whether a number stands for its class and for all before it.

    Returns:
        (...) uint16.
    """
    table = np.zeros(256, np.uint16)
    numbered = np.arange(1, MOST_OVERLAPPING + 1)
    table[numbered] = (1 << numbered) - 1 if nested else 1 << (numbered - 1)
    table[IGNORED] = IGNORED_SET
    return table[numbers]


def as_sets(masks, overlap):
    """Masks as sets of overlapping classes: (...) uint16 as they are, (...) uint8 class numbers, nested if they are.

    Args:
        masks: array.
        overlap: OVERLAPPING or NESTED.
    """
    return masks if are_sets(masks) else sets_of_numbers(masks, nested=overlap == NESTED)


def channels_of(sets, classes):
    """Channels to train on: (..., 1) uint16 to (..., K) uint8, 1 where a class is; IGNORED in all where ignored."""
    channels = (sets >> np.arange(classes, dtype=np.uint16) & 1).astype(np.uint8)
    channels[is_ignored(sets[..., 0])] = IGNORED
    return channels


def class_numbers(probabilities, threshold=0.5, overlapping=False):
    """Convert probabilities to a mask.

    Args:
        probabilities: (..., 1) for one class, (..., K + 1) for background and K exclusive classes, or (..., K) for K
            overlapping classes.
        threshold: a class is above it; for one class, and for overlapping ones. Of exclusive classes, the most probable
            one wins.
        overlapping: whether classes overlap.

    Returns:
        (...) uint8, 0..K, or uint16 sets of overlapping classes.
    """
    if overlapping:
        return sets_of_classes(list(np.moveaxis(probabilities > threshold, -1, 0)))
    if probabilities.shape[-1] == 1:
        return (probabilities[..., 0] > threshold).astype(np.uint8)
    return probabilities.argmax(-1).astype(np.uint8)


# --- scores


def mean_dice(predicted, truth):
    """Mean Dice over the classes in the true mask.

    Args:
        predicted, truth: masks of the same shape and type; truth with at least one class.
    """
    both = [(has_class(predicted, number), has_class(truth, number)) for number in classes_in(truth)]
    return float(np.mean([2 * np.count_nonzero(p & t) / (np.count_nonzero(p) + np.count_nonzero(t)) for p, t in both]))
