"""Training on packed volumes: augmentation, batches, crops, and runs that were stopped."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from running import ROOT, decathlon_recipe, only_folder, run_here

from common.errors import InputError
from common.settings import Settings
from common.training.augmentation import VolumeChange
from common.training.configure import with_grid
from common.training.sets import open_set
from common.training.trained_models import load_network
from common.training.volume_grids import plain_geometry, read_grid
from common.volumes.grids import Box, grid_of_box

AUGMENTATION = {"rotation": 10, "zoom": 0.1, "shift": 0.1, "shear": 0.1, "flip": "xyz", "gamma": 0.5}


# --- augmentation


def shown(image, labels, change, spacing=(1, 1, 1)):
    geometry = plain_geometry(labels.shape, spacing)
    return read_grid(lambda box: (image[box.slices], labels[box.slices]), geometry, geometry, change)


def still(**settings):
    """A VolumeChange whose random numbers are all the greatest."""

    class Greatest:
        def uniform(self, low, high, size=None):
            return np.full(size, high, float) if size else high

        def random(self, size=None):
            return np.zeros(size) if size else 0.0

    return VolumeChange(settings, Greatest())


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
    inverted = VolumeChange({"invert": 1}, np.random.default_rng(0)).change_values(ramp.astype(np.float32))
    assert np.array_equal(inverted, ramp[::-1])


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


# --- the recipe of docs/decathlon.md, small


def test_run_folder_of_volumes_is_complete(decathlon_runs):
    for run, step in zip(decathlon_runs, ("whole", "patch"), strict=True):
        for name in ("best_dice.keras", "last.keras", "report.html", "curves.png", "validation_slices.png"):
            assert (run / name).is_file(), name
        about = json.loads((run / "state.json").read_text())["data"]
        assert about["kind"] == "volumes" and about["step"] == step and about["channels"] == 2
        log = pd.read_csv(run / "training_log.csv")
        assert len(log) == 3 and np.isfinite(log.to_numpy()).all()
        assert (run / "progress" / "epoch-00003.jpg").is_file() and 'type="range"' in (run / "report.html").read_text()


@pytest.mark.slow
def test_a_killed_run_of_volumes_goes_on_as_if_it_had_not_been(decathlon, decathlon_runs, tmp_path):
    script, flags = next(command for command in decathlon_recipe(decathlon) if command[0] == "train.py")
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
    ours, theirs = (load_network(r / "last.keras").get_weights() for r in (run, decathlon_runs[0]))
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_batches_depend_on_seed_and_epoch_alone(decathlon):
    in_memory, in_file = (open_set(decathlon / "patch" / "train.h5", gb) for gb in (4, 0))
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


def test_crops_are_equal_and_often_hold_a_label(decathlon):
    packed = open_set(decathlon / "whole" / "train.h5")
    batches = packed.batches(2, 1, {}, crop=[8, 10, 12], foreground=0.5)
    with_label = 0
    assert len(batches) == -(-sum(-(-np.prod(packed.shown_box(i).size) // 960) for i in range(len(packed))) // 2)
    for epoch in range(10):
        batches.set_epoch(epoch)
        x, y = batches[0]
        assert x.shape == (2, 8, 10, 12, 2) and y.shape == (2, 8, 10, 12, 1)
        with_label += y.any(axis=(1, 2, 3, 4)).sum()
    assert with_label >= 10
    box = packed.shown_box(0)
    for share in (0.0, 1.0):
        drawn = packed.batches(2, 1, {}, crop=[8, 8, 8], foreground=share)
        places = np.array([[2, 3, 4, 1]])  # a voxel (k, j, i) near the first corner, and its label
        starts = {drawn.draw_crop(places, box, np.random.default_rng(seed)).start for seed in range(20)}
        assert len(starts) > 1 if share == 0 else starts == {(0, 0, 0)}
    covered = packed.batches(2, crop=[8, 10, 12])
    voxels = sum(np.prod(packed.shown_box(i).size) for i in range(len(packed)))
    assert sum(len(covered[i][0]) for i in range(len(covered))) * 960 >= voxels


def test_networks_get_the_spacing_and_size_of_the_training_volumes(decathlon):
    """As (up, back, left), in mm and voxels; what is set stays, and slices and other networks get nothing."""
    path = decathlon / "whole" / "train.h5"
    packed = open_set(path)
    grids = [packed.batches(1).batch(i)[0].shape[1:4] for i in range(len(packed))]
    found = packed.typical_grid()
    assert found["size"] == [int(np.median(sides)) for sides in zip(*grids, strict=True)]
    packed.geometries = [g._replace(spacing=(1.0, 2.0, 5.0)) for g in packed.geometries]
    assert packed.typical_grid([8, 9, 10]) == {"spacing": [5.0, 2.0, 1.0], "size": [8, 9, 10]}
    settings = Settings.of("train.py", TRAIN=str(path), MODEL="unet3d", MODEL_SETTINGS={"size": [9, 9, 9]})
    assert with_grid(settings, packed).MODEL_SETTINGS == {"spacing": [5.0, 2.0, 1.0], "size": [9, 9, 9]}
    other = Settings.of("train.py", MODEL="se_resunet3d", MODEL_SETTINGS={"features": 2})
    assert with_grid(other, packed).MODEL_SETTINGS == {"features": 2, "spacing": [5.0, 2.0, 1.0]}
    plain = Settings.of("train.py", MODEL="unet")
    assert with_grid(plain, packed) is plain


def test_some_boxes_are_anywhere_in_what_is_packed(decathlon):
    """As large as the box of the labels; the packed margin is larger than the shown one."""
    packed = open_set(decathlon / "patch" / "train.h5")
    usual = grid_of_box(packed.geometries[0], packed.shown_box(0), packed.voxels)
    shown = []
    packed.read_grid = lambda i, grid, change: shown.append(grid) or (np.zeros(1), np.zeros(1))
    for share in (0.0, 0.5, 1.0):
        batches = packed.batches(1, 1, {"anywhere": share})
        shown.clear()
        for number in range(40):
            batches.make((0, number))
        usual_ones = shown.count(usual)
        assert usual_ones == 40 if share == 0 else usual_ones < 40
        assert share != 0.5 or usual_ones > 10
        assert all(grid.spacing == usual.spacing and grid.size == usual.size for grid in shown)


def test_some_boxes_surround_one_cluster_of_labels(decathlon):
    """Parts up to four voxels apart are one cluster; each is shown with the usual margin, on the usual grid."""
    packed = open_set(decathlon / "patch" / "train.h5")
    shape, geometry = packed.geometries[0].shape, packed.geometries[0]
    labels = np.zeros(shape, np.uint8)
    labels[1, 1, 1], labels[1, 1, 5], labels[-1, -2:, -1] = 1, 2, 1
    packed.groups[0] = {"label": labels}
    corner, opposite = Box((1, 1, 1), (6, 2, 2)), Box((shape[2] - 1, shape[1] - 2, shape[0] - 1), shape[::-1])
    assert sorted(packed.clusters(0)) == sorted([corner, opposite])
    shown = []
    packed.read_grid = lambda i, grid, change: shown.append(grid) or (np.zeros(1), np.zeros(1))
    grids = {
        name: grid_of_box(geometry, packed.shown_box(0, None, box), packed.voxels)
        for name, box in (("all", None), ("corner", corner), ("opposite", opposite))
    }
    for share in (0.0, 0.5, 1.0):
        batches = packed.batches(1, 1, {"cluster": share})
        shown.clear()
        for number in range(40):
            batches.make((0, number))
        counts = {name: shown.count(grid) for name, grid in grids.items()}
        assert sum(counts.values()) == 40 and (counts["corner"] > 2) == (counts["opposite"] > 2) == (share > 0)
        assert counts["all"] == 40 if share == 0 else (counts["all"] > 10) == (share == 0.5)


@pytest.mark.slow
def test_it_trains_on_crops_and_predicts_in_tiles(decathlon, tmp_path):
    sets = {"TRAIN": decathlon / "whole" / "train.h5", "VALIDATION": decathlon / "whole" / "validation.h5"}
    settings = {
        "MODEL": "unet3d",
        "MODEL_SETTINGS": {"features": 2},
        "CROP": [8, 12, 12],
        "BATCH_SIZE": 2,
        "EPOCHS": 1,
    }
    out = run_here("train.py", **sets, **settings, RUNS=tmp_path / "runs").stdout
    recorded = json.loads((only_folder(tmp_path / "runs") / "settings.json").read_text())
    assert recorded["MODEL_SETTINGS"].items() >= {"features": 2, "size": [8, 12, 12]}.items()
    assert recorded["MODEL_SETTINGS"]["spacing"] == open_set(sets["TRAIN"]).typical_grid()["spacing"]
    assert recorded["reasons"]["MODEL_SETTINGS"] == "spacing and size of the training volumes" and "size [8, 12" in out
    run_here("predict.py", RUN=tmp_path / "runs", INPUT=decathlon / "Task99_Synthetic/imagesTs", OUTPUT=tmp_path / "p")
    assert len(list((tmp_path / "p").glob("*.nii.gz"))) == 1


def test_bad_settings_for_volumes(decathlon, tmp_path):
    packed = open_set(decathlon / "whole" / "train.h5")
    for words, arguments in (
        (r"BATCH_SIZE: expected 1 .*found 2\); pass --crop", (2, 1)),
        ("AUGMENTATION: unknown key 'elastic'", (1, 1, {"elastic": 1})),
        (r"for rotation \(found 'much'", (1, 1, {"rotation": "much"})),
        (r"for flip, .*\(found 'up'", (1, 1, {"flip": "up"})),
        ('margins are for the step "patch" only', (1, 1, {"margins": [0.1]})),
        ('anywhere is for the step "patch" only', (1, 1, {"anywhere": 0.1})),
        ('cluster is for the step "patch" only', (1, 1, {"cluster": 0.1})),
        ("expected a share from 0 to 1 for anywhere", (1, 1, {"anywhere": 2})),
        ("FOREGROUND: whole volumes are shown as they are", (1, 1, {}, None, None, 0.5)),
        ("CROP: expected three", (1, 1, {}, [8, 8])),
    ):
        with pytest.raises(ValueError, match=words):
            packed.batches(*arguments)
    shutil.copy(decathlon / "whole" / "train.h5", tmp_path / "alone.h5")
    with pytest.raises(InputError, match="links to a missing cases"):
        open_set(tmp_path / "alone.h5")
