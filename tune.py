"""Search for good settings: many short trainings, each a run of train.py.

Reads   TRAIN and VALIDATION, as train.py does
Writes  STUDY/runs/trial-000/<date-time>_<model>/ and so on, and STUDY/study.db (Optuna's
        database); at the end STUDY/best_settings.json for train.py --settings, trials.csv, and
        importance.png (which settings mattered)
Takes   up to TRIALS times as long as one training; watch it with tensorboard --logdir STUDY/runs
Expect  ten random trials; later ones concentrate on what worked

The same command continues a search that was stopped or killed. Run it several times at once to
share the work.
"""

from typing import Annotated, Literal

from annotated_types import Len

from common import setting_types as types
from common.settings import apply_command_line

# --- data and output
TRAIN: types.PathNames = "data/packed/train.h5"  # packed set or list to train on, or several to choose from
VALIDATION: types.PathNames = "data/packed/validation.h5"  # set that decides; one for each TRAIN
#   Several sets compare ways to prepare the same cases, such as windows or sizes.
FOLDS: Literal["all"] | None = None  # "all": train every trial on each fold next to TRAIN; the mean Dice counts
STUDY: types.PathName = "study"  # folder for the search
TRUST_RUN: bool = False  # True: run code of STUDY or a settings file; trust its source first

# --- search space; each trial chooses one value from each list, so a list of one is fixed
MODELS: Annotated[list[types.Network], Len(1)] = ["unet", "deeplab_v3plus"]  # networks, as for MODEL in train.py
MODEL_SETTINGS: types.FreeDict = {  # of each network: lists, {"low": 8, "high": 64}, or values
    "unet": {"features": [16, 32, 64], "depth": [3, 4, 5]},
    "deeplab_v3plus": {"backbone": "mobilenetv2"},
}
LOSSES: Annotated[list[types.Loss], Len(1)] = ["bce+dice", "focal_tversky", "focal+dice", "hausdorff+dice"]
# losses, as for LOSS in train.py
LEARNING_RATE: types.LearningRates | None = [1e-4, 1e-2]  # lowest and highest, or [one]; None: the author's
AUGMENTATION: types.FreeDict = {  # as in train.py, each a list or {"low": 0, "high": 30}; None or 0: off
    "flip": [None, "horizontal"],
    "rotation": [0, 10],
    "zoom": [0, 0.1],
    "brightness": [0, 0.1],
}
PRECISIONS: Annotated[list[types.Precision], Len(1)] = ["auto", "float32"]  # as for PRECISION in train.py
OTHERS: types.FreeDict = {"OPTIMIZER": "adam", "SCHEDULE": "cosine", "BATCH_SIZE": 8}
# other train.py settings, single values or lists
#   Choose one optimizer, since learning rates depend on it.

# --- how long
TRIALS: types.PositiveInt = 50  # total trials, including failed ones
EPOCHS: types.PositiveInt = 20  # passes over the training set per trial
MINUTES: types.Positive | None = None  # stop a trial before an epoch that would exceed this time; None: never

# --- how
SAMPLER: Literal["tpe", "random"] = "tpe"  # "tpe": learns from earlier trials which values are good; "random"
PRUNER: Literal["median", "hyperband", "none"] = "median"
# stop a trial early if worse: "median", "hyperband" or "none"
#   Compared at the same epoch. "median": worse than half of the others; "hyperband": than most of a group with the same
#   epoch budget.
PATIENCE: types.Count = 5  # "median": spare the first PATIENCE trials, and epochs of a trial
#   Trials up to PATIENCE are never stopped, nor any trial in its first PATIENCE epochs.
SEED: types.Seed = 1  # random seed for the choices and for every training

settings = apply_command_line(globals())

import signal
import time
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import TrialState

from common.errors import InputError, SettingError
from common.files import write_json
from common.gpus import unused_before_import
from common.training.cross_validation import find_folds
from common.training.run_folder import runs_in
from common.training.trained_models import CrossValidation
from common.training.trust import trust_command
from common.tuning import results
from common.tuning import study as tuning
from common.tuning.spaces import check_every_value, choose_settings, require_choices, require_sets, require_spaces
from common.tuning.training import train_folds, train_once

TRAIN_SCRIPT = Path(__file__).resolve().with_name("train.py")
SET_BY_SEARCH = (  # settings of train.py, so not allowed in OTHERS
    "TRAIN VALIDATION FOLD RUNS MODE RUN MODEL MODEL_SETTINGS LOSS LEARNING_RATE AUGMENTATION PRECISION EPOCHS "
    "MAX_MINUTES SEED"
)
SHUTDOWN_STATUSES = [-getattr(signal, name, 0) for name in ("SIGHUP", "SIGINT", "SIGTERM")]  # sent to all processes


def main():
    trust_command(settings)
    check_settings()
    if line := unused_before_import():
        print(line, flush=True)
    folder = Path(settings.STUDY)
    may_differ = ("STUDY", "TRIALS", "TRUST_RUN")
    study = tuning.open_study(folder, settings.as_json(), may_differ, check_with_train, make_pruner())
    with tuning.database_errors(folder / tuning.DATABASE):
        finished = sum(trial.state.is_finished() for trial in study.get_trials())
        print(
            f"finished trials: {finished} of {settings.TRIALS}; to watch: tensorboard --logdir {folder / 'runs'}",
            flush=True,
        )
        add = partial(tuning.add_trial, study, make_sampler, settings.SEED, partial(choose_settings, settings))
        try:
            for trial in tuning.trials_to_run(study, folder, settings.TRIALS, add):
                run_trial(study, trial)
        except KeyboardInterrupt:
            print("", "stopped; run the same command to continue the interrupted trial", sep="\n")
            raise
        write_results(study)


# --- before the search


def check_settings():
    for name in ("MODELS", "LOSSES", "PRECISIONS"):
        require_choices(settings.values[name], name)
    require_sets(settings.TRAIN, settings.VALIDATION)
    for name in ("AUGMENTATION", "OTHERS", "MODEL_SETTINGS"):
        require_spaces(settings.values[name], name)
    for model, spaces in settings.MODEL_SETTINGS.items():
        if model not in settings.MODELS and not (TRAIN_SCRIPT.with_name("models") / f"{model}.py").is_file():
            raise SettingError(f"MODEL_SETTINGS: unknown network (found {model!r}); use one from MODELS")
        require_spaces(spaces, f"MODEL_SETTINGS: {model}")
    if not_allowed := sorted(settings.OTHERS.keys() & SET_BY_SEARCH.split()):
        raise SettingError(
            f"OTHERS: setting not allowed (found {not_allowed[0]}, which the search sets or cannot use); remove it"
        )


def check_with_train():
    print("checking that train.py accepts every value (about 10 s)", flush=True)
    check_every_value(partial(choose_settings, settings))


def make_pruner():
    if settings.PRUNER == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=settings.PATIENCE, n_warmup_steps=settings.PATIENCE)
    if settings.PRUNER == "hyperband":
        return optuna.pruners.HyperbandPruner(max_resource=settings.EPOCHS * number_of_folds())
    return optuna.pruners.NopPruner()


def number_of_folds():
    first = settings.TRAIN[0] if isinstance(settings.TRAIN, list) else settings.TRAIN
    return len(find_folds(first)) if settings.FOLDS else 1


def make_sampler(seed):
    if settings.SAMPLER == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed)


# --- a trial


def run_trial(study, trial):
    """Train with the settings of a trial, or continue its run, and record the outcome in the study.

    Raises:
        InputError: if the disk is full; the trial can then be continued like one that was killed.
    """
    folder = tuning.trial_folder(Path(settings.STUDY), trial.number)
    live_trial = optuna.trial.Trial(study, trial._trial_id)
    if not tuning.count_start(live_trial, trial):
        record_outcome(live_trial, TrialState.FAIL, f"started {tuning.MAX_STARTS} times without finishing an epoch")
        return
    with tuning.as_changed_study():
        given = choose_settings(settings, trial) | {"RUNS": str(folder)}
    values, is_new = results.values_as_text(trial.params), tuning.find_run(folder) is None
    print(f"trial {trial.number}, {'started' if is_new else 'continued'}: {values}", flush=True)
    train = train_folds if settings.FOLDS else train_once
    status = train(live_trial, folder, given, TRAIN_SCRIPT)
    reason = tuning.failure_reason(folder / "output.txt", status) if status else ""
    if "disk is full" in reason:
        raise InputError(f"trial {trial.number}: {reason} (the same command continues this trial)")
    if status in SHUTDOWN_STATUSES:
        print(f"trial {trial.number} was {reason}", flush=True)
        time.sleep(3)  # this process may be next; if not, it continues the trial
        return
    state = {None: TrialState.PRUNED, 0: TrialState.COMPLETE}.get(status, TrialState.FAIL)
    record_outcome(live_trial, state, reason)


def record_outcome(live_trial, state, reason=""):
    """Record how a trial ended in the study, and print it."""
    study, number = live_trial.study, live_trial.number
    trial = study.get_trials()[number]
    dice, epoch = results.best_epoch(trial)
    if state == TrialState.COMPLETE and not epoch:
        state, reason = TrialState.FAIL, "no epoch has a finite validation Dice"
    folder = tuning.trial_folder(Path(settings.STUDY), number)
    if runs := runs_in(folder):
        place = folder if settings.FOLDS else runs[0].folder
        live_trial.set_user_attr("run", place.relative_to(settings.STUDY).as_posix())
        live_trial.set_user_attr("minutes", round(sum(run.log.minutes for run in runs), 2))
    if reason:
        live_trial.set_user_attr("reason", reason)
    study.tell(live_trial, dice if state == TrialState.COMPLETE else None, state)
    score = f"validation Dice {results.score_as_text(trial)}" if epoch else ""
    print(f"trial {number}, {results.STATE_NAMES[state]}: {reason or score}", flush=True)


# --- after the search


def write_results(study):
    """Write and print the results; every process does so, and all write the same."""
    folder = Path(settings.STUDY)
    with tuning.lock_study(folder):
        trials = results.write_table(study.get_trials(states=tuple(results.STATE_NAMES)), folder / "trials.csv")
        best = trials[0]
        if best.state != TrialState.COMPLETE:
            reason = best.user_attrs.get("reason", results.STATE_NAMES[best.state])
            raise InputError(
                f"{folder}: no trial was completed (trials: {len(trials)}; trial {best.number}: {reason}); "
                "fix the cause and raise --trials"
            )
        place = tuning.trial_folder(folder, best.number)
        recorded = tuning.find_run(place).settings
        if settings.FOLDS:  # the run is of one fold
            recorded |= {name: CrossValidation(place).settings[name] for name in ("TRAIN", "VALIDATION", "FOLD")}
        best_settings = {name: value for name, value in recorded.items() if name not in ("RUNS", "MODE", "RUN")}
        write_json(folder / "best_settings.json", best_settings)
        results.draw_importances(trials, folder / "importance.png")
    print("best trials:")
    for trial in [trial for trial in trials if results.best_epoch(trial)[1]][:5]:
        state = "" if trial.state == TrialState.COMPLETE else f" ({results.STATE_NAMES[trial.state]})"
        score = results.score_as_text(trial)
        print(f"  {score}, trial {trial.number}{state}: {results.values_as_text(trial.params)}")
        if by_class := results.dice_by_class(runs_in(tuning.trial_folder(folder, trial.number))):
            print(f"    {by_class}")
    states = [results.STATE_NAMES[trial.state] for trial in trials]
    counts = ", ".join(f"{states.count(name)} {name}" for name in results.STATE_NAMES.values() if name in states)
    print(
        f"wrote {folder}/best_settings.json, trials.csv and importance.png (trials: {len(trials)}; {counts}); "
        f"next: python train.py --settings {folder}/best_settings.json"
    )


if __name__ == "__main__":
    main()
