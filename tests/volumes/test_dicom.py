"""DICOM folders: whole series of one geometry are read, others are refused with a reason."""

import os
import shutil

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from drawings import as_volume, block, write_series

from common.errors import InputError
from common.volumes.dicom import list_series
from common.volumes.dicom_files import damaged_dicom
from common.volumes.finding import find_volumes, is_volume
from common.volumes.reading import read_volume

VALUES = block((6, 12, 10))[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dicom") / "scan"
    write_series(folder, as_volume(VALUES, np.eye(3)))
    return folder


@pytest.fixture
def series(whole, tmp_path):
    """A copy of the series, and its files in slice order."""
    folder = shutil.copytree(whole, tmp_path / "scan")
    return folder, sorted(folder.iterdir())


def refused(folder, *words):
    with pytest.raises(InputError) as caught:
        read_volume(folder)
    for word in words:
        assert word in str(caught.value), caught.value


def change(file, **elements):
    content = pydicom.dcmread(file)
    for name, value in elements.items():
        if value is None:
            delattr(content, name)
        else:
            setattr(content, name, value)
    content.file_meta.MediaStorageSOPClassUID = content.SOPClassUID
    content.save_as(file)


def test_slices_that_are_missing_twice_or_damaged(series):
    folder, files = series
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(folder)), VALUES)
    contents = {file: file.read_bytes() for file in files}
    for file in (files[2], files[-1]):
        for length in (0, 50, 131, 132, 400, len(contents[file]) - 200, len(contents[file]) - 2):
            file.write_bytes(contents[file][:length])
            refused(folder, file.name)
        file.write_bytes(contents[file])
    files[3].unlink()
    refused(folder, "slices 3 and 4 of 5 are 5 mm apart, others 2.5 mm")
    files[3].write_bytes(contents[files[3]])
    (folder / "again.dcm").write_bytes(contents[files[3]])
    refused(folder, "doubled")


@pytest.mark.parametrize(
    ("elements", "word"),
    [
        ({"PixelSpacing": None}, "no pixel spacing"),
        ({"PixelSpacing": [0, 0]}, "invalid pixel spacing"),
        ({"PixelSpacing": [-1, 1]}, "invalid pixel spacing"),
        ({"PixelSpacing": ["nan", "1"]}, "invalid PixelSpacing"),
        ({"PixelSpacing": [3, 3]}, "differ in pixel spacing"),
        ({"ImageOrientationPatient": None}, "no position or orientation"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, 1]}, "differ in orientation"),
        ({"ImagePositionPatient": None}, "no position or orientation"),
        ({"ImagePositionPatient": [0, 0, 1e3]}, "uneven"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "RescaleSlope"),
        ({"RescaleSlope": "inf", "RescaleIntercept": 0}, "RescaleSlope"),
        ({"Rows": 11}, "bytes of pixels"),
        ({"Rows": 6, "Columns": 20}, "differ in size"),
        ({"Rows": 0}, "invalid image size"),
        ({"NumberOfFrames": 2}, "bytes of pixels"),
        ({"BitsAllocated": 8, "PixelData": b"\0" * 120}, "differ in channels or bits"),
        ({"PixelRepresentation": 0}, "differ in channels or bits"),
        ({"BitsStored": 12, "HighBit": 11}, "differ in channels or bits"),
        ({"PixelData": None}, "no pixels"),
        ({"PixelData": None, "Rows": None, "SOPClassUID": "1.2.840.9"}, "invalid image size"),
        ({"SeriesInstanceUID": None}, "SeriesInstanceUID"),
        ({"PatientID": "PLANT7"}, "differ in PatientID"),
        ({"FrameOfReferenceUID": "1.2.99"}, "differ in FrameOfReferenceUID"),
    ],
)
def test_slices_that_do_not_fit(series, elements, word):
    folder, files = series
    for file in files:
        change(file, PatientID="PLANT6", FrameOfReferenceUID="1.2.98")
    change(files[2], **elements)
    refused(folder, word)


@pytest.mark.parametrize("orientation", [[1, 0, 0, 1, 1, 0], [2, 0, 0, 0, 0.5, 0], [1, 0, 0, 0.05, 1, 0]])
def test_axes_of_slices_that_are_not_at_right_angles(series, orientation):
    folder, files = series
    for file in files:
        change(file, ImageOrientationPatient=orientation)
    refused(folder, "not at right angles")


@pytest.mark.parametrize("slopes", [[1, 1, 2, 1.5, 1, 1], [1, 1, 1, 1, 1, 1000], [0.5, 1, 1, 1, 1, 1]])
def test_slices_with_their_own_scaling(series, slopes):
    """As of PET, also if the first slice has whole numbers or a small range."""
    folder, files = series
    for file, slope in zip(files, slopes, strict=True):
        change(file, RescaleSlope=str(slope), RescaleIntercept="0")
    expected = VALUES * np.array(slopes)[:, None, None]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(folder)), expected)


def test_pixels_that_gdcm_does_not_decode(series):
    """The message contains the file and how its pixels are coded, not what GDCM says."""
    folder, files = series
    for file in files:
        change(file, PhotometricInterpretation="PALETTE COLOR")
    refused(folder, f"{files[0]}: pixels cannot be decoded", "PALETTE COLOR")
    content = pydicom.dcmread(files[2])
    content.PixelData, content["PixelData"].is_undefined_length = pydicom.encaps.encapsulate([b"nonsense"]), True
    content.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
    content.save_as(files[2])
    for file in files:
        change(file, PhotometricInterpretation="MONOCHROME2")
    refused(folder, f"{files[2]}: pixels cannot be decoded", "JPEG 2000")


def test_other_files_in_the_folder(series, capsys):
    """Reports, a DICOMDIR, hidden files, links and pipes are passed over; what claims to be an image is not."""
    folder, files = series
    report = pydicom.dcmread(files[0])
    for name in ("PixelData", "Rows", "Columns"):
        delattr(report, name)
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    report.SeriesInstanceUID = "1.2.99"
    report.save_as(folder / "report.dcm")
    directory = files[0].read_bytes()
    uid = b"1.2.840.10008.1.3.10"
    (folder / "DICOMDIR").write_bytes(directory[:200] + uid + directory[220:])
    for name in (".DS_Store", "Thumbs.db", "notes.txt", "README"):
        (folder / name).write_bytes(b"abc")
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipe.dcm")
    (folder / "link").symlink_to("gone")
    (folder / "link.dcm").symlink_to("gone")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(folder)), VALUES)
    assert find_volumes(folder) == {"scan": folder} and is_volume(folder)
    said = capsys.readouterr().out
    for word in ("skipped 1 file without an image", "skipped 9 files without a volume"):
        assert word in said
    assert "report" not in said and "notes" not in said, "names next to DICOM may identify patients"


def test_folders_without_an_image(tmp_path, series):
    for name, content in (("magic", b"\0" * 128 + b"DICM"), ("text", b"no DICOM"), ("empty", b"")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.dcm").write_bytes(content)
        assert find_volumes(tmp_path / name) == {name: tmp_path / name}
        refused(tmp_path / name, "x.dcm")
        with pytest.raises(InputError, match=r"x\.dcm"):
            list_series(tmp_path / name)
    folder, files = series
    for file in files:
        change(file, PixelData=None, Rows=None, Columns=None, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")
    refused(folder, "no DICOM images found")
    assert list_series(folder) == []


def test_names_that_are_not_utf8(series):
    folder, files = series
    renamed = folder.rename(folder.parent / os.fsdecode(b"M\xfcller"))
    (renamed / files[0].name).rename(renamed / os.fsdecode(b"\xe4.dcm"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(renamed)), VALUES)


@pytest.mark.parametrize("signed", [0, 1])
def test_bits_beyond_bits_stored_are_no_part_of_a_value(series, signed):
    """They may have any content, such as an overlay, and are ignored (PS3.5 8.1.1), as viewers do."""
    folder, files = series
    stored = np.array([0xF000, 0x1001, 0x0FFF, 0x0800, 0xF801, *range(115)], np.uint16)
    for file in files:
        coding = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": signed}
        change(file, PixelData=stored.tobytes(), RescaleSlope=1, RescaleIntercept=0, **coding)
    read = sitk.GetArrayFromImage(read_volume(folder))
    np.testing.assert_array_equal(read, [pydicom.dcmread(file).pixel_array for file in files])
    assert read[0].ravel()[:5].tolist() == [0, 1, *((-1, -2048, -2047) if signed else (4095, 2048, 2049))]


def test_frames_of_one_file(tmp_path):
    image = sitk.Cast(as_volume(VALUES, np.eye(3)) + 500, sitk.sitkUInt16)
    sitk.WriteImage(image, str(tmp_path / "frames.dcm"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / "frames.dcm")), VALUES + 500)
    write_series(tmp_path, as_volume(VALUES, np.eye(3)))
    change(tmp_path / "frames.dcm", SeriesInstanceUID=pydicom.dcmread(tmp_path / "000.dcm").SeriesInstanceUID)
    refused(tmp_path, "frames.dcm: has several frames")


def test_what_gdcm_gets_wrong_is_refused(series):
    folder, files = series
    for file in files:
        change(file, PhotometricInterpretation="MONOCHROME1", RescaleIntercept=-1024)
    refused(folder, "MONOCHROME1 with a rescaling (RescaleSlope 1, RescaleIntercept -1024)")
    stored = [pydicom.dcmread(file).pixel_array.astype(int) for file in files]
    largest = {0: 2**16 - 1, 1: -1}[pydicom.dcmread(files[0]).PixelRepresentation]
    for file in files:
        change(file, RescaleSlope=1, RescaleIntercept=0)
    read = sitk.GetArrayFromImage(read_volume(folder)).astype(int)
    np.testing.assert_array_equal(read, largest - np.array(stored))  # as a viewer shows it
    for file in files:
        change(file, PhotometricInterpretation="MONOCHROME2", SeriesInstanceUID=None)
    refused(folder, "no SeriesInstanceUID")


def test_values_as_stored_are_said_if_a_table_would_change_them(series, capsys):
    folder, files = series
    for file in files:
        change(file, ModalityLUTSequence=[pydicom.Dataset()])
    read_volume(folder)
    assert "which GDCM ignores; used the values as stored" in capsys.readouterr().out


def item(**elements):
    made = pydicom.Dataset()
    for name, value in elements.items():
        setattr(made, name, value)
    return made


@pytest.fixture
def enhanced(tmp_path):
    """Function that writes an Enhanced CT file, changed by a function of its pydicom.Dataset."""
    stored = (VALUES + 1024).astype(np.uint16)

    def write(edit=lambda content: None):
        file = tmp_path / "frames.dcm"
        sitk.WriteImage(sitk.GetImageFromArray(stored), str(file))
        content = pydicom.dcmread(file)
        for name in ("RescaleSlope", "RescaleIntercept", "PixelSpacing", "SpacingBetweenSlices"):
            content.pop(name, None)
        content.SOPClassUID = content.file_meta.MediaStorageSOPClassUID = pydicom.uid.EnhancedCTImageStorage
        rescaling = item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")
        content.SharedFunctionalGroupsSequence = [item(PixelMeasuresSequence=[item(PixelSpacing=[0.8, 0.7])])]
        content.PerFrameFunctionalGroupsSequence = [
            item(
                PlanePositionSequence=[item(ImagePositionPatient=[-10, -20, 2.5 * k])],
                PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
                PixelValueTransformationSequence=[rescaling],
            )
            for k in range(len(VALUES))
        ]
        edit(content)
        content.save_as(file)
        return file

    return write


def test_frames_of_an_enhanced_file(enhanced):
    image = read_volume(enhanced())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), VALUES)
    np.testing.assert_allclose(image.GetSpacing(), (0.7, 0.8, 2.5))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PixelValueTransformationSequence", item(RescaleSlope=2, RescaleIntercept=-1024), "RescaleSlope (found 2)"),
        ("PlaneOrientationSequence", item(ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), "ImageOrientationPatient"),
        ("PixelMeasuresSequence", item(PixelSpacing=[0.5, 0.5]), "PixelSpacing"),
    ],
)
def test_frames_that_differ_are_refused(enhanced, name, value, said):
    """GDCM takes all frames to be like the first."""
    edit = lambda content: setattr(content.PerFrameFunctionalGroupsSequence[3], name, [value])  # noqa: E731
    refused(enhanced(edit), f"frames.dcm: frames differ in {said}")


def test_frames_without_positions(enhanced, capsys):
    refused(enhanced(lambda content: content.PerFrameFunctionalGroupsSequence.pop()), "positions of 5 of 6 frames")

    def without(content):
        del content.PerFrameFunctionalGroupsSequence
        content.SOPClassUID = content.file_meta.MediaStorageSOPClassUID = pydicom.uid.UltrasoundMultiFrameImageStorage
        content.PixelSpacing = [0.8, 0.7]

    assert read_volume(enhanced(without)).GetSpacing()[2] == 1
    assert "no distance between its 6 frames; used 1 mm" in capsys.readouterr().out


def test_an_error_of_pydicom_without_a_number_names_the_file():
    with pytest.raises(InputError, match=r"^a\.dcm: damaged DICOM file .No tag to read"), damaged_dicom("a.dcm"):
        raise OSError("No tag to read at file position DE")
