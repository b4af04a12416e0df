"""Draw masks: outlines, painted classes and errors, contact sheets, three planes of a volume."""

import cv2
import numpy as np

from common.files import natural_key
from common.slices.classes import are_sets, classes_in, has_class, type_of_masks
from common.slices.images import read_mask, read_slice, resize, to_eight_bit
from common.slices.masks import to_classes
from common.streams import one_line

# RGB colors of classes 1, 2, ... (Okabe and Ito, safe for color-blind readers).
CLASS_COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0))
# Green and orange, and green, red and blue, that differ for color-blind readers too, also translucent.
TRUTH_COLOR, PREDICTED_COLOR = (0, 200, 160), (255, 130, 0)
TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE = (0, 220, 150), (220, 40, 0), (40, 80, 255)

# Cell (row, column) of each plane in the sheet of three, by the array axis that it cuts.
PLANE_CELLS = {0: (0, 0), 2: (0, 1), 1: (1, 0)}


def as_rgb(image):
    """Copy of an image, (H, W) or (H, W, C) uint8 or uint16, to draw on: (H, W, 3) uint8.

    Three channels are RGB; of any other number the first is drawn.
    """
    image = to_eight_bit(image if image.ndim == 2 or image.shape[2] == 3 else image[..., 0])
    return image.copy() if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def draw_outlines(image, numbers, colors=CLASS_COLORS):
    """Draw the outlines of a mask on a slice.

    Args:
        image: (H, W) or (H, W, 3), uint8 or uint16.
        numbers: (H, W) mask of class numbers or overlapping classes.
        colors: RGB of class 1 and up, used in turn.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    picture = as_rgb(image)
    for number in classes_in(numbers):
        inside = has_class(numbers, number).astype(np.uint8)
        contours = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
        cv2.drawContours(picture, contours, -1, colors[(number - 1) % len(colors)], 1)
    return picture


def draw_truth_and_prediction(image, truth, predicted):
    """Draw the outlines of the true mask in green and of the predicted one in orange; see `draw_outlines`."""
    return draw_outlines(draw_outlines(image, truth, [TRUTH_COLOR]), predicted, [PREDICTED_COLOR])


def paint(image, numbers, opacity=0.4, colors=CLASS_COLORS):
    """Paint a mask over a slice in translucent colors, of overlapping classes the mean; as in `draw_outlines`."""
    picture = as_rgb(image)
    for value in np.flatnonzero(np.bincount(numbers.ravel())).astype(numbers.dtype):
        if classes := classes_in(value[None]):
            tints = [colors[(number - 1) % len(colors)] for number in classes]
            _tint(picture, numbers == value, np.mean(tints, axis=0), opacity)
    return picture


def _tint(picture, inside, color, opacity=0.4):
    """Change a picture, (H, W, 3) uint8, to a mixture with a color where `inside`, (H, W) bool, is true."""
    table = np.rint((1 - opacity) * np.arange(256)[:, None] + opacity * np.asarray(color)).astype(np.uint8)
    cv2.copyTo(cv2.LUT(picture, table[None]), np.ascontiguousarray(inside, np.uint8), picture)


def paint_errors(image, predicted, truth):
    """Color true positives, false positives (including wrong classes) and false negatives.

    Where classes overlap, a pixel with a class too many is a false positive, with one too few a false negative.

    Args:
        image: (H, W) uint8.
        predicted, truth: (H, W) class numbers or sets of overlapping classes.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    picture = np.repeat(image[..., None], 3, axis=2)
    if are_sets(truth):
        added = (predicted & ~truth) > 0
        missed = ((truth & ~predicted) > 0) & ~added
    else:
        added, missed = (predicted > 0) & (predicted != truth), (truth > 0) & (predicted == 0)
    for pixels, color in (
        ((predicted == truth) & (truth > 0), TRUE_POSITIVE),
        (missed, FALSE_NEGATIVE),
        (added, FALSE_POSITIVE),
    ):
        _tint(picture, pixels, color)
    return picture


# --- sheets


def first_and_last(ranked, count):
    """First and last `count` items of a list, each once."""
    return ranked[:count] + [item for item in ranked[-count:] if item not in ranked[:count]]


def evenly_spaced(items, count):
    """Up to `count` items, evenly spaced from first to last."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, count).round().astype(int))] if items else []


def contact_sheet(pictures, columns, side, captions=None):
    """Arrange images in a grid.

    Args:
        pictures: list of (H, W, 3) uint8, RGB.
        columns: images per row.
        side: side length of each image in the sheet, in pixels.
        captions: list of str, drawn at the top left of each image.

    Returns:
        (rows * side, columns * side, 3) uint8, RGB.
    """
    rows = -(-len(pictures) // columns)
    sheet = np.zeros((rows * side, columns * side, 3), np.uint8)
    for i, picture in enumerate(pictures):
        cell = resize(picture, (side, side)).copy()
        if captions:
            caption = one_line(captions[i])  # OpenCV crashes on bytes that are not UTF-8
            (width, _), _ = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
            cell[:20, : width + 8] = 0  # readable on bright images
            cv2.putText(cell, caption, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
        top, left = i // columns * side, i % columns * side
        sheet[top : top + side, left : left + side] = cell
    return sheet


def data_check(slices, classes, count=30, side=200):
    """Draw a contact sheet of slices from the whole set, mostly with a mask, with mask outlines.

    Args:
        slices: list of slices with `case`, `name`, `x`, `y` (paths), `overlap` and `foreground`.
        classes: number of classes.
        count: number of slices to draw.
        side: side length of each in pixels.

    Returns:
        (rows * side, columns * side, 3) uint8, RGB.
    """
    filled = [s for s in slices if s.foreground] or slices
    empty = [s for s in slices if not s.foreground]
    chosen = evenly_spaced(filled, count - min(len(empty), count // 6)) + evenly_spaced(empty, count // 6)
    chosen.sort(key=lambda s: natural_key(s.x))
    masks = [to_classes(read_mask(s.y, type_of_masks(s.overlap)), classes, bool(s.overlap)) for s in chosen]
    pictures = [draw_outlines(read_slice(s.x), mask) for s, mask in zip(chosen, masks, strict=True)]
    captions = [f"{s.case.name} {s.name}" for s in chosen]
    return contact_sheet(pictures, min(6, len(pictures)), side, captions)


def draw_planes(volume, outlines, spacing, side=240):
    """Draw three planes through the middle of the labels: axial, sagittal to its right, coronal below.

    Args:
        volume: (S, H, W), any number type; axes run from feet to head, front to back, right to left.
        outlines: list of ((S, H, W) label numbers, RGB of label 1 and up). The planes meet in the middle of the first
            item with a label, or of the volume.
        spacing: mm between voxels to the left, back and head.
        side: side length of each plane in pixels.

    Returns:
        (2 side, 2 side, 3) uint8, RGB.
    """
    middle = next((mean_voxel(labels) for labels, _ in outlines if labels.any()), np.array(volume.shape) // 2)
    low, high = np.percentile(volume[middle[0]], (1, 99.5))
    sheet = np.zeros((2 * side, 2 * side, 3), np.uint8)
    for axis, (row, column) in PLANE_CELLS.items():
        upwards = slice(None, None, 1 if axis == 0 else -1)  # head up
        extent = np.array(np.delete(volume.shape, axis)) * np.delete(spacing[::-1], axis)  # mm
        height, width = np.maximum(1, np.rint(side * extent / extent.max())).astype(int)
        plane = np.take(volume, middle[axis], axis)[upwards].astype(np.float32)
        plane = (np.clip((plane - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
        picture = resize(plane, (height, width), cv2.INTER_LINEAR)
        for labels, colors in outlines:
            numbers = resize(np.take(labels, middle[axis], axis)[upwards], (height, width), cv2.INTER_NEAREST)
            picture = draw_outlines(picture, numbers, colors)
        sheet[row * side : row * side + height, column * side : column * side + width] = picture
    return sheet


def mean_voxel(labels):
    """Middle voxel of the labels, (3,) int, in array axes."""
    return np.argwhere(labels > 0).mean(axis=0).round().astype(int)
