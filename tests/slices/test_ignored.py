"""Pixels that are IGNORED count in no loss and no score, from import to evaluation."""

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest
from drawings import as_volume, write, write_image
from hypothesis import given, settings
from hypothesis import strategies as st
from running import assert_refused, only_folder, run_here

from common.errors import InputError
from common.evaluation.pairs import Pair
from common.evaluation.selection import count_slice, count_thresholds
from common.evaluation.summary import score_pairs
from common.slices.classes import IGNORED, is_target, without_ignored
from common.slices.images import read_image
from common.slices.masks import check_mask_values, class_count, to_classes
from common.training.calibration import Calibrator
from common.training.sets import SliceSet
from common.workers import Threads
from losses import TERMS, get_loss, overlap, training_metrics

SLICES = [name for name in TERMS if name != "cce"]


def half_ignored(seed, classes):
    """Class numbers (3, 12, 16, 1) whose right half is IGNORED, probabilities, and both without the right half."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes + 1, (3, 12, 16, 1)).astype(np.uint8)
    y[0, :, :8] = 0
    p = rng.uniform(0.02, 0.98, (3, 12, 16, classes + 1 if classes > 1 else 1)).astype(np.float32)
    p = p / p.sum(-1, keepdims=True) if classes > 1 else p
    whole = y.copy()
    whole[:, :, 8:] = IGNORED
    return whole, p, y[:, :, :8], p[:, :, :8]


def test_the_value_is_one_for_masks_and_losses():
    assert IGNORED == overlap.IGNORED


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("name", [*SLICES, "cce", "bce+dice"])
def test_losses_are_those_of_the_other_pixels(name, classes):
    if name == "cce" and classes == 1:
        pytest.skip("for several classes")
    whole, p, y, cut = half_ignored(1, classes)
    loss = get_loss(name, classes, ignores=True)
    expected = get_loss(name, classes).call(y, cut)
    np.testing.assert_allclose(loss.call(whole, p), expected, rtol=2e-5, atol=1e-6)
    other = p.copy()
    other[:, :, 8:] = other[:, :, 8:][:, ::-1, :, ::-1]
    np.testing.assert_allclose(loss.call(whole, other), expected, rtol=2e-5, atol=1e-6)
    assert type(loss).from_config(loss.get_config()).ignores


@pytest.mark.parametrize("classes", [1, 3])
def test_metrics_are_those_of_the_other_pixels(classes):
    whole, p, y, cut = half_ignored(2, classes)
    for metric, reference in zip(training_metrics(classes, ignores=True), training_metrics(classes), strict=True):
        metric.update_state(whole, p)
        reference.update_state(y, cut)
        assert float(metric.result()) == pytest.approx(float(reference.result()), rel=1e-5), metric.name
        assert type(metric).from_config(metric.get_config()).ignores


def test_a_file_of_ones_own_sees_zeros(tmp_path):
    path = tmp_path / "my.py"
    path.write_text("from keras import ops\ndef loss(t, p): return ops.sum(ops.abs(t) + ops.abs(p), axis=(1, 2, 3))\n")
    whole, p, y, cut = half_ignored(3, 1)
    found = get_loss(str(path), 1, ignores=True).call(whole, p)
    np.testing.assert_allclose(found, (y + cut).sum((1, 2, 3)), rtol=1e-5)


def test_an_image_of_which_nothing_counts_costs_nothing():
    whole, p, _, _ = half_ignored(4, 1)
    whole[:] = IGNORED
    for name in SLICES:
        assert np.all(np.isfinite(np.asarray(get_loss(name, 1, ignores=True).call(whole, p)))), name
    assert float(get_loss("bce", 1, ignores=True)(whole, p)) == 0


# --- masks


@settings(deadline=None)
@given(st.sets(st.integers(0, 255)), st.booleans())
def test_ignored_pixels_change_no_number_of_classes(values, numbered):
    values = {value % 50 for value in values} | {2} if numbered else values & {0, 255}
    assert class_count(values | {IGNORED}, "here") == class_count(values, "here")
    check_mask_values(values | {IGNORED}, "here")


def test_class_numbers_keep_what_is_ignored():
    mask = np.array([[0, 255, IGNORED]], np.uint8)
    assert to_classes(mask, 1).tolist() == [[0, 1, IGNORED]] and is_target(mask).tolist() == [[False, True, False]]
    assert to_classes(np.array([[0, 2, IGNORED]], np.uint8), 2).tolist() == [[0, 2, IGNORED]]
    predicted, truth = without_ignored(np.array([1, 1, 1]), np.array([1, 0, IGNORED]))
    assert (predicted.tolist(), truth.tolist()) == ([1, 1, 0], [1, 0, 0])
    with pytest.raises(InputError, match=r"found 0, 100\)"):
        check_mask_values({0, 100, IGNORED}, "here")


def test_importers_mark_what_is_ignored(tmp_path):
    mask = np.zeros((32, 32), np.uint8)
    mask[5:15, 5:15], mask[20:] = 1, 9
    for name in ("a", "b"):
        write_image(tmp_path / "images" / f"{name}.png", np.arange(77, 109, dtype=np.uint8).repeat(32).reshape(32, 32))
        write_image(tmp_path / "masks" / f"{name}.png", mask)
    given = {"IMAGES": tmp_path / "images", "MASKS": tmp_path / "masks", "SIZE": 32, "MASK_VALUES": "{1: 255}"}
    assert_refused("preprocess/0_import_images.py", "without an entry", "9", **given, CASES=tmp_path / "none")
    run_here("preprocess/0_import_images.py", **given, CASES=tmp_path / "cases", IGNORE=9)
    expected = np.where(mask == 9, IGNORED, np.where(mask == 1, 255, 0))
    for path in (tmp_path / "cases").glob("*/y/*.png"):
        assert np.array_equal(read_image(path), expected)
    assert_refused(
        "preprocess/0_import_images.py",
        "COLORS",
        status=2,
        **{**given, "MASK_VALUES": None},
        COLORS="{'#ff0000': 1}",
        IGNORE=9,
    )
    labels = np.zeros((4, 24, 24), np.uint8)
    labels[1, 4:9, 4:9], labels[2:, 12:] = 1, 9
    write(tmp_path / "in", "a.nii.gz", as_volume(np.arange(4 * 576).reshape(4, 24, 24).astype(np.int16), np.eye(3)))
    write(tmp_path / "labels", "a.nii.gz", as_volume(labels, np.eye(3)))
    given = {"IMAGES": tmp_path / "in", "LABELS": tmp_path / "labels", "SIZE": 24, "CASES": tmp_path / "volumes"}
    run_here("preprocess/0_import_volumes.py", **given, IGNORE=9)
    masks = np.stack([read_image(path) for path in sorted((tmp_path / "volumes").glob("*/y/*.png"))])
    expected = np.where(labels == 9, IGNORED, np.where(labels == 1, 255, 0))
    assert np.array_equal(np.sort(masks.ravel()), np.sort(expected.ravel())) and set(np.unique(masks)) == {0, 254, 255}


def test_254_in_a_mask_is_ignored_only_if_ignore_says_so(tmp_path):
    """It is what case folders use, so masks of 0 and 254 became masks without any foreground."""
    for name, value in (("a", 254), ("b", 255)):
        mask = np.zeros((32, 32), np.uint8)
        mask[5:15, 5:15] = value
        write_image(tmp_path / "images" / f"{name}.png", np.arange(77, 109, dtype=np.uint8).repeat(32).reshape(32, 32))
        write_image(tmp_path / "masks" / f"{name}.png", mask)
    given = {"IMAGES": tmp_path / "images", "MASKS": tmp_path / "masks", "SIZE": 32, "CASES": tmp_path / "cases"}
    script = "preprocess/0_import_images.py"
    assert_refused(script, "a.png: 254", "--ignore 254", **given)
    assert_refused(script, "MASK_VALUES", "0..99 or 255", status=2, **given, MASK_VALUES={254: 254})
    run_here(script, **given, MASK_VALUES={254: 255, 255: 255}, REPLACE=True)
    run_here(script, **given, IGNORE=254, REPLACE=True)


# --- scores


def test_scores_are_those_of_the_other_pixels(tmp_path):
    whole, _, y, _ = half_ignored(5, 1)
    predicted = np.random.default_rng(0).integers(0, 2, (12, 16)).astype(np.uint8) * 255
    truth = np.where(whole[1, ..., 0] == 1, 255, whole[1, ..., 0]).astype(np.uint8)
    write_image(tmp_path / "p.png", predicted)
    write_image(tmp_path / "t.png", truth)
    write_image(tmp_path / "p8.png", predicted[:, :8])
    write_image(tmp_path / "t8.png", y[1, ..., 0] * 255)
    write_image(tmp_path / "raw.png", np.where(truth == IGNORED, 7, truth).astype(np.uint8))
    pairs = [
        Pair("a", "ignored", tmp_path / "p.png", tmp_path / "t.png", None),
        Pair("a", "cut", tmp_path / "p8.png", tmp_path / "t8.png", None),
        Pair("a", "raw", tmp_path / "p.png", tmp_path / "raw.png", None, ignore=7),
    ]
    (ignored, cut, raw) = (rows[0] for rows, *_ in score_pairs(pairs, None, 1.0, None, Threads()))
    names = [name for name in cut if name not in ("image", "case")]
    assert [ignored[name] for name in names] == pytest.approx([cut[name] for name in names], nan_ok=True)
    assert [raw[name] for name in names] == pytest.approx([cut[name] for name in names], nan_ok=True)


def test_choices_do_not_count_ignored_pixels():
    whole, p, y, cut = half_ignored(6, 1)
    of_classes = {"classes": 1, "in_memory": True, "preparation": {}}
    sets = [
        SliceSet(
            "a", np.zeros(truth.shape, np.uint8), np.where(truth == 1, 255, truth), ["a"] * 3, [""] * 3, **of_classes
        )
        for truth in (whole, y)
    ]
    for i in range(3):
        assert count_slice(p, sets[0], [{}], i) == count_slice(cut, sets[1], [{}], i)
        assert count_thresholds(p, sets[0], {}, i) == count_thresholds(cut, sets[1], {}, i)
    results = []
    for slices, probabilities in zip(sets, (p, cut), strict=True):
        calibrator = Calibrator(slices)
        for i in range(3):
            calibrator.add(probabilities[i], slices.batch([i])[1][0, ..., 0], "a")
        results.append(calibrator)
    assert all(np.array_equal(results[0].dice[key], results[1].dice[key]) for key in results[1].dice)
    assert sorted(np.concatenate(results[0].truth)) == sorted(np.concatenate(results[1].truth))


@pytest.mark.slow
def test_scribbles_are_enough_to_learn_from(tmp_path):
    """Of each disc and of its surroundings only a few pixels are marked; if the others counted, all would be empty."""
    rng = np.random.default_rng(0)
    whole = []
    for number in range(24):
        mask = cv2.circle(np.zeros((32, 32), np.uint8), rng.integers(9, 23, 2).tolist(), 6, 1, -1)
        image = (60 + 90 * mask + rng.normal(0, 8, mask.shape)).clip(0, 255).astype(np.uint8)
        marked = rng.random(mask.shape) < 0.04
        write_image(tmp_path / "images" / f"p{number:02d}.png", image)
        write_image(tmp_path / "masks" / f"p{number:02d}.png", np.where(marked, mask, 99).astype(np.uint8))
        whole.append(mask)
    given = {"IMAGES": tmp_path / "images", "MASKS": tmp_path / "masks", "CASES": tmp_path / "cases"}
    importing = {"CASE_FROM": "image", "SIZE": 32, "IGNORE": 99, "MASK_VALUES": "{1: 255}"}
    run_here("preprocess/0_import_images.py", **given, **importing)
    run_here("preprocess/2_write_lists.py", CASES=tmp_path / "cases", LISTS=tmp_path / "lists", VALIDATION_SHARE=0.25)
    run_here("preprocess/3_pack_hdf5.py", LISTS=tmp_path / "lists", PACKED=tmp_path / "packed")
    with h5py.File(tmp_path / "packed" / "train.h5") as file:
        assert file.attrs["ignores"] and file.attrs["classes"] == 1
    run_here(
        "train.py",
        TRAIN=tmp_path / "packed" / "train.h5",
        VALIDATION=tmp_path / "lists" / "validation.csv",
        RUNS=tmp_path / "runs",
        MODEL="unet",
        MODEL_SETTINGS={"features": 8, "depth": 2, "dropout": 0.0},
        LOSS="bce+dice",
        LEARNING_RATE=0.01,
        BATCH_SIZE=4,
        EPOCHS=15,
    )
    run = only_folder(tmp_path / "runs")
    run_here("predict.py", RUN=run, INPUT=tmp_path / "images", OUTPUT=tmp_path / "out")
    dice = []
    for number, mask in enumerate(whole):
        found = read_image(tmp_path / "out" / f"p{number:02d}.png") > 0
        dice.append(2 * (found & (mask > 0)).sum() / (found.sum() + mask.sum()))
    assert np.mean(dice) > 0.85
    given = {"PREDICTED": tmp_path / "out", "TRUTH": tmp_path / "masks", "OUTPUT": tmp_path / "scores"}
    raw = np.where(read_image(tmp_path / "masks" / "p00.png") == 1, 255, read_image(tmp_path / "masks" / "p00.png"))
    write_image(tmp_path / "truth" / "p00.png", raw)
    run_here("evaluate.py", **{**given, "TRUTH": tmp_path / "truth"}, IGNORE=99, UNMATCHED="skip")
    found = read_image(tmp_path / "out" / "p00.png") > 0
    marked = raw != 99
    expected = 2 * (found & (raw == 255))[marked].sum() / (found[marked].sum() + (raw == 255).sum())
    assert pd.read_csv(tmp_path / "scores" / "scores.csv")["dice"][0] == pytest.approx(expected)
    out = run_here("convert_coreml.py", RUN=run).stdout
    assert "changed pixels: 0" in out
