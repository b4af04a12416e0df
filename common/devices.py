"""Backend, devices, precision and seeds; gpus, cpu_speedups, distribution, mirrored and coreml depend on it too.

Functions import Keras only when needed: it takes seconds, and scripts that import this module check their input first.
TensorFlow, JAX and PyTorch are optional.
"""

import ctypes
import os
import platform
import re
import sys
import threading
from collections import Counter
from contextlib import contextmanager, nullcontext, suppress
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace

from common import gpus
from common.errors import InputError
from common.loading import hidden, without_collecting

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # from malloc.h
LOADED_UNUSED = ("jax", "matplotlib.pyplot")  # by tensorflow.lite and by Keras' galleries of images
PACKAGES = ("tensorflow", "jax", "torch", "keras", "numpy", "h5py", "pandas", "opencv-python-headless", "coremltools")

_silence = SimpleNamespace(lock=threading.Lock(), users=Counter(), kept={})


@contextmanager
def silenced_libraries(modules=True):
    """Discard what C++ libraries write to standard error; TensorFlow's ignore their own log level.

    Several threads may do so at once: standard error is back when the last one has ended.

    Args:
        modules: whether to discard what Python prints there, too, such as warnings during an import; False: progress
            and messages of other threads still appear.
    """
    sys.stderr.flush()
    descriptors = {2, _descriptor_of_modules()} if modules else {2}
    with _silence.lock:
        for descriptor in descriptors:
            if not _silence.users[descriptor]:
                _silence.kept[descriptor], discarded = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
                os.dup2(discarded, descriptor)
                os.close(discarded)
            _silence.users[descriptor] += 1
    try:
        yield
    finally:
        with _silence.lock:
            for descriptor in descriptors:
                _silence.users[descriptor] -= 1
                if not _silence.users[descriptor]:
                    os.dup2(_silence.kept[descriptor], descriptor)
                    os.close(_silence.kept[descriptor])


def _descriptor_of_modules():
    """Descriptor of `sys.stderr`, which `common.streams.prepare` gave one of its own; 2 if it has none."""
    with suppress(OSError, ValueError, AttributeError):
        return sys.stderr.fileno()
    return 2


def set_defaults():
    """Set environment variables that Keras and its backend read on import, unless the user has set them.

    Raises:
        InputError: as `common.gpus.choose_backend`.
    """
    os.environ["KERAS_BACKEND"] = gpus.choose_backend()
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # on a Mac, what its GPU lacks runs on the CPU
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # faster on every CPU; the default is on only with AVX-512


def import_keras(say_unused=True):
    """Import Keras, quietly, on the backend that `common.gpus.choose_backend` chooses.

    Prints a line if this machine has a GPU that the backend does not use, unless not `say_unused`. Several
    processes must join first; see `common.training.distribution.join_processes`.
    """
    set_defaults()
    # not again in a worker, where another thread may import them now
    unused = [] if "keras" in sys.modules else [name for name in LOADED_UNUSED if name != os.environ["KERAS_BACKEND"]]
    with silenced_libraries(), without_collecting(), hidden(*unused):
        import keras  # noqa: F401  (now, on this backend)

        if backend() == "tensorflow":
            import tensorflow  # here, it is quiet

            tensorflow.get_logger().setLevel("ERROR")  # it warns about volumes of several sizes
        list_devices()
    if say_unused and (line := unused_gpu()):
        print(line, flush=True)


def unused_gpu():
    """A line about a GPU that the backend does not use, with what to install; "" if there is none."""
    return "" if accelerators() else gpus.unused_gpu(backend(), describe())


def list_devices():
    """Device names of the backend, such as `gpu:0` or, on a Mac, `mps:0`; `cpu:0` if there are no others."""
    if backend() == "torch":  # Keras lists devices only on TensorFlow and JAX
        import torch  # optional

        if os.environ.get("KERAS_TORCH_DEVICE", "").startswith("cpu"):
            return ["cpu:0"]
        if torch.backends.mps.is_available():
            return ["mps:0"]
        return [f"gpu:{i}" for i in range(torch.cuda.device_count())] or ["cpu:0"]
    import keras  # late, see above

    return keras.distribution.list_devices()


def backend():
    """Name of the Keras backend: "tensorflow", "jax" or "torch"."""
    import keras  # late, see above

    return keras.backend.backend()


def accelerators():
    """Names of the devices other than CPUs."""
    return [name for name in list_devices() if not name.startswith("cpu")]


def set_up(seed, deterministic):
    """Seed Python, NumPy and the backend, and optionally make operations deterministic.

    Args:
        seed: int, 0 or more.
        deterministic: whether to use only operations with bit-identical results.
    """
    set_seed(seed)
    hold_memory()
    if backend() == "tensorflow":
        import tensorflow as tf  # optional

        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        if deterministic:
            tf.config.experimental.enable_op_determinism()
    elif backend() == "torch":
        import torch  # optional

        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, not deterministic


def set_seed(seed):
    """Seed Python, NumPy and the backend; on other backends than TensorFlow, Keras would import it to seed it too."""
    import keras  # late, see above

    with hidden(*(() if backend() == "tensorflow" else ("tensorflow",))):
        keras.utils.set_random_seed(seed)


def hold_memory():
    """Let TensorFlow on a CPU keep the memory of its tensors from step to step.

    On Linux, the C library returns large free blocks to the system at once. Allocating new pages for the same tensors
    can take a third of the next step. On other systems, this does nothing.
    """
    if not is_tensorflow_on_cpu() or not sys.platform.startswith("linux"):
        return
    with suppress(AttributeError, OSError):  # another C library
        library = ctypes.CDLL(None)
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_ARENA_MAX, 1)):
            library.mallopt(parameter, value)


def without_waiting(batches):
    """Wrap batches of slices so that `fit` does not wait for them longer than needed.

    Keras would use a self-tuning TensorFlow dataset, whose tuning thread can double the time of an epoch of a few
    seconds. Other backends and multithreaded batches are returned unchanged.

    Args:
        batches: keras.utils.PyDataset of pairs of arrays.
    """
    if backend() != "tensorflow" or batches.workers > 1:
        return batches
    import tensorflow as tf  # optional

    signature = tuple(tf.TensorSpec((None, *array.shape[1:]), array.dtype) for array in batches[0])
    dataset = tf.data.Dataset.from_generator(
        lambda: map(batches.__getitem__, range(len(batches))), output_signature=signature
    )
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.apply(tf.data.experimental.assert_cardinality(len(batches))).prefetch(2).with_options(options)


@contextmanager
def errors_of_batches():
    """Turn an error of TensorFlow or of a thread, raised since a batch could not be made, into its InputError."""
    try:
        yield
    except Exception as error:
        found = None if isinstance(error, InputError) else re.search(r"\bInputError: (.+)", str(error))
        if not found:
            raise
        raise InputError(found[1]) from None


def usual_half():
    """Fastest policy of the accelerator that is known to work: bfloat16, or float16 on a GPU without bfloat16.

    A Mac's GPU computes in float32.
    """
    if accelerators()[0].startswith("mps"):
        return "float32"
    if backend() == "torch":
        import torch  # optional

        return "mixed_bfloat16" if torch.cuda.get_device_capability() >= (8, 0) else "mixed_float16"
    if backend() == "tensorflow" and accelerators()[0].startswith("gpu"):
        import tensorflow as tf  # optional

        gpu = tf.config.list_physical_devices("GPU")[0]
        capability = tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        return "mixed_bfloat16" if capability >= (8, 0) else "mixed_float16"
    return "mixed_bfloat16"


def usual_jit():
    """Default for XLA compilation: False for TensorFlow on a CPU, whose own convolutions are faster."""
    return False if is_tensorflow_on_cpu() else "auto"


def is_tensorflow_on_cpu():
    """Whether TensorFlow runs on a CPU, where some of its operations are slow."""
    return backend() == "tensorflow" and not accelerators()


def has_avx512():
    """Whether the CPU computes vectors of 512 bits, for which TensorFlow has convolutions of its own."""
    return _cpu_features().get("AVX512F", False)


def has_bfloat16():
    """Whether the CPU multiplies bfloat16 faster than float32: with AVX512_BF16 or AMX."""
    return any(_cpu_features().get(name) for name in ("AVX512BF16", "AVX512_SPR", "AMX_BF16"))


def _cpu_features():
    """Features of the CPU, dict of name to bool; empty if NumPy does not know any."""
    try:
        from numpy._core._multiarray_umath import __cpu_features__  # private: the public show_runtime only prints them
    except ImportError:
        return {}
    return __cpu_features__


def describe():
    """The backend and its devices in a few words."""
    return f"{backend()} on {', '.join(list_devices())}"


def peak_memory():
    """Most memory in use so far, in bytes: of the first accelerator, or of this process; None if unknown."""
    if not accelerators():
        try:
            import resource  # not on Windows
        except ImportError:
            return None
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    with suppress(Exception):  # not every device and version counts it
        if backend() == "torch":
            import torch  # optional

            return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
        if backend() == "jax":
            import jax  # optional

            return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]
        import tensorflow as tf  # optional

        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return None


def environment(with_backend=True):
    """Versions and machine as text, one per line; `with_backend` loads Keras to list its devices."""
    lines = [
        f"python {sys.version.split()[0]}",
        f"system {platform.system()} {platform.release()} {platform.machine()}",
    ]
    lines += [f"cores {os.cpu_count()}"] + ([f"backend {describe()}"] if with_backend else [])
    for package in PACKAGES:
        try:
            lines.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return "\n".join(lines) + "\n"


class OneDevice:
    """The default device of the backend; `common.training.distribution.choose_devices` returns several.

    Attributes:
        process, processes: index of this process, from 0, and number of processes.
        is_first: whether this process writes and prints.
        can_jit: whether XLA, or PyTorch's compiler, can compile a step.
    """

    process, processes, is_first, can_jit = 0, 1, True, True

    def __len__(self):
        """Number of devices of all processes."""
        return 1

    def in_words(self):
        """Number of devices and processes, as text to append; empty for one device."""
        return ""

    def scope(self):
        """Context that places new variables on all devices."""
        return nullcontext()

    def prepare(self, model):
        """Change a compiled model, built in `scope`, so that loss and batch normalization cover the whole batch."""

    def feed(self, batches):
        """What `fit` takes in place of a keras.utils.PyDataset of pairs of arrays."""
        return without_waiting(batches)

    def own_share(self, items):
        """The items of a batch that this process makes."""
        return items

    def put(self, arrays, count):
        """Put a batch on all devices.

        Args:
            arrays: tuple of arrays, with the items of `own_share`.
            count: number of items in the whole batch.

        Returns:
            tuple of arrays (count, ...).
        """
        return arrays

    def broadcast(self, value):
        """The value of the first process; JSON must be able to store it."""
        return value

    def require_same(self, values):
        """Raise InputError if another process has other values.

        Args:
            values: dict of name to a JSON value, with the same names in all processes.
        """

    def disconnect(self):
        """Disconnect from the other processes, once all have reached this point; each continues alone."""
