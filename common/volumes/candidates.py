"""Candidates, such as lung nodules: their tables, and which of them are nodules."""

import itertools

import numpy as np
import pandas as pd

from common.errors import InputError
from common.tables import read_table, to_numbers
from common.words import number_of

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
