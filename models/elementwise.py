"""What layers with a learned number for every channel or element share."""

import keras
from keras import layers


def deviation(channels):
    """Standard deviation that learned numbers start with: sqrt(2 / max(channels, 32))."""
    return (2 / max(channels, 32)) ** 0.5


class ElementwiseAlpha(layers.Layer):
    """A layer with a learned alpha for every element of the feature map, (H, W, C), which must be of fixed size.

    alpha starts as a truncated normal of mean MEAN and of `deviation(C)`, under CONSTRAINT.

    Raises:
        ValueError: on a feature map whose size is not fixed.
    """

    MEAN, CONSTRAINT = 0.0, None

    def build(self, input_shape):
        if None in input_shape[1:]:
            raise ValueError(f"{type(self).__name__} needs images of a fixed size, not {input_shape}")
        self.alpha = self.add_weight(
            name="alpha",
            shape=tuple(input_shape[1:]),
            initializer=keras.initializers.TruncatedNormal(self.MEAN, deviation(input_shape[-1])),
            constraint=self.CONSTRAINT,
        )
