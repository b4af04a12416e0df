"""What the 3-D way reaches and takes.

python tests/benchmarks/volumes.py steps WORK       two steps against one alone, twenty minutes each
python tests/benchmarks/volumes.py plan WORK        two steps with the settings of 4_plan_training.py
python tests/benchmarks/volumes.py membrane WORK    real slices as volumes, half of them to train on
python tests/benchmarks/volumes.py memory WORK      peak memory of packing, training and prediction
python tests/benchmarks/volumes.py waiting WORK     share of an epoch in which the network waits for data
"""

import subprocess
import sys
import time
from pathlib import Path

from comparing import ROOT, run

sys.path.insert(0, str(ROOT / "tests"))
import drawings
import numpy as np
import pandas as pd

SCAN = (512, 512, 200)
COUNTS = 2, 6  # scans to pack
VOXELS = (("whole", 250000), ("whole", 500000), ("whole", 1000000), ("patch", 1000000))
PLANNED = ("whole", 5), ("patch", 12)  # minutes
TRAIN = ["--model", "se_resunet3d", "--loss", "bce+dice"]


def say(script, *flags, cwd=None):
    """Run a script of the toolkit and show what it prints."""
    print("\n$ python", script, *flags, flush=True)
    started = time.monotonic()
    subprocess.run([sys.executable, ROOT / script, *map(str, flags)], check=True, cwd=cwd)
    print(f"{time.monotonic() - started:.0f} s", flush=True)


def steps(work):
    """The recipe of docs/recipes/decathlon.md, then one network alone in the time of both."""
    for _, script, *flags in drawings.commands_of("decathlon.md"):
        say(script, *flags, cwd=work)
    task = work / "decathlon" / "Task99_Synthetic"
    alone = ["--step", "single", "--voxels", 160000, "--validation-share", 0.17]
    say("preprocess/3_pack_volumes.py", "--data", task, "--packed", work / "single", *alone)
    settings = ["--model-settings", "{'features': 8}", "--learning-rate", 0.003, "--schedule", "cosine"]
    settings += [
        "--augmentation",
        "{'rotation': 5, 'zoom': 0.1, 'shift': 0.05, 'shear': 0.05, 'flip': 'x', 'gamma': 0.3}",
    ]
    train_alone(work, settings, epochs=75, minutes=19)
    say("predict.py", "--run", work / "runs_single", "--input", task / "imagesTs", "--output", work / "alone")
    say("evaluate.py", "--predicted", work / "alone", "--truth", task / "labelsTs", "--output", work / "scores_alone")


def plan(work):
    """The recipe of docs/recipes/decathlon.md with planned settings, 5 and 12 minutes of training."""
    commands = [(script, *flags) for _, script, *flags in drawings.commands_of("decathlon.md")]
    for command in (command for command in commands if command[0] != "train.py"):
        if command[0] == "predict.py":
            for step, minutes in PLANNED:
                packed = Path("decathlon", step)
                say("preprocess/4_plan_training.py", "--packed", packed, "--minutes", minutes, cwd=work)
                sets = ["--train", packed / "train.h5", "--validation", packed / "validation.h5"]
                say("train.py", "--settings", packed / "plan.json", *sets, "--runs", f"decathlon/runs_{step}", cwd=work)
        say(*command, cwd=work)


def train_alone(work, settings, epochs, minutes):
    sets = ["--train", work / "single" / "train.h5", "--validation", work / "single" / "validation.h5"]
    long = ["--epochs", epochs, "--max-minutes", minutes]
    say("train.py", *sets, "--runs", work / "runs_single", *TRAIN, *settings, *long)


def membrane(work):
    """The slices of each case as a volume; 10 to train on, 10 to validate."""
    import SimpleITK as sitk

    from common.slices.images import read_image

    source = ROOT.parent / "shared" / "data" / "membrane"
    for folder, side in (("images", "x"), ("labels", "y")):
        (work / folder).mkdir(parents=True, exist_ok=True)
        for case in sorted(source.glob("case*")):
            stack = np.stack([read_image(path) for path in sorted((case / side).iterdir())])
            image = sitk.GetImageFromArray(stack if side == "x" else (stack > 0).astype(np.uint8))
            image.SetSpacing((4, 4, 50))  # nm
            sitk.WriteImage(image, str(work / folder / f"{case.name}.nii.gz"))
    data = ["--images", work / "images", "--labels", work / "labels", "--packed", work / "single"]
    say("preprocess/3_pack_volumes.py", *data, "--step", "single", "--spacing", "None", "--voxels", "None",
        "--validation-cases", "['case02']")  # fmt: skip
    settings = ["--model-settings", "{'features': 8, 'depth': 2}", "--crop", "[8, 128, 128]", "--batch-size", 2]
    settings += ["--learning-rate", 0.003, "--schedule", "cosine", "--augmentation", "{'flip': 'xy', 'gamma': 0.3}"]
    train_alone(work, settings, epochs=25, minutes=6)
    say("predict.py", "--run", work / "runs_single", "--input", work / "images", "--output", work / "predicted")
    say("evaluate.py", "--predicted", work / "predicted", "--truth", work / "labels", "--output", work / "scores")
    print(pd.read_csv(work / "scores" / "scores.csv").to_string())


def part_of_scan(*bounds):
    """Slices of (up, back, left) for bounds in voxels of a scan of 512x512x200."""
    scaled = zip(bounds, SCAN[::-1], (200, 512, 512), strict=True)
    return tuple(slice(low * side // whole, high * side // whole) for (low, high), side, whole in scaled)


def draw_scans(folder, count):
    """CT scans of SCAN voxels with two organs."""
    import SimpleITK as sitk

    for number in range(count):
        rng = np.random.default_rng(number)
        image = rng.normal(-50, 60, SCAN[::-1]).astype(np.int16)
        labels = np.zeros(SCAN[::-1], np.uint8)
        labels[part_of_scan((60, 140), (150, 350), (160, 380))] = 1
        labels[part_of_scan((80, 100), (200, 240), (200, 260))] = 2
        image[labels > 0] += 120
        for what, volume in (("images", image), ("labels", labels)):
            (folder / what).mkdir(parents=True, exist_ok=True)
            volume = sitk.GetImageFromArray(volume)
            volume.SetSpacing((0.8, 0.8, 2.0))
            sitk.WriteImage(volume, str(folder / what / f"scan{number}.nii.gz"))


def memory(work):
    for count in COUNTS:
        draw_scans(work / f"scans{count}", count)
        data = ["--images", work / f"scans{count}" / "images", "--labels", work / f"scans{count}" / "labels"]
        for step in ("whole", "patch"):
            flags = ["--step", step, "--intensity", "ct", "--packed", work / f"{step}{count}", "--replace"]
            seconds, peak = run(ROOT / "preprocess" / "3_pack_volumes.py", *data, *flags)
            print(f"packing {count} scans of {'x'.join(map(str, SCAN))}, step {step}: {peak:.0f} MB, {seconds:.0f} s")
    data = ["--images", work / "scans2" / "images", "--labels", work / "scans2" / "labels", "--intensity", "ct"]
    for step, voxels in VOXELS:
        packed, runs = work / f"{step}_{voxels}", work / f"runs_{step}_{voxels}"
        run(ROOT / "preprocess" / "3_pack_volumes.py", *data, "--step", step, "--voxels", voxels, "--packed", packed)
        sets = ["--train", packed / "train.h5", "--validation", packed / "validation.h5", "--runs", runs]
        _, peak = run(ROOT / "train.py", *sets, *TRAIN, "--model-settings", "{'features': 8}", "--epochs", 2)
        print(f"training at {voxels:,} voxels, 8 features, step {step}: {peak:.0f} MB", flush=True)
    found = [str(work / f"runs_{step}_{VOXELS[-1][1]}") for step in ("whole", "patch")]
    scan = work / "scans2" / "images" / "scan0.nii.gz"
    seconds, peak = run(ROOT / "predict.py", "--run", found, "--input", scan, "--output", work / "predicted")
    what = f"prediction of {'x'.join(map(str, SCAN))} in two steps at {VOXELS[-1][1]:,} voxels"
    print(f"{what}: {peak:.0f} MB, {seconds:.0f} s")


def waiting(work, rounds=4):
    """Epochs of `fit` on batches as they are made, and on the same batches made before, in turn."""
    from common import devices
    from common.training import autotune as trials

    devices.import_keras()
    import keras

    from common.training.sets import open_set
    from losses import get_loss
    from models import build_model

    task, packed = work / "Task99", work / "patch"
    if not packed.exists():
        run(ROOT / "data" / "make_volumes.py", "--data", task)
        flags = ["--step", "patch", "--voxels", 120000, "--validation-share", 0.17]
        run(ROOT / "preprocess" / "3_pack_volumes.py", "--data", task, "--packed", packed, *flags)
    devices.set_up(1, False)
    volumes = open_set(packed / "train.h5")
    augmentation = {"rotation": 5, "zoom": 0.1, "shift": 0.05, "shear": 0.05, "flip": "x", "gamma": 0.3}
    made = volumes.batches(1, 1, augmentation | {"margins": [0.1, 0.2, 0.3]})

    class Kept(keras.utils.PyDataset):
        """The batches of the first epoch."""

        def __init__(self):
            super().__init__(workers=made.workers, max_queue_size=made.max_queue_size)
            self.batches = [made.batch(i) for i in range(len(made))]

        def __len__(self):
            return len(self.batches)

        def __getitem__(self, index):
            return self.batches[index]

    kept = Kept()
    model = build_model("se_resunet3d", volumes.shape, volumes.classes, features=8)
    model.compile("adam", get_loss("bce+dice"), jit_compile=trials.choose_jit())
    model.fit(made, epochs=1, shuffle=False, verbose=0)
    seconds = {made: [], kept: []}
    for _ in range(rounds):
        for batches in (made, kept):
            started = time.perf_counter()
            model.fit(batches, epochs=1, shuffle=False, verbose=0)
            seconds[batches].append(time.perf_counter() - started)
    shares = sorted(1 - b / a for a, b in zip(seconds[made], seconds[kept], strict=True))
    print(
        f"an epoch of {len(made)} volumes of up to 120,000 voxels, 8 features: {np.median(seconds[made]):.1f} s; "
        f"the network waits, or shares the cores with the preparation, for {100 * np.median(shares):.1f} % of it "
        f"({100 * shares[0]:.1f} to {100 * shares[-1]:.1f})"
    )


if __name__ == "__main__":
    place = Path(sys.argv[2]).resolve()
    place.mkdir(parents=True, exist_ok=True)
    {"steps": steps, "plan": plan, "membrane": membrane, "memory": memory, "waiting": waiting}[sys.argv[1]](place)
