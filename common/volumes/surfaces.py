"""Slice closed triangle surfaces into masks."""

import numpy as np
import trimesh

from common.parallel import ordered_map


def with_vertices(surface, vertices):
    """Copy of a surface with other vertex coordinates.

    Args:
        surface: trimesh.Trimesh.
        vertices: (N, 3) array.
    """
    return trimesh.Trimesh(vertices, surface.faces, process=False)


def slice_surface(surface, heights, shape):
    """Slice a surface into masks at heights along its third axis.

    Args:
        surface: trimesh.Trimesh; x and y in pixels, z in the same unit as `heights`.
        heights: list of numbers.
        shape: (height, width) of the masks.

    Returns:
        iterator over (height, width) uint8 of 0 and 1.
    """

    def slice_at(height):
        lines = trimesh.intersections.mesh_plane(surface, plane_normal=[0, 0, 1], plane_origin=[0, 0, height])
        return fill_outlines(
            np.round(lines[..., :2].reshape(-1, 2, 2), 6), shape
        )  # rounded, so that neighbors share end points

    # a plane exactly through vertices gives incomplete outlines, so slice slightly above
    return ordered_map(slice_at, [height + 1e-6 for height in heights])


def fill_outlines(lines, shape):
    """Fill closed outlines by the even-odd rule: an outline within an outline is a hole.

    Args:
        lines: (N, 2, 2) array: end points (x, y) of the outlines' line segments in pixels, in any order.
        shape: (height, width).

    Returns:
        (height, width) uint8 of 0 and 1.
    """
    height, width = shape
    (x, y), (to_x, to_y) = lines[:, 0].T, lines[:, 1].T
    first, end = (np.ceil(f(y, to_y)).clip(0, height).astype(int) for f in (np.minimum, np.maximum))
    counts = end - first  # rows crossed by each segment
    segment = np.repeat(np.arange(len(lines)), counts)
    row = np.arange(len(segment)) - np.repeat(counts.cumsum() - counts, counts) + first[segment]
    crossing = x[segment] + (row - y[segment]) / (to_y - y)[segment] * (to_x - x)[segment]
    column = np.ceil(crossing).clip(0, width).astype(int)  # inside and outside swap from here on
    crossings = np.bincount(row * (width + 1) + column, minlength=height * (width + 1)).reshape(height, width + 1)
    return (crossings.cumsum(1)[:, :width] % 2).astype(np.uint8)
