"""Augmentation of volumes on the fly: one random affine change for image and labels, margins, and gamma."""

import numpy as np
import SimpleITK as sitk

from common.volumes.grids import Box, Geometry, coarsening_factor, coarser, grid_of_box, image_at, onto_grid

AXES = "xyz"  # left and right, front and back, up and down
NAMES = ("rotation", "zoom", "shift", "shear", "flip", "gamma", "margins")


def check_augmentation(settings, step):
    """Raise ValueError where a dict holds other than what `Change` takes.

    Args:
        settings: setting AUGMENTATION.
        step: of the packed volumes.
    """
    if unknown := [name for name in settings if name not in NAMES]:
        raise ValueError(f"AUGMENTATION has {unknown[0]!r}; of volumes choose from {', '.join(NAMES)}")
    for name, low, high in (("rotation", 0, 180), ("zoom", 0, 0.9), ("shift", 0, 1), ("shear", 0, 1), ("gamma", 0, 1)):
        amount = settings.get(name, low)
        if not isinstance(amount, int | float) or not low <= amount <= high:
            raise ValueError(f"AUGMENTATION: {name} is {amount!r}; expected {low} to {high}")
    if not isinstance(flip := settings.get("flip", ""), str) or set(flip) - set(AXES):
        raise ValueError(f'AUGMENTATION: flip is {flip!r}; expected axes, such as "x" (left and right) or "xyz"')
    margins = settings.get("margins", [])
    if not isinstance(margins, list) or not all(isinstance(m, int | float) and 0 <= m <= 2 for m in margins):
        raise ValueError(f"AUGMENTATION: margins is {margins!r}; expected a list of shares, such as [0.1, 0.2, 0.3]")
    if margins and step != "patch":
        raise ValueError('AUGMENTATION: margins are for volumes that were packed with the step "patch"')


class Change:
    """A random change of a volume.

    Args:
        settings: dict of a name of NAMES to its amount: "rotation", greatest angle in degrees about each axis; "zoom",
            "shear", greatest share; "shift", greatest share of the size of what is shown; "flip", axes of AXES along
            which it is mirrored in half of the cases; "gamma", greatest difference of the exponent from 1.
        rng: numpy.random.Generator, from which always the same count of numbers is drawn.
    """

    def __init__(self, settings, rng):
        self.angles = np.deg2rad(settings.get("rotation", 0)) * rng.uniform(-1, 1, 3)
        self.scale = 1 + settings.get("zoom", 0) * rng.uniform(-1, 1)
        self.shear = settings.get("shear", 0) * rng.uniform(-1, 1, 3)
        self.shift = settings.get("shift", 0) * rng.uniform(-1, 1, 3)
        mirrored = (rng.random(3) < 0.5) & [axis in settings.get("flip", "") for axis in AXES]
        self.signs = np.where(mirrored, -1, 1)
        self.exponent = 1 + settings.get("gamma", 0) * rng.uniform(-1, 1)

    def transform(self, geometry):
        """From places in the changed volume to those in the volume, about the middle of a grid.

        Returns:
            sitk.AffineTransform, or None where nothing moves.
        """
        size = np.array(geometry.size)
        (centre,) = geometry.to_points([(size - 1) / 2])
        turns = np.eye(3)
        for axis, angle in enumerate(self.angles):
            a, b = (axis + 1) % 3, (axis + 2) % 3
            turn = np.eye(3)
            turn[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
            turns = turns @ turn
        shear = np.eye(3)
        shear[[0, 0, 1], [1, 2, 2]] = self.shear
        matrix = turns @ shear @ np.diag(self.signs) / self.scale
        shift = self.shift * size * geometry.spacing
        if np.array_equal(matrix, np.eye(3)) and not shift.any():
            return None
        transform = sitk.AffineTransform(3)
        transform.SetMatrix(matrix.ravel().tolist())
        transform.SetCenter(centre.tolist())
        transform.SetTranslation(shift.tolist())
        return transform

    def regrade(self, image):
        """Gamma on each channel of an image (S, H, W, C) float32, between its least and its greatest value."""
        if self.exponent == 1:
            return image
        low, high = (f(image, axis=(0, 1, 2)) for f in (np.min, np.max))
        span = np.where(high > low, high - low, 1).astype(np.float32)
        return ((image - low) / span) ** np.float32(self.exponent) * span + low


def show(read, geometry, grid, change=None, outside=0.0):
    """A grid of a volume, changed.

    Args:
        read: function of a Box to image (s, h, w, C) and labels (s, h, w) of that part.
        geometry: Geometry of the volume, whose axes are those of space.
        grid: Geometry of the result, which may reach out of the volume.
        change: Change, or None.
        outside: value of each channel out there, or of all.

    Returns:
        image (S, H, W, C) float32, labels (S, H, W) uint8.
    """
    transform = change.transform(grid) if change else None
    box = _needed(geometry, grid, transform)
    image, labels = read(box)
    if transform is None and grid_of_box(geometry, box) == grid:
        image = image.astype(np.float32)
    else:
        place, values = grid_of_box(geometry, box), np.broadcast_to(outside, image.shape[-1:])
        image = image.astype(np.float32)
        channels = [image_at(image[..., c], place) for c in range(image.shape[-1])]
        moved = [onto_grid(c, grid, sitk.sitkLinear, v, transform) for c, v in zip(channels, values, strict=True)]
        image = np.stack([sitk.GetArrayFromImage(channel) for channel in moved], axis=-1)
        labels = sitk.GetArrayFromImage(onto_grid(image_at(labels, place), grid, sitk.sitkLabelLinear, 0, transform))
    return change.regrade(image) if change else image, labels


def _needed(geometry, grid, transform):
    """Box of a volume that holds all voxels around the places of a grid, at least one voxel."""
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in grid.size])).reshape(3, 8).T
    points = grid.to_points(corners)
    if transform is not None:
        points = np.array([transform.TransformPoint(point.tolist()) for point in points])
    voxels = geometry.to_voxels(points) + 0.5
    more = 0 if transform is None and np.allclose(grid.spacing, geometry.spacing) else 1
    start = np.floor(voxels.min(axis=0) + 1e-6).astype(int) - more
    stop = np.ceil(voxels.max(axis=0) - 1e-6).astype(int) + more
    start = np.clip(start, 0, np.array(geometry.size) - 1)
    return Box(tuple(start.tolist()), tuple(np.clip(stop, start + 1, geometry.size).tolist()))


def plain_geometry(shape, spacing):
    """Geometry of an array (k, j, i) whose axes are those of space, in mm from its first voxel."""
    return Geometry(tuple(shape[::-1]), tuple(spacing), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel().tolist()))


def within(geometry, box, voxels):
    """Grid of a box, coarser where it has more voxels than that."""
    part = grid_of_box(geometry, box)
    return coarser(part, coarsening_factor(part, voxels))
