"""DICOM SEG and RTSTRUCT of predictions: read back equal by highdicom and by our own reader, and only if asked for."""

import shutil
import subprocess

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_labels import draw_series
from drawings import as_volume, assert_same_geometry, write, write_copying_network
from running import assert_refused, run_here

sitk = pytest.importorskip("SimpleITK")
from common.errors import InputError
from common.prediction.dicom_labels import DicomLabels
from common.volumes.grids import Geometry, onto_grid
from common.volumes.label_files import LabelFiles, segments_in
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
    found = onto_grid(files.read(path, Geometry.of(image))[0], Geometry.of(image))
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


BARE = ("PatientBirthDate", "PatientSex", "PatientID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber")
BARE += ("ReferringPhysicianName", "SeriesNumber")


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy of dicom3tools is not installed")
@pytest.mark.parametrize("source", ["whole", "bare"])
@pytest.mark.parametrize("content", ["numbers", "sets", "one class", "empty"])
def test_dciodvfy_finds_no_errors(tmp_path, content, source):
    """The checker of the standard's information objects, also for a series that lacks all that it may lack."""
    folder, names = tmp_path / "series", ["liver", "tumor, Größe 腫瘍"]
    draw_series(folder)
    for file in folder.glob("*.dcm"):
        header = pydicom.dcmread(file)
        header.SpecificCharacterSet, header.PatientName = "ISO_IR 100", "Müller^Jörg"
        for name in BARE if source == "bare" else ():
            header.pop(name, None)
        header.save_as(file)
    image = read_volume(folder)
    masks = np.zeros((2, *image.GetSize()[::-1]), np.uint8)
    masks[0, 1:4, :30, :20], masks[1, 2, 5:9, 15:29] = 1, 1
    made = {
        "numbers": np.maximum(masks[0], 2 * masks[1]),
        "sets": masks[0].astype(np.uint16) + 2 * masks[1],
        "one class": masks[0],
        "empty": 0 * masks[0],
    }
    labels = sitk.GetImageFromArray(made[content])
    labels.CopyInformation(image)
    DicomLabels(tmp_path, ["SEG", "RTSTRUCT"], {"a": folder}, None, names).write("a", labels)
    for path in sorted((tmp_path / "dicom").iterdir()):
        checked = subprocess.run(["dciodvfy", "-new", path], capture_output=True, check=False)
        said = (checked.stdout + checked.stderr).decode(errors="replace")
        assert "Segmentation" in said or "RTStructureSet" in said, said
        assert "Error" not in said and checked.returncode == 0, said
        written = pydicom.dcmread(path)
        assert written.PatientName == "Müller^Jörg"
        if path.name == "a_seg.dcm" or content in ("numbers", "sets"):
            assert [segment.name for segment in segments_in(path)] == names


@pytest.mark.parametrize("name", ["FrameOfReferenceUID", "StudyInstanceUID"])
def test_a_series_that_nothing_can_refer_to(tmp_path, name):
    folder = tmp_path / "series"
    draw_series(folder)
    for file in folder.glob("*.dcm"):
        header = pydicom.dcmread(file)
        header.pop(name)
        header.save_as(file)
    labels = sitk.Cast(read_volume(folder) * 0, sitk.sitkUInt8)
    with pytest.raises(InputError, match=f"series: no {name} in the series; remove DICOM_LABELS"):
        DicomLabels(tmp_path, ["SEG"], {"a": folder}, None, ["liver"]).write("a", labels)


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
        found = onto_grid(LabelFiles([path]).read(path, Geometry.of(image))[0], Geometry.of(image))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
    assert sitk.GetArrayFromImage(expected).any()
    for path in (tmp_path / "b").rglob("*"):
        if path.is_file() and path.parent.name != "dicom":
            assert b"plant" not in path.read_bytes().lower(), path
    write(tmp_path, "v.nrrd", as_volume(np.zeros((4, 9, 9), np.int16)))
    other = settings | {"INPUT": tmp_path / "v.nrrd", "OUTPUT": tmp_path / "c", "DICOM_LABELS": ["SEG"]}
    assert_refused("predict.py", "DICOM_LABELS: INPUT is not a DICOM series (found v.nrrd)", **other)
