"""Make a run folder with the settings, the environment and the code that it uses."""

import itertools
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from common.claims import claimed
from common.errors import InputError
from common.files import ROOT, write_json
from common.replacing import whole_folder
from common.training.run_folder import Run
from common.training.trained_models import CrossValidation

CODE = ("train.py", "models", "losses", "common")


def make_run(runs, model, settings, environment, code, name=None):
    """Make a run folder with the settings, the environment and the code.

    Args:
        runs: folder of the run folders.
        model: name of the network architecture, or path of a .py file.
        settings: result of `common.settings.Settings.explained`.
        environment: text about versions and machine.
        code: result of `read_code`.
        name: folder name; None: date, time and network.

    Returns:
        Run in `<runs>/<yyyymmdd-hhmmss>_<model>`, with a number appended if that exists.
    """
    path = new_folder(runs, name or dated(model))
    try:
        with whole_folder(path, listed=False) as unfinished:
            run = Run(unfinished)
            write_json(run.settings_file, settings)
            run.environment_file.write_text(environment, encoding="utf-8")
            for file, content in code.items():
                copy = run.code_folder / file
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(content)
    except BaseException:
        with suppress(OSError):
            path.rmdir()  # empty: the disk is full, or the user has stopped it
        raise
    return Run(path)


@contextmanager
def claim_run(run):
    """Keep other processes from writing a Run during the block; remove what a killed one left in it."""
    with claimed(run):
        for folder in (run.tensorboard_folder, run.progress_folder):  # files replace a link, but these are written into
            if folder.is_symlink():
                raise InputError(f"{folder}: a link (expected a folder of the run); remove it")
        run.remove_unfinished()
        yield run


@contextmanager
def open_run(settings, environment, code):
    """Claim the run folder to resume, or a new one; arguments as in `make_run`."""
    run = Run(settings.RUN)
    if settings.MODE != "resume":
        name = f"fold{settings.FOLD}" if CrossValidation(settings.RUNS).exists else None
        run = make_run(settings.RUNS, settings.MODEL, settings.explained(), environment, code, name)
    with claim_run(run):
        yield run


def dated(model):
    """Name of a new run folder of a network: <yyyymmdd-hhmmss>_<model>."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}_{Path(model).stem}"


def new_folder(runs, name):
    """Make a folder that did not exist, even if several processes do this at once.

    Args:
        runs: folder to make it in.
        name: its name; a number is appended if that exists.

    Returns:
        Path.
    """
    for number in itertools.count(1):
        path = Path(runs, f"{name}-{number}" if number > 1 else name)
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if not Path(runs).is_dir():
                raise
        else:
            return path


def read_code(model, loss):
    """Read the code that a run uses: dict of path in `code/` of the run folder to bytes.

    Args:
        model: name of the network architecture, or path of a .py file, which is included; None: not known yet.
        loss: name of the loss; .py files in it are included; None: not known yet.

    Raises:
        InputError: if two different files have the same name.
    """
    files = [path for name in CODE for path in [ROOT / name, *sorted((ROOT / name).rglob("*"))] if path.is_file()]
    kept = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in files if "__pycache__" not in path.parts}
    for path in map(Path, [model or "", *(loss or "").split("+")]):
        if path.suffix != ".py" or not path.is_file():
            continue
        if kept.setdefault(path.name, path.read_bytes()) != path.read_bytes():
            raise InputError(f"{path}: the run already keeps another file called {path.name}; rename yours")
    return kept
