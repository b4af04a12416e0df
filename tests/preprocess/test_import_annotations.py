"""0_import_annotations.py: images with outlines from annotation programs, into case folders."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from drawings import write_image
from running import assert_refused, leftovers, lines_of_workers, run_here

from common.annotations.reading import read_file
from common.annotations.shapes import draw
from common.slices.case_files import read_case_record
from common.slices.images import cut, read_mask, read_slice

SCRIPT = "preprocess/0_import_annotations.py"
ROWS, COLUMNS = np.mgrid[:40, :60]
DISC = (COLUMNS - 40) ** 2 / 100 + (ROWS - 20) ** 2 / 64 < 1
FILES = Path(__file__).parents[1] / "annotations" / "files"


def image(seed=0, size=(40, 60)):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


@pytest.fixture
def labelme(tmp_path):
    """Two annotated images of two patients, and one without annotations."""
    for number, name in enumerate(("a/slice1", "b/slice1", "b/slice2")):
        write_image(tmp_path / "images" / f"{name}.png", image(number))
    for name in "ab":
        (tmp_path / "annotations" / name).mkdir(parents=True)
        shutil.copy(FILES / "labelme.json", tmp_path / "annotations" / name / "one.json")
    return tmp_path


def run_import(root, **settings):
    places = {"IMAGES": root / "images", "ANNOTATIONS": root / "annotations", "CASES": root / "cases"}
    return run_here(SCRIPT, **{**places, "SIZE": 64, "FIT": "pad", **settings})


def test_labelme_into_case_folders(labelme):
    out = run_import(labelme).stdout
    for words in (
        "8 shapes in 2 files:",
        "  class 1: cyst (4 shapes)",
        "  class 2: liver (2 shapes)",
        "skipped 2 shapes without an area (2 line)",
        "note: 1 of 3 images without annotations, imported with an empty mask",
        "wrote 3 slices of 64x64, 3 classes, in 2 cases",
        "from case.json: cyst, liver, tumor\n",
    ):
        assert words in out
    (one,) = read_file(FILES / "labelme.json")
    expected, _ = draw(one.shapes, {"cyst": 1, "liver": 2, "tumor": 3}, (40, 60))
    for case, seed in (("case_a", 0), ("case_b", 1)):
        folder = labelme / "cases" / case
        mask, slice_ = read_mask(folder / "y" / "0001.png"), read_slice(folder / "x" / "0001.png")
        assert np.array_equal(mask, cut(expected, [-2, -12, 64, 64], 64)) and set(np.unique(mask)) == {0, 1, 2, 3}
        assert np.array_equal(slice_, cut(image(seed), [-2, -12, 64, 64], 64))
        record = read_case_record(folder)
        assert record["class_names"] == ["cyst", "liver", "tumor"] and record["source"] == "0_import_annotations.py"
        entry = {"image": f"{case[-1]}/slice1.png", "mask": None, "image_size": [40, 60], "box": [-2, -12, 64, 64]}
        assert record["slices"]["0001"] == entry
    assert not read_mask(labelme / "cases" / "case_b" / "y" / "0002.png").any()
    color = np.dstack([image(0), image(1), 255 - image(0)])
    write_image(labelme / "images" / "a" / "slice1.png", color[..., ::-1])  # OpenCV writes blue first
    assert "1 of 3 images lost their colors" in run_import(labelme, REPLACE=True).stdout
    run_import(labelme, REPLACE=True, CHANNELS="rgb")
    found = read_slice(labelme / "cases" / "case_a" / "x" / "0001.png")
    assert np.array_equal(found, cut(color, [-2, -12, 64, 64], 64))
    assert read_case_record(labelme / "cases" / "case_a")["channels"] == "rgb"
    assert not leftovers(labelme)


def put_tumor_into_liver(labelme):
    """Make shapes of an image overlap."""
    file = next((labelme / "annotations").rglob("*.json"))
    content = json.loads(file.read_text())
    content["shapes"][2].update(label="tumor", points=[[15.0, 15.0], [15.0, 18.0]])
    file.write_text(json.dumps(content))


def test_classes_overlap_and_images_without_annotations(labelme):
    put_tumor_into_liver(labelme)
    out = run_import(labelme, CLASSES={"liver": 1, "tum*": 2}, UNMATCHED="skip").stdout
    assert "background: 3 shapes with a name that CLASSES does not have ('cyst')" in out
    assert "skipped 1 of 3 images without annotations" in out and "wrote 2 slices of 64x64, 2 classes" in out
    assert "in 1 image; there, the largest class number wins" in out
    assert read_case_record(labelme / "cases" / "case_a")["class_names"] == ["liver", "tum"]
    places = {"IMAGES": labelme / "images", "ANNOTATIONS": labelme / "annotations", "CASES": labelme / "cases"}
    assert_refused(SCRIPT, "case_a", "exists", **places)
    assert_refused(SCRIPT, "slice2.png", "no annotation", **places, REPLACE=True, UNMATCHED="stop")
    out = run_import(labelme, CLASSES={"liver": 1}, REPLACE=True, CASE_FROM="image", STRETCH=True).stdout
    assert "1 class, in 3 cases" in out and "removed 2 cases of an earlier import of the same images" in out
    assert set(np.unique(read_mask(labelme / "cases" / "case_a_slice1" / "y" / "0001.png"))) == {0, 255}


@pytest.mark.parametrize("file", sorted(path.name for path in FILES.iterdir() if path.name != "README.md"))
def test_the_mask_in_a_file_of_each_format(tmp_path, file):
    """The files of all formats contain the same mask of a tumor on slice1.png."""
    write_image(tmp_path / "images" / "slice1.png", image())
    out = run_import(tmp_path, ANNOTATIONS=FILES / file, CLASSES={"tumor": 1}).stdout
    assert "  class 1: tumor (1 shape)" in out
    expected = np.pad(np.where(DISC, 255, 0), ((12, 12), (2, 2)))
    assert np.array_equal(read_mask(tmp_path / "cases" / "case01" / "y" / "0001.png"), expected)


def test_bad_input_is_refused(labelme):
    places = {"IMAGES": labelme / "images", "CASES": labelme / "cases", "SIZE": 32}
    annotations = labelme / "annotations"
    for setting, found, settings in (
        ("ANNOTATIONS", "not set", {}),
        ("ANNOTATIONS", "does not exist", {"ANNOTATIONS": labelme / "gone"}),
        ("ANNOTATIONS", "no file in", {"ANNOTATIONS": labelme / "images" / "a"}),
        ("IMAGES", "no image", {"ANNOTATIONS": annotations, "IMAGES": annotations}),
        ("CLASSES", "no shape has one of these names", {"ANNOTATIONS": annotations, "CLASSES": {"x": 1}}),
    ):
        status = 2 if setting == "CLASSES" else 1
        assert_refused(SCRIPT, setting, found, status=status, **places | settings)
    (annotations / "c").mkdir()
    (annotations / "c" / "cut.json").write_text((annotations / "a" / "one.json").read_text()[:99])
    stray = json.loads((annotations / "a" / "one.json").read_text())
    stray["imagePath"] = "/etc/../other.png"
    (annotations / "c" / "stray.json").write_text(json.dumps(stray))
    stray["imagePath"] = "slice1.png"
    (annotations / "c" / "unclear.json").write_text(json.dumps(stray))
    result = run_import(labelme, expect=1)
    assert "3 annotations cannot be used" in result.stderr and "cut.json: damaged" in result.stderr
    assert "stray.json: no image /etc/../other.png in" in result.stderr
    assert "unclear.json: several images are called slice1.png" in result.stderr
    shutil.rmtree(annotations / "c")
    result = run_import(labelme, expect=1, FORMAT="coco")
    assert "2 annotations cannot be used" in result.stderr and "not COCO (found LabelMe)" in result.stderr
    write_image(labelme / "images" / "a" / "slice1.png", image(0, (30, 60)))
    result = run_import(labelme, expect=1)
    assert "not the size that" in result.stderr and "(found 60x30, expected 60x40)" in result.stderr
    assert not (labelme / "cases" / "case_a").exists() and (labelme / "cases" / "case_b").exists()
    for file in (labelme / "images").rglob("*.png"):
        file.write_bytes(b"damaged")
    result = run_import(labelme, expect=1, CASES=labelme / "none")
    assert "3 images cannot be used" in result.stderr and not (labelme / "none").exists()


def test_why_all_masks_are_empty_is_reported(labelme):
    write_image(labelme / "images" / "a" / "slice1.png", image(0, (30, 60)))
    shutil.rmtree(labelme / "annotations" / "b")
    result = run_import(labelme, expect=1)
    assert "2 problems" in result.stderr and "not the size that" in result.stderr, result.stderr
    assert "every mask is empty" in result.stderr


def test_a_class_without_pixels_is_refused(labelme):
    for file in (labelme / "annotations").rglob("*.json"):
        content = json.loads(file.read_text())
        content["shapes"][1:] = [content["shapes"][3] | {"label": "tumor", "points": [[90.0, 90.0], [99.0, 99.0]]}]
        file.write_text(json.dumps(content))
    result = run_import(labelme, expect=1)
    assert "CLASSES: only class 1 has pixels (of 2 classes)" in result.stderr and "{'liver': 1}" in result.stderr
    assert "2 slices" in run_import(labelme, CLASSES={"liver": 1}, UNMATCHED="skip").stdout
    assert "every mask is empty" in run_import(labelme, expect=1, CLASSES={"tumor": 1}, REPLACE=True).stderr


def test_what_else_is_in_the_folders_is_counted(labelme):
    """LabelMe keeps its files next to the images; other programs add lists and previews."""
    for name in "ab":
        shutil.copy(labelme / "annotations" / name / "one.json", labelme / "images" / name)
    (labelme / "images" / "classes.txt").write_text("liver")
    out = run_import(labelme, ANNOTATIONS=labelme / "images").stdout
    assert "skipped 1 file (of another type): classes.txt" in out and "8 shapes in 2 files" in out
    for name in ("preview.png", "labels.txt", "README"):
        (labelme / "annotations" / name).write_text("x")
    shutil.copy(labelme / "annotations" / "a" / "one.json", labelme / "annotations" / "a" / "second.json")
    out = run_import(labelme, REPLACE=True).stdout
    assert "skipped 3 files next to 3 annotation files (1 .png, 1 .txt, 1 none)" in out
    assert "note: 1 image with annotations in several files, drawn together" in out


@pytest.mark.slow
@pytest.mark.parametrize("overlap", ["largest", "keep"])
def test_workers_import_what_one_run_imports(labelme, scheduler, overlap):
    """Byte for byte and line for line, with shapes that overlap and an image that is cut."""
    put_tumor_into_liver(labelme)
    cut_short = labelme / "images" / "b" / "slice2.png"
    cut_short.write_bytes(cut_short.read_bytes()[:-1000])
    settings = {"IMAGES": labelme / "images", "ANNOTATIONS": labelme / "annotations", "SIZE": 64, "OVERLAP": overlap}
    alone = lines_of_workers(SCRIPT, settings, scheduler, labelme)
    for words in ("shapes of several classes cover", "slice2.png", "wrote 2 slices"):
        assert any(words in line for line in alone), alone
