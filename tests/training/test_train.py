"""train.py, run as a user runs it: run folder, resume, retrain, schedules, backends, bad input."""

import errno
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from unittest import mock

import h5py
import keras
import numpy as np
import pandas as pd
import pytest
from drawings import make_cases
from running import ROOT, TINY_UNET, assert_refused, leftovers, only_folder, run_here, run_script, training

from common import devices
from common.command_line import flags_of
from common.errors import InputError, SettingError
from common.files import read_json, write_json
from common.settings import Settings
from common.slices.images import read_image
from common.training import trust
from common.training.callbacks import RunWriter
from common.training.checkpoints import read_checkpoint
from common.training.configure import configure, configure_folds, open_sets
from common.training.run_folder import Run
from common.training.sets import Batches, open_both, open_set
from common.training.trained_models import load_network, model_file
from common.training.training_log import Log

on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="bit for bit on TensorFlow only")


def weights(path):
    return keras.saving.load_model(path, compile=False).get_weights()


# --- the run folder


def test_run_folder_is_complete(trained):
    run, out = trained
    files = "settings.json environment.txt code training_log.csv curves.png best_dice.keras best_iou.keras last.keras "
    files += "state.json tensorboard augmented_slices.png validation_slices.png report.html model_summary.txt "
    files += "calibration.json progress"
    assert {path.name for path in run.iterdir()} - {"network.png"} == set(files.split())
    assert (run / "network.png").exists() == bool(shutil.which("dot")) != ("install Graphviz" in out)
    summary = (run / "model_summary.txt").read_text(encoding="utf-8")
    assert "Param #" in summary and "Total params" in summary
    settings = json.loads((run / "settings.json").read_text())
    assert settings["MODEL_SETTINGS"] == TINY_UNET and settings["PRECISION"] == "float32"
    assert settings["BATCH_SIZE"] == 3 and settings["OPTIMIZER"] == "nadam", "recommendations are filled in"
    log = pd.read_csv(run / "training_log.csv")
    assert list(log["epoch"]) == [1, 2] and {"loss", "val_dice", "val_iou", "learning_rate", "seconds"} <= set(log)
    state = json.loads((run / "state.json").read_text())
    assert state["epoch"] == 2 and state["best_dice"]["score"] == pytest.approx(log["val_dice"].max())
    assert state["data"] == {
        "classes": 1,
        "size": 24,
        "inputs": 1,
        "bits": 8,
        "spacing": None,
        "window": None,
        "resampled": None,
        "plane": "",
        "fit": "",
        "stretched": False,
        "channels": "",
        "neighbors": 0,
        "labels": None,
        "overlap": "",
    }
    assert (run / "code" / "train.py").exists() and (run / "code" / "models" / "unet.py").exists()
    assert "keras 3" in (run / "environment.txt").read_text()
    for name in ("curves.png", "augmented_slices.png", "validation_slices.png"):
        assert read_image(run / name).std() > 5
    page = (run / "report.html").read_text()
    assert page.count("data:image/png") == 2 and page.count("data:image/jpeg") >= 2 and "http" not in page
    assert page.count('type="range"') == 1 and "<span>epoch 2</span>" in page, "the last strip is shown"
    assert read_image(run / "progress" / "epoch-00002.jpg").shape[::2] == (200, 3)
    (events,) = (run / "tensorboard").iterdir()
    assert events.read_bytes().count(b"validation slices") == len(list((run / "progress").iterdir()))
    assert (
        out.index("first estimate: about ") < out.index("compiled the network")
        and max(map(len, re.findall("^epoch .*", out, re.M))) <= 100
    )
    assert set(state["advice"]) >= {"few validation cases"} and "Its Dice can be luck".lower() in page.lower()
    assert "epoch 2/2" in out and f"wrote {run}" in out
    assert "compiled the network and ran the first step in" in out and "where the time went" in out
    assert "first step of training" in page and any("first step" in what for what in state["time"])
    assert settings["JIT"] is False or keras.backend.backend() != "tensorflow", "chosen values are recorded"


def test_saved_networks_take_unit_range_and_have_named_ends(trained, packed):
    run, _ = trained
    model = keras.saving.load_model(run / "best_dice.keras", compile=False)
    assert model.layers[0].name == "input" and model.layers[-1].name == "output"
    validation = open_set(packed["packed"] / "validation.h5")
    x, y = Batches(validation, 9)[0]
    assert x.dtype == np.float32 and x.min() >= 0 and 0.5 < x.max() <= 1 and set(np.unique(y)) == {0, 1}
    p = model.predict(x, verbose=0) > 0.5
    scores = [2 * (p[i] & (y[i] > 0)).sum() / (p[i].sum() + y[i].sum()) for i in range(len(y)) if y[i].any()]
    state = json.loads((run / "state.json").read_text())
    assert np.mean(scores) == pytest.approx(state["best_dice"]["score"], abs=1e-5)


def test_it_learns(packed, tmp_path):
    """Discs are brighter than the noise around them: forty epochs find them."""
    run_here(
        "train.py",
        **training(packed, tmp_path, EPOCHS=40, LEARNING_RATE=1e-2, LOSS="bce+dice", SCHEDULE="cosine", BATCH_SIZE=4),
    )
    assert json.loads((only_folder(tmp_path) / "state.json").read_text())["best_dice"]["score"] > 0.8


@pytest.mark.slow
def test_schedule_controller_lists_augmentation_and_early_stop(packed, tmp_path):
    settings = training(packed, tmp_path, LOSS="dice", EARLY_STOP=3, EPOCHS=30, LEARNING_RATE=0.0)
    settings |= {"TRAIN": packed["lists"] / "train.csv", "VALIDATION": packed["lists"] / "validation.csv"}
    settings |= {"AUGMENTATION": {"flip": "horizontal", "rotation": 5, "fill": "nearest"}, "MEMORY_GB": 0.0}
    settings |= {"SCHEDULE": "graph", "SCHEDULE_SETTINGS": {"points": [[0, 1e-12], [9, 1e-12]]}}
    settings |= {"CONTROLLER": {"step": [0.5, 2.0], "patience": [1, 9], "limit": [0.3, 1]}}
    out = run_here("train.py", **settings, PRECISION="mixed_bfloat16").stdout
    log = pd.read_csv(only_folder(tmp_path) / "training_log.csv")
    assert "/9 " in out, "the last point of the graph ends the run"
    scores = [log[f"val_{metric}"].to_list() for metric in ("dice", "iou")]
    bests = [any(of[i] > max(of[:i], default=-1) for of in scores) for i in range(len(log))]
    multiplier, expected = 1.0, []
    for is_best in bests:
        expected.append(1e-12 * multiplier)
        multiplier = multiplier if is_best else max(multiplier * 0.5, 0.3)
    assert log["learning_rate"].to_list() == pytest.approx(expected)
    assert len(log) < 9 and "stopped early, no new best Dice or IoU in 3 epochs" in out


def test_several_classes_and_16_bits(tmp_path):
    cases = make_cases(tmp_path / "cases", cases=3, slices=4, classes=2, bits=16)
    run_here("preprocess/2_write_lists.py", CASES=cases, LISTS=tmp_path / "lists", TEST_SHARE=0.3)
    run_here("preprocess/3_pack_hdf5.py", LISTS=tmp_path / "lists", PACKED=tmp_path / "packed")
    run_here("train.py", **training({"packed": tmp_path / "packed"}, tmp_path / "runs", LOSS="cce+dice"))
    run = only_folder(tmp_path / "runs")
    run_here("predict.py", RUN=run, INPUT=tmp_path / "lists" / "test.csv", OUTPUT=tmp_path / "out")
    run_here("evaluate.py", PREDICTED=tmp_path / "out", TRUTH=tmp_path / "lists" / "test.csv", OUTPUT=tmp_path / "s")
    assert set(pd.read_csv(tmp_path / "s" / "scores.csv")["class"]) == {1, 2}


OWN_NETWORK = """
import keras

@keras.saving.register_keras_serializable("mine")
class Double(keras.layers.Layer):
    def call(self, x):
        return 2 * x

def build_model(input_shape, classes=1, width=3):
    inputs = keras.Input(input_shape, name="input")
    x = Double()(keras.layers.Conv2D(width, 3, padding="same")(inputs))
    x = keras.layers.Conv2D(1 if classes == 1 else classes + 1, 1)(x)
    return keras.Model(inputs, keras.layers.Activation("sigmoid", dtype="float32", name="output")(x))
"""


@pytest.mark.slow
def test_a_network_of_ones_own_with_a_layer_of_its_own(packed, tmp_path):
    (tmp_path / "mine.py").write_text(OWN_NETWORK)
    settings = training(packed, tmp_path / "runs", EPOCHS=1, MODEL_SETTINGS={"width": 2})
    run_script("train.py", **settings | {"MODEL": tmp_path / "mine.py"})
    run = only_folder(tmp_path / "runs")
    assert run.name.endswith("_mine")
    predict = {"RUN": run, "INPUT": packed["cases"] / "case01", "OUTPUT": tmp_path / "out", "REPLACE": True}
    advice = "mine.py: code that your command does not refer to"
    assert_refused("predict.py", advice, "--model", "--trust-run", **predict)
    run_here("predict.py", **predict, MODEL=tmp_path / "mine.py")
    (tmp_path / "mine.py").write_text(f"{OWN_NETWORK}\n# changed\n")
    assert_refused("predict.py", advice, **predict, MODEL=tmp_path / "mine.py")
    (tmp_path / "copy.py").write_text(OWN_NETWORK)
    run_here("predict.py", **predict, MODEL=tmp_path / "copy.py")
    run_here("predict.py", **predict, TRUST_RUN=True)
    assert_refused("predict.py", "MODEL: not an existing .py file (found unet)", **predict, MODEL="unet")


OWN_LOSS = """
from keras import ops

def loss(targets, probabilities):
    return ops.mean(ops.abs(targets - probabilities), axis=(1, 2, 3))
"""


@pytest.mark.slow
def test_a_loss_of_ones_own_resumes_with_the_copy_of_the_run(packed, tmp_path, monkeypatch):
    """Its file is gone, that of the network has changed since; the weights are those of a run in one go."""
    (tmp_path / "my.py").write_text(OWN_LOSS)
    (tmp_path / "mine.py").write_text(OWN_NETWORK)
    own = {"LOSS": f"{tmp_path}/my.py+dice", "MODEL": tmp_path / "mine.py", "MODEL_SETTINGS": {"width": 2}}
    run_script("train.py", **training(packed, tmp_path / "whole", EPOCHS=2) | own)
    run_script("train.py", **training(packed, tmp_path / "half", EPOCHS=1) | own)
    (tmp_path / "my.py").unlink()
    (tmp_path / "mine.py").write_text("raise RuntimeError")
    runs = [only_folder(tmp_path / name) for name in ("whole", "half")]
    assert (runs[1] / "code" / "my.py").read_text() == OWN_LOSS
    assert_refused("train.py", "code that your command does not refer to", MODE="resume", RUN=runs[1], EPOCHS=2)
    run_script("train.py", MODE="resume", RUN=runs[1], EPOCHS=2, TRUST_RUN=True)
    monkeypatch.setenv(trust.VARIABLE, trust.EVERYTHING)
    whole, resumed = (load_network(run / "last.keras").get_weights() for run in runs)
    assert all(np.array_equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_rate_follows_batch_and_optimizer_where_it_is_not_set(tmp_path):
    recommended = {"BATCH_SIZE": 4, "OPTIMIZER": {"name": "sgd", "momentum": 0.9}, "LEARNING_RATE": 0.4}
    (tmp_path / "mine.py").write_text(f"{OWN_NETWORK}\nRECOMMENDED = {recommended}\n")
    for given, rate in (({}, 0.4), ({"BATCH_SIZE": 2}, 0.2), ({"OPTIMIZER": "adam"}, 0.001)):
        settings = configure(Settings.of("train.py", MODEL=tmp_path / "mine.py", **given))
        assert pytest.approx(rate) == settings.LEARNING_RATE
        recorded = settings.as_json()
        assert recorded["LEARNING_RATE"] == settings.LEARNING_RATE and recorded["BATCH_SIZE"] == settings.BATCH_SIZE
        assert given.get("BATCH_SIZE", 4) == settings.BATCH_SIZE


@pytest.mark.slow
def test_batch_size_by_a_trial(packed, tmp_path):
    out = run_here("train.py", **training(packed, tmp_path, BATCH_SIZE="auto", EPOCHS=1)).stdout
    chosen = json.loads((only_folder(tmp_path) / "settings.json").read_text())["BATCH_SIZE"]
    assert chosen == 8 and f"batch size {chosen}" in out, "the set has eight slices, so it is not doubled"


def test_files_of_the_codeset_load(packed, tmp_path):
    ours, theirs = {}, {}
    for name in ("train", "validation"):
        ours[name.upper()] = packed["packed"] / f"{name}.h5"
        theirs[name.upper()] = tmp_path / f"image_{name}.h5"
        with h5py.File(ours[name.upper()]) as file, h5py.File(theirs[name.upper()], "w") as copy:
            copy[f"image_{name}_X"], copy[f"image_{name}_Y"] = file["x"][:], file["y"][:]
    opened = []
    for sets in (ours, theirs):
        opened.append(open_sets(configure(Settings.of("train.py", **sets))))
    for own, other in zip(*opened, strict=True):
        assert own.classes == other.classes and len(own) == len(other)
        for a, b in zip(own.batch(range(len(own))), other.batch(range(len(own))), strict=True):
            np.testing.assert_array_equal(a, b)


# --- going on


@pytest.fixture(scope="session")
def uninterrupted(packed, made_once):
    """Settings of a run with everything that is random, and its folder."""
    settings = {
        "EPOCHS": 6,
        "SCHEDULE": "poly",
        "AUGMENTATION": {"preset": "medical", "cutmix": [0.3, 0.2, 0.5]},
        "OPTIMIZER": {"name": "adamw", "use_ema": True, "ema_momentum": 0.9},
        "CONTROLLER": {"step": [0.5, 2.0], "patience": [1, 2], "limit": [0.1, 1]},
    }
    runs, _ = made_once("uninterrupted", lambda runs: run_here("train.py", **training(packed, runs, **settings)).stdout)
    return settings, only_folder(runs)


@pytest.mark.slow
@on_tensorflow
def test_a_killed_run_goes_on_as_if_it_had_not_been(packed, tmp_path, uninterrupted):
    """Killed twice: about the first epoch, and after one."""
    settings, whole = uninterrupted
    settings = training(packed, tmp_path, **settings)
    for epochs in (0, 1):
        command = [sys.executable, str(ROOT / "train.py"), *flags_of(settings)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not list(tmp_path.glob("2*/settings.json")):
            assert process.poll() is None
            time.sleep(0.02)
        run = only_folder(tmp_path)
        log = run / "training_log.csv"
        while epochs and not (log.exists() and len(pd.read_csv(log)) >= epochs):
            time.sleep(0.02)
        time.sleep(random.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        settings = {"MODE": "resume", "RUN": run}
    run_here("train.py", **settings)
    for name in ("last", "best_dice", "best_iou"):
        for ours, theirs in zip(weights(run / f"{name}.keras"), weights(whole / f"{name}.keras"), strict=True):
            assert np.array_equal(ours, theirs)
    ours, theirs = (pd.read_csv(r / "training_log.csv").drop(columns="seconds") for r in (run, whole))
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


@pytest.mark.slow
@on_tensorflow
def test_a_checkpoint_cut_off_from_its_log_is_replayed(packed, tmp_path, uninterrupted):
    """Killed between the log and last.keras: the log is an epoch ahead, and must not count."""
    _, whole = uninterrupted
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    rows = pd.read_csv(run / "training_log.csv")
    pd.concat([rows, rows.tail(1).assign(epoch=7)]).to_csv(run / "training_log.csv", index=False)
    _, log = read_checkpoint(Run(run))
    assert len(log) == 6
    assert log.rows == Run(whole).log.rows
    for kept in (rows.head(5), rows.drop(index=2), rows.iloc[::-1], None):  # lost, or in another order
        (run / "training_log.csv").unlink()
        if kept is not None:
            kept.to_csv(run / "training_log.csv", index=False)
        with pytest.raises(InputError, match=r"training_log.csv: does not fit last.keras \(expected epochs 1 to 6"):
            read_checkpoint(Run(run))


def test_what_every_run_records_is_not_missing(trained, tmp_path):
    run = shutil.copytree(trained[0], tmp_path / "run")
    resume = {"MODE": "resume", "RUN": run, "EPOCHS": 3}
    log = (run / "training_log.csv").read_text()
    for column in ("loss", "val_dice", "seconds"):
        (run / "training_log.csv").write_text(re.sub(rf"\b{column}\b", "other", log, count=1))
        assert_refused("train.py", f"training_log.csv: no column {column}", **resume)
    (run / "training_log.csv").write_text(log)
    for name in ("LOSS", "MODEL"):
        recorded = read_json(run / "settings.json")
        write_json(run / "settings.json", recorded | {name: None})
        assert_refused("train.py", f"settings.json: no {name}", **resume)
        write_json(run / "settings.json", recorded)


def test_a_checkpoint_on_a_failing_disk_is_not_called_damaged(trained, monkeypatch):
    error = OSError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(keras.saving, "load_model", mock.Mock(side_effect=error))
    with pytest.raises(PermissionError) as caught:
        read_checkpoint(Run(trained[0]))
    assert caught.value.filename.endswith("last.keras")


@pytest.mark.slow
def test_flags_change_a_resumed_run_and_a_finished_one_says_so(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    before = (run / "last.keras").read_bytes()
    (run / "report.html").unlink()  # killed after the last epoch
    assert "finished all 2 epochs" in run_here("train.py", MODE="resume", RUN=run).stdout
    assert (run / "last.keras").read_bytes() == before and (run / "report.html").exists()
    run_here("train.py", MODE="resume", RUN=run, EPOCHS=3)
    assert list(pd.read_csv(run / "training_log.csv")["epoch"]) == [1, 2, 3]


def test_retrain_takes_weights_by_name(trained, packed, tmp_path):
    run, _ = trained
    settings = training(packed, tmp_path, EPOCHS=1, LEARNING_RATE=0.0, OPTIMIZER="sgd", DETERMINISTIC=True)
    out = run_here("train.py", **settings, MODE="retrain", RUN=run).stdout
    assert "loaded" in out and "not in" not in out
    trainable = [
        [v.numpy() for v in keras.saving.load_model(path, compile=False).trainable_variables]
        for path in (run / "best_dice.keras", only_folder(tmp_path) / "last.keras")
    ]
    assert all(np.array_equal(a, b) for a, b in zip(*trainable, strict=True))


@on_tensorflow
def test_a_retrained_run_that_stopped_before_its_first_epoch_takes_the_weights_again(trained, packed, tmp_path):
    given = training(packed, tmp_path / "a", MODE="retrain", RUN=trained[0], EPOCHS=1)
    run_here("train.py", **given)
    whole = only_folder(tmp_path / "a")
    run = shutil.copytree(whole, tmp_path / "b")
    for path in [*run.glob("*.keras"), run / "training_log.csv", run / "state.json"]:
        path.unlink()
    out = run_here("train.py", MODE="resume", RUN=run).stdout
    assert re.search(rf"loaded \d+ layers from {trained[0]}", out)
    for ours, theirs in zip(weights(run / "last.keras"), weights(whole / "last.keras"), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.slow
def test_it_stops_in_time_and_ctrl_c_loses_nothing(packed, tmp_path):
    out = run_here("train.py", **training(packed, tmp_path / "a", EPOCHS=500, MAX_MINUTES=0.02)).stdout
    assert "another epoch would exceed MAX_MINUTES" in out and (only_folder(tmp_path / "a") / "report.html").exists()
    command = [sys.executable, str(ROOT / "train.py"), *flags_of(training(packed, tmp_path / "b", EPOCHS=500))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("b/*/last.keras")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode != 0 and "Traceback" not in err and "--mode resume" in out and "Ctrl-C" in err
    assert not leftovers(tmp_path)
    read_checkpoint(Run(only_folder(tmp_path / "b")))


@on_tensorflow
def test_ctrl_c_at_the_end_waits_for_the_last_checkpoint(packed, tmp_path, monkeypatch):
    """Until it is written, no other process may resume the run."""
    write = RunWriter._write

    def write_slowly(*arguments):
        time.sleep(0.5)
        write(*arguments)

    monkeypatch.setattr(RunWriter, "_write", write_slowly)
    monkeypatch.setattr(RunWriter, "close", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_here("train.py", **training(packed, tmp_path, EPOCHS=1))
    assert len(read_checkpoint(Run(only_folder(tmp_path)))[1]) == 1 and not leftovers(tmp_path)


@pytest.mark.slow
def test_epochs_that_fit_are_measured_recorded_and_kept_by_a_resumed_run(packed, tmp_path, monkeypatch):
    measured = []

    def fit(done, seconds, left):
        measured.append((done, seconds, left))
        return done + 3

    monkeypatch.setattr("common.training.callbacks.epochs_that_fit", fit)
    schedule = {"SCHEDULE": "cosine", "LEARNING_RATE": 0.01, "SCHEDULE_SETTINGS": {"warm_up": 1}}
    given = training(packed, tmp_path / "a", **schedule, EPOCHS=None, MAX_MINUTES=9)
    out = run_here("train.py", **given).stdout
    whole = only_folder(tmp_path / "a")
    assert "EPOCHS = 5: as many as fit into MAX_MINUTES" in out and "finished all 5 epochs" in out
    ((done, seconds, left),) = measured
    assert done == 2 and 0 < seconds < 60 and 400 < left < 540
    rates = pd.read_csv(whole / "training_log.csv")["learning_rate"]
    expected = [0.005, 0.01, *(0.005 * (1 + np.cos(np.pi * epoch / 5)) for epoch in (2, 3, 4))]
    np.testing.assert_allclose(rates, expected)
    recorded = json.loads((whole / "settings.json").read_text())
    assert recorded["EPOCHS"] == json.loads((whole / "state.json").read_text())["epochs"] == 5
    assert recorded["reasons"]["EPOCHS"].startswith("as many as fit")

    save = RunWriter._write

    def fail_after_three(writer, log, *others):
        save(writer, log, *others)
        if len(log) == 3:
            raise InputError("stopped by the test")

    monkeypatch.setattr(RunWriter, "_write", fail_after_three)
    assert_refused("train.py", "stopped by the test", **given | {"RUNS": tmp_path / "b"})
    run = only_folder(tmp_path / "b")
    text = json.dumps(json.loads((run / "settings.json").read_text()) | {"EPOCHS": None})
    (run / "settings.json").write_text(text)  # as if killed between the checkpoint and settings.json
    monkeypatch.setattr(RunWriter, "_write", save)
    out = run_here("train.py", MODE="resume", RUN=run).stdout
    assert "continuing after epoch 3" in out and "finished all 5 epochs" in out and len(measured) == 2
    for ours, theirs in zip(weights(run / "last.keras"), weights(whole / "last.keras"), strict=True):
        assert np.array_equal(ours, theirs)


# --- without a validation set


@pytest.mark.slow
@on_tensorflow
def test_without_a_validation_set_the_last_epoch_is_the_model(packed, tmp_path):
    optimizer = {"name": "adam", "use_ema": True, "ema_momentum": 0.8}
    given = training(packed, tmp_path / "a", VALIDATION="", OPTIMIZER=optimizer, LEARNING_RATE=0.01, EPOCHS=3)
    out = run_here("train.py", **given).stdout
    assert "no validation, one class" in out and "val_" not in out
    assert "finished all 3 epochs; no validation set, so the model of the last epoch counts" in out
    whole = only_folder(tmp_path / "a")
    names = {path.name for path in whole.iterdir()}
    assert {"last.keras", "averaged.keras"} <= names and not names & {"best_dice.keras", "validation_slices.png"}
    run_here("train.py", **given | {"RUNS": tmp_path / "b", "EPOCHS": 2})
    run = only_folder(tmp_path / "b")
    assert Run(run).has_ended and "no validation" in (run / "report.html").read_text().lower()
    run_here("train.py", MODE="resume", RUN=run, EPOCHS=3)
    for name in ("last", "averaged"):
        for ours, theirs in zip(weights(run / f"{name}.keras"), weights(whole / f"{name}.keras"), strict=True):
            assert np.array_equal(ours, theirs)
    out = run_here("predict.py", RUN=run, INPUT=packed["cases"] / "case01", OUTPUT=tmp_path / "out").stdout
    assert f"with {run / 'averaged.keras'}" in out and len(list((tmp_path / "out").glob("*.png"))) == 4
    (run / "averaged.keras").unlink()
    assert model_file(run) == model_file(run, "last") == run / "last.keras"
    with pytest.raises(InputError, match="trained without a validation set"):
        _ = Run(run).validation_set


def test_what_watches_validation_is_refused_without_it(tmp_path):
    for name, value in (("EARLY_STOP", 5), ("CONTROLLER", {"patience": [1, 1]})):
        with pytest.raises(SettingError, match=rf'{name}: needs a validation set \(VALIDATION is ""\); set it to '):
            configure(Settings.of("train.py", VALIDATION="", **{name: value}))
    assert configure(Settings.of("train.py", VALIDATION="")).EARLY_STOP == 0
    with pytest.raises(SettingError, match='FOLD: "all" needs a validation set'):
        configure_folds(Settings.of("train.py", VALIDATION="", FOLD="all"))


def test_epochs_of_a_final_training_are_the_mean_best_epoch_of_the_folds(tmp_path):
    for fold, best in ((1, 2), (2, 5)):
        run = tmp_path / f"fold{fold}"
        run.mkdir()
        (run / "settings.json").write_text("{}")
        others = {"val_loss": 1.0, "val_iou": 1.0, "seconds": 1.0}
        rows = [others | {"epoch": n, "val_dice": 0.5 + (n == best) / 4} for n in range(1, 7)]
        Log(rows).write(run / "training_log.csv")
    given = {"EPOCHS_FROM": str(tmp_path), "VALIDATION": ""}
    with pytest.raises(InputError, match="EPOCHS_FROM: not a cross-validation"):
        configure(Settings.of("train.py", **given))
    (tmp_path / "cross_validation.json").write_text("{}")
    settings = configure(Settings.of("train.py", **given))
    assert settings.EPOCHS == 4 and settings.reasons["EPOCHS"] == f"mean best epoch of 2 folds in {tmp_path}"
    with pytest.raises(SettingError, match="EPOCHS_FROM: cannot be combined with EPOCHS"):
        configure(Settings.of("train.py", **given, EPOCHS=3))
    Log([row | {"val_dice": np.nan} for row in rows]).write(run / "training_log.csv")
    with pytest.raises(InputError, match=r"fold2/training_log.csv: no validated epoch; finish this training first"):
        configure(Settings.of("train.py", **given))


# --- bad input


def test_bad_settings_and_sets(packed, tmp_path):
    def refused(*words, status=1, **settings):
        settings = training(packed, tmp_path / "runs", **settings)
        assert_refused("train.py", *words, status=status, **settings)
        assert not (tmp_path / "runs").exists()

    refused("gone.h5: file does not exist", TRAIN=tmp_path / "gone.h5")
    refused("LOSS", "dise", status=2, LOSS="dise")
    refused("MODEL", "vnet", status=2, MODEL="vnet")
    refused("side of 24; the nearest sizes that fit are 72 and 136", status=2, MODEL="cvnet_synapse", MODEL_SETTINGS={})
    refused("several exclusive classes", status=2, LOSS="cce")
    refused("MODEL_SETTINGS: unknown key 'width'", status=2, MODEL_SETTINGS={"width": 3})
    refused("EPOCHS: expected a whole number of at least 1 or None (found 0)", status=2, EPOCHS=0)
    refused("EPOCHS: None needs a time limit (MAX_MINUTES is not set", status=2, EPOCHS=None)
    refused("BATCH_SIZE", "(found 'large')", status=2, BATCH_SIZE="large")
    refused("JIT", "(found 'yes')", status=2, JIT="yes")
    refused("AUGMENTATION", "rotate", status=2, AUGMENTATION={"rotate": 3})
    refused("OPTIMIZER", status=2, OPTIMIZER="adamm")
    refused("SCHEDULE: ", status=2, SCHEDULE="linear")
    refused("PRECISION", status=2, PRECISION="float7")
    refused("MODE", status=2, MODE="continue")
    refused(f"RUN: {tmp_path} is not a run folder", "has no settings.json", MODE="resume", RUN=str(tmp_path))
    refused(f"RUN: {tmp_path / 'gone'} does not exist", MODE="resume", RUN=str(tmp_path / "gone"))
    refused('RUN: unused (MODE is "new"); use --mode resume or retrain', status=2, RUN=str(tmp_path))
    (tmp_path / "cv").mkdir()
    (tmp_path / "cv" / "cross_validation.json").write_text("{}")
    refused("cv is a cross-validation; pass --fold all to resume it", MODE="resume", RUN=str(tmp_path / "cv"))
    refused(f"{tmp_path}: expected a file (found a folder)", TRAIN=str(tmp_path))
    refused("gone: does not exist", MODE="retrain", RUN=str(tmp_path / "gone"))
    whole = (packed["packed"] / "train.h5").read_bytes()
    for name, content in (("cut", whole[: len(whole) // 2]), ("text", b"no hdf5"), ("none", b"")):
        (tmp_path / f"{name}.h5").write_bytes(content)
        refused("cut short", TRAIN=tmp_path / f"{name}.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["pixels"] = np.zeros(3)
    refused("pixels", "expected datasets x and y", TRAIN=tmp_path / "other.h5")
    with h5py.File(tmp_path / "float.h5", "w") as file:
        file["x"] = file["y"] = np.zeros((2, 8, 8, 1))
    refused("float64", TRAIN=tmp_path / "float.h5")
    with h5py.File(tmp_path / "small.h5", "w") as file:
        file["x"] = file["y"] = np.full((2, 8, 8, 1), 255, np.uint8)
    refused("its image shape must match", VALIDATION=tmp_path / "small.h5")
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file["x"] = file["y"] = np.zeros((2, 24, 24, 1), np.uint8)
    refused("every mask", "is empty", VALIDATION=tmp_path / "empty.h5")
    refused("split them again", VALIDATION=packed["packed"] / "train.h5")


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run_with_a_message(packed, tmp_path):
    settings = training(packed, tmp_path, LEARNING_RATE=1e9, OPTIMIZER={"name": "sgd", "momentum": 0.9}, EPOCHS=5)
    assert_refused("train.py", "LEARNING_RATE or LOSS: the loss of epoch", "is not finite", run=run_script, **settings)


# --- the parts


def test_batches_are_drawn_from_seed_and_epoch(packed):
    slices = open_set(packed["packed"] / "train.h5")
    a, b = Batches(slices, 3, seed=1), Batches(slices, 3, seed=1)
    orders = []
    for epoch in range(4):
        a.set_epoch(epoch)
        orders.append(a.order.tolist())
        assert sorted(a.order) == list(range(len(slices)))
    assert len(set(map(tuple, orders))) > 1
    b.set_epoch(3)
    assert b.order.tolist() == orders[3]
    assert [len(a[i][0]) for i in range(len(a))] == [3, 3, 2]


def test_neighbours_in_an_epoch_are_strangers():
    for epoch in range(5):
        batches = Batches(range(20000), 8, seed=1)
        batches.set_epoch(epoch)
        assert abs(np.corrcoef(batches.order[:-1], batches.order[1:])[0, 1]) < 0.03


def test_a_set_that_is_packed_again_ends_a_training_in_one_line(packed, tmp_path):
    path = shutil.copy(packed["packed"] / "train.h5", tmp_path / "train.h5")
    batches = Batches(open_set(path, memory_gb=0), 3, seed=1)
    dataset = devices.without_waiting(batches)
    shutil.copy(packed["packed"] / "train.h5", tmp_path / "new.h5").replace(path)
    with (
        pytest.raises(InputError, match=r"train\.h5: was packed again or changed") as error,
        devices.errors_of_batches(),
    ):
        for i, _ in zip(range(len(batches)), dataset, strict=False):
            batches[i]
    assert "\n" not in str(error.value)


def test_a_case_on_both_sides_is_refused_unless_it_is_the_only_one(packed, tmp_path):
    rows = pd.read_csv(packed["lists"] / "train.csv")
    for column in ("x", "y"):
        rows[column] = [str((packed["lists"] / name).resolve()) for name in rows[column]]
    first = rows["case"] == rows["case"].iloc[0]
    divided = {
        "both": (rows.drop(rows[first].index[:2]), rows[first].head(2)),
        "alone": (rows[first].tail(2), rows[first].head(2)),
        "named": (rows[~first].assign(case="patient"), rows[first].assign(case="patient")),
        "apart": (rows[~first], rows[first]),
    }
    for name, tables in divided.items():
        sets = [tmp_path / f"{name}_{part}.csv" for part in ("train", "validation")]
        for path, table in zip(sets, tables, strict=True):
            table.to_csv(path, index=False)
        if name == "both":
            with pytest.raises(InputError, match=r"contains cases of .*found 1, such as case0"):
                open_both(*sets, 1)
        else:
            open_both(*sets, 1)


def test_sets_in_memory_and_in_files_give_the_same(packed):
    for path in (packed["packed"] / "train.h5", packed["lists"] / "train.csv"):
        inside, outside = open_set(path), open_set(path, memory_gb=0)
        assert inside.in_memory and not outside.in_memory
        for ours, theirs in zip(inside.batch([5, 0, 3]), outside.batch([5, 0, 3]), strict=True):
            assert np.array_equal(ours, theirs) and ours.dtype == theirs.dtype
        for i in range(3):
            assert all(map(np.array_equal, Batches(inside, 3, seed=1)[i], Batches(outside, 3, seed=1)[i]))
