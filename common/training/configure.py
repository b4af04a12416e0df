"""Turn the settings given to train.py into the settings in force, and those into data sets, batches and a model."""

import math
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import keras

import models
from common.errors import InputError, SettingError, as_setting_error
from common.files import file_digest, real_path
from common.settings import check_model_settings
from common.training.checkpoints import epochs_of_checkpoint, read_checkpoint
from common.training.cross_validation import find_folds, fold_file
from common.training.distribution import several_processes
from common.training.h5_models import is_h5, network_of
from common.training.low_memory import save_memory
from common.training.optimizer import Controller, compile_network, learning_rate, make_optimizer, prepare_steps
from common.training.plan import CHOSEN, choose_missing
from common.training.recommended import with_published, with_recommended
from common.training.run_folder import MEASURED, Log, Run
from common.training.sets import open_both
from common.training.trained_models import CrossValidation, load_network, model_file, take_weights
from common.training.trust import trusted_copy
from common.words import number_of
from losses import get_loss
from losses.own import take_copies

GRID = {"spacing", "size"}  # settings of networks whose kernels depend on the volumes
IN_CHECKPOINT = ("MODEL", "MODEL_SETTINGS", "LOSS", "OPTIMIZER", "PRECISION", "JIT")  # a resumed run cannot change them
OF_RUN = (*IN_CHECKPOINT, "FOLD", "AS_PUBLISHED")
OF_THIS_CALL = {"MODE", "RUN", "RUNS", "TRUST_RUN"}  # not taken from the run to resume


def configure(settings):
    """Settings in force: from the run to resume or the fold, completed with the author's recommendations.

    Args:
        settings: `common.settings.Settings` of train.py.

    Returns:
        new Settings, with recommended values instead of None; "auto" stays for `autotune`, and None for
        `configure_sets` if the training set decides.

    Raises:
        SettingError: for a setting that cannot work.
        InputError: if RUN cannot be resumed.
    """
    if settings.MODE == "new" and settings.RUN:
        raise SettingError('RUN: unused (MODE is "new"); use --mode resume or retrain, or leave RUN empty')
    if settings.MODE == "resume":
        settings = of_run(settings)
    elif settings.FOLD is not None:
        settings = of_fold(settings)
    if settings.EPOCHS_FROM and (settings.MODE != "resume" or "EPOCHS_FROM" in settings.given):
        settings = with_epochs_of_folds(settings)
    if settings.VALIDATION == "":
        settings = without_validation(settings)
    if settings.MODE == "retrain":
        settings = of_retrained(settings)
    if settings.MODEL is None and settings.MODEL_SETTINGS:
        settings = settings.replace("MODEL_SETTINGS without MODEL are for the U-net", MODEL="unet")
    if settings.AS_PUBLISHED and settings.MODE != "resume":
        settings = with_published(settings)
    settings = with_recommended(settings)
    check_settings(settings)
    return settings


def configure_sets(settings):
    """Settings in force, and the sets that they are for.

    Args:
        settings: as in `configure`.

    Returns:
        new Settings, with values that suit the training set instead of None (`common.training.plan`), and the
        results of `open_sets`.

    Raises:
        SettingError, InputError: as in `configure`, `open_sets` and `common.training.plan.choose_missing`.
    """
    settings = configure(settings)
    training, validation = open_sets(settings)
    if settings.CLASS_NAMES and len(settings.CLASS_NAMES) != training.classes:
        raise SettingError(
            f"CLASS_NAMES: wrong number of names (found {len(settings.CLASS_NAMES)}, expected {training.classes}); "
            "list every class except the background"
        )
    settings = with_grid(with_chosen(settings, training, validation), training)
    with as_setting_error("LOSS"):
        get_loss(settings.LOSS, training.classes, training.axes, overlapping=training.overlapping)
    return settings, training, validation


def configure_folds(settings):
    """Settings of a cross-validation; what suits the training set is chosen once, for the first fold."""
    if several_processes():  # refused by `cross_validate`
        return settings
    if settings.MODE == "resume":
        folds = CrossValidation(settings.RUN)
        if folds.exists:
            recorded = settings.with_recorded(folds.settings_file)
            require_unchanged(settings, recorded, folds, settings.given - OF_THIS_CALL - {"FOLD"})
        return settings
    if settings.VALIDATION == "":
        raise SettingError('FOLD: "all" needs a validation set (VALIDATION is ""); set VALIDATION, or use one fold')
    first = find_folds(settings.TRAIN)[0]
    fold = configure(settings.replace("the first fold", FOLD=first))
    published = models.published(fold.MODEL) if settings.AS_PUBLISHED else ()
    own = {name: fold.values[name] for name in ("MODEL", "MODEL_SETTINGS", *published)}
    settings = settings.replace("as for the first fold", **own)
    if all(fold.values[name] is not None for name in CHOSEN) and not takes_grid(fold):
        return settings
    sets = open_sets(fold)
    return with_grid(_with_choices(settings, choose_missing(fold, *sets)), sets[0])


def with_chosen(settings, training, validation):
    """Settings with values that suit the training set instead of None; prints them with their reasons."""
    chosen = choose_missing(settings, training, validation)
    if not chosen:
        return settings
    for name, (value, reason) in chosen.items():
        print(f"  {name} = {value!r}: {reason}")
    settings = with_recommended(_with_choices(settings, chosen))
    check_settings(settings)
    return settings


def _with_choices(settings, chosen):
    for name, (value, reason) in chosen.items():
        settings = settings.replace(f"chosen for the training set: {reason}", **{name: value})
    return settings


def takes_grid(settings):
    """Whether MODEL has settings for the spacing or the size of the volumes."""
    with as_setting_error("MODEL"):
        return bool(GRID & set(models.settings_of(settings.MODEL)))


def with_grid(settings, training):
    """Settings with spacing and size of the training volumes, if MODEL has settings for them that are not set."""
    if not takes_grid(settings) or training.axes != 3:
        return settings
    names = models.settings_of(settings.MODEL)
    grid = {name: value for name, value in training.typical_grid(settings.CROP).items() if name in names}
    if not grid.keys() - settings.MODEL_SETTINGS.keys():
        return settings
    print(f"  {settings.MODEL}: {', '.join(f'{name} {value}' for name, value in grid.items())}, as in {settings.TRAIN}")
    return settings.replace("spacing and size of the training volumes", MODEL_SETTINGS=grid | settings.MODEL_SETTINGS)


@contextmanager
def as_named_setting_error():
    """Turn a ValueError whose text starts with the name of a setting into a SettingError."""
    try:
        yield
    except ValueError as error:
        raise SettingError(str(error)) from error


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


def of_fold(settings):
    """Settings with the data sets of a fold."""
    folder, fold = Path(settings.TRAIN).parent, settings.FOLD
    folds = find_folds(settings.TRAIN) if folder.name != f"fold{fold}" else [fold]
    if fold not in folds:
        raise SettingError(
            f'FOLD: no fold {fold} in {folder} (found {", ".join(map(str, folds))}); choose one of these or "all"'
        )
    sets = {name: fold_file(settings.values[name], fold) for name in ("TRAIN", "VALIDATION") if settings.values[name]}
    return settings.replace(f"fold {fold}", **sets)


def is_flag(settings, name):
    """Whether the user set a setting in this command, not in a settings file."""
    return name in settings.given and not settings.is_from_file(name)


def with_epochs_of_folds(settings):
    """Settings with the mean best epoch of the folds of EPOCHS_FROM as EPOCHS."""
    if is_flag(settings, "EPOCHS"):
        raise SettingError("EPOCHS_FROM: cannot be combined with EPOCHS; set only one of them")
    folds = CrossValidation(settings.EPOCHS_FROM)
    if not folds.exists:
        raise InputError(f"EPOCHS_FROM: not a cross-validation ({folds} has no {folds.settings_file.name}); choose one")
    best = [run.best_row()["epoch"] for run in folds.runs()]
    epochs = round(sum(best) / len(best))
    return settings.replace(f"mean best epoch of {number_of(len(best), 'fold')} in {folds}", EPOCHS=epochs)


def without_validation(settings):
    """Settings of a training without a validation set: nothing that watches it."""
    if settings.CONTROLLER:
        raise SettingError('CONTROLLER: needs a validation set (VALIDATION is ""); set it to {}')
    if settings.EARLY_STOP and is_flag(settings, "EARLY_STOP"):
        raise SettingError('EARLY_STOP: needs a validation set (VALIDATION is ""); set it to 0')
    return settings.replace("no validation set", EARLY_STOP=0)


def check_settings(settings):
    """Raise SettingError for settings that contradict each other or that a library does not accept."""
    check_model_settings(settings)
    if settings.LOSS is not None:
        with as_setting_error("LOSS"):
            get_loss(settings.LOSS)
    if settings.OPTIMIZER is not None:
        with as_setting_error("OPTIMIZER"):
            make_optimizer(settings.OPTIMIZER, settings.LEARNING_RATE)
    if settings.MODEL is not None:
        with as_named_setting_error():
            learning_rate_of_epoch(settings, 0, settings.EPOCHS, None)
    if settings.EPOCHS is None and not settings.MAX_MINUTES:
        raise SettingError("EPOCHS: None needs a time limit (MAX_MINUTES is not set either); set one of them")
    if settings.MODE == "retrain":
        model_file(settings.RUN)


def learning_rate_of_epoch(settings, epoch, epochs, log):
    """Learning rate of an epoch, counted from 0, after the epochs in the log (None: no log).

    While the number of epochs is not known (None), it is the rate of an endless schedule: its start, after the warm-up.
    """
    try:
        start, epochs = settings.LEARNING_RATE, epochs or math.inf
        rate = learning_rate(settings.SCHEDULE, epoch, epochs, start, **settings.SCHEDULE_SETTINGS)
        controller = Controller(**settings.CONTROLLER) if settings.CONTROLLER else None
        return rate * log.multiplier(controller) if controller and log else rate
    except TypeError as error:  # a setting that the schedule does not have
        raise ValueError(f"SCHEDULE_SETTINGS or CONTROLLER: {error}") from None


# --- data sets, batches and model


def open_sets(settings):
    """Open the training and validation sets; check them against each other."""
    return open_both(settings.TRAIN, settings.VALIDATION, settings.MEMORY_GB)


def make_batches(settings, training, size, devices=None):
    """Make shuffled and augmented batches of the training set."""
    with as_named_setting_error():
        share = settings.FOREGROUND
        return training.batches(size, settings.SEED, settings.AUGMENTATION, settings.CROP, devices, share)


def build_network(settings, training):
    """Build the model, with new weights and not compiled."""
    with as_setting_error("MODEL_SETTINGS"):
        facts = training.shape, training.classes, training.overlapping
        return models.build_model(settings.MODEL, *facts, **settings.MODEL_SETTINGS)


def set_precision(policy):
    """Use a Keras dtype policy for all models built from here on."""
    with as_setting_error("PRECISION"):
        keras.config.set_dtype_policy(policy)


def make_model(settings, training, validation, used):
    """Build or load the compiled model on the devices in use, after checking that all processes agree.

    Args:
        settings: settings in force.
        training, validation: results of `open_sets`.
        used: `common.training.distribution.Devices`.

    Returns:
        keras.Model, and the `common.training.run_folder.Log` of its epochs so far.

    Raises:
        InputError: if the run to resume or retrain does not fit the settings, or the processes differ.
    """
    with used.scope():
        if used.processes > 1:
            used.require_same(values_to_agree_on(settings, training, validation))
        model = build_network(settings, training)
        if settings.MODE == "resume":
            resumed, log = read_checkpoint(Run(settings.RUN))
            if resumed is not None:
                if resumed.output_shape != model.output_shape:
                    raise InputError(
                        f"{settings.RUN}: its output does not fit {settings.TRAIN} (found {resumed.output_shape}, "
                        f"expected {model.output_shape}); resume with the sets of the run"
                    )
                prepare_steps(resumed)
                return _on_devices(resumed, settings, used), log
        start = settings.as_json() if settings.MODE == "retrain" else {}
        if settings.MODE == "resume":  # before its first epoch ended: a run that retrains begins with the same weights
            start = Run(settings.RUN).settings
        if start.get("MODE") == "retrain":
            source = start.get("RUN", "")
            take_weights(model, load_network(model_file(source)), source)
        ignores = training.ignores or (validation is not None and validation.ignores)
        compile_network(model, settings.OPTIMIZER, settings.LEARNING_RATE, settings.LOSS, settings.JIT, ignores)
        return _on_devices(model, settings, used), Log()


def _on_devices(model, settings, used):
    """The model, changed in place for MEMORY and for several devices."""
    if settings.MEMORY == "low" and not save_memory(model):
        print(
            'MEMORY: "low" changes nothing, since every level of this network has normalization or dropout with state'
        )
    used.prepare(model)
    return model


def values_to_agree_on(settings, training, validation):
    """Values that must be equal in all processes: dict of a name, for the message, to JSON values."""
    checkpoint = Run(settings.RUN).model_file("last")
    is_resumed = settings.MODE == "resume" and checkpoint.is_file()
    own = ("TRAIN", "VALIDATION", "RUNS", "RUN", "MEMORY_GB")  # each machine may have its own
    return {
        "settings": {name: value for name, value in settings.as_json().items() if name not in own},
        "TRAIN": training.item_keys(),
        "VALIDATION": validation and validation.item_keys(),
        "checkpoint of RUN": file_digest(checkpoint) if is_resumed else None,
    }
