"""JAX and PyTorch, if installed, against TensorFlow: networks, losses, training, resuming and predicting."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
from running import ROOT, TINY_UNET, only_folder, run_script, training

PROGRAM = ROOT / "tests" / "other_backends.py"
OTHERS = [
    pytest.param(name, marks=pytest.mark.skipif(not importlib.util.find_spec(name), reason=f"{name} is not installed"))
    for name in ("jax", "torch")
]


def run_program(action, folder, backend):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(
        [sys.executable, PROGRAM, action, folder], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def computed(made_once):
    """Folder with small networks, and what TensorFlow computes with them."""

    def compute(folder):
        run_program("make", folder, "tensorflow")
        run_program("compute", folder, "tensorflow")
        return ""

    return made_once("other_backends", compute)[0]


@pytest.mark.slow
@pytest.mark.parametrize("backend", OTHERS[1:])  # JAX compiles for ten minutes
def test_networks_and_losses_compute_the_same(computed, backend):
    """Probabilities, losses, and probabilities after a step, from the same files."""
    run_program("compute", computed, backend)
    with np.load(computed / "tensorflow.npz") as theirs, np.load(computed / f"{backend}.npz") as ours:
        assert set(theirs) == set(ours) and len(ours) > 60
        for name in theirs:
            np.testing.assert_allclose(ours[name], theirs[name], atol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("backend", OTHERS)
def test_a_run_is_resumed_and_predicts(packed, tmp_path, backend):
    """And TensorFlow, which others than it do not load, predicts with its run."""
    settings = training(packed, tmp_path / "runs", AUGMENTATION={"rotation": 5}, EPOCHS=2, OPTIMIZER="sgd")
    settings |= {"MODEL_SETTINGS": TINY_UNET}
    assert backend in run_script("train.py", backend=backend, **settings).stdout
    run = only_folder(tmp_path / "runs")
    resumed = run_script("train.py", "--mode", "resume", backend=backend, RUN=run, EPOCHS=3).stdout
    assert "continuing after epoch 2" in resumed and "finished all 3 epochs" in resumed
    run_script("train.py", backend=backend, MODE="retrain", **{**settings, "RUN": run, "RUNS": tmp_path / "more"})
    for name in (backend, "tensorflow"):
        out = tmp_path / name
        run_script("predict.py", backend=name, RUN=run, INPUT=packed["cases"] / "case01", OUTPUT=out)
        assert len(list(out.glob("*.png"))) == 4
    same = [(tmp_path / backend / path.name).read_bytes() == path.read_bytes() for path in out.glob("*.png")]
    assert sum(same) >= 3  # a pixel at the threshold may differ
