"""Models of Keras 2 in .h5 files, such as those of AIS Training Codeset: their weights, by order and shape.

The file's own layers and code are not used: its weights must fit one of the toolkit's networks, one after the other.
"""

import itertools
import json
import re
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.files import natural_key
from common.slices.hdf5 import DAMAGE, Damaged, open_hdf5
from common.words import number_of

ENDINGS = (".h5", ".hdf5")
SIDES = (200, 512)  # of the images, if the file has weights only
DEPTHS = (4, 3, 5, 2)  # of U-nets, the usual one first
SHAPE_KEYS = ("batch_input_shape", "batch_shape")  # of Keras 2 and 3
KNOWN = ("kernel", "bias", "depthwise_kernel", "pointwise_kernel", "gamma", "beta", "moving_mean", "moving_variance")


def is_h5(path):
    """Whether a path has an ending of HDF5."""
    return Path(path).suffix.lower() in ENDINGS


def load_h5(path):
    """Load the weights of a file into the network that they fit, and print which one it is.

    Args:
        path: .h5 file of a model for slices, or of its weights.

    Returns:
        keras.Model, not compiled.

    Raises:
        InputError: if the file is damaged, or fits no network.
    """
    name, settings, network = _find(path)
    height, width, _ = network.input_shape[1:]
    print(f"{path}: its weights fit {name} at {width}x{height} {settings or ''}".rstrip())
    return network


def network_of(path):
    """Name and settings of the network that the weights of a file fit; arguments and errors as `load_h5`."""
    return _find(path)[:2]


def _find(path):
    from models import build_model  # loads Keras, which takes seconds

    weights, shape = read_weights(path)
    channels = weights[-1][1].shape[-1]
    classes = max(channels - 1, 1)
    sides = [shape] if shape else [(side, side, weights[0][1].shape[2]) for side in SIDES]
    for name, settings in candidates(weights):
        for side in sides:
            try:
                network = build_model(name, side, classes, **settings)
            except ValueError:  # this network is not for this size
                continue
            if fits(network, weights):
                for variable, (_, value) in zip(in_order(network), weights, strict=True):
                    variable.assign(value.reshape(variable.shape))
                return name, settings, network
    raise InputError(
        f"{path}: its weights fit no network of the toolkit, one after the other (found {len(weights)}, the first of "
        f"shape {weights[0][1].shape}); train again, or use a .keras file"
    )


def candidates(weights):
    """Networks that may have these weights, as list of (name, settings), by the first kernel and their number."""
    height, *_, filters = weights[0][1].shape
    width = {} if filters == 8 else {"width": filters / 8}
    found = [("cvnet_synapse" if height == 9 else "cvnet_synapse_512", width)]
    usual = {"features": 64, "depth": 4, "normalisation": True}
    for depth, normalized in itertools.product(DEPTHS, (True, False)):
        if len(weights) == (4 * depth + 2) * (6 if normalized else 2) + 2 * depth + 2:
            settings = {"features": filters, "depth": depth, "normalisation": normalized}
            return [("unet", {name: value for name, value in settings.items() if value != usual[name]})]
    if filters == 32:
        found = [("deeplab_v3plus", {"backbone": backbone}) for backbone in ("xception", "mobilenetv2")] + found
    return found


def in_order(network):
    """Variables of a network as Keras writes them to an .h5 file: layer by layer, in each the trained ones first."""
    return [variable for layer in network.layers for variable in layer.weights]


def fits(network, weights):
    """Whether the variables of a network have the shapes of weights, and the names where these are of Keras' layers.

    Args:
        network: keras.Model.
        weights: result of `read_weights`.
    """
    variables = in_order(network)
    if list(map(_essential, variables)) != [_essential(value) for _, value in weights]:
        return False
    pairs = [(v.name, name) for v, (name, _) in zip(variables, weights, strict=True)]
    same = {(name, name) for name in KNOWN} | {("kernel", "depthwise_kernel")}  # DepthwiseConv2D of Keras 3 and 2
    return all(pair in same for pair in pairs if {*pair} <= {*KNOWN})


def _essential(array):
    """Shape of an array without the ones in front, which some layers keep: (1, 1, C) is (C,)."""
    shape = list(map(int, array.shape))
    while len(shape) > 1 and len(shape) < 4 and shape[0] == 1:
        shape.pop(0)
    return shape


# --- reading


def read_weights(path):
    """Read the weights of a file in their order.

    Returns:
        list of (name, such as "kernel", float32 array), and (height, width, channels) of the images, or None.

    Raises:
        InputError: if the file is damaged, or no model of Keras.
    """
    try:
        with open_hdf5(path) as file:
            root = file.get("model_weights", file)
            weights = []
            for layer in _texts(root.attrs, "layer_names"):
                group = root[layer]
                for name in _texts(group.attrs, "weight_names"):
                    value = np.asarray(group[name][()], np.float32)
                    weights.append((re.sub(r":\d+$", "", name).rpartition("/")[2], value))
            shape = _shape_of(file.attrs.get("model_config"))
    except Damaged:
        raise InputError(f"{path}: damaged, or no HDF5 file; use another model") from None
    except DAMAGE as error:
        raise InputError(f"{path}: not a model of Keras ({type(error).__name__}); use another file") from None
    if len(weights) < 2 or weights[0][1].ndim != 4 or any(value.ndim not in (1, 3, 4) for _, value in weights):
        found = number_of(len(weights), "weight")
        raise InputError(f"{path}: not a network for slices (found {found}); use another file")
    if not all(np.isfinite(value).all() for _, value in weights):
        raise InputError(f"{path}: cannot be used (weights that are not finite); use another model")
    return weights, shape


def _texts(attributes, name):
    """List of text in an attribute, which Keras splits into `name`0, `name`1 and so on if it is long."""
    numbered = sorted(filter(re.compile(rf"{name}\d+").fullmatch, attributes), key=natural_key)
    parts = [name] if name in attributes else numbered
    if not parts:
        raise KeyError(name)
    found = [text for part in parts for text in attributes[part]]
    return [text.decode() if isinstance(text, bytes) else str(text) for text in found]


def _shape_of(config):
    """(height, width, channels) of the first layer that states a fixed one in the JSON text of a model, or None."""
    try:
        content = json.loads(config or "null")
        for layer in content["config"]["layers"]:
            for key in SHAPE_KEYS:
                shape = layer["config"].get(key)
                if isinstance(shape, list) and len(shape) == 4 and all(isinstance(side, int) for side in shape[1:]):
                    return tuple(shape[1:])
    except (TypeError, KeyError, ValueError, AttributeError, RecursionError):
        return None
    return None
