"""Turn the settings given to train.py into the settings in force, and those into data sets, batches and a model."""

import math
from contextlib import contextmanager
from pathlib import Path

import keras

import models
from common.errors import InputError, SettingError, as_setting_error
from common.files import file_digest
from common.settings import check_model_settings
from common.training.checkpoints import read_checkpoint
from common.training.cross_validation import find_folds, fold_file
from common.training.distribution import several_processes
from common.training.earlier_runs import of_retrained, of_run, require_folds_unchanged, with_epochs_of_folds
from common.training.low_memory import save_memory
from common.training.optimizer import Controller, compile_network, learning_rate, make_optimizer, prepare_steps
from common.training.plan import CHOSEN, choose_missing
from common.training.recommended import with_published, with_recommended
from common.training.run_folder import Run
from common.training.sets import open_both
from common.training.trained_models import load_network, model_file, take_weights
from common.training.training_log import Log
from losses import get_loss

GRID = {"spacing", "size"}  # settings of networks whose kernels depend on the volumes


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
        require_folds_unchanged(settings)
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


def without_validation(settings):
    """Settings of a training without a validation set: nothing that watches it."""
    if settings.CONTROLLER:
        raise SettingError('CONTROLLER: needs a validation set (VALIDATION is ""); set it to {}')
    if settings.EARLY_STOP and settings.is_flag("EARLY_STOP"):
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
