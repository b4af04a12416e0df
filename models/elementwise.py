"""Shared parts of layers that learn a number for every channel or element."""

import keras
from keras import layers


def deviation(channels):
    """Initial standard deviation of learned numbers: sqrt(2 / max(channels, 32))."""
    return (2 / max(channels, 32)) ** 0.5


class ElementwiseAlpha(layers.Layer):
    """A layer with a learned alpha for every element of the feature map, (H, W, C), whose size must be fixed.

    alpha starts as a truncated normal with mean MEAN and standard deviation `deviation(C)`, under CONSTRAINT.

    Raises:
        ValueError: if the size of the feature map is not fixed.
    """

    MEAN, CONSTRAINT = 0.0, None

    def build(self, input_shape):
        if None in input_shape[1:]:
            raise ValueError(f"{type(self).__name__}: expected images of a fixed size (found {input_shape})")
        self.alpha = self.add_weight(
            name="alpha",
            shape=tuple(input_shape[1:]),
            initializer=keras.initializers.TruncatedNormal(self.MEAN, deviation(input_shape[-1])),
            constraint=self.CONSTRAINT,
        )
