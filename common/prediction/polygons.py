"""Outlines of masks as polygons in pixels: x and y run from the corner of the image, so a pixel is a unit square."""

import numpy as np
import scipy  # loads scipy.ndimage at first use


def polygons_of(mask):
    """Outlines of each part of a mask; they run halfway between the centers of pixels inside and outside.

    Args:
        mask: (H, W) bool; parts that touch at corners only are separate.

    Returns:
        list of lists of rings, (N, 2) arrays x, y without the first point again; the first is the outline, the others
        are holes. All pixels whose centers are inside an odd number of rings give the mask.
    """
    from skimage.measure import find_contours  # takes a quarter of a second, and few predictions need it

    numbered, _ = scipy.ndimage.label(mask)
    found = []
    for number, (rows, columns) in enumerate(scipy.ndimage.find_objects(numbered), 1):
        part = np.pad(numbered[rows, columns] == number, 1).astype(np.float32)
        corner = columns.start - 0.5, rows.start - 0.5  # of the padding, whose centers are 0.5 from its edge
        rings = [_without_flat_points(ring[:-1, ::-1] + corner) for ring in find_contours(part, 0.5)]
        found.append(sorted(rings, key=lambda ring: -abs(area_of(ring))))
    return found


def area_of(ring):
    """Signed area of a ring (N, 2)."""
    (x, y), (next_x, next_y) = ring.T, np.roll(ring, -1, axis=0).T
    return float((x * next_y - next_x * y).sum() / 2)


def _without_flat_points(ring):
    """A ring without the points at which it goes straight on."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9]


def with_slits(rings):
    """One ring for an outline with holes, each joined to it by a slit without width, since some formats have no holes.

    Args:
        rings: list of rings as of `polygons_of`.

    Returns:
        (N, 2) array.
    """
    whole = rings[0]
    for hole in rings[1:]:
        distances = ((whole[:, None] - hole[None]) ** 2).sum(axis=-1)
        near, start = np.unravel_index(distances.argmin(), distances.shape)
        around = np.roll(hole, -start, axis=0)
        whole = np.concatenate([whole[: near + 1], around, around[:1], whole[near:]])
    return whole
