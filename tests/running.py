"""Running scripts as a user does."""

import contextlib
import io
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parents[1]

REAL_DATA = ROOT.parent / "shared" / "data"

SCRIPTS = sorted(
    str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.py"), *ROOT.glob("preprocess/*.py"), *ROOT.glob("data/*.py")]
)

TINY_UNET = {"features": 2, "depth": 1, "dropout": 0.2}

TINY_SE_RESUNET3D = {"features": 2, "depth": 1, "ratio": 2}

SMALL_DECATHLON = {
    "data/make_volumes.py": ["--train", "4", "--test", "1"],
    "preprocess/3_pack_volumes.py": ["--voxels", "5000", "--smallest-box", "12"],
    "train.py": [
        *("--epochs", "3", "--max-minutes", "None", "--optimizer", "sgd"),
        *("--model-settings", repr(TINY_SE_RESUNET3D)),
    ],
}


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
    from common.command_line import flags_of

    command = [sys.executable, str(ROOT / script), *map(str, flags), *flags_of(settings)]
    environment = os.environ | ({"KERAS_BACKEND": backend} if backend else {}) | (env or {})
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == expect, f"{command}\n{result.stdout}\n{result.stderr}"
    return result


def run_main(script, *flags, **settings):
    """Run a script in this process, where what it imports has been loaded already; its errors come through.

    The file is executed as `__main__` with its flags. Training leaves the memory setting of the process alone.
    """
    from common.command_line import flags_of

    path = ROOT / script
    command = [str(path), *map(str, flags), *flags_of(settings)]
    with contextlib.ExitStack() as kept:
        changed = {name: getattr(sys, name) for name in ("stdin", "stdout", "stderr", "excepthook")}
        for name, value in (changed | {"argv": command, "path": [str(path.parent), *sys.path]}).items():
            kept.enter_context(mock.patch.object(sys, name, value))
        kept.enter_context(mock.patch.object(threading, "excepthook", threading.excepthook))
        kept.enter_context(mock.patch.dict(os.environ))
        if keras := sys.modules.get("keras"):
            kept.callback(keras.config.set_dtype_policy, keras.config.dtype_policy())
        kept.enter_context(mock.patch("common.devices.hold_memory"))
        runpy.run_path(str(path), run_name="__main__")


def run_here(script, *flags, expect=0, **settings):
    """Run a script as `run_script` does, but as `run_main`; an error is shown as in a process of its own.

    What only a process of its own shows (that its imports are complete, its status, a quiet start) is for `run_script`:
    test_errors.py refuses something by every script so.
    """
    from common.errors import report_error

    status, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run_main(script, *flags, **settings)
        except SystemExit as end:
            status = end.code or 0
        except Exception:
            status = 1
            with mock.patch.object(sys, "argv", [script]):
                try:
                    report_error(*sys.exc_info())
                except SystemExit as end:
                    status = end.code
    assert status == expect, f"{script} {flags} {settings}\n{out.getvalue()}\n{err.getvalue()}"
    return subprocess.CompletedProcess([script], status, out.getvalue(), err.getvalue())


def assert_refused(script, *words, status=1, run=run_here, **settings):
    """Run a script on bad input: one clear message with `words` in it, and no traceback."""
    result = run(script, expect=status, **settings)
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith(f"{Path(script).name}: error: ")
    for word in words:
        assert str(word) in result.stderr, result.stderr
    return result.stderr


def bytes_of(folder):
    """dict of relative path to bytes of all files below a folder."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def lines_of(result, folder):
    """What a script printed, as a list of lines: without the address of workers, progress, and the path of a folder."""
    lines = (result.stdout + result.stderr).replace(str(folder), "").splitlines()
    return [line for line in lines if not re.match(r"workers: \d+ at tcp|[\w ,]+: \d+ of \d+$", line)]


def kill_a_worker(script, is_in_the_middle):
    """Kill one worker process of a script once a condition holds; returns its process number."""
    psutil = pytest.importorskip("psutil", reason="needs Dask; install tests/requirements.txt")
    found, end = [], time.monotonic() + 120
    while time.monotonic() < end and not (len(found) == 2 and is_in_the_middle()):
        assert script.poll() is None, script.communicate()
        with contextlib.suppress(psutil.NoSuchProcess):  # ended just now, or a zombie
            # of the script, its process of nannies, and their workers
            nannies = [p for p in psutil.Process(script.pid).children() if "worker" in p.cmdline()]
            found = [p for nanny in nannies for p in nanny.children() if "spawn_main" in " ".join(p.cmdline())]
        time.sleep(0.01)
    assert len(found) == 2, found
    found[0].send_signal(signal.SIGKILL)
    return found[0].pid


def leftovers(folder):
    """Half-written files and folders."""
    return list(Path(folder).rglob(".part-*"))


def only_folder(runs):
    """The only run in a folder of runs."""
    (run,) = runs.glob("[!.]*")
    return run


def training(packed, runs, **settings):
    """Settings of a tiny training run."""
    return {
        "TRAIN": packed["packed"] / "train.h5",
        "VALIDATION": packed["packed"] / "validation.h5",
        "RUNS": runs,
        "MODEL": "unet",
        "MODEL_SETTINGS": TINY_UNET,
        "LOSS": "bce+dice",
        "BATCH_SIZE": 3,
        "EPOCHS": 2,
        **settings,
    }


def decathlon_recipe(folder):
    """Commands of the recipe of docs/decathlon.md in a folder, small, as (script, flags)."""
    from drawings import commands_of  # with OpenCV and SimpleITK, which few tests need

    commands = []
    for _, script, *flags in commands_of("decathlon.md"):
        flags = [flag.replace("decathlon/", f"{folder}/") for flag in flags]
        commands.append((script, [*flags, *SMALL_DECATHLON.get(script, [])]))
    return commands


def lines_of_workers(script, settings, scheduler, folder, expect=1):
    """Lines that an importer prints alone; asserts that workers write the same bytes and print the same lines.

    Both runs end with the status `expect`; 1: they report broken files. `folder` gets their case folders.
    """
    results = {
        name: run_script(script, **settings, **more, CASES=folder / name / "cases", expect=expect)
        for name, more in (("alone", {}), ("shared", {"WORKERS": scheduler}))
    }
    assert bytes_of(folder / "shared") == bytes_of(folder / "alone") and not leftovers(folder)
    alone, shared = (lines_of(result, folder / name) for name, result in results.items())
    assert "workers: 2 at" in results["shared"].stdout and shared == alone
    return alone
