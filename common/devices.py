"""Backend, devices, precision and seeds: the one place, beside convert_coreml.py, that knows backends by name."""

import ctypes
import math
import os
import platform
import re
import sys
import time
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of malloc.h
GREATEST_SLOWDOWN = 2  # of bfloat16 in two convolutions, for which a trial of a whole network is worth its time
OUT_OF_MEMORY = re.compile(r"out.?of.?memory|OOM|ResourceExhausted|RESOURCE_EXHAUSTED|MemoryError", re.I)
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
            import tensorflow  # TensorBoard takes it on every backend; loaded here, it is quiet

            tensorflow.get_logger().setLevel("ERROR")  # it warns where networks see volumes of several sizes
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
    seconds = time_precisions(lambda: _two_convolutions(usual_jit()), _one_image)
    return seconds["mixed_bfloat16"] / seconds["float32"]


def slowdown_of_jit():
    """How many times longer a step of two convolutions takes with XLA than without; found in a few seconds."""
    seconds = time_steps({jit: partial(_two_convolutions, jit) for jit in (True, False)}, _one_image)
    return seconds[True] / seconds[False]


def _two_convolutions(jit):
    import keras

    convolutions = [keras.layers.Conv2D(32, 3, padding="same") for _ in range(2)]
    model = keras.Sequential([keras.Input((48, 48, 32)), *convolutions])
    model.compile("sgd", "mse", jit_compile=jit)
    return model


def _one_image():
    import numpy as np

    return (np.ones((1, 48, 48, 32), np.float32),) * 2


def time_precisions(make_model, make_batch, rounds=3, policies=("float32", "mixed_bfloat16")):
    """Seconds of a training step by policy, as `time_steps` has them.

    Arguments as in `choose_precision`.
    """
    import keras

    def make(policy):
        kept = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            model = make_model()
            model.train_on_batch(*make_batch())  # the policy counts until it is traced
            return model
        finally:
            keras.config.set_dtype_policy(kept)

    return time_steps({policy: partial(make, policy) for policy in policies}, make_batch, rounds)


def time_steps(makers, make_batch, rounds=3):
    """Seconds of a training step in several ways: the least of `rounds`, in which the ways alternate.

    Args:
        makers: dict of the name of a way to a function that gives a compiled network.
        make_batch: function that gives a batch (x, y).
        rounds: how often.

    Returns:
        dict of the names to seconds.
    """
    batch, trained = make_batch(), {}
    for name, make in makers.items():
        trained[name] = make()
        trained[name].train_on_batch(*batch)  # compiles
    seconds = dict.fromkeys(trained, math.inf)
    for _ in range(rounds):
        for name, model in trained.items():
            started = time.perf_counter()
            model.train_on_batch(*batch)
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    return seconds


def choose_jit(setting="auto", deterministic=True, make_model=None, make_batch=None, steps=0):
    """Whether to compile with XLA, or with the compiler of PyTorch.

    Args:
        setting: True, False or "auto".
        deterministic: whether operations were chosen that repeat themselves; TensorFlow has them without XLA only.
        make_model: function of True or False that gives a new network compiled so.
        make_batch: function that gives a batch (x, y).
        steps: number of steps of the run; below 500 a trial is not worth its time.

    Returns:
        For "auto" on JAX True and on PyTorch False. On TensorFlow, where a run is long and need not repeat itself, True
        if a step takes less than nine tenths of one without XLA, as a trial finds; else the usual.
    """
    import keras

    usual = usual_jit()
    if setting != "auto":
        return setting
    if keras.backend.backend() != "tensorflow" or deterministic:
        return {"jax": True, "torch": False, "tensorflow": False}[keras.backend.backend()]
    if steps < 500 or (not accelerators() and slowdown_of_jit() > GREATEST_SLOWDOWN):
        return bool(usual)
    print("trying out a step with XLA and without", flush=True)
    seconds = time_steps({jit: partial(make_model, jit) for jit in (True, False)}, make_batch)
    return seconds[True] < 0.9 * seconds[False]


def choose_batch_size(start, make_model, make_batch, greatest):
    """Size of a batch from `start` on, doubled as long as that trains a tenth more images a second and fits in memory.

    Args:
        start: size to begin with.
        make_model: function that gives a new compiled network.
        make_batch: function of a size that gives a batch (x, y).
        greatest: never more than this.
    """
    print("trying out sizes of a batch", flush=True)
    size, model = start, make_model()

    def rate(size):
        return size / time_steps({size: lambda: model}, lambda: make_batch(size))[size]

    best = rate(size)
    while 2 * size <= greatest:
        try:
            faster = rate(2 * size)
        except Exception as error:
            if not OUT_OF_MEMORY.search(f"{type(error).__name__} {error}"):
                raise
            break
        if faster < 1.1 * best:
            break
        size, best = 2 * size, faster
    return size


def usual_jit():
    """Whether to compile with XLA without a trial: not with TensorFlow on a CPU, whose own convolutions are faster."""
    import keras

    return False if keras.backend.backend() == "tensorflow" and not accelerators() else "auto"


def conv3d_is_slow():
    """Whether a 3-D convolution is slower than a 2-D one over its planes: with TensorFlow on a CPU, backwards most."""
    import keras

    return keras.backend.backend() == "tensorflow" and not accelerators()


def peak(precision):
    """Greatest floating-point operations a second of the accelerator; None for a CPU, float32 or another chip."""
    import keras

    from common.flops import peak_flops

    backend = keras.backend.backend()
    if not accelerators() or precision == "float32":
        return None
    if backend == "tensorflow":
        import tensorflow as tf

        name = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])["device_name"]
    elif backend == "jax":
        import jax

        name = jax.devices()[0].device_kind
    else:
        import torch

        name = torch.cuda.get_device_name(0)
    return peak_flops(name)


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
