"""Calibration of a run without a validation set: what was chosen for the run or the folds that it comes from."""

from pathlib import Path

import numpy as np

from common.errors import InputError
from common.files import file_digest, real_path
from common.training.h5_models import is_h5
from common.training.run_folder import Run
from common.training.trained_models import CrossValidation, model_file


def calibration_before(run):
    """Calibration for a run without a validation set: the one of the run or the folds that its settings came from.

    Threshold and temperature of folds are the mean of theirs, geometric for the temperature; flips count if all folds
    chose the same.

    Args:
        run: `common.training.run_folder.Run` that has ended.

    Returns:
        `common.training.run_records.Calibration` of its final model; None if there is none to take, or the model has
        other classes. What is damaged or missing there by now is printed, since the training itself has ended well.
    """
    try:
        return _calibration_before(run)
    except InputError as error:
        print(f"note: no threshold of an earlier run ({error})", flush=True)
        return None


def _calibration_before(run):
    settings, folds = run.settings, None
    if settings.get("EPOCHS_FROM"):
        folds = CrossValidation(settings["EPOCHS_FROM"])
        files = [model_file(one) for one in folds.runs()] if folds.exists else []
    elif settings.get("MODE") == "retrain" and Path(settings["RUN"]).exists():
        files = [model_file(settings["RUN"])]
    else:
        files = []
    found = [Run(file.parent).calibration_of(file) for file in files if not is_h5(file)]
    if not found or None in found or any(Run(file.parent).data.classes != run.data.classes for file in files):
        return None
    source = real_path((folds or Run(files[0].parent)).folder).name
    return mean_calibration(found).model_copy(update={"model": file_digest(run.final_file), "source": source})


def mean_calibration(found):
    """Calibration for one network in place of several: mean threshold, geometric mean of the temperatures.

    Args:
        found: list of `common.training.run_records.Calibration`.

    Returns:
        Calibration; with the scores and curves of the first. Flips count if all are the same.
    """
    first, flips = found[0], {one.flips for one in found}
    means = {
        name: round(float(np.mean([getattr(one, name) for one in found])), 2)
        for name in ("threshold", "flips_threshold")
        if all(getattr(one, name) is not None for one in found)
    }
    means["temperature"] = float(np.exp(np.mean(np.log([one.temperature for one in found]))))
    means["flips"] = flips.pop() if len(flips) == 1 else "none"
    return first.model_copy(update=means)
