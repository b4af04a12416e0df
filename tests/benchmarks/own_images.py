"""run_pipeline.py on one's own images against other flags of it and a peer's script, on images that none of them see.

python tests/benchmarks/own_images.py IMAGES MASKS WORK --minutes 5 --peer "PYTHON monai_unet.py --way resize"
python tests/benchmarks/own_images.py IMAGES MASKS WORK --minutes 5 --against "--final 0"

Each image is a case. For each seed and fold, all sides train for MINUTES on the same images, one after the other, and
predict the images of the fold at full size; run_pipeline.py takes its own validation and test cases from the others.
Printed is the mean Dice over the images that have a target. WORK keeps all that was made; what is there is not made
again.
"""

import argparse
import json
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

from comparing import ROOT

from common.command_line import flags_of
from common.slices.images import read_image, to_gray
from common.training.own_data import choose_import

FLAGS = []  # of run_pipeline.py, for all sides


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
    parser.add_argument("--against", help="flags of run_pipeline.py for another side")
    given = parser.parse_args()
    prepare(given)
    sides = {"ours": pipeline}
    if given.against is not None:
        sides[given.against] = partial(pipeline, flags=given.against)
    if given.peer:
        sides["peer"] = peer
    scores = {side: {} for side in sides}
    for seed in given.seeds:
        for fold in range(1, given.folds + 1):
            for side, train in sides.items():
                scores[side][fold, seed] = train(given, fold, seed)
            line = "  ".join(f"{side} {found[fold, seed]:.4f}" for side, found in scores.items())
            print(f"seed {seed}, fold {fold}: {line}", flush=True)
    for side, found in scores.items():
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
    """Divide the images, and copy those of each fold into folders."""
    work = given.work
    if (work / "divided").exists():
        return
    _, chosen = choose_import(given.images, given.masks, None, given.minutes)
    script(
        "preprocess/0_import_images.py", CASES=work / "cases", **{name: value for name, (value, _) in chosen.items()}
    )
    script("preprocess/2_write_lists.py", CASES=work / "cases", LISTS=work / "lists", FOLDS=given.folds, TEST_SHARE=0)
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
    (work / "divided").touch()


def pipeline(given, fold, seed, flags=""):
    """Mean Dice of run_pipeline.py."""
    parts = given.work / "folds" / f"fold{fold}"
    folder = given.work / re.sub(r"\W+", "-", f"ours{flags}") / f"fold{fold}-seed{seed}"
    if not (folder / "predicted").exists():
        shutil.rmtree(folder, ignore_errors=True)
        own = {"IMAGES": parts / "train_x", "MASKS": parts / "train_y", "WORK": folder, "MINUTES": given.minutes}
        command = [sys.executable, str(ROOT / "run_pipeline.py"), *flags_of({**own, "SEED": seed}), *FLAGS]
        subprocess.run([*command, *shlex.split(flags)], check=True, stdout=subprocess.DEVNULL)
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
