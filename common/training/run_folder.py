"""The trained networks of a run folder."""

import zipfile
from pathlib import Path

from common.errors import InputError, as_input_error
from common.files import read_json

ROOT = Path(__file__).resolve().parents[2]
CODE = ("train.py", "models", "losses", "common")
MODELS = ("best_dice", "best_iou", "last")  # what train.py keeps of a run


def read_code(model, loss):
    """The code that a run is made with, as it is now: dict of a path in `code/` of the run folder to bytes.

    Args:
        model: name of the network, or path of a .py file, which is kept too.
        loss: name of the loss; .py files in it are kept too.

    Raises:
        InputError: if two different files have one name.
    """
    files = [path for name in CODE for path in [ROOT / name, *sorted((ROOT / name).rglob("*"))] if path.is_file()]
    kept = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in files if "__pycache__" not in path.parts}
    for path in map(Path, [model, *loss.split("+")]):
        if path.suffix != ".py" or not path.is_file():
            continue
        if kept.setdefault(path.name, path.read_bytes()) != path.read_bytes():
            raise InputError(f"{path}: the run keeps another file called {path.name}; rename yours")
    return kept


def model_file(run, which="best_dice"):
    """Find a trained network.

    Args:
        run: run folder of train.py; a folder of such, whose newest is taken; or a .keras file, taken as it is.
        which: one of MODELS, for a run folder.

    Returns:
        Path of the .keras file.

    Raises:
        InputError: if there is none, or it is no .keras file.
    """
    if not str(run):
        raise InputError("RUN is not set; give --run a run folder of train.py or a .keras file")
    run = Path(run)
    if not run.exists():
        raise InputError(f"{run} does not exist; give --run a run folder of train.py or a .keras file")
    if run.is_dir():
        run = newest_run(run)
        there = [name for name in MODELS if (run / f"{name}.keras").is_file()]
        if not there:
            raise InputError(
                f"{run} is no run folder of train.py: none of {', '.join(MODELS)} is there as a .keras file"
            )
        if which not in there:
            raise InputError(f"{run} holds no {which}.keras; it has {' and '.join(there)}")
        run = run / f"{which}.keras"
    if run.suffix != ".keras":
        raise InputError(f"{run} is no .keras file; give --run a run folder of train.py or a .keras file")
    if not zipfile.is_zipfile(run):
        raise InputError(f"{run} is damaged or cut short: it is not what Keras writes; give --run another model")
    return run


def newest_run(folder):
    """The newest run folder in a folder of runs, whose names begin with their dates; any other folder is itself."""
    runs = [path for path in folder.iterdir() if (path / "settings.json").is_file()]
    return folder if (folder / "settings.json").is_file() or not runs else max(runs, key=lambda path: path.name)


def load_network(path):
    """Load a trained network, uncompiled.

    Args:
        path: .keras file.

    Returns:
        keras.Model in the precision that it was trained in.

    Raises:
        InputError: if the file is damaged, or holds a layer that is not known here.
    """
    import keras

    import models  # makes the own layers known to Keras

    record = Path(path).with_name("settings.json")
    own = Path(read_json(record).get("MODEL", "")) if record.exists() else Path()
    if own.suffix == ".py":  # a user's network, which may have layers of its own: the run keeps a copy
        with as_input_error(path):
            models.find_network(str(record.with_name("code") / own.name))
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # whatever Keras, HDF5 or a layer make of a file that does not fit
        reason = next(filter(None, str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"{path} cannot be loaded: {reason}\n"
            "It is damaged, or has a layer of your own without @keras.saving.register_keras_serializable()."
        ) from error


def take_weights(model, other, source):
    """Give a network the weights of the layers of another one that have the same names and shapes, and say which.

    Args:
        model, other: keras.Model.
        source: where the other one came from, for messages.

    Raises:
        InputError: if no layer fits.
    """
    theirs = {layer.name: layer.get_weights() for layer in other.layers}
    taken, left = 0, []
    for layer in model.layers:
        ours, weights = layer.get_weights(), theirs.get(layer.name, [])
        if not ours:
            continue
        if [w.shape for w in ours] == [w.shape for w in weights]:
            layer.set_weights(weights)
            taken += 1
        else:
            left.append(layer.name)
    if not taken:
        raise InputError(f"no layer of {source} fits {model.name}; retrain needs a run of the same network")
    print(f"took the weights of {taken} layers of {source}" + (f"; new: {', '.join(left)}" if left else ""))
