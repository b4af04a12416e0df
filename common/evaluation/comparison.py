"""Compare runs by what they recorded: scores with intervals, folds, trials.

Nothing but records is read, so neither Keras nor code of a run is loaded. A record that cannot be read is the status of
its run.
"""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from common.claims import is_claimed
from common.errors import InputError
from common.evaluation.settings_table import shortened
from common.files import natural_key, real_path
from common.lazy import Lazy
from common.public_settings import without_own_paths
from common.streams import one_line
from common.system_errors import in_words
from common.tables import read_table, to_numbers
from common.training.run_folder import Run
from common.training.trained_models import CrossValidation
from common.training.training_log import Log
from common.words import number_of

special = Lazy("scipy.special")

STUDY_FILE = "study.db"  # in the folder of a study; common.tuning.study, which knows it, takes a second to load
LARGEST = 1e9  # of any count or time that a record can have


@dataclass
class Entry:
    """What is known of a run, fold, trial, cross-validation or study; None or empty if unknown.

    Attributes:
        name: text in one line.
        folder: Path.
        network: name of the architecture.
        dice, epoch: best validation Dice and its epoch; of a cross-validation, the mean over the folds.
        interval: 95% interval of the mean over folds, as text.
        case_dice, case_interval: Dice over cases by evaluate.py, and its 95% interval as text.
        epochs, planned: number of epochs done, and in the run.
        minutes: how long they took.
        parameters: number of parameters of the network.
        status: how it ended, or what is wrong with it.
        settings: dict of setting to JSON value.
        curve: list of (epoch, validation Dice).
    """

    name: str
    folder: Path
    network: str = ""
    dice: float | None = None
    epoch: int | None = None
    interval: str = ""
    case_dice: float | None = None
    case_interval: str = ""
    epochs: int | None = None
    planned: int | None = None
    minutes: float | None = None
    parameters: int | None = None
    status: str = ""
    settings: dict = field(default_factory=dict)
    curve: list = field(default_factory=list)


@dataclass
class Section:
    """Entries that are compared with each other.

    Attributes:
        kind: "runs", "folds" or "trials".
        title: heading.
        entries: list of Entry, best first.
        summary: Entry of them all, for a cross-validation or study; otherwise None.
        text: result in a sentence, or "".
        table: DataFrame of the trials of a study, in the order of the entries; otherwise None.
    """

    kind: str
    title: str
    entries: list
    summary: Entry | None = None
    text: str = ""
    table: object = None


def compare(folder):
    """Read the runs in a folder.

    Args:
        folder: folder of run folders, cross-validations and studies; or one cross-validation or study.

    Returns:
        (list of Section; list of names of folders without a run).

    Raises:
        InputError: if there is no run.
    """
    folder = Path(folder)
    if section := _section_of(folder):
        if not section.entries:
            raise InputError(f"RUNS: nothing to compare in {folder} ({section.summary.status}); use another folder")
        return [section], []
    if _is_run(folder):
        raise InputError(f"RUNS: {folder} is a run folder (expected a folder of runs); use the folder around it")
    entries, sections, others = [], [], []
    for path in sorted(folder.iterdir(), key=lambda path: natural_key(path.name)):
        if path.name.startswith(".") or not path.is_dir():
            continue
        try:
            if section := _section_of(path):
                sections.append(section)
                entries.append(section.summary)
            elif _is_run(path):
                entries.append(read_run(Run(path)))
            else:
                others.append(one_line(path.name))
        except PermissionError as error:
            others.append(f"{one_line(path.name)} ({error.strerror})")
    if not entries:
        found = f"found {number_of(len(others), 'other folder')}"
        raise InputError(
            f"RUNS: no run in {folder} ({found}); use a folder of run folders, a cross-validation or a study of tune.py"
        )
    return [Section("runs", "Runs", best_first(entries)), *sections], others


def _section_of(folder):
    if CrossValidation(folder).exists:
        return read_cross_validation(CrossValidation(folder))
    return read_study(folder) if (folder / STUDY_FILE).is_file() else None


def _is_run(folder):
    run = Run(folder)
    return any(os.path.lexists(path) for path in (run.settings_file, run.state_file, run.log_file))


def best_first(entries):
    """Entries sorted by Dice, the highest first, those without one last."""
    return sorted(entries, key=lambda entry: -math.inf if entry.dice is None else entry.dice, reverse=True)


# --- a run


def read_run(run):
    """Entry of a Run, whatever is wrong with its records."""
    problems = []

    def read(function, otherwise):
        try:
            return function()
        except (InputError, OSError) as error:
            problems.append(error)
        return otherwise

    settings = read(lambda: run.settings, {})
    log = read(lambda: read_log(run), Log())
    state = read(lambda: run.state, {})
    case_dice, case_interval = read(lambda: case_score(run.scores_folder), (None, ""))
    dice, epoch = log.best("dice")
    if not settings and not problems:
        problems.append(InputError(f"{run.settings_file}: missing"))
    return Entry(
        one_line(run.name),
        run.folder,
        network=shortened(without_own_paths(settings.get("MODEL") or "")),
        dice=dice if epoch else None,
        epoch=epoch or None,
        case_dice=case_dice,
        case_interval=case_interval,
        epochs=len(log),
        planned=_sensible(state.get("epochs") or settings.get("EPOCHS")),
        minutes=_sensible(log.minutes),
        parameters=read(lambda: run.parameters, None),
        status=_problem(run, problems[0]) if problems else status_of(run, log, state),
        settings=settings,
        curve=[(row["epoch"], row["val_dice"]) for row in log.rows if math.isfinite(row.get("val_dice", math.nan))],
    )


def read_log(run):
    """Log of a Run; raises InputError if it is damaged, or lacks what a comparison shows."""
    log = run.log
    for row in log.rows:
        validated = {"val_dice"} if log.has_validation else set()
        if missing := {"epoch", "seconds", *validated} - row.keys():
            raise InputError(f"{run.log_file}: no column {min(missing)}; restore it from a copy")
        dice = row.get("val_dice", 0)
        if not (0 <= dice <= 1 or math.isnan(dice)) or not 0 < row["epoch"] < LARGEST:
            raise InputError(
                f"{run.log_file}: damaged (found Dice {dice:g} in epoch {row['epoch']:g}); restore it from a copy"
            )
    return log


def status_of(run, log, state):
    """How a run ended, as text."""
    if state.get("ended"):
        return shortened(state["ended"]) + ("" if log.has_validation else ", without validation")
    if is_claimed(run):
        return "running"
    return f"interrupted after {number_of(len(log), 'epoch')}" if len(log) else "ended before its first epoch"


def case_score(folder):
    """Dice over cases that evaluate.py wrote into a folder, for the first class.

    Returns:
        (mean, its 95% interval as text); (None, "") if there is no evaluation.

    Raises:
        InputError: if its table is damaged.
    """
    path, advice = folder / "summary.csv", "run evaluate.py again"
    if not os.path.lexists(path):
        return None, ""
    table = read_table(path, ["class", "score", "over", "n", "mean", "low", "high"], advice)
    table = table[(table["over"] == "cases") & (table["score"] == "dice")]
    numbers = {name: to_numbers(table, name, path, advice, (0, LARGEST)) for name in ("class", "n")}
    numbers |= {name: to_numbers(table, name, path, advice, (0, 1)) for name in ("mean", "low", "high")}
    first = [i for i, number in enumerate(numbers["class"]) if number == 1]
    n, mean, low, high = (numbers[name].iloc[first[0]] if first else math.nan for name in ("n", "mean", "low", "high"))
    if math.isnan(mean):
        return None, ""
    cases = number_of(int(n), "case") + (", class 1" if len(table) > 1 else "")
    return float(mean), f"{low:.3f} to {high:.3f} ({cases})" if math.isfinite(low + high) else f"({cases})"


def _sensible(number):
    """A number that is not so large that no page could show it, else None."""
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    return number if is_number and 0 <= number <= LARGEST else None


def _problem(folder, error):
    """The message of an InputError or OSError without the folder that it is about."""
    message = in_words(error) if isinstance(error, OSError) else str(error)
    return shortened(without_own_paths(message.replace(f"{folder}{os.sep}", "").splitlines()[0]))


# --- a cross-validation


def read_cross_validation(folds):
    """Section of the folds of a CrossValidation."""
    problem, settings, entries, case = "", {}, [], (None, "")
    try:
        settings = folds.settings
        case = case_score(folds.scores_folder)
    except (InputError, OSError) as error:
        problem = _problem(folds, error)
    try:
        entries = [read_run(run) for run in folds.runs()]
    except (InputError, OSError) as error:
        problem = problem or _problem(folds, error)
    known = [entry.dice for entry in entries if entry.dice is not None]
    mean, interval = mean_and_interval(known)
    counted = number_of(len(known), "fold")
    complete = folds.folds_file.is_file() and len(known) == len(entries)
    running = any(entry.status == "running" for entry in entries) or is_claimed(folds)
    first = entries[0] if entries else Entry("", folds.folder)
    summary = Entry(
        one_line(real_path(folds.folder).name),
        folds.folder,
        network=shortened(without_own_paths(settings.get("MODEL") or first.network)),
        dice=mean,
        interval=f"{interval} ({counted})" if interval else "",
        case_dice=case[0],
        case_interval=case[1],
        epochs=sum(entry.epochs for entry in entries),
        planned=_sum_of(entry.planned for entry in entries),
        minutes=_sum_of(entry.minutes for entry in entries),
        parameters=first.parameters,
        status=problem or ("running" if running else f"{counted}, {'complete' if complete else 'not complete'}"),
        settings=_shared_settings(settings, first.settings),
        curve=mean_curve([entry.curve for entry in entries if entry.curve]),
    )
    text = f"Mean validation Dice over {counted}: {mean:.4f}" if known else "No fold has a validation Dice yet"
    text += f" ({interval}, 95% t interval; approximate, since folds share training cases)." if interval else "."
    if case[0] is not None:
        text += f" Out of fold, Dice over cases: {case[0]:.4f}, {case[1]}, 95% bootstrap interval."
    return Section("folds", f"Folds of {summary.name}", best_first(entries), summary, text)


def _shared_settings(given, of_fold):
    """Settings in force of a cross-validation: those of a fold, which has chosen what was None, for the sets of all."""
    shared = {**given, **of_fold, **{name: given[name] for name in ("TRAIN", "VALIDATION") if name in given}}
    return {name: value for name, value in shared.items() if name not in ("MODE", "RUN", "FOLD")}


def mean_and_interval(values):
    """Mean of a list, None if empty, and its 95% t interval as text, "" for fewer than two values."""
    if not values:
        return None, ""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, ""
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = float(special.stdtrit(len(values) - 1, 0.975)) * math.sqrt(variance / len(values))
    return mean, f"{max(mean - half, 0):.3f} to {min(mean + half, 1):.3f}"


def mean_curve(curves):
    """Mean of curves at the epochs that all of them have."""
    tables = [dict(curve) for curve in curves]
    shared = sorted(set.intersection(*map(set, tables))) if tables else []
    return [(epoch, math.fsum(table[epoch] for table in tables) / len(tables)) for epoch in shared]


def _sum_of(numbers):
    numbers = list(numbers)
    return None if None in numbers or not numbers else sum(numbers)


# --- a study


def read_study(folder):
    """Section of the trials of the study of tune.py in a folder, Path."""
    from common.tuning import results, study  # Optuna and Matplotlib take a second, and most folders have no study

    summary = Entry(one_line(real_path(folder).name), folder)
    section = Section("trials", f"Trials of {summary.name}", [], summary)
    try:
        trials = study.read_trials(folder)
    except (InputError, OSError) as error:
        summary.status = _problem(folder, error)
        section.text = f"{summary.status}."
        return section
    finished = [trial for trial in trials if trial.state in results.STATE_NAMES]
    names = [results.STATE_NAMES[trial.state] for trial in finished]
    counts = [f"{names.count(name)} {name}" for name in results.STATE_NAMES.values() if name in names]
    counts += [f"{len(trials) - len(finished)} not ended"] * (len(trials) > len(finished))
    summary.status = f"study: {', '.join(counts) or 'no trial yet'}"
    if not finished:
        return section
    best, table = results.make_table(finished)
    section.entries = [_trial(folder, trial, results) for trial in best]
    section.table = table.drop(columns=["run"]).map(_cell).rename(columns=shortened)
    first = section.entries[0]
    if first.dice is not None:
        for name in ("network", "dice", "epoch", "settings", "curve"):
            setattr(summary, name, getattr(first, name))
    summary.epochs = sum(entry.epochs for entry in section.entries)
    summary.minutes = math.fsum(entry.minutes or 0 for entry in section.entries)
    section.text = f"{summary.status.capitalize()}. The best trial is the first one; its run is in runs/{first.name}."
    return section


def _trial(folder, trial, results):
    from common.tuning import study  # see `read_study`

    place = study.trial_folder(folder, trial.number)
    run = study.find_run(place)
    dice, epoch = results.best_epoch(trial)
    is_known = bool(epoch) and 0 <= dice <= 1
    reason = trial.user_attrs.get("reason", "")
    try:
        settings = run.settings if run else {}
    except (InputError, OSError):
        settings = {}
    return Entry(
        place.name,
        run.folder if run else place,
        network=shortened(settings.get("MODEL") or trial.params.get("model", "")),
        dice=dice if is_known else None,
        epoch=epoch if is_known else None,
        epochs=len(trial.intermediate_values),
        minutes=_sensible(trial.user_attrs.get("minutes")),
        status=shortened(f"{results.STATE_NAMES[trial.state]}{': ' * bool(reason)}{reason}"),
        settings=settings,
        curve=sorted((epoch, dice) for epoch, dice in trial.intermediate_values.items() if 0 <= dice <= 1),
    )


def _cell(value):
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if value is None or (is_number and not abs(value) > LARGEST) else shortened(value)
