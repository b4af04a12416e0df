"""What a script has loaded when it starts its work: nothing heavy that only some inputs, or later steps, need."""

import json
import os
import subprocess
import sys

import pytest
from running import ROOT, SCRIPTS

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
