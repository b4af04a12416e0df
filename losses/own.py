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

_find_copy = ContextVar("function that finds the copy of a file", default=None)  # see `copies`


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
        source = Path(path).read_bytes()  # not through the loader, which prefers a .pyc that may say something else
        exec(compile(source, path, "exec"), module.__dict__)
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
def copies(find):
    """In this context, checkpoints run copies of the files of their loss; without it, they run no file.

    Args:
        find: function of the path of a file in training that returns the path of a copy, or raises an error.
    """
    token = _find_copy.set(find)
    try:
        yield
    finally:
        _find_copy.reset(token)


def take_copies(terms, find=None):
    """Terms of a loss, with each file replaced by its copy.

    Args:
        terms: names and paths joined by "+".
        find: as in `copies`; None: the function of that context.

    Raises:
        ValueError: if there is a file, but no function.
    """
    find = find or _find_copy.get()
    if own_files(terms) and find is None:
        raise ValueError(f"{terms}: a checkpoint runs loss files only as copies in its run folder")
    return "+".join(str(find(term)) if is_own(term) else term for term in terms.split("+"))


def _in_one_line(error):
    return f"{type(error).__name__}: {error}".partition("\n")[0]
