"""Annotations of DICOM slices: found by UID, file name, position or number, and drawn on the scan's own grid."""

import json
import plistlib
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk
from drawings import as_volume, rotation, write_image, write_series
from roifile import ImagejRoi
from running import assert_refused, leftovers, lines_of_workers, run_here

from common.annotations.dicom_slices import find_dicom
from common.annotations.shapes import fill
from common.slices.case_files import read_case_record
from common.slices.images import read_mask
from common.volumes.labels import labels_of_slices
from common.volumes.reading import read_volume

SCRIPT = "preprocess/0_import_annotations.py"
SHAPE = (5, 20, 16)  # slices, rows, columns
AXES = {
    "axial": np.eye(3),
    "coronal": np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]),
    "sagittal": np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]]) @ rotation(4, 3, -5),
}


def outline(k):
    """Outline on slice k; each has another place."""
    return np.array([(2, 3), (9 + k, 3.5), (7, 11 + k), (2.5, 9)], float)


def roi(name, k, **more):
    points = [f"({x:f}, {y:f})" for x, y in outline(k)]
    return {"Name": name, "Type": 11, "Point_px": points, "Point_mm": [], **more}


def osirix(*images):
    """Property list of (image index, ROI)."""
    found = [{"ImageHeight": 20, "ImageWidth": 16, "ImageIndex": index, "ROIs": [one]} for index, one in images]
    return plistlib.dumps({"Images": found})


def make_series(folder, axes="axial", number="1.2.3.4", **tags):
    values = np.random.default_rng(0).integers(0, 200, SHAPE).astype(np.int16)
    write_series(folder, as_volume(values, AXES[axes]), series=number, **{"0010|0010": "MEIER^EVA", **tags})


def run_import(root, **settings):
    places = {"IMAGES": root / "scans", "ANNOTATIONS": root / "rois", "CASES": root / "cases"}
    return run_here(SCRIPT, **{**places, "SIZE": 20, "FIT": "pad", "WINDOW": [0, 200], **settings})


def test_a_names_table_of_images_is_refused(tmp_path):
    places = {
        "IMAGES": tmp_path / "images",
        "ANNOTATIONS": Path(__file__).parent / "files" / "labelme.json",
        "CASES": tmp_path / "cases",
    }
    for number in (1, 2):
        write_image(tmp_path / "images" / f"slice{number}.png", np.full((40, 60), 50, np.uint8))
    assert_refused(SCRIPT, "NAMES_TABLE: only for DICOM", **places, NAMES_TABLE=tmp_path / "names.csv")
    assert not places["CASES"].exists()


def labels_in(case, root, name):
    """Label volume of a case on the grid of its scan."""
    record = read_case_record(case)
    masks = {path.stem: read_mask(path) for path in sorted((case / "y").glob("*.png"))}
    image = labels_of_slices(record, masks)
    assert image.GetSize() == read_volume(root / "scans" / name).GetSize()
    return sitk.GetArrayFromImage(image)


def expected(slices):
    """Label volume with outlines, of dict of slice index to class number."""
    labels = np.zeros(SHAPE, np.uint8)
    for k, number in slices.items():
        labels[k][fill([outline(k)], SHAPE[1:])] = number
    return labels


@pytest.mark.parametrize("axes", AXES)
def test_rois_land_on_the_scans_own_slices(tmp_path, axes):
    make_series(tmp_path / "scans" / "patient", axes)
    (tmp_path / "rois").mkdir()
    rois = [(0, roi("liver", 1)), (4, roi("tumor", 3)), (4, roi("liver", 0))]
    uids = ["1.2.3.4.2", "1.2.3.4.4", None]  # UIDs win over numbers
    content = plistlib.loads(osirix(*rois))
    for image, uid in zip(content["Images"], uids, strict=True):
        image.update({"SOPInstanceUID": uid} if uid else {})
    first = sorted((tmp_path / "scans" / "patient").iterdir())[0]
    content["Images"][2]["ROIs"][0]["Point_mm"] = points_in_mm(first, outline(0))  # and so do positions
    (tmp_path / "rois" / "any.xml").write_bytes(plistlib.dumps(content))
    out = run_import(tmp_path, NAMES_TABLE=tmp_path / "names.csv").stdout
    assert "note: 2 of 5 slices without annotations, imported with an empty mask" in out
    assert "wrote 5 slices of 20x20, 2 classes, in 1 case" in out and "patient" not in out.replace("patients", "")
    case = tmp_path / "cases" / "case_0001"
    assert np.array_equal(labels_in(case, tmp_path, "patient"), expected({0: 1, 1: 1, 3: 2}))
    record = read_case_record(case)
    assert record["volume"]["plane"] == axes and record["class_names"] == ["liver", "tumor"]
    assert "patient" not in (case / "case.json").read_text() and "MEIER" not in (case / "case.json").read_text()
    assert pd.read_csv(tmp_path / "names.csv")["name"].tolist() == ["patient"] and not leftovers(tmp_path)


def points_in_mm(file, points):
    """Points of pixels as OsiriX exports them in mm."""
    header = pydicom.dcmread(file, stop_before_pixels=True)
    corner, axes = np.array(header.ImagePositionPatient, float), np.array(header.ImageOrientationPatient, float)
    by_row, by_column = map(float, header.PixelSpacing)
    found = [corner + axes[:3] * by_column * x + axes[3:] * by_row * y for x, y in points]
    return [f"({x:f}, {y:f}, {z:f})" for x, y, z in found]


def test_by_number_and_by_file_name(tmp_path):
    make_series(tmp_path / "scans" / "a")
    make_series(tmp_path / "scans" / "b", number="1.2.3.5")
    for k, file in enumerate(sorted((tmp_path / "scans" / "b").iterdir())):  # shown in the other direction
        content = pydicom.dcmread(file)
        content.InstanceNumber = 9 - k
        content.save_as(file)
    rois = tmp_path / "rois"
    rois.mkdir()
    elsewhere = ["(0.000000, 0.000000, 95.000000)"] * 4  # in the series, but not at these pixels
    (rois / "a.xml").write_bytes(osirix((3, roi("liver", 3, Point_mm=elsewhere))))
    (rois / "b.xml").write_bytes(osirix((0, roi("liver", 4))))
    labelme = {"imagePath": "b/001.dcm", "shapes": [{"label": "tumor", "points": outline(1).tolist()}]}
    (rois / "labelme.json").write_text(json.dumps(labelme))
    ImagejRoi.frompoints(outline(2), name="tumor", position=2).tofile(rois / "b_RoiSet.zip")
    run_import(tmp_path, UNMATCHED="skip", CLASSES=["liver", "tumor"])
    cases = tmp_path / "cases"
    assert np.array_equal(labels_in(cases / "case_0001", tmp_path, "a"), expected({3: 1}))
    assert np.array_equal(labels_in(cases / "case_0002", tmp_path, "b"), expected({4: 1, 1: 2, 2: 2}))
    assert len(list((cases / "case_0002" / "y").iterdir())) == 3


def test_instance_numbers_that_are_none(tmp_path):
    """Without them, slices are in the order of their positions."""
    make_series(tmp_path / "scans" / "a")
    file = sorted((tmp_path / "scans" / "a").iterdir())[2]
    for wrong in ("", "7\\8", "x"):
        content = pydicom.dcmread(file)
        content.InstanceNumber = None
        content["InstanceNumber"] = pydicom.DataElement(0x00200013, "LO", wrong)
        content.save_as(file)
        (series,) = find_dicom(tmp_path / "scans", sorted((tmp_path / "scans" / "a").iterdir()))
        assert series.shown == [0, 1, 2, 3, 4] and series.uids[2] == "1.2.3.4.3" and series.secrets == ["MEIER^EVA"]


def test_single_images_in_one_folder(tmp_path):
    """As INbreast has them: the number of the image begins the name of the DICOM file."""
    for number in (1, 2):
        make_series(tmp_path / "all" / str(number), number=f"1.2.{number}")
        file = sorted((tmp_path / "all" / str(number)).iterdir())[0]
        (tmp_path / "scans").mkdir(exist_ok=True)
        file.rename(tmp_path / "scans" / f"2058{number}_c4f5_MG_R_CC_ANON.dcm")
    (tmp_path / "rois").mkdir()
    for number in (1, 2):
        (tmp_path / "rois" / f"2058{number}.xml").write_bytes(osirix((0, roi("Mass", number))))
    run_import(tmp_path, NAMES="folder", CASE_FROM="image")
    for number in (1, 2):
        (mask,) = (tmp_path / "cases").glob(f"case_*2058{number}*/y/0001.png")
        assert np.array_equal(read_mask(mask)[:, 2:18] > 0, expected({number: 1})[number] > 0)


def test_bad_input_is_refused(tmp_path):
    make_series(tmp_path / "scans" / "a")
    rois = tmp_path / "rois"
    rois.mkdir()
    places = {"IMAGES": tmp_path / "scans", "ANNOTATIONS": rois, "CASES": tmp_path / "cases", "SIZE": 32}

    def refused(content, *words, **settings):
        (rois / "a.xml").write_bytes(content)
        assert_refused(SCRIPT, *words, **places | settings)

    refused(osirix((7, roi("liver", 1))), "no image 7 in its series (found 5 slices)")
    refused(osirix((0, roi("liver", 1, SOPInstanceUID="9.9"))), "no slice with the SOP instance UID of a ROI")
    refused(osirix((0, roi("liver", 1))), "4 slices without annotations", UNMATCHED="stop")
    refused(osirix((0, roi("liver", 1))), 'FIT: "tile" is for images', FIT="tile", status=2)
    small = plistlib.loads(osirix((0, roi("liver", 1))))
    small["Images"][0]["ImageHeight"] = 512
    refused(plistlib.dumps(small), "not the size that", "(found 16x20, expected 16x512)")
    make_series(tmp_path / "scans" / "b", number="1.2.3.5")
    (rois / "a.xml").unlink()
    (rois / "other.xml").write_bytes(osirix((0, roi("liver", 1))))
    assert_refused(SCRIPT, "which of 2 series in", "name it after the folder", **places)
    write_image(tmp_path / "scans" / "c.png", np.zeros((20, 16), np.uint8))
    assert_refused(SCRIPT, "both images and DICOM series", **places)
    assert not (tmp_path / "cases").exists()


def test_names_that_identify_a_patient_are_not_kept(tmp_path):
    make_series(tmp_path / "scans" / "a")
    (tmp_path / "rois").mkdir()
    rois = (0, roi("lesion of Eva Meier", 0)), (1, roi("organ", 1))
    (tmp_path / "rois" / "a.xml").write_bytes(osirix(*rois))
    for _ in range(2):
        out = run_import(tmp_path, REPLACE=True).stdout
        assert "Meier" not in out and "class 1: (contains a part of a patient's name or number)" in out
    assert read_case_record(tmp_path / "cases" / "case_0001")["class_names"] == ["1", "organ"]
    out = run_import(tmp_path, REPLACE=True, CLASSES={"lesion*": 2, "organ": 1}).stdout
    assert "Meier" not in out and "from case.json: organ, lesion\n" in out
    assert "Meier" not in run_import(tmp_path, REPLACE=True, CLASSES=["organ"]).stdout


@pytest.mark.slow
def test_workers_import_what_one_run_imports(scheduler, tmp_path):
    """Byte for byte and line for line, with ROIs that overlap."""
    (tmp_path / "rois").mkdir()
    for number, name in enumerate("abc"):
        make_series(tmp_path / "scans" / name, number=f"1.2.3.{number}")
        rois = osirix((1, roi("liver", 1)), (1, roi("tumor", 2)), (3, roi("liver", 3)))
        (tmp_path / "rois" / f"{name}.xml").write_bytes(rois)
    settings = {"IMAGES": tmp_path / "scans", "ANNOTATIONS": tmp_path / "rois", "SIZE": 20, "FIT": "pad"}
    alone = lines_of_workers(SCRIPT, settings, scheduler, tmp_path, expect=0)
    for words in ("shapes of several classes cover", "wrote 15 slices"):
        assert any(words in line for line in alone), alone
