"""GPUs of this machine, whether or not a backend uses them, and the backend that can use them.

Nothing here imports a backend: what is installed shows in its files. A backend that should see the GPU may still fail
to, such as with an old driver, so `common.devices` looks again once it is imported.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from common.errors import InputError

BACKENDS = ("tensorflow", "jax", "torch")  # in the order in which they are chosen
JAX_PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")
GB = 1e9
QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits")
SECONDS_FOR_DRIVER = 20
PAGE = "docs/install.md"


class Gpu(NamedTuple):
    """A GPU as its driver reports it, memory in GB; 0: unknown."""

    name: str
    memory: float
    free: float


# --- what the machine has


def find_gpus():
    """GPUs that the NVIDIA driver reports: list of Gpu, empty without a driver.

    Raises:
        OSError: if there is a driver that does not answer.
    """
    if not shutil.which(QUERY[0]):
        return []
    try:
        result = subprocess.run(QUERY, capture_output=True, text=True, timeout=SECONDS_FOR_DRIVER, check=False)
    except subprocess.TimeoutExpired:
        raise OSError(f"no answer in {SECONDS_FOR_DRIVER} s") from None
    lines = result.stdout.splitlines()
    if result.returncode:
        raise OSError(next(iter([*lines, *result.stderr.splitlines()]), f"status {result.returncode}")[:200])
    fields = [[field.strip() for field in line.rsplit(",", 2)] for line in lines if line.count(",") >= 2]
    return [Gpu(name, _gigabytes(total), _gigabytes(free)) for name, total, free in fields]


def _gigabytes(text):
    """MiB as text, such as "81559" or "[N/A]", in GB."""
    return float(text) * 2**20 / GB if text.replace(".", "").isdecimal() else 0.0


def has_apple_gpu():
    """Whether this is a Mac with Apple silicon, whose GPU only PyTorch uses."""
    return sys.platform == "darwin" and platform.machine() == "arm64"


def is_hidden():
    """Whether the user hides NVIDIA GPUs from the backends."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")


@cache
def _names():
    """Names of the GPUs, a tuple; one that does not answer is "?": the driver takes up to a second."""
    if has_apple_gpu():
        return ("Apple silicon",)
    try:
        return tuple(gpu.name for gpu in find_gpus())
    except OSError:
        return ("?",)


def names_to_use():
    """Names of the GPUs that a backend is to use, a list; without those that do not answer or are hidden."""
    if is_hidden() and not has_apple_gpu():
        return []
    return [name for name in _names() if name != "?"]


# --- what the backends can use


def is_installed(package):
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def is_built_for_gpu(backend):
    """Whether a backend is installed with what it needs for the GPU of this machine."""
    if backend == "torch":
        return _has_torch() and (has_apple_gpu() or _has_torch_cuda())
    if has_apple_gpu() or sys.platform == "win32":  # there, neither TensorFlow nor JAX uses a GPU
        return False
    if backend == "jax":
        return is_installed("jax") and any(map(is_installed, JAX_PLUGINS))
    return _has_tensorflow_cuda()


def _has_torch():
    return find_spec("torch") is not None


def _has_torch_cuda():
    """Whether PyTorch was compiled for CUDA; read from its file of versions, as the import takes seconds."""
    for folder in find_spec("torch").submodule_search_locations or ():
        path = Path(folder, "version.py")
        if path.is_file():
            return bool(re.search(r"^cuda\b.*=\s*['\"]\d", path.read_text(encoding="utf-8"), re.M))
    return False


def _has_tensorflow_cuda():
    """Whether all that `tensorflow[and-cuda]` adds to TensorFlow is installed."""
    try:
        lines = requires("tensorflow") or []
    except PackageNotFoundError:
        return False
    added = [re.match(r"[\w.-]+", line)[0] for line in lines if re.search(r"extra\s*==\s*['\"]and-cuda", line)]
    return bool(added) and all(map(is_installed, added))


def choose_backend():
    """Backend to import: KERAS_BACKEND, or the installed one that can use the GPU, or the first installed one.

    Raises:
        InputError: if KERAS_BACKEND is none of the toolkit's, or not installed.
    """
    installed = [name for name in BACKENDS if find_spec(name)]
    if wanted := os.environ.get("KERAS_BACKEND"):
        if wanted not in BACKENDS:
            raise InputError(f"KERAS_BACKEND: unknown backend (found {wanted!r}); use {', '.join(BACKENDS)}")
        if wanted not in installed:
            found = f"{wanted} is not installed (found {', '.join(installed) or 'none'})"
            raise InputError(f"KERAS_BACKEND: {found}; install it as in {PAGE}, or unset KERAS_BACKEND")
        return wanted
    able = [name for name in installed if is_built_for_gpu(name)] if len(installed) > 1 and names_to_use() else []
    return (able + installed + [BACKENDS[0]])[0]


# --- what to tell the user


def unused_gpu(backend, devices):
    """A line about a GPU that the backend does not use, with what to install; "" if there is none.

    Args:
        backend: name of the backend, which uses no GPU.
        devices: its devices as text, such as "tensorflow on cpu:0".
    """
    if not has_apple_gpu() and not is_hidden() and "?" in _names():
        return broken_driver(_driver_error())
    if not (names := names_to_use()):
        return ""
    several = f"{len(names)} of " if len(names) > 1 else ""
    return f"GPU: {backend} does not use it (found {several}{names[0]}, and {devices}); {_advice(backend)}"


def unused_before_import():
    """As `unused_gpu`, from the files of the backend that would be imported."""
    backend = choose_backend()
    return "" if is_built_for_gpu(backend) else unused_gpu(backend, f"{backend} on cpu:0")


def _driver_error():
    try:
        find_gpus()
    except OSError as error:
        return error
    return "no answer"


def broken_driver(error):
    """The line about a driver that does not answer."""
    return f"GPU: the driver does not work (found {error}); restart the machine, or install the driver again"


def _advice(backend):
    to_hide = "" if has_apple_gpu() else "; to use the processor, set CUDA_VISIBLE_DEVICES=-1"
    if is_built_for_gpu(backend):
        return f'see "If the GPU is not used" in {PAGE}{to_hide}'
    if able := [name for name in BACKENDS if find_spec(name) and is_built_for_gpu(name)]:
        return f"set KERAS_BACKEND={able[0]}, which can use it{to_hide}"
    return f"run: {install_command()}{to_hide}"


def install_command():
    """Command that installs a backend for the GPU of this system."""
    return f"pip install -r requirements-{'windows-' if sys.platform == 'win32' else ''}gpu.txt"
