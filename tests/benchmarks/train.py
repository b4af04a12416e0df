"""An epoch of train.py, with all that it does, against a bare fit of Keras, and against plain PyTorch.

python tests/benchmarks/train.py [FEATURES [PYTHON]]
python tests/benchmarks/train.py pretrained PYTHON

FEATURES of the U-net are 32 if not given. PYTHON belongs to an environment with torch; without it PyTorch is left out.
"pretrained": `pretrained_unet` at 256x256 against the U-net of segmentation_models_pytorch on its lightest
EfficientNet, epochs only. On both sides, the better of float32 and bfloat16 counts, and in PyTorch each also with
torch.compile; a way that has taken a fifth longer than another is left out from then on. At last, train.py in each
precision and the bare `fit` train a U-net of 8 features from three seeds, and the best validation Dice of each is
printed.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from comparing import ROOT, compare, run

BATCH = 8
SPEED = {"cases": 8, "size": 200, "epochs": 4}  # the first two epochs also draw
PRETRAINED_SIZE = 256
DICE = {"cases": 12, "size": 96, "epochs": 100}  # small slices, with which both come to where more epochs change little
DICE_FEATURES = 8
PRECISIONS = "float32", "mixed_bfloat16"
SEEDS = 1, 2, 3


def ours(packed, features, epochs, precision="float32", seed=1):
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
    pretrained = features == "pretrained"
    command += ["--model", "pretrained_unet"] if pretrained else ["--model-settings", f"{{'features': {features}}}"]
    command += ["--augmentation", "{}"]
    command += ["--precision", precision, "--seed", seed]
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


def bare(packed, features, epochs, seed=1):
    """Seconds of an epoch of a bare `fit`, and the best validation Dice."""
    command = [sys.executable, __file__, packed, features, epochs, seed]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return tuple(map(float, result.stdout.split()[-2:]))


def fit(packed, features, epochs, seed):
    """Print the seconds of an epoch of `fit` on float32 arrays in memory, validation included, and the best Dice."""
    import keras

    from common.training.sets import Batches, open_set
    from losses import get_loss
    from losses.metrics import Overlap
    from models import build_model

    keras.utils.set_random_seed(int(seed))
    sets = [open_set(Path(packed, f"{name}.h5")) for name in ("train", "validation")]
    (x, y), validation = (Batches(s, len(s))[0] for s in sets)
    model = build_model("unet", x.shape[1:], 1, features=int(features))
    model.compile("nadam", get_loss("mse+dice"), metrics=[Overlap("dice")])

    ends = []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(time.monotonic()))
    history = model.fit(x, y, BATCH, int(epochs), verbose=0, validation_data=validation, callbacks=[clock]).history
    print((ends[-1] - ends[0]) / (len(ends) - 1), max(history["val_dice"]))


def fastest(ways, seconds_of, name):
    """Seconds of the fastest of several ways; one that is much slower is removed from the list.

    Args:
        ways: list of names.
        seconds_of: function of a name that returns seconds.
        name: what is printed before the figures.
    """
    seconds = {way: seconds_of(way) for way in ways}
    ways[:] = [way for way in ways if seconds[way] < 1.2 * min(seconds.values())]
    print(f"  {name}: " + ", ".join(f"{way} {value:.2f} s" for way, value in seconds.items()), flush=True)
    return min(seconds.values())


def plain_torch(python, folder, features, precision):
    """Seconds of an epoch in PyTorch."""
    script = Path(__file__).with_name("torch_unet.py")
    command = [python, script, folder / "data.npz", precision, features, BATCH, SPEED["epochs"]]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return float(result.stdout.split()[-1])


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
    pretrained = features == "pretrained"
    size = PRETRAINED_SIZE if pretrained else SPEED["size"]
    network = "pretrained_unet" if pretrained else f"a U-net of {features} features"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        packed = make_sets(root, SPEED["cases"], size)
        save_arrays(root)
        task = packed, features, SPEED["epochs"]
        what = f"an epoch of {network} at {size}x{size}, batch {BATCH}"
        precisions = list(PRECISIONS)

        def fastest_of_ours():
            return fastest(precisions, lambda precision: ours(*task, precision)[0], "train.py")

        if not pretrained:
            compare(f"{what}, against a bare fit", fastest_of_ours, lambda: bare(*task)[0], warm_up=False)
        if python:
            ways = ["float32", "bfloat16", "float32-compiled", "bfloat16-compiled"]

            def plain():
                return fastest(ways, lambda way: plain_torch(python, root, features, way), "PyTorch")

            compare(f"{what}, against PyTorch", fastest_of_ours, plain, warm_up=False)
        if pretrained:
            return
        packed = make_sets(root / "small", DICE["cases"], DICE["size"])
        task = packed, DICE_FEATURES, DICE["epochs"]
        scores = {f"train.py, {kind}": [ours(*task, kind, seed)[1] for seed in SEEDS] for kind in precisions}
        scores["a bare fit"] = [bare(*task, seed)[1] for seed in SEEDS]
        print(f"best validation Dice of a U-net of {DICE_FEATURES} features after {DICE['epochs']} epochs:")
        for way, found in scores.items():
            print(f"  {way}: {', '.join(f'{score:.4f}' for score in found)}")


if __name__ == "__main__":
    folder = len(sys.argv) > 1 and Path(sys.argv[1]).is_dir()
    fit(*sys.argv[1:]) if folder else main(*sys.argv[1:])
