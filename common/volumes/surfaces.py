"""Slice closed triangle surfaces into masks."""

import cv2
import numpy as np
import trimesh
from PIL import Image, ImageDraw

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


# --- as AIS Training Codeset does


def slice_as_codeset(surface, axis, offset, interval, side):
    """Slice a surface into masks that equal those of SliceSTL.py of AIS Training Codeset, pixel for pixel.

    Its views of an axis, its scale (the longer side of the surface fills the mask), a slice beyond the end if there is
    an offset, and outlines that are filled with their border.

    Args:
        surface: trimesh.Trimesh.
        axis: "x", "y" or "z".
        offset: from the end of the surface to the first slice.
        interval: between slices, positive.
        side: height and width of the masks in pixels.

    Returns:
        list of (side, side) uint8 of 0 and 1, from the lower end on; [] if all are empty.
    """
    along = "xyz".index(axis)
    normal, (low, high) = np.eye(3)[along], surface.bounds
    moved = with_vertices(surface, surface.vertices - normal * (low[along] + offset))
    heights = np.arange(moved.bounds[1, along] - moved.bounds[0, along], step=interval)
    sections = moved.section_multiplane((0, 0, 0), normal, heights)
    bounds = np.array([section.bounds for section in sections if section is not None])
    if not len(bounds):
        return []
    size = np.delete(high - low, along).max()
    first, last = bounds[:, 0].min(0), bounds[:, 1].max(0)
    origin = first - (size - (last - first)) / 2
    return [_fill_with_borders(section, origin, size / side, side) for section in sections]


def _fill_with_borders(section, origin, pixel, side):
    """Mask of a trimesh.path.Path2D, or of None; an outline in an odd number of others is a hole."""
    canvas = Image.new("1", (side, side))
    draw = ImageDraw.Draw(canvas)
    outlines = [] if section is None else [(line - origin) / pixel for line in section.discrete if len(line) > 3]
    around = [[j for j, other in enumerate(outlines) if other is not line and _is_in(line, other)] for line in outlines]
    depths = list(map(len, around))
    for i in sorted((i for i, depth in enumerate(depths) if depth % 2 == 0), key=depths.__getitem__):
        holes = [j for j, outer in enumerate(around) if i in outer and depths[j] == depths[i] + 1]
        for j in (i, *holes):
            draw.polygon(outlines[j].round().astype(int).ravel().tolist(), fill=int(j == i))
    return np.asarray(canvas, np.uint8)


def _is_in(outline, other):
    """Whether an outline is inside another; they do not cross."""
    return cv2.pointPolygonTest(other.astype(np.float32), outline[0].astype(float).tolist(), False) > 0
