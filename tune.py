"""Search for good settings: many short trainings, each a run of train.py.

Reads   TRAIN and VALIDATION, as train.py does
Writes  STUDY/runs/trial-000/<date-time>_<model>/ and so on, and STUDY/study.db, which Optuna keeps; at the end
        STUDY/best_settings.json for train.py --settings, trials.csv, and importance.png: what mattered
Takes   at most TRIALS times as long as a training; watch it with tensorboard --logdir STUDY/runs
Expect  ten trials at random; from then on, more and more like those that were good

The same command goes on after it was stopped or killed, and shares the work where it is given several times at once.
"""

from typing import Annotated, Literal

from annotated_types import Len

from common.setting_types import (
    Count,
    FreeDict,
    LearningRates,
    Loss,
    Network,
    PathName,
    Positive,
    PositiveInt,
    Precision,
    Seed,
)
from common.settings import apply_command_line

# --- data, and where to
TRAIN: PathName = "data/packed/train.h5"  # packed set or list to train on
VALIDATION: PathName = "data/packed/validation.h5"  # packed set or list that a trial's best Dice is of
STUDY: PathName = "study"  # folder for the search

# --- what is searched; of a list one is chosen, so that a list of one is fixed
MODELS: Annotated[list[Network], Len(1)] = ["unet", "deeplab_v3plus"]  # networks, as MODEL of train.py
MODEL_SETTINGS: FreeDict = {
    "unet": {"features": [16, 32, 64], "depth": [3, 4, 5]},
    "deeplab_v3plus": {"backbone": "mobilenetv2"},
}
#  settings of each network, lists to choose from or single values
LOSSES: Annotated[list[Loss], Len(1)] = ["bce+dice", "focal_tversky", "focal+dice", "hausdorff+dice"]
# as LOSS of train.py
LEARNING_RATE: LearningRates | None = [1e-4, 1e-2]
# lowest and highest; [1e-3]: this one; None: what each network's author recommends
AUGMENTATION: FreeDict = {"flip": [None, "horizontal"], "rotation": [0, 10], "zoom": [0, 0.1], "brightness": [0, 0.1]}
# as that of train.py, each chosen by itself; None and 0: without
PRECISIONS: Annotated[list[Precision], Len(1)] = ["auto", "float32"]  # as PRECISION of train.py
OTHERS: FreeDict = {"OPTIMIZER": "adam", "SCHEDULE": "cosine", "BATCH_SIZE": 8}
# other settings of train.py, single values or lists to choose from; one optimizer for all, since learning rates of
# different ones do not compare

# --- how long
TRIALS: PositiveInt = 50  # trials in all, with those that fail
EPOCHS: PositiveInt = 20  # passes over the training set in a trial
MINUTES: Positive | None = None  # a trial stops before an epoch that would end later; None: never

# --- how
SAMPLER: Literal["tpe", "random"] = "tpe"  # "tpe": learns from the trials so far which values are good; "random"
PRUNER: Literal["median", "hyperband", "none"] = "median"
# trials are stopped early that by an epoch are worse than: "median", half of the others; "hyperband", most of a group
# that is given as many epochs; "none": no trial
PATIENCE: Count = 5  # with "median", so many trials, and the first so many epochs of each, are not stopped early
SEED: Seed = 1  # of the choices, and of every training

settings = apply_command_line(globals())

import json
import signal
import time
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import TrialState
from tqdm import tqdm

from common.errors import InputError, SettingError
from common.files import read_json, write_json
from common.tuning import study as tuning
from common.tuning.spaces import check_values, draw, require_choices, require_spaces
from common.tuning.worker import run_beside

SCRIPT = Path(__file__).resolve().with_name("train.py")
OURS = "TRAIN VALIDATION FOLD RUNS MODE RUN MODEL MODEL_SETTINGS LOSS LEARNING_RATE AUGMENTATION PRECISION EPOCHS"
OURS = {*OURS.split(), "MAX_MINUTES", "SEED"}  # settings of train.py that OTHERS may not hold
FROM_OUTSIDE = [-getattr(signal, name, 0) for name in ("SIGHUP", "SIGINT", "SIGTERM")]  # what a shutdown sends to all


def main():
    check_settings()
    recorded = json.loads(json.dumps(settings.as_json()))
    study = tuning.open_study(Path(settings.STUDY), recorded, ("STUDY", "TRIALS"), check_each_value, make_pruner())
    with tuning.database_errors(Path(settings.STUDY, tuning.DATABASE)):
        finished = sum(trial.state.is_finished() for trial in study.get_trials())
        print(
            f"{finished} of {settings.TRIALS} trials are finished; to watch: tensorboard --logdir "
            f"{Path(settings.STUDY, 'runs')}",
            flush=True,
        )
        try:
            add = partial(tuning.add_trial, study, make_sampler, settings.SEED, partial(draw, settings))
            while taken := tuning.take_trial(study, Path(settings.STUDY), settings.TRIALS, add):
                trial, lock = taken
                with lock:
                    run_trial(study, trial)
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on, with the trial that was running")
            raise
        write_results(study)


# --- settings


def check_settings():
    for name in ("MODELS", "LOSSES", "PRECISIONS"):
        require_choices(settings.values[name], name)
    for name in ("AUGMENTATION", "OTHERS", "MODEL_SETTINGS"):
        require_spaces(settings.values[name], name)
    for model, spaces in settings.MODEL_SETTINGS.items():
        if model not in settings.MODELS and not (SCRIPT.with_name("models") / f"{model}.py").is_file():
            raise SettingError(f"MODEL_SETTINGS holds {model!r}, which is none of MODELS")
        require_spaces(spaces, f"MODEL_SETTINGS: {model}")
    if ours := sorted(settings.OTHERS.keys() & OURS):
        raise SettingError(f"OTHERS holds {ours[0]}, which has another place or none in a search; take it out")


def check_each_value():
    print("looking whether train.py takes each value, for about ten seconds", flush=True)
    check_values(partial(draw, settings))


def make_sampler(seed):
    if settings.SAMPLER == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed)


def make_pruner():
    if settings.PRUNER == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=settings.PATIENCE, n_warmup_steps=settings.PATIENCE)
    if settings.PRUNER == "hyperband":
        return optuna.pruners.HyperbandPruner(max_resource=settings.EPOCHS)
    return optuna.pruners.NopPruner()


# --- a trial


def run_trial(study, trial):
    """Train with the settings of a trial, or go on with its run, and tell the study how it went.

    Raises:
        InputError: if the disk is full; the trial is then as one that was killed.
    """
    folder = tuning.trial_folder(Path(settings.STUDY), trial.number)
    live = optuna.trial.Trial(study, trial._trial_id)
    if not tuning.count_start(live, trial):
        return tell(study, live, TrialState.FAIL, "begun again and again without an epoch to its end")
    recorded, run = draw(settings, trial) | {"RUNS": str(folder)}, tuning.find_run(folder)
    if run:
        left = {} if settings.MINUTES is None else {"MAX_MINUTES": max(settings.MINUTES - tuning.minutes_of(run), 1e-3)}
        recorded = {"MODE": "resume", "RUN": str(run), **left}
    write_json(folder / "given.json", recorded)
    print(f"trial {trial.number}, {'goes on' if run else 'begins'}: {tuning.in_words(trial.params)}", flush=True)
    status = train(live, folder)
    if status is None:
        return tell(study, live, TrialState.PRUNED)
    if status == 0:
        return tell(study, live, TrialState.COMPLETE)
    reason = tuning.reason_of(folder / "output.txt", status)
    if "disk is full" in reason:
        raise InputError(f"{reason}; the same command goes on")
    if status in FROM_OUTSIDE:
        print(f"trial {trial.number} was {reason}", flush=True)
        time.sleep(3)  # we may be next; if not, the trial is taken up again
        return None
    return tell(study, live, TrialState.FAIL, reason)


def train(live, folder):
    """Train with the settings in the folder of a trial, until that ends or does poorly.

    Returns:
        Exit status of train.py; None if it was stopped.
    """
    arguments = ["--settings", str(folder / "given.json")]
    with (
        run_beside(SCRIPT, arguments, folder / "training.lock", folder / "output.txt") as process,
        tqdm(total=settings.EPOCHS, desc=f"trial {live.number}", leave=False, disable=None) as bar,
    ):
        for epoch, dice, poor in tuning.watch(live, process, folder, settings.EPOCHS):
            bar.update(epoch - bar.n)
            bar.set_postfix_str(f"validation Dice {dice:.3f}")
            if poor:
                return None
        return process.poll()


def tell(study, live, state, reason=""):
    """Enter how a trial went into the study, and say it."""
    dice, epoch = tuning.best_epoch(study.get_trials()[live.number])
    if state == TrialState.COMPLETE and not epoch:
        state, reason = TrialState.FAIL, "no epoch has a finite validation Dice"
    if run := tuning.find_run(tuning.trial_folder(Path(settings.STUDY), live.number)):
        live.set_user_attr("run", run.relative_to(settings.STUDY).as_posix())
        live.set_user_attr("minutes", round(tuning.minutes_of(run), 2))
    if reason:
        live.set_user_attr("reason", reason)
    study.tell(live, dice if state == TrialState.COMPLETE else None, state)
    score = f"validation Dice {dice:.4f} in epoch {epoch}" if epoch else ""
    print(f"trial {live.number}, {tuning.WORDS[state]}: {reason or score}", flush=True)


# --- the end


def write_results(study):
    """Write what came out, and say it; every process does so, and all write the same."""
    folder = Path(settings.STUDY)
    with tuning.Lock(folder / tuning.LOCK):
        trials = tuning.write_table(study.get_trials(states=tuple(tuning.WORDS)), folder / "trials.csv")
        best = trials[0]
        if best.state != TrialState.COMPLETE:
            reason = best.user_attrs.get("reason", tuning.WORDS[best.state])
            raise InputError(f"no trial of {len(trials)} got to its end; trial {best.number}: {reason}")
        recorded = read_json(folder / best.user_attrs["run"] / "settings.json")
        own = {name: value for name, value in recorded.items() if name not in ("RUNS", "MODE", "RUN")}
        write_json(folder / "best_settings.json", own)
        tuning.draw_importances(trials, folder / "importance.png")
    print("the best:")
    for trial in [trial for trial in trials if tuning.best_epoch(trial)[1]][:5]:
        dice, epoch = tuning.best_epoch(trial)
        how = "" if trial.state == TrialState.COMPLETE else f" ({tuning.WORDS[trial.state]})"
        print(f"  {dice:.4f} in epoch {epoch}, trial {trial.number}{how}: {tuning.in_words(trial.params)}")
    states = [tuning.WORDS[trial.state] for trial in trials]
    counts = ", ".join(f"{states.count(word)} {word}" for word in tuning.WORDS.values() if word in states)
    print(
        f"wrote {folder}/best_settings.json, trials.csv and importance.png of {len(trials)} trials ({counts}); "
        f"next: python train.py --settings {folder}/best_settings.json"
    )


if __name__ == "__main__":
    main()
