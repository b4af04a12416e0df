"""Choose ensemble, flips, cleaning and threshold on out-of-fold predictions."""

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
from common.evaluation import volume_selection
from common.evaluation.summary import interval_of_mean
from common.parallel import ordered_map, progress
from common.prediction.ensemble import TRANSFORMS, predict_turned
from common.prediction.networks_in_workers import load_for_prediction, load_keras, surroundings
from common.scores import COUNTS, count_pixels, scores_of_counts
from common.slices.classes import class_numbers, has_class, without_ignored
from common.slices.masks import clean
from common.system_errors import errors_of
from common.training.calibration import choose_threshold
from common.training.run_folder import CHECKPOINTS
from common.training.sets import open_set
from common.training.trained_models import CrossValidation, model_file

KEYS = ["networks", "flips", "clean"]
THRESHOLDS = np.arange(1, 20) / 20  # to choose from


def choose(folders, cleanings, batch_size=8, workers=None):
    """Score all combinations of networks, flips and cleaning on out-of-fold predictions, and choose one.

    Networks are chosen first, then flips, then cleaning; each only if it raises the mean Dice over cases.

    Args:
        folders: cross-validation folders with the same folds.
        cleanings: list of arguments of `common.slices.masks.clean`.
        batch_size: slices predicted at a time.
        workers: `common.workers.Threads` or Processes, which predict a fold in each task; None: this process.

    Returns:
        choice, dict of arguments of `CrossValidation.write_choice`, and DataFrame of all combinations: networks,
        flips, clean, n (cases), dice (mean), low, high, and difference from the first row (the baseline), with
        difference_low and difference_high; of several classes also the mean Dice of each, dice_1, ...

    Raises:
        InputError: if a folder is not a cross-validation, or their folds differ.
    """
    folds = require_same_folds(folders)
    groups = groups_of_networks(folders)
    of_fold = functools.partial(count_fold, groups=groups, cleanings=cleanings, batch_size=batch_size)
    counts = pd.concat(map_folds(of_fold, folds, workers))
    cases = counts.groupby([*KEYS, "case", "class"], sort=False)[COUNTS].sum()
    dice = [scores_of_counts(*row)["dice"] for row in cases.itertuples(index=False)]
    dice = cases.assign(dice=dice)["dice"]
    of_case = dice.groupby([*KEYS, "case"], sort=False).mean().dropna()
    options = [list(groups), counts["flips"].unique().tolist(), list(map(str, cleanings))]
    table = of_case.unstack("case").loc[pd.MultiIndex.from_product(options, names=KEYS)]

    chosen = table.index[0]
    for level, values in enumerate(options):
        candidates = [(*chosen[:level], value, *chosen[level + 1 :]) for value in values]
        chosen = max(candidates, key=lambda key: table.loc[key].mean())  # ties: the first, which is simpler
    cleaning = cleanings[options[2].index(chosen[2])]
    return {"networks": groups[chosen[0]], "flips": chosen[1], "clean": cleaning}, describe(table, chosen, dice)


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


def map_folds(function, folds, workers):
    """Results of a function of the number of a fold, for all folds, as a list; `workers` as for `choose`."""
    if not workers or not workers.are_processes:
        return list(map(function, range(folds)))
    task = functools.partial(_in_worker, function=function, wanted=surroundings())
    return list(progress(workers.map_large(task, range(folds)), folds, "folds"))


def _in_worker(fold, function, wanted):
    load_keras(wanted)
    return function(fold)


def find_threshold(networks, flips, clean, batch_size=8, workers=None):
    """Choose the threshold for a choice, on its out-of-fold predictions as predict.py will make them.

    It maximizes the mean Dice over the cases with a mask, by the rule of
    `common.training.calibration.choose_threshold`.

    Args:
        networks, flips, clean: choice of `choose`.
        batch_size, workers: as for `choose`.

    Returns:
        The threshold, and the mean Dice at it and at 0.5; None for several classes.
    """
    of_fold = functools.partial(
        count_thresholds_of_fold, networks=networks, flips=flips, clean=clean, batch_size=batch_size
    )
    counts = map_folds(of_fold, require_same_folds([folder for folder, _ in networks]), workers)
    if None in counts:
        return None
    cases = pd.DataFrame(list(itertools.chain(*counts))).groupby(["case", "threshold"])[COUNTS].sum()
    cases["dice"] = 2 * cases["tp"] / (2 * cases["tp"] + cases["fp"] + cases["fn"])
    with_mask = (cases["tp"] + cases["fn"] > 0).groupby("case").transform("all")
    dice = cases.loc[with_mask, "dice"].unstack("threshold").to_numpy()
    return choose_threshold(dice, np.ones(len(dice)), THRESHOLDS)


def count_fold(fold, groups, cleanings, batch_size):
    """Count right and wrong pixels of each combination on a fold's validation slices.

    Args:
        fold: number from 0.
        groups: result of `groups_of_networks`.
        cleanings, batch_size: as for `choose`.

    Returns:
        DataFrame with columns networks, flips, clean, case, class and COUNTS.
    """
    slices, runs = open_fold(fold, groups)
    if slices.axes == 3:
        title = f"fold {fold + 1}, cases"
        return pd.DataFrame(volume_selection.count_cases(slices, runs, groups, cleanings, title))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        means = predict_fold(Path(folder), fold, slices, runs, groups, TRANSFORMS, batch_size)
        for (title, flips), probabilities in means.items():
            count = functools.partial(count_slice, probabilities, slices, cleanings)
            for counted in ordered_map(count, range(len(slices))):
                rows += [{"networks": title, "flips": flips, **row} for row in counted]
    return pd.DataFrame(rows)


def count_thresholds_of_fold(fold, networks, flips, clean, batch_size):
    """Rows of counts of a fold with one class, for each case and threshold; None for several classes.

    Args:
        fold: number from 0.
        networks, flips, clean, batch_size: as for `find_threshold`.
    """
    groups = {"chosen": networks}
    slices, runs = open_fold(fold, groups)
    if slices.classes > 1:
        return None
    if slices.axes == 3:
        options = networks, flips, clean, THRESHOLDS.tolist()
        return list(volume_selection.count_thresholds(slices, runs, *options, f"fold {fold + 1}, threshold"))
    with tempfile.TemporaryDirectory() as folder:
        means = predict_fold(Path(folder), fold, slices, runs, groups, {flips: TRANSFORMS[flips]}, batch_size)
        count = functools.partial(count_thresholds, means["chosen", flips], slices, clean)
        return list(itertools.chain(*ordered_map(count, range(len(slices)))))


def predict_fold(folder, fold, slices, runs, groups, transforms, batch_size):
    """Predict a fold's validation slices.

    Args:
        folder: Path of a folder for files of probabilities.
        fold: number from 0.
        slices, runs: as returned by `open_fold`.
        groups: as returned by `groups_of_networks`.
        transforms: items of TRANSFORMS.
        batch_size: as for `choose`.

    Returns:
        dict of (group title, name in transforms) to probabilities (N, H, W, C).
    """
    members = list(dict.fromkeys((name, checkpoint) for group in groups.values() for name, checkpoint in group))
    means = MeanProbabilities(folder, groups, transforms)
    for run_folder, checkpoint in progress(members, len(members), f"fold {fold + 1}, networks"):
        network = load_for_prediction(model_file(runs[run_folder], checkpoint))
        means.add([run_folder, checkpoint], network, slices, batch_size)
        gc.collect()  # one network at a time
    return means.arrays


def open_fold(fold, groups):
    """Open the validation set of a fold.

    Args:
        fold, groups: as for `predict_fold`.

    Returns:
        SliceSet or VolumeSet, and a dict of cross-validation folder to its run of this fold.

    Raises:
        InputError: if the cross-validations have different cases in this fold.
    """
    runs = {name: CrossValidation(name).runs()[fold] for group in groups.values() for name, _ in group}
    sets = [open_set(run.validation_set) for run in runs.values()]
    if len({(s.axes, s.step if s.axes == 3 else "") for s in sets}) > 1:
        raise InputError(
            f"CROSS_VALIDATIONS: {' and '.join(runs)} are of different steps or kinds of data; choose for each alone"
        )
    facts = [(s.axes, s.shape, s.names, s.step) if s.axes == 3 else (s.axes, s.shape, s.case, len(s)) for s in sets]
    if any(others != facts[0] for others in facts):
        raise InputError(
            f"CROSS_VALIDATIONS: fold {fold + 1} differs between {' and '.join(runs)}; train them on the same folds"
        )
    return sets[0], runs


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
    """Running means of probabilities, in a file for each group of networks and each way to average over flips.

    Args:
        folder: Path of a folder for the files.
        groups: result of `groups_of_networks`.
        transforms: items of TRANSFORMS.

    Attributes:
        arrays: dict of (group title, name in TRANSFORMS) to probabilities (N, H, W, C).
    """

    def __init__(self, folder, groups, transforms):
        self.folder, self.groups, self.transforms, self.arrays = folder, groups, transforms, {}

    def add(self, member, network, slices, batch_size):
        """Add the probabilities of a network to the means of the groups that contain it."""
        titles = [title for title, group in self.groups.items() if member in group]
        used = set(itertools.chain(*self.transforms.values()))
        shape = (len(slices), *network.output_shape[1:])
        for key in itertools.product(titles, self.transforms):
            if key not in self.arrays:
                path = self.folder / str(len(self.arrays))
                reserve(path, 4 * math.prod(shape))
                self.arrays[key] = np.memmap(path, np.float32, "r+", shape=shape)
        for start in range(0, len(slices), batch_size):
            batch = slice(start, min(start + batch_size, len(slices)))
            x, _ = slices.batch(np.arange(batch.start, batch.stop))
            for transform in filter(used.__contains__, TRANSFORMS["turns"]):
                probabilities = predict_turned(network, x, *transform)
                for title, (flips, transforms) in itertools.product(titles, self.transforms.items()):
                    if transform in transforms:
                        count = len(transforms) * len(self.groups[title])
                        self.arrays[title, flips][batch] += probabilities / np.float32(count)


def count_slice(probabilities, slices, cleanings, i):
    """Rows of counts for slice i, for each cleaning and class."""
    numbers = class_numbers(probabilities[i], overlapping=slices.overlapping)
    true_numbers = slices.batch([i])[1][0, ..., 0]
    rows = []
    for cleaning in cleanings:
        cleaned, truth = without_ignored(clean(numbers, **cleaning), true_numbers)
        for c in range(1, slices.classes + 1):
            counts = dict(zip(COUNTS, count_pixels(has_class(cleaned, c), has_class(truth, c)), strict=True))
            rows.append({"clean": str(cleaning), "case": slices.case[i], "class": c, **counts})
    return rows


def count_thresholds(probabilities, slices, cleaning, i):
    """Rows of counts for slice i with one class, for each of THRESHOLDS."""
    true_numbers, rows = slices.batch([i])[1][0, ..., 0], []
    for threshold in THRESHOLDS.tolist():
        cleaned = clean(class_numbers(probabilities[i], threshold), **cleaning)
        cleaned, truth = without_ignored(cleaned, true_numbers)
        counts = dict(zip(COUNTS, count_pixels(cleaned > 0, truth > 0), strict=True))
        rows.append({"threshold": threshold, "case": slices.case[i], **counts})
    return rows


def describe(table, chosen, dice):
    """Make the DataFrame of `choose`.

    Args:
        table: DataFrame with the Dice of each combination (rows) and case (columns).
        chosen: key of the chosen row.
        dice: Series with the Dice of each combination, case and class.
    """
    by_class = dice.groupby([*KEYS, "class"]).mean().unstack("class")
    rows = []
    first = table.iloc[0]
    for key, dice in table.iterrows():
        low, high = interval_of_mean(dice.to_numpy(), dice.index)
        row = dict(zip(KEYS, key, strict=True)) | {"n": len(dice), "dice": dice.mean(), "low": low, "high": high}
        difference = (dice - first).to_numpy()
        low, high = interval_of_mean(difference, dice.index)
        row |= {"difference": difference.mean(), "difference_low": low, "difference_high": high}
        if by_class.shape[1] > 1:
            row |= {f"dice_{number}": mean for number, mean in by_class.loc[key].items()}
        rows.append(row | {"chosen": "yes" if key == chosen else ""})
    return pd.DataFrame(rows)
