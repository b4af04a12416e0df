"""The rules of docs/plan.md for packed volumes."""

import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from running import run_here

from common.errors import InputError
from common.settings import Settings
from common.training.plan import choose_missing, schedule_of
from common.training.sets import open_set
from common.training.volume_plan import VolumeFacts, network_of, read_facts, sides_of_crop

FACTS = VolumeFacts(
    size=(60, 64, 64),
    spacing=(1.0, 1.0, 1.0),
    training_sizes=((60, 64, 64), (50, 64, 64)),
    validation_sizes=((60, 64, 64),),
    step="single",
    labels=("liver", "tumor"),
    channels=1,
    has_gpu=False,
    memory=16.0,
    training=2,
    validation=1,
)
FLAT = {"rotation": 5, "zoom": 0.1, "shift": 0.05, "shear": 0.05, "gamma": 0.3}  # of thick slices
LARGE = {"size": (40, 300, 300), "spacing": (5.0, 1.0, 1.0)}


def values(chosen):
    return {name: value for name, (value, _) in chosen.items()}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"MODEL": "unet3d", "CROP": None, "BATCH_SIZE": 1, "LOSS": "bce+dice", "FOREGROUND": 0.0}),
        ({}, {"MODEL_SETTINGS": {"features": 8, "spacing": [1.0, 1.0, 1.0], "size": [60, 64, 64]}}),
        ({"has_gpu": True}, {"MODEL_SETTINGS": {"features": 32, "spacing": [1.0, 1.0, 1.0], "size": [60, 64, 64]}}),
        (LARGE, {"CROP": [20, 108, 108], "BATCH_SIZE": 2, "LOSS": "bce+batch_dice", "FOREGROUND": 0.5}),
        (LARGE, {"MODEL_SETTINGS": {"features": 8, "spacing": [5.0, 1.0, 1.0], "size": [20, 108, 108]}}),
        (LARGE | {"has_gpu": True, "memory": 80.0}, {"CROP": [40, 228, 228]}),
        (LARGE | {"step": "whole", "memory": 18.0}, {"CROP": None}),  # 3.6 million voxels of 2,400 bytes fit 9 GB
        (LARGE | {"step": "whole", "has_gpu": True}, {"CROP": [24, 124, 124]}),  # of 9,600 bytes not 8
        ({"spacing": (2.0, 1.0, 1.0)}, {"AUGMENTATION": FLAT | {"flip": "x"}}),
        ({"labels": ("Left kidney",)}, {"AUGMENTATION": FLAT | {"rotation": 10}}),
        (
            {"step": "patch"},
            {"AUGMENTATION": FLAT | {"rotation": 10, "flip": "x", "margins": [0.1, 0.2, 0.3], "anywhere": 0.2}},
        ),
        ({"step": "patch", "training": 1}, {"AUGMENTATION": FLAT | {"rotation": 10, "flip": "x"}}),
    ],
)
def test_network(changes, expected):
    chosen = network_of(replace(FACTS, **changes))
    assert values(chosen) | expected == values(chosen)
    assert all(reason and "\n" not in reason for _, reason in chosen.values())
    Settings.of("train.py").with_given(values(chosen), "planned")  # each is a value that train.py accepts


def test_reasons_say_how_kernels_fit():
    reason = network_of(replace(FACTS, **LARGE))["MODEL_SETTINGS"][1]
    assert "kernels of 1x3x3 on 2 levels and pooling by 1x2x2, 1x2x2, 2x2x2" in reason
    assert "kernels" not in network_of(FACTS)["MODEL_SETTINGS"][1]
    assert "100 x 108 x 108 mm" in network_of(replace(FACTS, **LARGE))["CROP"][1]


@pytest.mark.parametrize(
    ("size", "spacing", "voxels"),
    [((200, 200, 200), (1, 1, 1), 64**3), ((20, 500, 400), (5, 0.5, 0.5), 10**6), ((4, 9, 900), (9, 9, 1), 10**5)],
)
def test_crops_are_as_large_as_they_may_be(size, spacing, voxels):
    sides = sides_of_crop(size, spacing, voxels)
    assert all(8 <= side <= max(8, most) for side, most in zip(sides, size, strict=True))
    assert math.prod(sides) <= max(voxels, 8**3) or min(size) < 8
    assert math.prod(sides) > voxels / 3 or all(side >= most for side, most in zip(sides, size, strict=True))


def test_an_epoch_shows_as_many_crops_as_it_does():
    facts = FACTS.with_crops([40, 40, 40])
    assert (facts.training, facts.validation) == (4 + 4, 2 * 2 * 2) and FACTS.with_crops(None) is FACTS
    chosen = values(schedule_of(facts, 2, 30, 2.0, 10))
    assert chosen["EPOCHS"] == int((1800 - 20) / (2.0 * (4 + 0.4 * 4))) and chosen["EARLY_STOP"] == 0
    with pytest.raises(InputError, match=r"MINUTES: too short .*use at least \d+, smaller volumes \(--voxels"):
        schedule_of(facts, 2, 1, 20.0, 10)


@pytest.fixture
def few(monkeypatch):
    """A training set of two volumes, by its facts."""
    monkeypatch.setattr("common.training.volume_plan.read_facts", lambda *sets: replace(FACTS, **LARGE))
    return SimpleNamespace(axes=3)


@pytest.mark.parametrize(
    ("given", "expected", "without"),
    [
        ({}, {"MODEL": "unet3d", "CROP": [20, 108, 108], "BATCH_SIZE": 2, "FOREGROUND": 0.5, "SCHEDULE": "cosine"}, ()),
        ({"CROP": [8, 16, 16]}, {"FOREGROUND": 0.5, "BATCH_SIZE": 2}, ("CROP",)),
        ({"MODEL": "se_resunet3d"}, {"FOREGROUND": 0.0, "LOSS": "bce+dice"}, ("CROP", "BATCH_SIZE", "SCHEDULE")),
        ({"MODEL": "se_resunet3d", "CROP": [8, 16, 16]}, {"FOREGROUND": 0.5, "LOSS": "bce+batch_dice"}, ("CROP",)),
    ],
)
def test_train_without_a_plan_takes_the_same_choices(few, given, expected, without):
    chosen = values(choose_missing(Settings.of("train.py", **given), few, None))
    assert chosen | expected == chosen and not chosen.keys() & {*given, *without}


@pytest.mark.slow
def test_the_plan_of_a_packed_set_trains(decathlon, tmp_path):
    packed = shutil.copytree(decathlon / "patch", tmp_path / "packed")
    facts = read_facts(*(open_set(packed / f"{name}.h5") for name in ("train", "validation")))
    assert (facts.training, facts.validation, facts.step) == (3, 1, "patch") and facts.memory > 0.5
    assert next(facts.in_words()).startswith("3 volumes for training, 1 for validation (step: patch, labels: 3")
    out = run_here("preprocess/4_plan_training.py", PACKED=packed, MINUTES=5).stdout
    assert "MODEL = 'unet3d': its kernels" in out and f"--validation {packed / 'validation.h5'}" in out
    plan = json.loads((packed / "plan.json").read_text())
    assert plan["CROP"] is None and plan["EPOCHS"] >= 5 and plan["reasons"]["EPOCHS"].startswith("planned: a step")
    sets = {"TRAIN": packed / "train.h5", "VALIDATION": packed / "validation.h5", "RUNS": tmp_path / "runs"}
    run_here("train.py", "--settings", packed / "plan.json", **sets, EPOCHS=1)
    (run,) = (tmp_path / "runs").iterdir()
    recorded = json.loads((run / "settings.json").read_text())
    assert recorded["MODEL_SETTINGS"] == plan["MODEL_SETTINGS"] and recorded["FOREGROUND"] == 0
