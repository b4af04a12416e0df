"""An epoch of train.py, with all that it does, against a bare model.fit: python tests/benchmarks/train.py"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from paired import ROOT, compare, run

CASES, EPOCHS, FEATURES, BATCH = 12, 3, 16, 8


def whole_script(packed, runs):
    """Seconds of an epoch, from one epoch's line to the next: validation, log and checkpoint are in it."""
    command = [
        sys.executable,
        ROOT / "train.py",
        "--train",
        packed / "train.h5",
        "--validation",
        packed / "validation.h5",
    ]
    command += ["--runs", runs, "--epochs", EPOCHS, "--batch-size", BATCH, "--loss", "mse+dice"]
    command += ["--model-settings", f"{{'features': {FEATURES}}}"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    ends = [time.monotonic() for line in process.stdout if line.startswith("epoch ")]
    if process.wait():
        sys.exit("train.py failed")
    shutil.rmtree(runs)
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def bare_fit(packed):
    """Print the seconds of an epoch of `fit` on float32 arrays in memory, validation included."""
    from common import devices

    devices.import_keras()
    import keras

    from common.datasets import Batches, open_set
    from losses import get_loss
    from models import build_model

    keras.utils.set_random_seed(1)
    sets = [open_set(Path(packed, f"{name}.h5")) for name in ("train", "validation")]
    (x, y), validation = (Batches(s, len(s))[0] for s in sets)
    model = build_model("unet", x.shape[1:], 1, features=FEATURES)
    model.compile("nadam", get_loss("mse+dice"))

    ends = []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(time.monotonic()))
    model.fit(x, y, BATCH, EPOCHS, verbose=0, validation_data=validation, callbacks=[clock])
    print((ends[-1] - ends[0]) / (EPOCHS - 1))


def main():
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        run(ROOT / "data" / "make_sample.py", "--cases", root / "sample", "--count", CASES)
        run(ROOT / "preprocess" / "2_write_lists.py", "--cases", root / "sample", "--lists", root / "lists")
        run(ROOT / "preprocess" / "3_pack_hdf5.py", "--lists", root / "lists", "--packed", root / "packed")

        def bare():
            result = subprocess.run(
                [sys.executable, __file__, root / "packed"], capture_output=True, text=True, check=True
            )
            return float(result.stdout.split()[-1])

        compare(
            f"train, an epoch of a U-net of {FEATURES} features at 200x200, batch {BATCH}, {CASES} cases",
            lambda: whole_script(root / "packed", root / "runs"),
            bare,
            rounds=3,
            warm_up=False,
        )


if __name__ == "__main__":
    bare_fit(sys.argv[1]) if len(sys.argv) > 1 else main()
