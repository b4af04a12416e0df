"""Cross-validation of one's own images with the planned settings, and of a peer's script on the same folds in turn.

python tests/benchmarks/own_images.py IMAGES MASKS WORK --minutes 5 --peer "PYTHON monai_unet.py --way resize"

Each image is a case. For each seed and fold, both sides train for MINUTES on the same images, one after the other, and
predict the others at full size. Printed is the mean Dice over the images that have a target. WORK keeps all that was
made; what is there is not made again.
"""

import argparse
import json
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from comparing import ROOT

from common.command_line import flags_of
from common.slices.images import read_image, to_gray
from common.training.own_data import choose_import


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--peer", default="", help="command that takes --train-x ... --minutes --seed; prints Dice mean"
    )
    given = parser.parse_args()
    prepare(given)
    scores = {"ours": {}, "peer": {}}
    for seed in given.seeds:
        for fold in range(1, given.folds + 1):
            scores["ours"][fold, seed] = ours(given, fold, seed)
            if given.peer:
                scores["peer"][fold, seed] = peer(given, fold, seed)
            line = "  ".join(f"{side} {found[fold, seed]:.4f}" for side, found in scores.items() if found)
            print(f"seed {seed}, fold {fold}: {line}", flush=True)
    for side, found in scores.items():
        if found:
            of_folds = [statistics.fmean(found[fold, s] for s in given.seeds) for fold in range(1, given.folds + 1)]
            of_seeds = [statistics.fmean(found[f, seed] for f in range(1, given.folds + 1)) for seed in given.seeds]
            folds = ", ".join(f"{score:.3f}" for score in of_folds)
            print(
                f"{side}: mean Dice {statistics.fmean(of_seeds):.4f} ({min(of_seeds):.3f} to {max(of_seeds):.3f} over "
                f"seeds); of the folds {folds}"
            )


def script(name, **values):
    subprocess.run([sys.executable, str(ROOT / name), *flags_of(values)], check=True, stdout=subprocess.DEVNULL)


def prepare(given):
    """Import, divide, pack and plan, and copy the images of each fold into folders."""
    work = given.work
    if (work / "packed" / "plan.json").exists():
        return
    _, chosen = choose_import(given.images, given.masks, None, given.minutes * given.folds)
    script(
        "preprocess/0_import_images.py", CASES=work / "cases", **{name: value for name, (value, _) in chosen.items()}
    )
    script("preprocess/2_write_lists.py", CASES=work / "cases", LISTS=work / "lists", FOLDS=given.folds, TEST_SHARE=0)
    script("preprocess/3_pack_hdf5.py", LISTS=work / "lists", PACKED=work / "packed")
    images = {path.stem: path for path in given.images.iterdir()}
    masks = {path.stem.removesuffix("_mask"): path for path in given.masks.iterdir()}
    for fold in range(1, given.folds + 1):
        for part in ("train", "validation"):
            rows = (work / "lists" / f"fold{fold}" / f"{part}.csv").read_text().splitlines()[1:]
            for side, found in (("x", images), ("y", masks)):
                folder = work / "folds" / f"fold{fold}" / f"{part}_{side}"
                folder.mkdir(parents=True)
                for case in {Path(row.split(",")[0]).parent.parent.name.removeprefix("case_") for row in rows}:
                    shutil.copy(found[case], folder)
    script("preprocess/4_plan_training.py", PACKED=work / "packed", MINUTES=given.minutes)


def ours(given, fold, seed):
    """Mean Dice of train.py with the plan."""
    folder, parts = given.work / "ours" / f"fold{fold}-seed{seed}", given.work / "folds" / f"fold{fold}"
    packed = given.work / "packed"
    if not (folder / "predicted").exists():
        shutil.rmtree(folder, ignore_errors=True)
        plan = ["--settings", str(packed / "plan.json")]
        sets = {"TRAIN": packed / "train.h5", "VALIDATION": packed / "validation.h5", "RUNS": folder / "runs"}
        command = [sys.executable, str(ROOT / "train.py"), *plan, *flags_of({**sets, "FOLD": fold, "SEED": seed})]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        script("predict.py", RUN=folder / "runs", INPUT=parts / "validation_x", OUTPUT=folder / "predicted")
    scores = []
    for path in sorted((parts / "validation_y").iterdir()):
        name = path.name.replace("_mask", "")
        guess = read_image(folder / "predicted" / f"{Path(name).stem}.png") > 0
        mask = read_image(path)
        truth = to_gray(mask[..., :3] if mask.ndim == 3 else mask) > 127
        if truth.any():
            scores.append(2 * (guess & truth).sum() / (guess.sum() + truth.sum()))
    return float(statistics.fmean(scores))


def peer(given, fold, seed):
    """Mean Dice that the peer prints."""
    parts, kept = given.work / "folds" / f"fold{fold}", given.work / f"peer-fold{fold}-seed{seed}.json"
    if not kept.exists():
        folders = {"train-x": "train_x", "train-y": "train_y", "test-x": "validation_x", "test-y": "validation_y"}
        flags = [text for name, folder in folders.items() for text in (f"--{name}", str(parts / folder))]
        command = [*shlex.split(given.peer), *flags, "--minutes", str(given.minutes), "--seed", str(seed)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        kept.write_text(json.dumps(float(re.search(r"Dice mean ([\d.]+)", printed)[1])))
    return json.loads(kept.read_text())


if __name__ == "__main__":
    main()
