"""Choose the precision of a prediction: bfloat16 where the CPU computes it and the masks stay the same.

bfloat16 has the range of float32 and 8 bits of precision. CPUs with AVX512_BF16 or AMX multiply it faster. Products are
summed in float32. The last convolution and the output stay in float32, so probabilities are not rounded.
"""

import time
from functools import partial

import numpy as np

from common.devices import has_bfloat16, is_tensorflow_on_cpu
from common.prediction.ensemble import TRANSFORMS, average_over, predict_images
from common.slices.classes import class_numbers

HALF = "mixed_bfloat16"
LEAST_SECONDS = 30  # of the prediction in float32; a shorter one is not worth a trial
GREATEST_SHARE = 0.8  # of the time in float32, that bfloat16 may take
LEAST_DICE = 0.999  # between the masks of both
GREATEST_DIFFERENCE = 0.02  # of any probability, if both masks are empty


def precision_without_trial(setting):
    """Precision for `load_for_prediction` by PRECISION of predict.py, for which "auto" is float32 on a CPU.

    bfloat16 on a CPU without it is slow. On other devices and backends, "auto" is None: as each model was trained.
    """
    if setting != "auto":
        return setting
    return "float32" if is_tensorflow_on_cpu() else None


def choose_precision(setting, ensemble, image, count, threshold, flips, **options):
    """Choose the precision of an ensemble, from the prediction of one image in both.

    Args:
        setting: PRECISION in predict.py: "auto", "float32" or "mixed_bfloat16".
        ensemble: `common.prediction.ensemble.Ensemble`; predicts in the chosen precision afterwards.
        image: function that returns an image to predict in the trial, (H, W) or (H, W, C) uint8 or uint16.
        count: number of images to predict.
        threshold: probability above which a pixel is foreground.
        flips, options: as for `common.prediction.ensemble.predict_images`.

    Returns:
        The precision, "auto" if each network predicts as it was trained, and the reason as text for the user, or "" if
        there was nothing to choose.
    """
    ensemble.precision = precision_without_trial(setting)
    if not can_try(setting):
        return ensemble.precision or setting, ""
    image, options = image(), options | {"size": ensemble.size}
    seconds, expected = _predict(ensemble, image, options)
    if seconds * count * len(ensemble.files) * len(TRANSFORMS[flips]) < LEAST_SECONDS:
        return ensemble.precision, ""
    ensemble.precision = HALF
    half, found = _predict(ensemble, image, options)
    masks = [class_numbers(p, threshold, ensemble.overlapping) for p in (expected, found)]
    ensemble.precision, reason = decide((seconds, half), masks, (expected, found), "one image")
    return ensemble.precision, reason


def can_try(setting):
    """Whether PRECISION leaves the choice to a trial, and the CPU computes bfloat16."""
    return setting == "auto" and is_tensorflow_on_cpu() and has_bfloat16()


def decide(seconds, masks, probabilities, where):
    """Precision by predictions in float32 and in bfloat16, and the reason as text.

    Args:
        seconds: what each took.
        masks: arrays of class numbers or sets.
        probabilities: arrays of the same prediction.
        where: what was predicted, for the text.
    """
    share = seconds[1] / seconds[0]
    if share > GREATEST_SHARE:
        return "float32", f"float32: bfloat16 takes {share:.2g} times as long as float32"
    if difference := _difference(*masks, *probabilities):
        return "float32", f"float32: bfloat16 changes the result too much ({difference} on {where})"
    return HALF, f"{HALF}: bfloat16 takes {share:.2g} times as long as float32"


def _predict(ensemble, image, options):
    """Seconds for an image by the first network, compiled before, and its probabilities."""
    average = partial(map, partial(average_over, ensemble.load(0)))
    for _ in range(2):
        started = time.perf_counter()
        ((_, probabilities),) = predict_images([image], average, **options)
        seconds = time.perf_counter() - started
    return seconds, probabilities


def _difference(ours, theirs, found, expected):
    """How two predictions differ, as text, or "" if little enough."""
    if not (ours.any() or theirs.any()):
        largest = float(np.abs(found - expected).max())
        return f"a probability by {largest:.2g}" if largest > GREATEST_DIFFERENCE else ""
    dice = 2 * np.count_nonzero((ours == theirs) & (ours != 0)) / (np.count_nonzero(ours) + np.count_nonzero(theirs))
    return "" if dice >= LEAST_DICE else f"Dice {dice:.4f}"
