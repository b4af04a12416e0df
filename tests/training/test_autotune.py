"""common/training/autotune.py: the choice of a precision, of a compiler and of the size of a batch."""

import keras
import numpy as np
import pytest

from common.devices import OneDevice
from common.settings import Settings
from common.training import autotune as trials
from common.training.sets import open_set


@pytest.mark.parametrize(
    ("setting", "steps", "slowdown", "half", "expected"),
    [
        ("mixed_float16", 9999, 1, 0.1, "mixed_float16"),
        ("auto", 499, 1, 0.1, "float32"),
        ("auto", 500, 1, 0.89, "mixed_bfloat16"),
        ("auto", 500, 1, 0.91, "float32"),
        ("auto", 500, 1, 2.0, "float32"),
        ("auto", 500, 10, 0.1, "float32"),
    ],
)
def test_precision_on_a_cpu_is_the_faster_of_a_trial(monkeypatch, setting, steps, slowdown, half, expected):
    monkeypatch.setattr(trials, "accelerators", list)
    monkeypatch.setattr(trials, "slowdown_of_bfloat16", lambda: slowdown)
    monkeypatch.setattr(trials, "time_precisions", lambda *_: {"float32": 1.0, "mixed_bfloat16": half})
    policy, why = trials.choose_precision(setting, None, None, steps)
    assert policy == expected and bool(why) == (setting == "auto")


def test_trial_measures_both_precisions_and_leaves_the_policy_alone():
    seen = []

    def make_model():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        seen.append(model.layers[0].compute_dtype)
        return model

    before = keras.config.dtype_policy().name
    x = np.ones((2, 4), np.float32)
    seconds = trials.time_precisions(make_model, lambda: (x, x[:, :1]), rounds=1)
    assert seen == ["float32", "bfloat16"] and keras.config.dtype_policy().name == before
    assert all(0 < seconds[policy] < 60 for policy in ("float32", "mixed_bfloat16"))


def test_slowdown_is_a_ratio():
    assert 0.01 < trials.slowdown_of_bfloat16() < 1000


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="other backends have one usual way")
@pytest.mark.parametrize(
    ("setting", "deterministic", "steps", "slowdown", "compiled", "expected"),
    [
        (True, True, 9999, 1, 9.0, True),
        ("auto", True, 9999, 1, 0.1, False),
        ("auto", False, 499, 1, 0.1, False),
        ("auto", False, 500, 10, 0.1, False),
        ("auto", False, 500, 1, 0.89, True),
        ("auto", False, 500, 1, 0.91, False),
    ],
)
def test_compiler_is_the_faster_of_a_trial(monkeypatch, setting, deterministic, steps, slowdown, compiled, expected):
    monkeypatch.setattr(trials, "accelerators", list)
    monkeypatch.setattr(trials, "slowdown_of_jit", lambda: slowdown)
    monkeypatch.setattr(trials, "time_steps", lambda *_: {True: compiled, False: 1.0})
    jit, why = trials.choose_jit(setting, deterministic, lambda jit: None, None, steps)
    assert jit is expected and bool(why) == (setting == "auto")


@pytest.mark.parametrize(
    ("seconds", "greatest", "expected"),
    [
        ({8: 8, 16: 15}, 99, 8),
        ({8: 8, 16: 10, 32: 19.9}, 99, 16),
        ({8: 8, 16: 10}, 16, 16),
        ({8: 8, 16: 10}, 15, 8),
        ({8: 8, 16: MemoryError()}, 99, 8),
    ],
)
def test_batch_grows_while_it_pays_and_fits(monkeypatch, seconds, greatest, expected):
    def time_steps(makers, make_batch):
        (size,) = makers
        if isinstance(seconds[size], Exception):
            raise seconds[size]
        return {size: seconds[size]}

    monkeypatch.setattr(trials, "time_steps", time_steps)
    assert trials.choose_batch_size(8, lambda: None, None, greatest) == expected


@pytest.mark.parametrize(("minutes", "expected"), [(3.9, "float32"), (4, "mixed_bfloat16"), (None, "mixed_bfloat16")])
def test_a_run_that_must_end_soon_is_not_benchmarked(monkeypatch, packed, minutes, expected):
    monkeypatch.setattr(trials, "accelerators", list)
    monkeypatch.setattr(trials, "slowdown_of_bfloat16", lambda: 1)
    monkeypatch.setattr(trials, "time_precisions", lambda *_: {"float32": 1.0, "mixed_bfloat16": 0.5})
    training = open_set(packed["packed"] / "train.h5")
    given = {"TRAIN": packed["packed"] / "train.h5", "BATCH_SIZE": 1, "EPOCHS": 10**4, "MAX_MINUTES": minutes}
    settings = Settings.of("train.py", **given, LOSS="bce", OPTIMIZER="sgd", LEARNING_RATE=0.1, AUGMENTATION={})
    before = keras.config.dtype_policy()
    try:
        chosen = trials.autotune(settings, training, OneDevice())
    finally:
        keras.config.set_dtype_policy(before)
    assert expected == chosen.PRECISION
