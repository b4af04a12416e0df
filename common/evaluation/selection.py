"""Choose ensemble, flips and cleaning on out-of-fold predictions."""

import functools
import gc
import itertools
import math
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from common.errors import InputError
from common.evaluation.summary import interval_of_mean
from common.parallel import ordered_map, progress
from common.prediction.ensemble import TRANSFORMS, predict_turned
from common.scores import count_pixels, scores_of_counts
from common.slices.masks import class_numbers, clean
from common.system_errors import errors_of
from common.training.run_folder import CHECKPOINTS
from common.training.sets import open_set
from common.training.trained_models import CrossValidation, load_network, model_file

COUNTS = ["tp", "fp", "fn"]
KEYS = ["networks", "flips", "clean"]


def choose(folders, cleanings, batch_size=8):
    """Score all combinations of networks, flips and cleaning on out-of-fold predictions, and choose one.

    Networks are chosen first, then flips, then cleaning; each only if it raises the mean Dice over cases.

    Args:
        folders: cross-validation folders with the same folds.
        cleanings: list of arguments of `common.slices.masks.clean`.
        batch_size: slices predicted at a time.

    Returns:
        choice, dict of arguments of `CrossValidation.write_choice`, and DataFrame of all combinations: networks,
        flips, clean, n (cases), dice (mean), low, high, and difference from the first row (the baseline), with
        difference_low and difference_high.

    Raises:
        InputError: if a folder is not a cross-validation, or their folds differ.
    """
    folds = require_same_folds(folders)
    groups = groups_of_networks(folders)
    counts = pd.concat([count_fold(fold, groups, cleanings, batch_size) for fold in range(folds)])
    cases = counts.groupby([*KEYS, "case", "class"], sort=False)[COUNTS].sum()
    dice = [scores_of_counts(*row)["dice"] for row in cases.itertuples(index=False)]
    of_case = cases.assign(dice=dice)["dice"].groupby([*KEYS, "case"], sort=False).mean().dropna()
    options = [list(groups), list(TRANSFORMS), list(map(str, cleanings))]
    table = of_case.unstack("case").loc[pd.MultiIndex.from_product(options, names=KEYS)]

    chosen = table.index[0]
    for level, values in enumerate(options):
        candidates = [(*chosen[:level], value, *chosen[level + 1 :]) for value in values]
        chosen = max(candidates, key=lambda key: table.loc[key].mean())  # ties: the first, which is simpler
    cleaning = cleanings[options[2].index(chosen[2])]
    return {"networks": groups[chosen[0]], "flips": chosen[1], "clean": cleaning}, describe(table, chosen)


def require_same_folds(folders):
    """Number of folds, which all cross-validations must share."""
    for folder in folders:
        if not CrossValidation(folder).exists:
            raise InputError(
                f"CROSS_VALIDATIONS: {folder} is not a cross-validation; use a folder of train.py --fold all"
            )
    names = [[run.name for run in CrossValidation(folder).runs()] for folder in folders]
    if any(others != names[0] for others in names):
        raise InputError(
            f"CROSS_VALIDATIONS: folds of {' and '.join(map(str, folders))} differ; train the missing ones"
        )
    return len(names[0])


def groups_of_networks(folders):
    """Candidate ensembles: best_dice of each cross-validation, all of these, and the checkpoints of each.

    Returns:
        dict of title to list of [folder, checkpoint name].
    """
    groups = {str(folder): [[str(folder), "best_dice"]] for folder in folders}
    if len(folders) > 1:
        groups["all averaged"] = [[str(folder), "best_dice"] for folder in folders]
    for folder in folders:
        groups[f"{folder}, checkpoints averaged"] = [[str(folder), checkpoint] for checkpoint in CHECKPOINTS]
    return groups


def count_fold(fold, groups, cleanings, batch_size):
    """Count right and wrong pixels of each combination on a fold's validation slices.

    Args:
        fold: number from 0.
        groups: result of `groups_of_networks`.
        cleanings, batch_size: as for `choose`.

    Returns:
        DataFrame with columns networks, flips, clean, case, class and COUNTS.
    """
    members = list(dict.fromkeys((folder, checkpoint) for group in groups.values() for folder, checkpoint in group))
    runs = {folder: CrossValidation(folder).runs()[fold] for folder, _ in members}
    sets = {folder: open_set(run.validation_set) for folder, run in runs.items()}
    slices = next(iter(sets.values()))
    if slices.axes == 3:
        raise InputError(
            "CROSS_VALIDATIONS: volume networks are not supported; run predict.py and evaluate.py with both networks"
        )
    if any(len(s) != len(slices) or s.case != slices.case or s.shape != slices.shape for s in sets.values()):
        raise InputError(
            f"CROSS_VALIDATIONS: fold {fold + 1} differs between {' and '.join(runs)}; train them on the same folds"
        )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        means = MeanProbabilities(Path(folder), groups)
        for run_folder, checkpoint in progress(members, len(members), f"fold {fold + 1}, networks"):
            network = load_network(model_file(runs[run_folder], checkpoint))
            means.add([run_folder, checkpoint], network, slices, batch_size)
            gc.collect()  # one network at a time
        for (title, flips), probabilities in means.arrays.items():
            count = functools.partial(count_slice, probabilities, slices, cleanings)
            for counted in ordered_map(count, range(len(slices))):
                rows += [{"networks": title, "flips": flips, **row} for row in counted]
    return pd.DataFrame(rows)


def reserve(path, size):
    """Create a file of zeros with all of its bytes on disk; writing to a mapped file that gets no space is a crash.

    Raises:
        OSError: if the disk is full.
    """
    zeros = bytes(2**20)
    with errors_of(path.parent), open(path, "wb") as file:
        for start in range(0, size, len(zeros)):
            file.write(zeros[: size - start])
        file.flush()
        os.fsync(file.fileno())


class MeanProbabilities:
    """Running means of probabilities, in a file for each group of networks and each item of TRANSFORMS.

    Args:
        folder: Path of a folder for the files.
        groups: result of `groups_of_networks`.

    Attributes:
        arrays: dict of (group title, name in TRANSFORMS) to probabilities (N, H, W, C).
    """

    def __init__(self, folder, groups):
        self.folder, self.groups, self.arrays = folder, groups, {}

    def add(self, member, network, slices, batch_size):
        """Add the probabilities of a network to the means of the groups that contain it."""
        titles = [title for title, group in self.groups.items() if member in group]
        shape = (len(slices), *network.output_shape[1:])
        for key in itertools.product(titles, TRANSFORMS):
            if key not in self.arrays:
                path = self.folder / str(len(self.arrays))
                reserve(path, 4 * math.prod(shape))
                self.arrays[key] = np.memmap(path, np.float32, "r+", shape=shape)
        for start in range(0, len(slices), batch_size):
            batch = slice(start, min(start + batch_size, len(slices)))
            x, _ = slices.batch(np.arange(batch.start, batch.stop))
            for transform in TRANSFORMS["turns"]:
                probabilities = predict_turned(network, x, *transform)
                for title, (flips, transforms) in itertools.product(titles, TRANSFORMS.items()):
                    if transform in transforms:
                        count = len(transforms) * len(self.groups[title])
                        self.arrays[title, flips][batch] += probabilities / np.float32(count)


def count_slice(probabilities, slices, cleanings, i):
    """Rows of counts for slice i, for each cleaning and class."""
    numbers, truth = class_numbers(probabilities[i]), slices.batch([i])[1][0, ..., 0]
    rows = []
    for cleaning in cleanings:
        cleaned = clean(numbers, **cleaning)
        for c in range(1, slices.classes + 1):
            counts = dict(zip(COUNTS, count_pixels(cleaned == c, truth == c), strict=True))
            rows.append({"clean": str(cleaning), "case": slices.case[i], "class": c, **counts})
    return rows


def describe(table, chosen):
    """Make the DataFrame of `choose` from the Dice of each combination (rows) and case (columns)."""
    rows = []
    first = table.iloc[0]
    for key, dice in table.iterrows():
        low, high = interval_of_mean(dice.to_numpy(), dice.index)
        row = dict(zip(KEYS, key, strict=True)) | {"n": len(dice), "dice": dice.mean(), "low": low, "high": high}
        difference = (dice - first).to_numpy()
        low, high = interval_of_mean(difference, dice.index)
        row |= {"difference": difference.mean(), "difference_low": low, "difference_high": high}
        rows.append(row | {"chosen": "yes" if key == chosen else ""})
    return pd.DataFrame(rows)
