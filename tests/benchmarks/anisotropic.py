"""Thick slices in 3-D: the plan, whose kernels fit the spacing, against isotropic ways in equal processor time.

    python tests/benchmarks/anisotropic.py WORK [MINUTES]

Drawn volumes with voxels of 1 x 1 x 5 mm: an organ, and lesions in it next to vessels that look like them on a slice.
Each of WAYS trains for MINUTES of processor time with each of SEEDS: as many epochs as fit by a short run of each, so
that other work on the machine does not matter. Scores are of other volumes, on their own grid:

    plan        4_plan_training.py on the slices as they are
    kernels     the same, with the kernels and pooling of isotropic voxels
    resampled   4_plan_training.py on volumes resampled to 1 mm; its epochs take so long that WAYS omits it
"""

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
import drawings
import SimpleITK as sitk

from common.files import write_json
from common.volumes.grids import Geometry, image_at

VOLUMES = {"train": 16, "test": 8}
SHAPE, SPACING = (12, 48, 48), (1.0, 1.0, 5.0)  # (up, back, left) voxels; (left, back, head) mm
OF_EACH = 2  # lesions and vessels in a volume
MINUTES, SEEDS = 2, (1, 2, 3)
TRIAL = (2, 32)  # epochs of the short runs; enough that compiling does not decide
PLANNED = 10  # minutes to plan for
WAYS = ("plan", "kernels")
TRAINING = []  # further flags of train.py
CLASSES = {1: "organ", 2: "lesion"}


def draw(seed):
    """Gray values (S, H, W) int16 and labels uint8 of a volume."""
    rng = np.random.default_rng(seed)
    middle = np.array(SHAPE[::-1]) / 2
    labels = drawings.ball(SHAPE, middle + rng.uniform(-2, 2, 3), 0.4 * SHAPE[2], SPACING).astype(np.uint8)
    gray = 100.0 * labels
    for kind in ("vessel", "lesion"):
        for _ in range(OF_EACH):
            x, y = middle[:2] + rng.uniform(-0.2, 0.2, 2) * SHAPE[2]
            z, radius = middle[2] + rng.uniform(-0.15, 0.15) * SHAPE[0], rng.uniform(3.5, 5.5)
            if kind == "vessel":  # its cross section, in all slices of the organ
                part = np.broadcast_to(drawings.ball((1, *SHAPE[1:]), (x, y, 0), radius, SPACING), SHAPE)
            else:
                part = drawings.ball(SHAPE, (x, y, z), radius + 2, SPACING)
                labels[part & (labels > 0)] = 2
            gray[part & (labels > 0)] = 170
    return (gray + rng.normal(0, 30, SHAPE)).astype(np.int16), labels


def draw_all(work):
    """Folders train and test, each with images and labels."""
    geometry = Geometry(SHAPE[::-1], SPACING, (0.0, 0.0, 0.0), drawings.STRAIGHT)
    for part, count in VOLUMES.items():
        for number in range(count):
            pair = draw(1000 * (part == "test") + number)
            for side, volume in zip(("images", "labels"), pair, strict=True):
                folder = work / part / side
                folder.mkdir(parents=True, exist_ok=True)
                sitk.WriteImage(image_at(volume, geometry), str(folder / f"{part}_{number:02d}.nii.gz"))


def main(work, minutes=MINUTES):
    draw_all(work)

    def run(script, *flags):
        """Run a script; return the processor time it took, in seconds."""
        print("\n$ python", script, *flags, flush=True)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, ROOT / script, *map(str, flags)], cwd=work, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def train(way, seed, epochs, runs):
        packed = "fine" if way == "resampled" else "thick"
        sets = ["--train", f"{packed}/train.h5", "--validation", f"{packed}/validation.h5", "--seed", seed]
        long = ["--epochs", epochs, "--max-minutes", "None", *TRAINING]
        return run("train.py", "--settings", f"{way}.json", *sets, *long, "--runs", runs)

    data = ["--images", "train/images", "--labels", "train/labels", "--step", "single", "--voxels", "None"]
    packing = {"thick": "None"} | ({"fine": "1.0"} if "resampled" in WAYS else {})
    for packed, spacing in packing.items():
        run("preprocess/3_pack_volumes.py", *data, "--spacing", spacing, "--packed", packed)
        run("preprocess/4_plan_training.py", "--packed", packed, "--minutes", PLANNED)
    plans = {name: json.loads((work / name / "plan.json").read_text()) for name in packing}
    plan, epochs, rows = plans["thick"], {}, []
    isotropic = {"MODEL_SETTINGS": plan["MODEL_SETTINGS"] | {"spacing": [1, 1, 1]}}
    settings = {"plan": plan, "kernels": plan | isotropic, "resampled": plans.get("fine")}
    for way in WAYS:
        write_json(work / f"{way}.json", settings[way])
        short, longer = (train(way, 1, count, f"trial/{way}_{count}") for count in TRIAL)
        epochs[way] = max(1, round(60 * minutes * (TRIAL[1] - TRIAL[0]) / max(longer - short, 1e-3)))
    for seed in SEEDS:
        for way in WAYS:
            name = f"{way}_{seed}"
            train(way, seed, epochs[way], f"runs/{name}")
            run("predict.py", "--run", f"runs/{name}", "--input", "test/images", "--output", f"predicted/{name}")
            scored = ["--predicted", f"predicted/{name}", "--truth", "test/labels", "--output", f"scores/{name}"]
            run("evaluate.py", *scored)
            cases = pd.read_csv(work / "scores" / name / "cases.csv")
            dice = cases.groupby("class")["dice"].mean()
            rows.append({"way": way, "seed": seed} | {word: dice[number] for number, word in CLASSES.items()})
    table = pd.DataFrame(rows)
    counts = ", ".join(f"{way} {count}" for way, count in epochs.items())
    print(f"\nmean Dice over {VOLUMES['test']} test volumes; {minutes:g} minutes of training each (epochs: {counts})")
    print(table.pivot(index="way", columns="seed", values=list(CLASSES.values())).loc[list(WAYS)].round(3).to_string())


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *map(float, sys.argv[2:]))
