"""A search that several processes share: its folder, who runs which trial, how a trial went, what mattered."""

import math
import re
import sqlite3
import time
import warnings
from contextlib import closing, contextmanager

import matplotlib
import numpy as np
import optuna
import pandas as pd
import sqlalchemy.exc
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState, create_trial

from common.errors import InputError
from common.files import read_json, remove, whole_file, write_json
from common.tuning.worker import Lock

matplotlib.use("Agg")
import matplotlib.pyplot as plt

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", module="optuna")

NAME = "tune"  # of the study in its file
DATABASE, SETTINGS, LOCK = "study.db", "settings.json", "study.lock"  # in its folder
WORDS = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "stopped early", TrialState.FAIL: "failed"}
DATABASE_ERRORS = (sqlite3.DatabaseError, sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)
POLL = 0.5  # seconds
MOST_STARTS = 5
FEW = 30  # trials under which what mattered is a hint only
MOST_PANELS = 6


# --- the folder


def open_study(folder, settings, free, check, pruner):
    """Open the study of a folder; begin it where there is none.

    Args:
        folder: Path of the study.
        settings: dict of the settings of the search, ready for JSON.
        free: names of those that may differ from the settings that the study was begun with.
        check: function that is called before a study is begun, and raises InputError where that makes no sense.
        pruner: optuna pruner.

    Returns:
        optuna.Study.

    Raises:
        InputError: if the study is damaged or has other settings, or the folder holds something else.
    """
    database = folder / DATABASE
    if not database.exists():
        _refuse_other_folder(folder)
        check()
        folder.mkdir(parents=True, exist_ok=True)
        with Lock(folder / LOCK):
            if not database.exists():  # else another process was first
                write_json(folder / SETTINGS, settings)
                with whole_file(database) as part:
                    storage = _connect(part)
                    optuna.create_study(storage=storage, study_name=NAME, direction="maximize")
                    storage.engine.dispose()
    begun = read_json(folder / SETTINGS)
    for name, value in settings.items():
        if name not in free and begun.get(name, value) != value:
            raise InputError(
                f"{folder} was begun with {name} {begun[name]!r}, not {value!r}; name another --study, "
                f"or go on with --settings {folder / SETTINGS}"
            )
    with database_errors(database):
        with closing(sqlite3.connect(database, timeout=60)) as connection:
            (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if answer != "ok":
            raise sqlite3.DatabaseError(answer)
        try:
            storage = _connect(database, skip_table_creation=True)
            return optuna.load_study(study_name=NAME, storage=storage, pruner=pruner)
        except (KeyError, RuntimeError) as error:  # another program's, or another version's
            raise sqlite3.DatabaseError(f"it holds no study that can be read here ({error})") from None


def _refuse_other_folder(folder):
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder for the study")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if others := sorted(name for name in names - {SETTINGS, LOCK} if not name.startswith(".part-")):
        raise InputError(f"{folder} holds {others[0]} but no {DATABASE}; name a new or empty folder for the study")


def _connect(path, **options):
    def connect():
        return sqlite3.connect(path, timeout=60, check_same_thread=False)

    # by a function, since a path may hold what means something else in a URL
    return optuna.storages.RDBStorage("sqlite:///study.db", {"creator": connect}, **options)


@contextmanager
def database_errors(path):
    """Turn what a damaged or locked database makes of a command into an InputError."""
    try:
        yield
    except DATABASE_ERRORS as error:
        while error.__cause__:
            error = error.__cause__
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise InputError(
            f"{path} cannot be used as a study of tune.py: {reason}\nIf it is damaged, put back a copy, or begin anew: "
            "name another --study"
        ) from error


# --- who runs which trial


def trial_folder(folder, number):
    """Folder of a trial: its run folder, what it printed, and its locks."""
    return folder / "runs" / f"trial-{number:03d}"


def find_run(folder):
    """Run folder in the folder of a trial; None before there is one."""
    return next((path.parent for path in sorted(folder.glob("[!.]*/settings.json"))), None)


def take_trial(study, folder, count, add):
    """Take a trial to run: one that was left by a process that has ended, or a new one.

    A trial has two locks, one held by the process that has taken it and one by the training that it started, so that
    it is only taken when both have ended. Who is free to take what is decided under the lock of the study.

    Args:
        study: optuna.Study.
        folder: Path of the study.
        count: how many trials there shall be.
        add: function of the trials so far that adds one to the study.

    Returns:
        (FrozenTrial, Lock), the lock to be held until the trial is told; None when all trials are finished. While other
        processes run the last ones, it waits.
    """
    waiting = False
    while True:
        with Lock(folder / LOCK):
            trials = study.get_trials()
            running = [trial for trial in trials if trial.state == TrialState.RUNNING]
            for trial in running:
                if lock := _take_over(trial_folder(folder, trial.number)):
                    trial = study.get_trials()[trial.number]
                    if trial.state == TrialState.RUNNING:  # else it has just been told
                        return trial, lock
                    lock.release()
            if len(trials) < count:
                add(trials)
                continue
        if not running:
            return None
        if not waiting:
            print(f"waiting for {len(running)} trials of other processes", flush=True)
            waiting = True
        time.sleep(POLL)


def _take_over(folder):
    """Lock of a trial that no one runs, taken; else None."""
    folder.mkdir(parents=True, exist_ok=True)
    lock, training = Lock(folder / "trial.lock"), Lock(folder / "training.lock")
    if not lock.take():
        return None
    if not training.take():
        lock.release()
        return None
    training.release()
    for part in folder.glob(".part-*"):
        remove(part)
    return lock


def add_trial(study, make_sampler, seed, draw, trials):
    """Add a trial to a study, whole: it appears with all its values or not at all.

    Its values follow from the seed, its number and the trials before it, whichever process draws them.

    Args:
        study: optuna.Study, to which no one else adds.
        make_sampler: function of a seed that gives an optuna sampler.
        seed: of the search.
        draw: function of a trial that chooses its values.
        trials: those that the study has.
    """
    for attempt in range(10):  # where there is little to choose from, what was drawn before is drawn again
        word = int(np.random.SeedSequence([seed, len(trials), attempt]).generate_state(1)[0])
        sampler = make_sampler(word)
        copy = optuna.create_study(study_name=NAME, direction="maximize", sampler=sampler, pruner=study.pruner)
        copy.add_trials(trials)
        trial = copy.ask()
        draw(trial)
        if all(trial.params != other.params for other in trials):
            break
    study.add_trial(create_trial(state=TrialState.RUNNING, params=trial.params, distributions=trial.distributions))


# --- how a trial goes


def count_start(live, trial):
    """Note that a trial is started.

    Args:
        live: optuna.trial.Trial.
        trial: the same one, frozen.

    Returns:
        Whether it may be: not when it was started MOST_STARTS times and got through no epoch, as one may that takes
        the machine down with it.
    """
    epochs, starts = trial.user_attrs.get("starts", (0, 0))
    starts = starts + 1 if epochs == len(trial.intermediate_values) else 1
    live.set_user_attr("starts", (len(trial.intermediate_values), starts))
    return starts <= MOST_STARTS


def watch(live, process, run_in, epochs):
    """Report each epoch of a training to the study, until it ends or does poorly.

    Args:
        live: optuna.trial.Trial.
        process: subprocess.Popen of train.py.
        run_in: Path of the folder that its run folder is in.
        epochs: how many it has; in the last it is not stopped.

    Yields:
        (epoch, validation Dice, whether it is to be stopped), for each epoch that was not reported before.
    """
    reported = set(live.study.get_trials()[live.number].intermediate_values)
    changed = None
    ended = False
    while not ended:
        ended = process.poll() is not None  # before reading, so that no epoch is missed
        log = (find_run(run_in) or run_in) / "training_log.csv"
        written = log.stat().st_mtime_ns if log.exists() else None
        rows = _read_epochs(log) if written != changed else []
        changed = written if rows else changed
        for epoch, dice in rows:
            if epoch not in reported:
                reported.add(epoch)
                live.report(dice, epoch)
                yield epoch, dice, not ended and epoch < epochs and live.should_prune()
        if not rows and not ended:
            time.sleep(POLL)


def _read_epochs(log):
    """(epoch, validation Dice) of the rows of a log; none while it is being replaced.

    To be called only when the log has changed: on Windows, a file that is being read cannot be replaced.
    """
    try:
        table = pd.read_csv(log)
    except PermissionError:
        return []
    return list(zip(table["epoch"].to_list(), table["val_dice"].to_list(), strict=True))


def minutes_of(run):
    """Minutes that the epochs of a run took; 0 where it has none."""
    log = run / "training_log.csv"
    return float(pd.read_csv(log)["seconds"].sum() / 60) if log.exists() else 0.0


def reason_of(output, status):
    """One line on why a training failed.

    Args:
        output: path of what it printed.
        status: its exit status.
    """
    text = output.read_text(encoding="utf-8", errors="replace")
    if said := re.findall(r"^train\.py: error: (.+)", text, re.M):
        return said[-1]
    if re.search(r"out of memory|OOM when|RESOURCE_EXHAUSTED|bad_alloc|MemoryError", text, re.I):
        return "out of memory; a smaller batch or network needs less"
    if status < 0:
        return f"ended by signal {-status}" + (", as the system does where memory is short" if status == -9 else "")
    lines = text.strip().splitlines()
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return (errors or lines or [f"train.py ended with exit status {status} and no message"])[-1]


def best_epoch(trial):
    """(validation Dice, epoch) of the best epoch of a trial, the earliest of equals; (-inf, 0) where there is none."""
    scores = [(dice, -epoch) for epoch, dice in trial.intermediate_values.items() if math.isfinite(dice)]
    dice, epoch = max(scores, default=(-math.inf, 0))
    return dice, -epoch


def in_words(params):
    """Values of a trial as text."""
    return ", ".join(f"{name} {_short(value)}" for name, value in params.items()) or "nothing to choose"


def _short(value):
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# --- what came out


def write_table(trials, path):
    """Write `trials.csv`: a row a trial, the best first.

    Returns:
        The trials in that order.
    """
    order = sorted(trials, key=lambda trial: (trial.state != TrialState.COMPLETE, -best_epoch(trial)[0], trial.number))
    rows = []
    for trial in order:
        dice, epoch = best_epoch(trial)
        row = {"trial": trial.number, "state": WORDS[trial.state], "dice": dice if epoch else None, "epoch": epoch}
        row |= {"epochs": len(trial.intermediate_values), "minutes": trial.user_attrs.get("minutes")}
        row |= {name: str(value) if value is None else value for name, value in trial.params.items()}
        rows.append(row | {name: trial.user_attrs.get(name, "") for name in ("run", "reason")})
    table = pd.DataFrame(rows, dtype=object)  # so that whole numbers stay whole beside gaps
    table = table[[*table.columns.drop(["run", "reason"]), "run", "reason"]]
    with whole_file(path) as part:
        table.to_csv(part, index=False)
    return order


def importances(trials):
    """What made trials good, by PED-ANOVA (Watanabe et al., arXiv 2304.10255).

    Trials that were stopped early count with the best that they had reached.

    Args:
        trials: list of FrozenTrial, those that failed left out.

    Returns:
        dict of parameter to its share, greatest first; empty where trials are too few or too much alike to tell.
    """
    scores = sorted((best_epoch(trial)[0] for trial in trials), reverse=True)
    good = min(max(math.ceil(len(scores) / 4), 5), len(scores) // 2)  # of fewer than five, the shares jump about
    while good and scores[good - 1] == scores[good]:  # equals are all good or all not
        good -= 1
    if good < 2 or not any(trial.params for trial in trials):
        return {}
    study = optuna.create_study(direction="maximize")
    for trial, score in ((trial, best_epoch(trial)[0]) for trial in trials):
        study.add_trial(create_trial(params=trial.params, distributions=trial.distributions, value=score))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=(good - 0.5) / len(trials))
    return get_param_importances(study, evaluator=evaluator)


def draw_importances(trials, path):
    """Draw what mattered: the share of each parameter, and the Dice of the trials against the first of them."""
    scored = [trial for trial in trials if best_epoch(trial)[1]]
    shares = importances(scored)
    names = list(shares) or list(dict.fromkeys(name for trial in scored for name in trial.params))
    figure = plt.figure(figsize=(14, 6.5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2.2))
    few = " (few: a hint only)" if len(scored) < FEW else ""
    left.suptitle(f"what mattered, by {len(scored)} trials{few}", fontsize=11)
    _draw_shares(left.subplots(), shares)
    axes = right.subplots(2, math.ceil(MOST_PANELS / 2), sharey=True)
    legend = {}
    for axis, name in zip(axes.flat, names, strict=False):
        legend |= {a.get_label(): a for a in _draw_parameter(axis, name, trials) if len(a.get_offsets())}
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis in axes[:, 0]:
        axis.set_ylabel("best validation Dice")
    right.legend(handles=list(legend.values()), loc="outside lower center", ncols=4, frameon=False)
    with whole_file(path) as part:
        figure.savefig(part, dpi=110, format="png")
    plt.close(figure)


def _draw_shares(axis, shares):
    if not shares:
        axis.axis("off")
        axis.text(0.5, 0.5, "too few trials, or too much alike, to tell", ha="center", transform=axis.transAxes)
        return
    names, values = list(shares)[::-1], list(shares.values())[::-1]
    bars = axis.barh(names, values, color="tab:blue")
    axis.bar_label(bars, [f"{value:.0%}" for value in values], padding=3, fontsize=9)
    axis.set(xlabel="importance (PED-ANOVA)", xlim=(0, 1.15 * max(values)))
    axis.spines[["top", "right"]].set_visible(False)


def _draw_parameter(axis, name, trials):
    """Draw the Dice of the trials, best first, against one parameter; those that failed at the bottom.

    Returns:
        What was drawn, with labels.
    """
    having = [trial for trial in trials if name in trial.params]
    scores = [best_epoch(trial)[0] for trial in trials if best_epoch(trial)[1]]
    bottom = min(scores) - 0.07 * (max(scores) - min(scores))
    distribution = having[0].distributions[name]
    choices = getattr(distribution, "choices", None)
    if choices:
        choices = sorted(choices) if all(type(choice) in (int, float) for choice in choices) else list(choices)
        words = [_short(choice) for choice in choices]
        axis.set_xticks(range(len(words)), words, fontsize=8, rotation=20 if len("".join(words)) > 30 else 0)
        axis.set_xlim(-0.5, len(words) - 0.5)
    else:
        axis.set(xscale="log", xlim=(0.9 * distribution.low, distribution.high / 0.9))

    def draw(label, shown, **style):
        x = [trial.params[name] for trial in shown]
        if choices:
            x = [choices.index(value) + 0.5 * (0.618 * t.number % 1 - 0.5) for value, t in zip(x, shown, strict=True)]
        y = [best_epoch(trial)[0] if trial.state != TrialState.FAIL else bottom for trial in shown]
        return axis.scatter(x, y, label=label, **style)

    complete, pruned, failed = ([trial for trial in having if trial.state == state] for state in WORDS)
    axis.set_title(name, fontsize=10)
    axis.grid(alpha=0.3)
    return [
        draw("failed", failed, s=28, marker="x", color="tab:red"),
        draw("stopped early", pruned, s=28, facecolors="none", edgecolors="tab:gray"),
        draw("complete", complete, s=28, color="tab:blue", alpha=0.8),
        draw("best", [trial for trial in having if trial is trials[0]], s=160, marker="*", color="tab:orange"),
    ]
