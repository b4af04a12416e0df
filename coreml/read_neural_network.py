"""Read the layers of a Core ML neural network.

Arrays have the shape declared in the file (exact mapping).
"""

import numpy as np

from common.errors import InputError
from coreml import neural_network_layers, neural_network_layers_3d
from coreml.model import Operation

LAYERS = neural_network_layers.LAYERS | neural_network_layers_3d.LAYERS
EXACT_ARRAY_MAPPING = RANK4_IMAGE_MAPPING = 1  # from NeuralNetwork.proto


def read_operations(spec, inputs, path):
    """Read the layers of a model.

    Args:
        spec: Model message of coremltools.
        inputs: list of Feature; sets scale, bias and graph_shape of images.
        path: for messages.

    Returns:
        list of Operation.

    Raises:
        InputError: for an unsupported layer or weights that do not fit it.
    """
    network = spec.neuralNetwork
    _check_mapping(network, inputs, path)
    _read_preprocessing(network, inputs, path)
    return [_read_layer(layer, path) for layer in network.layers]


def _check_mapping(network, inputs, path):
    has_image = any(feature.type == "image" for feature in inputs)
    if network.arrayInputShapeMapping != EXACT_ARRAY_MAPPING or (
        has_image and network.imageInputShapeMapping != RANK4_IMAGE_MAPPING
    ):
        raise InputError(f"{path}: maps its inputs to five axes, like models before Core ML 3; convert it again")


def _read_preprocessing(network, inputs, path):
    features = {feature.name: feature for feature in inputs}
    for feature in inputs:
        if feature.type == "image":
            height, width, *channels = feature.shape
            feature.graph_shape = (1, *(channels or [1]), height, width)
    for preprocessing in network.preprocessing:
        preprocessor = preprocessing.WhichOneof("preprocessor")
        feature = features.get(preprocessing.featureName or next(iter(features)))
        if preprocessor != "scaler" or feature is None or feature.type != "image":
            raise InputError(f"{path}: {preprocessor} before the network is not supported")
        scaler = preprocessing.scaler
        biases = {scaler.redBias, scaler.greenBias, scaler.blueBias} if len(feature.shape) == 3 else {scaler.grayBias}
        if len(biases) > 1:
            raise InputError(f"{path}: another bias for each color before the network is not supported")
        feature.scale, feature.bias = scaler.channelScale or 1.0, biases.pop()


def _read_layer(layer, path):
    layer_type = layer.WhichOneof("layer")
    if layer_type not in LAYERS:
        raise InputError(f"{path}: unsupported type of layer {layer.name} (found {layer_type})")
    try:
        compute = LAYERS[layer_type](getattr(layer, layer_type))
    except (ValueError, TypeError, IndexError) as error:
        raise InputError(f"{path}: {layer_type} {layer.name} cannot be read: {error}") from error
    return Operation(layer.name, layer_type, list(layer.input), list(layer.output), _as_float32_tuple(compute))


def _as_float32_tuple(compute):
    def run(*arrays):
        results = compute(*arrays)
        results = results if isinstance(results, (list, tuple)) else (results,)
        return tuple(np.asarray(result, np.float32) for result in results)

    return run
