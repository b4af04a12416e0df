"""Sets larger than memory, and what more images cost.

    python tests/benchmarks/large_sets.py [--images 20000] [--subset 300] [--sizes 1000,3000] [--place FOLDER]

First, a set of --images slices of 512x512 (0.5 GB a thousand, with masks as much again) is read for an epoch with
MEMORY_GB 1, and on --subset of it an epoch of training from the file is timed against one from memory, as the reading
alone is. Then, for each of --sizes, that many slices of 32x32 are listed, packed, read and evaluated. 0 leaves
a part out.
"""

import argparse
import itertools
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from comparing import ROOT, compare, run

from common.devices import import_keras

SIDE, BATCH, BLOCK = 512, 8, 250
READ = "read"  # word of the command line for the process that reads the large set
SMALL, OF_CASE = 32, 100  # side and number of the slices of a case
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


def read_epochs(batches, epochs=1):
    """Seconds of reading a set, an epoch in the mean."""
    started = time.perf_counter()
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        for index in range(len(batches)):
            batches[index]
    return (time.perf_counter() - started) / epochs


def read_large(path):
    """Read a set for an epoch with MEMORY_GB 1; print seconds, and the most memory above that at the start, in MB."""
    from common.training.sets import Batches, open_set

    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = memory("VmRSS")
    print(read_epochs(Batches(open_set(path, 1.0), BATCH, seed=1)), memory("VmHWM") - before)


def compare_places(path, count):
    """Time epochs of training and of reading alone, from the file and from memory by turns."""
    import keras

    from common import devices
    from common.training.sets import Batches, open_set

    devices.set_up(1, False)
    file, inside = (Batches(open_set(path, gb), BATCH, seed=1) for gb in (0.0, 100.0))
    inputs = keras.Input((SIDE, SIDE, 1))
    outputs = keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")(inputs)
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "binary_crossentropy", jit_compile=devices.usual_jit())

    def train(batches):
        started = time.perf_counter()
        model.fit(devices.without_waiting(batches), shuffle=False, verbose=0)
        return time.perf_counter() - started

    for what, epoch, rounds in (
        ("of training the smallest network", train, 15),
        ("of reading and nothing else", read_epochs, 100),
    ):
        compare(
            f"an epoch {what}, {count} slices, from the file against from memory",
            lambda epoch=epoch: epoch(file),
            lambda epoch=epoch: epoch(inside),
            rounds=rounds,
        )


def shuffling(count):
    """Correlation between the places of neighbours in an epoch's order: 0 for a perfect shuffle, 1 for none."""
    import numpy as np

    from common.training.sets import Batches

    class Numbers:
        def __len__(self):
            return count

    orders = []
    for epoch in range(10):
        batches = Batches(Numbers(), BATCH, seed=1)
        batches.set_epoch(epoch)
        orders.append(np.corrcoef(batches.order[:-1], batches.order[1:])[0, 1])
    print(f"order of {count} slices, correlation of neighbours, ten epochs: at most {np.abs(orders).max():.4f}")


def larger(root, images):
    write_set(root / "large.h5", images)
    size = (root / "large.h5").stat().st_size / 1e9
    command = [sys.executable, __file__, READ, root / "large.h5"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    seconds, above = map(float, result.stdout.split()[-2:])
    print(
        f"an epoch of {images} slices of {SIDE}x{SIDE}, {size:.1f} GB, MEMORY_GB 1: {seconds:.1f} s, "
        f"{size / seconds:.2f} GB a second, {above:.0f} MB above the start",
        flush=True,
    )
    (root / "large.h5").unlink()
    shuffling(images)


def from_file_and_from_memory(root, subset):
    write_set(root / "subset.h5", subset)
    compare_places(root / "subset.h5", subset)
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


def processor_seconds(*command):
    """Seconds of processor time of a program: on a shared machine they are steadier than those of the clock."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(*command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def seconds_of_steps(root, count):
    """dict of a step to its processor seconds with `count` images, start-up included but for the reading."""
    from common.training.sets import Batches, open_set

    write_cases(root, count)
    lists, packed = root / "lists", root / "packed"
    lists_task = [ROOT / "preprocess" / "2_write_lists.py", "--cases", root / "cases", "--lists", lists]
    pack_task = [ROOT / "preprocess" / "3_pack_hdf5.py", "--lists", lists, "--packed", packed]
    evaluate_task = [ROOT / "evaluate.py", "--predicted", root / "predicted", "--truth", root / "cases"]
    seconds = {"lists": processor_seconds(*lists_task), "pack": processor_seconds(*pack_task)}
    started = time.process_time()
    read_epochs(Batches(open_set(packed / "train.h5", 0.0), BATCH, seed=1), EPOCHS)
    seconds[f"{EPOCHS} epochs of reading"] = time.process_time() - started
    seconds["evaluate"] = processor_seconds(*evaluate_task, "--output", root / "scores")
    shutil.rmtree(root)
    return seconds


def growth(root, sizes):
    found = {}
    for size in sizes:
        rounds = [seconds_of_steps(root / str(size), size) for _ in range(2)]
        found[size] = {step: min(seconds[step] for seconds in rounds) for step in rounds[0]}
        print(f"{size} images: " + ", ".join(f"{step} {s:.2f} s" for step, s in found[size].items()), flush=True)
    for step in found[sizes[0]]:
        more = [1e6 * (found[b][step] - found[a][step]) / (b - a) for a, b in itertools.pairwise(sizes)]
        shown = ", ".join(f"{microseconds:.0f}" for microseconds in more)
        print(f"{step}: microseconds for each further image, from size to size, {shown}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--subset", type=int, default=300)
    parser.add_argument("--sizes", default="1000,3000,10000,30000")
    parser.add_argument("--place", help="folder for the data, which is removed; by default that of temporary files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.place) as folder:
        if arguments.images:
            larger(Path(folder), arguments.images)
        if arguments.subset:
            from_file_and_from_memory(Path(folder), arguments.subset)
        if arguments.sizes != "0":
            growth(Path(folder), [int(size) for size in arguments.sizes.split(",")])


if __name__ == "__main__":
    import_keras()  # quietly
    read_large(sys.argv[2]) if sys.argv[1:2] == [READ] else main()
