"""Volumes of values, such as probabilities: interpolated linearly, which labels are not."""

import cv2
import numpy as np
import SimpleITK as sitk

from common.volumes.grids import image_at, onto_grid
from common.volumes.slicing import array_of_slices


def volume_of_slices(record, planes):
    """Volume from values of the slices of a case, as `common.volumes.labels.labels_of_slices` for labels.

    Args:
        record: content of case.json of slices from a volume.
        planes: dict of slice name to values (SIZE, SIZE).

    Returns:
        SimpleITK.Image float32 on the grid of the original volume; missing slices are 0.
    """
    planes = {name: values.astype(np.float32) for name, values in planes.items()}
    array, grid, geometry = array_of_slices(record, planes, cv2.INTER_LINEAR)
    return onto_grid(image_at(array, grid), geometry, sitk.sitkLinear)


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
