"""Overlapping classes of volumes and of annotations: exact from label files to case folders and back."""

import json

import highdicom
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from dicom_labels import draw_series, sources, write_seg, write_seg_nrrd
from drawings import as_volume, labels_of, masks_of, write, write_copying_network, write_image, write_nnunet
from running import assert_refused, run_here

from common.files import write_json
from common.slices import classes as c
from common.slices.images import read_image
from common.volumes.grids import Geometry, orient

SCRIPT = "preprocess/0_import_volumes.py"


def two_boxes(shape=(6, 36, 40)):
    """Masks of two boxes that overlap."""
    first, second = np.zeros(shape, bool), np.zeros(shape, bool)
    first[1:4, 5:20, 6:22], second[2:5, 12:30, 15:35] = True, True
    return first, second


@pytest.mark.parametrize("kind", ["SEG", "seg.nrrd"])
def test_segments_that_overlap_stay_in_both(tmp_path, kind):
    image, masks = draw_series(tmp_path / "images" / "a"), two_boxes()
    layers = [mask.astype(np.uint8) for mask in masks]
    if kind == "SEG":
        write_seg(tmp_path / "labels" / "a.dcm", sources(tmp_path / "images" / "a"), np.stack(layers, -1))
    else:
        segments = [("liver", 1, 0), ("tumor", 1, 1)]
        write_seg_nrrd(tmp_path / "labels" / "a.seg.nrrd", layers, Geometry.of(image), segments)
    given = {"IMAGES": tmp_path / "images", "LABELS": tmp_path / "labels", "SIZE": 40, "SPACING": None}
    said = run_here(SCRIPT, CASES=tmp_path / "cases", OVERLAP="keep", **given).stdout
    assert "stay in all" in said
    (case,) = (tmp_path / "cases").iterdir()
    found = labels_of(case)
    expected = c.sets_of_classes(list(masks))
    assert found.dtype == np.uint16 and c.overlap_in(expected)
    assert np.array_equal(found, expected) or np.array_equal(found, expected[::-1])
    said = run_here(SCRIPT, CASES=tmp_path / "numbers", **given).stdout
    assert "--overlap keep leaves them in all" in said


def test_regions_of_labels_come_back_as_volumes_of_each_class(tmp_path):
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 4, (5, 24, 24)).astype(np.uint8)
    volume = np.repeat((numbers.astype(np.int16) * 50)[..., None], 1, -1)[..., 0]
    write(tmp_path / "images", "a.nii.gz", as_volume(volume))
    write(tmp_path / "labels", "a.nii.gz", as_volume(numbers))
    given = {"IMAGES": tmp_path / "images", "LABELS": tmp_path / "labels", "SIZE": 24, "CASES": tmp_path / "cases"}
    said = run_here(SCRIPT, REGIONS={"whole": [1, 2, 3], "core": [2, 3], "edge": [3]}, **given).stdout
    assert "nested classes: 1 whole, 2 core, 3 edge" in said
    (case,) = (tmp_path / "cases").iterdir()
    assert json.loads((case / "case.json").read_text())["overlap"] == "nested"
    np.testing.assert_array_equal(labels_of(case), c.sets_of_numbers(numbers, nested=True))
    # the truth as prediction: channels of an image that is its own mask
    sets = np.stack(list(masks_of(case).values()))
    for name, mask in masks_of(case).items():
        write_image(case / "x" / f"{name}.png", np.stack([255 * c.has_class(mask, n) for n in (3, 2, 1)], -1))
    run = tmp_path / "run"
    write_copying_network(run / "best_dice.keras", 24, 3)
    data = {"classes": 3, "size": 24, "inputs": 3, "channels": "rgb", "labels": ["whole", "core", "edge"]}
    write_json(run / "settings.json", {"MODEL": "unet"})
    write_json(run / "state.json", {"data": data | {"overlap": "nested"}})
    run_here("predict.py", RUN=run, INPUT=tmp_path / "cases", OUTPUT=tmp_path / "out")
    assert sets.shape == (5, 24, 24)
    for number, name in enumerate(["whole", "core", "edge"], 1):
        found = sitk.ReadImage(str(tmp_path / "out" / f"{case.name}_{name}.nii.gz"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(found) > 0, numbers >= number)
    found = sitk.ReadImage(str(tmp_path / "out" / f"{case.name}.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), numbers)
    assert Geometry.of(found).size == Geometry.of(as_volume(numbers)).size
    voxels = pd.read_csv(tmp_path / "out" / "volumes.csv")["voxels"].tolist()
    assert voxels == [int((numbers >= n).sum()) for n in (1, 2, 3)]
    run_here("evaluate.py", PREDICTED=tmp_path / "out", TRUTH=tmp_path / "cases", OUTPUT=tmp_path / "scores")
    assert (pd.read_csv(tmp_path / "scores" / "cases.csv")["dice"] == 1).all()


def test_regions_of_nnunet_are_classes(tmp_path):
    made = write_nnunet(tmp_path / "set", labels={"background": 0, "all": [1, 2], "lesion": 2}, channels=["CT"])
    run_here(SCRIPT, IMAGES=tmp_path / "set", CASES=tmp_path / "cases", SIZE=32)
    for name, (_, truth) in made.items():
        numbers = sitk.GetArrayFromImage(orient(truth))
        sets = labels_of(tmp_path / "cases" / f"case_{name}")
        found = sitk.GetArrayFromImage(truth)
        np.testing.assert_array_equal(sets, c.sets_of_numbers(found, nested=True))
        assert numbers.max() == 2
    record = json.loads((tmp_path / "cases" / f"case_{name}" / "case.json").read_text())
    assert (record["overlap"], record["class_names"]) == ("nested", ["all", "lesion"])


def test_dicom_seg_of_overlapping_predictions_is_read_back(tmp_path):
    from common.prediction.dicom_labels import DicomLabels

    draw_series(tmp_path / "a")
    masks = two_boxes()
    image = sitk.ReadImage([str(path) for path in sorted((tmp_path / "a").iterdir())])
    labels = sitk.GetImageFromArray(c.sets_of_classes(list(masks)))
    labels.CopyInformation(image)
    DicomLabels(tmp_path, ["SEG", "RTSTRUCT"], {"a": tmp_path / "a"}, None, ["liver", "tumor"]).write("a", labels)
    seg = highdicom.seg.segread(tmp_path / "dicom" / "a_seg.dcm")
    assert seg.number_of_segments == 2
    for number, mask in enumerate(masks, 1):
        found = seg.get_volume(segment_numbers=[number], combine_segments=True, rescale_fractional=False).array > 0
        assert found.sum() == mask.sum()


def test_annotations_that_overlap_stay_in_both(tmp_path):
    write_image(tmp_path / "images" / "a.png", np.zeros((40, 40), np.uint8))
    boxes = {"cyst": [[5, 5], [20, 20]], "tumor": [[10, 10], [30, 30]]}
    shapes = [{"label": name, "points": points, "shape_type": "rectangle"} for name, points in boxes.items()]
    content = {"version": "5.0", "flags": {}, "shapes": shapes, "imagePath": "a.png", "imageData": None}
    (tmp_path / "images" / "a.json").write_text(json.dumps(content | {"imageHeight": 40, "imageWidth": 40}))
    given = {"IMAGES": tmp_path / "images", "ANNOTATIONS": tmp_path / "images", "CASES": tmp_path / "cases", "SIZE": 40}
    said = run_here("preprocess/0_import_annotations.py", OVERLAP="keep", **given).stdout
    assert "2 overlapping classes" in said and "there, all of them stay" in said
    (case,) = (tmp_path / "cases").iterdir()
    mask = masks_of(case)["0001"]
    for number, ((left, top), (right, bottom)) in enumerate(boxes.values(), 1):
        expected = np.zeros((40, 40), bool)
        expected[top:bottom, left:right] = True
        np.testing.assert_array_equal(c.has_class(mask, number), expected)
    run_here("preprocess/0_import_annotations.py", OVERLAP="keep", CLASSES={"tumor": 1}, REPLACE=True, **given)
    assert masks_of(case)["0001"].dtype == np.uint8
    refused = given | {"OVERLAP": "keep", "CLASSES": {"tumor": 1, "cyst": 16}, "REPLACE": True}
    assert_refused("preprocess/0_import_annotations.py", "OVERLAP", "up to 15 classes (found 16)", status=2, **refused)


def test_what_cannot_be_regions(tmp_path):
    write(tmp_path / "images", "a.nii.gz", as_volume(np.arange(768, dtype=np.int16).reshape(3, 16, 16)))
    write(tmp_path / "labels", "a.nii.gz", as_volume(np.full((3, 16, 16), 4, np.uint8)))
    given = {"IMAGES": tmp_path / "images", "LABELS": tmp_path / "labels", "CASES": tmp_path / "cases", "SIZE": 16}
    assert_refused(SCRIPT, "in no region of REGIONS (found 4)", REGIONS={"a": [1, 2], "b": [1]}, **given)
    assert_refused(SCRIPT, "REGIONS", "2 to 15 regions (found 1)", REGIONS={"a": [1, 2]}, **given)
    assert_refused(SCRIPT, "REGIONS", "nested", status=2, REGIONS="inside", **given)


def test_nested_classes_go_to_nnunet_as_regions_and_come_back(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(4):
        write_image(tmp_path / "images" / f"p_{number}.png", rng.integers(0, 255, (32, 32)).astype(np.uint8))
        write_image(tmp_path / "masks" / f"p_{number}.png", rng.integers(0, 4, (32, 32)).astype(np.uint8))
    given = {"IMAGES": tmp_path / "images", "MASKS": tmp_path / "masks", "SIZE": 32, "CASE_FROM": "image"}
    regions = {"whole": [1, 2, 3], "core": [2, 3], "edge": [3]}
    run_here("preprocess/0_import_images.py", CASES=tmp_path / "cases", REGIONS=regions, **given)
    run_here("preprocess/2_write_lists.py", CASES=tmp_path / "cases", LISTS=tmp_path / "lists", TEST_SHARE=0)
    run_here("export_dataset.py", LISTS=tmp_path / "lists", OUTPUT=tmp_path / "Dataset001_A")
    about = json.loads((tmp_path / "Dataset001_A" / "dataset.json").read_text())
    assert about["labels"] == {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "edge": [3]}
    assert about["regions_class_order"] == [1, 2, 3]
    again = {"IMAGES": tmp_path / "Dataset001_A", "CASES": tmp_path / "back" / "cases", "SIZE": 32}
    run_here("preprocess/0_import_images.py", **again)
    masks = [sorted((tmp_path / folder).glob("cases/*/y/*.png")) for folder in ("", "back")]
    for first, second in zip(*masks, strict=True):
        np.testing.assert_array_equal(read_image(first), read_image(second))
    record = tmp_path / "cases" / "case_p_0" / "case.json"
    for path in tmp_path.glob("cases/*/case.json"):
        path.write_text(json.dumps(json.loads(record.read_text()) | {"overlap": "overlapping"}))
    words = "overlapping classes; nnU-Net has exclusive or nested ones"
    assert_refused("export_dataset.py", words, LISTS=tmp_path / "lists", OUTPUT=tmp_path / "Dataset002_B")
