"""Core ML models of the neural-network kind: their layers, in order, as steps that can be computed.

Arrays have the shape that the file says (exact mapping).
"""

import numpy as np

from common.errors import InputError
from coreml.neural_network_layers import LAYERS

EXACT = FOUR_AXES = 1  # EXACT_ARRAY_MAPPING and RANK4_IMAGE_MAPPING of NeuralNetwork.proto


def read_steps(spec, inputs, path):
    """Steps of a model.

    Args:
        spec: Model message of coremltools.
        inputs: list of End; those that are images get their scaling and shape.
        path: for messages.

    Returns:
        list of Step.

    Raises:
        InputError: for a layer that is not known here, or whose weights do not fit it.
    """
    from coreml.model import Step

    network = spec.neuralNetwork
    _check_mapping(network, inputs, path)
    _read_preprocessing(network, inputs, path)
    steps = []
    for layer in network.layers:
        kind = layer.WhichOneof("layer")
        if kind not in LAYERS:
            raise InputError(f"{path}: layer {layer.name} is of the kind {kind}, which is not known here")
        try:
            compute = LAYERS[kind](getattr(layer, kind))
        except (ValueError, TypeError, IndexError) as error:
            raise InputError(f"{path}: {kind} {layer.name} cannot be read: {error}") from error
        steps.append(Step(layer.name, kind, list(layer.input), list(layer.output), _as_tuple(compute)))
    return steps


def _as_tuple(compute):
    def run(*arrays):
        result = compute(*arrays)
        results = result if isinstance(result, (list, tuple)) else (result,)
        return tuple(np.asarray(one, np.float32) for one in results)

    return run


def _check_mapping(network, inputs, path):
    images = any(end.kind == "image" for end in inputs)
    if network.arrayInputShapeMapping != EXACT or (images and network.imageInputShapeMapping != FOUR_AXES):
        raise InputError(f"{path} maps its inputs to five axes, as models before Core ML 3 did; convert it anew")


def _read_preprocessing(network, inputs, path):
    ends = {end.name: end for end in inputs}
    for end in inputs:
        if end.kind == "image":
            end.inner_shape = (1, 1, *end.shape)
    for step in network.preprocessing:
        kind = step.WhichOneof("preprocessor")
        end = ends.get(step.featureName or next(iter(ends)))
        if kind != "scaler" or end is None or end.kind != "image":
            raise InputError(f"{path}: {kind} before the network is not known here")
        end.factor, end.offset = step.scaler.channelScale or 1.0, step.scaler.grayBias
