"""Three planes of a volume in one picture."""

import cv2
import numpy as np

from common.slices.images import draw_outlines, resize

PLACES = {0: (0, 0), 2: (0, 1), 1: (1, 0)}  # axis of the array that a plane cuts: its row and column in the picture


def draw_planes(grey, outlines, spacing, side=240):
    """Planes through the middle of what is outlined: axial, beside it sagittal, below it coronal.

    Args:
        grey: (S, H, W), any number type, from the feet up, the front first, the right side of the body first.
        outlines: list of (S, H, W) label numbers and the RGB of label 1 and so on; the middle is that of the first that
            has a label.
        spacing: mm between voxels to the left, the back and the head.
        side: of each plane in pixels.

    Returns:
        (2 side, 2 side, 3) uint8, RGB.
    """
    middle = next((mean_place(labels) for labels, _ in outlines if labels.any()), np.array(grey.shape) // 2)
    low, high = np.percentile(grey[middle[0]], (1, 99.5))
    sheet = np.zeros((2 * side, 2 * side, 3), np.uint8)
    for axis, (row, column) in PLACES.items():
        upwards = slice(None, None, 1 if axis == 0 else -1)  # the head up
        extent = np.array(np.delete(grey.shape, axis)) * np.delete(spacing[::-1], axis)  # mm
        height, width = np.maximum(1, np.rint(side * extent / extent.max())).astype(int)
        plane = np.take(grey, middle[axis], axis)[upwards].astype(np.float32)
        plane = (np.clip((plane - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
        picture = resize(plane, (height, width), cv2.INTER_LINEAR)
        for labels, colours in outlines:
            numbers = resize(np.take(labels, middle[axis], axis)[upwards], (height, width), cv2.INTER_NEAREST)
            picture = draw_outlines(picture, numbers, colours)
        sheet[row * side : row * side + height, column * side : column * side + width] = picture
    return sheet


def mean_place(labels):
    """Middle voxel of the labels, (3,) int, along the axes of the array."""
    return np.argwhere(labels > 0).mean(axis=0).round().astype(int)
