"""Backend, devices, precision and seeds: the one place, beside convert_coreml.py, that knows backends by name."""

import ctypes
import math
import os
import platform
import sys
import time
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of malloc.h
GREATEST_SLOWDOWN = 2  # of bfloat16 in two convolutions, for which a trial of a whole network is worth its time
PACKAGES = ("tensorflow", "jax", "torch", "keras", "numpy", "h5py", "pandas", "opencv-python-headless", "coremltools")


@contextmanager
def hushed():
    """Leave out what C++ libraries write to standard error: TensorFlow's do not heed their own log level."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def import_keras():
    """Import Keras, quietly, on the backend that KERAS_BACKEND names, TensorFlow by default."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with hushed():
        import keras  # noqa: F401

        with suppress(ImportError):
            import tensorflow  # noqa: F401  (TensorBoard takes it on every backend; loaded here, it is quiet)
        list_devices()


def list_devices():
    """Names of the devices of the backend, such as `gpu:0`; `cpu:0` where there is nothing else."""
    import keras

    if keras.backend.backend() == "torch":  # Keras lists devices on TensorFlow and JAX only
        import torch

        return [f"gpu:{i}" for i in range(torch.cuda.device_count())] or ["cpu:0"]
    return keras.distribution.list_devices()


def accelerators():
    """Names of the devices that are no CPU."""
    return [name for name in list_devices() if not name.startswith("cpu")]


def set_up(seed, deterministic):
    """Seed Python, NumPy and the backend, and make the backend repeat itself exactly.

    Args:
        seed: int of 0 or more.
        deterministic: whether operations are chosen that give the same bits every time.
    """
    import keras

    keras.utils.set_random_seed(seed)
    hold_memory()
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        if deterministic:
            tf.config.experimental.enable_op_determinism()


def hold_memory():
    """Let TensorFlow on a CPU keep the memory of its tensors from step to step.

    The C library of Linux gives large blocks back to the system as soon as they are free, and finding new pages for the
    same tensors in the next step can take a third of its time. Elsewhere this does nothing.
    """
    import keras

    if keras.backend.backend() != "tensorflow" or accelerators() or not sys.platform.startswith("linux"):
        return
    with suppress(AttributeError, OSError):  # another C library
        library = ctypes.CDLL(None)
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_ARENA_MAX, 1)):
            library.mallopt(parameter, value)


def choose_precision(setting, make_model, make_batch, steps):
    """Dtype policy of a setting.

    Args:
        setting: "auto", or a policy of Keras: "float32", "mixed_bfloat16", "mixed_float16".
        make_model: function that gives a new compiled network in the current policy.
        make_batch: function that gives a batch (x, y).
        steps: number of steps of the run; below 500 a trial is not worth its time, and a CPU takes float32.

    Returns:
        The policy: for "auto" mixed_bfloat16 on a GPU or TPU that has it, mixed_float16 on an older GPU, and on a CPU
        mixed_bfloat16 where a step takes less than nine tenths of one in float32. A CPU that computes bfloat16
        slowly is not tried, since a trial would take minutes.
    """
    if setting != "auto":
        return setting
    import keras

    if not accelerators():
        if steps < 500 or slowdown_of_bfloat16() > GREATEST_SLOWDOWN:
            return "float32"
        print("trying out float32 and bfloat16", flush=True)
        seconds = time_precisions(make_model, make_batch)
        return "mixed_bfloat16" if seconds["mixed_bfloat16"] < 0.9 * seconds["float32"] else "float32"
    if keras.backend.backend() == "tensorflow" and accelerators()[0].startswith("gpu"):
        import tensorflow as tf

        gpu = tf.config.list_physical_devices("GPU")[0]
        capability = tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        return "mixed_bfloat16" if capability >= (8, 0) else "mixed_float16"
    return "mixed_bfloat16"


def slowdown_of_bfloat16():
    """How many times longer a step of two convolutions takes in bfloat16 than in float32; found in a few seconds.

    Backwards makes the difference: a convolution of TensorFlow on a CPU was seen to be as fast as in float32 forwards,
    and 12 to 19 times slower backwards.
    """
    import keras
    import numpy as np

    def make_model():
        convolutions = [keras.layers.Conv2D(32, 3, padding="same") for _ in range(2)]
        model = keras.Sequential([keras.Input((48, 48, 32)), *convolutions])
        model.compile("sgd", "mse", jit_compile=choose_jit())
        return model

    image = np.ones((1, 48, 48, 32), np.float32)
    seconds = time_precisions(make_model, lambda: (image, image))
    return seconds["mixed_bfloat16"] / seconds["float32"]


def time_precisions(make_model, make_batch, rounds=3, policies=("float32", "mixed_bfloat16")):
    """Seconds of a training step by policy: the least of `rounds`, in which the policies alternate.

    Arguments as in `choose_precision`.
    """
    import keras

    kept = keras.config.dtype_policy()
    trained, batch = {}, make_batch()
    for policy in policies:
        keras.config.set_dtype_policy(policy)
        trained[policy] = make_model()
        trained[policy].train_on_batch(*batch)  # compiles
    keras.config.set_dtype_policy(kept)
    seconds = dict.fromkeys(trained, math.inf)
    for _ in range(rounds):
        for policy, model in trained.items():
            started = time.perf_counter()
            model.train_on_batch(*batch)
            seconds[policy] = min(seconds[policy], time.perf_counter() - started)
    return seconds


def choose_jit():
    """Whether to compile with XLA: not with TensorFlow on a CPU, where its own convolutions are faster."""
    import keras

    return False if keras.backend.backend() == "tensorflow" and not accelerators() else "auto"


def conv3d_is_slow():
    """Whether a 3-D convolution is slower than a 2-D one over its planes: with TensorFlow on a CPU, backwards most."""
    import keras

    return keras.backend.backend() == "tensorflow" and not accelerators()


def describe():
    """The backend and its devices in a few words."""
    import keras

    return f"{keras.backend.backend()} on {', '.join(list_devices())}"


def environment(backend=True):
    """Versions and machine as text, one a line; `backend` loads Keras to say what it computes on."""
    lines = [
        f"python {sys.version.split()[0]}",
        f"system {platform.system()} {platform.release()} {platform.machine()}",
    ]
    lines += [f"cores {os.cpu_count()}"] + ([f"backend {describe()}"] if backend else [])
    for package in PACKAGES:
        try:
            lines.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return "\n".join(lines) + "\n"
