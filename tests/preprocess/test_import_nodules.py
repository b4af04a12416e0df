"""0_import_nodules.py and submission.py: nodules to masks and back, and the lungs around them."""

import json

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest
from drawings import NODULE_SPACING, SKEWED, as_volume, masks_of, nodule_scan, nodule_table, write_image
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from running import assert_refused, bytes_of, leftovers, lines_of, run_here, run_script

from common.slices.images import read_image, read_mask
from common.volumes.grids import Geometry
from common.volumes.labels import labels_of_slices, write_labels
from common.volumes.nodules import LUNG_FINDERS, run_lengths, square_around

sitk = pytest.importorskip("SimpleITK")
SCRIPT = "preprocess/0_import_nodules.py"


@pytest.mark.parametrize(
    "direction",
    [np.eye(3), np.diag([1, 1, -1]), np.diag([-1, -1, 1]), SKEWED],
    ids=["plain", "feet", "turned", "skewed"],
)
def test_nodules_come_back(tmp_path, direction):
    image, nodules = nodule_scan(direction)
    (tmp_path / "scans").mkdir()
    sitk.WriteImage(image, str(tmp_path / "scans" / "1.2.840.1.mhd"))
    annotations = nodule_table(tmp_path / "annotations.csv", [("1.2.840.1", *nodule) for nodule in nodules])
    cases = tmp_path / "cases"
    run_here(SCRIPT, SCANS=tmp_path / "scans", ANNOTATIONS=annotations, CASES=cases, NEIGHBOURS=12, SIZE=96)
    case = cases / "case_1.2.840.1"
    record = json.loads((case / "case.json").read_text())
    (tmp_path / "predicted").mkdir()
    back = labels_of_slices(record, masks_of(case))
    write_labels(back, tmp_path / "predicted" / "case_1.2.840.1.nii.gz")
    run_here("submission.py", KIND="nodules", PREDICTED=tmp_path / "predicted", OUTPUT=tmp_path / "s.csv")
    found = pd.read_csv(tmp_path / "s.csv")
    assert list(found["seriesuid"]) == ["1.2.840.1"] * 2
    for nodule in nodules:
        distances = np.linalg.norm(found[["coordX", "coordY", "coordZ"]].to_numpy() - nodule[:3], axis=1)
        nearest = distances.argmin()
        assert distances[nearest] < 0.5 * min(NODULE_SPACING)
        assert abs(found["diameter_mm"][nearest] - nodule[3]) < NODULE_SPACING[0]


def test_three_slices_a_nodule_and_who_is_missing(tmp_path):
    image, nodules = nodule_scan(np.eye(3))
    for name in ("a", "b"):
        (tmp_path / "scans" / name).mkdir(parents=True)
        sitk.WriteImage(image, str(tmp_path / "scans" / name / f"{name}.nrrd"))
    annotations = nodule_table(tmp_path / "t.csv", [("a", *nodules[0]), ("gone", *nodules[1])])
    settings = {"SCANS": tmp_path / "scans", "ANNOTATIONS": annotations, "CASES": tmp_path / "cases"}
    said = run_script(SCRIPT, **settings).stdout
    assert "scans without annotations (1): b" in said and "annotations without a scan (1): gone" in said
    masks = [read_mask(path) for path in sorted((tmp_path / "cases" / "case_a" / "y").iterdir())]
    assert [mask.shape for mask in masks] == [(512, 512)] * 3
    area = (masks[1] > 0).sum() * (96 / 512 * NODULE_SPACING[0]) ** 2
    height = (10 - 9.6) * NODULE_SPACING[2]
    assert area == pytest.approx(np.pi * (4.5**2 - height**2), rel=0.05)


def test_a_nodule_at_a_face_is_clipped_and_one_outside_is_left_out_alone(tmp_path):
    image, nodules = nodule_scan(np.diag([1, 1, -1]))
    (tmp_path / "scans").mkdir()
    sitk.WriteImage(image, str(tmp_path / "scans" / "a.nrrd"))

    def at(i, j, k, diameter):
        return ("a", *image.TransformContinuousIndexToPhysicalPoint((float(i), float(j), float(k))), diameter)

    rows = [("a", *nodules[0]), at(-3, 40, 20, 8), at(50, 50, -2, 9), at(-20, 40, 20, 8), at(999, 0, 0, 5)]
    annotations = nodule_table(tmp_path / "t.csv", rows)
    settings = {"SCANS": tmp_path / "scans", "ANNOTATIONS": annotations, "NEIGHBOURS": 3, "SIZE": 96}
    said = run_here(SCRIPT, **settings, CASES=tmp_path / "c", SIZES=tmp_path / "sizes.csv").stdout
    assert "nodules left out: outside of their scan (2): case_a (voxel -20, 40, " in said
    assert "nodules clipped at the face of a scan (2): " in said
    assert "nodule diameters: 8 to 9 mm, median 9" in said
    sizes = pd.read_csv(tmp_path / "sizes.csv")
    assert sizes["place"].tolist() == ["inside", "clipped", "clipped", "outside", "outside"]
    assert sizes["slices"].tolist()[1:] == [7, 2, 0, 0] and set(sizes["height"]) == {96}
    assert sizes["diameter_pixels"][0] == pytest.approx(9 / 0.7)
    volumes = {"LABEL_VOLUMES": tmp_path / "volumes"}
    run_here(SCRIPT, **settings | {"NEIGHBOURS": 0}, CASES=tmp_path / "d", SLICES="all", **volumes)
    masks = [read_mask(path) > 0 for path in sorted((tmp_path / "d" / "case_a" / "y").iterdir())]
    k, j, i = np.indices((40, 96, 96))
    expected = np.zeros((40, 96, 96), bool)
    for center, diameter in (((20.3, 30.7, 9.6), 9), ((-3, 40, 20), 8), ((50, 50, -2), 9)):
        far = [((axis - c) * mm) ** 2 for axis, c, mm in zip((i, j, k), center, NODULE_SPACING, strict=True)]
        expected |= sum(far) <= (diameter / 2) ** 2
    np.testing.assert_array_equal(np.stack(masks)[::-1], expected)  # slices go up from the feet
    labels = sitk.ReadImage(str(tmp_path / "volumes" / "case_a.nii.gz"))  # on the grid of the scan
    np.testing.assert_array_equal(sitk.GetArrayFromImage(labels), expected)
    for ours, theirs in zip(Geometry.of(labels), Geometry.of(image), strict=True):
        assert np.allclose(ours, theirs, atol=1e-4)
    run_here(
        SCRIPT, **settings, CASES=tmp_path / "e", **{"LABEL_VOLUMES": tmp_path / "whole"}
    )  # NEIGHBOURS is of slices
    whole = sitk.ReadImage(str(tmp_path / "whole" / "case_a.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(whole), expected)


def test_label_volumes_of_nodules_are_packed_for_3d_networks(tmp_path):
    (tmp_path / "scans").mkdir()
    image, nodules = nodule_scan(np.eye(3))
    for name in ("1.2.3", "1.2.4"):
        sitk.WriteImage(image, str(tmp_path / "scans" / f"{name}.mhd"))
    rows = [("1.2.3", *nodules[0]), ("1.2.4", *nodules[1])]
    annotations, labels = nodule_table(tmp_path / "t.csv", rows), tmp_path / "labels"
    given = {"SCANS": tmp_path / "scans", "ANNOTATIONS": annotations, "LABEL_VOLUMES": labels}
    run_here(SCRIPT, **given, CASES=tmp_path / "cases", SIZE=96)
    packing = {"IMAGES": tmp_path / "scans", "LABELS": labels, "LABEL_NAME": "case_{id}", "STEP": "single"}
    packing["INTENSITY"] = "lung"
    given = {"SPACING": 2.0, "VOXELS": None, "PACKED": tmp_path / "packed"}
    assert "skipped" not in run_here("preprocess/3_pack_volumes.py", **packing, **given).stdout
    with h5py.File(tmp_path / "packed" / "cases.h5") as packed:
        millilitres = [packed[f"cases/{name}/label"][:].sum() * 8 / 1000 for name in ("1.2.3", "1.2.4")]
    expected = [np.pi / 6 * nodule[3] ** 3 / 1000 for nodule in nodules[:2]]
    assert millilitres == pytest.approx(expected, rel=0.2)


@pytest.mark.slow
def test_workers_import_what_one_run_imports(scheduler, tmp_path):
    """Byte for byte and line for line, with lung masks, label volumes, the table of sizes and a scan that is cut."""
    image, nodules = nodule_scan(SKEWED)
    rows = []
    (tmp_path / "scans").mkdir()
    for name in "abcde":
        sitk.WriteImage(image, str(tmp_path / "scans" / f"{name}.mha"))
        rows += [(name, *nodule) for nodule in nodules] + [(name, 0, 0, 5000, 5)]
    cut_short = tmp_path / "scans" / "c.mha"
    cut_short.write_bytes(cut_short.read_bytes()[:-1000])
    settings = {"SCANS": tmp_path / "scans", "ANNOTATIONS": nodule_table(tmp_path / "t.csv", rows), "SIZE": 64}
    results = {}
    for name, more in (("alone", {}), ("shared", {"WORKERS": scheduler})):
        outputs = {key: tmp_path / name / key.lower() for key in ("CASES", "LUNG_MASKS", "LABEL_VOLUMES")}
        outputs |= {"SIZES": tmp_path / name / "sizes.csv", "LUNGS": "thresholds"}
        results[name] = run_script(SCRIPT, **settings, **outputs, **more, expect=1)
    assert bytes_of(tmp_path / "shared") == bytes_of(tmp_path / "alone") and not leftovers(tmp_path)
    alone, shared = (lines_of(result, tmp_path / name) for name, result in results.items())
    assert "workers: 2 at" in results["shared"].stdout and shared == alone
    for words in ("outside of their scan (4)", "c.mha", "wrote 24 slices"):
        assert any(words in line for line in alone), alone


def test_bad_input(tmp_path):
    image, nodules = nodule_scan(np.eye(3))
    (tmp_path / "scans").mkdir()
    sitk.WriteImage(image, str(tmp_path / "scans" / "a.nrrd"))
    far = nodule_table(tmp_path / "far.csv", [("a", 0, 0, 5000, 5)])
    settings = {"SCANS": tmp_path / "scans", "CASES": tmp_path / "cases"}
    found = "found 1 nodule, such as (0, 0, 5000); the scan reaches from"
    assert_refused(SCRIPT, f"no nodule of the table is inside of the scan ({found}", ANNOTATIONS=far, **settings)
    other = nodule_table(tmp_path / "other.csv", [("b", *nodules[0])])
    said = "no seriesuid is the name of a scan", "(found first seriesuid b, first scan a)"
    assert_refused(SCRIPT, *said, ANNOTATIONS=other, **settings)
    table, header = tmp_path / "words.csv", "seriesuid,coordX,coordY,coordZ,diameter_mm"
    for content, said in {
        "": "the file is empty",
        header: "contains no annotations",
        "seriesuid,coordX\na,1": "no column coordY",
        header.replace(",", ";"): "save it with commas, not semicolons",
        f"{header}\na,1,2,3,4\na,1,2": "line 3 is incomplete",
        f"{header}\na,1,2,x,4": "line 2 has an invalid coordZ (found 'x'",
        f"{header}\na,1,1e30,3,4": "line 2 has an invalid coordY",
        f"{header}\na,1,2,3,inf": "line 2 has an invalid diameter_mm",
        f"{header}\na,1,2,3,4000": "line 2 has an invalid diameter_mm (found '4000'",  # micrometers
        f"{header}\na,1,2,3,-4": "line 2 has a diameter of -4",
        f"{header}\n,1,2,3,4": "line 2 has no seriesuid",
    }.items():
        table.write_text(content)
        assert_refused(SCRIPT, said, ANNOTATIONS=table, **settings)
    assert_refused(SCRIPT, "gone.csv: file does not exist", ANNOTATIONS=tmp_path / "gone.csv", **settings)
    assert_refused(SCRIPT, "CUT: needs LUNGS", status=2, ANNOTATIONS=far, CUT=True, **settings)
    assert_refused(SCRIPT, "LUNG_MASKS: needs LUNGS", status=2, ANNOTATIONS=far, LUNG_MASKS=tmp_path / "l", **settings)
    assert not (tmp_path / "cases").exists() or not list((tmp_path / "cases").iterdir())
    given = {"KIND": "nodules", "OUTPUT": tmp_path / "o.csv"}
    assert_refused("submission.py", "no label volumes found", PREDICTED=tmp_path, **given)
    assert_refused("submission.py", "a.nrrd: invalid labels", PREDICTED=tmp_path / "scans", **given)


# --- lungs


def chest(kind, size=512):
    """HU of a drawn chest, and the air in its lungs."""
    hu = np.full((size, size), -1000, np.float32)
    body, lung = np.zeros((size, size), np.uint8), np.zeros((size, size), np.uint8)
    cv2.ellipse(body, (256, 256), (215, 160), 0, 0, 360, 1, -1)
    cv2.ellipse(lung, (165, 250), (75, 115), 5, 0, 360, 1, -1)
    cv2.ellipse(lung, (350, 250), (70, 110), -5, 0, 360, 1, -1)
    hu[body > 0] = 40
    cv2.ellipse(hu, (256, 365), (28, 24), 0, 0, 360, 400.0, -1)  # spine
    if kind == "fluid":
        lung[300:, :256] = 0
    if kind == "table and arms":
        for x in (20, 492):
            cv2.circle(hu, (x, 250), 18, 30.0, -1)
        hu[430:436, 60:450] = 200
    hu[lung > 0] = -850
    rng = np.random.default_rng(0)
    for _ in range(60):  # vessels
        x, y = rng.integers(100, 420), rng.integers(150, 350)
        if lung[y, x]:
            cv2.circle(hu, (int(x), int(y)), 3, -50.0, -1)
    return hu + rng.normal(0, 25, hu.shape).astype(np.float32), lung > 0


@pytest.mark.parametrize("kind", ["normal", "fluid", "table and arms"])
def test_lungs_are_found_by_at_least_one_way(kind):
    hu, truth = chest(kind)
    dice = {}
    for name, find_lungs in LUNG_FINDERS.items():
        found = find_lungs(hu)
        dice[name] = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    print(kind, dice)
    assert max(dice.values()) > 0.95, dice
    assert min(dice.values()) > 0.85, dice


def test_square_around():
    mask = np.zeros((50, 60), bool)
    assert square_around(mask) is None
    mask[5:15, 40:60] = True
    assert square_around(mask) == (40, 0, 20, 20)


@pytest.mark.parametrize("way", LUNG_FINDERS)
def test_slices_are_cut_to_the_lungs(tmp_path, way):
    hu, _ = chest("normal")
    image = as_volume(np.stack([hu] * 3).astype(np.int16), np.eye(3), (0.7, 0.7, 2.0), (0, 0, 0))
    (tmp_path / "scans").mkdir()
    sitk.WriteImage(image, str(tmp_path / "scans" / "a.nrrd"))
    annotations = nodule_table(tmp_path / "t.csv", [("a", 165 * 0.7, 250 * 0.7, 2.0, 10.0)])
    settings = {"SCANS": tmp_path / "scans", "ANNOTATIONS": annotations, "LUNGS": way, "SIZE": 128}
    run_here(SCRIPT, CASES=tmp_path / "cases", CUT=True, LUNG_MASKS=tmp_path / "lungs", **settings)
    record = json.loads((tmp_path / "cases" / "case_a" / "case.json").read_text())
    left, top, side, _ = record["slices"]["0001"]["box"]
    assert 60 < left < 110 and 60 < top < 110 and 310 < side < 380
    masks = sorted((tmp_path / "lungs" / "case_a").iterdir())
    assert [path.name for path in masks] == ["0001.png", "0002.png", "0003.png"]
    found = LUNG_FINDERS[way](hu.astype(np.int16).astype(np.float32))[top : top + side, left : left + side]
    lung = read_mask(masks[1])
    assert set(np.unique(lung)) == {0, 255} and (lung > 0).mean() == pytest.approx(found.mean(), abs=0.01)
    picture = read_image(tmp_path / "cases" / "case_a" / "x" / "0002.png")
    assert picture[:3, 60:68].max() == 0 and picture[64, 20:30].max() > 0


# --- run lengths


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1)))
def test_run_lengths_are_those_of_the_mask(mask):
    text = run_lengths(mask)
    if mask.sum() < 10:
        assert text == ""
        return
    numbers = list(map(int, text.split()))
    again = np.zeros(mask.size, np.uint8)
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        assert not again[start - 1 : start - 1 + length].any()
        again[start - 1 : start - 1 + length] = 1
    np.testing.assert_array_equal(again.reshape(mask.shape, order="F"), mask)


def test_run_length_table(tmp_path):
    mask = np.zeros((6, 5), np.uint8)
    mask[1:6, 1:3] = 255
    write_image(tmp_path / "p" / "a.png", mask)  # masks have the size of the images, which need not be square
    write_image(tmp_path / "p" / "b.png", np.zeros((6, 6), np.uint8))
    run_here("submission.py", PREDICTED=tmp_path / "p", OUTPUT=tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text() == "img,pixels\na,8 5 14 5\nb,\n"
    assert_refused("submission.py", "exists", PREDICTED=tmp_path / "p", OUTPUT=tmp_path / "s.csv")
    assert_refused(
        "submission.py", "KIND", "'x'", status=2, KIND="x", PREDICTED=tmp_path / "p", OUTPUT=tmp_path / "t.csv"
    )
