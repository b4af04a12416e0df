"""train.py, tune.py and choose.py: killed at any moment, two at once, a full disk. `--faults 1` tries every moment."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import pandas as pd
import pytest
from faults import kinds
from faults.judging import grammar
from faults.moments import disk_is_full, free_sizes, sample, wait_for_stop
from faults.states import same, state_of
from running import ROOT, assert_refused, leftovers, run_script, training

from common.command_line import flags_of
from common.training.new_run import make_run

EPOCHS = 4
SIZES_OF_A_SEARCH = (0, 20_000, 100_000, 150_000, 200_000, 300_000, 400_000, 600_000, 800_000)  # bytes free
RESUME = f"--mode resume --run @/run --epochs {EPOCHS}".split()  # the run has ended after two


class Resumed:
    """A run folder to resume.

    Attributes:
        whole: state of the run that was resumed undisturbed.
        changes: number of changes of names on the disk that this makes.
        seconds: how long it takes.
    """

    def __init__(self, forking, good, room):
        self.forking, self.good, self.run = forking(True), good, room / "room" / "trial" / "run"
        self.request = {"script": "train.py", "flags": RESUME, "room": str(room / "room"), "writes": ("run",)}
        answer = self.resume(stop={"signal_number": 0}, restored=True)
        assert answer["status"] == 0, answer
        self.changes, self.seconds = int((room / "changes").read_text()), answer["seconds"]
        self.whole = state_of(self.run)
        assert self.whole["last epoch"] == EPOCHS

    def restore(self):
        shutil.rmtree(self.run.parent, ignore_errors=True)
        shutil.copytree(self.good, self.run.parent)

    def resume(self, stop=None, restored=False):
        if restored:
            self.restore()
        (answer,) = self.forking.run([{**self.request, "stop": stop}])
        return answer


@pytest.fixture
def resumed(forking, good_files, room):
    return Resumed(forking, good_files(kinds.run), room)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["change of the disk", "time"])
def test_a_killed_training_ends_with_the_same_weights(resumed, where, request):
    rng = random.Random(where)
    moments = range(1, resumed.changes + 1) if where != "time" else [resumed.seconds * k / 40 for k in range(1, 40)]
    for moment in sample(request, rng, moments, 5):
        number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT])
        stop = {"signal_number": number, "after" if where == "time" else "at": moment}
        answer = resumed.resume(stop, restored=True)
        if number == signal.SIGINT:
            assert "Traceback" not in answer["err"] and not leftovers(resumed.run.parent), f"{moment}: {answer}"
        epoch = int(state_of(resumed.run)["last epoch"])
        rows = len(pd.read_csv(resumed.run / "training_log.csv"))
        assert 2 <= epoch <= EPOCHS and epoch <= rows <= epoch + 1, f"{moment}: {rows} rows, {epoch} epochs"
        answer = resumed.resume()
        assert answer["status"] == 0, f"{moment}: {answer}"
        assert same(state_of(resumed.run), resumed.whole), moment
        assert not leftovers(resumed.run.parent), moment


@pytest.mark.slow
def test_two_resume_one_run(resumed, forking, room):
    resumed.restore()
    stop = {"signal_number": signal.SIGSTOP, "at": resumed.changes // 2}
    resumed.forking.start([{**resumed.request, "stop": stop}])
    first = wait_for_stop(room)
    try:
        (second,) = forking(True, 2).run([resumed.request])
    finally:
        os.kill(first, signal.SIGCONT)
        (answer,) = resumed.forking.answers(1)
    assert answer["status"] == 0, answer
    assert second["status"] == 1 and not grammar("train.py", second["err"]), second
    assert f"process {first} on" in second["err"]
    assert same(state_of(resumed.run), resumed.whole) and not leftovers(resumed.run.parent)


def begin_run(runs):
    return make_run(runs, "unet", {"MODEL": "unet"}, "", {"train.py": b"code"}, "20300101-000000_unet").folder


def test_trainings_begun_in_the_same_second_have_a_folder_each(tmp_path):
    with ProcessPoolExecutor(8) as pool:
        runs = list(pool.map(begin_run, [tmp_path / "runs"] * 24))
    assert len(set(runs)) == 24 and sorted(runs) == sorted((tmp_path / "runs").iterdir())
    for run in runs:
        assert json.loads((run / "settings.json").read_text()) == {"MODEL": "unet"}
        assert (run / "code" / "train.py").read_bytes() == b"code"


@pytest.mark.slow
def test_training_on_a_full_disk(forking, good_files, room, small_disk, request):
    """It ends in one line, and goes on once there is space; a run without a checkpoint begins again."""
    good, here = good_files(kinds.run), room / "room" / "trial"
    base = {"script": "train.py", "room": str(room / "room"), "writes": ("disk",)}
    train = [flag.replace("@/out", "@/disk/runs") for flag in [*kinds.TRAIN.split(), "--epochs", "3"]]
    train += ["--model", "unet", "--model-settings", "{'features': 2, 'depth': 1}", "--batch-size", "3"]
    train += ["--loss", "bce+dice", "--augmentation", "{}"]
    refused = 0
    for free in free_sizes(good / "run", request, "training", factor=3):
        small_disk.taken_down()
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(good, here)
        (here / "disk").mkdir()
        small_disk(here / "disk", free)
        (answer,) = forking(True).run([{**base, "flags": train}])
        if not disk_is_full(answer, "train.py"):
            continue
        refused += 1
        small_disk.resize("64m")
        runs = list((here / "disk").glob("runs/*"))
        assert len(runs) <= 1 and not leftovers(here / "disk"), f"{free} bytes free: {leftovers(here / 'disk')}"
        flags = ["--mode", "resume", "--run", str(runs[0])] if runs else train
        (again,) = forking(True).run([{**base, "flags": flags}])
        assert again["status"] == 0, f"{free} bytes free, then {again}"
        (run,) = (here / "disk" / "runs").iterdir()
        assert state_of(run)["last epoch"] == 3 and (run / "report.html").exists()
    assert refused


@pytest.mark.slow
def test_choosing_with_a_full_folder_for_temporary_files(good_files, room, small_disk):
    shutil.copytree(good_files(kinds.run) / "cv", room / "cv")
    before = (room / "cv" / "choice.json").read_bytes()
    (room / "tmp").mkdir()
    small_disk(room / "tmp", 4096)

    def run(*flags, **options):
        return run_script(*flags, env={"TMPDIR": str(room / "tmp")}, **options)

    settings = {"CROSS_VALIDATIONS": room / "cv", "CLEANINGS": [{}]}
    message = assert_refused("choose.py", f"{room / 'tmp'}: the disk is full", "TMPDIR", run=run, **settings)
    assert not grammar("choose.py", message)
    assert (room / "cv" / "choice.json").read_bytes() == before and not leftovers(room / "cv")


@pytest.mark.slow
def test_a_search_on_a_full_disk_continues(packed, room, small_disk, request):
    sets = {name: str(value) for name, value in training(packed, "").items() if name in ("TRAIN", "VALIDATION")}
    settings = {
        **sets,
        "STUDY": room / "disk" / "study",
        "TRIALS": 1,
        "EPOCHS": 2,
        "MODELS": ["unet"],
        "MODEL_SETTINGS": {"unet": {"features": 2, "depth": 1}},
        "LOSSES": ["bce+dice"],
        "AUGMENTATION": {},
        "PRECISIONS": ["float32"],
        "OTHERS": {"BATCH_SIZE": 3},
    }
    refused = 0
    for free in sample(request, random.Random("search"), SIZES_OF_A_SEARCH, 2):
        small_disk.taken_down()
        shutil.rmtree(room / "disk", ignore_errors=True)
        (room / "disk").mkdir()
        small_disk(room / "disk", free)
        command = [sys.executable, str(ROOT / "tune.py"), *flags_of(settings)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        refused += disk_is_full({"status": ended.returncode, "err": ended.stderr}, "tune.py")
        assert not leftovers(room / "disk"), f"{free} bytes free: {leftovers(room / 'disk')}"
        small_disk.resize("64m")
        assert "trials: 1; 1 complete" in run_script("tune.py", **settings).stdout, f"{free} bytes free"
        assert not leftovers(room / "disk"), f"{free} bytes free"
    assert refused
