"""Networks by name."""

import functools
import importlib.util
import inspect
from pathlib import Path

from models import cvnet_synapse, cvnet_synapse_512, deeplab_v3plus, se_resunet3d, unet

# Each a module with build_model(input_shape, classes, **settings) and RECOMMENDED.
NETWORKS = {
    "unet": unet,
    "cvnet_synapse": cvnet_synapse,
    "cvnet_synapse_512": cvnet_synapse_512,
    "deeplab_v3plus": deeplab_v3plus,
    "se_resunet3d": se_resunet3d,
}
FOR_VOLUMES = ("se_resunet3d",)
RECOMMENDED = {"BATCH_SIZE": 8, "OPTIMIZER": "adam", "LEARNING_RATE": 1e-3, "SCHEDULE": "constant"}


def build_model(name, input_shape, classes=1, **settings):
    """Build a network.

    Args:
        name: a name of NETWORKS, or the path of a Python file that defines
            `build_model(input_shape, classes, **settings)`.
        input_shape: (height, width, channels); of volumes (None, None, None, channels).
        classes: 1 for one sigmoid channel, K > 1 for a softmax over K + 1 channels; of volumes a sigmoid channel each.
        settings: keyword arguments of the network's own `build_model`.

    Returns:
        keras.Model, float images scaled to 0..1, or standardised volumes, to probabilities, with layers `input` and
        `output`.

    Raises:
        ValueError: for an unknown name or setting, a network for other images, a file without such a function, or a
            network without such layers.
    """
    volumes = len(input_shape) == 4
    if name in NETWORKS and (name in FOR_VOLUMES) != volumes:
        fit = [other for other in NETWORKS if (other in FOR_VOLUMES) == volumes]
        raise ValueError(f"{name} is not for {'volumes' if volumes else 'slices'}; take {', '.join(fit)}")
    build = find_network(name).build_model
    parameters = inspect.signature(build).parameters
    if "name" in parameters:  # a file may follow the signature of this function as well
        settings = {"name": Path(name).stem, **settings}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [setting for setting in settings if setting not in parameters and not takes_any]
    if unknown:
        known = [p for p in parameters if p not in ("name", "input_shape", "classes")]
        raise ValueError(f"{name} has no setting {unknown[0]!r}; it has {', '.join(known)}")
    model = build(input_shape=tuple(input_shape), classes=classes, **settings)
    names = {layer.name for layer in model.layers}
    if not {"input", "output"} <= names:
        raise ValueError(f"the first and last layers of {name} must be called input and output")
    expected = (*input_shape[:-1], classes if volumes or classes == 1 else classes + 1)
    if tuple(model.output_shape[1:]) != expected:
        raise ValueError(f"{name} gives {model.output_shape[1:]}; expected {expected}")
    return model


def recommended(name, batch_size=None):
    """Settings of train.py that a network's author recommends.

    Args:
        name: as in `build_model`.
        batch_size: the one that is used, or None for the recommended one. The rate of a plain SGD goes with it in
            proportion (Goyal et al., arXiv 1706.02677); those of optimizers that scale their own steps stay.

    Returns:
        dict of BATCH_SIZE, OPTIMIZER, LEARNING_RATE, SCHEDULE.

    Raises:
        ValueError: as `build_model`.
    """
    settings = RECOMMENDED | getattr(find_network(name), "RECOMMENDED", {})
    optimizer = settings["OPTIMIZER"]
    if batch_size and (optimizer["name"] if isinstance(optimizer, dict) else optimizer) == "sgd":
        settings["LEARNING_RATE"] *= batch_size / settings["BATCH_SIZE"]
    return settings


@functools.cache
def find_network(name):
    """Module of a network; arguments and errors as `build_model`."""
    if name in NETWORKS:
        return NETWORKS[name]
    if not name.endswith(".py"):
        raise ValueError(
            f'unknown network "{name}"; choose one of {", ".join(NETWORKS)}, or give the path of a .py file'
        )
    if not Path(name).is_file():
        raise ValueError(f"network file {name} does not exist")
    specification = importlib.util.spec_from_file_location(Path(name).stem, name)
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
    except Exception as error:  # whatever a user's file does
        raise ValueError(f"network file {name} does not run: {type(error).__name__}: {error}") from error
    if not hasattr(module, "build_model"):
        raise ValueError(f"network file {name} has no function build_model(input_shape, classes, **settings)")
    return module
