"""Nested labels of volumes: each includes those with larger numbers, from packing to scores."""

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from drawings import as_volume, ball, write, write_decathlon
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from running import TINY_SE_RESUNET3D, assert_refused, only_folder, run_here

from common.files import write_json
from common.slices import classes as c
from common.training.calibration import THRESHOLDS, dice_by_threshold
from common.training.sets import open_set
from common.volumes.channels import find_files
from common.volumes.grids import Geometry
from common.volumes.labels import label_image, label_numbers, measure_labels
from losses import get_loss
from losses.metrics import Overlap

probabilities = hnp.arrays(np.float32, (3, 2, 3, 4), elements=st.floats(0, 1, width=32))


@settings(deadline=None)
@given(probabilities, st.sampled_from([0.3, 0.5]))
def test_a_voxel_gets_the_innermost_label_above_the_threshold(p, threshold):
    found = label_numbers(p, threshold, c.NESTED)
    expected = np.max((p > threshold) * np.arange(1, 4)[:, None, None, None], axis=0)
    np.testing.assert_array_equal(found, expected)


def test_losses_metrics_and_thresholds_are_of_regions():
    rng = np.random.default_rng(0)
    labels, p = rng.integers(0, 4, (2, 4, 5, 6)).astype(np.uint8), rng.random((2, 4, 5, 6, 3)).astype(np.float32)
    regions = np.stack([labels >= number for number in (1, 2, 3)], axis=-1)
    y = c.channels_of(c.sets_of_numbers(labels, nested=True)[..., None], 3)
    np.testing.assert_array_equal(y, regions)
    sums = [(a).sum(axis=(1, 2, 3)) for a in (regions * p, regions, p)]
    dice = 1 - 2 * sums[0] / (sums[1] + sums[2])
    loss = get_loss("dice", 3, axes=3, overlapping=True)
    np.testing.assert_allclose(loss.call(y, p), dice.mean(-1), atol=1e-5)
    hard = p > 0.5
    expected = 2 * (hard & regions).sum(axis=(1, 2, 3)) / (hard.sum(axis=(1, 2, 3)) + sums[1])
    metric = Overlap("dice")
    metric.update_state(y, p)
    assert float(metric.result()) == pytest.approx(expected.mean(), abs=1e-6)
    by_threshold = dice_by_threshold(p[0], c.sets_of_numbers(labels[0], nested=True))
    at_half = np.argmin(np.abs(THRESHOLDS - 0.5))
    assert by_threshold[at_half] == pytest.approx(expected[0].mean())


def test_sizes_are_of_regions():
    numbers = np.random.default_rng(0).integers(0, 4, (3, 4, 5)).astype(np.uint8)
    image = label_image(numbers, Geometry.of(as_volume(numbers)))
    rows = measure_labels("a", image, 3, nested=True)
    assert [row["voxels"] for row in rows] == [int((numbers >= n).sum()) for n in (1, 2, 3)]


def test_packed_sets_teach_regions(tmp_path):
    write_decathlon(tmp_path / "data", cases=3)
    given = {"DATA": tmp_path / "data", "STEP": "single", "SPACING": 3.0, "VOXELS": 5000}
    run_here("preprocess/3_pack_volumes.py", PACKED=tmp_path / "packed", NESTED=True, **given)
    run_here("preprocess/3_pack_volumes.py", PACKED=tmp_path / "plain", **given)
    nested, plain = (open_set(tmp_path / name / "train.h5") for name in ("packed", "plain"))
    assert nested.overlapping and not plain.overlapping and nested.record().sharing == c.NESTED
    for crop in (None, [8, 8, 8]):
        (x, y), (same, numbers) = (volumes.batches(1, crop=crop).batch(0) for volumes in (nested, plain))
        np.testing.assert_array_equal(x, same)
        np.testing.assert_array_equal(y, numbers >= np.arange(1, nested.classes + 1))
        probe = nested.batches(1, seed=1, crop=crop)[0][1]
        assert probe.shape[-1] == nested.classes
    run_here("preprocess/3_pack_volumes.py", PACKED=tmp_path / "whole", NESTED=True, **given | {"STEP": "whole"})
    assert not open_set(tmp_path / "whole" / "train.h5").overlapping


def test_nested_predictions_are_scored_by_region(tmp_path):
    shape = (6, 16, 16)
    outer, inner = (ball(shape, (8, 8, 3), radius, (1, 1, 1)) for radius in (5, 2.5))
    shifted = np.roll(inner, 1, axis=2)
    truth, predicted = (outer.astype(np.uint8) + part for part in (inner, shifted & outer))
    write(tmp_path / "truth", "a.nii.gz", as_volume(truth))
    write(tmp_path / "out", "a.nii.gz", as_volume(predicted))
    given = {"PREDICTED": tmp_path / "out", "TRUTH": tmp_path / "truth"}
    write_json(tmp_path / "out" / "prediction.json", {"overlap": "nested", "class_names": ["all", "core"]})
    write(tmp_path / "out", "a_core.nii.gz", as_volume((predicted == 2).astype(np.uint8)))
    run_here("evaluate.py", OUTPUT=tmp_path / "scores", **given)
    dice = pd.read_csv(tmp_path / "scores" / "cases.csv").set_index("class")["dice"]
    assert dice[1] == 1, "the whole is right, although its rest is not"
    assert dice[2] == pytest.approx(2 * (inner & shifted).sum() / (inner.sum() + (shifted & outer).sum()))
    write_json(tmp_path / "out" / "prediction.json", {"overlap": "overlapping", "class_names": ["all", "core"]})
    words = "out: no label volume of class all for a; predict it again"
    assert len(assert_refused("evaluate.py", words, OUTPUT=tmp_path / "no", **given).splitlines()) == 1


@pytest.mark.slow
def test_a_network_learns_and_predicts_regions(tmp_path):
    write_decathlon(tmp_path / "data", cases=4)
    given = {"DATA": tmp_path / "data", "STEP": "single", "SPACING": 3.0, "VOXELS": 5000}
    run_here("preprocess/3_pack_volumes.py", PACKED=tmp_path / "packed", NESTED=True, **given)
    sets = {name.upper(): tmp_path / "packed" / f"{name}.h5" for name in ("train", "validation")}
    small = {"MODEL": "se_resunet3d", "MODEL_SETTINGS": TINY_SE_RESUNET3D, "LOSS": "bce+dice", "EPOCHS": 2}
    run_here("train.py", RUNS=tmp_path / "runs", BATCH_SIZE=1, LEARNING_RATE=0.01, **sets, **small)
    run = only_folder(tmp_path / "runs")
    run_here("predict.py", RUN=run, INPUT=tmp_path / "data" / "imagesTr", OUTPUT=tmp_path / "out", THRESHOLD=0.2)
    labels = sitk.ReadImage(str(next((tmp_path / "out").glob("*.nii.gz"))))
    assert sitk.GetArrayFromImage(labels).max() <= 2
    run_here(
        "evaluate.py", PREDICTED=tmp_path / "out", TRUTH=tmp_path / "data" / "labelsTr", OUTPUT=tmp_path / "scores"
    )
    assert sorted(pd.read_csv(tmp_path / "scores" / "cases.csv")["class"].unique()) == [1, 2]


def test_a_file_for_each_channel_is_packed_like_one_with_all(tmp_path):
    """The layout of BraTS: a folder for each case, with a file for each contrast and one for the labels."""
    rng = np.random.default_rng(0)
    for number in range(3):
        name = f"BraTS_{number:03d}"
        channels = rng.normal(size=(2, 8, 12, 12)).astype(np.float32)
        label = rng.integers(0, 3, (8, 12, 12)).astype(np.uint8)
        for contrast, values in zip(("flair", "t1"), channels, strict=True):
            write(tmp_path / "brats" / name, f"{name}_{contrast}.nii.gz", as_volume(values))
        write(tmp_path / "brats" / name, f"{name}_seg.nii.gz", as_volume(label))
        joined = sitk.JoinSeries([as_volume(values) for values in channels])
        write(tmp_path / "images", f"{name}.nii.gz", joined)
        write(tmp_path / "labels", f"{name}.nii.gz", as_volume(label))
    given = {"STEP": "single", "SPACING": None, "INTENSITY": "mr"}
    folder = {"IMAGES": tmp_path / "brats", "LABELS": tmp_path / "brats", "LABEL_NAME": "{id}_seg"}
    patterns = ["{id}_flair", "{id}_t1"]
    said = f'if each channel has a file, use --channels "{patterns}"'
    assert_refused("preprocess/3_pack_volumes.py", said, PACKED=tmp_path / "files", **folder, **given)
    run_here("preprocess/3_pack_volumes.py", PACKED=tmp_path / "files", CHANNELS=patterns, **folder, **given)
    one = {"IMAGES": tmp_path / "images", "LABELS": tmp_path / "labels"}
    run_here("preprocess/3_pack_volumes.py", PACKED=tmp_path / "one", **one, **given)
    found, expected = (open_set(tmp_path / name / "train.h5") for name in ("files", "one"))
    assert found.channels == 2 and found.record().patterns == patterns
    for i in range(len(found)):
        for ours, theirs in zip(found.shown_volume(i), expected.shown_volume(i), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    (tmp_path / "brats" / "BraTS_001" / "BraTS_001_t1.nii.gz").unlink()
    refused = {"PACKED": tmp_path / "no", "CHANNELS": patterns}
    assert_refused("preprocess/3_pack_volumes.py", "its channel BraTS_001/BraTS_001_t1 is missing", **refused, **folder)
    volumes, further = find_files(tmp_path / "brats" / "BraTS_000", patterns)
    assert list(volumes) == ["BraTS_000"] and [path.name for path in further[volumes["BraTS_000"]]] == [
        "BraTS_000_t1.nii.gz"
    ]
