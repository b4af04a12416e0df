"""Planes of volumes."""

import numpy as np
import pytest
from drawings import as_volume

sitk = pytest.importorskip("SimpleITK")
from common.volumes.grids import orient
from common.volumes.slicing import PLANES, planes_of, spacing_of_plane


@pytest.mark.parametrize("plane", PLANES)
def test_planes_are_those_of_the_viewer(plane):
    """A mark at the head, the front and the right of the body is shown where a radiologist expects it."""
    array = np.zeros((4, 6, 8), np.uint8)  # S, P, L
    array[3, 0, 0] = 1  # head, front, right
    for axes in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        for flips in ((), (0,), (1, 2)):
            turned = np.flip(array.transpose(axes), flips)
            # directions of the axes of the turned array, in L, P, S
            unit = np.eye(3)[::-1]  # rows: axis of the array (S, P, L) in (x, y, z)
            directions = [(-1 if i in flips else 1) * unit[axis] for i, axis in enumerate(axes)]
            image = as_volume(np.ascontiguousarray(turned), np.stack(directions[::-1], axis=1), (1, 1, 1), (0, 0, 0))
            shown = planes_of(sitk.GetArrayFromImage(orient(image)), plane)
            where = tuple(int(v[0]) for v in np.nonzero(shown))
            assert where == {"axial": (3, 0, 0), "coronal": (0, 0, 0), "sagittal": (0, 0, 0)}[plane]
    axis, flipped = PLANES[plane]
    np.testing.assert_array_equal(np.flip(np.moveaxis(planes_of(array, plane), 0, axis), flipped), array)
    assert spacing_of_plane((1, 2, 3), plane) == {"axial": [2, 1], "coronal": [3, 1], "sagittal": [3, 2]}[plane]
