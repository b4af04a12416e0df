"""What the tests share: running scripts as a user does, and small case folders."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest
from browsing import start_browser
from drawings import make_cases
from filelock import FileLock
from running import ROOT, TINY_UNET, decathlon_recipe, run_here, run_script, training

from common import gpus
from common.devices import set_defaults

set_defaults()  # before any test imports Keras

MEMORY_FOR_FILES = 8e9  # bytes

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background, where scripts would not see Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--faults", type=int, help="trials of each kind in tests/faults, instead of a few")
    parser.addoption("--fault", type=int, help="the one trial in tests/faults to run, by its number")


def pytest_configure(config):
    """Keep temporary files in memory if there is room: scripts flush what they write, which takes time on a disk."""
    memory = "/dev/shm"
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > MEMORY_FOR_FILES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", memory)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, worker_id):
    """Function that makes a folder of a name once for all workers: the first makes it while the others wait.

    Its second argument is called with the empty folder; what it returns, text, comes back with the folder. No test may
    change such a folder.
    """
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent

    def make(name, maker):
        folder, said = base / name, base / f"{name}.txt"
        with FileLock(base / f"{name}.lock"):
            if not said.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
                folder.mkdir()
                said.write_text(maker(folder), encoding="utf-8")
        return folder, said.read_text(encoding="utf-8")

    return make


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium."""
    with pytest.importorskip("playwright.sync_api").sync_playwright() as playwright:
        chromium = start_browser(playwright)
        yield chromium
        chromium.close()


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Function that puts an nvidia-smi on the path that prints lines and ends with a status; no GPU is hidden."""

    def make(*lines, status=0):
        path = tmp_path / "nvidia-smi"
        path.write_text(f"#!{sys.executable}\nprint({chr(10).join(lines)!r})\nraise SystemExit({status})\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        gpus._names.cache_clear()

    gpus._names.cache_clear()
    yield make
    gpus._names.cache_clear()


@pytest.fixture(scope="session")
def scheduler(tmp_path_factory):
    """Address of a Dask scheduler with two workers, started as docs/scaling.md says."""
    pytest.importorskip("distributed", reason="needs Dask; install tests/requirements.txt")
    folder = tmp_path_factory.mktemp("scheduler")
    dask = [sys.executable, "-m", "dask"]
    options = [
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--no-dashboard",
        "--scheduler-file",
        str(folder / "scheduler.json"),
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": ROOT}
    with subprocess.Popen([*dask, "scheduler", *options], **quiet) as first:
        try:
            while not (folder / "scheduler.json").exists() or not (folder / "scheduler.json").read_text():
                assert first.poll() is None
                time.sleep(0.05)
            address = json.loads((folder / "scheduler.json").read_text())["address"]
            few = ["--nworkers", "2", "--nthreads", "1", "--no-dashboard", "--local-directory", str(folder)]
            with subprocess.Popen([*dask, "worker", address, *few], **quiet) as second:
                try:
                    yield address
                finally:
                    second.terminate()
        finally:
            first.terminate()


@pytest.fixture
def full_disk(tmp_path):
    """Function that mounts a disk of so many bytes at tmp_path/disk and returns its path; needs root on Linux."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size):
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("cannot mount a small disk here (needs root)")
        return disk

    yield mount
    if disk.is_mount():
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture(scope="session", autouse=True)
def jax_cache(tmp_path_factory, worker_id):
    """What JAX compiles, most of it tiny, is kept for its next process in the same tests."""
    base = tmp_path_factory.getbasetemp()
    cache = (base if worker_id == "master" else base.parent) / "jax_cache"
    always = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    with mock.patch.dict(os.environ, {"JAX_COMPILATION_CACHE_DIR": str(cache), **always}):
        yield


@pytest.fixture(scope="session")
def packed(made_once):
    """Case folders, lists and packed sets of small discs: dict of cases, lists, packed."""

    def pack(root):
        cases, lists = make_cases(root / "cases", cases=4, slices=4, empty=True), root / "lists"
        run_script("preprocess/2_write_lists.py", CASES=cases, LISTS=lists, VALIDATION_SHARE=0.25, TEST_SHARE=0.25)
        return run_script("preprocess/3_pack_hdf5.py", LISTS=lists, PACKED=root / "packed").stdout

    root, _ = made_once("packed", pack)
    return {name: root / name for name in ("cases", "lists", "packed")}


@pytest.fixture(scope="session")
def trained(packed, made_once):
    """Run folder of a tiny network, and what train.py printed."""
    runs, said = made_once("runs", lambda runs: run_script("train.py", **training(packed, runs)).stdout)
    (run,) = runs.iterdir()
    return run, said


@pytest.fixture(scope="session")
def folded(made_once):
    """Lists and packed sets in two folds, and a cross-validation over them: root, its folder, settings, output."""
    root, said = made_once("folded", cross_validation)
    (folder,) = (root / "runs").iterdir()
    return root, folder, settings_of_folds(root), said


def settings_of_folds(root):
    settings = {"TRAIN": root / "packed" / "train.h5", "VALIDATION": root / "packed" / "validation.h5"}
    return settings | {"MODEL_SETTINGS": TINY_UNET, "EPOCHS": 1, "LEARNING_RATE": 0.01, "BATCH_SIZE": 4}


def cross_validation(root):
    cases = make_cases(root / "cases", cases=5, slices=2)
    run_here("preprocess/2_write_lists.py", CASES=cases, LISTS=root / "lists", FOLDS=2, TEST_SHARE=0.2)
    run_here("preprocess/3_pack_hdf5.py", LISTS=root / "lists", PACKED=root / "packed")
    # processes by themselves, as the test of resuming has them
    with mock.patch("common.training.cross_validation.call", run_here):
        return run_here("train.py", RUNS=root / "runs", FOLD="all", **settings_of_folds(root)).stdout


@pytest.fixture(scope="session")
def decathlon_and_output(made_once):
    """Folder in which the recipe of docs/decathlon.md was followed, small, and what its commands printed."""

    def follow(folder):
        return "".join(run_here(script, *flags).stdout for script, flags in decathlon_recipe(folder))

    return made_once("decathlon", follow)


@pytest.fixture(scope="session")
def decathlon(decathlon_and_output):
    """Folder in which the recipe of docs/decathlon.md was followed."""
    return decathlon_and_output[0]


@pytest.fixture(scope="session")
def decathlon_runs(decathlon):
    """Run folders of both steps, whole and patch."""
    return [next((decathlon / f"runs_{step}").iterdir()) for step in ("whole", "patch")]
