"""An epoch of train.py, with all that it does, against a bare fit of Keras, and against plain PyTorch.

python tests/benchmarks/train.py [FEATURES [PYTHON]]

FEATURES of the U-net are 32 if not given. PYTHON is that of an environment with torch; without it PyTorch is left out.
The better of its float32 and bfloat16 counts; bfloat16 is left out once it has taken half as long again. At last both
ways train a U-net of 8 features, and the best validation Dice of each is printed.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from comparing import ROOT, compare, run

BATCH = 8
SPEED = {"cases": 8, "size": 200, "epochs": 2}
DICE = {"cases": 12, "size": 96, "epochs": 100}  # small slices, with which both come to where more epochs change little
DICE_FEATURES = 8


def ours(packed, features, epochs):
    """Seconds of an epoch of train.py, from line to line, all that it does included; and the best validation Dice."""
    runs = packed.parent / "runs"
    command = [
        sys.executable,
        ROOT / "train.py",
        "--train",
        packed / "train.h5",
        "--validation",
        packed / "validation.h5",
    ]
    command += ["--runs", runs, "--epochs", epochs, "--early-stop", 0, "--batch-size", BATCH, "--loss", "mse+dice"]
    command += ["--model-settings", f"{{'features': {features}}}", "--augmentation", "{}"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    ends, scores = [], []
    for line in process.stdout:
        if line.startswith("epoch "):
            ends.append(time.monotonic())
            scores.append(float(line.split("val_dice")[1].split()[0]))
    if process.wait():
        sys.exit("train.py failed")
    shutil.rmtree(runs)
    return (ends[-1] - ends[0]) / (len(ends) - 1), max(scores)


def bare(packed, features, epochs):
    """Seconds of an epoch of a bare `fit`, and the best validation Dice."""
    command = [sys.executable, __file__, packed, features, epochs]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return tuple(map(float, result.stdout.split()[-2:]))


def fit(packed, features, epochs):
    """Print the seconds of an epoch of `fit` on float32 arrays in memory, validation included, and the best Dice."""
    import keras

    from common.training.sets import Batches, open_set
    from losses import get_loss
    from losses.metrics import Overlap
    from models import build_model

    keras.utils.set_random_seed(1)
    sets = [open_set(Path(packed, f"{name}.h5")) for name in ("train", "validation")]
    (x, y), validation = (Batches(s, len(s))[0] for s in sets)
    model = build_model("unet", x.shape[1:], 1, features=int(features))
    model.compile("nadam", get_loss("mse+dice"), metrics=[Overlap("dice")])

    ends = []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(time.monotonic()))
    history = model.fit(x, y, BATCH, int(epochs), verbose=0, validation_data=validation, callbacks=[clock]).history
    print((ends[-1] - ends[0]) / (len(ends) - 1), max(history["val_dice"]))


def plain_torch(python, folder, features, precisions):
    """Seconds of an epoch in PyTorch, by the faster of `precisions`, of which one that is much slower is dropped."""
    script = Path(__file__).with_name("torch_unet.py")
    seconds, longest = {}, None
    for precision in list(precisions):
        command = [python, script, folder / "data.npz", precision, features, BATCH, SPEED["epochs"]]
        started = time.monotonic()
        try:
            result = subprocess.run(
                list(map(str, command)), capture_output=True, text=True, check=True, timeout=longest
            )
        except subprocess.TimeoutExpired:
            precisions.remove(precision)
            continue
        seconds[precision] = float(result.stdout.split()[-1])
        longest = 1.5 * (time.monotonic() - started)
    print("  PyTorch: " + ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()), flush=True)
    return min(seconds.values())


def save_arrays(root):
    """Both sets as arrays for PyTorch."""
    import numpy as np

    from common.training.sets import Batches, open_set

    sets = [open_set(root / "packed" / f"{name}.h5") for name in ("train", "validation")]
    (x, y), (val_x, val_y) = (Batches(s, len(s))[0] for s in sets)
    np.savez(root / "data.npz", x=x, y=y, val_x=val_x, val_y=val_y)
    print(f"{len(x)} slices to train on, {len(val_x)} to validate", flush=True)


def make_sets(root, cases, size):
    """Packed sets of the sample."""
    run(ROOT / "data" / "make_sample.py", "--cases", root / "sample", "--count", cases, "--size", size)
    run(ROOT / "preprocess" / "2_write_lists.py", "--cases", root / "sample", "--lists", root / "lists")
    run(ROOT / "preprocess" / "3_pack_hdf5.py", "--lists", root / "lists", "--packed", root / "packed")
    return root / "packed"


def main(features=32, python=None):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        packed = make_sets(root, SPEED["cases"], SPEED["size"])
        save_arrays(root)
        task = packed, features, SPEED["epochs"]
        what = f"an epoch of a U-net of {features} features at {SPEED['size']}x{SPEED['size']}, batch {BATCH}"
        compare(f"{what}, against a bare fit", lambda: ours(*task)[0], lambda: bare(*task)[0], warm_up=False)
        if python:
            precisions = ["float32", "bfloat16"]

            def plain():
                return plain_torch(python, root, features, precisions)

            compare(f"{what}, against PyTorch", lambda: ours(*task)[0], plain, warm_up=False)
        packed = make_sets(root / "small", DICE["cases"], DICE["size"])
        scores = [way(packed, DICE_FEATURES, DICE["epochs"])[1] for way in (ours, bare)]
        print(
            f"best validation Dice of a U-net of {DICE_FEATURES} features after {DICE['epochs']} epochs: "
            f"train.py {scores[0]:.4f}, a bare fit {scores[1]:.4f}"
        )


if __name__ == "__main__":
    folder = len(sys.argv) > 1 and Path(sys.argv[1]).is_dir()
    fit(*sys.argv[1:]) if folder else main(*sys.argv[1:])
