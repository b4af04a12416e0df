"""run_pipeline.py: killed in any step and continued, twice at once in one folder, on a full disk."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys

import pytest
from drawings import disc_slice, make_cases, write_image
from faults.moments import sample
from faults.states import same, state_of
from running import ROOT, assert_refused, bytes_of, leftovers, only_folder, run_script

from common.command_line import flags_of
from common.training.run_folder import Run
from common.training.trained_models import CrossValidation

TINY = {"MODEL_SETTINGS": {"features": 2, "depth": 1, "dropout": 0.0}, "EPOCHS": 1}
MADE = ("lists/train.csv", "packed/train.h5", "predictions/prediction.json", "scores/scores.csv", "model.mlmodel")
SIZES = (0, 20_000, 50_000, 100_000, 200_000, 400_000, 1_000_000, 2_000_000, 5_000_000, 20_000_000)  # bytes free


def start(settings, cwd=None):
    command = [sys.executable, str(ROOT / "run_pipeline.py"), *flags_of(settings)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd)


def wait_for_line(process, *starts):
    """Read what a pipeline prints until a line starts with each text, in turn."""
    for line in process.stdout:
        if line.startswith(starts[0]):
            starts = starts[1:]
            if not starts:
                return
    raise AssertionError(f"ended with {process.wait()} before {starts[0]}")


def finished(settings, cwd=None):
    """Run a pipeline to its end; returns what it printed."""
    process = start(settings, cwd)
    out, _ = process.communicate()
    assert process.returncode == 0 and "finished all steps" in out, out
    return out


@pytest.mark.slow
def test_killed_in_any_step_and_twice_at_once(tmp_path):
    """What was there stays, each result complete; the same command continues, to the same weights."""
    cases, work = make_cases(tmp_path / "cases", cases=5, slices=3, size=32), tmp_path / "work"
    own = {path: content for path, content in bytes_of(cases).items() if "/x/" in path or "/y/" in path}
    settings = {"CASES": cases, "WORK": work, **TINY, "EPOCHS": 30}
    finished(settings)
    (whole,) = (work / "runs").iterdir()
    (work / "notes.txt").write_text("mine")
    for lines, number in (
        (["$ python preprocess/2_write_lists.py"], signal.SIGKILL),
        (["epoch "], signal.SIGKILL),
        (["continuing the training in ", "epoch "], signal.SIGINT),
        (["continuing the training in ", "$ python predict.py"], signal.SIGTERM),
        (["skipping the training", "$ python convert_coreml.py"], signal.SIGKILL),
    ):
        first = start(settings)
        wait_for_line(first, *lines)
        if lines[-1] != "epoch ":  # the training would end meanwhile
            second = start(settings)
            said, _ = second.communicate()
            assert second.returncode == 1 and said.startswith("run_pipeline.py: error: "), said
            assert f"another process is writing it (run_pipeline.py, process {first.pid} on" in said
        first.send_signal(number)
        out, _ = first.communicate(timeout=60)  # its step has the same output, so it has ended too
        assert first.returncode == -number and "Traceback" not in out, out
        assert all((work / name).is_file() for name in MADE)
    out = finished(settings)
    (trained,) = set((work / "runs").iterdir()) - {whole}
    assert f"skipping the training: {trained} is complete" in out and "$ python train.py" not in out
    assert same(state_of(trained), state_of(whole))
    assert f"and {trained}" in out and not leftovers(work) and not leftovers(cases)
    assert (work / "notes.txt").read_text() == "mine" and own.items() <= bytes_of(cases).items()
    assert trained.name in (work / "predictions" / "prediction.json").read_text()


@pytest.mark.slow
def test_other_settings_are_trained_from_the_start_after_a_kill(tmp_path):
    work = tmp_path / "work"
    settings = {"CASES": make_cases(tmp_path / "cases", cases=5, slices=3, size=32), "WORK": work, **TINY}
    first = start(settings)
    wait_for_line(first, "$ python predict.py")
    first.kill()
    first.communicate(timeout=60)
    (before,) = (work / "runs").iterdir()
    out = finished(settings | {"LEARNING_RATE": 1e-4})
    (trained,) = set((work / "runs").iterdir()) - {before}
    assert out.count("restarting the training: its data or settings have changed") == 1 and f"and {trained}" in out
    assert "restarting" not in finished(settings) and len(list((work / "runs").iterdir())) == 3, (
        "the last one has finished"
    )


@pytest.mark.slow
def test_own_images_continue_under_the_same_plan(tmp_path):
    """Killed in the final training: both plans and the first training are kept, and the final one is continued."""
    work = tmp_path / "work"
    settings = {**own_images(tmp_path), "WORK": work, "MINUTES": 4, "FINAL": 0.5}
    first = start(settings)
    wait_for_line(first, "$ python train.py", "$ python train.py", "epoch ", "epoch ")
    first.kill()
    first.communicate(timeout=60)
    plans = [(work / folder / "packed" / "plan.json").read_bytes() for folder in ("", "final")]
    tested, final = sorted((work / "runs").iterdir())
    out = finished(settings)
    assert f"skipping the training: {tested} is complete" in out and f"continuing the final training in {final}" in out
    assert "4_plan_training.py" not in out and "continuing after epoch " in out
    assert [(work / folder / "packed" / "plan.json").read_bytes() for folder in ("", "final")] == plans
    assert sorted((work / "runs").iterdir()) == [tested, final] and "# Decisions" in (work / "decisions.md").read_text()
    assert sum(row["seconds"] for row in Run(final).log.rows) < 150, "it had the minutes that were left"


@pytest.mark.slow
def test_a_cross_validation_killed_anywhere_continues(tmp_path):
    """Before and in a fold, between folds, while it predicts, scores or chooses; also from another working folder.

    It ends with the weights and the choice of a cross-validation that was not interrupted.
    """
    work, packed = tmp_path / "work", tmp_path / "work" / "packed"
    settings = {**own_images(tmp_path), "WORK": work, "MINUTES": 2, "FOLDS": 2}
    elsewhere = {
        name: os.path.relpath(value, tmp_path / "images") for name, value in settings.items() if "/" in str(value)
    }
    killed(start(settings), signal.SIGKILL, "$ python train.py")
    plan = json.loads((packed / "plan.json").read_text())
    tiny = {"MODEL_SETTINGS": TINY["MODEL_SETTINGS"], "EPOCHS": 30, "MAX_MINUTES": 30}
    (packed / "plan.json").write_text(json.dumps(plan | tiny))
    killed(start(settings), signal.SIGKILL, "restarting the training", "$ python train.py", "epoch ")
    for lines, number in (
        (["fold 2 of 2"], signal.SIGINT),
        (["skipping ", "fold 2 of 2", "epoch "], signal.SIGTERM),
        (["skipping ", "run folder ", "predicting "], signal.SIGKILL),
        (["scoring "], signal.SIGKILL),
        (["continuing the training", "$ python choose.py"], signal.SIGKILL),
        (["skipping the training", "$ python choose.py", "baseline"], signal.SIGKILL),
        (["skipping the training", "$ python predict.py"], signal.SIGKILL),
    ):
        killed(start(settings | elsewhere, tmp_path / "images"), number, *lines)
    out = finished(settings)
    folds = CrossValidation(max((work / "runs").iterdir()))
    assert f"skipping the training: {folds} is complete" in out and "restarting" not in out and not leftovers(work)
    sets = {"TRAIN": packed / "train.h5", "VALIDATION": packed / "validation.h5", "SEED": 1, "FOLD": "all"}
    run_script("train.py", "--settings", packed / "plan.json", RUNS=tmp_path / "whole", **sets)
    whole = CrossValidation(only_folder(tmp_path / "whole"))
    run_script("choose.py", CROSS_VALIDATIONS=whole)
    for fold in (1, 2):
        assert same(state_of(folds.fold(fold).folder), state_of(whole.fold(fold).folder))
    assert folds.choice_file.read_bytes() == whole.choice_file.read_bytes()
    assert (folds.scores_folder / "scores.csv").read_bytes() == (whole.scores_folder / "scores.csv").read_bytes()


def killed(process, number, *starts):
    """Wait for lines of a pipeline and end it with a signal."""
    wait_for_line(process, *starts)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == -number and "Traceback" not in out, out


def test_without_replace_nothing_is_overwritten(tmp_path):
    """Refused before the first step, not when an hour of training is over."""
    settings = {**own_images(tmp_path), "WORK": tmp_path / "work", "REPLACE": False}
    for name in ("predictions/a.png", "scores/scores.csv", "model.mlmodel", "decisions.md"):
        (tmp_path / "work" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "work" / name).write_text("mine")
        assert_refused("run_pipeline.py", f"{tmp_path / 'work' / name.split('/')[0]}: already exists", **settings)
        assert bytes_of(tmp_path / "work") == {name: b"mine"}
        shutil.rmtree(tmp_path / "work")


def own_images(folder):
    """Settings for images of five patients, drawn in a folder."""
    for case in range(5):
        for number in range(2):
            image, mask = disc_slice(48, 2 * case + number)
            write_image(folder / "images" / f"p{case}" / f"{number}.png", image)
            write_image(folder / "masks" / f"p{case}" / f"{number}.png", mask)
    return {"IMAGES": folder / "images", "MASKS": folder / "masks", "SIZE": 48}


@pytest.mark.slow
def test_own_images_on_a_full_disk(tmp_path, small_disk, request):
    """One line of the step that needs space; what was there stays, and the next run finishes.

    The planned network needs more than the largest of these disks, so old runs are left out.
    """
    work = tmp_path / "work"
    settings = {**own_images(tmp_path), "WORK": work, "MINUTES": 4, "FINAL": 0.0}
    finished({"CASES": make_cases(tmp_path / "cases", cases=5, slices=3, size=32), "WORK": work, **TINY})
    shutil.copytree(work, tmp_path / "laid_out", ignore=shutil.ignore_patterns("runs"))
    for free in sample(request, random.Random("pipeline"), SIZES, 3):
        small_disk.taken_down()
        shutil.rmtree(work)
        shutil.copytree(tmp_path / "laid_out", work)
        small_disk(work, free)
        process = start(settings)
        out, _ = process.communicate()
        assert all((work / name).is_file() for name in MADE), f"{free}: {out}"
        errors = [line for line in out.splitlines() if ": error: " in line]
        assert process.returncode == 1 and "Traceback" not in out, f"{free} bytes free: {out}"
        assert "the disk is full" in errors[0] and len(errors) <= 2, f"{free} bytes free: {errors}"
        assert not leftovers(work), f"{free} bytes free: {leftovers(work)}"
    small_disk.resize("2g")
    finished(settings)
