"""Slice closed triangle surfaces into masks."""

import numpy as np
import trimesh

from common.parallel import ordered_map
from common.slices.outlines import fill_outlines


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
