"""What a .keras file may contain: layers of Keras and of the toolkit, which run no code and read no other file."""

import json
import zipfile

from common.errors import InputError
from common.slices.hdf5 import Damaged, require_self_contained

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
ENTRIES = ("metadata.json", CONFIG, WEIGHTS, "run_state.json")  # the last one is of train.py
LARGEST_TEXT = 10**8  # bytes of a text entry
UNSAFE = ("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "__typespec__")
READ_FILES = ("StringLookup", "IntegerLookup", "TextVectorization")  # vocabularies by path
UNSAFE_MODULES = (
    "keras.utils",
    "keras.saving",
    "keras.config",
    "keras.datasets",
    "keras.export",
    "keras.preprocessing",
)


def require_safe(path, compiled=True):
    """Raise an error unless a .keras file contains only what Keras and the toolkit know, before Keras loads it.

    Args:
        path: path of the file. Layers of the user must be registered with Keras.
        compiled: whether its loss, metrics and optimizer are loaded too.

    Raises:
        InputError: if it contains other files, code, or classes of other modules, or claims more than it stores.
        zipfile.BadZipFile, ValueError, KeyError, RecursionError: if it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            stored = max(entry.compress_size, 1)
            too_large = entry.file_size > (LARGEST_TEXT if entry.filename != WEIGHTS else 20 * stored)
            if entry.filename not in ENTRIES or too_large:
                raise InputError(f"{path}: not as train.py writes it (contains {entry.filename!r}); use another model")
        config = json.loads(archive.read(CONFIG))
        if not compiled and isinstance(config, dict):
            config = config | {"compile_config": None}
        for found in _classes(config):
            if problem := _problem(found):
                raise InputError(f"{path}: cannot be loaded safely ({problem}); use a model that you trained yourself")
        with archive.open(WEIGHTS) as weights:
            try:
                require_self_contained(path, weights)
            except Damaged:  # its advice is for packed sets
                raise ValueError(f"{WEIGHTS} in it is damaged") from None


def _classes(value):
    """Descriptions of objects, dicts with class_name, anywhere in a configuration."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "class_name" in value:
                yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _problem(found):
    """What is wrong with the description of an object, as text; None if it is one of Keras or of the toolkit."""
    import keras  # takes seconds, and scripts check their input first

    name, module, registered = (found.get(key) for key in ("class_name", "module", "registered_name"))
    known = keras.saving.get_custom_objects()
    if name in known or registered in known:
        return None
    if name in UNSAFE:
        return f"{name} can run code"
    if name in READ_FILES:
        return f"{name} can read other files"
    if module is None or module == "builtins":
        return None
    if not isinstance(module, str) or not f"{module}.".startswith("keras."):
        return f"contains {name} of {module}, without @keras.saving.register_keras_serializable()"
    if any(f"{module}.".startswith(f"{other}.") for other in UNSAFE_MODULES):
        return f"contains {module}.{name}, which is no layer"
    return None
