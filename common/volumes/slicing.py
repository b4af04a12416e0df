"""Slices of volumes: the planes, and what a case folder holds of them."""

import numpy as np
import SimpleITK as sitk

from common.errors import InputError
from common.volumes.grids import Geometry, along_axes, orient, resample
from common.volumes.intensity import percentiles_of
from common.volumes.reading import read_volume

PERCENTILES = (0.5, 99.5)  # of a volume, that become black and white where no window is given

# Axis of an array (S, P, L) along which a plane is sliced, and axes that are flipped for display: head and front up.
PLANES = {"axial": (0, ()), "coronal": (1, (0,)), "sagittal": (2, (0,))}


def open_slices(path, plane, window=None, percentiles=PERCENTILES, spacing=None, series=None):
    """Slices of a volume, as 0_import_volumes.py makes them and predict.py takes them.

    Args:
        path: as `read_volume`.
        plane: a name of PLANES.
        window: [low, high], values of black and white; None takes the percentiles.
        percentiles: [low, high] of the volume, in percent.
        spacing: mm to resample to, as `along_axes` takes it; None: as it is.
        series: as `read_volume`.

    Returns:
        values, (slices, H, W) array; low and high, of black and white; and the entry of the volume for case.json.

    Raises:
        InputError: as `read_volume`, or if low is not less than high.
    """
    image = read_volume(path, series)
    geometry = Geometry.of(image)
    image = orient(image)
    spacing = along_axes(spacing)
    if any(spacing):
        image = resample(image, spacing)
    values = planes_of(sitk.GetArrayFromImage(image), plane)
    low, high = window or percentiles_of(values, percentiles)
    if not low < high:
        raise InputError(f"{path} holds the value {low:g} only, between its percentiles {list(percentiles)}")
    volume = {
        "plane": plane,
        "geometry": geometry._asdict(),
        "grid": Geometry.of(image)._asdict(),
        "resampled": spacing if any(spacing) else None,
    }
    return values, (low, high), volume


def slice_entry(shape, index, box=None):
    """Entry of a slice of a volume in case.json.

    Args:
        shape: (height, width) of the slice.
        index: of the slice in the order of `planes_of`.
        box: (left, top, width, height) that was cut from it; None: all of it.
    """
    height, width = shape
    return {
        "image": None,
        "mask": None,
        "image_size": [height, width],
        "box": list(box or (0, 0, width, height)),
        "index": index,
    }


def planes_of(volume, plane):
    """Slices of a volume for display.

    Args:
        volume: (S, P, L) array of an image of `orient`.
        plane: a name of PLANES.

    Returns:
        view (slices, height, width): axial from the feet up, the front of the body at the top; coronal from front to
        back and sagittal from right to left, the head at the top.
    """
    axis, flipped = PLANES[plane]
    return np.moveaxis(np.flip(volume, flipped), axis, 0)


def spacing_of_plane(spacing, plane):
    """(row, column) distance in mm of the pixels of a plane; `spacing` is that of the oriented volume, i, j, k."""
    return [mm for axis, mm in enumerate(spacing[::-1]) if axis != PLANES[plane][0]]
