"""What a script has loaded when it starts its work: nothing heavy that only some inputs, or later steps, need."""

import gc
import importlib
import json
import os
import subprocess
import sys

import pytest
from running import ROOT, SCRIPTS

from common.loading import hidden, without_collecting

HEAVY = (
    *("keras", "tensorflow", "jax", "torch", "tensorboard", "optuna", "coremltools", "dask", "distributed"),
    *("SimpleITK", "pydicom", "highdicom", "trimesh", "skimage", "scipy.stats", "matplotlib"),
    *("tifffile", "unittest.mock"),
)
NEEDED = {  # by every use of the script
    "tune.py": {"optuna"},
    "data/make_volumes.py": {"SimpleITK"},
    "preprocess/0_import_stl.py": {"trimesh"},
    "preprocess/0_import_volumes.py": {"SimpleITK"},
    "preprocess/3_pack_volumes.py": {"SimpleITK"},
}
# Runs each script up to its main() in a child of its own, which prints what it has loaded.
PROGRAM = """
import json, os, runpy, sys
import cv2, h5py, numpy, pandas, pydantic, scipy.spatial  # light, and in many scripts
heavy, scripts = json.loads(sys.argv[1])
assert not [name for name in heavy if name in sys.modules]
for script in scripts:
    sys.stdout.flush()
    if not os.fork():
        sys.argv = [script]
        sys.path.insert(0, os.path.dirname(script))
        runpy.run_path(script, run_name="started")
        print(json.dumps([script, [name for name in heavy if name in sys.modules]]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_scripts_load_what_they_use():
    scripts = [script for script in SCRIPTS if script != "train.py"]  # imports Keras at once; see test_backends.py
    program = [sys.executable, "-c", PROGRAM, json.dumps([HEAVY, scripts])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    loaded = dict(map(json.loads, result.stdout.splitlines()))
    assert set(loaded) == set(scripts), result.stderr
    unused = {script: set(names) - NEEDED.get(script, set()) for script, names in loaded.items()}
    assert not {script: names for script, names in unused.items() if names}
    assert all(NEEDED[script] <= set(loaded[script]) for script in NEEDED)  # or the lists above are out of date


def test_keras_loads_no_package_that_nothing_here_calls_through_it():
    program = (
        "import gc, os, sys\nfrom common import devices\ndevices.import_keras(say_unused=False)\n"
        "unused = [name for name in devices.LOADED_UNUSED if name != os.environ['KERAS_BACKEND']]\n"
        "assert not set(unused) & set(sys.modules), set(unused) & set(sys.modules)\n"
        "frozen = gc.get_freeze_count()\nassert gc.isenabled() and frozen > 10_000\n"
        "kept = [[] for _ in range(1000)]\n"
        "devices.import_keras(say_unused=False)\nassert gc.get_freeze_count() == frozen\n"
        "import matplotlib.pyplot\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)


def test_hidden_packages_are_there_again_and_loaded_ones_stay():
    sys.modules.pop("this", None)
    with hidden("this", "json"):
        assert sys.modules["json"] is json
        with pytest.raises(ImportError):
            importlib.import_module("this")
    assert "this" not in sys.modules and importlib.util.find_spec("this")


@pytest.mark.parametrize("enabled", [True, False])
def test_collecting_goes_on_as_it_was(enabled):
    was_on = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(ValueError), without_collecting():
            assert not gc.isenabled()
            raise ValueError
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was_on else gc.disable)()
        gc.unfreeze()
