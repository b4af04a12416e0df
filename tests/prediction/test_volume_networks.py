"""Prediction of volumes: losses and metrics by numpy, tiles, and the two steps of docs/decathlon.md."""

import json
import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from drawings import STRAIGHT, TURNED, write_decathlon
from running import assert_refused, bytes_of, leftovers, run_here

from common import devices
from common.prediction.volume_tiles import mean_probabilities, tile_corners
from common.setting_checks import check
from common.setting_types import Crop
from common.volumes.grids import Geometry, image_at, orient, require_room
from common.volumes.intensity import Scale
from common.volumes.labels import label_numbers

devices.import_keras()
from common.errors import InputError, SettingError
from common.prediction.uncertainty import moments_of_volume
from common.prediction.volume_networks import (
    Options,
    Stage,
    Volume,
    labels_on_grid,
    predict_labels,
)
from common.training.trained_models import find_volume_models
from common.training.volume_grids import plain_geometry
from losses import get_loss
from losses.metrics import Overlap

# --- losses and metrics of volumes


def test_losses_and_metrics_of_volumes_are_those_of_numpy():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, (2, 4, 5, 6, 1)).astype(np.uint8)
    p = rng.uniform(0.01, 0.99, (2, 4, 5, 6, 3)).astype(np.float32)
    t = (y == np.arange(1, 4)).astype(float)
    both, target, guess = ((a).sum(axis=(1, 2, 3)) for a in (t * p, t, p))
    expected = {
        "smooth_dice": np.mean(1 - (2 * both + 1) / (target + guess + 1)),
        "dice": np.mean(1 - 2 * both / (target + guess)),
        "iou": np.mean(1 - both / (target + guess - both)),
        "bce": -np.mean(t * np.log(p) + (1 - t) * np.log(1 - p)),
        "mse": np.mean((t - p) ** 2),
    }
    for name, value in expected.items():
        assert np.isclose(float(get_loss(name, 3, axes=3)(y, p)), value, atol=1e-5), name
    for flat in ("hausdorff", "cce", "focal", "kld", "series"):
        with pytest.raises(ValueError, match="is for slices"):
            get_loss(f"dice+{flat}" if flat != "series" else flat, 3, axes=3)
    numbers = label_numbers(np.moveaxis(p, -1, 0))
    assert np.array_equal(numbers, (p.argmax(-1) + 1) * (p.sum(-1) > 0.5))
    hard = (numbers[..., None] == np.arange(1, 4)).astype(float)
    dice = 2 * (hard * t).sum(axis=(1, 2, 3)) / (hard.sum(axis=(1, 2, 3)) + target)
    metric = Overlap("dice")
    metric.update_state(y, p)
    assert np.isclose(float(metric.result()), dice.mean(), atol=1e-6)


# --- tiles


class Same:
    """A network that gives back the first channel."""

    output_shape = (None, None, None, None, 1)

    def predict_on_batch(self, x):
        return x[..., :1]


@pytest.mark.parametrize("tile", [[8, 8, 8], [16, 7, 40], None])
def test_tiles_cover_a_volume(tile):
    image = np.random.default_rng(0).normal(size=(17, 30, 23, 2)).astype(np.float32)
    found = mean_probabilities([Same(), Same()], image, voxels=None if tile else 1000, tile=tile)
    assert np.allclose(found, image[..., :1], atol=1e-5)


class Lopsided:
    """A network that gives back the first channel, with weights that grow along all three axes."""

    output_shape = (None, None, None, None, 1)

    def predict_on_batch(self, x):
        k, j, i = np.indices(x.shape[1:4])
        return x[..., :1] * (1 + k + 10 * j + 100 * i)[None, ..., None]


@pytest.mark.parametrize("tile", [[4, 5, 6], None])
def test_flips_are_averaged_over_all_axes(tile):
    """Along each axis, weights and their mirror image add up to a constant."""
    image = np.random.default_rng(0).normal(size=(4, 5, 6, 1)).astype(np.float32)
    found = mean_probabilities([Lopsided(), Lopsided()], image, tile=tile, flips="flips")
    assert np.allclose(found, image * (1 + 1.5 + 20 + 250), rtol=1e-5)
    assert not np.allclose(mean_probabilities([Lopsided()], image, tile=tile), found)


def test_tiles_overlap_as_much_as_asked():
    starts = list(tile_corners((20, 8, 31), (8, 8, 10), 0.5))
    assert {s[1] for s in starts} == {0} and min(starts) == (0, 0, 0) and max(starts) == (12, 0, 21)
    assert all(np.diff(sorted({s[axis] for s in starts})).max() <= size / 2 for axis, size in ((0, 8), (2, 10)))


def test_too_many_tiles_are_refused_before_the_first():
    with pytest.raises(SettingError, match=r"TILE and OVERLAP: too many tiles \(.* for 500x500x300 voxels"):
        tile_corners((500, 500, 300), (8, 8, 8), 0.9)
    large = Geometry((4000, 4000, 4000), (1, 1, 1), (0, 0, 0), STRAIGHT)
    with pytest.raises(InputError, match="at most 2,000,000,000 voxels"):
        require_room(large, "a.nii: too large at the spacing of training", "crop it")
    for sides in ([1, 1, 1], [100000, 8, 8], [4096, 4096, 4096]):
        with pytest.raises(ValueError, match="from 8 to 4096"):
            check(sides, Crop)


# --- prediction


def test_two_steps_give_labels_on_the_grid_of_the_volume(decathlon_and_output):
    data, said = decathlon_and_output
    assert "(models: whole 1, then patch 1)" in said
    (found,) = (data / "predictions").glob("*.nii.gz")
    labels, image = sitk.ReadImage(str(found)), sitk.ReadImage(str(data / "Task99_Synthetic/imagesTs" / found.name))
    image = image[..., 0]
    assert Geometry.of(labels).size == Geometry.of(image).size
    for ours, theirs in zip(Geometry.of(labels)[1:], Geometry.of(image)[1:], strict=True):
        assert np.allclose(ours, theirs, atol=1e-6)
    table = pd.read_csv(data / "predictions" / "volumes.csv")
    counts = np.bincount(sitk.GetArrayFromImage(labels).ravel(), minlength=4)[1:]
    assert list(table["label"]) == ["outer", "inner", "lesion"] and list(table["voxels"]) == list(counts)
    assert (data / "predictions" / "overlays" / "volume_05.png").is_file()
    page = (data / "predictions" / "viewers" / "volume_05.html").read_text()
    assert page.count('id="slice-') == sitk.GetArrayFromImage(orient(labels)).shape[0]
    assert all(f"</i>{name}</span>" in page for name in ("outer", "inner", "lesion"))
    assert (data / "scores" / "report.html").is_file() and not leftovers(data)


@pytest.mark.slow
def test_a_broken_volume_does_not_lose_the_others(decathlon, decathlon_runs, tmp_path):
    images = shutil.copytree(decathlon / "Task99_Synthetic" / "imagesTs", tmp_path / "images")
    (images / "cut.nii.gz").write_bytes((images / "volume_05.nii.gz").read_bytes()[:-900])
    one = image_at(np.zeros((9, 9, 9), np.int16), plain_geometry((9, 9, 9), (1, 1, 1)))
    sitk.WriteImage(one, str(images / "one.nii"))
    more = {"PROBABILITIES": True, "VIEWER_FILES": ["osirix", "itk-snap"], "UNCERTAINTY": True}
    result = run_here("predict.py", RUN=decathlon_runs[1], INPUT=images, OUTPUT=tmp_path / "p", expect=1, **more)
    for words in (
        "2 volumes cannot",
        "cut.nii.gz: damaged",
        "one.nii: wrong number of channels (1)",
        "The other volumes were",
    ):
        assert words in result.stderr
    assert [path.name for path in (tmp_path / "p").glob("*.nii.gz")] == ["volume_05.nii.gz"]
    names = [line.split('"')[1] for line in (tmp_path / "p" / "classes.label").read_text().splitlines()[5:]]
    labels = sitk.ReadImage(str(tmp_path / "p" / "volume_05.nii.gz"))
    found = [sitk.ReadImage(str(tmp_path / "p" / "probabilities" / name / "volume_05.nii.gz")) for name in names[1:]]
    expected = label_numbers(map(sitk.GetArrayFromImage, found))
    assert np.mean(expected != sitk.GetArrayFromImage(labels)) < 0.01  # rounding to half precision
    assert {one.GetSize() for one in found} == {labels.GetSize()} and (tmp_path / "p/osirix/volume_05.xml").is_file()
    maps = [sitk.ReadImage(str(tmp_path / "p" / name / "volume_05.nii.gz")) for name in ("probability", "uncertainty")]
    probability, unsure = map(sitk.GetArrayFromImage, maps)
    assert np.allclose(probability, np.clip(sum(map(sitk.GetArrayFromImage, found)), 0, 1), atol=0.02)
    assert {one.GetSize() for one in maps} == {labels.GetSize()} and 0 <= unsure.min() <= unsure.max() <= 1
    (row,) = (tmp_path / "p" / "cases_to_label.csv").read_text().splitlines()[1:]
    assert row.startswith("volume_05,") and 1 <= int(row.split(",")[1]) <= labels.GetSize()[2]
    assert not leftovers(tmp_path)


@pytest.mark.slow
def test_workers_predict_volumes_as_one_run_does(scheduler, decathlon, decathlon_runs, tmp_path):
    """Byte for byte, in two steps; a broken volume is the same message."""
    images = shutil.copytree(decathlon / "Task99_Synthetic" / "imagesTs", tmp_path / "images")
    shutil.copy(images / "volume_05.nii.gz", images / "again.nii.gz")
    (images / "cut.nii.gz").write_bytes((images / "volume_05.nii.gz").read_bytes()[:-900])
    settings, said = {"RUN": list(map(str, decathlon_runs)), "INPUT": images, "PROBABILITIES": True}, []
    settings["UNCERTAINTY"] = True
    for name, workers in (("alone", {}), ("shared", {"WORKERS": scheduler})):
        result = run_here("predict.py", **settings, OUTPUT=tmp_path / name / "out", **workers, expect=1)
        said.append(result.stderr)
    assert said[0] == said[1] and "cut.nii.gz: damaged" in said[0]
    alone, shared = bytes_of(tmp_path / "alone"), bytes_of(tmp_path / "shared")
    assert alone == shared and {"out/again.nii.gz", "out/volumes.csv"} < set(alone) and not leftovers(tmp_path)


@pytest.mark.slow
def test_where_the_first_step_finds_nothing_the_second_sees_all(decathlon, decathlon_runs):
    models = find_volume_models(decathlon_runs, "best_dice")
    stages = {step: Stage(of_step, None) for step, of_step in models.items()}
    (path,) = (decathlon / "Task99_Synthetic" / "imagesTs").iterdir()
    options = Options(0.5, 0.5, None, ".nii.gz", {}, False, None)
    (network,) = stages["whole"].networks
    kernel, bias = network.get_layer("logits").get_weights()
    for shift, note in ((-50, "the first step found nothing; the second step uses the whole volume"), (50, "")):
        network.get_layer("logits").set_weights([0 * kernel, 0 * bias + shift])
        labels, said = predict_labels(Volume(path, None), stages, options)
        assert said == note and labels.GetSize() == sitk.ReadImage(str(path)).GetSize()[:3]


class Heads:
    """Two labels everywhere, and a region where the image is bright."""

    def predict_on_batch(self, x):
        region = 0.9 * (x > 0)
        return np.concatenate([np.full(x.shape, 0.6), np.full(x.shape, 0.7), region], axis=-1).astype(np.float32)


@pytest.fixture
def stage_with_region():
    """Stage of the step "single" whose network has a second output."""
    names = ("step", "labels", "channels", "spacing", "smallest_side", "voxels", "smallest_box", "margin")
    values = ("single", ["a", "b"], 1, None, 0, None, 4, 0.25)
    stage = Stage.__new__(Stage)
    stage.data = SimpleNamespace(**dict(zip(names, values, strict=True)), sharing="", intensity=None)
    stage.tile, stage.flips, stage.networks, stage.two_headed = None, "none", [None], [Heads()]
    return stage


def test_labels_outside_of_the_region_are_dropped(stage_with_region, monkeypatch):
    monkeypatch.setattr(Volume, "scales", lambda self, stage: [Scale(0, 1, 0.5, 1)])
    values = np.zeros((12, 14, 16), np.float32)
    values[3:7, 5:9, 4:12], values[10, 12, 14] = 1, 1  # the smaller part is not the region
    volume = Volume.__new__(Volume)
    volume.path, volume._scales = "a.nii.gz", {}
    volume.channels = [sitk.GetImageFromArray(values)]
    volume.original = volume.geometry = Geometry.of(volume.channels[0])
    options, kept = Options(0.5, 0.5, None, ".nii.gz", {}, False, None), []
    further = partial(moments_of_volume, nested=False)
    stages = {"single": stage_with_region}
    labels, note = predict_labels(volume, stages, options, lambda p, grid: kept.append(p), further)
    expected = np.zeros(values.shape)
    expected[2:8, 4:10, 2:14] = 2  # with a quarter of each side as margin
    np.testing.assert_array_equal(sitk.GetArrayFromImage(labels), expected)
    assert note == "" and kept[0].shape == (*values.shape, 2 + 2)
    for order, number in (("first", 1), ("last", 2)):
        found, _ = predict_labels(volume, stages, options._replace(order=order))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(found), (expected > 0) * number)
    volume.channels = [0 * volume.channels[0]]
    labels, note = predict_labels(volume, stages, options)
    assert (sitk.GetArrayFromImage(labels) == 2).all() and note.startswith("the region output found nothing")


@pytest.mark.slow
def test_one_network_with_a_region_output_is_trained_and_predicts(tmp_path):
    data = write_decathlon(tmp_path / "data", cases=4)
    packing = {"STEP": "single", "SPACING": 2.5, "VOXELS": 5000, "SMALLEST_BOX": 4}
    run_here("preprocess/3_pack_volumes.py", DATA=data, PACKED=tmp_path / "packed", **packing)
    settings = {"TRAIN": tmp_path / "packed" / "train.h5", "VALIDATION": tmp_path / "packed" / "validation.h5"}
    own = {"features": 4, "depth": 2, "ratio": 2, "noise": 0.0, "roi": True, "last_relu": True}
    settings |= {"MODEL": "se_resunet3d", "MODEL_SETTINGS": own, "LOSS": "smooth_dice", "EPOCHS": 20}
    said = run_here("train.py", RUNS=tmp_path / "runs", LEARNING_RATE=0.01, AUGMENTATION={}, **settings).stdout
    assert "finished all 20 epochs" in said
    models = find_volume_models([tmp_path / "runs"], "last")
    (stage,) = (Stage(of_step, None) for of_step in models.values())
    assert stage.has_region
    path = data / "imagesTr" / "case_01.nii.gz"
    volume = Volume(path)
    grid = stage.grid(volume.geometry)
    found, has_region = stage.probabilities_in_region(volume, grid, 0.5, 0.5)
    usual = stage.probabilities(volume, grid, 0.5)
    assert has_region and ((found == usual) | (found == 0)).all() and not ((usual > 0) & (usual <= 0.5)).any()
    given = {"RUN": tmp_path / "runs", "INPUT": path, "OVERLAYS": False, "WEIGHTS_FILE": "last"}
    said = run_here("predict.py", OUTPUT=tmp_path / "out", **given).stdout
    assert "the region output found nothing" not in said
    assert sitk.ReadImage(str(tmp_path / "out" / "case_01.nii.gz")).GetSize() == volume.original.size


@pytest.mark.slow
def test_a_file_for_each_channel_is_predicted_as_one_volume(decathlon, decathlon_runs, tmp_path):
    """imagesTs of nnU-Net."""
    (path,) = (decathlon / "Task99_Synthetic" / "imagesTs").iterdir()
    volume, images = sitk.ReadImage(str(path)), tmp_path / "Dataset001_A" / "imagesTs"
    images.mkdir(parents=True)
    for channel in range(volume.GetSize()[3]):
        sitk.WriteImage(volume[..., channel], str(images / f"scan_{channel:04d}.nii.gz"))
    about = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz"}
    (images.parent / "dataset.json").write_text(json.dumps(about))
    run_here("predict.py", RUN=decathlon_runs[0], INPUT=images, OUTPUT=tmp_path / "a", OVERLAYS=False)
    run_here("predict.py", RUN=decathlon_runs[0], INPUT=path, OUTPUT=tmp_path / "b", OVERLAYS=False)
    found, expected = tmp_path / "a" / "scan.nii.gz", tmp_path / "b" / path.name
    np.testing.assert_array_equal(*(sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in (found, expected)))


def test_runs_that_do_not_belong_together(decathlon_runs, trained, tmp_path):
    settings = {"RUN": decathlon_runs[0], "INPUT": tmp_path, "OUTPUT": tmp_path / "out"}
    assert_refused("predict.py", "PASTE: not for 3-D models", status=2, **settings, PASTE=tmp_path)
    assert_refused("predict.py", '"turns" is not available for 3-D models', **settings, FLIPS="turns")
    for name, value in {"PLANE": "coronal", "WINDOW": [0, 9], "SPACING": 2.0, "FIT": "pad", "CHANNELS": "rgb"}.items():
        assert_refused("predict.py", f"{name}: ", "not for 3-D models", status=2, **settings, **{name: value})
    with pytest.raises(InputError, match="was trained on slices"):
        find_volume_models([decathlon_runs[0], trained[0]], "best_dice")
    assert find_volume_models([trained[0]], "best_dice") is None
    other = shutil.copytree(decathlon_runs[1], tmp_path / "other")
    state = json.loads((other / "state.json").read_text())
    state["data"]["spacing"] = [2, 2, 2]
    (other / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match="spacing differs from"):
        find_volume_models([decathlon_runs[1], other], "best_dice")
    state["data"]["step"] = "single"
    (other / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match='cannot combine a model of step "single"'):
        find_volume_models([decathlon_runs[1], other], "best_dice")


def test_labels_are_the_greatest_probability_on_the_volumes_own_grid():
    """Probabilities on a part of a coarser grid, against the formula at each voxel."""
    own = Geometry((20, 18, 12), (0.8, 0.9, 2.0), (-4.0, 8.0, 40.0), TURNED)
    grid = Geometry((10, 12, 14), (1.0, 1.0, 1.0), (-6.0, -1.0, 44.0), STRAIGHT)
    _, j, i = np.meshgrid(*map(np.arange, grid.shape), indexing="ij")
    probabilities = np.stack([i / 9, j / 11], axis=-1).astype(np.float32)  # linear, so that interpolation is exact
    labels = labels_on_grid(probabilities, grid, own, 0.5)
    places = grid.to_voxels(own.to_points(np.argwhere(np.ones(own.shape))[:, ::-1])).reshape(*own.shape, 3)
    inside = ((places >= 0) & (places <= np.array(grid.size) - 1)).all(axis=-1)
    first, second = places[..., 0] / 9, places[..., 1] / 11
    expected = np.where(first + second > 0.5, 1 + (second > first), 0)
    sure = inside & (np.abs(first - second) > 1e-4) & (np.abs(first + second - 0.5) > 1e-4)
    assert sure.sum() > 200 and np.array_equal(labels[sure], expected[sure])
    outside = ((places < -0.51) | (places > np.array(grid.size) - 0.49)).any(axis=-1)
    assert outside.any() and not labels[outside].any()


def test_a_tile_far_larger_than_the_volume_is_refused():
    """Padding a small volume to it took gigabytes, and ended TensorFlow without a word."""
    with pytest.raises(SettingError, match=r"TILE: far larger than the volume \(found 4096x256x256 for 4x8x8 voxels"):
        mean_probabilities([], np.zeros((4, 8, 8, 1), np.float32), tile=[4096, 256, 256])
