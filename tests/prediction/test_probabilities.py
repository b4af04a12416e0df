"""predict.py --probabilities: 16-bit images and volumes on the grid of the source."""

import cv2
import numpy as np
import pytest
from drawings import as_volume, assert_same_geometry

from common.prediction.inputs import VolumeInput
from common.prediction.probabilities import Probabilities, write_volumes
from common.slices.cases import Slice
from common.volumes.grids import Geometry, at_spacing

sitk = pytest.importorskip("SimpleITK")


def test_images_of_each_class(tmp_path):
    values = np.random.default_rng(0).random((12, 10, 4)).astype(np.float32)  # the last one is for the uncertainty
    kept = Probabilities(tmp_path, ["a", "b"], 3, ".nii.gz")
    kept.add(Slice("case1", "0001", tmp_path), "case1", {}, values)
    kept.close()
    for number, name in ((1, "a"), (2, "b")):  # the first channel is the background
        found = cv2.imread(str(tmp_path / "probabilities" / name / "case1" / "0001.png"), cv2.IMREAD_UNCHANGED)
        assert found.dtype == np.uint16
        np.testing.assert_allclose(found / 65535, values[..., number], atol=0.51 / 65535)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_volumes_of_slices_have_the_grid_and_the_values_of_the_source(tmp_path, plane):
    """The scan is oblique and stored in another order than the slices."""
    values = np.random.default_rng(1).integers(0, 1000, (6, 9, 8)).astype(np.int16)
    image = as_volume(values)
    sitk.WriteImage(image, str(tmp_path / "scan.nii.gz"))
    source = VolumeInput(tmp_path / "scan.nii.gz", plane, [0, 1000], None, None)
    kept = Probabilities(tmp_path, ["a"], 1, ".nii.gz")
    for s in source.slices:
        kept.add(s, *source.case_of(s), source.read(s)[..., None].astype(np.float32) / 255)
    kept.close()
    found = sitk.ReadImage(str(tmp_path / "probabilities" / "a" / "scan.nii.gz"))
    assert_same_geometry(found, image)
    np.testing.assert_allclose(sitk.GetArrayFromImage(found), values / 1000, atol=0.5 / 255 + 1e-3)


def test_volumes_of_3d_networks(tmp_path):
    """A linear ramp is interpolated exactly, inside of the outermost centers."""
    original = Geometry.of(as_volume(np.zeros((8, 10, 12), np.uint8), np.eye(3)))
    grid = at_spacing(original, (1.4, 1.8, 5.0))
    points = grid.to_points(np.argwhere(np.ones(grid.shape))[:, ::-1])
    ramp = ((points[:, 0] - original.origin[0]) / 20).reshape(grid.shape).astype(np.float32)
    write_volumes(
        tmp_path / "probabilities", ["a", "b"], "scan.nrrd", original, np.stack([ramp, 1 - ramp], axis=-1), grid
    )
    for name, sign in (("a", 1), ("b", -1)):
        found = sitk.ReadImage(str(tmp_path / "probabilities" / name / "scan.nrrd"))
        assert found.GetSize() == tuple(original.size)
        expected = np.clip(np.arange(12) * original.spacing[0] / 20, 0, 1)
        expected = expected if sign == 1 else 1 - expected
        np.testing.assert_allclose(sitk.GetArrayFromImage(found)[4, 5, 1:-1], expected[1:-1], atol=1e-3)
