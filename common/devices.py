"""Backend, devices, precision and seeds: the one place, beside convert_coreml.py, that knows backends by name."""

import os
import platform
import sys
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version

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
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        if deterministic:
            tf.config.experimental.enable_op_determinism()


def choose_precision(setting):
    """Dtype policy of a setting.

    Args:
        setting: "auto", or a policy of Keras: "float32", "mixed_bfloat16", "mixed_float16".

    Returns:
        The policy: for "auto" mixed_bfloat16 on a GPU or TPU that has it, mixed_float16 on an older GPU, float32
        on a CPU.
    """
    if setting != "auto":
        return setting
    import keras

    if not accelerators():
        return "float32"
    if keras.backend.backend() == "tensorflow" and accelerators()[0].startswith("gpu"):
        import tensorflow as tf

        gpu = tf.config.list_physical_devices("GPU")[0]
        capability = tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        return "mixed_bfloat16" if capability >= (8, 0) else "mixed_float16"
    return "mixed_bfloat16"


def choose_jit():
    """Whether to compile with XLA: not with TensorFlow on a CPU, where its own convolutions are faster."""
    import keras

    return False if keras.backend.backend() == "tensorflow" and not accelerators() else "auto"


def describe():
    """The backend and its devices in a few words."""
    import keras

    return f"{keras.backend.backend()} on {', '.join(list_devices())}"


def environment():
    """Versions and machine as text, one a line, for a run's `environment.txt`."""
    lines = [
        f"python {sys.version.split()[0]}",
        f"system {platform.system()} {platform.release()} {platform.machine()}",
    ]
    lines += [f"cores {os.cpu_count()}", f"backend {describe()}"]
    for package in PACKAGES:
        try:
            lines.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return "\n".join(lines) + "\n"
