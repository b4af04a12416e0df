"""Run folders, their logs, and the models that a user's RUN means."""

import os
from pathlib import Path

import numpy as np
import pytest
from drawings import write_copying_network
from running import bytes_of

from common.errors import InputError
from common.files import write_json
from common.training.new_run import claim_run
from common.training.run_folder import Run
from common.training.run_records import SliceData, VolumeData
from common.training.trained_models import (
    CrossValidation,
    find_models,
    find_volume_models,
    model_file,
    recorded_shape,
    slice_preparation,
)
from common.training.training_log import Log


def make_run(folder, data=None, models=("best_dice", "last"), settings=None):
    """A run folder with models that are copies of one another."""
    write_json(Run(folder).settings_file, settings or {"MODEL": "unet"})
    log = Log([{"epoch": i, "val_dice": 0.5 * i, "val_iou": 0.1, "seconds": 30.0} for i in (1, 2)])
    log.write(Run(folder).log_file)
    Run(folder).write_state(log, 2, "finished all 2 epochs", {}, data or SliceData(), {})
    for which in models:
        write_copying_network(Run(folder).model_file(which), 24)
    return Run(folder)


# --- the log


def test_the_soft_score_decides_while_the_score_is_0():
    def best(*pairs):
        rows = [{"epoch": i, "val_dice": hard, "val_soft_dice": soft} for i, (hard, soft) in enumerate(pairs, 1)]
        return Log(rows).best("dice"), Log(rows).is_best("dice")

    assert best((0, 0.1), (0, 0.3), (0, 0.2)) == ((0, 2), False)
    assert best((0, 0.3), (0, 0.5)) == ((0, 2), True)
    assert best((0, 0.9), (0.1, 0.2), (0.1, 0.3)) == ((0.1, 2), False), "only while it is 0"
    assert Log([{"epoch": 1, "val_dice": 0.0}, {"epoch": 2, "val_dice": 0.0}]).best("dice") == (0, 1)


def test_log_knows_the_best_epoch():
    rows = [{"epoch": i + 1, "val_dice": d, "val_iou": d} for i, d in enumerate([0.2, 0.5, 0.5, float("nan"), 0.4])]
    log = Log(rows)
    assert log.best("dice") == (0.5, 2) and not log.is_best("dice") and log.reason_to_stop(9, 4) is None
    assert log.reason_to_stop(9, 3) and log.reason_to_stop(5, 0) and not log.reason_to_stop(6, 0)
    assert Log(rows[:2]).is_best("dice") and Log().best("iou") == (-np.inf, 0)


@pytest.mark.skipif(os.name == "nt", reason="no such names")
@pytest.mark.parametrize("name", ["http:", "file:", "s3:"])
def test_a_folder_that_looks_like_an_address_is_a_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    Log([{"epoch": 1, "loss": 0.5}]).write(Path(name, "log.csv"))
    assert Log.read(Path(name, "log.csv")).rows == [{"epoch": 1, "loss": 0.5}]


def test_a_log_is_read_as_it_was_written(tmp_path):
    rows = [{"epoch": i, "loss": 0.1 * i, "val_dice": float("nan"), "seconds": 1 / 3} for i in (1, 2, 3)]
    Log(rows).write(tmp_path / "log.csv")
    log = Log.read(tmp_path / "log.csv", 2)
    assert [row["epoch"] for row in log.rows] == [1, 2] and log.rows[1]["loss"] == 0.2
    assert log.minutes == pytest.approx(2 / 180)
    assert len(Log.read(tmp_path / "log.csv")) == 3 and len(Log.read(tmp_path / "gone.csv")) == 0
    (tmp_path / "log.csv").write_text("epoch,loss\none,two\n")
    with pytest.raises(InputError, match=r"log\.csv: damaged"):
        Log.read(tmp_path / "log.csv")


# --- what a run knows


@pytest.mark.parametrize("depth", [100, 300, 900, 10**5])
def test_a_deeply_nested_record_is_refused_in_one_message(tmp_path, depth):
    """The limits of the JSON reader, of pydantic and of Python differ."""
    nested = "[" * depth + "]" * depth
    for file, read in (
        (Run(tmp_path).settings_file, lambda: Run(tmp_path).settings),
        (CrossValidation(tmp_path).settings_file, lambda: CrossValidation(tmp_path).settings),
    ):
        file.write_text(f'{{"TRAIN": "a", "MODEL_SETTINGS": {nested}}}')
        if depth == 100:
            assert read()["TRAIN"] == "a"
        else:
            with pytest.raises(InputError, match=rf"{file.name}: damaged \(.*nested too deeply"):
                read()


def test_a_run_says_what_it_was_trained_on(tmp_path):
    data = SliceData(
        classes=3, size=24, inputs=1, bits=8, spacing=[1.0, 2.0], fit="tile", plane="axial", stretched=False
    )
    run = make_run(tmp_path / "run", data)
    assert run.exists and run.data == data and run.settings == {"MODEL": "unet"} and run.crop is None
    assert not run.has_ended, "the page of examples is missing"
    run.examples_file.touch()
    assert run.has_ended
    best, other = run.model_file("best_dice"), tmp_path / "run" / "other.keras"
    assert run.score(best) == 1.0 and run.score(run.model_file("last")) is None
    assert run.validation_metrics(best) == run.validation_metrics(other) == {"dice": 1.0, "iou": 0.1}
    assert recorded_shape(best) == (24, 1, 4, False)
    content = best.read_bytes()
    start = content.index(b"config.json") + 40
    best.write_bytes(content[:start] + 20 * b"x" + content[start + 20 :])
    assert recorded_shape(best) is None, "it is damaged"
    alone = Run(tmp_path)
    assert not alone.exists and alone.settings == alone.state == {} and alone.data == SliceData()
    assert alone.validation_metrics(tmp_path / "x.keras") is None and not alone.has_ended


def test_what_a_killed_training_left_is_removed(tmp_path):
    run = make_run(tmp_path / "run")
    run.progress_folder.mkdir()
    before = bytes_of(tmp_path)
    for place in (run.model_file("last"), run.strip_file(3)):
        place.with_name(f".part-0123456789ab-{place.name}").write_bytes(b"half")
    with claim_run(run):
        pass
    assert bytes_of(tmp_path) == before


def test_a_resumed_run_has_the_minutes_that_are_left(tmp_path):
    for minutes, left in ((None, None), (3, 2), (0.5, 1e-3)):
        run = make_run(tmp_path / str(minutes), models=(), settings={"MODEL": "unet", "MAX_MINUTES": minutes})
        assert run.minutes_left == left, "two epochs took a minute"


def test_state_of_older_and_newer_versions_is_read(tmp_path):
    write_json(Run(tmp_path).state_file, {"data": {"classes": 2, "size": 64, "new": 1}})
    assert Run(tmp_path).data == SliceData(classes=2, size=64)
    write_json(Run(tmp_path).state_file, {"epoch": 1, "data": {"kind": "volumes", "step": "whole", "labels": ["a"]}})
    assert Run(tmp_path).data == VolumeData(step="whole", labels=["a"])
    Run(tmp_path).state_file.write_text("[1]")
    with pytest.raises(InputError, match=r"state\.json: damaged"):
        _ = Run(tmp_path).data


# --- which models are meant


def test_the_newest_run_is_the_newest_with_a_model(tmp_path):
    old = make_run(tmp_path / "20250101-000000_unet")
    new = make_run(tmp_path / "20250102-000000_unet")
    make_run(tmp_path / "20250103-000000_unet", models=())  # it ended before its first epoch
    assert model_file(tmp_path) == new.model_file("best_dice") and model_file(old, "last") == old.model_file("last")
    for run in (old, new):
        for which in ("best_dice", "last"):
            run.model_file(which).unlink()
    with pytest.raises(InputError, match=r"20250103-000000_unet: no trained model \(found none of best_dice"):
        model_file(tmp_path)


def test_models_of_a_cross_validation_are_those_chosen(tmp_path):
    folds = CrossValidation(tmp_path / "runs" / "folds")
    write_json(folds.settings_file, {"TRAIN": "train.h5"})
    for number in (1, 2, 10):
        make_run(folds.fold(number).folder)
    plain = find_models([folds], "last")
    assert [file.parent.name for file in plain.files] == ["fold1", "fold2", "fold10"]
    assert {file.name for file in plain.files} == {"best_dice.keras"} and (plain.flips, plain.clean) == ("none", {})
    folds.write_choice([[str(folds), "last"]], "flips", {"share": 1})
    assert folds.choice.files[0].samefile(folds.fold(1).model_file("last"))
    assert (folds.choice.flips, folds.choice.clean) == ("flips", {"share": 1})
    one = find_models([folds.fold(2)], "last")
    assert one.files == [folds.fold(2).model_file("last")]
    with pytest.raises(InputError, match="a cross-validation cannot be combined"):
        find_models([folds, folds.fold(1)], "last")


def test_preparation_of_runs_must_agree_unless_a_setting_decides(tmp_path):
    data = SliceData(classes=1, size=24, window=[0, 80], plane="axial", fit="crop", stretched=False)
    files = [
        make_run(tmp_path / str(i), d).model_file("last")
        for i, d in enumerate([data, data.model_copy(update={"window": [0.0, 90.0]}), SliceData()])
    ]
    prepared = slice_preparation([files[0], files[2]])
    assert (prepared.fit, prepared.window, prepared.plane, prepared.resampled) == ("tile", [0, 80], "axial", None)
    assert prepared.stretched is False and slice_preparation(files, {"window"}).window == [0, 80]
    with pytest.raises(InputError, match=r"window is .*0, 80.* and .*0, 90"):
        slice_preparation(files)


def test_models_for_volumes_belong_together(tmp_path):
    about = {"classes": 1, "labels": ["a"], "channels": 1, "spacing": [1, 1, 1], "voxels": 100}
    whole = VolumeData(step="whole", intensity={"kind": "volume"}, **about)
    patch, single = (whole.model_copy(update={"step": step}) for step in ("patch", "single"))
    other = whole.model_copy(update={"voxels": 200})
    runs = {
        name: make_run(tmp_path / name, data, settings={"CROP": [8, 8, 8]})
        for name, data in (("whole", whole), ("patch", patch), ("single", single), ("other", other), ("slices", None))
    }
    assert find_volume_models([runs["slices"]], "last") is None
    found = find_volume_models([runs["whole"], runs["patch"]], "last")
    assert list(found) == ["whole", "patch"] and found["patch"].files == [runs["patch"].model_file("last")]
    assert found["whole"].data == whole and found["whole"].crop == [8, 8, 8]
    for names, words in (
        (("whole", "slices"), r"slices.last\.keras was trained on slices"),
        (("whole", "other"), r"voxels differs from .*whole.* \(200 and 100\)"),
        (("whole", "single"), 'cannot combine a model of step "single"'),
    ):
        with pytest.raises(InputError, match=words):
            find_volume_models([runs[name] for name in names], "last")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
@pytest.mark.parametrize("name", ["a.keras", "a.h5"])
def test_a_pipe_is_no_model(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=f"{name}: not a regular file"):
        model_file(tmp_path / name)
