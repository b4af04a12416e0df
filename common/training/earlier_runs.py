"""Settings of train.py from earlier runs: the one to resume or to retrain, or the folds that say how many epochs."""

from functools import partial
from pathlib import Path

import models
from common.errors import InputError, SettingError
from common.files import real_path
from common.training.checkpoints import epochs_of_checkpoint
from common.training.h5_models import is_h5, network_of
from common.training.run_folder import MEASURED, Run
from common.training.trained_models import CrossValidation, model_file
from common.training.trust import trusted_copy
from common.words import number_of
from losses.own import take_copies

IN_CHECKPOINT = ("MODEL", "MODEL_SETTINGS", "LOSS", "OPTIMIZER", "PRECISION", "JIT")  # a resumed run cannot change them
OF_RUN = (*IN_CHECKPOINT, "FOLD", "AS_PUBLISHED")
OF_THIS_CALL = {"MODE", "RUN", "RUNS", "TRUST_RUN"}  # not taken from the run to resume


def of_run(settings):
    """Settings of the run to resume; given settings, MODE, RUN and RUNS stay."""
    run = Run(settings.RUN)
    if not settings.RUN or not run.exists:
        if settings.RUN and CrossValidation(settings.RUN).exists:
            raise InputError(
                f"RUN: {settings.RUN} is a cross-validation; pass --fold all to resume it, or --run a fold"
            )
        problem = "is not a run folder (it has no settings.json)" if run.folder.exists() else "does not exist"
        problem = f"{settings.RUN} {problem}" if settings.RUN else "not set"
        raise InputError(f"RUN: {problem}; pass --run the run folder to resume")
    recorded = settings.with_recorded(run.settings_file)
    if missing := [name for name in ("LOSS", "MODEL") if recorded.values[name] is None]:
        raise InputError(f"{run.settings_file}: no {missing[0]}, which every run records; restore it from a copy")
    require_unchanged(settings, recorded, run, OF_RUN)
    settings = settings.with_recorded(run.settings_file, keep=settings.given | OF_THIS_CALL)
    if settings.EPOCHS is None and "EPOCHS" not in settings.given and (epochs := epochs_of_checkpoint(run)):
        settings = settings.replace(MEASURED, EPOCHS=epochs)
    copies = {}
    for name in ("LOSS", "MODEL"):  # also if another one is given: its checkpoint needs them
        find = partial(trusted_copy, run.code_folder, setting=name)
        copies[name] = take_copies(recorded.values[name], find)
    own = {name: copy for name, copy in copies.items() if copy != settings.values[name] and name not in settings.given}
    return settings.replace(f"copy in {run.code_folder}", **own)


def require_unchanged(settings, recorded, run, names):
    """Raise SettingError if one of these settings is given for a run to resume and has another value there."""
    if "RUNS" in settings.given and real_path(settings.RUNS) != real_path(run.folder.parent):
        raise SettingError(f"RUNS: a resumed run stays in its folder ({run.folder.parent}); leave it out")
    for name in sorted(settings.given.intersection(names)):
        given, own = settings.values[name], recorded.values[name]
        files = ".py" in str(given) and ".py" in str(own)  # `trusted_copy` compares their content
        if not files and not _agrees(given, own):
            raise SettingError(
                f"{name}: cannot change in a resumed run (found {given!r}, expected {own!r} as in {run})"
            )


def _agrees(given, own):
    """Whether a given value leaves the decision to the run (None, "auto"), or is part of its value."""
    if isinstance(given, dict):
        own = own if isinstance(own, dict) else {"name": own}
        return all(key in own and own[key] == value for key, value in given.items())
    if isinstance(own, dict):
        own = own.get("name")
    return given in (None, "auto", own)


def require_folds_unchanged(settings):
    """Raise SettingError if a setting of the cross-validation to resume is given and has another value there."""
    folds = CrossValidation(settings.RUN)
    if folds.exists:  # otherwise `cross_validate` says what is wrong
        recorded = settings.with_recorded(folds.settings_file)
        require_unchanged(settings, recorded, folds, settings.given - OF_THIS_CALL - {"FOLD"})


def of_retrained(settings):
    """Settings with the network of the run to start from, and with its settings unless the user set any."""
    file = model_file(settings.RUN)
    if is_h5(file) and settings.MODEL is None:
        name, own = network_of(file)
        return settings.replace(f"its weights are in {file}", MODEL=name, MODEL_SETTINGS=own)
    run = Run(file.parent)
    if Path(settings.RUN).is_dir() and Path(settings.RUN) != run.folder:
        settings = settings.replace(f"the newest run in {settings.RUN}", RUN=str(run))
    name = run.settings.get("MODEL")
    if not name or settings.MODEL not in (None, name):
        return settings
    if settings.MODEL is None and name not in models.NETWORKS:
        raise SettingError(f"MODEL: not set, and {run} has a network of its own ({name}); pass your file as --model")
    own = {"MODEL": name}
    if not settings.MODEL_SETTINGS and "MODEL_SETTINGS" not in settings.given:
        own["MODEL_SETTINGS"] = run.settings.get("MODEL_SETTINGS") or {}
    return settings.replace(f"recorded in {run}", **own)


def with_epochs_of_folds(settings):
    """Settings with the mean best epoch of the folds of EPOCHS_FROM as EPOCHS."""
    if settings.is_flag("EPOCHS"):
        raise SettingError("EPOCHS_FROM: cannot be combined with EPOCHS; set only one of them")
    folds = CrossValidation(settings.EPOCHS_FROM)
    if not folds.exists:
        raise InputError(f"EPOCHS_FROM: not a cross-validation ({folds} has no {folds.settings_file.name}); choose one")
    best = [run.best_row()["epoch"] for run in folds.runs()]
    epochs = round(sum(best) / len(best))
    return settings.replace(f"mean best epoch of {number_of(len(best), 'fold')} in {folds}", EPOCHS=epochs)
