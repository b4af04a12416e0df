"""Connected components of masks in 2-D and 3-D, such as lesions: where they are and how large."""

from typing import NamedTuple

import numpy as np
import scipy  # loads scipy.ndimage at first use, so that importers start faster


class Component(NamedTuple):
    """A connected component of a mask.

    Attributes:
        center: mean of its pixel positions along each array axis, in pixels.
        diameter: of a disc with the area of the component or, in a volume, of its largest slice along the first axis.
        size: number of pixels or voxels.
    """

    center: tuple
    diameter: float
    size: int


def label_components(mask):
    """Number the connected components of a mask; pixels that touch at a corner are connected.

    Args:
        mask: bool array, (H, W) or (k, j, i).

    Returns:
        int32 array of component numbers from 1, 0 outside.
    """
    return scipy.ndimage.label(mask, np.ones((3,) * mask.ndim))[0]


def measure_components(numbers, spacing):
    """Measure components.

    Args:
        numbers: result of `label_components`.
        spacing: mm (or 1) between pixels along each array axis.

    Returns:
        list of Component in the order of their numbers, diameters in the unit of `spacing`.
    """
    found = []
    for number, box in enumerate(scipy.ndimage.find_objects(numbers), 1):
        positions = np.nonzero(numbers[box] == number)
        center = tuple(float(axis.mean()) + side.start for axis, side in zip(positions, box, strict=True))
        size = len(positions[0])
        area = size if numbers.ndim == 2 else int(np.bincount(positions[0]).max())
        diameter = 2 * float(np.sqrt(area * spacing[-1] * spacing[-2] / np.pi))
        found.append(Component(center, diameter, size))
    return found
