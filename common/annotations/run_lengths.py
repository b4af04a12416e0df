"""Masks as run lengths: how many pixels are outside, then inside, then outside, and so on."""

import numpy as np

from common.annotations.shapes import ADVICE
from common.errors import InputError
from common.slices.decoding import LARGEST

LARGEST_RUN_BITS = 40  # of a number in compressed run lengths


def decode_runs(counts, shape, where, order="C"):
    """Mask of run lengths.

    Args:
        counts: list of int, beginning with the pixels before the first one inside.
        shape: (height, width).
        where: file and shape, for messages.
        order: "C": row by row; "F": column by column.

    Returns:
        `shape` bool.

    Raises:
        InputError: if the run lengths do not fill the shape.
    """
    height, width = shape
    if height * width > LARGEST:
        raise InputError(f"{where}: mask is too large (found {width}x{height}); {ADVICE}")
    if any(count < 0 for count in counts) or sum(counts) != height * width:
        raise InputError(f"{where}: run lengths do not fill {width}x{height} pixels (found {sum(counts)}); {ADVICE}")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, np.array(counts, int)).reshape(shape, order=order)


def uncompress(text, where):
    """Run lengths of compressed text of COCO.

    Each character has six bits from "0" on: five of the number, low ones first, and one that says whether it continues;
    the last of the five is the sign. From the fourth number on, it is the difference to the number before the last
    one. Source: rleFrString of maskApi.c, https://github.com/cocodataset/cocoapi.

    Args:
        text: str.
        where: file and shape, for messages.

    Returns:
        list of int.

    Raises:
        InputError: for other characters, or text that is cut short.
    """
    counts, number, shift = [], 0, 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > LARGEST_RUN_BITS:
            raise InputError(f"{where}: invalid compressed run lengths (found {character!r}); {ADVICE}")
        number |= (code & 31) << shift
        shift += 5
        if not code & 32:
            if code & 16:
                number -= 1 << shift
            counts.append(number + counts[-2] if len(counts) > 2 else number)
            number, shift = 0, 0
    if shift:
        raise InputError(f"{where}: compressed run lengths are cut short; {ADVICE}")
    return counts
