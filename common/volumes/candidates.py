"""Candidates, such as lung nodules: their tables, and crops of scans around them as three planes and as cubes."""

import numpy as np
import scipy  # loads scipy.ndimage at first use, so that importers start faster

from common.lazy import Lazy
from common.tables import read_table, to_numbers
from common.volumes.grids import Geometry, image_at

sitk = Lazy("SimpleITK")

FARTHEST = 1e5  # max position and diameter in mm
POINT = ["coordX", "coordY", "coordZ"]
ADVICE = "use a table seriesuid,coordX,coordY,coordZ,..., such as submission.py writes"
PLANES = ["axial", "coronal", "sagittal"]  # channels of an image of a crop


def read_lesions(path, with_diameter=False, with_probability=False):
    """Read a table of lesions: seriesuid, coordX, coordY, coordZ (mm, LPS), diameter_mm, probability.

    Args:
        path: CSV file.
        with_diameter, with_probability: whether the column must be there.

    Returns:
        DataFrame with these columns; NaN for a diameter or probability that is missing.

    Raises:
        InputError: if a column is missing or a number is invalid.
    """
    wanted = ["diameter_mm"] * with_diameter + ["probability"] * with_probability
    table = read_table(path, ["seriesuid", *POINT, *wanted], ADVICE)
    limits = dict.fromkeys(POINT, (-FARTHEST, FARTHEST)) | {"diameter_mm": (-FARTHEST, FARTHEST), "probability": (0, 1)}
    numbers = {
        name: to_numbers(table, name, path, ADVICE, bounds, required=name in (*POINT, *wanted))
        if name in table
        else np.nan
        for name, bounds in limits.items()
    }
    return table[["seriesuid"]].assign(**numbers)


# --- crops


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


def are_nodules(points, nodules):
    """Whether points are inside of nodules: less than the radius away from a center, as in LUNA16.

    Args:
        points: (N, 3) in mm.
        nodules: rows of `common.volumes.nodules.read_annotations` for the same scan.

    Returns:
        (N,) bool.
    """
    centers = nodules[["coordX", "coordY", "coordZ"]].to_numpy(float)
    distances = np.linalg.norm(np.reshape(points, (-1, 1, 3)) - centers, axis=2)
    return (distances < nodules["diameter_mm"].to_numpy(float) / 2).any(axis=1)
