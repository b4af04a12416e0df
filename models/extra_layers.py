"""Layers for your own network; no network here uses them.

    from models.extra_layers import GELU

They are registered with Keras as "segmentation>GELU" and so on, so that `.keras` files that contain them load.
"""

import keras
from keras import layers, ops

from models.elementwise import ElementwiseAlpha


@keras.saving.register_keras_serializable(package="segmentation")
class FullSizePReLU(ElementwiseAlpha):
    """y = relu(x) - alpha relu(-x); (B, H, W, C) to the same.

    alpha is learned for every element (H, W, C). It starts as a truncated normal with mean 0.2 and standard deviation
    sqrt(2 / max(C, 32)).
    """

    MEAN = 0.2

    def call(self, x):
        return ops.relu(x) - self.alpha * ops.relu(-x)


@keras.saving.register_keras_serializable(package="segmentation")
class Swish(layers.Layer):
    """y = x sigmoid(x), any shape (Ramachandran et al., arXiv 1710.05941)."""

    def call(self, x):
        return ops.silu(x)


@keras.saving.register_keras_serializable(package="segmentation")
class GELU(layers.Layer):
    """y = x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), any shape (Hendrycks and Gimpel, arXiv 1606.08415).

    It uses the tanh form, since the exact form cannot be converted to Core ML.
    """

    def call(self, x):
        return ops.gelu(x, approximate=True)


@keras.saving.register_keras_serializable(package="segmentation")
class Square(layers.Layer):
    """y = x^2, any shape."""

    def call(self, x):
        return ops.square(x)


@keras.saving.register_keras_serializable(package="segmentation")
class SquareRoot(layers.Layer):
    """y = sqrt(max(x, epsilon)), any shape; epsilon is Keras' own and keeps gradients finite."""

    def call(self, x):
        return ops.sqrt(ops.maximum(x, keras.config.epsilon()))
