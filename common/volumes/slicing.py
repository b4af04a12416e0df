"""Slice volumes along planes, and describe the slices for case.json."""

import numpy as np
import SimpleITK as sitk

from common.errors import InputError
from common.volumes.grids import Geometry, along_axes, orient, resample
from common.volumes.intensity import percentiles_of
from common.volumes.reading import read_volume

PERCENTILES = (0.5, 99.5)  # of a volume, mapped to black and white without a window

# Slicing axis of an array (S, P, L), and axes to flip for display: head and front up.
PLANES = {"axial": (0, ()), "coronal": (1, (0,)), "sagittal": (2, (0,))}


def open_slices(path, plane, window=None, percentiles=PERCENTILES, spacing=None, series=None, not_finite=None):
    """Open a volume as slices, for 0_import_volumes.py and predict.py.

    Args:
        path: as for `read_volume`.
        plane: a name in PLANES.
        window: [low, high], values mapped to black and white; None: use percentiles.
        percentiles: [low, high] of the volume, in percent.
        spacing: mm to resample to, as for `along_axes`; None: no resampling.
        series, not_finite: as for `read_volume`.

    Returns:
        values, (slices, H, W) array; (low, high), values mapped to black and white; and the volume entry of case.json.

    Raises:
        InputError: as for `read_volume`, or if low is not less than high.
    """
    image = read_volume(path, series, not_finite)
    geometry = Geometry.of(image)
    image = orient(image)
    spacing = along_axes(spacing)
    if any(spacing):
        image = resample(image, spacing, path)
    values = planes_of(sitk.GetArrayFromImage(image), plane)
    low, high = window or percentiles_of(values, percentiles)
    if not low < high:
        raise InputError(f"{path}: constant between its percentiles {list(percentiles)} (value {low:g}); use --window")
    volume = {
        "plane": plane,
        "geometry": geometry._asdict(),
        "grid": Geometry.of(image)._asdict(),
        "resampled": spacing if any(spacing) else None,
    }
    return values, (low, high), volume


def slice_entry(shape, index, box=None):
    """Entry of a slice in case.json.

    Args:
        shape: (height, width) of the slice.
        index: slice index in the order of `planes_of`.
        box: (left, top, width, height) cut from the slice; None: the whole slice.
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
    """View a volume as slices for display.

    Args:
        volume: (S, P, L) array of an image from `orient`.
        plane: a name in PLANES.

    Returns:
        view (slices, height, width): axial from feet to head, front of the body at the top; coronal from front to back
        and sagittal from right to left, head at the top.
    """
    axis, flipped = PLANES[plane]
    return np.moveaxis(np.flip(volume, flipped), axis, 0)


def spacing_of_plane(spacing, plane):
    """Pixel spacing (row, column) of a plane in mm; `spacing` of the oriented volume is i, j, k."""
    return [mm for axis, mm in enumerate(spacing[::-1]) if axis != PLANES[plane][0]]
