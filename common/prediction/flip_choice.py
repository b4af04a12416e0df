"""Choose on the validation set whether predict.py averages a network over flips and quarter turns of a slice."""

import numpy as np

from common.prediction.ensemble import TRANSFORMS, predict_turned
from common.slices.classes import class_numbers, is_ignored, mean_dice, without_ignored
from common.training.calibration import choose_threshold, dice_by_threshold, mean_and_error

MOST_SLICES = 40
COST = 32  # validation slices that a run has predicted for each slice here, which is predicted eight times
FEWEST_CASES = 3  # slices of one case say too little about others
LEAST_GAIN = 0.005  # of Dice: less is not worth four or eight times the work
ERRORS = 2  # standard errors that the gain exceeds
CLOSE = 0.002  # of Dice: flips alone take half as long as with quarter turns


def choose_flips(validation, model, epochs, turns=False):
    """Compare the mean Dice of a network alone, over flips, and over flips and quarter turns.

    An average is chosen if it raises the mean Dice over slices by LEAST_GAIN and by more than two standard errors of
    the difference over cases, of which there must be FEWEST_CASES, each at its best threshold. A network that has
    learned from slices in all orientations averages, as nnU-Net does (Isensee et al., doi 10.1038/s41592-020-01008-z),
    unless that lowers the mean Dice by LEAST_GAIN: the epoch was chosen on the same slices, without an average. Takes
    at most a quarter of the time in which the run predicted its validation set, so a short training chooses none.

    Args:
        validation: `common.training.sets.SliceSet`.
        model: keras.Model.
        epochs: number of epochs of the run.
        turns: `common.training.run_folder.Run.turns`.

    Returns:
        dict of the fields of `common.training.run_records.Calibration` that start with `flips`.
    """
    scores = _Scores(validation)
    for i in _evenly(validation.with_foreground.nonzero()[0], min(MOST_SLICES, epochs * len(validation) // COST)):
        x, y = validation.batch([i])
        turned = {form: predict_turned(model, x, *form)[0] for form in TRANSFORMS["turns"]}
        for name, forms in TRANSFORMS.items():
            scores.add(name, np.mean([turned[form] for form in forms], axis=0), y[0, ..., 0], validation.case[i])
    return scores.result(certain=not turns)


def _evenly(indices, count):
    """Up to `count` of the indices, evenly spaced."""
    return indices[np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int)]


class _Scores:
    """Sums of Dice by threshold for each case and each name in TRANSFORMS."""

    def __init__(self, validation):
        self.overlapping = validation.overlapping
        self.exclusive = validation.classes > 1 and not validation.overlapping
        self.sums, self.counts = {name: {} for name in TRANSFORMS}, {}

    def add(self, name, probabilities, truth, case):
        """Add the prediction (H, W, C) of a slice with the mask `truth`, (H, W)."""
        if self.exclusive:
            dice = mean_dice(*without_ignored(class_numbers(probabilities), truth))
        else:
            counts = ~is_ignored(truth)
            dice = dice_by_threshold(probabilities[counts], truth[counts])
        self.sums[name][case] = self.sums[name].get(case, 0) + np.atleast_1d(dice)
        if name == "none":
            self.counts[case] = self.counts.get(case, 0) + 1

    def result(self, certain):
        """Fields of Calibration.

        Args:
            certain: whether it must gain LEAST_GAIN, and more than ERRORS over FEWEST_CASES; otherwise, it may not lose
                LEAST_GAIN.
        """
        if len(self.counts) < (FEWEST_CASES if certain else 1):
            return {}
        items = np.array(list(self.counts.values()))
        sums = {name: np.array(list(of_cases.values())) for name, of_cases in self.sums.items()}
        best = {name: array[:, array.sum(axis=0).argmax()] for name, array in sums.items()}
        dice = {name: column.sum() / items.sum() for name, column in best.items()}
        names = "flips", "turns"
        gains = mean_and_error(np.stack([best[name] - best["none"] for name in names], axis=1), items)
        gains = zip(names, *gains, strict=True)
        least = LEAST_GAIN if certain else -LEAST_GAIN
        wanted = [name for name, gain, error in gains if gain >= least and (not certain or gain > ERRORS * error)]
        wanted = [name for name in wanted if dice[name] >= max(map(dice.get, wanted)) - CLOSE]
        if not wanted:
            return {"flips": "none"}
        name = wanted[0]
        threshold = None if self.exclusive else choose_threshold(sums[name], items)[0]
        facts = {"flips_dice": float(dice[name]), "flips_dice_without": float(dice["none"])}
        return {"flips": name, "flips_threshold": threshold, "flips_slices": int(items.sum())} | facts
