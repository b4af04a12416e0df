"""run_pipeline.py: killed in any step and started again, twice at once in one folder, on a full disk."""

import random
import shutil
import signal
import subprocess
import sys

import pytest
from drawings import disc_slice, make_cases, write_image
from faults.moments import sample
from running import ROOT, bytes_of, leftovers

from common.command_line import flags_of

TINY = {"MODEL_SETTINGS": {"features": 2, "depth": 1, "dropout": 0.0}, "EPOCHS": 1}
MADE = ("lists/train.csv", "packed/train.h5", "predictions/prediction.json", "scores/scores.csv", "model.mlmodel")
SIZES = (0, 20_000, 50_000, 100_000, 200_000, 400_000, 1_000_000, 2_000_000, 5_000_000, 20_000_000)  # bytes free


def start(settings):
    command = [sys.executable, str(ROOT / "run_pipeline.py"), *flags_of(settings)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_step(process, script):
    """Read what a pipeline prints until it starts a script."""
    for line in process.stdout:
        if line.startswith(f"$ python {script}"):
            return
    raise AssertionError(f"ended with {process.wait()} before {script}")


def finished(settings):
    """Run a pipeline to its end; returns what it printed."""
    process = start(settings)
    out, _ = process.communicate()
    assert process.returncode == 0 and "finished all steps" in out, out
    return out


@pytest.mark.slow
def test_killed_in_any_step_and_twice_at_once(tmp_path):
    """What was there stays, each result complete, and the next run is not held up by a step of the killed one."""
    cases, work = make_cases(tmp_path / "cases", cases=5, slices=3, size=32), tmp_path / "work"
    own = {path: content for path, content in bytes_of(cases).items() if "/x/" in path or "/y/" in path}
    settings = {"CASES": cases, "WORK": work, **TINY}
    finished(settings)
    (work / "notes.txt").write_text("mine")
    for script, number in (
        ("preprocess/2_write_lists.py", signal.SIGKILL),
        ("train.py", signal.SIGKILL),
        ("train.py", signal.SIGINT),
        ("predict.py", signal.SIGTERM),
        ("convert_coreml.py", signal.SIGKILL),
    ):
        first = start(settings)
        wait_for_step(first, script)
        second = start(settings)
        said, _ = second.communicate()
        assert second.returncode == 1 and said.startswith("run_pipeline.py: error: "), said
        assert f"another process is writing it (run_pipeline.py, process {first.pid} on" in said
        first.send_signal(number)
        out, _ = first.communicate(timeout=60)  # its step has the same output, so it has ended too
        assert first.returncode == -number and "Traceback" not in out, out
        assert all((work / name).is_file() for name in MADE)
    before = set((work / "runs").iterdir())
    out = finished(settings)
    (trained,) = set((work / "runs").iterdir()) - before
    assert f"and {trained}" in out and not leftovers(work) and not leftovers(cases)
    assert (work / "notes.txt").read_text() == "mine" and own.items() <= bytes_of(cases).items()
    assert trained.name in (work / "predictions" / "prediction.json").read_text()


@pytest.mark.slow
def test_own_images_on_a_full_disk(tmp_path, small_disk, request):
    """One line of the step that needs space; what was there stays, and the next run finishes.

    The planned network needs more than the largest of these disks, so old runs are left out.
    """
    for case in range(5):
        for number in range(2):
            image, mask = disc_slice(48, 2 * case + number)
            write_image(tmp_path / "images" / f"p{case}" / f"{number}.png", image)
            write_image(tmp_path / "masks" / f"p{case}" / f"{number}.png", mask)
    work = tmp_path / "work"
    settings = {
        "IMAGES": tmp_path / "images",
        "MASKS": tmp_path / "masks",
        "WORK": work,
        "MINUTES": 4,
        "FINAL": 0.0,
        "SIZE": 48,
    }
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
