"""Augmentation of slices on one core against Keras' layers, which it replaced, and how long training waits for it.

python tests/benchmarks/augmentation.py [speed|waiting]

Speed is counted in processor time on one core, so that other work on the machine changes it little.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from comparing import ROOT

SIDES, BATCH, ROUNDS = (256, 512), 8, 5
ALL = {"flip": "horizontal", "rotation": 10, "zoom": 0.1, "brightness": 0.1, "contrast": 0.2, "elastic": 1, "blur": 1}
SMALLEST = {"features": 4, "depth": 4}  # of a U-net, for waiting
CASES, EPOCHS, SIDE = 8, 4, 256


def keras_layers():
    """Augmentation as it was: Keras' layers in turn."""
    import keras
    from keras import layers

    fill = {"fill_mode": "constant"}
    made = [
        layers.RandomFlip("horizontal"),
        layers.RandomRotation(ALL["rotation"] / 360, **fill),
        layers.RandomZoom(ALL["zoom"], **fill),
        layers.RandomBrightness(ALL["brightness"], value_range=(0, 1)),
        layers.RandomContrast(ALL["contrast"], value_range=(0, 1)),
        layers.RandomElasticTransform(1.0, ALL["elastic"], **fill),
        layers.RandomGaussianBlur(1.0, sigma=ALL["blur"], value_range=(0, 1)),
    ]

    def augment(x, y, number):
        batch = {"images": x, "segmentation_masks": y.astype("float32")}
        for layer in made:
            batch = layer(batch, training=True)
        return [keras.ops.convert_to_numpy(array) for array in batch.values()]

    return augment


def opencv(setting):
    """Augmentation of train.py."""
    from common.training.augmentation import make_augmentation

    augment = make_augmentation(setting)

    def of_batch(x, y, number):
        return [augment(image, mask, [1, number, i]) for i, (image, mask) in enumerate(zip(x, y, strict=True))]

    return of_batch


def speed():
    """Print images a second of each way, in turn."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}  # more would wait for each other
    from common.devices import import_keras

    import_keras()
    import cv2
    import numpy as np

    cv2.setNumThreads(1)
    ways = {"medical": (opencv("medical"), 12), "the same as Keras": (opencv(ALL), 12), "Keras": (keras_layers(), 1)}
    for side in SIDES:
        rng = np.random.default_rng(0)
        x = np.stack([cv2.GaussianBlur(rng.random((side, side), np.float32), (0, 0), 5) for _ in range(BATCH)])
        x, y = x[..., None], (x > 0.5).astype(np.uint8)[..., None]
        rates = {name: [] for name in ways}
        for turn in range(ROUNDS + 1):
            for name, (augment, batches) in ways.items():
                started = time.process_time()
                for number in range(batches):
                    augment(x, y, turn * batches + number)
                rates[name].append(batches * BATCH / (time.process_time() - started))
        rates = {name: sorted(found[1:]) for name, found in rates.items()}  # the first round loads and traces
        for name, found in rates.items():
            middle = statistics.median(found)
            print(
                f"{side}x{side}, {name}: {middle:.1f} images a second ({found[0]:.1f} to {found[-1]:.1f})", flush=True
            )
        ratio = statistics.median(rates["the same as Keras"]) / statistics.median(rates["Keras"])
        print(f"{side}x{side}, the same with elastic and blur: {ratio:.1f} times as fast as Keras", flush=True)


def waiting():
    """Print the share of training that a small network waits for slices, from the table of its run."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)

        def script(name, *flags):
            subprocess.run([sys.executable, ROOT / name, *map(str, flags)], check=True, stdout=subprocess.DEVNULL)

        script("data/make_sample.py", "--cases", work / "cases", "--count", CASES, "--size", SIDE)
        script("preprocess/2_write_lists.py", "--cases", work / "cases", "--lists", work / "lists", "--test-share", 0)
        script("preprocess/3_pack_hdf5.py", "--lists", work / "lists", "--packed", work / "packed")
        sets = ["--train", work / "packed" / "train.h5", "--validation", work / "packed" / "validation.h5"]
        script("train.py", *sets, "--runs", work / "runs", "--epochs", EPOCHS, "--model-settings", SMALLEST)
        (run,) = (work / "runs").glob("[!.]*")
        for row, text in json.loads((run / "state.json").read_text())["time"].items():
            print(f"a U-net of {SMALLEST['features']} features at {SIDE}x{SIDE}, {row}: {text}")


if __name__ == "__main__":
    chosen = sys.argv[1:] or ["speed", "waiting"]
    for name in chosen:
        {"speed": speed, "waiting": waiting}[name]()
