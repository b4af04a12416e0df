"""The 3-D network, training on packed volumes, and prediction in two steps."""

import json
import shutil
import signal
import subprocess
import sys
import time

import drawings
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from drawings import STRAIGHT, TURNED, draw_case
from running import ROOT, leftovers, run_here

from common import devices
from common.volumes.grids import Geometry, image_at

devices.import_keras()
import keras
from keras import ops

from common.errors import InputError
from common.prediction.volume_networks import Options, Step, Volume, find_volume_networks, labels_of, predict_one
from common.prediction.volume_tiling import predict_volume, tile_starts, to_labels
from common.training.opening import open_set
from common.training.run_folder import load_network
from common.training.volume_augmentation import Change, plain_geometry, show
from losses import get_loss
from losses.metrics import Overlap
from models import build_model
from models.layers import PlanarConv3D

TINY = {"features": 2, "depth": 1, "ratio": 2}
AUGMENTATION = {"rotation": 10, "zoom": 0.1, "shift": 0.1, "shear": 0.1, "flip": "xyz", "gamma": 0.5}


# --- the network


@pytest.fixture(scope="module")
def network():
    return build_model("se_resunet3d", (None, None, None, 2), 3, **TINY)


def test_parameters_are_as_documented():
    assert build_model("se_resunet3d", (None, None, None, 1)).count_params() == 7_911_563


@pytest.mark.parametrize("axis", range(3))
def test_the_output_has_the_size_of_the_input(network, axis):
    for side in range(17, 41):
        size = [18, 19, 17]
        size[axis] = side
        assert network.predict_on_batch(np.zeros((1, *size, 2), np.float32)).shape == (1, *size, 3)


def test_levels_are_those_of_the_paper():
    """Three levels of 64, 128 and 256 channels below one of 32; squeezed to a sixteenth."""
    model = build_model("se_resunet3d", (None, None, None, 1))
    widths = {layer.name: layer.output.shape[-1] for layer in model.layers}
    assert [widths[f"down{level}_add"] for level in (1, 2, 3)] == [64, 128, 256]
    assert widths["first_relu"] == 32 and widths["down3_narrow"] == 16 and widths["output"] == 1
    deeper = build_model("se_resunet3d", (None, None, None, 1), depth=4)
    assert deeper.get_layer("down4_add").output.shape[-1] == 512
    with pytest.raises(ValueError, match="ratio >= 1"):
        build_model("se_resunet3d", (None, None, None, 1), ratio=0)
    with pytest.raises(ValueError, match="not for slices"):
        build_model("se_resunet3d", (64, 64, 1))
    with pytest.raises(ValueError, match="not for volumes; take se_resunet3d"):
        build_model("unet", (None, None, None, 1))


def test_planar_convolution_is_the_convolution():
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 7, 3)).astype(np.float32)
    ours, theirs = (kind(4, 3, padding="same", use_bias=False) for kind in (PlanarConv3D, keras.layers.Conv3D))
    theirs(x), ours(x)
    ours.set_weights(theirs.get_weights())
    assert np.allclose(*(ops.convert_to_numpy(layer(x)) for layer in (ours, theirs)), atol=1e-5)


def test_a_saved_network_gives_the_same(network, tmp_path):
    network.save(tmp_path / "n.keras")
    x = np.random.default_rng(0).normal(size=(1, 19, 22, 17, 2)).astype(np.float32)
    assert np.array_equal(*(n.predict_on_batch(x) for n in (network, load_network(tmp_path / "n.keras"))))


def test_it_learns_two_cases_by_heart():
    keras.utils.set_random_seed(1)
    model = build_model("se_resunet3d", (None, None, None, 1), 2, features=4, depth=1, ratio=2, noise=0)
    model.compile(keras.optimizers.Adam(0.006), get_loss("bce+dice", 2, axes=3), jit_compile=False)
    cases = [map(sitk.GetArrayFromImage, draw_case(seed, (22, 20, 16))) for seed in (1, 2)]
    images, labels = zip(*cases, strict=True)
    x, y = np.stack(images)[..., None] / np.float32(250) - 1, np.stack(labels)[..., None]
    metric = Overlap("dice")
    for step in range(150):
        model.train_on_batch(x, y)
        if step % 25 == 24:
            metric.reset_state()
            metric.update_state(y, model.predict_on_batch(x))
            if metric.result() > 0.95:
                return
    pytest.fail(f"Dice {float(metric.result()):.3f} after 150 steps")


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
    numbers = to_labels(p)
    assert np.array_equal(numbers, (p.argmax(-1) + 1) * (p.sum(-1) > 0.5))
    hard = (numbers[..., None] == np.arange(1, 4)).astype(float)
    dice = 2 * (hard * t).sum(axis=(1, 2, 3)) / (hard.sum(axis=(1, 2, 3)) + target)
    metric = Overlap("dice")
    metric.update_state(y, p)
    assert np.isclose(float(metric.result()), dice.mean(), atol=1e-6)


# --- augmentation


def shown(image, labels, change, spacing=(1, 1, 1)):
    geometry = plain_geometry(labels.shape, spacing)
    return show(lambda box: (image[box.slices], labels[box.slices]), geometry, geometry, change)


def still(**settings):
    """A Change whose random numbers are all the greatest."""

    class Greatest:
        def uniform(self, low, high, size=None):
            return np.full(size, high, float) if size else high

        def random(self, size=None):
            return np.zeros(size) if size else 0.0

    return Change(settings, Greatest())


@pytest.fixture
def volume():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(9, 11, 13, 2)).astype(np.float16)
    return image, rng.integers(0, 3, (9, 11, 13)).astype(np.uint8)


def test_nothing_changes_without_a_change(volume):
    for change in (None, still()):
        image, labels = shown(*volume, change)
        assert np.array_equal(image, volume[0].astype(np.float32)) and np.array_equal(labels, volume[1])


@pytest.mark.parametrize(("flip", "axes"), [("x", [2]), ("y", [1]), ("xz", [0, 2])])
def test_flips_mirror_along_their_axes(volume, flip, axes):
    image, labels = shown(*volume, still(flip=flip))
    assert np.allclose(image, np.flip(volume[0], axes), atol=1e-5) and np.array_equal(labels, np.flip(volume[1], axes))


def test_shift_and_zoom_and_gamma(volume):
    ramp = np.broadcast_to(np.arange(13, dtype=np.float16)[:, None], (9, 11, 13, 1))
    moved = shown(ramp, volume[1], still(shift=2 / 13))[0][4, 5, :, 0]
    assert np.allclose(moved, [*range(2, 13), 0, 0], atol=1e-4)  # 0 is what lies outside
    ramp = np.broadcast_to(np.arange(20, dtype=np.float16)[:, None, None, None], (20, 20, 20, 1))
    nothing = np.zeros((20, 20, 20), np.uint8)
    zoomed = shown(ramp, nothing, still(zoom=0.25))[0][:, 10, 10, 0]
    assert np.allclose(np.diff(zoomed[2:-2]), 1 / 1.25, atol=1e-4) and np.isclose(zoomed[9:11].mean(), 9.5)
    graded = shown(ramp, nothing, still(gamma=0.5))[0][:, 0, 0, 0]
    assert np.allclose(graded, (np.arange(20) / 19) ** 1.5 * 19, atol=1e-2)


def test_rotation_is_in_mm_and_about_the_middle():
    """A quarter turn of a grid twice as coarse along one axis."""
    labels = np.zeros((21, 21, 21), np.uint8)
    labels[:, 10, 14:17] = 1  # 8 to 12 mm to the left
    change = still()
    change.angles = np.array([0, 0, np.pi / 2])
    turned = shown(labels[..., None].astype(np.float16), labels, change, spacing=(2, 1, 1))[1]
    found = np.argwhere(turned)
    assert set(found[:, 2]) == {10} and (set(found[:, 1]) <= set(range(18, 24)) or set(found[:, 1]) <= set(range(0, 4)))
    assert turned.sum() > 0


# --- tiles


class Same:
    """A network that gives back the first channel."""

    output_shape = (None, None, None, None, 1)

    def predict_on_batch(self, x):
        return x[..., :1]


@pytest.mark.parametrize("tile", [[8, 8, 8], [16, 7, 40], None])
def test_tiles_cover_a_volume(tile):
    image = np.random.default_rng(0).normal(size=(17, 30, 23, 2)).astype(np.float32)
    found = predict_volume([Same(), Same()], image, voxels=None if tile else 1000, tile=tile)
    assert np.allclose(found, image[..., :1], atol=1e-5)


def test_tiles_overlap_as_much_as_asked():
    starts = list(tile_starts((20, 8, 31), (8, 8, 10), 0.5))
    assert {s[1] for s in starts} == {0} and min(starts) == (0, 0, 0) and max(starts) == (12, 0, 21)
    assert all(np.diff(sorted({s[axis] for s in starts})).max() <= size / 2 for axis, size in ((0, 8), (2, 10)))


# --- the recipe of docs/recipes/decathlon.md, small, which the other tests take what they need from

SMALL = {
    "data/make_volumes.py": ["--train", "4", "--test", "1"],
    "preprocess/3_pack_volumes.py": ["--voxels", "5000", "--smallest-box", "12"],
    "train.py": ["--epochs", "3", "--max-minutes", "None", "--model-settings", repr(TINY), "--optimizer", "sgd"],
}


def recipe(place):
    """Commands of the recipe in `place`, as (script, flags)."""
    commands = []
    for _, script, *flags in drawings.commands_of("decathlon.md"):
        flags = [flag.replace("decathlon/", f"{place}/") for flag in flags]
        commands.append((script, [*flags, *SMALL.get(script, [])]))
    return commands


@pytest.fixture(scope="module")
def cooked(made_once):
    """Folder in which the recipe was followed, and what its commands printed."""

    def cook(place):
        out = ""
        for script, flags in recipe(place):
            out += run_here(script, *flags).stdout
        return out

    return made_once("decathlon", cook)


@pytest.fixture(scope="module")
def data(cooked):
    return cooked[0]


@pytest.fixture(scope="module")
def runs(data):
    """Run folders of both steps."""
    return [next((data / f"runs_{step}").iterdir()) for step in ("whole", "patch")]


def test_run_folder_of_volumes_is_complete(runs):
    for run, step in zip(runs, ("whole", "patch"), strict=True):
        for name in ("best_dice.keras", "last.keras", "report.html", "curves.png", "validation_slices.png"):
            assert (run / name).is_file(), name
        about = json.loads((run / "state.json").read_text())["data"]
        assert about["kind"] == "volumes" and about["step"] == step and about["channels"] == 2
        log = pd.read_csv(run / "training_log.csv")
        assert len(log) == 3 and np.isfinite(log.to_numpy()).all()


def test_a_killed_run_of_volumes_goes_on_as_if_it_had_not_been(data, runs, tmp_path):
    script, flags = next(command for command in recipe(data) if command[0] == "train.py")
    command = [sys.executable, str(ROOT / script), *flags, "--runs", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("2*/last.keras")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (run,) = tmp_path.glob("2*")
    assert len(pd.read_csv(run / "training_log.csv")) < 3
    run_here("train.py", MODE="resume", RUN=run)
    ours, theirs = (load_network(r / "last.keras").get_weights() for r in (run, runs[0]))
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_batches_depend_on_seed_and_epoch_alone(data):
    in_memory, in_file = (open_set(data / "patch" / "train.h5", gb) for gb in (4, 0))
    assert in_memory.in_memory and not in_file.in_memory
    settings = AUGMENTATION | {"margins": [0.1, 0.3]}

    def epoch(packed, number):
        batches = packed.batches(1, 7, settings)
        batches.on_epoch_begin()
        batches.set_epoch(number)
        return [batches[i] for i in (2, 0, 1)]

    first = epoch(in_memory, 3)
    for (x, y), (other_x, other_y) in zip(first, epoch(in_file, 3), strict=True):
        assert np.array_equal(x, other_x) and np.array_equal(y, other_y)
        assert x.dtype == np.float32 and y.dtype == np.uint8 and x.shape[:4] == y.shape[:4] and x.shape[0] == 1
        assert np.prod(x.shape[1:4]) <= 1.1 * 5000
    assert any(
        x.shape != other.shape or not np.array_equal(x, other)
        for (x, _), (other, _) in zip(first, epoch(in_memory, 4), strict=True)
    )


def test_crops_are_equal_and_often_hold_a_label(data):
    packed = open_set(data / "whole" / "train.h5")
    batches = packed.batches(2, 1, {}, crop=[8, 10, 12])
    with_label = 0
    assert len(batches) == -(-sum(-(-np.prod(packed.shown(i).size) // 960) for i in range(len(packed))) // 2)
    for epoch in range(10):
        batches.set_epoch(epoch)
        x, y = batches[0]
        assert x.shape == (2, 8, 10, 12, 2) and y.shape == (2, 8, 10, 12, 1)
        with_label += y.any(axis=(1, 2, 3, 4)).sum()
    assert with_label >= 10
    covered = packed.batches(2, crop=[8, 10, 12])
    voxels = sum(np.prod(packed.shown(i).size) for i in range(len(packed)))
    assert sum(len(covered[i][0]) for i in range(len(covered))) * 960 >= voxels


def test_it_trains_on_crops_and_predicts_in_tiles(data, tmp_path):
    sets = {"TRAIN": data / "whole" / "train.h5", "VALIDATION": data / "whole" / "validation.h5"}
    settings = {"MODEL": "se_resunet3d", "MODEL_SETTINGS": TINY, "CROP": [8, 12, 12], "BATCH_SIZE": 2, "EPOCHS": 1}
    run_here("train.py", **sets, **settings, OPTIMIZER="sgd", RUNS=tmp_path / "runs")
    run_here("predict.py", RUN=tmp_path / "runs", INPUT=data / "Task99_Synthetic/imagesTs", OUTPUT=tmp_path / "p")
    assert len(list((tmp_path / "p").glob("*.nii.gz"))) == 1


def test_bad_settings_for_volumes(data, tmp_path):
    packed = open_set(data / "whole" / "train.h5")
    for words, arguments in (
        ("BATCH_SIZE is 2; .* give --crop", (2, 1)),
        ("AUGMENTATION has 'elastic'", (1, 1, {"elastic": 1})),
        ("rotation is 'much'", (1, 1, {"rotation": "much"})),
        ("flip is 'up'", (1, 1, {"flip": "up"})),
        ("margins are for volumes that were packed with the step", (1, 1, {"margins": [0.1]})),
        ("CROP is", (1, 1, {}, [8, 8])),
    ):
        with pytest.raises(ValueError, match=words):
            packed.batches(*arguments)
    shutil.copy(data / "whole" / "train.h5", tmp_path / "alone.h5")
    with pytest.raises(InputError, match="links to cases"):
        open_set(tmp_path / "alone.h5")


# --- prediction


def test_two_steps_give_labels_on_the_grid_of_the_volume(cooked):
    data, said = cooked
    assert "networks: whole with 1, then patch with 1" in said
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
    assert (data / "scores" / "report.html").is_file() and not leftovers(data)


def test_a_broken_volume_does_not_lose_the_others(data, runs, tmp_path):
    images = shutil.copytree(data / "Task99_Synthetic" / "imagesTs", tmp_path / "images")
    (images / "cut.nii.gz").write_bytes((images / "volume_05.nii.gz").read_bytes()[:-900])
    one = image_at(np.zeros((9, 9, 9), np.int16), plain_geometry((9, 9, 9), (1, 1, 1)))
    sitk.WriteImage(one, str(images / "one.nii"))
    result = run_here("predict.py", RUN=runs[1], INPUT=images, OUTPUT=tmp_path / "p", expect=1)
    for words in ("2 volumes cannot", "cut.nii.gz is damaged", "one.nii has 1 channels", "The others were"):
        assert words in result.stderr
    assert [path.name for path in (tmp_path / "p").glob("*.nii.gz")] == ["volume_05.nii.gz"]
    assert not leftovers(tmp_path)


def test_where_the_first_step_finds_nothing_the_second_sees_all(data, runs):
    steps = {step: Step(*found, None) for step, found in find_volume_networks(runs, "best_dice").items()}
    (path,) = (data / "Task99_Synthetic" / "imagesTs").iterdir()
    options = Options(0.5, 0.5, None, ".nii.gz", {}, False, None)
    (network,) = steps["whole"].networks
    kernel, bias = network.get_layer("logits").get_weights()
    for shift, note in ((-50, "the first step finds nothing; the second looks at the whole volume"), (50, "")):
        network.get_layer("logits").set_weights([0 * kernel, 0 * bias + shift])
        labels, said = predict_one(Volume(path, None), steps, options)
        assert said == note and labels.GetSize() == sitk.ReadImage(str(path)).GetSize()[:3]


def test_runs_that_do_not_belong_together(runs, trained, tmp_path):
    with pytest.raises(InputError, match="was trained on slices"):
        find_volume_networks([runs[0], trained[0]], "best_dice")
    assert find_volume_networks([trained[0]], "best_dice") is None
    other = shutil.copytree(runs[1], tmp_path / "other")
    state = json.loads((other / "state.json").read_text())
    state["data"]["spacing"] = [2, 2, 2]
    (other / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match="differ in spacing"):
        find_volume_networks([runs[1], other], "best_dice")
    state["data"]["step"] = "single"
    (other / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match="stands alone"):
        find_volume_networks([runs[1], other], "best_dice")


def test_labels_are_the_greatest_probability_on_the_volumes_own_grid():
    """Probabilities on a part of a coarser grid, against the formula at each voxel."""
    own = Geometry((20, 18, 12), (0.8, 0.9, 2.0), (-4.0, 8.0, 40.0), TURNED)
    grid = Geometry((10, 12, 14), (1.0, 1.0, 1.0), (-6.0, -1.0, 44.0), STRAIGHT)
    _, j, i = np.meshgrid(*map(np.arange, grid.shape), indexing="ij")
    probabilities = np.stack([i / 9, j / 11], axis=-1).astype(np.float32)  # linear, so that interpolation is exact
    labels = labels_of(probabilities, grid, own, 0.5)
    places = grid.to_voxels(own.to_points(np.argwhere(np.ones(own.shape))[:, ::-1])).reshape(*own.shape, 3)
    inside = ((places >= 0) & (places <= np.array(grid.size) - 1)).all(axis=-1)
    first, second = places[..., 0] / 9, places[..., 1] / 11
    expected = np.where(first + second > 0.5, 1 + (second > first), 0)
    sure = inside & (np.abs(first - second) > 1e-4) & (np.abs(first + second - 0.5) > 1e-4)
    assert sure.sum() > 200 and np.array_equal(labels[sure], expected[sure])
    outside = ((places < -0.51) | (places > np.array(grid.size) - 0.49)).any(axis=-1)
    assert outside.any() and not labels[outside].any()
