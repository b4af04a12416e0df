"""Candidates, such as lung nodules: their tables, and crops of scans around them as three planes and as cubes."""

import itertools

import numpy as np
import pandas as pd
import scipy  # loads scipy.ndimage at first use, so that importers start faster

from common.errors import InputError
from common.lazy import Lazy
from common.tables import read_table, to_numbers
from common.volumes.grids import Geometry, image_at
from common.words import number_of

sitk = Lazy("SimpleITK")

FARTHEST = 1e5  # max position in mm
LARGEST = 1000  # max diameter in mm
POINT = ["coordX", "coordY", "coordZ"]
ADVICE = "use a table seriesuid,coordX,coordY,coordZ,... in mm, as of LUNA16 or submission.py"
PLANES = ["axial", "coronal", "sagittal"]  # channels of an image of a crop


def read_lesions(path, with_diameter=False, with_probability=False):
    """Read a table of lesions: seriesuid, coordX, coordY, coordZ (mm, LPS), diameter_mm, probability.

    Args:
        path: CSV file.
        with_diameter, with_probability: whether the column must be there.

    Returns:
        DataFrame with these columns; NaN for a diameter or probability that is missing. Its index contains the line
        numbers in the file. Diameters may be negative, for findings of unknown size.

    Raises:
        InputError: if a column or seriesuid is missing, or a number is invalid.
    """
    wanted = ["diameter_mm"] * with_diameter + ["probability"] * with_probability
    table = read_table(path, ["seriesuid", *POINT, *wanted], ADVICE)
    limits = dict.fromkeys(POINT, (-FARTHEST, FARTHEST)) | {"diameter_mm": (-LARGEST, LARGEST), "probability": (0, 1)}
    numbers = {
        name: to_numbers(table, name, path, ADVICE, bounds, required=name in (*POINT, *wanted))
        if name in table
        else np.nan
        for name, bounds in limits.items()
    }
    if (nameless := table["seriesuid"].str.strip() == "").any():
        raise InputError(f"{path}: line {table.index[nameless][0]} has no seriesuid; {ADVICE}")
    return table[["seriesuid"]].assign(**numbers)


def read_annotations(path):
    """Read a table of true lesions: `read_lesions` with diameters above 0.

    Raises:
        InputError: as `read_lesions`, or if a diameter is not positive.
    """
    table = read_lesions(path, with_diameter=True)
    if (bad := table["diameter_mm"] <= 0).any():
        line = table.index[bad][0]
        raise InputError(f"{path}: line {line} has a diameter of {table.loc[line, 'diameter_mm']:g}; correct it")
    return table


def no_annotations():
    """Empty table, as from `read_annotations`."""
    return pd.DataFrame(
        {"seriesuid": pd.Series(dtype=str)} | dict.fromkeys([*POINT, "diameter_mm"], pd.Series(dtype=float))
    )


def match_scans(table, path, scans, folder, what, needed=True):
    """Check that a table is about the scans, and print which scans are missing.

    Args:
        table, path: result of `read_lesions`, and its file.
        scans: names of the scans.
        folder: setting SCANS, for the message.
        what: what the table lists, such as "annotations".
        needed: whether at least one row must be of one of the scans.

    Raises:
        InputError: if no row is of any scan, and one is needed.
    """
    if needed and table.empty:
        raise InputError(f"{path}: contains no {what} (found only the header); use another table")
    unknown = sorted({*table["seriesuid"]} - {*scans})
    if needed and len(unknown) == table["seriesuid"].nunique():
        found = f"first seriesuid {unknown[0]}, first scan {min(scans)}"
        raise InputError(f"{path}: no seriesuid is the name of a scan in {folder} (found {found}); rename the scans")
    print_names(f"{what} without a scan", unknown)


def print_names(problem, names):
    """Print how many names have a problem, and the first ten."""
    if names:
        listed = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        print(f"{problem} ({len(names)}): {listed}")


def all_outside(path, grid, points, what):
    """InputError for a scan that has none of its points: what they are and where the scan is.

    Args:
        path: file or folder of the scan.
        grid: its Geometry.
        points: (N, 3) in mm, at least one.
        what: such as "nodule".
    """
    corners = grid.to_points(list(itertools.product(*((0, count - 1) for count in grid.size))))
    low, high, first = map(in_words, (corners.min(axis=0), corners.max(axis=0), points[0]))
    found = f"found {number_of(len(points), what)}, such as {first}; the scan reaches from {low} to {high}"
    return InputError(f"{path}: no {what} of the table is inside of the scan ({found}); use mm in LPS, not voxels")


def in_words(point):
    """A point in mm, (x, y, z), as text."""
    return f"({', '.join(f'{mm:.6g}' for mm in point)})"


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
        nodules: rows of `read_annotations` for the same scan.

    Returns:
        (N,) bool.
    """
    centers = nodules[["coordX", "coordY", "coordZ"]].to_numpy(float)
    distances = np.linalg.norm(np.reshape(points, (-1, 1, 3)) - centers, axis=2)
    return (distances < nodules["diameter_mm"].to_numpy(float) / 2).any(axis=1)
