"""What helps, by what networks say of cases that they have not seen: averaging, flips and quarter turns, cleaning."""

import functools
import gc
import itertools
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from common.errors import InputError
from common.evaluation.statistics import interval_of_mean
from common.files import read_json
from common.parallel import ordered_map, progress
from common.prediction.ensemble import TRANSFORMS, predict_turned
from common.scores import count_pixels, scores_of_counts
from common.slices.masks import class_numbers, clean
from common.training.cross_validation import fold_runs, is_cross_validation
from common.training.run_folder import MODELS
from common.training.sets import open_set
from common.training.trained_models import load_network, model_file

COUNTS = ["tp", "fp", "fn"]


def choose(folders, cleanings, batch_size=8):
    """Score all ways of predicting on the validation slices of each fold, and choose one.

    Networks come first, then flips, then cleaning; each is taken only where it raises the mean Dice over cases.

    Args:
        folders: of cross-validations over the same folds.
        cleanings: list of arguments of `common.slices.masks.clean`.
        batch_size: slices a step.

    Returns:
        choice, for `common.training.cross_validation.write_choice`, and DataFrame of all ways: networks, flips, clean,
        n (cases), dice (mean), low, high, and difference to the first, with difference_low and difference_high.

    Raises:
        InputError: if a folder is no cross-validation, or their folds differ.
    """
    for folder in folders:
        if not is_cross_validation(folder):
            raise InputError(f"CHOOSE: {folder} is no folder of train.py --fold all")
    names = [[run.name for run in fold_runs(folder)] for folder in folders]
    if any(found != names[0] for found in names):
        raise InputError(f"CHOOSE: {' and '.join(map(str, folders))} have different folds; train the missing ones")
    members = members_of(folders)
    counts = [count_fold(number, members, cleanings, batch_size) for number in range(len(names[0]))]
    counts = pd.concat(counts)
    keys = ["networks", "flips", "clean"]
    cases = counts.groupby([*keys, "case", "class"], sort=False)[COUNTS].sum()
    dice = [scores_of_counts(*row)["dice"] for row in cases.itertuples(index=False)]
    of_case = cases.assign(dice=dice)["dice"].groupby([*keys, "case"], sort=False).mean().dropna()
    table = of_case.unstack("case")
    order = pd.MultiIndex.from_product([members, TRANSFORMS, map(str, cleanings)], names=keys)
    table = table.loc[order]

    chosen = list(order[0])
    for level, options in enumerate((members, TRANSFORMS, map(str, cleanings))):
        ways = [(*chosen[:level], option, *chosen[level + 1 :]) for option in options]
        chosen = list(max(ways, key=lambda way: table.loc[way].mean()))  # of equals, the first, which is the simpler
    choice = {
        "networks": members[chosen[0]],
        "flips": chosen[1],
        "clean": cleanings[list(map(str, cleanings)).index(chosen[2])],
    }
    return choice, describe(table, tuple(chosen))


def describe(table, chosen):
    rows = []
    first = table.iloc[0]
    for way, dice in table.iterrows():
        low, high = interval_of_mean(dice.to_numpy(), dice.index)
        row = dict(zip(table.index.names, way, strict=True))
        row |= {"n": len(dice), "dice": dice.mean(), "low": low, "high": high}
        difference = (dice - first).to_numpy()
        low, high = interval_of_mean(difference, dice.index)
        row |= {"difference": difference.mean(), "difference_low": low, "difference_high": high}
        rows.append(row | {"chosen": "yes" if way == chosen else ""})
    return pd.DataFrame(rows)


def members_of(folders):
    """Networks that may be averaged, by a title: of each cross-validation the best, its three checkpoints, and all.

    Returns:
        dict of title to list of [folder, name of the checkpoint].
    """
    members = {str(folder): [[str(folder), "best_dice"]] for folder in folders}
    if len(folders) > 1:
        members["all averaged"] = [[str(folder), "best_dice"] for folder in folders]
    for folder in folders:
        members[f"{folder}, checkpoints averaged"] = [[str(folder), which] for which in MODELS]
    return members


def count_fold(number, members, cleanings, batch_size):
    """Pixels of a fold's validation slices that each way gets right and wrong.

    Returns:
        DataFrame of networks, flips, clean, case, class and COUNTS.
    """
    wanted = list(dict.fromkeys((folder, which) for group in members.values() for folder, which in group))
    runs = {folder: fold_runs(folder)[number] for folder, _ in wanted}
    sets = {folder: open_set(read_json(run / "settings.json")["VALIDATION"]) for folder, run in runs.items()}
    slices = next(iter(sets.values()))
    if slices.axes == 3:
        raise InputError("CHOOSE: these networks are for volumes; predict.py and evaluate.py judge both steps together")
    if any(len(s) != len(slices) or s.case != slices.case or s.shape != slices.shape for s in sets.values()):
        raise InputError(f"CHOOSE: fold {number + 1} of {' and '.join(runs)} differ; train them on the same folds")
    rows = []
    with tempfile.TemporaryDirectory() as place:
        sums = Sums(Path(place), members)
        for folder, which in progress(wanted, len(wanted), f"fold {number + 1}, networks"):
            sums.add((folder, which), load_network(model_file(runs[folder], which)), slices, batch_size)
            gc.collect()  # one network at a time
        for (title, flips), mean in sums.totals.items():
            count = functools.partial(count_slice, mean, slices, cleanings)
            for found in ordered_map(count, range(len(slices))):
                rows += [{"networks": title, "flips": flips, **row} for row in found]
    return pd.DataFrame(rows)


class Sums:
    """Means of probabilities as they grow, in a file for each group of networks and each of TRANSFORMS.

    Args:
        place: Path of a folder for the files.
        members: of `members_of`.

    Attributes:
        totals: dict of (title of the group, name of TRANSFORMS) to probabilities (N, H, W, C).
    """

    def __init__(self, place, members):
        self.place, self.members, self.totals = place, members, {}

    def add(self, member, network, slices, batch_size):
        """Add the probabilities of a network to the sums that it has a part in."""
        titles = [title for title, group in self.members.items() if list(member) in group]
        shape = (len(slices), *network.output_shape[1:])
        for key in itertools.product(titles, TRANSFORMS):
            if key not in self.totals:
                self.totals[key] = np.memmap(self.place / str(len(self.totals)), np.float32, "w+", shape=shape)
        for start in range(0, len(slices), batch_size):
            here = slice(start, min(start + batch_size, len(slices)))
            x, _ = slices.batch(np.arange(here.start, here.stop))
            for form in TRANSFORMS["turns"]:
                probabilities = predict_turned(network, x, *form)
                for title, (flips, forms) in itertools.product(titles, TRANSFORMS.items()):
                    if form in forms:
                        share = len(forms) * len(self.members[title])
                        self.totals[title, flips][here] += probabilities / np.float32(share)


def count_slice(probabilities, slices, cleanings, i):
    """Rows of counts of slice i, for each cleaning and class."""
    numbers, truth = class_numbers(probabilities[i]), slices.batch([i])[1][0, ..., 0]
    rows = []
    for cleaning in cleanings:
        cleaned = clean(numbers, **cleaning)
        for c in range(1, slices.classes + 1):
            found = dict(zip(COUNTS, count_pixels(cleaned == c, truth == c), strict=True))
            rows.append({"clean": str(cleaning), "case": slices.case[i], "class": c, **found})
    return rows
