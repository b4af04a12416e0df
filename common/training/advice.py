"""Advice on a run in sentences, each from a rule on its epochs or its sets; the rules are in docs/advice.md.

A rule returns the sentence, or None if it does not apply.
"""

import math
from collections import defaultdict
from statistics import fmean

import numpy as np

from common.slices.classes import classes_in
from common.slices.images import to_gray
from common.slices.shifts import Alignment, edges_under_outline, in_words
from common.training.progress import class_columns
from common.words import number_of

ZERO_EPOCHS = 5  # epochs with a validation Dice of 0
OVERFIT = 0.85, 0.25  # training Dice, and its lead over validation
OVERFIT_EPOCHS = 3  # epochs over which both are averaged
NEVER_EPOCHS = 5  # epochs in which a class is not predicted while another one is
RISE = 1.2  # times the lowest training loss, in the last epochs
RISE_EPOCHS = 3
FEW_CASES = 5  # cases for validation
MOST_MASKS = 2000  # masks to look at
MOST_SHIFTED = 200  # slices in which edges are compared with outlines


def of_log(log, ended=False, names=()):
    """Advice from the epochs so far.

    Args:
        log: `common.training.run_folder.Log`.
        ended: whether training has ended as planned, not by EARLY_STOP.
        names: names of the classes, if there are several.

    Returns:
        dict of the name of a rule to its sentence.
    """
    rows = log.rows
    if not rows:
        return {}
    found = {
        "nothing predicted": nothing_predicted(rows) if log.has_validation else None,
        "overfitting": overfitting(rows) if log.has_validation else None,
        "class never predicted": class_never_predicted(rows, names),
        "learning rate": learning_rate_too_high(rows),
        "too short": too_short(log) if ended and log.has_validation else None,
    }
    return {rule: sentence for rule, sentence in found.items() if sentence}


def of_sets(training, validation, names=()):
    """Advice from the sets, before training; arguments are the results of `common.training.sets.open_both`."""
    found = {
        "few validation cases": few_validation_cases(validation) if validation else None,
        "class in one case": class_in_one_case(training, names),
        "shifted masks": shifted_masks(training),
    }
    return {rule: sentence for rule, sentence in found.items() if sentence}


# --- epochs


def nothing_predicted(rows):
    if len(rows) < ZERO_EPOCHS or any(row["val_dice"] > 0 for row in rows[-ZERO_EPOCHS:]):
        return None
    soft = rows[-1].get("val_soft_dice", 0)
    hint = (
        f"its probabilities are on the way (soft Dice {soft:.2f}), so train longer"
        if soft > max(row.get("val_soft_dice", 0) for row in rows[:-1]) and soft > 0.1
        else "try pretrained_unet, FOREGROUND = 0.33, or bce+batch_dice as LOSS; look at augmented_slices.png"
    )
    return f"validation Dice has been 0 for {ZERO_EPOCHS} epochs: no predicted pixel is right; {hint}"


def overfitting(rows):
    last = rows[-OVERFIT_EPOCHS:]
    training, validation = (fmean(row[name] for row in last) for name in ("dice", "val_dice"))
    if len(last) < OVERFIT_EPOCHS or not (training >= OVERFIT[0] and training - validation >= OVERFIT[1]):
        return None
    return (
        f"training Dice is {training:.2f} and validation Dice {validation:.2f}: the network learns these slices by "
        'heart; add cases, use AUGMENTATION = "medical", or pretrained_unet'
    )


def class_never_predicted(rows, names=()):
    columns = class_columns(rows[-1], names)
    last = rows[-NEVER_EPOCHS:]
    if len(last) < NEVER_EPOCHS or not columns:
        return None
    best = {column: max(row.get(column, math.nan) for row in last) for column in columns}
    never = [columns[column] for column, score in best.items() if score == 0]
    if not never or len(never) == len(columns):  # "nothing predicted" says the latter
        return None
    return (
        f"{', '.join(never)} not predicted in {NEVER_EPOCHS} epochs, while other classes are: is it rare or small? "
        'Use a LOSS with "batch_dice", larger slices, or more cases that contain it'
    )


def learning_rate_too_high(rows):
    lowest = min(row["loss"] for row in rows)
    last = rows[-RISE_EPOCHS:]
    limit = lowest + (RISE - 1) * abs(lowest)
    if len(rows) <= RISE_EPOCHS or not all(row["loss"] > limit for row in last):
        return None
    if last[0]["learning_rate"] > 1.5 * rows[-RISE_EPOCHS - 1]["learning_rate"]:  # a restart of the schedule
        return None
    return (
        f"the training loss was {lowest:.3f} and has been above {limit:.3f} for {RISE_EPOCHS} epochs: the learning "
        f"rate is too high; try LEARNING_RATE = {rows[-1]['learning_rate'] / 5:.1g}"
    )


def too_short(log):
    _, epoch = log.best("dice")
    if epoch != len(log) or epoch < 2:
        return None
    return f"the best epoch is the last one ({epoch}): train longer, with more EPOCHS or MAX_MINUTES"


# --- sets


def few_validation_cases(validation):
    cases = set(validation.case if validation.axes == 2 else validation.names) - {""}
    if not 0 < len(cases) < FEW_CASES:
        return None
    return (
        f"the validation set has {number_of(len(cases), 'case')}: its Dice can be luck; "
        'use a cross-validation (FOLDS in 2_write_lists.py, FOLD = "all")'
    )


def class_in_one_case(training, names=()):
    if training.classes < 2 or training.axes == 3:  # labels of volumes are read part by part
        return None
    cases = cases_of_classes(training)
    only = [number for number in range(1, training.classes + 1) if len(cases[number]) == 1]
    if not only or len(set().union(*cases.values())) == 1:
        return None
    words = [f"{names[k - 1] if k <= len(names) else f'class {k}'} (in {next(iter(cases[k]))})" for k in only]
    return f"only one case for training contains {', '.join(words)}: the network may learn that case; add others"


def shifted_masks(training):
    if training.axes == 3 or training.shape[0] != training.shape[1]:
        return None
    alignment = Alignment()
    for i in _some(training, MOST_SHIFTED):
        image = to_gray(training.to_draw(training.x[i]))
        alignment.add(training.case[i], edges_under_outline(image, training.y[i][..., 0]))
    found = alignment.finish()
    if found is None:
        return None
    down, right, stronger = found
    return (
        f"masks look shifted: edges are {stronger:.1f} times as strong if all masks move {in_words(down, right)}; look "
        "at augmented_slices.png and data_check.png"
    )


def _some(training, most):
    """Up to `most` evenly spaced numbers of slices."""
    return np.unique(np.linspace(0, len(training) - 1, most).astype(int)).tolist()


def cases_of_classes(training):
    """Cases that contain each class: dict of class number to a set of names."""
    cases = defaultdict(set)
    for i in _some(training, MOST_MASKS):
        numbers = training.batch([i])[1]
        for number in classes_in(numbers):
            cases[number].add(training.case[i])
    return cases
