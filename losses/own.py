"""Losses of your own: the path of a Python file that defines

    def loss(targets, probabilities):

of two float32 tensors (B, H, W, C), or (B, S, H, W, K) for volumes, to the loss of each image, (B,) float32. C is 1 for
one class, or K + 1 with the background first; `losses.overlap` and `losses.pixel` have examples.
"""

import functools
import importlib.util
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from keras import ops

_folder = ContextVar("folder of the run's copies", default=None)  # see `files_in`


def is_own(term):
    """Whether a term of a loss is the path of a file."""
    return term.endswith(".py")


def own_files(terms):
    """Paths of the files that a loss such as "my.py+dice" needs."""
    return [term for term in terms.split("+") if is_own(term)]


@functools.cache
def find_loss(path):
    """Function `loss` of a Python file, which is read once.

    Raises:
        ValueError: if there is no such file, it does not run, or it has no such function.
    """
    if not Path(path).is_file():
        raise ValueError(f"loss file {path} does not exist")
    specification = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
    except Exception as error:  # whatever a user's file does
        raise ValueError(f"loss file {path} does not run: {_in_one_line(error)}") from error
    if not callable(getattr(module, "loss", None)):
        raise ValueError(f"loss file {path} has no function loss(targets, probabilities)")
    return module.loss


def try_loss(path, classes, axes):
    """Raise ValueError if the loss of a file does not work on two images; arguments as `losses.get_loss`."""
    channels = classes + 1 if axes == 2 and classes > 1 else classes
    shape = (2, *[16] * axes, channels)
    try:
        values = find_loss(path)(ops.zeros(shape, "float32"), ops.full(shape, 1 / (channels + 1), "float32"))
        found = f"{tuple(values.shape)} {values.dtype}"
        fits = len(values.shape) == 1 and values.shape[0] == 2 and "float32" in str(values.dtype)
    except Exception as error:  # whatever a user's function does
        raise ValueError(f"loss of {path} fails on {shape}: {_in_one_line(error)}") from error
    if not fits:
        raise ValueError(f"loss of {path} gives {found} on {shape}; expected (2,) float32, a value for each image")


@contextmanager
def files_in(folder):
    """Within this, checkpoints take the files of their loss from a folder, if it has them: the copies that a run keeps.

    Args:
        folder: Path.
    """
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def take_copies(terms):
    """Terms of a loss, with the files of `files_in` in place of others of the same name."""
    folder = _folder.get()
    if folder is None:
        return terms

    def copy_of(term):
        copy = folder / Path(term).name
        return str(copy) if is_own(term) and copy.is_file() else term

    return "+".join(map(copy_of, terms.split("+")))


def _in_one_line(error):
    return f"{type(error).__name__}: {error}".partition("\n")[0]
