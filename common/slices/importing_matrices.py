"""Read slices stored as numbers with their masks and cut both to size: the work of 0_import_matrices.py."""

from typing import NamedTuple

import cv2
import numpy as np

from common.errors import InputError
from common.slices.cases import Imported
from common.slices.images import cut, encode_png, fit_boxes, window_to_gray
from common.slices.masks import clean
from common.slices.matrices import read_matrices
from common.words import number_of


class MatrixFitting(NamedTuple):
    """Settings of 0_import_matrices.py that decide how a file becomes slices, as there."""

    size: int
    fit: str
    window: list | None
    bits: int
    smallest: int


def import_pair(pair, how):
    """Read a file with its mask and cut its slices to size, in this process or in a worker.

    Args:
        pair: (Path of the image, Path of the mask or None).
        how: MatrixFitting.

    Returns:
        Imported; its notes are the number of slices without contrast.

    Raises:
        InputError: if the pair is invalid.
    """
    image_path, mask_path = pair
    images = read_matrices(image_path)
    masks = read_matrices(mask_path) if mask_path else np.broadcast_to(np.uint8(0), images.shape)
    if images.shape != masks.shape:
        sizes = " and ".join(map(in_words, (images.shape, masks.shape)))
        raise InputError(
            f"{image_path}: size differs from its mask {mask_path} (found {sizes}); export one of them again"
        )
    values = np.unique(masks)
    if not (set(values.tolist()) <= {0, 1} or set(values.tolist()) <= {0, 255}):
        raise InputError(f"{mask_path}: expected mask values 0 and 1 (found {values[:5].tolist()}); export it again")
    low, high = how.window or (images.min(), images.max())
    if not low < high:
        raise InputError(
            f"{image_path}: expected different values (found only {low:g}); remove the pair, or set WINDOW"
        )
    files = {"image": image_path.name, "mask": mask_path.name if mask_path else None}
    both = zip(images, masks, strict=True)
    slices = [slice_of(image, mask, float(low), float(high), files, how) for image, mask in both]
    flat = sum(is_flat(window_to_gray(image, low, high, 8)) for image in images[:, ::4, ::4])
    return Imported(slices, {"window": [float(low), float(high)]}, notes=flat)


def is_flat(gray):
    """Whether nearly all pixels of an 8-bit slice have one gray value: 98 % are within a twentieth of its range."""
    low, high = np.percentile(gray, (1, 99))
    return bool(high - low < 255 / 20)


def in_words(shape):
    """Width and height of slices (N, H, W), and their number unless it is one, as text."""
    size = f"{shape[2]}x{shape[1]}"
    return size if shape[0] == 1 else f"{number_of(shape[0], 'slice')} of {size}"


def slice_of(image, mask, low, high, files, how):
    """A slice and its mask, cut to size, as PNG bytes, with its entry for case.json.

    Args:
        image, mask: (H, W) arrays.
        low, high: values that become black and white.
        files: the names of both files, for the entry.
        how: MatrixFitting.
    """
    mask = clean((mask > 0).astype(np.uint8), smallest=how.smallest)
    (box,) = fit_boxes(image.shape, how.size, how.fit)
    image_file = encode_png(cut(window_to_gray(image, low, high, how.bits), box, how.size))
    mask_file = encode_png(cut(mask * np.uint8(255), box, how.size, cv2.INTER_NEAREST))
    return image_file, mask_file, {**files, "image_size": list(image.shape), "box": list(box)}
