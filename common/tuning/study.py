"""A search shared by several processes: its folder, its trials, and which process runs which trial."""

import math
import os
import re
import sqlite3
import statistics
import time
import warnings
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
import optuna
import sqlalchemy.exc
from filelock import FileLock, Timeout
from optuna.trial import TrialState, create_trial

from common.errors import InputError, is_out_of_memory
from common.files import remove, whole_file, write_json
from common.settings import FORMAT, read_settings
from common.system_errors import errors_of, raise_system_error
from common.training.run_folder import runs_in

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", module="optuna")

STUDY_NAME = "tune"  # in the database
DATABASE, SETTINGS, LOCK = "study.db", "settings.json", "study.lock"  # in the study's folder
TRIAL_LOCK, TRAINING_LOCK = "trial.lock", "training.lock"  # in a trial's folder
DATABASE_ERRORS = (sqlite3.DatabaseError, sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)
COMPANIONS = ("-journal", "-wal", "-shm")  # files that SQLite opens next to a database
WRITING_SECONDS, READING_SECONDS = 60, 10  # to wait for another process that writes to the database
POLL_SECONDS = 0.5
MAX_STARTS = 5


# --- the folder


def open_study(folder, settings, may_differ, check, pruner):
    """Open the study in a folder; create it if the folder has none.

    Args:
        folder: Path of the study.
        settings: dict of the search's settings, ready for JSON.
        may_differ: names of the settings that may differ from the ones the study was created with.
        check: function to call before creating a study; raises InputError if the search cannot work.
        pruner: optuna pruner.

    Returns:
        optuna.Study.

    Raises:
        InputError: if the study is damaged or has other settings, or if the folder contains something else.
    """
    database = folder / DATABASE
    if not database.exists():
        _refuse_other_folder(folder)
        check()
        folder.mkdir(parents=True, exist_ok=True)
        with lock_study(folder):
            if not database.exists():  # another process may have created it meanwhile
                write_json(folder / SETTINGS, {FORMAT: 1} | settings)
                with errors_of(database), whole_file(database) as unfinished:
                    storage = _connect(unfinished)
                    optuna.create_study(storage=storage, study_name=STUDY_NAME, direction="maximize")
                    storage.engine.dispose()
    recorded = read_settings(folder / SETTINGS)
    for name, value in settings.items():
        if name not in may_differ and recorded.get(name, value) != value:
            raise InputError(
                f"{folder}: the study was created with {name} {recorded[name]!r} (found {value!r}); use another "
                f"--study, or continue with --settings {folder / SETTINGS}"
            )
    with database_errors(database):
        return _load(database, pruner)


def read_trials(folder):
    """Trials of the study in a folder, Path, which is not changed.

    Returns:
        list of FrozenTrial.

    Raises:
        InputError: if its database is damaged, locked, or no regular file.
    """
    database = folder / DATABASE
    with database_errors(database):
        return _load(database, None, read_only=True).get_trials()


def _load(database, pruner, read_only=False):
    for path in (database, *(database.with_name(database.name + ending) for ending in COMPANIONS)):
        if path.exists() and not path.is_file():  # SQLite would wait for a FIFO
            raise InputError(f"{path}: not a regular file; remove it, or restore a copy of the study")
    with closing(_open(database, read_only)) as connection:
        (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if answer != "ok":
        raise sqlite3.DatabaseError(answer)
    try:
        storage = _connect(database, read_only, skip_table_creation=True)
        study = optuna.load_study(study_name=STUDY_NAME, storage=storage, pruner=pruner)
        _require_numbers(study.get_trials(deepcopy=False))  # every value of the database is read once
        return study
    except (
        LookupError,
        RuntimeError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:  # from another program or version
        raise sqlite3.DatabaseError(f"no readable study in it: {error}") from None


def _require_numbers(trials):
    """Raise TypeError if a number of a list of FrozenTrial is none: SQLite stores any type in any column."""
    for trial in trials:
        whole = [trial.number, *trial.intermediate_values]
        if not all(isinstance(number, int) for number in whole):
            raise TypeError(f"expected whole numbers of trial and epochs (found {whole})")
        if text := [v for v in (*trial.intermediate_values.values(), *(trial.values or [])) if isinstance(v, str)]:
            raise TypeError(f"expected numbers as scores (found {text[0][:40]!r})")


def _refuse_other_folder(folder):
    if folder.exists() and not folder.is_dir():
        raise InputError(f"STUDY: {folder} is a file; use a folder")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if others := sorted(name for name in names - {SETTINGS, LOCK} if not name.startswith(".part-")):
        raise InputError(f"STUDY: {folder} contains {others[0]} but no {DATABASE}; use a new or empty folder")


def _connect(path, read_only=False, **options):
    # a function, because a path may contain characters with a special meaning in URLs
    return optuna.storages.RDBStorage("sqlite:///study.db", {"creator": lambda: _open(path, read_only)}, **options)


def _open(path, read_only):
    if read_only:
        address = f"{path.absolute().as_uri()}?mode=ro"
        return sqlite3.connect(address, timeout=READING_SECONDS, uri=True, check_same_thread=False)
    return sqlite3.connect(path, timeout=WRITING_SECONDS, check_same_thread=False)


@contextmanager
def database_errors(path):
    """Turn the errors of a damaged or locked database into an InputError."""
    try:
        yield
    except DATABASE_ERRORS as error:
        raise_system_error(error, path)
        while error.__cause__:
            error = error.__cause__
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise InputError(
            f"{path}: cannot be used as a study of tune.py ({reason}); if it is damaged, restore a copy, "
            "or start over with another --study"
        ) from error


def lock_study(folder):
    """Wait for a study's lock and acquire it; the returned context manager releases it.

    The system releases every lock here when its process ends, even if killed. For processes on several machines, the
    shared file system must support locks, which SQLite requires too.

    Raises:
        InputError: if the file system does not support locks.
    """
    path = folder / LOCK
    try:
        return FileLock(path).acquire()
    except OSError as error:
        raise InputError(f"{path}: cannot be locked ({error.strerror}); use a folder on a local disk") from None


# --- which process runs which trial


def trial_folder(folder, number):
    """Folder of a trial: its run folder, what it printed, and its locks."""
    return Path(folder, "runs") / f"trial-{number:03d}"


def find_run(folder, fold=None):
    """Run in a trial's folder, that of a fold or the first one; None if there is none yet."""
    runs = [run for run in runs_in(folder) if fold is None or run.name == f"fold{fold}"]
    return next(iter(runs), None)


def trials_to_run(study, folder, count, add):
    """Take one trial after another: an interrupted one whose process has ended, or a new one.

    A trial has two locks: one for the process that runs it, one for the training that this process started. It is free
    if nobody holds them. A process needs the study's lock to take or add a trial. Optuna's heartbeat does not serve
    here: it marks a stale trial as failed, retries it as a new one, and assumes that a suspended process is dead.

    Args:
        study: optuna.Study.
        folder: Path of the study.
        count: number of trials of the search.
        add: function that accepts the trials so far and adds one to the study.

    Yields:
        FrozenTrial; its lock is kept until the next one is requested. Waits while other processes run the last ones.
    """
    waiting = False
    while True:
        with lock_study(folder):
            trials = study.get_trials()
            running = [trial.number for trial in trials if trial.state == TrialState.RUNNING]
            taken = next(filter(None, (_take(study, folder, number) for number in running)), None)
            if not taken and len(trials) < count:
                add(trials)
                continue
        if taken:
            trial, lock = taken
            with lock:
                yield trial
        elif not running:
            return
        else:
            if not waiting:
                print(f"waiting for other processes to finish (trials: {len(running)})", flush=True)
                waiting = True
            time.sleep(POLL_SECONDS)


def _take(study, folder, number):
    """(FrozenTrial, its lock) if no process runs the trial, else None."""
    inside = trial_folder(os.path.realpath(folder), number)
    folder = trial_folder(folder, number)
    if os.path.realpath(folder) != str(inside):
        raise InputError(f"{folder}: leads out of the study (found {os.path.realpath(folder)}); remove the link")
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as lock:
        try:
            lock.enter_context(FileLock(folder / TRIAL_LOCK, timeout=0))
            with FileLock(folder / TRAINING_LOCK, timeout=0):
                pass  # its training has also ended
        except Timeout:
            return None
        trial = study.get_trials()[number]
        if trial.state != TrialState.RUNNING:  # its process finished it just before releasing the lock
            return None
        for unfinished in folder.glob(".part-*"):
            remove(unfinished)
        return trial, lock.pop_all()


def add_trial(study, make_sampler, seed, choose_settings, trials):
    """Add a trial with all its values to a study in one step.

    Its values depend on the seed, its number and the trials before it, not on the process that chooses them.

    Args:
        study: optuna.Study, to which no other process may add meanwhile.
        make_sampler: function of a seed that returns an optuna sampler.
        seed: seed of the search.
        choose_settings: function of a trial that chooses its values.
        trials: trials of the study so far.

    Raises:
        InputError: if its trials have other values than its settings allow.
    """
    for attempt in range(10):  # with few combinations, a sampler repeats itself
        sampler_seed = int(np.random.SeedSequence([seed, len(trials), attempt]).generate_state(1)[0])
        sampler = make_sampler(sampler_seed)
        copy = optuna.create_study(study_name=STUDY_NAME, direction="maximize", sampler=sampler, pruner=study.pruner)
        copy.add_trials(trials)
        trial = copy.ask()
        choose_settings(trial)
        if all(trial.params != other.params for other in trials):
            break
    with as_changed_study():
        study.add_trial(create_trial(state=TrialState.RUNNING, params=trial.params, distributions=trial.distributions))


@contextmanager
def as_changed_study():
    """Turn a ValueError of Optuna into an InputError: a study was changed, since its settings were compared."""
    try:
        yield
    except ValueError as error:
        raise InputError(f"STUDY: its trials do not fit its settings ({error}); use another --study") from None


# --- progress of a trial


def count_start(live_trial, trial):
    """Count another start of a trial.

    Args:
        live_trial: optuna.trial.Trial.
        trial: the same one, frozen.

    Returns:
        Whether the trial may start. False after MAX_STARTS starts without a finished epoch in between: a trial may
        crash the machine each time.
    """
    epochs, starts = trial.user_attrs.get("starts", (0, 0))
    starts = starts + 1 if epochs == len(trial.intermediate_values) else 1
    live_trial.set_user_attr("starts", (len(trial.intermediate_values), starts))
    return starts <= MAX_STARTS


def follow_training(live_trial, process, folder, epochs, fold=None, before=()):
    """Report each epoch of a training to the study until the training ends.

    Args:
        live_trial: optuna.trial.Trial.
        process: subprocess.Popen of train.py.
        folder: Path of the trial's folder.
        epochs: number of epochs; a trial is not stopped in the last one.
        fold: number of the fold in training; None without folds.
        before: best validation Dice of each fold before; the mean with the best so far is reported.

    Yields:
        (epoch, validation Dice, whether to stop the trial) for each epoch not yet reported.
    """
    reported = set(live_trial.study.get_trials()[live_trial.number].intermediate_values)
    time_read = None
    ended, best = False, -math.inf
    while not ended:
        ended = process.poll() is not None  # before reading, so that no epoch is missed
        run = find_run(folder, fold)
        time_written = run.log_file.stat().st_mtime_ns if run and run.log_file.exists() else None
        rows = _read_rows(run) if time_written != time_read else []
        time_read = time_written if rows else time_read
        for epoch, dice in ((row["epoch"], row["val_dice"]) for row in rows):
            best = max(best, dice) if math.isfinite(dice) else best
            step = len(before) * epochs + epoch
            if step not in reported and (fold is None or math.isfinite(best)):
                reported.add(step)
                live_trial.report(dice if fold is None else statistics.fmean([*before, best]), step)
                yield epoch, dice, not ended and epoch < epochs and live_trial.should_prune()
        if not rows and not ended:
            time.sleep(POLL_SECONDS)


def _read_rows(run):
    """Rows of a run's log; none while the log is being replaced.

    Call this only after the log has changed: Windows cannot replace a file while it is being read.
    """
    try:
        return run.log.rows
    except PermissionError:
        return []


def failure_reason(output, status):
    """Return one line that explains why a training failed.

    Args:
        output: path of the file with its output.
        status: its exit status.
    """
    text = output.read_text(encoding="utf-8", errors="replace")
    if messages := re.findall(r"^train\.py: error: (.+)", text, re.M):
        return messages[-1]
    if is_out_of_memory(text):
        return "out of memory; use a smaller batch size or network"
    if status < 0:
        return f"ended by signal {-status}" + (", as the system does when memory runs out" if status == -9 else "")
    lines = text.strip().splitlines()
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return (errors or lines or [f"train.py exited with status {status} and no message"])[-1]
