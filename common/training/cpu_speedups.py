"""Faster training of any network with TensorFlow on a CPU, by other ways to the same results.

The layers stay Keras' own, with their weights and configurations, and so do the files of a network; what one of them
computes in training, and a convolution by tiles in validation too, is put together from other operations. Elsewhere,
in half precision, and in a network that was loaded to predict, nothing changes.
"""

from functools import partial

import keras
from keras import layers

from common.devices import is_tensorflow_on_cpu

# Smallest side and fewest channels of the feature maps for which another way is faster than TensorFlow's own.
BY_TILES = 12, 64  # convolutions by tiles, of kernels of 3 x 3
BY_PRODUCTS = 40, 16  # gradients of kernels by products of matrices


def train_faster(model):
    """Let a network train faster where the backend is TensorFlow and there is only a CPU.

    Dropped are other elements than by Keras, in as many cases, and the rate is in steps of 1 / 256.

    Args:
        model: keras.Model; its layers of Keras' own classes are changed in place, also those of networks within.
    """
    if not is_tensorflow_on_cpu():
        return
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            train_faster(layer)
        elif type(layer) is layers.Conv2D and _is_plain_convolution(layer):
            layer.convolution_op = partial(_convolution_op, layer)
        elif type(layer) is layers.BatchNormalization and layer.scale and layer.center and layer.axis in (-1, 3):
            layer.call = partial(_normalise, layer)
        elif type(layer) is layers.Dropout and layer.noise_shape is None and 1 / 512 <= layer.rate <= 511 / 512:
            layer.call = partial(_drop, layer)


def _is_plain_convolution(layer):
    """Whether its kernel is odd and greater than 1, at every pixel, with zeros around the images."""
    options = layer.strides, layer.dilation_rate, layer.padding, layer.groups, layer.data_format
    odd = all(side % 2 for side in layer.kernel_size) and max(layer.kernel_size) > 1
    return odd and options == ((1, 1), (1, 1), "same", 1, "channels_last")


def _convolution_op(layer, inputs, kernel):
    from common.training import tensorflow_cpu

    _, height, width, channels = inputs.shape
    size = min(height or 0, width or 0), min(channels, layer.filters)

    def reaches(least):
        return inputs.dtype == "float32" and size[0] >= least[0] and size[1] >= least[1]

    if layer.kernel_size == (3, 3) and reaches(BY_TILES):
        return tensorflow_cpu.convolve_by_tiles(inputs, kernel)
    if reaches(BY_PRODUCTS):
        return tensorflow_cpu.convolve(inputs, kernel)
    return type(layer).convolution_op(layer, inputs, kernel)


def _normalise(layer, inputs, training=None, mask=None):
    usual = mask is None and len(inputs.shape) == 4 and inputs.dtype == "float32"
    if not (training and layer.trainable and usual):
        return type(layer).call(layer, inputs, training=training, mask=mask)
    from common.training.tensorflow_cpu import normalise

    outputs, *moments = normalise(inputs, layer.gamma, layer.beta, layer.epsilon)
    for kept, new in zip((layer.moving_mean, layer.moving_variance), moments, strict=True):
        kept.assign(kept * layer.momentum + new * (1 - layer.momentum))
    return outputs


def _drop(layer, inputs, training=False):
    if not training or inputs.dtype != "float32":
        return type(layer).call(layer, inputs, training=training)
    from common.training.tensorflow_cpu import drop

    return drop(inputs, layer.rate, layer.seed_generator.next())
