"""Backend, devices, precision and seeds: the one place, beside convert_coreml.py, that knows backends by name."""

import ctypes
import os
import platform
import sys
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version

from common.errors import InputError
from common.training.distribution import meet, several_processes

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of malloc.h
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


def set_defaults():
    """Environment variables that Keras and TensorFlow heed when they are imported, where the user has not set them."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # faster on every CPU; by itself it is on where AVX-512 is


def import_keras(together=False):
    """Import Keras, quietly, on the backend that KERAS_BACKEND names, TensorFlow by default.

    Args:
        together: whether to meet the other processes that the environment names; see `common.training.distribution`.

    Raises:
        InputError: if there are some, and the backend is not JAX, or they are not there.
    """
    set_defaults()
    if together and several_processes():
        if os.environ["KERAS_BACKEND"] != "jax":
            raise InputError("several processes train on JAX: install it and set KERAS_BACKEND=jax for each")
        meet()
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
    if not is_tensorflow_on_cpu() or not sys.platform.startswith("linux"):
        return
    with suppress(AttributeError, OSError):  # another C library
        library = ctypes.CDLL(None)
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_ARENA_MAX, 1)):
            library.mallopt(parameter, value)


def feed(batches):
    """Batches of slices as `fit` takes them without waiting.

    Keras would hand them to a dataset of TensorFlow that tunes itself; the end of an epoch of some seconds was seen to
    wait for as long again for the thread that tunes. Other backends, and batches that threads make, go as they are.

    Args:
        batches: keras.utils.PyDataset of pairs of arrays.
    """
    import keras

    if keras.backend.backend() != "tensorflow" or batches.workers > 1:
        return batches
    import tensorflow as tf

    signature = tuple(tf.TensorSpec((None, *array.shape[1:]), array.dtype) for array in batches[0])
    dataset = tf.data.Dataset.from_generator(
        lambda: map(batches.__getitem__, range(len(batches))), output_signature=signature
    )
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.apply(tf.data.experimental.assert_cardinality(len(batches))).prefetch(2).with_options(options)


def usual_half():
    """Policy of half precision of the accelerator: bfloat16, or float16 on a GPU that computes no bfloat16."""
    import keras

    if keras.backend.backend() == "tensorflow" and accelerators()[0].startswith("gpu"):
        import tensorflow as tf

        gpu = tf.config.list_physical_devices("GPU")[0]
        capability = tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        return "mixed_bfloat16" if capability >= (8, 0) else "mixed_float16"
    return "mixed_bfloat16"


def usual_jit():
    """Whether to compile with XLA without a trial: not with TensorFlow on a CPU, whose own convolutions are faster."""
    return False if is_tensorflow_on_cpu() else "auto"


def is_tensorflow_on_cpu():
    """Whether it is TensorFlow that computes, and on a CPU, where some operations of its own are slow."""
    import keras

    return keras.backend.backend() == "tensorflow" and not accelerators()


def peak(precision):
    """Greatest floating-point operations a second of the accelerator; None for a CPU, float32 or another chip."""
    import keras

    from common.training.flops import peak_flops

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
