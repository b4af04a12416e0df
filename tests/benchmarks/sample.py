"""Networks on the sample in the same time: ten epochs of CV-net SYNAPSE, and what the others reach in as many minutes.

python tests/benchmarks/sample.py WORK

WORK is a folder for all that is made; what is there is not made again. Each network has its author's own batch size,
optimizer, rate and schedule, but for CV-net SYNAPSE, whose batch of 80 is more than the sample has: its rate goes with
a batch of 8 in proportion.
"""

import subprocess
import sys
from pathlib import Path

import comparing
import pandas as pd

EPOCHS = 10
SAMPLE = []  # flags of make_sample.py
NETWORKS = {
    "cvnet_synapse": ("cvnet_synapse", {}),
    "unet": ("unet", {}),
    "deeplab_v3plus mobilenetv2": ("deeplab_v3plus", {"backbone": "mobilenetv2"}),
    "deeplab_v3plus xception 16": ("deeplab_v3plus", {}),
}


def main(work):
    cases, lists, packed = work / "sample", work / "lists", work / "packed"
    if not packed.is_dir():
        run("data/make_sample.py", "--cases", cases, *SAMPLE)
        run("preprocess/2_write_lists.py", "--cases", cases, "--lists", lists, "--validation-share", 0.125)
        run("preprocess/3_pack_hdf5.py", "--lists", lists, "--packed", packed)
    minutes = None
    for title, (name, settings) in NETWORKS.items():
        folder = work / title.replace(" ", "_")
        if not folder.is_dir():
            long = ["--epochs", EPOCHS] if minutes is None else ["--epochs", 1000, "--max-minutes", minutes]
            data = ["--train", packed / "train.h5", "--validation", packed / "validation.h5", "--batch-size", 8]
            run(
                "train.py",
                *data,
                "--runs",
                folder,
                "--model",
                name,
                "--model-settings",
                settings,
                "--augmentation",
                "{}",
                *long,
            )
        (trained,) = folder.glob("[!.]*")
        log = pd.read_csv(trained / "training_log.csv")
        if minutes is None:
            minutes = round(log["seconds"].sum() / 60, 2)
        predicted, scores = (work / f"{folder.name}_{kind}" for kind in ("predicted", "scores"))
        if not scores.is_dir():
            run("predict.py", "--run", trained, "--input", lists / "test.csv", "--output", predicted, "--replace")
            run("evaluate.py", "--predicted", predicted, "--truth", lists / "test.csv", "--output", scores)
        dice = pd.read_csv(scores / "scores.csv").query("tp + fn > 0")["dice"].mean()
        spent = log["seconds"].sum() / 60
        print(
            f"{title}: {len(log)} epochs, {spent:.1f} minutes, test Dice {dice:.3f} over slices with a mask", flush=True
        )


def run(script, *arguments):
    subprocess.run([sys.executable, comparing.ROOT / script, *map(str, arguments)], cwd=comparing.ROOT, check=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]).resolve())
