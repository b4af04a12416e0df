"""Thick slices in 3-D: the plan, whose kernels fit the spacing, against isotropic ways in equal time.

    python tests/benchmarks/anisotropic.py WORK

Drawn volumes with voxels of 1 x 1 x 5 mm: an organ, and lesions in it next to vessels that look like them on a slice.
Each way trains MINUTES with each of SEEDS, and is scored on other volumes, on their own grid:

    plan        4_plan_training.py on the slices as they are
    kernels     the same, with the kernels and pooling of isotropic voxels
    resampled   4_plan_training.py on volumes resampled to 1 mm
"""

import json
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

VOLUMES = {"train": 12, "test": 6}
SHAPE, SPACING = (20, 96, 96), (1.0, 1.0, 5.0)  # (up, back, left) voxels; (left, back, head) mm
OF_EACH = 3  # lesions and vessels in a volume
MINUTES, SEEDS = 5, (1, 2, 3)
WAYS = ("plan", "kernels", "resampled")
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


def main(work):
    draw_all(work)

    def run(script, *flags):
        print("\n$ python", script, *flags, flush=True)
        subprocess.run([sys.executable, ROOT / script, *map(str, flags)], cwd=work, check=True)

    data = ["--images", "train/images", "--labels", "train/labels", "--step", "single", "--voxels", "None"]
    packing = {"thick": "None"} | ({"fine": "1.0"} if "resampled" in WAYS else {})
    for packed, spacing in packing.items():
        run("preprocess/3_pack_volumes.py", *data, "--spacing", spacing, "--packed", packed)
        run("preprocess/4_plan_training.py", "--packed", packed, "--minutes", MINUTES)
    plans = {name: json.loads((work / name / "plan.json").read_text()) for name in packing}
    plan, rows = plans["thick"], []
    isotropic = {"MODEL_SETTINGS": plan["MODEL_SETTINGS"] | {"spacing": [1, 1, 1]}}
    settings = {"plan": plan, "kernels": plan | isotropic, "resampled": plans.get("fine")}
    for seed in SEEDS:
        for way in WAYS:
            name, packed = f"{way}_{seed}", "fine" if way == "resampled" else "thick"
            write_json(work / f"{name}.json", settings[way])
            sets = ["--train", f"{packed}/train.h5", "--validation", f"{packed}/validation.h5", "--seed", seed]
            long = ["--epochs", "None", "--max-minutes", MINUTES, *TRAINING]
            run("train.py", "--settings", f"{name}.json", *sets, *long, "--runs", f"runs/{name}")
            run("predict.py", "--run", f"runs/{name}", "--input", "test/images", "--output", f"predicted/{name}")
            scored = ["--predicted", f"predicted/{name}", "--truth", "test/labels", "--output", f"scores/{name}"]
            run("evaluate.py", *scored)
            cases = pd.read_csv(work / "scores" / name / "cases.csv")
            dice = cases.groupby("class")["dice"].mean()
            rows.append({"way": way, "seed": seed} | {word: dice[number] for number, word in CLASSES.items()})
    table = pd.DataFrame(rows)
    print(f"\nmean Dice over {VOLUMES['test']} test volumes, {MINUTES} minutes of training each")
    print(table.pivot(index="way", columns="seed", values=list(CLASSES.values())).loc[list(WAYS)].round(3).to_string())


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
