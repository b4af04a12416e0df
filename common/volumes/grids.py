"""Voxel grids: geometry, coarser grids, boxes, and resampling volumes onto another grid."""

import math
from typing import NamedTuple

import numpy as np

from common.errors import InputError, SettingError
from common.lazy import Lazy

sitk = Lazy("SimpleITK")

MAX_VOXELS = 2 * 10**9  # more than any scanner makes; 8 GB in single precision
POSITION_TOLERANCE = 1e-3  # max offset of two volumes on one grid: mm per voxel of the longest axis
LONG = 2 * 10**8  # voxels from which resampling takes more than a few seconds


class Geometry(NamedTuple):
    """Position of the voxels of a volume.

    Attributes:
        size: number of voxels along the axes i, j, k.
        spacing: mm between voxels.
        origin: center of the first voxel in mm, LPS.
        direction: 3 x 3 matrix whose columns are the axes, flattened row by row.
    """

    size: tuple
    spacing: tuple
    origin: tuple
    direction: tuple

    @classmethod
    def of(cls, image):
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    @property
    def axes(self):
        """(3, 3); columns are the steps in mm between voxels along i, j, k."""
        return np.reshape(self.direction, (3, 3)) * np.array(self.spacing)

    @property
    def shape(self):
        """Array shape, (k, j, i)."""
        return tuple(self.size[::-1])

    def to_voxels(self, points):
        """Convert points in mm, (N, 3) LPS, to voxels, (N, 3) i, j, k; whole numbers are voxel centers."""
        return np.linalg.solve(self.axes, (np.asarray(points) - np.array(self.origin)).T).T

    def to_points(self, voxels):
        """The inverse of `to_voxels`."""
        return np.asarray(voxels) @ self.axes.T + np.array(self.origin)


def along_axes(spacing):
    """Convert the setting SPACING to a list of three.

    Args:
        spacing: mm, one number or (left, back, head); None, also for a single axis: unchanged.
    """
    return list(spacing) if isinstance(spacing, list | tuple) else [spacing] * 3


def at_spacing(geometry, spacing, smallest_side=0):
    """Grid with another spacing (as for `along_axes`) and the same faces to within a voxel.

    A side with fewer than `smallest_side` voxels then gets this many, by a finer spacing along its axis.
    """
    spacing = [new or old for new, old in zip(along_axes(spacing), geometry.spacing, strict=True)]
    size = [max(1, round(n * old / new)) for n, old, new in zip(geometry.size, geometry.spacing, spacing, strict=True)]
    for axis, side in enumerate(size):
        if side < smallest_side:
            size[axis], spacing[axis] = smallest_side, geometry.size[axis] * geometry.spacing[axis] / smallest_side
    return _with_same_corner(geometry, size, spacing)


def coarsening_factor(geometry, max_voxels):
    """Factor, at least 1, to enlarge the spacing by for a grid of up to `max_voxels`; 1 if that is None."""
    return 1.0 if max_voxels is None else max(1.0, (math.prod(geometry.size) / max_voxels) ** (1 / 3))


def coarser(geometry, factor):
    """Grid with its spacing enlarged by a factor of 1 or more, and the same faces to within a voxel."""
    if factor == 1:
        return geometry
    size = [max(1, int(n / factor)) for n in geometry.size]
    return _with_same_corner(geometry, size, [mm * factor for mm in geometry.spacing])


def _with_same_corner(geometry, size, spacing):
    shift = (np.array(spacing) - geometry.spacing) / 2
    origin = np.array(geometry.origin) + np.reshape(geometry.direction, (3, 3)) @ shift
    return Geometry(tuple(map(int, size)), tuple(map(float, spacing)), tuple(origin.tolist()), geometry.direction)


def require_room(grid, problem, advice, error=InputError):
    """Raise an error if a grid has more than MAX_VOXELS voxels, and print an estimate if it takes long.

    Args:
        grid: Geometry.
        problem: start of the message, such as "SPACING: too fine for scan.nii".
        advice: what to do.
        error: class of the error, InputError or SettingError.
    """
    voxels, size = math.prod(grid.size), "x".join(map(str, grid.size))
    if voxels > MAX_VOXELS:
        memory = f"{4 * voxels / 2**30:,.0f} GB of memory"
        raise error(f"{problem} ({size} voxels, about {memory}; at most {MAX_VOXELS:,} voxels); {advice}")
    if voxels > LONG:
        print(f"resampling to {size} voxels: about {4 * voxels / 2**30:.1f} GB and {voxels / 3e7:.0f} s", flush=True)


# --- boxes


class Box(NamedTuple):
    """Voxels of a grid from `start` to before `stop`, each (i, j, k)."""

    start: tuple
    stop: tuple

    @classmethod
    def of(cls, array):
        """Smallest box around all nonzero elements of an array (k, j, i); None if all are 0."""
        spans = []
        for axis in (2, 1, 0):
            filled = np.flatnonzero(array.any(axis=tuple({0, 1, 2} - {axis})))
            if not len(filled):
                return None
            spans.append((int(filled[0]), int(filled[-1]) + 1))
        return cls(*map(tuple, zip(*spans, strict=True)))

    @property
    def size(self):
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def slices(self):
        """Index into an array (k, j, i)."""
        return tuple(slice(a, b) for a, b in zip(self.start[::-1], self.stop[::-1], strict=True))


def whole_box(geometry):
    return Box((0, 0, 0), tuple(geometry.size))


def grid_of_box(geometry, box, max_voxels=None):
    """Grid of a box in a grid, coarser if it has more than `max_voxels`."""
    (origin,) = geometry.to_points([box.start])
    grid = geometry._replace(size=box.size, origin=tuple(origin.tolist()))
    return coarser(grid, coarsening_factor(grid, max_voxels))


def box_on_grid(box, source, target):
    """Box of another grid that covers a box, clipped to the grid; None if they do not overlap.

    Args:
        box: Box of `source`.
        source, target: Geometry; their axes may differ in order and direction.
    """
    start, stop = _span_on_grid(box, source, target)
    start = np.clip(np.floor(start + 1e-6), 0, target.size).astype(int)
    stop = np.clip(np.ceil(stop - 1e-6), 0, target.size).astype(int)
    return Box(tuple(start.tolist()), tuple(stop.tolist())) if (stop > start).all() else None


def reaches_beyond(box, source, target):
    """Whether a box reaches more than a voxel beyond another grid; arguments as in `box_on_grid`."""
    start, stop = _span_on_grid(box, source, target)
    voxel = 1.001  # for rounding
    return bool((start < -voxel).any() or (stop > np.add(target.size, voxel)).any())


def _span_on_grid(box, source, target):
    """Start and stop, in voxels of another grid, of what a box covers there; arguments as in `box_on_grid`."""
    corners = np.array(np.meshgrid(*zip(box.start, box.stop, strict=True))).reshape(3, 8).T - 0.5
    corners = target.to_voxels(source.to_points(corners)) + 0.5
    return corners.min(axis=0), corners.max(axis=0)


def grow_box(box, geometry, smallest, margin):
    """Grow a box to at least `smallest` voxels a side, then by a share of its sides on each side, within the grid.

    At a face of the grid, `smallest` makes it grow toward the opposite side.
    """
    start, side = np.array(box.start), np.minimum(np.maximum(box.size, smallest), geometry.size)
    start = np.clip(start - (side - box.size) // 2, 0, geometry.size - side)
    stop = start + side
    margin = np.ceil(margin * (stop - start)).astype(int)
    start, stop = np.maximum(start - margin, 0), np.minimum(stop + margin, geometry.size)
    return Box(tuple(start.tolist()), tuple(stop.tolist()))


# --- volumes on another grid


def orient(image):
    """Reorder and flip the axes of a volume so that they point to the left, back and head as nearly as possible.

    Nothing is interpolated.
    """
    return sitk.DICOMOrient(image, "LPS")


def resample(image, spacing, where):
    """Resample a volume linearly to a spacing in mm, as for `at_spacing`; `where` is its path, for messages.

    Raises:
        SettingError: if this makes more than MAX_VOXELS voxels.
    """
    grid = at_spacing(Geometry.of(image), spacing)
    require_room(grid, f"SPACING: too fine for {where}", "use a larger spacing", SettingError)
    return onto_grid(image, grid, sitk.sitkLinear, sitk.GetArrayViewFromImage(image).min())


def onto_grid(image, geometry, interpolator=None, outside=0, transform=None):
    """Resample a volume onto another grid.

    Args:
        image: SimpleITK.Image.
        geometry: Geometry of the result.
        interpolator: SimpleITK interpolator; for labels nearest neighbor (None), or `sitkLabelLinear`, which
            interpolates each label linearly, keeps the largest, and avoids staircase artifacts.
        outside: value outside the image.
        transform: sitk.Transform from points on the grid to points in the image, or None.
    """
    size, spacing, origin, direction = map(list, geometry)
    transform = transform or sitk.Transform()
    interpolator = sitk.sitkNearestNeighbor if interpolator is None else interpolator
    try:
        return sitk.Resample(
            image, size, transform, interpolator, origin, spacing, direction, float(outside), image.GetPixelID()
        )
    except RuntimeError as error:
        if "allocate" in str(error):
            raise MemoryError from None
        raise


def smoothed_onto_grid(image, geometry):
    """Resample gray values linearly onto a grid with the same axes, first smoothed along axes that get coarser.

    To avoid aliasing, the standard deviation of the smoothing is half the increase in spacing, as in scikit-image.

    Args:
        image: SimpleITK.Image.
        geometry: Geometry.

    Returns:
        (k, j, i) float32.
    """
    image = sitk.Cast(image, sitk.sitkFloat32)
    outside = float(sitk.GetArrayViewFromImage(image).min())
    for axis, (old, new) in enumerate(zip(image.GetSpacing(), geometry.spacing, strict=True)):
        sigma = (new - old) / 2
        if sigma > 0.1 * old and image.GetSize()[axis] >= 4:  # the filter needs at least four voxels
            image = sitk.RecursiveGaussian(image, sigma, False, sitk.RecursiveGaussianImageFilter.ZeroOrder, axis)
    return sitk.GetArrayFromImage(onto_grid(image, geometry, sitk.sitkLinear, outside))


def image_at(array, geometry):
    """SimpleITK.Image of an array (k, j, i) with a Geometry."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    return image


def require_same_grid(image, path, reference, reference_path):
    """Raise InputError unless a volume has the voxels of another."""
    grid, own = Geometry.of(reference), Geometry.of(image)
    if grid.size != own.size:
        sizes = " and ".join("x".join(map(str, size)) for size in (own.size, grid.size))
        raise InputError(f"{path}: not on the grid of {reference_path} ({sizes} voxels); resample it onto that grid")
    corners = np.array([(0, 0, 0), grid.size])
    tolerance = POSITION_TOLERANCE * max(1, *grid.size)
    if not np.allclose(grid.to_points(corners), own.to_points(corners), atol=tolerance):
        found = "different origin, spacing or axes"
        raise InputError(f"{path}: not on the grid of {reference_path} ({found}); resample it onto that grid")
