"""0_import_candidates.py and the second stage of submission.py: crops of nodule candidates and their probabilities."""

import json

import keras
import numpy as np
import pandas as pd
import pytest
from drawings import SKEWED, as_volume, nodule_scan, nodule_table, write
from recorded import curve, record_run
from running import assert_refused, bytes_of, leftovers, lines_of, run_here, run_script

from common.slices.images import read_image, read_mask
from common.training.run_records import SliceData
from common.volumes.candidate_crops import crop_cube, crop_planes
from common.volumes.candidates import PLANES
from common.volumes.grids import Geometry
from models import build_model

sitk = pytest.importorskip("SimpleITK")
SCRIPT = "preprocess/0_import_candidates.py"
COLUMNS = ["seriesuid", "coordX", "coordY", "coordZ"]


def gradient(direction):
    """A scan whose value is 2 x + 3 y + 5 z + 7 of the position in mm, which linear interpolation keeps."""
    image = as_volume(np.zeros((14, 20, 18), np.float32), direction, (1.5, 1.25, 2.0), (-20.0, 30.0, 40.0))
    grid = Geometry.of(image)
    voxels = np.indices((14, 20, 18)).reshape(3, -1).T[:, ::-1]
    values = grid.to_points(voxels) @ [2, 3, 5] + 7
    middle = grid.to_points([[9, 10, 7]])[0]
    return values.reshape(14, 20, 18), grid, middle


@pytest.mark.parametrize("direction", [np.eye(3), np.diag([-1, -1, 1]), SKEWED], ids=["plain", "turned", "skewed"])
def test_crops_are_in_millimeters_of_the_patient(direction):
    values, grid, (x, y, z) = gradient(direction)
    planes = crop_planes(values, grid, (x, y, z), 8, 0.75, outside=-999)
    steps = (np.arange(8) - 3.5) * 0.75
    down, right = np.meshgrid(steps, steps, indexing="ij")
    expected = [
        2 * (x + right) + 3 * (y + down) + 5 * z + 7,  # axial: left of the patient to the right, back down
        2 * (x + right) + 3 * y + 5 * (z - down) + 7,  # coronal: head up
        2 * x + 3 * (y + right) + 5 * (z - down) + 7,  # sagittal
    ]
    np.testing.assert_allclose(planes, np.stack(expected, axis=-1), atol=1e-3)
    cube = crop_cube(values.astype(np.float32), grid, (x, y, z), 6, 1.0, outside=-999)
    places = Geometry.of(cube).to_points(np.indices((6, 6, 6)).reshape(3, -1).T[:, ::-1])
    np.testing.assert_allclose(sitk.GetArrayFromImage(cube).ravel(), places @ [2, 3, 5] + 7, atol=1e-3)
    np.testing.assert_allclose(places.mean(axis=0), (x, y, z), atol=1e-6)
    far = crop_planes(values, grid, (x + 500, y, z), 8, 0.75, outside=-999)
    assert (far == -999).all()


def write_scans(root):
    """Two scans with two nodules each, and candidates: one in the first nodule, one next to it."""
    image, nodules = nodule_scan(SKEWED)
    candidates, annotations = [], []
    for name in ("s1", "s2"):
        write(root / "scans", f"{name}.nrrd", image)
        x, y, z, diameter = nodules[0]
        candidates += [(name, x, y, z + 0.4 * diameter, 0.9), (name, x + 0.6 * diameter, y, z, 0.4)]
        annotations += [(name, *nodule) for nodule in nodules]
    pd.DataFrame(candidates, columns=[*COLUMNS, "probability"]).to_csv(root / "candidates.csv", index=False)
    return nodule_table(root / "annotations.csv", annotations), candidates, nodules


def test_crops_and_cubes_of_candidates(tmp_path):
    annotations, candidates, _ = write_scans(tmp_path)
    settings = {"SCANS": tmp_path / "scans", "CANDIDATES": tmp_path / "candidates.csv", "ANNOTATIONS": annotations}
    said = run_here(SCRIPT, **settings, CASES=tmp_path / "c", CUBES=tmp_path / "cubes", SIZE=32).stdout
    assert "importing 8 crops (6 of nodules) of 2 scans" in said
    case = tmp_path / "c" / "case_s1"
    masks = [read_mask(path) for path in sorted((case / "y").iterdir())]
    assert [mask.min() == mask.max() for mask in masks] == [True] * 4
    assert [int(mask.max()) for mask in masks] == [255, 0, 255, 255], "in a nodule, next to it, and both nodules"
    assert read_image(case / "x" / "0001.png").shape == (32, 32, 3)
    record = json.loads((case / "case.json").read_text())
    assert record["channels"] == PLANES and record["spacing"] == [0.75] * 2 and record["window"] == [-1000, 400]
    cubes = sorted((tmp_path / "cubes" / "case_s2").iterdir())
    cube = sitk.ReadImage(str(cubes[1]))
    assert len(cubes) == 4 and cube.GetSize() == (60, 60, 60) and cube.GetSpacing() == (1, 1, 1)
    center = cube.TransformContinuousIndexToPhysicalPoint((29.5, 29.5, 29.5))
    np.testing.assert_allclose(center, candidates[3][1:4], atol=1e-3)
    with (tmp_path / "candidates.csv").open("a") as file:
        file.write("s1,5000,2,3,0.5\n")
    said = run_here(SCRIPT, **settings, CASES=tmp_path / "d", WITH_NODULES=False).stdout
    assert "left out 1 candidate outside of the scan: (5000, 2, 3)" in said
    assert len(list((tmp_path / "d" / "case_s1" / "x").iterdir())) == 2
    assert_refused(SCRIPT, "CANDIDATES: not set", status=2, CASES=tmp_path / "e", **settings | {"CANDIDATES": ""})
    other = nodule_table(tmp_path / "other.csv", [("gone", 0, 0, 0, 5)])
    refused = settings | {"CANDIDATES": other, "ANNOTATIONS": other}
    assert_refused(SCRIPT, "no seriesuid is the name of a scan", CASES=tmp_path / "e", **refused)
    voxels = nodule_table(tmp_path / "voxels.csv", [("s1", 4000, 30, 5, 5)])
    refused = settings | {"CANDIDATES": voxels, "WITH_NODULES": False}
    assert_refused(SCRIPT, "no candidate of the table is inside of the scan", CASES=tmp_path / "e", **refused)
    empty = nodule_table(tmp_path / "empty.csv", [])
    assert_refused(SCRIPT, "contains no candidates", CASES=tmp_path / "e", **refused | {"CANDIDATES": empty})
    said = run_here(SCRIPT, CASES=tmp_path / "f", **settings | {"CANDIDATES": empty, "ANNOTATIONS": annotations}).stdout
    assert "importing 4 crops (4 of nodules)" in said
    refused = settings | {"CANDIDATES": empty, "ANNOTATIONS": other}
    assert_refused(SCRIPT, f"{other}: no seriesuid is the name of a scan", CASES=tmp_path / "e", **refused)
    said = run_here(SCRIPT, CASES=tmp_path / "g", **settings | {"ANNOTATIONS": other}).stdout
    assert "annotations without a scan (1): gone" in said and "(0 of nodules)" in said
    assert not (tmp_path / "e").exists()


@pytest.mark.slow
def test_workers_import_what_one_run_imports(scheduler, tmp_path):
    """Byte for byte and line for line, with cubes, a candidate outside of its scan and a scan that is cut."""
    annotations, *_ = write_scans(tmp_path)
    with (tmp_path / "candidates.csv").open("a") as file:
        file.write("s1,5000,2,3,0.5\n")
    cut_short = tmp_path / "scans" / "s2.nrrd"
    cut_short.write_bytes(cut_short.read_bytes()[:-1000])
    settings = {"SCANS": tmp_path / "scans", "CANDIDATES": tmp_path / "candidates.csv", "ANNOTATIONS": annotations}
    results = {}
    for name, more in (("alone", {}), ("shared", {"WORKERS": scheduler})):
        outputs = {"CASES": tmp_path / name / "cases", "CUBES": tmp_path / name / "cubes"}
        results[name] = run_script(SCRIPT, **settings, **outputs, **more, SIZE=32, expect=1)
    assert bytes_of(tmp_path / "shared") == bytes_of(tmp_path / "alone") and not leftovers(tmp_path)
    alone, shared = (lines_of(result, tmp_path / name) for name, result in results.items())
    assert "workers: 2 at" in results["shared"].stdout and shared == alone
    for words in ("left out 1 candidate", "s2.nrrd", "wrote 4 crops"):
        assert any(words in line for line in alone), alone


def second_stage(folder, size=16, **data):
    """A run with a classifier of crops that was not trained."""
    run = record_run(folder, curve(0.9))
    keras.utils.set_random_seed(1)
    model = build_model("crop_classifier", (size, size, 3), features=2, depth=1)
    model.save(run.model_file("last"))
    known = {"classes": 1, "size": size, "inputs": 3, "bits": 8, "spacing": [1.0, 1.0], "window": [-1000.0, 400.0]}
    run.write_state(run.log, 8, "finished", {}, SliceData(**known | {"channels": PLANES} | data), {})
    return model


def test_nodules_get_probabilities(tmp_path):
    """From a map: mean and maximum inside each. From a second stage: what its model says of the crop."""
    image, nodules = nodule_scan(SKEWED)
    values = sitk.GetArrayFromImage(image).astype(np.int16)
    grid = Geometry.of(image)
    labels, probabilities = np.zeros(values.shape, np.uint8), np.zeros(values.shape, np.float32)
    for number, nodule in enumerate(nodules):
        i, j, k = np.rint(grid.to_voxels([nodule[:3]])[0]).astype(int)
        box = np.s_[k - 1 : k + 1 + number, j - 1 : j + 2, i - 1 : i + 2]
        labels[box], values[box] = 1, 100
        probabilities[box] = 0.5 + 0.1 * number
        probabilities[k, j, i] = 0.9
    write(tmp_path / "scans", "a.nrrd", as_volume(values, SKEWED, image.GetSpacing(), image.GetOrigin()))
    for folder, array in (("p", labels), ("maps", probabilities)):
        write(tmp_path / folder, "case_a.nrrd", as_volume(array, SKEWED, image.GetSpacing(), image.GetOrigin()))
    settings = {"KIND": "nodules", "PREDICTED": tmp_path / "p"}
    run_here("submission.py", **settings, PROBABILITIES=tmp_path / "maps", OUTPUT=tmp_path / "s.csv")
    found = pd.read_csv(tmp_path / "s.csv")
    assert found["mean_probability"].tolist() == pytest.approx([0.6 + 0.3 / 27, 0.5 + 0.4 / 18], abs=1e-6)
    assert found["max_probability"].tolist() == pytest.approx([0.9, 0.9])
    assert (found["probability"] == found["mean_probability"]).all()
    for name in ("one", "two"):  # as predict.py writes them for two classes
        half = as_volume(probabilities / 2, SKEWED, image.GetSpacing(), image.GetOrigin())
        write(tmp_path / "p" / "probabilities" / name, "case_a.nrrd", half)
    run_here("submission.py", **settings, OUTPUT=tmp_path / "own.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "own.csv"), found, check_exact=False, atol=1e-6)
    few = {"MIN_PROBABILITY": 0.6, "OUTPUT": tmp_path / "few.csv"}
    run_here("submission.py", **settings, PROBABILITIES=tmp_path / "maps", **few)
    assert len(pd.read_csv(tmp_path / "few.csv")) == 1

    model = second_stage(tmp_path / "run")
    stage = {"SECOND_STAGE": tmp_path / "run", "SCANS": tmp_path / "scans"}
    said = run_script("submission.py", **settings, **stage, OUTPUT=tmp_path / "t.csv")
    assert not [line for line in said.stderr.splitlines() if "cuda" in line], "loads Keras as the other scripts do"
    judged = pd.read_csv(tmp_path / "t.csv")
    for row in judged.itertuples():
        crop = crop_planes(values, grid, (row.coordX, row.coordY, row.coordZ), 16, 1.0, -1000)
        gray = np.clip((crop + 1000) / 1400, 0, 1)
        expected = float(np.asarray(model(gray[None].astype(np.float32)))[0, 0, 0, 0])
        assert row.probability == pytest.approx(expected, abs=0.01), "gray levels of 8 bits"
    write(tmp_path / "others", "b.nrrd", image)
    wrong = stage | {"SCANS": tmp_path / "others", "OUTPUT": tmp_path / "u.csv"}
    assert_refused("submission.py", "no scan a in", **settings, **wrong)
    assert_refused(
        "submission.py", "SECOND_STAGE and SCANS need each other", status=2, **settings, SECOND_STAGE=tmp_path / "run",
        OUTPUT=tmp_path / "u.csv",
    )  # fmt: skip
    lengths = {"KIND": "run_lengths", "PREDICTED": tmp_path / "p", "OUTPUT": tmp_path / "u.csv"}
    assert_refused("submission.py", "SECOND_STAGE: only for nodules", status=2, **lengths, **stage)
    second_stage(tmp_path / "other", channels="rgb")
    stage["SECOND_STAGE"] = tmp_path / "other"
    assert_refused("submission.py", "was not trained on crops", **settings, **stage, OUTPUT=tmp_path / "u.csv")
    probabilities *= 2
    write(tmp_path / "maps", "case_a.nrrd", as_volume(probabilities, SKEWED, image.GetSpacing(), image.GetOrigin()))
    refused = {"PROBABILITIES": tmp_path / "maps", "OUTPUT": tmp_path / "u.csv"}
    assert_refused("submission.py", "expected probabilities from 0 to 1", **settings, **refused)


def test_a_classifier_of_crops_says_one_thing_of_each():
    model = build_model("crop_classifier", (24, 20, 3), 2, features=2, depth=2)
    out = np.asarray(model(np.random.default_rng(0).random((2, 24, 20, 3), np.float32)))
    assert out.shape == (2, 24, 20, 3) and np.ptp(out, axis=(1, 2)).max() < 1e-6
    assert np.ptp(out, axis=0).max() > 1e-4
