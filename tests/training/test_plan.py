"""The rules of docs/plan.md."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from drawings import make_cases
from running import assert_refused, only_folder, run_here

from common.errors import InputError
from common.settings import Settings
from common.training.plan import (
    Facts,
    as_record,
    choose_missing,
    network_of,
    read_facts,
    schedule_of,
    shares_of_foreground,
    time_steps,
)
from common.training.sets import open_set

TURNED = {"preset": "medical", "flip": "horizontal_and_vertical", "turn": 0.75}
FACTS = Facts(side=256, classes=1, training=200, validation=40, cases=20, filled=1.0, foreground=0.1, augmented=False)


def values(chosen):
    return {name: value for name, (value, _) in chosen.items()}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"MODEL": "pretrained_unet", "BATCH_SIZE": 8, "AUGMENTATION": "medical", "LOSS": "bce+dice"}),
        ({}, {"FOREGROUND": 0.0, "MODEL_SETTINGS": {}}),
        ({"side": 63}, {"MODEL": "unet", "MODEL_SETTINGS": {"features": 16, "depth": 3}}),
        ({"side": 64}, {"MODEL": "pretrained_unet"}),
        ({"training": 31}, {"BATCH_SIZE": 4}),
        ({"training": 32}, {"BATCH_SIZE": 8}),
        ({"training": 3}, {"BATCH_SIZE": 3}),
        ({"augmented": True}, {"AUGMENTATION": {}}),
        ({"augmented": True, "tiles": True}, {"AUGMENTATION": {}}),
        ({"tiles": True}, {"AUGMENTATION": TURNED}),
        ({"classes": 3}, {"LOSS": "cce+dice"}),
        ({"classes": 3, "overlapping": True}, {"LOSS": "bce+dice"}),
        ({"classes": 3, "filled": 0.9}, {"LOSS": "cce+batch_dice", "FOREGROUND": 0.0}),
        ({"foreground": 0.049}, {"LOSS": "bce+batch_dice"}),
        ({"filled": 0.49}, {"LOSS": "bce+batch_dice", "FOREGROUND": 0.33}),
    ],
)
def test_network(changes, expected):
    chosen = network_of(replace(FACTS, **changes))
    assert values(chosen) | expected == values(chosen)
    assert all(reason and "\n" not in reason for _, reason in chosen.values())


@pytest.mark.parametrize(
    ("facts", "minutes", "seconds", "before", "epochs"),
    [
        (FACTS, 10, 1.0, 30, int((600 - 60) / (25 + 0.4 * 5))),
        (FACTS, 1000, 0.01, 1, 300),
        (replace(FACTS, training=8000), 10_000, 0.1, 1, 30),
    ],
)
def test_epochs_fit_the_time(facts, minutes, seconds, before, epochs):
    chosen = values(schedule_of(facts, 8, minutes, seconds, before))
    assert chosen["EPOCHS"] == epochs and chosen["MAX_MINUTES"] == minutes and chosen["EARLY_STOP"] == 0
    assert chosen["SCHEDULE"] == "cosine" and chosen["SCHEDULE_SETTINGS"] == {"warm_up": max(1, epochs // 20)}


def test_weights_are_averaged_in_long_trainings_only():
    assert values(schedule_of(FACTS, 8, 60, 1.0, 1))["OPTIMIZER"]["use_ema"]
    assert values(schedule_of(FACTS, 8, 5, 1.0, 1))["OPTIMIZER"] == {"name": "adamw"}
    with pytest.raises(InputError, match=r"MINUTES: too short for 5 epochs .*found 1; .*use at least 3, "):
        schedule_of(FACTS, 8, 1, 1.0, 10)


@pytest.fixture
def many(monkeypatch):
    """A training set of 200 slices of 256x256, by its facts."""
    monkeypatch.setattr("common.training.plan.read_facts", lambda *sets: FACTS)
    return SimpleNamespace(axes=2)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"MODEL": "pretrained_unet", "LOSS": "bce+dice", "BATCH_SIZE": 8, "SCHEDULE": "cosine"}),
        ({}, {"OPTIMIZER": {"name": "adamw", "use_ema": True, "ema_momentum": 0.99}, "LEARNING_RATE": 1e-3}),
        ({"EPOCHS": 39}, {"OPTIMIZER": {"name": "adamw"}, "SCHEDULE_SETTINGS": {"warm_up": 1}}),
        ({"EPOCHS": 39, "BATCH_SIZE": 4}, {"OPTIMIZER": {"name": "adamw", "use_ema": True, "ema_momentum": 0.99}}),
        ({"EPOCHS": None}, {"OPTIMIZER": {"name": "adamw"}, "SCHEDULE_SETTINGS": {"warm_up": 1}}),
        ({"MODEL": "unet"}, {"LOSS": "bce+dice", "AUGMENTATION": "medical", "FOREGROUND": 0.0}),
    ],
)
def test_train_without_a_plan_takes_the_same_choices(many, given, expected):
    chosen = values(choose_missing(Settings.of("train.py", **given), many, None))
    assert chosen | expected == chosen and not chosen.keys() & given.keys()


def test_what_is_set_is_not_chosen(many):
    settings = Settings.of("train.py", MODEL="unet", LOSS="dice", AUGMENTATION={}, FOREGROUND=0.5)
    assert choose_missing(settings, many, None) == {}
    chosen = choose_missing(Settings.of("train.py", OPTIMIZER="sgd", SCHEDULE="poly", BATCH_SIZE="auto"), many, None)
    assert not chosen.keys() & {"OPTIMIZER", "LEARNING_RATE", "SCHEDULE", "SCHEDULE_SETTINGS", "BATCH_SIZE"}


def test_few_masks_of_a_large_set_are_read():
    read = []

    class Masks:
        def __getitem__(self, i):
            read.append(int(i))
            return np.full((2, 2), i % 2)

        def __len__(self):
            return 1001

    slices = type("Slices", (), {"y": Masks(), "__len__": Masks.__len__})()
    assert len(shares_of_foreground(slices, 10)) == 10 and read[0] == 0 and read[-1] == 1000
    assert len(shares_of_foreground(slices, 5000)) == 1001


def test_steps_are_timed_without_the_first(monkeypatch):
    ticks = iter([0.0, 10.0, 20.0, 21.0, 30.0, 33.0, 40.0, 42.0])
    monkeypatch.setattr("common.training.plan.time.perf_counter", lambda: next(ticks))
    assert time_steps(lambda: None, count=3) == (2.0, 10.0)


@pytest.mark.slow
def test_facts_and_the_plan_of_a_packed_set(packed, tmp_path):
    training, validation = (open_set(packed["packed"] / f"{name}.h5") for name in ("train", "validation"))
    facts = read_facts(training, validation)
    shares = [np.count_nonzero(mask) / mask.size for mask in training.y]
    assert facts.filled == np.mean([share > 0 for share in shares])
    assert facts.foreground == pytest.approx(np.mean([share for share in shares if share]))
    assert (facts.side, facts.classes, facts.training, facts.validation) == (24, 1, len(training), len(validation))
    assert facts.cases == len(set(training.case)) and not facts.augmented
    assert len(list(facts.in_words())) == 3
    copy = tmp_path / "packed"
    copy.mkdir()
    for name in ("train", "validation"):
        (copy / f"{name}.h5").write_bytes((packed["packed"] / f"{name}.h5").read_bytes())
    out = run_here("preprocess/4_plan_training.py", PACKED=copy, MINUTES=60).stdout
    plan = json.loads((copy / "plan.json").read_text())
    assert plan["MODEL"] == "unet" and plan["reasons"]["EPOCHS"].startswith("planned: a step takes")
    assert "LOSS = " in out and f"--settings {copy / 'plan.json'}" in out
    small = {"EPOCHS": 1, "MODEL_SETTINGS": {"features": 2, "depth": 1}}
    run_here(
        "train.py",
        "--settings",
        copy / "plan.json",
        TRAIN=copy / "train.h5",
        VALIDATION=copy / "validation.h5",
        RUNS=tmp_path / "runs",
        **small,
    )
    (run,) = (tmp_path / "runs").iterdir()
    recorded = json.loads((run / "settings.json").read_text())
    assert recorded["LOSS"] == plan["LOSS"] and "plan.json" in recorded["reasons"]["LOSS"]
    sets = {"TRAIN": copy / "train.h5", "VALIDATION": copy / "validation.h5"}
    out = run_here("train.py", **sets, RUNS=tmp_path / "own", EPOCHS=1).stdout
    (run,) = (tmp_path / "own").iterdir()
    recorded = json.loads((run / "settings.json").read_text())
    same = ("MODEL", "MODEL_SETTINGS", "BATCH_SIZE", "LOSS", "AUGMENTATION", "FOREGROUND", "SCHEDULE", "LEARNING_RATE")
    assert [recorded[name] for name in same] == [plan[name] for name in same]
    assert recorded["reasons"]["MODEL"].startswith("chosen for the training set: slices under 64")
    assert f"LOSS = {plan['LOSS']!r}: " in out
    retrained = {"MODE": "retrain", "RUN": run, "RUNS": tmp_path / "again", "EPOCHS": 1}
    for place, network in (("again", {}), ("named", {"MODEL": "unet"})):
        run_here("train.py", **sets, **(retrained | {"RUNS": tmp_path / place}), **network)
    again, named = only_folder(tmp_path / "again"), only_folder(tmp_path / "named")
    for run in (again, named):
        assert json.loads((run / "settings.json").read_text())["MODEL_SETTINGS"] == plan["MODEL_SETTINGS"]
    assert_refused("preprocess/4_plan_training.py", "plan.json: already exists", PACKED=copy)
    (copy / "validation.h5").unlink()
    out = run_here("preprocess/4_plan_training.py", PACKED=copy, MINUTES=60, REPLACE=True).stdout
    assert "none for validation" in out and f'--train {copy / "train.h5"} --validation ""' in out
    assert json.loads((copy / "plan.json").read_text())["EPOCHS"] >= plan["EPOCHS"], "validation takes time"
    assert_refused("preprocess/4_plan_training.py", "contains no train.h5", PACKED=tmp_path)


def test_variants_and_empty_masks_are_seen(tmp_path):
    cases = make_cases(tmp_path / "cases", cases=3, slices=2, size=24)
    lines = ["x,y,case"]
    for side in ("x", "y"):
        name = f"{side}_{'A' if side == 'x' else 'O'}"
        (cases / "case01" / name).mkdir()
        for file in (cases / "case01" / side).iterdir():
            (cases / "case01" / name / file.name).write_bytes(file.read_bytes())
    lines += [f"case01/{x}/0001.png,case01/{y}/0001.png,case01" for x, y in (("x", "y"), ("x_A", "y_O"))]
    (cases / "train.csv").write_text("\n".join(lines) + "\n")
    training = open_set(cases / "train.csv")
    assert read_facts(training, training).augmented
    training.y = np.zeros_like(training.y[:])
    with pytest.raises(InputError, match="every mask is empty"):
        read_facts(training, training)


def test_the_record_is_a_settings_file():
    record = as_record({"LOSS": ("dice", "a reason")})
    assert record == {"format": 1, "LOSS": "dice", "reasons": {"LOSS": "planned: a reason"}}
