"""0_import_volumes.py with DICOM SEG, RTSTRUCT and .seg.nrrd: by reference or name; nothing of a patient gets out."""

import json
import shutil

import numpy as np
import pytest
from dicom_labels import draw_series, sources, write_rtstruct, write_seg, write_seg_nrrd
from drawings import as_volume, assert_same_geometry, labels_of, masks_of, write
from running import assert_refused, run_here

sitk = pytest.importorskip("SimpleITK")
from common.slices.classes import highest_class, sets_of_classes
from common.volumes.grids import Geometry
from common.volumes.labels import labels_of_slices

SCRIPT = "preprocess/0_import_volumes.py"


def two_patients(root):
    """Series of two patients, and masks (k, j, i, 2) that do not overlap."""
    masks = np.zeros((6, 36, 40, 2), np.uint8)
    masks[1:4, 5:20, 4:12, 0] = 1
    masks[2:5, 8:25, 15:30, 1] = 1
    images = [draw_series(root / name / "ct", series=f"1.2.3.{name[-1]}") for name in ("Plant1", "Plant2")]
    return images, masks


def test_every_kind_in_one_export_of_a_pacs(tmp_path):
    """Series, SEG and RTSTRUCT lie in the folders of the patients, under any names; labels are found by reference."""
    root = tmp_path / "export"
    images, masks = two_patients(root)
    write_seg(root / "Plant2" / "IM7", sources(root / "Plant1" / "ct"), masks, ["liver", "Plant tumor"])
    box = np.array([(14.5, 7.5), (29.5, 7.5), (29.5, 24.5), (14.5, 24.5)])
    tumor = [Geometry.of(images[1]).to_points(np.column_stack([box, np.full(4, k)])) for k in (2, 3, 4)]
    write_rtstruct(
        root / "Plant2" / "ct" / "rt", sources(root / "Plant2" / "ct"), [(4, "PLANT TUMOR", tumor, "CLOSED_PLANAR")]
    )
    settings = {"IMAGES": root, "LABELS": root, "CASES": tmp_path / "cases", "SIZE": 40}
    said = run_here(SCRIPT, **settings).stdout
    assert "classes: 1 liver (in 1 of 2), 2 Plant tumor (in 2 of 2)" in said and "importing 2 volumes" in said
    for case, image, expected in (
        ("case_0001", images[0], masks[..., 0] + 2 * masks[..., 1]),
        ("case_0002", images[1], 2 * masks[..., 1]),
    ):
        text = (tmp_path / "cases" / case / "case.json").read_text()
        back = labels_of_slices(json.loads(text), masks_of(tmp_path / "cases" / case))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(back), expected)
        assert_same_geometry(back, image)
        assert not any(word in text.lower() for word in ("plant", "liver", "1.2.3"))
    said = run_here(SCRIPT, CLASSES=["plant tumor"], REPLACE=True, **settings).stdout
    assert "classes: 1 plant tumor (in 2 of 2); left out: liver" in said
    assert np.unique(masks_of(tmp_path / "cases" / "case_0001")["0003"]).tolist() == [0, 255]


def test_a_segmentation_of_3d_slicer_next_to_its_volume(tmp_path):
    image = draw_series(tmp_path / "unused")
    layers = [np.zeros((6, 36, 40), np.uint8) for _ in range(2)]
    layers[0][1:3, 4:30, 4:30], layers[1][2:4, 10:20, 10:20] = 3, 3
    write(tmp_path / "s", "a.nrrd", image)
    write_seg_nrrd(tmp_path / "s" / "a.seg.nrrd", layers, Geometry.of(image), [("organ", 3, 0), ("lesion", 3, 1)])
    settings = {"IMAGES": tmp_path / "s", "LABELS": tmp_path / "s", "SIZE": 40}
    said = run_here(SCRIPT, CASES=tmp_path / "cases", **settings).stdout
    assert "classes: 1 organ (in 1 of 1), 2 lesion (in 1 of 1)" in said
    assert "note: 1 label file with overlapping segments; 100 voxels in several of them" in said
    back = labels_of_slices(
        json.loads((tmp_path / "cases" / "case_a" / "case.json").read_text()), masks_of(tmp_path / "cases" / "case_a")
    )
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), np.where(layers[1], 2, layers[0] > 0))
    assert_same_geometry(back, image)


@pytest.mark.parametrize("overlap", ["largest", "keep"])
def test_a_file_for_each_structure(tmp_path, overlap):
    """Two DICOM SEG of one segment each, as many viewers write them, and an RTSTRUCT; they overlap."""
    image, slices = draw_series(tmp_path / "ct"), sources(tmp_path / "ct")
    masks = np.zeros((3, 6, 36, 40), bool)
    masks[0, 1:4, 5:20, 4:22], masks[1, 2:5, 8:25, 15:30], masks[2, 3, 6:12, 6:18] = True, True, True
    for mask, name in zip(masks, ("liver", "tumor"), strict=False):
        write_seg(tmp_path / "seg" / f"{name}.dcm", slices, mask[..., None].astype(np.uint8), [name])
    box = Geometry.of(image).to_points([(x, y, 3) for x, y in ((5.5, 5.5), (17.5, 5.5), (17.5, 11.5), (5.5, 11.5))])
    write_rtstruct(tmp_path / "seg" / "rt.dcm", slices, [(7, "cyst", [box], "CLOSED_PLANAR")])
    settings = {"IMAGES": tmp_path / "ct", "LABELS": tmp_path / "seg", "CASES": tmp_path / "cases", "SIZE": 40}
    said = run_here(SCRIPT, OVERLAP=overlap, CLASSES=["liver", "tumor", "cyst"], **settings).stdout
    assert "classes: 1 liver (in 1 of 1), 2 tumor (in 1 of 1), 3 cyst (in 1 of 1)" in said
    several = np.count_nonzero(masks.sum(axis=0) > 1)
    assert f"1 label file with overlapping segments; {several} voxels in several of them" in said
    sets = sets_of_classes(list(masks))
    np.testing.assert_array_equal(
        labels_of(tmp_path / "cases" / "case_0001"), sets if overlap == "keep" else highest_class(sets)
    )


@pytest.mark.parametrize("pattern", ["{id}_{class}", "{id}/{class}", "{class}/{id}"])
def test_a_label_volume_for_each_class(tmp_path, pattern):
    masks = np.zeros((2, 6, 36, 40), np.uint8)
    masks[0, 1:4, 5:20, 4:22], masks[1, 2:5, 8:25, 15:30] = 1, 255
    for name in ("a", "a_b"):  # the second one could be class b of the first
        write(tmp_path / "images", f"{name}.nii.gz", as_volume(np.arange(8640, dtype=np.int16).reshape(6, 36, 40)))
        for of_class, mask in zip(("organ", "lesion"), masks, strict=True):
            path = tmp_path / "labels" / pattern.replace("{id}", name).replace("{class}", of_class)
            write(path.parent, f"{path.name}.nii.gz", as_volume(mask))
    settings = {"IMAGES": tmp_path / "images", "LABELS": tmp_path / "labels", "CASES": tmp_path / "cases", "SIZE": 40}
    settings |= {"LABEL_NAME": pattern, "CLASSES": ["organ", "lesion"]}
    said = run_here(SCRIPT, OVERLAP="keep", **settings).stdout
    assert "classes: 1 organ (in 2 of 2), 2 lesion (in 2 of 2)" in said and "importing 2 volumes" in said
    for case in ("case_a", "case_a_b"):
        assert json.loads((tmp_path / "cases" / case / "case.json").read_text())["class_names"] == ["organ", "lesion"]
        np.testing.assert_array_equal(labels_of(tmp_path / "cases" / case), sets_of_classes(list(masks > 0)))
    refused = settings | {"REPLACE": True}
    assert_refused(
        SCRIPT, "no label volume matches --label-name ({id}-{class})", **refused | {"LABEL_NAME": "{id}-{class}"}
    )
    assert_refused(
        SCRIPT, "LABEL_NAME", "at most one {class}", status=2, **refused | {"LABEL_NAME": "{id}{class}{class}"}
    )
    write(path.parent, f"{path.name}.nii.gz", as_volume(masks[0] + masks[1] // 2))
    assert_refused(SCRIPT, "expected 0 and one value, of class lesion (found 3 values up to 128)", **refused)
    path.with_name(f"{path.name}.nii.gz").unlink()
    said = run_here(SCRIPT, OVERLAP="keep", **refused).stdout
    assert "2 lesion (in 1 of 2)" in said


def test_what_is_refused(tmp_path):
    root, labels = tmp_path / "export", tmp_path / "labels"
    _, masks = two_patients(root)
    write_seg(labels / "a.dcm", sources(root / "Plant1" / "ct"), masks)
    settings = {"LABELS": labels, "CASES": tmp_path / "cases", "SIZE": 40}
    other = settings | {"IMAGES": root / "Plant2"}
    said = assert_refused(
        SCRIPT, "no label volume ct in", "1 DICOM SEG or RTSTRUCT file in it for other series", **other
    )
    assert len(said.splitlines()) == 1
    own = settings | {"IMAGES": root / "Plant1"}
    assert_refused(
        SCRIPT, "CLASSES: no segment 'x' in the label files (found liver, tumor)", status=2, CLASSES=["x"], **own
    )
    assert_refused(SCRIPT, "CLASSES: set together", status=2, CLASSES=["x"], LABEL_VALUES={1: 1}, **own)
    assert_refused(SCRIPT, "CLASSES: a name is listed twice", status=2, CLASSES=["x", "X "], **own)
    shutil.copy(labels / "a.dcm", labels / "b.dcm")
    words = "2 files of one volume contain segment 'liver' (a.dcm, b.dcm); keep one of them"
    assert len(assert_refused(SCRIPT, words, **own).splitlines()) == 1
    (labels / "b.dcm").write_bytes((labels / "a.dcm").read_bytes()[:3000])
    assert_refused(SCRIPT, "b.dcm: cut short", **own)
    (labels / "c.dcm").write_bytes((labels / "a.dcm").read_bytes()[:2000])
    assert_refused(SCRIPT, "2 label files cannot be used: cut short", "b.dcm", "c.dcm", **own)
    assert not list((tmp_path / "cases").rglob("case_*"))
