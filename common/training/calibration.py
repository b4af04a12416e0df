"""Calibrate a trained model on its validation set: threshold, temperature, and how reliable its probabilities are.

The temperature T minimizes the negative log likelihood of the probabilities after logits are divided by T (Guo et al.,
arXiv 1706.04599). The threshold is the one closest to 0.5 that is not clearly worse than the best one; see
`choose_threshold`.
"""

import numpy as np
import scipy  # loads scipy.optimize at first use, so that importers start faster

from common.files import file_digest
from common.slices.classes import are_sets, classes_in, has_class, is_ignored
from common.training.run_folder import Run
from common.training.run_records import Calibration
from common.words import number_of

DEFAULT = 0.5  # threshold of a model without calibration
THRESHOLDS = (np.arange(1, 100) / 100).astype(np.float32)  # to choose from
TEMPERATURES = 0.2, 10.0  # limits; a set without errors would lead to 0
SAMPLE = 2**18  # values that temperature and reliability are computed from, in equal shares of all slices
BINS = 15  # of the reliability curve
SMALLEST = 1e-7  # probabilities in float32 are not known more closely near 1


class Calibrator:
    """Collects predictions of a validation set, one slice or volume at a time.

    Memory does not depend on the number of slices of a case: it keeps up to SAMPLE values, and 100 numbers per case
    (per slice, if all are from one case).

    Args:
        dataset: `common.training.sets.TrainingSet`.
    """

    def __init__(self, dataset):
        # a softmax with the background first
        self.exclusive = dataset.axes == 2 and dataset.classes > 1 and not dataset.overlapping
        self.share = max(1, SAMPLE // (len(dataset) * dataset.classes))
        self.rng = np.random.default_rng(0)
        self.by_case = len(set(dataset.case if dataset.axes == 2 else dataset.names)) > 1
        self.dice, self.items = {}, {}  # sums of Dice by threshold, and number of slices, for each case
        self.probabilities, self.truth = [], []

    def add(self, probabilities, truth, case):
        """Add a prediction.

        Args:
            probabilities: (..., C) float32, as a network returns them.
            truth: (...) mask of the same slice or volume.
            case: name of its case.
        """
        channels = probabilities.shape[-1]
        probabilities = np.nan_to_num(np.asarray(probabilities, np.float32), nan=0.0)
        if (ignored := is_ignored(truth)).any():
            probabilities, truth = probabilities[~ignored], truth[~ignored]
        if truth.any() and not self.exclusive:
            key = case if self.by_case else len(self.dice)
            self.dice[key] = self.dice.get(key, 0) + dice_by_threshold(probabilities, truth)
            self.items[key] = self.items.get(key, 0) + 1
        probabilities, truth = probabilities.reshape(-1, channels), truth.reshape(-1)
        if len(truth) > self.share:
            chosen = self.rng.choice(len(truth), self.share, replace=False)
            probabilities, truth = probabilities[chosen], truth[chosen]
        self.probabilities.append(probabilities)
        self.truth.append(truth)

    def result(self, model):
        """Calibrate.

        Args:
            model: Path of the .keras file that predicted.

        Returns:
            `common.training.run_records.Calibration`.
        """
        logarithms, classes = log_probabilities(
            np.concatenate(self.probabilities), np.concatenate(self.truth), self.exclusive
        )
        temperature = find_temperature(logarithms, classes)
        curves = [reliability(scaled(logarithms, t), classes) for t in (1, temperature)]
        facts = {"threshold": None, "dice": None, "dice_at_half": None}
        if self.dice:
            dice, items = np.array(list(self.dice.values())), np.array(list(self.items.values()))
            facts["threshold"], facts["dice"], facts["dice_at_half"] = choose_threshold(dice, items)
            facts["dice_by_threshold"] = (dice.sum(axis=0) / items.sum()).tolist()
        return Calibration(
            model=file_digest(model),
            temperature=temperature,
            ece=calibration_error(curves[0]),
            scaled_ece=calibration_error(curves[1]),
            reliability=curves[0],
            scaled_reliability=curves[1],
            **facts,
        )


# --- threshold


def dice_by_threshold(probabilities, truth):
    """Dice of a prediction at each of THRESHOLDS, mean over the classes in the true mask.

    Labels of volumes exclude each other: a voxel belongs to its most probable label if the sum over the labels is above
    the threshold. Of overlapping classes, a pixel belongs to each whose probability is above it.

    Args:
        probabilities: (..., K) float32, without a channel for the background.
        truth: (...) labels or sets of overlapping classes, not all 0.

    Returns:
        (len(THRESHOLDS),) float64.
    """
    overlapping, classes = are_sets(truth), classes_in(truth)
    # how many thresholds an element is above; of exclusive labels, only the most probable one can be
    if overlapping:
        passed = {number: np.searchsorted(THRESHOLDS, probabilities[..., number - 1]) for number in classes}
    else:
        above, numbers = np.searchsorted(THRESHOLDS, probabilities.sum(-1)), probabilities.argmax(-1) + 1
        passed = {number: np.where(numbers == number, above, 0) for number in classes}
    scores = []
    for number in classes:
        true = has_class(truth, number)
        predicted, both = _count_above(passed[number]), _count_above(passed[number][true])
        scores.append(2 * both / (predicted + true.sum()))
    return np.mean(scores, axis=0)


def _count_above(passed):
    """Number of elements above each of THRESHOLDS, by how many of them each is above."""
    counts = np.bincount(passed.ravel(), minlength=len(THRESHOLDS) + 1)
    return counts[::-1].cumsum()[::-1][1:]


def choose_threshold(dice, items, thresholds=THRESHOLDS):
    """Choose the threshold closest to 0.5 whose mean Dice is at most one standard error below the best one.

    The standard error is the one of their difference, over cases (the one-standard-error rule of Breiman et al.,
    Classification and Regression Trees, 1984, for paired scores). So few cases, or cases that disagree, keep 0.5.

    Args:
        dice: (N, T) sums of Dice over the slices of each case.
        items: (N,) number of slices of each case; the mean is over slices. Pass ones for a mean over cases.
        thresholds: (T,) in steps, symmetric about 0.5.

    Returns:
        The threshold, and the mean Dice at it and at 0.5.
    """
    mean = dice.sum(axis=0) / items.sum()
    best = mean.argmax()
    below_best, error = mean_and_error(dice[:, [best]] - dice, items)
    distance = np.abs(np.arange(len(mean)) - (len(mean) - 1) / 2)
    chosen = np.where(below_best <= error, distance, np.inf).argmin()
    return round(float(thresholds[chosen]), 2), float(mean[chosen]), float(mean[len(mean) // 2])


def mean_and_error(differences, items):
    """Mean difference over slices, and its standard error over cases.

    Args:
        differences: (N, T) sums of differences over the slices of each case.
        items: (N,) number of slices of each case.

    Returns:
        Two arrays, (T,); the error of a single case is infinite.
    """
    count, mean = len(items), differences.sum(axis=0) / items.sum()
    if count < 2:
        return mean, np.full(len(mean), np.inf)
    rest = differences - items[:, None] * mean
    return mean, np.sqrt(count / (count - 1) * (rest**2).sum(axis=0)) / items.sum()


# --- temperature and reliability


def log_probabilities(probabilities, truth, exclusive):
    """Logarithms of probabilities, with the background.

    Args:
        probabilities: (N, C) in 0..1.
        truth: (N,) mask values.
        exclusive: whether the channels are exclusive, with the background first; otherwise each is a class by itself.

    Returns:
        (M, C) float64 and (M,) class numbers; two classes, background and foreground, if not exclusive.
    """
    if not exclusive:
        numbers = range(1, probabilities.shape[1] + 1)
        truth = np.stack([has_class(truth, number) for number in numbers], axis=1).reshape(-1).astype(int)
        probabilities = np.stack([1 - probabilities.reshape(-1), probabilities.reshape(-1)], axis=1)
    return np.log(np.maximum(probabilities, SMALLEST).astype(np.float64)), truth


def scaled(logarithms, temperature):
    """Probabilities (M, C) from their logarithms, after logits are divided by a temperature."""
    return scipy.special.softmax(logarithms / temperature, axis=1)


def log_likelihood(logarithms, classes, temperature):
    """Mean logarithm of the probability of the true class, after logits are divided by a temperature."""
    logarithms = logarithms / temperature
    largest = logarithms.max(axis=1)
    total = largest + np.log(np.exp(logarithms - largest[:, None]).sum(axis=1))
    return float(np.mean(logarithms[np.arange(len(classes)), classes] - total))


def find_temperature(logarithms, classes):
    """Temperature within TEMPERATURES of the largest likelihood; arguments as returned by `log_probabilities`."""
    found = scipy.optimize.minimize_scalar(
        lambda logarithm: -log_likelihood(logarithms, classes, np.exp(logarithm)),
        bounds=np.log(TEMPERATURES),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(np.exp(found.x))


def reliability(probabilities, classes):
    """Reliability curve of the foreground classes, all together.

    Args:
        probabilities: (M, C), the background first.
        classes: (M,) class numbers.

    Returns:
        list of [count, mean probability, share that is true], for each of BINS equal bins of probability with a count.
    """
    is_true = (classes[:, None] == np.arange(1, probabilities.shape[1])).reshape(-1)
    probabilities = probabilities[:, 1:].reshape(-1)
    numbers = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    counts = np.bincount(numbers, minlength=BINS)
    sums = [np.bincount(numbers, values, BINS) for values in (probabilities, is_true)]
    rows = zip(counts.tolist(), *(np.divide(s, counts, where=counts > 0, out=s).tolist() for s in sums), strict=True)
    return [[float(value) for value in row] for row in rows if row[0]]


def calibration_error(curve):
    """Expected calibration error (ECE) of a reliability curve: mean distance from the diagonal, 0..1."""
    counts, mean, share = np.array(curve).T
    return float(np.sum(counts * np.abs(mean - share)) / counts.sum())


# --- use


def with_threshold(settings, files, chosen=None, flips="none"):
    """Settings of predict.py with the threshold in force, and its reason, if THRESHOLD is None.

    Args:
        settings: `common.settings.Settings`.
        files: list of Path of the .keras files whose probabilities are averaged.
        chosen: threshold of a `common.training.trained_models.Choice`, or None.
        flips: what they are averaged over, a name in `common.prediction.ensemble.TRANSFORMS`.
    """
    if settings.THRESHOLD is not None:
        return settings
    found = threshold_of(files, flips)
    threshold, reason = found if chosen is None else (chosen, "chosen out of fold by choose.py")
    return settings.replace(reason, THRESHOLD=threshold)


def threshold_in_words(settings):
    """The threshold in force and its reason as text; arguments as returned by `with_threshold`."""
    return f"threshold {settings.THRESHOLD:g} ({settings.reasons.get('THRESHOLD', 'constant in predict.py')})"


def flips_of(files):
    """What to average models over: what train.py chose for all of them, or "none" if it chose differently.

    Args:
        files: list of Path of .keras files.

    Returns:
        Name in `common.prediction.ensemble.TRANSFORMS`.
    """
    found = {one.flips if one else "none" for one in (Run(file.parent).calibration_of(file) for file in files)}
    return found.pop() if len(found) == 1 else "none"


def threshold_of(files, flips="none"):
    """Threshold for models whose probabilities are averaged: the mean of theirs.

    Args:
        files: list of Path of .keras files.
        flips: as for `with_threshold`.

    Returns:
        The threshold, and the reason, as text.
    """
    found = [Run(file.parent).calibration_of(file) for file in files]
    if not any(found):
        return DEFAULT, "no threshold was chosen for this model" if len(files) == 1 else "none was chosen for any model"
    of_flips = [one and one.flips != "none" and one.flips == flips for one in found]
    own = [one and (one.flips_threshold if of else one.threshold) for one, of in zip(found, of_flips, strict=True)]
    thresholds = [threshold or DEFAULT for threshold in own]
    if len(files) == 1:
        where = f"for {found[0].source}" if found[0].source else "on the validation set"
        return thresholds[0], f"chosen by train.py {where}"
    return round(
        float(np.mean(thresholds)), 2
    ), f"mean over {number_of(len(files), 'model')}, each chosen on its validation set"
