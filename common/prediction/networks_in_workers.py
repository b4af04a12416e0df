"""Networks in the processes that predict: this one, or workers, which take its backend and the code that it trusts."""

import functools
import os
import socket
import sys
from pathlib import Path
from typing import NamedTuple

from common.devices import backend, import_keras
from common.errors import InputError
from common.training.trained_models import load_network
from common.training.trust import VARIABLE


class Surroundings(NamedTuple):
    """What a worker takes from the process that gives it work: Keras backend and trusted code; see `surroundings`."""

    backend: str
    trusted: str


def surroundings():
    """Surroundings of this process, in which Keras is loaded."""
    return Surroundings(backend(), os.environ.get(VARIABLE, ""))


def load_keras(wanted):
    """Load Keras in the process that does the work.

    Args:
        wanted: Surroundings.

    Raises:
        InputError: if this process has loaded Keras on another backend before.
    """
    os.environ[VARIABLE] = wanted.trusted
    if "keras" in sys.modules:
        if backend() != wanted.backend:
            raise InputError(
                f"WORKERS: a worker on {socket.gethostname()} computes with {backend()} (expected {wanted.backend}); "
                "start it again"
            )
        return
    os.environ["KERAS_BACKEND"] = wanted.backend
    import_keras(say_unused=False)


def load_for_prediction(path, precision=None):
    """`common.training.trained_models.load_network` for prediction only, with faster operations on a CPU.

    Later changes of the weights may have no effect.

    Args:
        path: Path of a .keras file.
        precision: "float32" or "mixed_bfloat16"; None: as it was trained.
    """
    network = load_network(path)
    from common.prediction.cpu_speedups import set_precision, speed_up_prediction  # load Keras; input is checked first

    if precision:
        set_precision(network, precision)
    speed_up_prediction(network)
    return network


def network_of(file, precision=None):
    """Network of a .keras file, in a precision; the last one stays loaded, unless its file changes."""
    return _network(Path(file), precision, os.stat(file).st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _network(file, precision, _changed):
    return load_for_prediction(file, precision)
