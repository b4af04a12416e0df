"""Checkpoints of a run: save the model with its log after each epoch, and read both to resume."""

import json
import os
import shutil
import zipfile
from functools import partial

from common.errors import InputError
from common.files import whole_file
from common.system_errors import raise_system_error, why_unreadable
from common.training.keras_files import require_safe
from common.training.training_log import MONITORED, Log
from common.training.trust import trusted_copy
from common.words import number_of

STATE_IN_CHECKPOINT = "run_state.json"  # inside last.keras, so that a checkpoint is one file, complete or missing


def save_checkpoint(model, log, run, best, epochs):
    """Save a model with its optimizer; if the last epoch is the best, also as best_dice or best_iou, or `best` instead.

    Without validation, `best` becomes averaged.keras if it is another model.
    last.keras appears last, with the number of epochs in the run (None: not known yet). Until then, a resumed run
    starts from the previous epoch and rewrites the others.
    """
    with whole_file(run.model_file("last")) as unfinished:
        model.save(unfinished)
        with zipfile.ZipFile(unfinished, "a") as archive:
            archive.writestr(STATE_IN_CHECKPOINT, json.dumps({"epoch": len(log), "epochs": epochs}))
        for metric in MONITORED:
            if log.is_best(metric):
                with whole_file(run.model_file(f"best_{metric}")) as copy:
                    shutil.copyfile(unfinished, copy) if best is model else best.save(copy)
        if best is not model and not log.has_validation:
            with whole_file(run.averaged_file) as copy:
                best.save(copy)
        log.write(run.log_file)


def epochs_of_checkpoint(run):
    """Number of epochs in a run, as its checkpoint records it if it was measured; None if unknown."""
    if not run.model_file("last").is_file():
        return None
    try:
        with zipfile.ZipFile(run.model_file("last")) as archive:
            epochs = json.loads(archive.read(STATE_IN_CHECKPOINT)).get("epochs")
    except (OSError, KeyError, ValueError, AttributeError, zipfile.BadZipFile):  # `read_checkpoint` says what is wrong
        return None
    return epochs if isinstance(epochs, int) and epochs > 0 else None


def read_checkpoint(run):
    """Read the model and log of a run to resume.

    Returns:
        (keras.Model, Log); (None, empty Log) if the run stopped before its first epoch ended.

    Raises:
        InputError: if the checkpoint or log is damaged, they do not fit, or the loss is code that is not trusted.
    """
    path = run.model_file("last")
    if not os.path.lexists(path):
        return None, Log()
    if not path.is_file():
        raise InputError(f"{path}: {why_unreadable(path)}; restore it from a copy, or start a new run")
    import keras  # takes seconds, and other readers of a run folder do not need it

    import losses.own  # registers the loss and metrics that a checkpoint contains

    try:
        with zipfile.ZipFile(path) as archive:
            epoch = json.loads(archive.read(STATE_IN_CHECKPOINT))["epoch"]
        log = Log.read(run.log_file, epoch)
        if [row["epoch"] for row in log.rows] != list(range(1, epoch + 1)):
            raise InputError(
                f"{run.log_file}: does not fit {path.name} (expected epochs 1 to {epoch}, found "
                f"{number_of(len(log), 'row')}); restore it from a copy, or start a new run"
            )
        if missing := log.missing_columns(run.has_validation):
            raise InputError(f"{run.log_file}: no column {missing[0]}; restore it from a copy, or start a new run")
        require_safe(path)
        with losses.own.copies(partial(trusted_copy, run.code_folder, setting="LOSS")):
            return keras.saving.load_model(path, safe_mode=True), log
    except InputError:
        raise
    except Exception as error:  # Keras, HDF5 or a layer can raise anything
        raise_system_error(error, path)
        raise InputError(f"{path}: damaged ({_first_line(error)}); start a new run") from error


def _first_line(error):
    return next(filter(None, str(error).splitlines()), type(error).__name__)
