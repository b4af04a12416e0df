"""Your own losses: the path of a Python file that defines

    def loss(targets, probabilities):

Both are float32 tensors (B, H, W, C), or (B, S, H, W, K) for volumes; it returns the loss of each image, (B,) float32.
C is 1 for one class, or K + 1 with the background first. See `losses.overlap` and `losses.pixel` for examples.
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
        ValueError: if the file is missing, does not run, or has no such function.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: loss file does not exist; check the path")
    specification = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
    except Exception as error:  # a user's file can raise anything
        raise ValueError(f"{path}: loss file does not run ({_in_one_line(error)})") from error
    if not callable(getattr(module, "loss", None)):
        raise ValueError(f"{path}: no function loss(targets, probabilities); define it")
    return module.loss


def try_loss(path, classes, axes):
    """Raise ValueError if the loss in a file does not work on two images; arguments as in `losses.get_loss`."""
    channels = classes + 1 if axes == 2 and classes > 1 else classes
    shape = (2, *[16] * axes, channels)
    try:
        values = find_loss(path)(ops.zeros(shape, "float32"), ops.full(shape, 1 / (channels + 1), "float32"))
        found = f"{tuple(values.shape)} {values.dtype}"
        fits = len(values.shape) == 1 and values.shape[0] == 2 and "float32" in str(values.dtype)
    except Exception as error:  # a user's function can raise anything
        raise ValueError(f"{path}: loss fails on {shape} ({_in_one_line(error)})") from error
    if not fits:
        raise ValueError(f"{path}: expected (2,) float32, one value per image (found {found} for {shape})")


@contextmanager
def files_in(folder):
    """In this context, checkpoints load the files of their loss from a folder, if it has them: the run's copies.

    Args:
        folder: Path.
    """
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def take_copies(terms):
    """Terms of a loss, with each file replaced by its copy in the folder of `files_in`, if there is one."""
    folder = _folder.get()
    if folder is None:
        return terms

    def copy_of(term):
        copy = folder / Path(term).name
        return str(copy) if is_own(term) and copy.is_file() else term

    return "+".join(map(copy_of, terms.split("+")))


def _in_one_line(error):
    return f"{type(error).__name__}: {error}".partition("\n")[0]
