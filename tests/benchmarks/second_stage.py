"""Nodules in drawn scans with vessels as decoys: false positives of the first stage, and of both stages.

    python tests/benchmarks/second_stage.py WORK

Ten scans to train on, ten to test; each with four nodules and four vessels that look like nodules on a slice.
"""

import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
import drawings

SCANS = {"train": 10, "test": 10}
SENSITIVITY = 0.9
FIRST = ["--model", "unet", "--model-settings", "{'features': 8, 'depth': 3, 'dropout': 0}", "--loss", "bce+dice"]
FIRST += ["--batch-size", "4", "--learning-rate", "3e-3", "--schedule", "cosine", "--epochs", "100"]
SECOND = ["--model", "crop_classifier", "--model-settings", "{'features': 8}", "--loss", "bce", "--foreground", "0.5"]
SECOND += ["--epochs", "40"]
MINUTES = ["--max-minutes", "6"]


def main(work):
    drawings.decoy_scans(work, **SCANS)

    def run(script, *flags):
        print("\n$ python", script, *flags, flush=True)
        subprocess.run([sys.executable, ROOT / script, *flags], cwd=work, check=True)

    def train(cases, name, *flags):
        run("preprocess/2_write_lists.py", "--cases", cases, "--lists", f"{name}_lists", "--test-share", "0")
        run("preprocess/3_pack_hdf5.py", "--lists", f"{name}_lists", "--packed", name)
        sets = ["--train", f"{name}/train.h5", "--validation", f"{name}/validation.h5"]
        run("train.py", *sets, "--runs", f"{name}_runs", *flags, *MINUTES)

    table = ["--annotations", "annotations.csv"]
    slices = ["--size", "64", "--slices", "all"]
    run("preprocess/0_import_nodules.py", "--scans", "train", *table, "--cases", "nodules", "--size", "64")
    train("nodules", "first", *FIRST)
    for part in ("train", "test"):
        run("preprocess/0_import_nodules.py", "--scans", part, *table, "--cases", f"{part}_cases", *slices)
        found = [
            "--output",
            f"found_{part}",
            "--threshold",
            "0.1",
            "--probabilities",
            "True",
            "--clean",
            "{'smallest': 4}",
            "--clean-in",
            "3d",
        ]
        run("predict.py", "--run", "first_runs", "--input", f"{part}_cases", *found)
        nodules = ["--kind", "nodules", "--predicted", f"found_{part}"]
        run("submission.py", *nodules, "--output", f"{part}.csv")
    run(
        "preprocess/0_import_candidates.py", "--scans", "train", "--candidates", "train.csv", *table, "--cases", "crops"
    )
    train("crops", "second", *SECOND)
    run("submission.py", *nodules, "--second-stage", "second_runs", "--scans", "test", "--output", "both.csv")
    own = pd.read_csv(work / "annotations.csv")
    tested = own["seriesuid"].isin([path.stem for path in (work / "test").glob("*.mhd")])
    own[tested].to_csv(work / "test_annotations.csv", index=False)
    rates = {}
    for name in ("test", "both"):
        tables = ["--predicted", f"{name}.csv", "--truth", "test_annotations.csv"]
        run("evaluate.py", *tables, "--output", f"scores_{name}")
        rates[name] = false_positives(work / f"scores_{name}" / "froc.csv")
    print(f"\nfalse positives a scan at {SENSITIVITY:.1f} sensitivity: {rates['test']:.2f} of the first stage,")
    print(f"{rates['both']:.2f} of both")


def false_positives(file):
    """False positives a scan at the first point of a FROC curve that reaches SENSITIVITY; infinite if none does."""
    if not file.exists():  # no candidates
        return float("inf")
    curve = pd.read_csv(file)
    return curve.loc[curve["sensitivity"] >= SENSITIVITY, "false_positives"].min()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
