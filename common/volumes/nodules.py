"""Lung nodules as spheres: from annotations to masks on slices, and from label volumes to centres and diameters."""

import numpy as np
import pandas as pd
import SimpleITK as sitk
from scipy import ndimage

from common.errors import InputError

COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm")


def read_annotations(path):
    """Table of nodules: seriesuid, coordX, coordY, coordZ (mm, LPS), diameter_mm.

    Raises:
        InputError: if it is no such table.
    """
    try:
        table = pd.read_csv(path, dtype={"seriesuid": str})
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}; expected {', '.join(COLUMNS)}")
    numbers = table[list(COLUMNS[1:])].apply(pd.to_numeric, errors="coerce")
    bad = numbers.isna().any(axis=1) | (numbers["diameter_mm"] <= 0)
    if bad.any():
        raise InputError(f"{path}: row {int(np.argmax(bad)) + 2} has no place or no diameter")
    return table.assign(**numbers)


def no_annotations():
    """The table of `read_annotations` without a row."""
    return pd.DataFrame({name: pd.Series(dtype=str if name == "seriesuid" else float) for name in COLUMNS})


def discs(grid, nodules, neighbours):
    """Masks of the slices through nodules.

    Args:
        grid: common.volumes.reading.Geometry whose third axis is that of the slices.
        nodules: rows of the table of one scan.
        neighbours: slices on each side of that of the centre.

    Returns:
        dict of the index of a slice to (H, W) uint8 of 0 and 1: discs of the spheres; the radius is half the diameter.

    Raises:
        InputError: if a centre is outside of the volume.
    """
    columns, rows, count = grid.size
    spacing = grid.spacing
    masks = {}
    for nodule in nodules.itertuples():
        world = (nodule.coordX, nodule.coordY, nodule.coordZ)
        i, j, k = grid.to_voxels([world])[0]
        if not (-0.5 <= i < columns - 0.5 and -0.5 <= j < rows - 0.5 and -0.5 <= k < count - 0.5):
            raise InputError(f"{nodule.seriesuid}: the nodule at {world} is outside of the scan")
        x, y = (np.arange(columns) - i) * spacing[0], (np.arange(rows) - j) * spacing[1]
        for slice_index in range(max(0, round(k) - neighbours), min(count, round(k) + neighbours + 1)):
            square = (nodule.diameter_mm / 2) ** 2 - ((slice_index - k) * spacing[2]) ** 2
            disc = np.add.outer(y**2, x**2) <= square
            mask = masks.setdefault(slice_index, np.zeros((rows, columns), np.uint8))
            mask |= disc.astype(np.uint8)
            if slice_index == round(k) and not disc.any():  # smaller than a pixel: the pixel of the centre
                mask[round(j), round(i)] = 1
    return masks


def candidates(labels):
    """Nodules of a label volume.

    Args:
        labels: SimpleITK.Image, 0 outside.

    Returns:
        list of (x, y, z, diameter) in mm, LPS: the centre of each connected part, and the diameter of the disc of the
        area of its largest slice, the largest part first.
    """
    parts = sitk.ConnectedComponent(labels != 0, True)
    array = sitk.GetArrayViewFromImage(parts)
    found = []
    for number, box in enumerate(ndimage.find_objects(array), 1):
        k, j, i = (inside + part.start for inside, part in zip(np.nonzero(array[box] == number), box, strict=True))
        area = np.bincount(k).max() * labels.GetSpacing()[0] * labels.GetSpacing()[1]
        centre = labels.TransformContinuousIndexToPhysicalPoint((float(i.mean()), float(j.mean()), float(k.mean())))
        found.append((*centre, 2 * float(np.sqrt(area / np.pi)), len(k)))
    return [nodule[:4] for nodule in sorted(found, key=lambda nodule: -nodule[4])]


def run_lengths(mask):
    """Run lengths of a mask: pairs "start length" from 1, down the columns; "" for fewer than 10 pixels.

    Args:
        mask: (H, W), foreground not 0.
    """
    flat = (np.asarray(mask) != 0).ravel(order="F")
    if flat.sum() < 10:
        return ""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    starts, ends = edges[::2], edges[1::2]
    return " ".join(f"{start + 1} {end - start}" for start, end in zip(starts, ends, strict=True))
