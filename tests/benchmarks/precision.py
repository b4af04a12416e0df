"""Learning curves in bfloat16 against float32: the same data, network and seeds, trained in turn.

    python tests/benchmarks/precision.py TRAIN VALIDATION WORK [--seeds 3] [flags of train.py]

TRAIN and VALIDATION are packed sets. For each epoch: validation loss and Dice in both, as means over the seeds, and the
greatest difference of Dice between seeds in float32, by which that between precisions is to be judged. At the end: the
best Dice of each seed, and bfloat16's seconds of an epoch as a share of float32's.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

import pandas as pd
from comparing import ROOT

PRECISIONS = ("float32", "mixed_bfloat16")


def train(precision, seed, work, flags):
    """Log of a new training, a DataFrame with a row for each epoch."""
    runs = work / f"{precision}_{seed}"
    command = [sys.executable, ROOT / "train.py", "--runs", runs, "--precision", precision, "--seed", seed, *flags]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    return pd.read_csv(next(runs.glob("*/training_log.csv")))


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs=2, type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    given, flags = parser.parse_known_args(arguments)
    flags = ["--train", given.sets[0], "--validation", given.sets[1], *flags]
    logs = {precision: [] for precision in PRECISIONS}
    for seed in range(1, given.seeds + 1):
        for precision in PRECISIONS:
            logs[precision].append(train(precision, seed, given.work, flags))
    tables = {name: pd.concat(found).groupby("epoch") for name, found in logs.items()}
    whole, half = (tables[name][["val_loss", "val_dice"]].mean() for name in PRECISIONS)
    spread = tables["float32"]["val_dice"].agg(lambda dice: dice.max() - dice.min())
    print("epoch  loss  bfloat16   Dice  bfloat16  range over seeds")
    for epoch in whole.index:
        (loss, dice), (other_loss, other_dice) = whole.loc[epoch], half.loc[epoch]
        print(f"{epoch:5}{loss:6.3f}{other_loss:10.3f}{dice:7.3f}{other_dice:10.3f}{spread[epoch]:18.3f}")
    for name in PRECISIONS:
        best = [log["val_dice"].max() for log in logs[name]]
        print(f"{name}: best Dice {statistics.mean(best):.3f} ({', '.join(f'{score:.3f}' for score in best)})")
    seconds = ([log["seconds"][1:].median() for log in logs[name]] for name in PRECISIONS)
    shares = [other / own for own, other in zip(*seconds, strict=True)]
    middle = statistics.median(shares)
    print(f"an epoch in bfloat16 takes {middle:.2f} of the time ({min(shares):.2f} to {max(shares):.2f})")


if __name__ == "__main__":
    main(sys.argv[1:])
