"""Sets larger than memory, and what more images cost.

    python tests/benchmarks/larger.py [--images 20000] [--subset 1000] [--sizes 1000,3000,10000,30000] [--place FOLDER]

First, a set of --images slices of 512x512 (0.5 GB a thousand, with masks as much again) is read for an epoch with
MEMORY_GB 1, and on --subset of it an epoch of training from the file is timed against one from memory, as the reading
alone is. Then, for each of --sizes, that many slices of 32x32 are listed, packed, read and evaluated.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from paired import ROOT, compare, run

SIDE, BATCH, BLOCK = 512, 8, 250
SMALL, OF_CASE, FEW = 32, 100, 100  # side and number of the slices of a case; images of a run that is all start-up
EPOCHS = 5  # of reading small slices, since one is short


# --- larger than memory


def write_set(path, count):
    """A packed set of `count` slices of noise."""
    import h5py
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (BLOCK, SIDE, SIDE, 1), np.uint8)
    with h5py.File(path, "w") as file:
        for name in ("x", "y"):
            rows = file.create_dataset(name, (count, SIDE, SIDE, 1), np.uint8)
            for first in range(0, count, BLOCK):
                rows[first : first + BLOCK] = x[: count - first] if name == "x" else x[: count - first] & 128
        file.attrs["classes"] = 1


def memory(name):
    """A line of the memory of this process in MB: "VmRSS", what it holds, or "VmHWM", the most it held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def read_epoch(path, memory_gb, epochs=1):
    """Read a set for some epochs, in batches; print seconds an epoch and the memory above that at the start in MB."""
    from common.datasets import Batches, open_set

    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = memory("VmRSS")
    batches = Batches(open_set(path, float(memory_gb)), BATCH, seed=1)
    started = time.perf_counter()
    for epoch in range(int(epochs)):
        batches.set_epoch(epoch)
        for index in range(len(batches)):
            batches[index]
    print((time.perf_counter() - started) / int(epochs), memory("VmHWM") - before)


def train_epoch(path, memory_gb):
    """Train the smallest of networks; print the seconds of its second epoch."""
    from common import devices

    devices.import_keras()
    import keras

    from common.datasets import Batches, open_set

    devices.set_up(1, False)
    batches = Batches(open_set(path, float(memory_gb)), BATCH, seed=1)
    inputs = keras.Input((SIDE, SIDE, 1))
    outputs = keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")(inputs)
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "binary_crossentropy")
    ends = []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(time.monotonic()))
    model.fit(batches, epochs=2, shuffle=False, verbose=0, callbacks=[clock])
    print(ends[1] - ends[0])


def measured(*task):
    """Numbers that a task of this file prints in a process of its own."""
    command = [sys.executable, __file__, *map(str, task)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(number) for number in result.stdout.split()[-2:]]


def shuffling(count):
    """Correlation between the places of neighbours in an epoch's order: 0 for a perfect shuffle, 1 for none."""
    import numpy as np

    from common.datasets import Batches

    class Numbers:
        def __len__(self):
            return count

    orders = []
    for epoch in range(10):
        batches = Batches(Numbers(), BATCH, seed=1)
        batches.set_epoch(epoch)
        orders.append(np.corrcoef(batches.order[:-1], batches.order[1:])[0, 1])
    print(f"order of {count} slices, correlation of neighbours, ten epochs: at most {np.abs(orders).max():.4f}")


def larger(root, images, subset):
    write_set(root / "large.h5", images)
    size = (root / "large.h5").stat().st_size / 1e9
    seconds, above = measured("read_epoch", root / "large.h5", 1.0)
    print(
        f"an epoch of {images} slices of {SIDE}x{SIDE}, {size:.1f} GB, MEMORY_GB 1: {seconds:.1f} s, "
        f"{size / seconds:.2f} GB a second, {above:.0f} MB above the start",
        flush=True,
    )
    (root / "large.h5").unlink()
    shuffling(images)
    write_set(root / "subset.h5", subset)
    for what, task in (
        ("an epoch of training the smallest network", ["train_epoch", root / "subset.h5"]),
        ("an epoch of reading and nothing else", ["read_epoch", root / "subset.h5"]),
    ):
        compare(
            f"{what}, {subset} slices, from the file against from memory",
            lambda task=task: measured(*task, 0.0)[0 if task[0] == "read_epoch" else -1],
            lambda task=task: measured(*task, 100.0)[0 if task[0] == "read_epoch" else -1],
            rounds=5,
            warm_up=False,
        )
    (root / "subset.h5").unlink()


# --- cost against size


def write_cases(root, count):
    """Cases of OF_CASE slices of a noisy disc with masks and case.json, and predictions that are a little off."""
    import cv2
    import numpy as np

    from common.files import write_json

    rng = np.random.default_rng(0)
    for first in range(0, count, OF_CASE):
        case = f"case{first // OF_CASE + 1:04d}"
        names = [f"{i + 1:04d}" for i in range(min(OF_CASE, count - first))]
        folders = [root / "cases" / case / "x", root / "cases" / case / "y", root / "predicted" / case]
        for folder in folders:
            folder.mkdir(parents=True)
        for name in names:
            mask = cv2.circle(np.zeros((SMALL, SMALL), np.uint8), rng.integers(10, 22, 2).tolist(), 7, 255, -1)
            image = (mask // 2 + rng.integers(0, 100, mask.shape)).astype(np.uint8)
            for folder, picture in zip(folders, (image, mask, np.roll(mask, 1, 0)), strict=True):
                cv2.imwrite(str(folder / f"{name}.png"), picture)
        entry = {"image": None, "mask": None, "image_size": [SMALL, SMALL], "box": [0, 0, SMALL, SMALL]}
        record = {"size": SMALL, "fit": "resize", "spacing": [1.0, 1.0], "slices": dict.fromkeys(names, entry)}
        write_json(root / "cases" / case / "case.json", record)


def seconds_of_steps(root, count):
    """dict of a step to its seconds with `count` images, start-up included but for the reading."""
    write_cases(root, count)
    lists, packed = root / "lists", root / "packed"
    seconds = {
        "lists": run(ROOT / "preprocess" / "2_write_lists.py", "--cases", root / "cases", "--lists", lists)[0],
        "pack": run(ROOT / "preprocess" / "3_pack_hdf5.py", "--lists", lists, "--packed", packed)[0],
        "reading": measured("read_epoch", packed / "train.h5", 0.0, EPOCHS)[0],
    }
    task = ["--predicted", root / "predicted", "--truth", root / "cases", "--output", root / "scores"]
    seconds["evaluate"] = run(ROOT / "evaluate.py", *task)[0]
    shutil.rmtree(root)
    return seconds


def growth(root, sizes):
    start = seconds_of_steps(root / "few", FEW)
    found = {}
    for size in sizes:
        found[size] = seconds_of_steps(root / str(size), size)
        print(f"{size} images: " + ", ".join(f"{step} {s:.2f} s" for step, s in found[size].items()), flush=True)
    for step in start:
        each = [1e6 * (found[size][step] - start[step]) / (size - FEW) for size in sizes]
        shown = ", ".join(f"{microseconds:.0f}" for microseconds in each)
        print(f"{step}: microseconds an image, start-up taken off, {shown}; last to first {each[-1] / each[0]:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--subset", type=int, default=1000)
    parser.add_argument("--sizes", default="1000,3000,10000,30000")
    parser.add_argument("--place", help="folder for the data, which is removed; by default that of temporary files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.place) as folder:
        if arguments.images:
            larger(Path(folder), arguments.images, arguments.subset)
        if arguments.sizes:
            growth(Path(folder), [int(size) for size in arguments.sizes.split(",")])


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tasks = {"read_epoch": read_epoch, "train_epoch": train_epoch}
    tasks[sys.argv[1]](*sys.argv[2:]) if sys.argv[1:2] and sys.argv[1] in tasks else main()
