"""Volumes of values, such as probabilities: interpolated linearly, which labels are not."""

import cv2
import numpy as np
import SimpleITK as sitk

from common.slices.images import resize
from common.volumes.grids import Geometry, image_at, onto_grid
from common.volumes.slicing import planes_of


def volume_of_slices(record, planes):
    """Volume from values of the slices of a case, as `common.volumes.labels.labels_of_slices` for labels.

    Args:
        record: content of case.json of slices from a volume.
        planes: dict of slice name to values (SIZE, SIZE).

    Returns:
        SimpleITK.Image float32 on the grid of the original volume; missing slices are 0.
    """
    grid, geometry = (
        Geometry(**{field: tuple(values) for field, values in record["volume"][name].items()})
        for name in ("grid", "geometry")
    )
    array = np.zeros(grid.size[::-1], np.float32)
    slices = planes_of(array, record["volume"]["plane"])
    for name, values in planes.items():
        entry = record["slices"][name]
        slices[entry["index"]] = _pasted(values.astype(np.float32), entry["box"], entry["image_size"])
    return onto_grid(image_at(array, grid), geometry, sitk.sitkLinear)


def _pasted(values, box, shape):
    """Values of a slice at the place that they were cut from, as `common.slices.images.paste` for masks."""
    left, top, width, height = box
    values = resize(values, (height, width), cv2.INTER_LINEAR)
    whole = np.zeros(shape, np.float32)
    inside = whole[max(top, 0) : top + height, max(left, 0) : left + width]
    inside[:] = values[max(-top, 0) :, max(-left, 0) :][: inside.shape[0], : inside.shape[1]]
    return whole


def channels_on_grid(probabilities, grid, target):
    """Interpolate the channels of a volume onto another grid, one at a time.

    Args:
        probabilities: (S, H, W, K) float32.
        grid: their Geometry.
        target: Geometry of the result.

    Yields:
        (k, j, i) float32; 0 outside of the volume.
    """
    for k in range(probabilities.shape[-1]):
        yield sitk.GetArrayFromImage(onto_grid(image_at(probabilities[..., k], grid), target, sitk.sitkLinear))
