"""What the tests share: running scripts as a user does, and small case folders."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

REAL_DATA = ROOT.parent / "shared" / "data"
TINY_UNET = {"features": 2, "depth": 1, "dropout": 0.2}


def run_script(script, *flags, expect=0, backend=None, **settings):
    """Run a script as a user does.

    Args:
        script: path from the root of the project.
        flags: further arguments.
        expect: exit status that the test is about.
        backend: KERAS_BACKEND.
        settings: settings by name, given as flags.

    Returns:
        CompletedProcess; its output is text.
    """
    from common.settings import flags_of

    command = [sys.executable, str(ROOT / script), *map(str, flags), *flags_of(settings)]
    environment = os.environ | ({"KERAS_BACKEND": backend} if backend else {})
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == expect, f"{command}\n{result.stdout}\n{result.stderr}"
    return result


def assert_refused(script, *words, status=1, **settings):
    """Run a script on bad input: one clear message with `words` in it, and no traceback."""
    result = run_script(script, expect=status, **settings)
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
def packed(tmp_path_factory):
    """Case folders, lists and packed sets of small discs: dict of cases, lists, packed."""
    root = tmp_path_factory.mktemp("packed")
    cases = make_cases(root / "cases", cases=4, slices=4, empty=True)
    run_script("preprocess/2_write_lists.py", CASES=cases, LISTS=root / "lists", VALIDATION_SHARE=0.25, TEST_SHARE=0.25)
    run_script("preprocess/3_pack_hdf5.py", LISTS=root / "lists", PACKED=root / "packed")
    return {"cases": cases, "lists": root / "lists", "packed": root / "packed"}


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
def trained(packed, tmp_path_factory):
    """Run folder of a tiny network, and what train.py printed."""
    runs = tmp_path_factory.mktemp("runs")
    result = run_script("train.py", **training(packed, runs))
    (run,) = runs.iterdir()
    return run, result.stdout
