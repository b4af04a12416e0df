"""What the tests share: running scripts as a user does, and small case folders."""

import contextlib
import io
import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.devices import set_defaults

set_defaults()  # before any test imports Keras

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background, where scripts would not see Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

REAL_DATA = ROOT.parent / "shared" / "data"
SCRIPTS = sorted(
    str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.py"), *ROOT.glob("preprocess/*.py"), *ROOT.glob("data/*.py")]
)
TINY_UNET = {"features": 2, "depth": 1, "dropout": 0.2}


def run_script(script, *flags, expect=0, backend=None, env=None, **settings):
    """Run a script as a user does.

    Args:
        script: path from the root of the project.
        flags: further arguments.
        expect: exit status that the test is about.
        backend: KERAS_BACKEND.
        env: dict of further environment variables.
        settings: settings by name, given as flags.

    Returns:
        CompletedProcess; its output is text.
    """
    from common.settings import flags_of

    command = [sys.executable, str(ROOT / script), *map(str, flags), *flags_of(settings)]
    environment = os.environ | ({"KERAS_BACKEND": backend} if backend else {}) | (env or {})
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == expect, f"{command}\n{result.stdout}\n{result.stderr}"
    return result


def run_here(script, *flags, expect=0, **settings):
    """Run a script as `run_script` does, but in this process, where what it imports has been loaded already.

    Training leaves the memory setting of the process alone.

    The file is executed as `__main__` with its flags, and an error is shown by the hook that it sets. What only a
    process of its own shows (that its imports are complete, its status, a quiet start) is for `run_script`:
    test_errors_and_files.py refuses something by every script so.
    """
    from common.settings import flags_of

    path = ROOT / script
    command = [str(path), *map(str, flags), *flags_of(settings)]
    status, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as kept:
        for name, value in (("argv", command), ("path", [str(path.parent), *sys.path]), ("excepthook", sys.excepthook)):
            kept.enter_context(mock.patch.object(sys, name, value))
        kept.enter_context(mock.patch.dict(os.environ))
        if keras := sys.modules.get("keras"):
            kept.callback(keras.config.set_dtype_policy, keras.config.dtype_policy())
        kept.enter_context(mock.patch("common.devices.hold_memory"))
        kept.enter_context(contextlib.redirect_stdout(out))
        kept.enter_context(contextlib.redirect_stderr(err))
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
        except Exception:
            status = 1
            sys.excepthook(*sys.exc_info())
    assert status == expect, f"{command}\n{out.getvalue()}\n{err.getvalue()}"
    return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())


def assert_refused(script, *words, status=1, run=run_here, **settings):
    """Run a script on bad input: one clear message with `words` in it, and no traceback."""
    result = run(script, expect=status, **settings)
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith(f"{Path(script).name}: error: ")
    for word in words:
        assert str(word) in result.stderr, result.stderr
    return result.stderr


def leftovers(folder):
    """Half-written files and folders."""
    return list(Path(folder).rglob(".part-*"))


def write_picture(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = cv2.imencode(path.suffix, picture)[1]
    path.write_bytes(data.tobytes())


def disc_slice(size, seed, classes=1, bits=8):
    """A noisy slice with one disc a class, which is brighter, and its mask."""
    rng = np.random.default_rng(seed)
    image = rng.normal(60, 10, (size, size))
    mask = np.zeros((size, size), np.uint8)
    for number in range(1, classes + 1):
        centre = rng.integers(size // 4, 3 * size // 4, 2).tolist()
        cv2.circle(mask, centre, size // 6, 255 if classes == 1 else number, -1)
        image[mask == mask[centre[1], centre[0]]] += 100 / number
    image = image.clip(0, 255)
    return (image.astype(np.uint8) if bits == 8 else (image * 257).astype(np.uint16)), mask


def make_cases(root, cases=3, slices=4, size=24, classes=1, bits=8, empty=False):
    """Write case folders of disc slices; with `empty`, the first mask of each case is empty."""
    for case in range(1, cases + 1):
        for number in range(1, slices + 1):
            image, mask = disc_slice(size, 100 * case + number, classes, bits)
            if empty and number == 1:
                mask[:] = 0
            write_picture(root / f"case{case:02d}" / "x" / f"{number:04d}.png", image)
            write_picture(root / f"case{case:02d}" / "y" / f"{number:04d}.png", mask)
    return root


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, worker_id):
    """Function that makes a folder of a name once for all workers: the first makes it while the others wait.

    Its second argument is called with the empty folder; what it returns, text, comes back with the folder. No test may
    change such a folder.
    """
    from common.processes import Lock

    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent

    def make(name, maker):
        folder, said = base / name, base / f"{name}.txt"
        with Lock(base / f"{name}.lock"):
            if not said.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
                folder.mkdir()
                said.write_text(maker(folder), encoding="utf-8")
        return folder, said.read_text(encoding="utf-8")

    return make


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


def training(packed, runs, **settings):
    """Settings of a tiny training run."""
    return {
        "TRAIN": packed["packed"] / "train.h5",
        "VALIDATION": packed["packed"] / "validation.h5",
        "RUNS": runs,
        "MODEL_SETTINGS": TINY_UNET,
        "BATCH_SIZE": 3,
        "EPOCHS": 2,
        **settings,
    }


@pytest.fixture(scope="session")
def trained(packed, made_once):
    """Run folder of a tiny network, and what train.py printed."""
    runs, said = made_once("runs", lambda runs: run_script("train.py", **training(packed, runs)).stdout)
    (run,) = runs.iterdir()
    return run, said
