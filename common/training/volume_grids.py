"""Grids of packed volumes: read a part of a volume onto a grid, changed by augmentation or not."""

import numpy as np
import SimpleITK as sitk

from common.volumes.grids import Box, Geometry, grid_of_box, image_at, onto_grid
from common.volumes.labels import resample_labels


def read_grid(read, geometry, grid, change=None, outside=0.0):
    """Read a grid of a volume, with a change if given.

    Args:
        read: function of a Box that returns image (s, h, w, C) and labels (s, h, w) inside it.
        geometry: Geometry of the volume, with axes parallel to x, y and z.
        grid: Geometry of the result, which may extend beyond the volume.
        change: `common.training.augmentation.VolumeChange`, or None.
        outside: value outside the volume, one for all channels or one per channel.

    Returns:
        image (S, H, W, C) float32, labels (S, H, W) uint8 or, of overlapping classes, uint16.
    """
    transform = change.transform(grid) if change else None
    box = _box_around(geometry, grid, transform)
    image, labels = read(box)
    if transform is None and grid_of_box(geometry, box) == grid:
        image = image.astype(np.float32)
    else:
        source, values = grid_of_box(geometry, box), np.broadcast_to(outside, image.shape[-1:])
        image = image.astype(np.float32)
        channels = [image_at(image[..., c], source) for c in range(image.shape[-1])]
        moved = [onto_grid(c, grid, sitk.sitkLinear, v, transform) for c, v in zip(channels, values, strict=True)]
        image = np.stack([sitk.GetArrayFromImage(channel) for channel in moved], axis=-1)
        labels = resample_labels(image_at(labels, source), grid, transform)
    return change.change_values(image) if change else image, labels


def _box_around(geometry, grid, transform):
    """Box of a volume that contains all voxels around the points of a grid, at least one voxel."""
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in grid.size])).reshape(3, 8).T
    points = grid.to_points(corners)
    if transform is not None:
        points = np.array([transform.TransformPoint(point.tolist()) for point in points])
    voxels = geometry.to_voxels(points) + 0.5
    margin = 0 if transform is None and np.allclose(grid.spacing, geometry.spacing) else 1
    start = np.floor(voxels.min(axis=0) + 1e-6).astype(int) - margin
    stop = np.ceil(voxels.max(axis=0) - 1e-6).astype(int) + margin
    start = np.clip(start, 0, np.array(geometry.size) - 1)
    return Box(tuple(start.tolist()), tuple(np.clip(stop, start + 1, geometry.size).tolist()))


def plain_geometry(shape, spacing):
    """Geometry of an array (k, j, i) with axes parallel to x, y and z, in mm from its first voxel."""
    return Geometry(tuple(shape[::-1]), tuple(spacing), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel().tolist()))
