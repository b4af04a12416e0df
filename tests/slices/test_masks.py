"""Cleaning of masks against what is known of small drawings, and predict.py with it."""

import json

import cv2
import numpy as np
import pytest
import scipy.ndimage
import SimpleITK as sitk
from drawings import as_volume, block, write
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from running import assert_refused, run_here

from common.errors import InputError
from common.slices.classes import class_numbers
from common.slices.images import read_mask
from common.slices.masks import class_count_of_files, clean, values_of
from common.volumes.reading import read_volume

MASKS = arrays.arrays(
    np.uint8, arrays.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9), elements=st.integers(0, 2)
)


def test_probabilities_become_class_numbers():
    one = np.array([[[0.2], [0.5]], [[0.6], [0.9]]])
    np.testing.assert_array_equal(class_numbers(one), [[0, 0], [1, 1]])
    np.testing.assert_array_equal(class_numbers(one, 0.7), [[0, 0], [0, 1]])
    several = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    np.testing.assert_array_equal(class_numbers(several, 0.99), [0, 2])
    assert class_numbers(one).dtype == class_numbers(several).dtype == np.uint8


@given(arrays.arrays(np.uint8, (3, 4), elements=st.sampled_from([0, 1, 2, 254, 255])))
def test_values_of_a_mask(mask):
    assert values_of(mask) == set(np.unique(mask).tolist())


def picture():
    """Parts of 36, 9 (3 pixels beside the first) and 4 pixels (far off), and a hole of one pixel in the first."""
    mask = np.zeros((20, 30), np.uint8)
    mask[2:8, 2:8] = 1
    mask[2:5, 10:13] = 1
    mask[15:17, 25:27] = 1
    mask[4, 4] = 0
    return mask


@pytest.mark.parametrize(
    ("settings", "areas"),
    [
        ({}, [35, 9, 4]),
        ({"share": 1.0}, [35]),
        ({"share": 0.2}, [35, 9]),
        ({"share": 1.0, "near": 3}, [35, 9]),
        ({"share": 1.0, "near": 2}, [35]),
        ({"smallest": 5}, [35, 9]),
        ({"fill": True}, [36, 9, 4]),
        ({"share": 1.0, "fill": True}, [36]),
        ({"median": 3}, [32, 5]),  # corners are rounded, four pixels are gone, the hole is closed
    ],
)
def test_parts_of_a_drawing(settings, areas):
    cleaned = clean(picture(), **settings)
    found = cv2.connectedComponentsWithStats(cleaned)[2][1:, cv2.CC_STAT_AREA]
    assert sorted(found.tolist(), reverse=True) == areas
    if settings.keys() <= {"share", "near", "smallest"}:  # a hole of a slice is none of the volume
        volume = clean(np.stack([np.zeros_like(cleaned), picture()]), **settings)
        np.testing.assert_array_equal(volume[1], cleaned)


def test_median_is_that_of_opencv():
    mask = np.random.default_rng(0).integers(0, 2, (40, 40)).astype(np.uint8)
    inner = slice(3, -3)  # OpenCV repeats the border
    np.testing.assert_array_equal(clean(mask, median=5)[inner, inner], cv2.medianBlur(mask, 5)[inner, inner])


@given(MASKS, st.floats(0, 1), st.floats(0, 5), st.integers(0, 20))
def test_parts_are_kept_or_dropped_as_a_whole(numbers, share, near, smallest):
    cleaned = clean(numbers, share=share, near=near, smallest=smallest)
    assert ((cleaned == numbers) | (cleaned == 0)).all()
    np.testing.assert_array_equal(clean(cleaned, smallest=smallest), cleaned)
    if not smallest:
        assert set(np.unique(cleaned)) == set(np.unique(numbers)) | ({0} if (cleaned == 0).any() else set())


def test_parts_near_a_kept_part_keep_those_near_them():
    """A chain of parts, each within 4 pixels of the one before, and one too far away."""
    mask = np.zeros((10, 60), np.uint8)
    for start, stop in ((0, 20), (23, 28), (31, 34), (37, 39), (50, 52)):
        mask[2:8, start:stop] = 1
    kept = clean(mask, share=1.0, near=4)
    assert np.array_equal(np.flatnonzero(kept[4]), np.flatnonzero(mask[4, :45]))
    assert np.array_equal(np.flatnonzero(clean(mask, share=1.0, near=3)[4]), np.arange(20))


@pytest.mark.parametrize("settings", [{"share": 2}, {"near": -1}, {"median": 4}, {"smallest": -1}])
def test_bad_settings(settings):
    with pytest.raises(ValueError, match="expected median odd or 0"):
        clean(picture(), **settings)


def test_predictions_are_cleaned(tmp_path, trained):
    values, labels = block()
    write(tmp_path / "i", "a.nrrd", as_volume(values))
    write(tmp_path / "l", "a.nrrd", as_volume(labels))
    cases = tmp_path / "cases"
    run_here("preprocess/0_import_volumes.py", IMAGES=tmp_path / "i", LABELS=tmp_path / "l", CASES=cases, SIZE=24)
    settings = {"RUN": trained[0], "INPUT": cases / "case_a"}
    run_here("predict.py", OUTPUT=tmp_path / "raw", **settings)
    run_here("predict.py", OUTPUT=tmp_path / "flat", CLEAN={"share": 1.0}, **settings)
    run_here("predict.py", OUTPUT=tmp_path / "solid", CLEAN={"share": 1.0}, CLEAN_IN="3d", **settings)
    for path in (tmp_path / "raw").glob("*.png"):
        raw = read_mask(path) > 0
        np.testing.assert_array_equal(
            read_mask(tmp_path / "flat" / path.name) > 0, clean(raw.astype(np.uint8), share=1.0)
        )
    before, after = (read_volume(tmp_path / name / "case_a.nii.gz") for name in ("raw", "solid"))
    before, after = sitk.GetArrayFromImage(before), sitk.GetArrayFromImage(after)
    np.testing.assert_array_equal(after, clean(before, share=1.0))
    assert json.loads((tmp_path / "solid" / "prediction.json").read_text())["CLEAN"] == {"share": 1.0}
    refused = {"OUTPUT": tmp_path / "x", "status": 2, **settings}
    assert_refused("predict.py", "CLEAN", "lonely", CLEAN={"lonely": 1}, **refused)
    assert_refused("predict.py", "CLEAN", "share", "(found 3)", CLEAN={"share": 3}, **refused)


def test_masks_that_do_not_fit_the_others_are_listed():
    def refused(values, words):
        with pytest.raises(InputError, match=words) as error:
            class_count_of_files(values, "M")
        return str(error.value)

    full = {f"{i}.png": {0, 255} for i in range(20)}
    assert class_count_of_files(full | {"e.png": {0}}, "M") == 1
    assert class_count_of_files({"a": {0, 1}, "b": {2}}, "M") == 2
    refused(full | {"odd.png": {0, 1}}, r"^odd.png: expected 0 and 255 as in the other masks \(found 0, 1\)")
    refused({"a": {0, 1, 2}, "b": {2}, "odd.png": {0, 255}}, r"^odd.png: expected class numbers .*found 0, 255")
    refused({"a": {0, 1}, "b": {0, 1}}, r"found 0 and 1.*in 2 of 2 masks: a, b")
    many = refused(full | {f"odd{i}.png": {0, 3} for i in range(12)}, "^12 masks in M have other values than the rest")
    assert many.count("odd") == 10 and "... and 2 more" in many


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1)])
def test_values_of_tiny_masks(shape):
    assert values_of(np.full(shape, 255, np.uint8)) == {255} and values_of(np.full(shape, 7, np.uint8)) == {7}


def test_a_median_wider_than_the_mask_takes_no_memory():
    """999**3 voxels of a box around each voxel."""
    labels = np.ones((4, 5, 6), np.uint8)
    assert not clean(labels, median=999).any()
    for side in (3, 5, 7):
        expected = scipy.ndimage.median_filter(labels, side, mode="constant")
        np.testing.assert_array_equal(clean(labels, median=side), expected)
