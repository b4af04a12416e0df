"""Slice volumes along planes, and describe the slices for case.json."""

import cv2
import numpy as np

from common.errors import InputError
from common.lazy import Lazy
from common.slices.images import paste, window_to_gray
from common.volumes.grids import Geometry, along_axes, image_at, orient, resample
from common.volumes.intensity import percentiles_of
from common.volumes.reading import read_channels, read_further, read_volume

sitk = Lazy("SimpleITK")

PERCENTILES = (0.5, 99.5)  # of a volume, mapped to black and white without a window

# Slicing axis of an array (S, P, L), and axes to flip for display: head and front up.
PLANES = {"axial": (0, ()), "coronal": (1, (0,)), "sagittal": (2, (0,))}


def open_slices(
    path, plane, window=None, percentiles=PERCENTILES, spacing=None, series=None, not_finite=None, several=False
):
    """Open a volume as slices, for 0_import_volumes.py and predict.py.

    Args:
        path: as for `read_volume`; with `several`, also a list of Paths with a file for each channel.
        plane: a name in PLANES.
        window: [low, high], values mapped to black and white; None: use percentiles.
        percentiles: [low, high] of the volume, in percent.
        spacing: mm to resample to, as for `along_axes`; None: no resampling.
        series, not_finite: as for `read_volume`.
        several: whether a volume may have several channels.

    Returns:
        values, array (slices, H, W), or (slices, H, W, C) with several channels; list of (low, high), values of each
        channel mapped to black and white; and the volume entry of case.json.

    Raises:
        InputError: as for `read_volume`, if low is not less than high, or if files of channels have other grids.
    """
    paths = path if isinstance(path, list) else [path]
    channels = read_files(paths, series, not_finite) if several else [read_volume(path, series, not_finite)]
    geometry = Geometry.of(channels[0])
    spacing, stacked, levels = along_axes(spacing), [], []
    for image in map(orient, channels):
        image = resample(image, spacing, paths[0]) if any(spacing) else image
        stacked.append(planes_of(sitk.GetArrayFromImage(image), plane))
        levels.append(window or percentiles_of(stacked[-1], percentiles))
        if not levels[-1][0] < levels[-1][1]:
            where = paths[min(len(levels), len(paths)) - 1]
            found = f"constant between its percentiles {list(percentiles)} (value {levels[-1][0]:g})"
            raise InputError(f"{where}: {found}; use --window")
    volume = {
        "plane": plane,
        "geometry": geometry._asdict(),
        "grid": Geometry.of(image)._asdict(),
        "resampled": spacing if any(spacing) else None,
    }
    if not window:
        volume["percentiles"] = list(percentiles)  # so that its window is not used for other volumes
    return stacked[0] if len(stacked) == 1 else np.stack(stacked, axis=-1), levels, volume


def read_files(paths, series=None, not_finite=None):
    """Read the channels of a volume from one file, or from a file for each.

    Args:
        paths: list of Paths.
        series, not_finite: as for `read_volume`.

    Returns:
        list of SimpleITK.Image with three axes, on one grid.

    Raises:
        InputError: as for `read_volume`, or if a file has another grid than the first.
    """
    if len(paths) == 1:
        return read_channels(paths[0], series, not_finite)
    first = read_volume(paths[0], series, not_finite)
    return [first, *read_further(paths[1:], first, paths[0], series, not_finite)]


def to_gray_levels(values, levels, bits):
    """Slices as gray levels.

    Args:
        values: (H, W), with its neighbors (H, W, N), or with several channels (H, W, C).
        levels: list of (low, high), one, or one for each channel; see `open_slices`.
        bits: 8 or 16.

    Returns:
        uint8 or uint16 of the same shape.
    """
    if len(levels) == 1:
        return window_to_gray(values, *levels[0], bits)
    channels = [window_to_gray(values[..., i], *pair, bits) for i, pair in enumerate(levels)]
    return np.stack(channels, axis=-1)


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


def with_neighbors(values, index, neighbors):
    """A slice with the slices before and after it as channels; the first and last slice stand in for missing ones.

    Args:
        values: (slices, H, W) array.
        index: slice index.
        neighbors: how many on each side; 0: the slice alone.

    Returns:
        (H, W), or (H, W, 2 * neighbors + 1) with the slice in the middle.
    """
    if not neighbors:
        return values[index]
    chosen = np.clip(np.arange(index - neighbors, index + neighbors + 1), 0, len(values) - 1)
    return np.stack([values[i] for i in chosen], axis=-1)


def spacing_of_plane(spacing, plane):
    """Pixel spacing (row, column) of a plane in mm; `spacing` of the oriented volume is i, j, k."""
    return [mm for axis, mm in enumerate(spacing[::-1]) if axis != PLANES[plane][0]]


def array_of_slices(record, slices, interpolation=cv2.INTER_NEAREST):
    """Slices of a case at their places in the oriented volume that they were cut from; missing ones are 0.

    Args:
        record: content of case.json, written by 0_import_volumes.py.
        slices: dict of slice name to (SIZE, SIZE) array, all of one type.
        interpolation: as for `common.slices.images.paste`.

    Returns:
        (S, P, L) array of that type, its Geometry, and the Geometry of the volume as it is stored.
    """
    grid, geometry = (
        Geometry(**{field: tuple(values) for field, values in record["volume"][name].items()})
        for name in ("grid", "geometry")
    )
    array = np.zeros(grid.size[::-1], next(iter(slices.values())).dtype)
    planes = planes_of(array, record["volume"]["plane"])
    for name, values in slices.items():
        entry = record["slices"][name]
        planes[entry["index"]] = paste(values, entry["box"], entry["image_size"], interpolation)
    return array, grid, geometry


def stack_slices(record, slices):
    """Volume of neighboring slices of a case, as they are in their files: fitted to their size and in display order.

    Args:
        record: content of case.json.
        slices: dict of slice name to (SIZE, SIZE) array; all cut from the same box, without gaps between them.

    Returns:
        SimpleITK.Image with the geometry of these slices in the patient.
    """
    entries = {name: record["slices"][name] for name in slices}
    names = sorted(entries, key=lambda name: entries[name]["index"])
    array = np.stack([slices[name] for name in names])
    grid = Geometry(**{field: tuple(values) for field, values in record["volume"]["grid"].items()})
    axis, flipped = PLANES[record["volume"]["plane"]]
    axes = [axis, *(other for other in range(3) if other != axis)]  # of an array (S, P, L), for slices, rows, columns
    left, top, width, height = entries[names[0]]["box"]
    scale = np.array([1, height / record["size"], width / record["size"]])
    first = np.array([entries[names[0]]["index"], top, left]) + (scale - 1) / 2
    start, steps = np.zeros(3), np.zeros((3, 3))  # in voxels i, j, k of the grid; a row of steps for each axis above
    for number, of_array in enumerate(axes):
        sign, last = (-1, grid.size[2 - of_array] - 1) if of_array in flipped else (1, 0)
        start[2 - of_array] = last + sign * first[number]
        steps[number, 2 - of_array] = sign * scale[number]
    if np.linalg.det(steps[::-1]) < 0:  # mirrored axes are not possible in all formats
        array, start, steps[0] = array[::-1], start + (len(names) - 1) * steps[0], -steps[0]
    (origin,) = grid.to_points([start])
    columns = (steps[::-1] @ grid.axes.T).T  # mm along columns, rows and slices
    spacing = np.linalg.norm(columns, axis=0)
    geometry = Geometry(array.shape[::-1], *(tuple(v.ravel().tolist()) for v in (spacing, origin, columns / spacing)))
    return image_at(array, geometry)
