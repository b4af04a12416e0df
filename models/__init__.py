"""Find and build network architectures by name."""

import ast
import functools
import importlib.util
import inspect
import sys
from pathlib import Path

from models import (
    codeset,
    crop_classifier,
    cvnet_synapse,
    cvnet_synapse_512,
    deeplab_v3plus,
    pretrained_unet,
    se_resunet3d,
    unet,
    unet3d,
)
from models.keras2 import translated
from models.layers import classes_of, has_overlapping_classes, output_channels  # noqa: F401

# Modules with build_model(input_shape, classes, **settings), RECOMMENDED and, if for volumes, FOR_VOLUMES = True.
NETWORKS = {
    "unet": unet,
    "cvnet_synapse": cvnet_synapse,
    "cvnet_synapse_512": cvnet_synapse_512,
    "deeplab_v3plus": deeplab_v3plus,
    "pretrained_unet": pretrained_unet,
    "crop_classifier": crop_classifier,
    "se_resunet3d": se_resunet3d,
    "unet3d": unet3d,
}
NOT_SETTINGS = ("name", "input_shape", "classes", "overlapping")  # arguments of a network that depend on the data
OVERLAPPING = (
    "expected an argument overlapping and, if it is True, a layer output with a sigmoid for each class, since classes "
    "overlap (found neither, or one of both); end with output_layer(classes, overlapping) of models.layers"
)
RECOMMENDED = {"BATCH_SIZE": 8, "OPTIMIZER": "adam", "LEARNING_RATE": 1e-3, "SCHEDULE": "constant"}


def build_model(name, input_shape, classes=1, overlapping=False, /, **settings):
    """Build a model.

    Args:
        name: a name in NETWORKS, or the path of a Python file that defines
            `build_model(input_shape, classes, **settings)`.
        input_shape: (height, width, channels); for volumes (None, None, None, channels).
        classes: 1 for one sigmoid channel, K > 1 for a softmax over K + 1 channels; for volumes, one sigmoid channel
            per class.
        overlapping: whether the K classes of slices overlap: one sigmoid channel for each. A file's function then needs
            an argument of this name.
        settings: keyword arguments of the network's own `build_model`.

    Returns:
        keras.Model with layers `input` and `output`: float images scaled to 0..1, or standardized volumes, to
        probabilities.

    Raises:
        ValueError: for an unknown name or setting, a value with another type than the default, slices for a network
            for volumes or the reverse, a file without such a function or argument, or a model without such layers.
    """
    volumes = len(input_shape) == 4
    build = find_network(name).build_model
    parameters = inspect.signature(build).parameters
    if name in NETWORKS and is_for_volumes(name) != volumes:
        fit = [other for other in NETWORKS if is_for_volumes(other) == volumes]
        raise ValueError(f"{name}: not for {'volumes' if volumes else 'slices'}; choose {' or '.join(fit)}")
    known = settings_of(name)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for setting, value in settings.items():
        if setting in NOT_SETTINGS or (setting not in known and not takes_any):
            raise ValueError(f"{name}: no setting {setting!r}; available: {', '.join(known) or 'none'}")
        if name in NETWORKS:
            require_type(name, setting, value, parameters[setting].default)
    if "name" in parameters:  # a file may use the signature of this function too
        settings["name"] = Path(name).stem
    overlapping = overlapping and classes > 1 and not volumes
    if overlapping:
        if "overlapping" not in parameters and not takes_any:
            raise ValueError(f"{name}: {OVERLAPPING}")
        settings["overlapping"] = True
    model = build(input_shape=tuple(input_shape), classes=classes, **settings)
    names = {layer.name for layer in model.layers}
    if missing := sorted({"input", "output"} - names):
        raise ValueError(f"{name}: no layer {' or '.join(missing)}; name the first layer input and the last one output")
    channels = classes if volumes else output_channels(classes, overlapping)
    expected = (*input_shape[:-1], channels)
    if tuple(model.output_shape[1:]) != expected:
        raise ValueError(f"{name}: expected an output of {expected} (found {model.output_shape[1:]})")
    if overlapping and not has_overlapping_classes(model):
        raise ValueError(f"{name}: {OVERLAPPING}")
    return model


def is_for_volumes(name):
    """Whether a network in NETWORKS segments volumes, not slices."""
    return getattr(NETWORKS[name], "FOR_VOLUMES", False)


def require_type(name, setting, value, default):
    """Raise ValueError if a network's setting does not have the type of its default; int is accepted for float."""
    if isinstance(default, bool):
        wanted, fits = "True or False", isinstance(value, bool)
    elif isinstance(default, int):
        wanted, fits = "a whole number", isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(default, float):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        wanted, fits = "a finite number", is_number and abs(value) <= sys.float_info.max
    else:
        return
    if not fits:
        raise ValueError(f"{name}: expected {wanted} for {setting} (found {value!r})")


def settings_of(name):
    """Names of the settings of a network, as in `build_model`; list of str."""
    parameters = inspect.signature(find_network(name).build_model).parameters
    return [parameter for parameter in parameters if parameter not in NOT_SETTINGS]


def recommended(name, batch_size=None):
    """Settings for train.py that a network's author recommends.

    Args:
        name: as in `build_model`.
        batch_size: the batch size in use; None: the recommended one. The learning rate of SGD scales with it (Goyal et
            al., arXiv 1706.02677); optimizers that scale their own steps keep their learning rate.

    Returns:
        dict of BATCH_SIZE, OPTIMIZER, LEARNING_RATE, SCHEDULE; perhaps SCHEDULE_SETTINGS.

    Raises:
        ValueError: as in `build_model`.
    """
    return _scaled(RECOMMENDED | getattr(find_network(name), "RECOMMENDED", {}), batch_size)


def published(name, batch_size=None):
    """Settings for train.py with which a network's author trained; arguments as in `recommended`.

    Returns:
        dict of the settings of `recommended`, SCHEDULE_SETTINGS, CONTROLLER, EPOCHS and EARLY_STOP.

    Raises:
        ValueError: as in `build_model`, or if there are none.
    """
    settings = getattr(find_network(name), "PUBLISHED", None)
    if settings is None:
        known = [other for other, module in NETWORKS.items() if hasattr(module, "PUBLISHED")]
        raise ValueError(f"{name}: no published settings; choose {', '.join(known)}, or a file of AIS Training Codeset")
    return _scaled(dict(settings), batch_size)


def _scaled(settings, batch_size):
    optimizer = settings["OPTIMIZER"]
    if batch_size and (optimizer["name"] if isinstance(optimizer, dict) else optimizer) == "sgd":
        settings["LEARNING_RATE"] *= batch_size / settings["BATCH_SIZE"]
    return settings


@functools.cache
def find_network(name):
    """Module of a network; arguments and errors as in `build_model`."""
    if name in NETWORKS:
        return NETWORKS[name]
    if not name.endswith(".py"):
        raise ValueError(
            f'unknown network "{name}"; choose one of {", ".join(NETWORKS)}, or pass the path of a .py file'
        )
    if not Path(name).is_file():
        raise ValueError(f"{name}: network file does not exist; check the path")
    specification = importlib.util.spec_from_file_location(Path(name).stem, name)
    module = importlib.util.module_from_spec(specification)
    try:
        source = Path(name).read_bytes()  # not through the loader, which prefers a .pyc that may say something else
        is_of_codeset = _functions_in(source) & {"Build_Model", "build_model"} == {"Build_Model"}
        exec(compile(translated(source, name) if is_of_codeset else source, name, "exec"), module.__dict__)
    except Exception as error:  # a user's file can raise anything
        raise ValueError(f"{name}: network file does not run ({type(error).__name__}: {error})") from error
    if is_of_codeset:
        codeset.adapt(module, name)
    if not hasattr(module, "build_model"):
        raise ValueError(f"{name}: no function build_model(input_shape, classes, **settings); define it")
    return module


def _functions_in(source):
    """Names of the functions that Python code defines at its top level."""
    return {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
