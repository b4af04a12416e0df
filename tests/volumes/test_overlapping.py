"""Labels of volumes that overlap freely: exact through packing, training, prediction and scores of 3-D networks."""

import json
import plistlib
from unittest import mock

import h5py
import highdicom
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from dicom_labels import draw_series, write_seg_nrrd
from drawings import as_volume, write
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from running import TINY_SE_RESUNET3D, assert_refused, only_folder, run_here

from common.annotations.shapes import fill
from common.files import write_json
from common.prediction.volume_tiles import mean_probabilities
from common.slices import classes as c
from common.training.sets import open_set
from common.training.trained_models import CrossValidation, load_network
from common.volumes.grids import Geometry, image_at, onto_grid
from common.volumes.label_files import LabelFiles
from common.volumes.labels import label_image, label_numbers, measure_labels, resample_labels

PACK = "preprocess/3_pack_volumes.py"
NAMES = ["organ", "lesion"]
SHAPE = (12, 24, 24)


def two_balls(seed):
    """Masks of two balls that overlap, (2, *SHAPE) bool."""
    rng = np.random.default_rng(seed)
    grid = np.indices(SHAPE).astype(float)
    center = np.array([6, 12, 10]) + rng.integers(-1, 2, 3)
    return np.stack(
        [
            ((grid - (center + shift)[:, None, None, None]) ** 2).sum(0) < radius**2
            for shift, radius in ((np.zeros(3), 5), (np.array([0, 0, 5]), 4))
        ]
    )


def write_set(root, kind="seg.nrrd", cases=4):
    """Volumes in which each class adds to the gray value, and their labels; dict of name to masks."""
    truths = {}
    for number in range(cases):
        name, masks = f"v{number}", two_balls(number)
        values = 100 * masks[0] + 300 * masks[1] + np.random.default_rng(number).normal(0, 10, SHAPE)
        image = as_volume(values.astype(np.int16), np.eye(3), (1.0, 1.0, 1.0))
        write(root / "images", f"{name}.nii.gz", image)
        layers = [mask.astype(np.uint8) for mask in masks]
        if kind == "seg.nrrd":
            segments = [(of_class, 1, layer) for layer, of_class in enumerate(NAMES)]
            write_seg_nrrd(root / "labels" / f"{name}.seg.nrrd", layers, Geometry.of(image), segments)
        else:
            for layer, of_class in zip(layers, NAMES, strict=True):
                write(root / "labels", f"{name}_{of_class}.nii.gz", image_at(layer, Geometry.of(image)))
        truths[name] = masks
    return truths


def write_volume_network(run, overlap, slopes):
    """A run whose 3-D network labels by gray value: above or, with a negative slope, below -250 and 100."""
    import keras

    x = keras.Input((None, None, None, 1), name="input")
    model = keras.Model(x, keras.layers.Conv3D(2, 1, activation="sigmoid", name="output")(x))
    slopes, limits = 1000 * np.array(slopes), np.array([0.2501, 0.6001])  # of -500 to 500 as 0 to 1
    model.get_layer("output").set_weights([slopes.reshape(1, 1, 1, 1, 2), -slopes * limits])
    run.mkdir()
    model.save(run / "best_dice.keras")
    rule = {"kind": "fixed", "channels": [{"low": -500, "high": 500, "mean": 0.0, "sd": 1.0}]}
    data = {"kind": "volumes", "step": "single", "classes": 2, "labels": NAMES, "channels": 1, "overlap": overlap}
    data |= {
        "regions": {"organ": [1, 2], "lesion": [2]},
        "spacing": [None] * 3,
        "voxels": 10**9,
        "smallest_box": 1,
        "margin": 0.0,
        "intensity": rule,
    }
    write_json(run / "settings.json", {"MODEL": "unet3d"})
    write_json(run / "state.json", {"data": data})


def packed(root, **changed):
    given = {"IMAGES": root / "images", "LABELS": root / "labels", "PACKED": root / "packed", "STEP": "single"}
    given |= {"SPACING": None, "VOXELS": None, "OVERLAP": "keep", "CLASSES": NAMES, "INTENSITY": "mr"}
    return run_here(PACK, **given | changed).stdout


@pytest.mark.parametrize("kind", ["seg.nrrd", "files"])
def test_packed_volumes_hold_all_classes_of_a_voxel(tmp_path, kind):
    truths = write_set(tmp_path, kind)
    pattern = "{id}_{class}" if kind == "files" else "{id}"
    packed(tmp_path, LABEL_NAME=pattern)
    volumes = open_set(tmp_path / "packed" / "train.h5")
    assert volumes.overlap == volumes.record().sharing == c.OVERLAPPING and volumes.labels == NAMES
    for i, name in enumerate(volumes.names):
        _, labels = volumes.shown_volume(i)
        np.testing.assert_array_equal(labels, c.sets_of_classes(list(truths[name])))
        assert c.overlap_in(labels)
    for crop in (None, [8, 8, 8]):
        _, y = volumes.batches(1, crop=crop).batch(0)
        assert y.shape[-1] == 2 and y.dtype == np.uint8 and y.max() <= 1
    _, y = volumes.batches(1).batch(0)
    np.testing.assert_array_equal(y[0], np.moveaxis(truths[volumes.names[0]], 0, -1))
    assert volumes.batches(1, seed=1)[0][1].shape[-1] == 2, "a dummy batch"
    moved = volumes.batches(1, seed=1, augmentation={"rotation": 20})
    _, y = moved.batch(0)
    assert ((y[..., 0] == 1) & (y[..., 1] == 1)).any() and not np.array_equal(y[0], truths[volumes.names[0]])
    with h5py.File(tmp_path / "packed" / "cases.h5") as file:
        group = file["cases/v0"]
        assert group["label"].dtype == np.uint16 and set(group["places"][:, 3]) == {1, 2}
        for up, back, left, label in group["places"][::50]:
            assert truths["v0"][label - 1, up, back, left]
    said = packed(tmp_path, LABEL_NAME=pattern, OVERLAP="largest", REPLACE=True)
    plain = open_set(tmp_path / "packed" / "train.h5")
    assert "2 organ" not in said and not plain.overlapping and plain.shown_volume(0)[1].dtype == np.uint8


def test_each_class_is_resampled_alone():
    """Onto a coarser and a shifted grid, sets become what each class becomes as a mask of its own."""
    masks = two_balls(0)
    axes = tuple(np.eye(3).ravel())
    image = image_at(c.sets_of_classes(list(masks)), Geometry(SHAPE[::-1], (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), axes))
    grid = Geometry((13, 11, 7), (1.7, 2.1, 1.6), (-3.0, 1.0, 0.5), axes)
    found = resample_labels(image, grid)
    for number, mask in enumerate(masks, 1):
        alone = resample_labels(image_at(mask.astype(np.uint8), Geometry.of(image)), grid)
        np.testing.assert_array_equal(c.has_class(found, number), alone)
    assert c.overlap_in(found)


@settings(deadline=None)
@given(hnp.arrays(np.float32, (3, 2, 3, 4), elements=st.floats(0, 1, width=32)), st.sampled_from([0.3, 0.5]))
def test_a_voxel_gets_every_class_above_the_threshold(p, threshold):
    found = label_numbers(p, threshold, c.OVERLAPPING)
    assert found.dtype == np.uint16
    for number in (1, 2, 3):
        np.testing.assert_array_equal(c.has_class(found, number), p[number - 1] > threshold)
    rows = measure_labels("a", label_image(found, Geometry.of(as_volume(found))), 3)
    assert [row["voxels"] for row in rows] == (p > threshold).sum(axis=(1, 2, 3)).tolist()


def test_what_is_refused(tmp_path):
    write_set(tmp_path, cases=3)
    given = {"IMAGES": tmp_path / "images", "LABELS": tmp_path / "labels", "PACKED": tmp_path / "no"}
    words = 'OVERLAP: "keep" and NESTED exclude each other'
    assert_refused(PACK, words, status=2, OVERLAP="keep", NESTED=True, **given)
    packed(tmp_path)
    with h5py.File(tmp_path / "packed" / "train.h5", "r+") as file:
        file.attrs["overlap"] = ""
    small = {"MODEL": "se_resunet3d", "MODEL_SETTINGS": TINY_SE_RESUNET3D, "EPOCHS": 1, "RUNS": tmp_path / "runs"}
    sets = {name.upper(): tmp_path / "packed" / f"{name}.h5" for name in ("train", "validation")}
    said = assert_refused("train.py", "train.h5", **small, **sets)
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("overlap", ["nested", "overlapping"])
def test_what_viewers_and_workstations_get_has_each_class(tmp_path, overlap):
    """A 3-D model of a series: regions as the truth has them in DICOM SEG, RTSTRUCT, ROIs and label files."""
    draw_series(tmp_path / "scan", SHAPE)
    image = sitk.ReadImage([str(path) for path in sorted((tmp_path / "scan").iterdir())])
    values, slopes = sitk.GetArrayFromImage(image), (1, 1 if overlap == "nested" else -1)
    masks = np.stack([values > -250, values > 100 if overlap == "nested" else values <= 100])
    write_volume_network(tmp_path / "run", overlap, slopes)
    given = {"RUN": tmp_path / "run", "INPUT": tmp_path / "scan", "OUTPUT": tmp_path / "out"}
    kinds = {"DICOM_LABELS": ["SEG", "RTSTRUCT"], "VIEWER_FILES": ["osirix", "qupath", "itk-snap"]}
    assert_refused("predict.py", "LABEL_ORDER: 'last'", overlap, **given, LABEL_ORDER="last")
    run_here("predict.py", **given, **kinds)
    record = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert record["regions"] == {"organ": [1, 2], "lesion": [2]} and record["overlap"] == overlap
    seg = highdicom.seg.segread(tmp_path / "out" / "dicom" / "case_0001_seg.dcm")
    for number, mask in enumerate(masks, 1):
        found = seg.get_volume(segment_numbers=[number], combine_segments=True, rescale_fractional=False).array > 0
        assert found.sum() == mask.sum()
    for kind in ("seg", "rtstruct"):
        path = tmp_path / "out" / "dicom" / f"case_0001_{kind}.dcm"
        files = LabelFiles([path], overlapping=True)
        found = sitk.GetArrayFromImage(onto_grid(files.read(path, Geometry.of(image))[0], Geometry.of(image)))
        np.testing.assert_array_equal(found, c.sets_of_classes(list(masks)))
    found = np.zeros_like(masks)
    for roi in plistlib.loads((tmp_path / "out" / "osirix" / "case_0001.xml").read_bytes())["ROI array"]:
        ring = np.array([[float(n) for n in point.strip("{}").split(",")] for point in roi["ROIPoints"]])
        found[NAMES.index(roi["Name"]), roi["Slice"] - 1] |= fill([ring], SHAPE[1:])
    np.testing.assert_array_equal(found, masks)
    features = json.loads((tmp_path / "out" / "qupath" / "case_0001.geojson").read_text())["features"]
    assert {feature["properties"]["classification"]["name"] for feature in features} == set(NAMES)
    assert '"lesion"' in (tmp_path / "out" / "lesion.label").read_text()
    assert 'data-overlapping="true"' in (tmp_path / "out" / "viewers" / "case_0001.html").read_text()
    numbers = sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz"))
    apart = ["case_0001_lesion.nii.gz", "case_0001_organ.nii.gz"]
    assert numbers == (["case_0001.nii.gz"] if overlap == "nested" else apart)


@pytest.mark.slow
def test_a_network_learns_overlaps_that_numbers_cannot_say(tmp_path):
    """Both classes come back, with scores above what one class a voxel could reach; in all formats."""
    truths = write_set(tmp_path, cases=5)
    packed(tmp_path)
    sets = {name.upper(): tmp_path / "packed" / f"{name}.h5" for name in ("train", "validation")}
    network = {"MODEL": "se_resunet3d", "MODEL_SETTINGS": {"features": 4, "depth": 1, "ratio": 2}}
    learning = {"LOSS": "bce+dice", "EPOCHS": 40, "BATCH_SIZE": 1, "LEARNING_RATE": 0.01, "AUGMENTATION": {}}
    run_here("train.py", RUNS=tmp_path / "runs", **sets, **network, **learning)
    run = only_folder(tmp_path / "runs")
    run_here("predict.py", RUN=run, INPUT=tmp_path / "images", OUTPUT=tmp_path / "out", OVERLAYS=True)
    record = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert (record["overlap"], record["class_names"]) == (c.OVERLAPPING, NAMES)
    given = {"PREDICTED": tmp_path / "out", "TRUTH": tmp_path / "labels", "CLASSES": NAMES}
    run_here("evaluate.py", OUTPUT=tmp_path / "scores", **given)
    dice = pd.read_csv(tmp_path / "scores" / "cases.csv").groupby("class")["dice"].mean()
    best = []
    for first, second in truths.values():  # if each voxel had one class: the lesion whole, the rest to the organ
        alone = first & ~second
        best.append(2 * alone.sum() / (alone.sum() + first.sum()))
    assert dice.min() > 0.9 and dice[1] > np.mean(best) + 0.05, (dice, np.mean(best))
    table = pd.read_csv(tmp_path / "out" / "volumes.csv")
    for row in table.itertuples():
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / f"{row.case}_{row.label}.nii.gz")))
        assert (found > 0).sum() == row.voxels
    # the packed volumes, and out of fold
    run_here("predict.py", RUN=run, INPUT=sets["VALIDATION"], OUTPUT=tmp_path / "packed_out")
    assert len(list((tmp_path / "packed_out").glob("*_organ.nii.gz"))) == 1


@pytest.mark.slow
def test_folds_keep_all_classes_of_a_voxel(tmp_path):
    """Out of fold, each voxel has every class above the threshold; scores, choose.py and predict.py agree."""
    truths = write_set(tmp_path)
    packed(tmp_path, FOLDS=2)
    sets = {name.upper(): tmp_path / "packed" / f"{name}.h5" for name in ("train", "validation")}
    learning = {"LOSS": "bce+dice", "EPOCHS": 6, "BATCH_SIZE": 1, "LEARNING_RATE": 0.02, "AUGMENTATION": {}}
    learning |= {"MODEL": "se_resunet3d", "MODEL_SETTINGS": {"features": 4, "depth": 1, "ratio": 2}}
    with mock.patch("common.training.cross_validation.call", run_here):
        run_here("train.py", RUNS=tmp_path / "runs", FOLD="all", **sets, **learning)
    folds = only_folder(tmp_path / "runs")
    dice = {}
    for run in CrossValidation(folds).runs():
        held_out, network = open_set(run.validation_set), load_network(run.model_file("best_dice"))
        for i, name in enumerate(held_out.names):
            probabilities = mean_probabilities([network], held_out.shown_volume(i)[0], held_out.voxels)
            hard = np.moveaxis(probabilities, -1, 0) > 0.5
            assert (hard[0] & hard[1]).any()
            for mask, truth, of_class in zip(hard, truths[name], NAMES, strict=True):
                for folder, expected in (("out_of_fold", mask), ("truth", truth)):
                    found = sitk.GetArrayFromImage(sitk.ReadImage(str(folds / folder / f"{name}_{of_class}.nii.gz")))
                    np.testing.assert_array_equal(found > 0, expected)
                dice[name, of_class] = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
    assert len(dice) == 8

    def mean_dice(folder):
        return pd.read_csv(folder / "cases.csv").groupby("class")["dice"].mean()

    expected = [np.mean([dice[name, of_class] for name in truths]) for of_class in NAMES]
    np.testing.assert_allclose(mean_dice(folds / "scores"), expected, rtol=1e-12)
    run_here("choose.py", CROSS_VALIDATIONS=folds, CLEANINGS=[])
    baseline = pd.read_csv(folds / "choice.csv").iloc[0]
    np.testing.assert_allclose(baseline[["dice_1", "dice_2"]].tolist(), expected, rtol=1e-9)
    (folds / "choice.json").unlink()
    out = tmp_path / "out"
    run_here("predict.py", RUN=folds, INPUT=tmp_path / "images", OUTPUT=out, OUT_OF_FOLD=True, OVERLAYS=False)
    run_here("evaluate.py", PREDICTED=out, TRUTH=tmp_path / "labels", OUTPUT=tmp_path / "scores")
    np.testing.assert_allclose(mean_dice(tmp_path / "scores"), expected, rtol=1e-12)
