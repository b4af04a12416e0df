"""DICOM SEG and RTSTRUCT of predictions: read back equal by highdicom and by our own reader, and only if asked for."""

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_labels import draw_series
from drawings import as_volume, assert_same_geometry, write, write_copying_network
from running import assert_refused, run_here

sitk = pytest.importorskip("SimpleITK")
from common.prediction.dicom_labels import DicomLabels
from common.volumes.grids import Geometry, onto_grid
from common.volumes.label_files import LabelFiles
from common.volumes.reading import read_volume


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series") / "Plant"
    draw_series(folder)
    return folder, read_volume(folder)


@pytest.mark.parametrize("kind", ["SEG", "RTSTRUCT"])
@pytest.mark.parametrize("seed", [0, 1])
def test_labels_are_read_back_equal(tmp_path, series, kind, seed):
    folder, image = series
    shape = image.GetSize()[::-1]
    numbers = np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)
    numbers[[0, 3]] = 0
    if seed:  # with holes, and at the edges
        numbers = np.zeros(shape, np.uint8)
        numbers[1:4, :30, :20], numbers[2, 5:9, 5:9], numbers[2, 6:8, 6:7] = 1, 2, 0
    labels = sitk.GetImageFromArray(numbers)
    labels.CopyInformation(image)
    writer = DicomLabels(tmp_path, [kind], {"case_0001": folder}, None, ["liver", "tumor"])
    writer.write("case_0001", labels)
    (path,) = (tmp_path / "dicom").iterdir()
    assert path.name == f"case_0001_{kind.lower()}.dcm"
    files = LabelFiles([path])
    assert files.describe() == "classes: 1 liver (in 1 of 1), 2 tumor (in 1 of 1)"
    found = onto_grid(files.read(path, Geometry.of(image)), Geometry.of(image))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), numbers)
    assert_same_geometry(found, image)
    content, source = pydicom.dcmread(path), pydicom.dcmread(folder / "000.dcm")
    for name in ("PatientName", "PatientID", "StudyInstanceUID", "StudyDate"):
        assert content[name].value == source[name].value
    assert content.SeriesInstanceUID != source.SeriesInstanceUID
    if kind == "SEG":
        seg = highdicom.seg.segread(path)
        volume = seg.get_volume(combine_segments=True)
        whole = np.zeros(shape, np.uint8)
        start = round(float(Geometry.of(image).to_voxels([volume.affine[:3, 3]])[0, 2]))
        step = round(float(Geometry.of(image).to_voxels([volume.affine[:3, 3] + volume.affine[:3, 0]])[0, 2])) - start
        for k, plane in enumerate(volume.array):
            whole[start + k * step] = plane
        np.testing.assert_array_equal(whole, numbers)
        assert seg.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"


def test_a_wrong_distance_of_slices_in_the_source_is_not_copied(tmp_path):
    folder = tmp_path / "series"
    draw_series(folder)
    for file in folder.glob("*.dcm"):
        content = pydicom.dcmread(file)
        content.SpacingBetweenSlices = "1.0"
        content.save_as(file)
    image = read_volume(folder)
    labels = sitk.GetImageFromArray(np.ones(image.GetSize()[::-1], np.uint8))
    labels.CopyInformation(image)
    DicomLabels(tmp_path, ["SEG"], {"a": folder}, None, ["liver"]).write("a", labels)
    volume = highdicom.seg.segread(tmp_path / "dicom" / "a_seg.dcm").get_volume(combine_segments=True)
    assert volume.array.shape[0] == image.GetSize()[2] and volume.spacing[0] == pytest.approx(image.GetSpacing()[2])


@pytest.mark.parametrize("kind", ["SEG", "RTSTRUCT"])
def test_an_empty_prediction(tmp_path, series, kind):
    folder, image = series
    labels = image * 0
    DicomLabels(tmp_path, [kind], {"a": folder}, None, ["liver"]).write("a", sitk.Cast(labels, sitk.sitkUInt8))
    content = pydicom.dcmread(next((tmp_path / "dicom").iterdir()))
    if kind == "SEG":
        assert not content.pixel_array.any()
    else:
        assert not content.ROIContourSequence[0].get("ContourSequence")


def test_the_script_writes_them_only_if_asked(tmp_path, series):
    folder, image = series
    network = write_copying_network(tmp_path / "copying.keras", 40)
    settings = {"RUN": network, "INPUT": folder.parent, "FIT": "pad", "OVERLAYS": False, "WINDOW": [-500, 500]}
    run_here("predict.py", OUTPUT=tmp_path / "a", **settings)
    assert not (tmp_path / "a" / "dicom").exists()
    kinds = ["SEG", "RTSTRUCT"]
    said = run_here("predict.py", OUTPUT=tmp_path / "b", DICOM_LABELS=kinds, **settings).stdout
    assert "dicom/ will contain tags of patients" in said
    expected = read_volume(tmp_path / "b" / "case_0001.nii.gz")
    for kind in kinds:
        path = tmp_path / "b" / "dicom" / f"case_0001_{kind.lower()}.dcm"
        found = onto_grid(LabelFiles([path]).read(path, Geometry.of(image)), Geometry.of(image))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
    assert sitk.GetArrayFromImage(expected).any()
    for path in (tmp_path / "b").rglob("*"):
        if path.is_file() and path.parent.name != "dicom":
            assert b"plant" not in path.read_bytes().lower(), path
    write(tmp_path, "v.nrrd", as_volume(np.zeros((4, 9, 9), np.int16)))
    other = settings | {"INPUT": tmp_path / "v.nrrd", "OUTPUT": tmp_path / "c", "DICOM_LABELS": ["SEG"]}
    assert_refused("predict.py", "DICOM_LABELS: INPUT is not a DICOM series (found v.nrrd)", **other)
