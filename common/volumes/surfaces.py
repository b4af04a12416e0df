"""Closed surfaces of triangles, cut into masks."""

import numpy as np
import trimesh

from common.parallel import ordered_map


def surface_in(surface, points):
    """The same surface with its points elsewhere."""
    return trimesh.Trimesh(points, surface.faces, process=False)


def slice_surface(surface, places, shape):
    """Masks (H, W) uint8 of a surface in pixels, at places along its third axis."""

    def cut(place):
        lines = trimesh.intersections.mesh_plane(surface, plane_normal=[0, 0, 1], plane_origin=[0, 0, place])
        return fill(np.round(lines[..., :2].reshape(-1, 2, 2), 6), shape)  # so that neighbours end in the same point

    # exactly through a row of points a section falls apart: a hair beside it
    return ordered_map(cut, [place + 1e-6 for place in places])


def fill(lines, shape):
    """What closed outlines enclose, by the even-odd rule: a hole is an outline within an outline.

    Args:
        lines: (N, 2, 2) array, ends (x, y) of the pieces of the outlines in pixels, in any order.
        shape: (height, width).

    Returns:
        (height, width) uint8 of 0 and 1.
    """
    height, width = shape
    (x, y), (to_x, to_y) = lines[:, 0].T, lines[:, 1].T
    first, end = (np.ceil(f(y, to_y)).clip(0, height).astype(int) for f in (np.minimum, np.maximum))
    counts = end - first  # rows that each piece crosses
    piece = np.repeat(np.arange(len(lines)), counts)
    row = np.arange(len(piece)) - np.repeat(counts.cumsum() - counts, counts) + first[piece]
    at = x[piece] + (row - y[piece]) / (to_y - y)[piece] * (to_x - x)[piece]
    column = np.ceil(at).clip(0, width).astype(int)  # from there on, inside and outside change places
    crossings = np.bincount(row * (width + 1) + column, minlength=height * (width + 1)).reshape(height, width + 1)
    return (crossings.cumsum(1)[:, :width] % 2).astype(np.uint8)
