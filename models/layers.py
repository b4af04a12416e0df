"""Layers that Keras lacks, and parts that several networks share."""

import os
import platform

import keras
from keras import layers, ops

from models.elementwise import ElementwiseAlpha, deviation
from models.extra_layers import GELU, FullSizePReLU, Square, SquareRoot, Swish  # noqa: F401  (own networks import them)

# Keras' 0.99 takes hundreds of steps to forget the first batches; small sets have few steps per epoch.
NORM_MOMENTUM = 0.9


def require_levels(name, input_shape, features, depth, dropout, most):
    """Raise ValueError for settings out of range of a network whose channels double on each of `depth` levels.

    Args:
        name: network name, for the message.
        input_shape: (height, width, channels).
        features: channels of the first level.
        depth: how many times height and width are halved.
        dropout: dropout rate.
        most: greatest number of channels at the lowest level.
    """
    side = min(input_shape[:2])
    deepest = side.bit_length() - 1
    if not 1 <= depth <= deepest or not 1 <= features <= most // 2**depth or not 0 <= dropout < 1:
        raise ValueError(
            f"{name}: expected features >= 1, depth >= 1, 2**depth <= {side} (the smaller side), "
            f"features * 2**depth <= {most} and 0 <= dropout < 1 "
            f"(found features={features}, depth={depth}, dropout={dropout})"
        )


def output_layer(classes, overlapping=False):
    """Last layer of every network: probabilities in float32, whatever the precision of the other layers.

    Args:
        classes: 1 for a sigmoid, K > 1 for a softmax over K + 1 channels (the first is the background).
        overlapping: whether the K classes overlap: a sigmoid for each, without a channel for the background.
    """
    kind = "sigmoid" if classes == 1 or overlapping else "softmax"
    return layers.Activation(kind, dtype="float32", name="output")


def output_channels(classes, overlapping=False):
    """Channels before `output_layer`: 1 for one class, K + 1 for K > 1, K if they overlap."""
    return classes if classes == 1 or overlapping else classes + 1


def has_overlapping_classes(model):
    """Whether a model for slices has a sigmoid for each of several classes, not a softmax."""
    *_, channels = shape = model.output_shape
    activation = getattr(model.get_layer("output"), "activation", None)
    return len(shape) == 4 and channels > 1 and activation is keras.activations.sigmoid


def classes_of(model):
    """Number of classes of a model: its output channels without the one of the background, which a softmax has."""
    *_, channels = shape = model.output_shape
    has_background = len(shape) == 4 and channels > 1 and not has_overlapping_classes(model)
    return channels - 1 if has_background else channels


def pad_to_multiple(x, step):
    """Pad images with black, evenly on both sides, to multiples of `step`.

    Args:
        x: Keras tensor (B, H, W, C).
        step: int.

    Returns:
        The padded tensor, and a function that crops a tensor of that size back to the size of `x`.
    """
    missing = [-side % step for side in x.shape[1:3]]
    padding = [(count // 2, count - count // 2) for count in missing]
    if not any(map(any, padding)):
        return x, lambda tensor: tensor
    return layers.ZeroPadding2D(padding, name="pad")(x), layers.Cropping2D(padding, name="crop")


def pad_for_valid(x, depth):
    """Pad images with black for a U-net of valid convolutions, whose output is then at least as large as the images.

    Args:
        x: Keras tensor (B, H, W, C).
        depth: how many times height and width are halved, with two 3x3 convolutions before each, after each and last.

    Returns:
        The padded tensor, and a function that crops the output to the size of `x`, about the same center.
    """
    padding, cropping = [], []
    for side in x.shape[1:3]:
        bottom = 5  # a pixel after its two convolutions
        while _after_valid(bottom, depth) < side:
            bottom += 1
        given, found = bottom, _after_valid(bottom, depth)
        for _ in range(depth):
            given = 2 * given + 4
        first = (found - side) // 2
        before = (given - found) // 2 + first
        padding.append((before, given - side - before))
        cropping.append((first, found - side - first))
    crop = layers.Cropping2D(cropping, name="crop")
    return layers.ZeroPadding2D(padding, name="pad")(x), crop if any(map(any, cropping)) else lambda tensor: tensor


def _after_valid(bottom, depth):
    """Side of the output of a U-net of valid convolutions whose lowest level has a side of `bottom`."""
    side = bottom - 4
    for _ in range(depth):
        side = 2 * side - 4
    return side


def crop_to(x, like, name):
    """Crop the center of a feature map (B, H, W, C) to the height and width of another; both Keras tensors."""
    missing = [(side - wanted) // 2 for side, wanted in zip(x.shape[1:3], like.shape[1:3], strict=True)]
    rest = [side - wanted - n for side, wanted, n in zip(x.shape[1:3], like.shape[1:3], missing, strict=True)]
    return layers.Cropping2D(list(zip(missing, rest, strict=True)), name=name)(x)


@keras.saving.register_keras_serializable(package="segmentation")
class CropLike(layers.Layer):
    """Crop the ends of a volume to the size of another; [(B, S, H, W, C), (B, s, h, w, D)] to (B, s, h, w, C)."""

    def call(self, inputs):
        x, like = inputs
        s, h, w = ops.shape(like)[1:4]
        return x[:, :s, :h, :w]

    def compute_output_shape(self, input_shape):
        x, like = input_shape
        return (x[0], *like[1:4], x[-1])


@keras.saving.register_keras_serializable(package="segmentation")
class PlanarConv3D(layers.Conv3D):
    """A Conv3D with padding "same", computed as one Conv2D per plane with the same weights and results.

    Its kernel is 1 or 3 planes high. With 3, the two neighboring planes are added as channels. On a CPU without oneDNN,
    TensorFlow computes this about twice as fast, gradients included; with oneDNN, its own convolution is faster and
    takes less memory. Elsewhere this is a Conv3D.
    """

    def convolution_op(self, inputs, kernel):
        high, *flat = self.kernel_size
        if not _is_tensorflow_on_cpu() or (high == 3 and _has_onednn()):
            return super().convolution_op(inputs, kernel)
        planes = inputs
        if high == 3:
            nothing = ops.zeros_like(inputs[:, :1])
            below, above = ops.concatenate([nothing, inputs[:, :-1]], 1), ops.concatenate([inputs[:, 1:], nothing], 1)
            planes = ops.concatenate([below, inputs, above], -1)
        size, channels = ops.shape(inputs), high * inputs.shape[-1]
        kernel = ops.reshape(ops.transpose(kernel, (1, 2, 0, 3, 4)), (*flat, channels, self.filters))
        y = ops.conv(ops.reshape(planes, (-1, *size[2:4], channels)), kernel, padding="same")
        return ops.reshape(y, (*size[:4], self.filters))


def _is_tensorflow_on_cpu():
    if keras.backend.backend() != "tensorflow":
        return False
    return all(device.startswith("cpu") for device in keras.distribution.list_devices())


def _has_onednn():
    """Whether TensorFlow on a CPU uses oneDNN, which the scripts turn on."""
    return platform.machine().lower() in ("x86_64", "amd64") and os.environ.get("TF_ENABLE_ONEDNN_OPTS") != "0"


@keras.saving.register_keras_serializable(package="segmentation")
class SynapticTransmissionRegulator(layers.Layer):
    """y = w x + b, one w and one b per channel; any shape (..., C) to the same.

    Both start as truncated normals with standard deviation sqrt(2 / max(C, 32)), w with mean 1.2 and b with mean 0, and
    have L2 decay.

    Args:
        l2: decay factor.
    """

    def __init__(self, l2=1e-4, **kwargs):
        super().__init__(**kwargs)
        self.l2 = l2

    def build(self, input_shape):
        channels = input_shape[-1]
        for name, mean in (("w", 1.2), ("b", 0.0)):
            weight = self.add_weight(
                name=name,
                shape=(channels,),
                initializer=keras.initializers.TruncatedNormal(mean, deviation(channels)),
                regularizer=keras.regularizers.L2(self.l2),
            )
            setattr(self, name, weight)

    def call(self, x):
        return x * self.w + self.b

    def get_config(self):
        return {**super().get_config(), "l2": self.l2}


@keras.saving.register_keras_serializable(package="segmentation")
class ParametricSwish(ElementwiseAlpha):
    """y = x sigmoid(beta x), beta = 1.5 - 0.5^alpha; (B, H, W, C) to the same.

    alpha is learned for every element (H, W, C) and is at least 0, so that 0.5 <= beta < 1.5. It starts as a truncated
    normal with mean 1 and standard deviation sqrt(2 / max(C, 32)).
    """

    MEAN, CONSTRAINT = 1.0, "non_neg"

    def call(self, x):
        beta = 1.5 - ops.power(ops.cast(0.5, self.compute_dtype), self.alpha)
        return x * ops.sigmoid(beta * x)
