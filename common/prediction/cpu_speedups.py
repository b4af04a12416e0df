"""Predict faster with TensorFlow on a CPU, using fewer operations with the same results.

Batch normalization becomes part of the convolution before it, whose output then takes one pass through memory, and wide
3 x 3 convolutions in float32 are Winograd's. Results differ by rounding, about 1e-7 of a probability in float32.
Weights, configurations and files stay as they are. Nothing changes on other backends and devices, and in float16.

For prediction only: training and conversion need Keras' own operations.
"""

from functools import partial

import keras
import numpy as np
from keras import activations, layers, ops

from common.training.cpu_speedups import DTYPES, are_used, convolve_winograd, is_plain_convolution

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

CONVOLUTIONS = (
    layers.Conv2D,
    layers.Conv3D,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
    layers.DepthwiseConv2D,
    layers.SeparableConv2D,
)
IN_HALF = (
    *CONVOLUTIONS,
    layers.BatchNormalization,
    layers.ReLU,
    layers.LeakyReLU,
    layers.Activation,
    layers.Dropout,
    layers.SpatialDropout2D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.UpSampling2D,
    layers.UpSampling3D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
    layers.Concatenate,
    layers.Add,
    layers.Multiply,
)  # layers that may compute in bfloat16; others, such as means over whole images, stay in float32
WINOGRAD_FROM = 12, 256  # minimum side and channels of feature maps; without gradients, it gains less than in training


def speed_up_prediction(network):
    """Speed up the prediction of a network if the backend is TensorFlow and there is only a CPU.

    Args:
        network: keras.Model with its final weights; changes layers of Keras' own classes in place, also in nested
            models.
    """
    if not are_used():
        return
    outputs = {id(tensor) for tensor in getattr(network, "outputs", ())}
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            speed_up_prediction(layer)
            continue
        if type(layer) is layers.Conv2D and is_plain_convolution(layer) and layer.kernel_size == (3, 3):
            layer.convolution_op = partial(_convolution_op, layer)
        if _is_convolution(layer) and id(layer.output) not in outputs and len(layer._outbound_nodes) == 1:
            following = layer._outbound_nodes[0].operation
            if _is_normalization(following):
                _fold(layer, following)


def set_precision(network, policy):
    """Set the dtype policy of the layers of a network; its weights stay as they are.

    Args:
        network: keras.Model; changes its layers in place, also in nested models.
        policy: "float32", or "mixed_bfloat16" for Keras' own layers (`IN_HALF`) before the last convolution.
    """
    kept = set(_last_layers(network)) if policy != "float32" else ()
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            set_precision(layer, policy)
        elif policy == "float32" or (isinstance(layer, IN_HALF) and layer not in kept):
            layer.dtype_policy = policy


def _last_layers(network):
    """Layers from the last convolutions of a network to its outputs."""
    operations = [tensor._keras_history.operation for tensor in network.outputs]
    while operations:
        operation = operations.pop()
        yield operation
        if not isinstance(operation, (*CONVOLUTIONS, keras.Model, layers.InputLayer)):
            tensors = (tensor for node in operation._inbound_nodes for tensor in node.input_tensors)
            operations += [tensor._keras_history.operation for tensor in tensors]


def _convolution_op(layer, inputs, kernel):
    sides, channels = inputs.shape[1:3], min(inputs.shape[3], layer.filters)
    is_wide = min(side or 0 for side in sides) >= WINOGRAD_FROM[0] and channels >= WINOGRAD_FROM[1]
    if is_wide and inputs.dtype == "float32":
        return convolve_winograd(inputs, kernel)
    return type(layer).convolution_op(layer, inputs, kernel)


def _is_convolution(layer):
    """Whether a layer is a convolution, also a depthwise one, that is used once and has no activation."""
    methods = layers.Conv2D.call, layers.DepthwiseConv2D.call  # of all convolutions with as many dimensions or more
    if type(layer).call not in methods or len(layer._inbound_nodes) != 1:
        return False
    is_linear = layer.activation in (None, activations.linear)
    return is_linear and layer.data_format == "channels_last" and layer.compute_dtype in DTYPES


def _is_normalization(layer):
    if type(layer) is not layers.BatchNormalization or len(layer._inbound_nodes) != 1:
        return False
    return layer.axis in (-1, len(layer.input.shape) - 1) and layer.compute_dtype in DTYPES


def _fold(convolution, norm):
    """Let a convolution compute the batch normalization after it too, which then passes its input on."""

    def values(variable, missing=0.0):
        return missing if variable is None else np.asarray(variable.numpy(), np.float64)

    factor = values(norm.gamma, 1.0) / np.sqrt(values(norm.moving_variance) + norm.epsilon)
    bias = (values(convolution.bias) - values(norm.moving_mean)) * factor + values(norm.beta)
    kernel = values(convolution.kernel)
    is_depthwise = isinstance(convolution, layers.DepthwiseConv2D)
    kernel = kernel * (factor.reshape(kernel.shape[-2:]) if is_depthwise else factor)
    # made outside of a graph, which takes them as inputs; constants in a graph are copied several times
    kernel, bias = (tf.cast(array.astype(np.float32), convolution.compute_dtype) for array in (kernel, bias))
    convolution.call = partial(_folded_depthwise if is_depthwise else _folded, convolution, kernel, bias)
    norm.call = _identity


def _folded(layer, kernel, bias, inputs):
    return tf.nn.bias_add(layer.convolution_op(inputs, kernel), bias)


def _folded_depthwise(layer, kernel, bias, inputs):
    options = {"strides": layer.strides, "padding": layer.padding, "dilation_rate": layer.dilation_rate}
    return tf.nn.bias_add(ops.depthwise_conv(inputs, kernel, data_format="channels_last", **options), bias)


def _identity(inputs, training=None, mask=None):
    return inputs
