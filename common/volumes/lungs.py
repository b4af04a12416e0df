"""The lungs on an axial CT slice, found in two ways; both take HU and give a mask.

Lengths in pixels are those of slices of 512x512 and go with the size.
"""

import cv2
import numpy as np
from scipy import ndimage
from skimage.segmentation import clear_border

AIR = -320  # HU below which the second way takes a pixel for air


def by_clusters(hu):
    """Two clusters of grey values, as the tutorial of the Data Science Bowl 2017 does it for LUNA.

    Args:
        hu: (H, W) array.

    Returns:
        (H, W) bool, the lungs with a margin.
    """
    height, width = hu.shape
    image = (hu - hu.mean()) / max(float(hu.std()), 1e-6)
    rows, columns = slice(height * 100 // 512, height * 400 // 512), slice(width * 100 // 512, width * 400 // 512)
    mean, extremes = image[rows, columns].mean(), (image.min(), image.max())
    image = np.where(np.isin(image, extremes), mean, image).astype(np.float32)
    values = image[rows, columns].reshape(-1, 1)
    cv2.setRNGSeed(0)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 50, 1e-4)
    _, _, centres = cv2.kmeans(values, 2, None, criteria, 3, cv2.KMEANS_PP_CENTERS)
    dark = (image < centres.mean()).astype(np.uint8)
    dark = cv2.dilate(cv2.erode(dark, _square(4, height)), _square(10, height))
    _, parts, boxes, _ = cv2.connectedComponentsWithStats(dark, connectivity=8)
    _, top, wide, high = (boxes[:, i] * 512 / height for i in range(4))
    keep = (wide < 475) & (high < 475) & (top > 40) & (top + high < 472)
    keep[0] = False
    return cv2.dilate(keep[parts].astype(np.uint8), _square(10, height)) > 0


def by_thresholds(hu):
    """Air that does not touch the border, its two largest parts, smoothed and filled.

    Args:
        hu: (H, W) array.

    Returns:
        (H, W) bool.
    """
    air = clear_border(hu < AIR).astype(np.uint8)
    _, parts, boxes, _ = cv2.connectedComponentsWithStats(air, connectivity=8)
    largest = 1 + np.argsort(-boxes[1:, cv2.CC_STAT_AREA], kind="stable")[:2]
    lungs = np.isin(parts, largest).astype(np.uint8)
    lungs = cv2.erode(lungs, _disc(2, len(hu)))
    closing = _disc(10, len(hu))
    edge = len(closing)  # so that closing does not stick to the border
    lungs = cv2.copyMakeBorder(lungs, edge, edge, edge, edge, cv2.BORDER_CONSTANT)
    lungs = cv2.morphologyEx(lungs, cv2.MORPH_CLOSE, closing)[edge:-edge, edge:-edge]
    return ndimage.binary_fill_holes(lungs)


WAYS = {"clusters": by_clusters, "thresholds": by_thresholds}


def _square(side, height):
    side = max(1, round(side * height / 512))
    return np.ones((side, side), np.uint8)


def _disc(radius, height):
    radius = max(1, round(radius * height / 512))
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def square_around(mask):
    """The smallest square around a mask, within the picture where it fits: (left, top, side, side); None if empty."""
    if not mask.any():
        return None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    side = int(max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1

    def start(found, length):
        first = (int(found[0]) + int(found[-1]) + 1 - side) // 2
        return min(max(first, 0), length - side) if side <= length else first

    return start(columns, mask.shape[1]), start(rows, mask.shape[0]), side, side
