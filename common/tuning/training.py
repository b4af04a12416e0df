"""Train a trial: one training, or one of each fold in a folder that is a cross-validation."""

from common.child import run_in_background
from common.files import write_json
from common.parallel import ProgressBar
from common.settings import FORMAT, Settings
from common.training.cross_validation import find_folds
from common.training.trained_models import CrossValidation
from common.tuning.study import TRAINING_LOCK, find_run, follow_training


def train_folds(live_trial, folder, given, script):
    """Train the folds of a trial in turn; choose.py takes the folder as a cross-validation.

    Args:
        live_trial: optuna.trial.Trial.
        folder: Path of the trial's folder.
        given: dict of settings of train.py.
        script: path of train.py.

    Returns:
        Exit status of the last training; None if the trial was stopped early.
    """
    numbers, before = find_folds(given["TRAIN"]), []
    live_trial.set_user_attr("folds", len(numbers))
    given = given | {"MAX_MINUTES": given["MAX_MINUTES"] and given["MAX_MINUTES"] / len(numbers)}
    shared = Settings.of("train.py", **given | {"FOLD": "all"}).as_json()
    write_json(CrossValidation(folder).settings_file, {FORMAT: 1} | shared)
    for number in numbers:
        run = find_run(folder, number)
        if not run or not run.has_ended:
            status = train_once(live_trial, folder, given | {"FOLD": number}, script, number, before)
            if status != 0:
                return status
        before.append(find_run(folder, number).log.best("dice")[0])
    return 0


def train_once(live_trial, folder, given, script, fold=None, before=()):
    """Train, or continue the run of a trial, until the training ends or the pruner stops the trial.

    Args:
        live_trial, folder, given, script: as in `train_folds`.
        fold, before: as in `common.tuning.study.follow_training`.

    Returns:
        Exit status of train.py; None if the trial was stopped early.
    """
    epochs = given["EPOCHS"]
    if run := find_run(folder, fold):
        given = _to_resume(run, given)
    write_json(folder / "given.json", given)
    arguments = ["--settings", str(folder / "given.json")]
    name = f"trial {live_trial.number}" + (f", fold {fold}" if fold else "")
    with (
        run_in_background(script, arguments, folder / TRAINING_LOCK, folder / "output.txt") as process,
        ProgressBar(epochs, name) as bar,
    ):
        for epoch, dice, poor in follow_training(live_trial, process, folder, epochs, fold, before):
            bar.move_to(epoch, f"validation Dice {dice:.3f}")
            if poor:
                return None
        return process.poll()


def _to_resume(run, given):
    """Settings of train.py that continue a run within the minutes it has left."""
    fold = {name: given[name] for name in ("FOLD", "RUNS") if "FOLD" in given}
    return {"MODE": "resume", "RUN": str(run), "MAX_MINUTES": run.minutes_left} | fold
