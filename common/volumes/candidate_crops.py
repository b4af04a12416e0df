"""Crops of scans around candidates, as three planes and as cubes: the work of 0_import_candidates.py on a scan."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy  # loads scipy.ndimage at first use, so that importers start faster

from common.lazy import Lazy
from common.slices.cases import Imported
from common.slices.images import encode_png, encode_slice, window_to_gray
from common.volumes.candidates import all_outside, in_words
from common.volumes.grids import Geometry, image_at
from common.volumes.reading import read_volume
from common.volumes.writing import write_volume

sitk = Lazy("SimpleITK")


class Candidates(NamedTuple):
    """The candidates of a scan.

    Attributes:
        scan: Path.
        points: (N, 3) in mm, LPS.
        labels: (N,) bool, whether each is a nodule.
        cubes: Path of the folder for a cube around each; None: none.
    """

    scan: Path
    points: np.ndarray
    labels: np.ndarray
    cubes: Path | None


class Cropping(NamedTuple):
    """Settings of 0_import_candidates.py that decide what a crop shows, as there."""

    size: int
    spacing: float
    window: list
    cube_size: int
    cube_spacing: float


def import_scan(candidates, how):
    """Cut the crops of a scan, and write its cubes.

    Args:
        candidates: Candidates.
        how: Cropping.

    Returns:
        Imported, with where candidates are that are outside of their scan as notes; these have no crop.

    Raises:
        InputError: if the scan cannot be read, or all candidates are outside of it.
    """
    path, points, labels, cubes = candidates
    values, grid = open_scan(read_volume(path))
    voxels = grid.to_voxels(points)
    is_inside = ((voxels > -1) & (voxels < grid.size)).all(axis=1)
    if not is_inside.any():
        raise all_outside(path, grid, points, "candidate")
    box = [how.size] * 2
    slices = []
    for number, (point, label) in enumerate(zip(points[is_inside], labels[is_inside], strict=True), 1):
        crop = crop_planes(values, grid, point, how.size, how.spacing, how.window[0])
        mask = np.full(crop.shape[:2], 255 * int(label), np.uint8)
        entry = {"image": None, "mask": None, "image_size": box, "box": [0, 0, *box]}
        slices.append((encode_slice(window_to_gray(crop, *how.window, 8)), encode_png(mask), entry))
        if cubes:
            cubes.mkdir(exist_ok=True)
            cube = crop_cube(values, grid, point, how.cube_size, how.cube_spacing, how.window[0])
            write_volume(cube, cubes / f"{number:04d}.nii.gz")
    return Imported(slices, notes=[in_words(point) for point in points[~is_inside]])


def steps(side, mm):
    """Distances in mm of `side` pixels from their middle."""
    return (np.arange(side) - (side - 1) / 2) * mm


def crop_planes(values, grid, point, side, mm, outside):
    """Cut the three planes through a point: head up, front up in the axial one.

    Args:
        values: (k, j, i) array of a scan.
        grid: its Geometry.
        point: (x, y, z) in mm, LPS.
        side: side of the crop in pixels.
        mm: pixel spacing.
        outside: value outside of the scan.

    Returns:
        (side, side, 3) float32, interpolated linearly; channels as in PLANES.
    """
    down, right = np.meshgrid(steps(side, mm), steps(side, mm), indexing="ij")
    level = np.zeros_like(down)
    offsets = [(right, down, level), (right, level, -down), (level, right, -down)]
    points = np.stack([np.stack(plane, axis=-1) for plane in offsets], axis=2) + np.asarray(point, float)
    return _sample(values, grid, points, outside)


def crop_cube(values, grid, point, side, mm, outside):
    """Cut a cube with edges along the axes of the patient.

    Args:
        As for `crop_planes`.

    Returns:
        SimpleITK.Image of `side` voxels a side, in the number type of `values`.
    """
    axes = [steps(side, mm) + center for center in point]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).transpose(2, 1, 0, 3)
    cube = _sample(values, grid, points, outside)
    if np.issubdtype(values.dtype, np.integer):
        cube = np.rint(cube)
    origin = tuple(float(axis[0]) for axis in axes)
    geometry = Geometry((side,) * 3, (float(mm),) * 3, origin, tuple(np.eye(3).ravel().tolist()))
    return image_at(cube.astype(values.dtype), geometry)


def _sample(values, grid, points, outside):
    voxels = grid.to_voxels(points.reshape(-1, 3))[:, ::-1].T
    sampled = scipy.ndimage.map_coordinates(values, voxels, np.float32, order=1, mode="constant", cval=outside)
    return sampled.reshape(points.shape[:-1])


def open_scan(image):
    """Values (k, j, i) and Geometry of a scan, SimpleITK.Image."""
    return sitk.GetArrayFromImage(image), Geometry.of(image)
