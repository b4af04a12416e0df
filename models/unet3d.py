"""Plain 3-D U-net of nnU-Net (Isensee et al. 2021, doi 10.1038/s41592-020-01008-z), with kernels that fit the voxels.

Two convolutions a level with instance normalization and leaky ReLU; pooling, and transposed convolutions on the way up.
Along an axis with coarse spacing, kernels and pooling have length 1 until the others are as coarse. With deep
supervision, lower levels learn masks too.
"""

import math
import threading

import keras
from keras import layers, ops

from models.layers import CropLike, PlanarConv3D

# Used by train.py for settings that are None. nnU-Net takes 1e-2 for its batches of 2.
OPTIMIZER = {"name": "sgd", "momentum": 0.99, "nesterov": True, "weight_decay": 3e-5, "global_clipnorm": 12.0}
RECOMMENDED = {"BATCH_SIZE": 1, "OPTIMIZER": OPTIMIZER, "LEARNING_RATE": 5e-3, "SCHEDULE": "poly"}
FOR_VOLUMES = True
SLOPE = 0.01  # negative slope of the leaky ReLU
MOST_CHANNELS = 320  # of each level
MOST_DEPTH = 8
SMALLEST_SIDE = 4  # of the feature maps at the lowest level
COARSE = 2  # an axis with at least so many times the finest spacing is neither convolved nor pooled


def build_model(
    input_shape,
    classes=1,
    *,
    spacing=(1.0, 1.0, 1.0),
    size=(128, 128, 128),
    features=32,
    depth=6,
    deep_supervision=True,
):
    """Build the network for volumes of any size: sizes are rounded up on the way down and cropped on the way up.

    With one channel, one label and the defaults it has 31,189,828 parameters, all of them trainable.

    Args:
        input_shape: (None, None, None, channels) of standardized volumes, or a fixed size.
        classes: K labels, one sigmoid channel each, none for the background.
        spacing, size: typical spacing in mm and size in voxels (up, back, left) of the volumes or crops to train on,
            by which `find_levels` chooses kernels and pooling; train.py takes both from the packed set.
        features: channels of the first level; each level below has twice as many, up to MOST_CHANNELS.
        depth: maximum number of levels below the first, 1 to MOST_DEPTH.
        deep_supervision: whether the loss in training includes the masks of all levels except the lowest two, each
            with half the weight of the level above.

    Returns:
        keras.Model with layers `input` and `output`; (B, S, H, W, C) to (B, S, H, W, K) in float32.

    Raises:
        ValueError: for spacing, size, features or depth out of range.
    """
    if not 1 <= features <= MOST_CHANNELS or not 1 <= depth <= MOST_DEPTH:
        raise ValueError(
            f"unet3d: expected 1 <= features <= {MOST_CHANNELS} and 1 <= depth <= {MOST_DEPTH} "
            f"(found features={features}, depth={depth})"
        )
    kernels, strides = find_levels(spacing, size, depth)
    filters = [min(features * 2**level, MOST_CHANNELS) for level in range(len(kernels))]

    def block(x, level, name):
        """Two convolutions without bias, which normalization would cancel."""
        for i in (1, 2):
            convolution = PlanarConv3D if kernels[level] != (1, 1, 1) else layers.Conv3D
            x = convolution(filters[level], kernels[level], padding="same", use_bias=False, name=f"{name}_conv{i}")(x)
            x = layers.GroupNormalization(groups=-1, epsilon=1e-5, name=f"{name}_norm{i}")(x)
            x = layers.LeakyReLU(SLOPE, name=f"{name}_relu{i}")(x)
        return x

    inputs = keras.Input(input_shape, name="input")
    x, skips, lower, lowest = inputs, [], [], len(kernels) - 1
    for level in range(lowest):
        skips.append(block(x, level, f"down{level}"))
        x = layers.MaxPooling3D(strides[level], padding="same", name=f"pool{level}")(skips[level])
    x = block(x, lowest, "bottom")
    for level in reversed(range(lowest)):
        step = strides[level]
        x = layers.Conv3DTranspose(filters[level], step, strides=step, use_bias=False, name=f"up{level}_conv0")(x)
        x = CropLike(name=f"up{level}_crop")([x, skips[level]])
        x = layers.Concatenate(name=f"up{level}_join")([skips[level], x])
        x = block(x, level, f"up{level}")
        if deep_supervision and 0 < level < lowest - 1:
            lower.insert(0, layers.Conv3D(classes, 1, name=f"logits{level}")(x))
    x = layers.Conv3D(classes, 1, name="logits")(x)
    if lower:
        x = Supervision([blocks_of(strides[:level]) for level in range(1, len(lower) + 1)], name="supervision")(
            [x, *lower]
        )
    outputs = layers.Activation("sigmoid", dtype="float32", name="output")(x)
    return (SupervisedModel if lower else keras.Model)(inputs, outputs, name="unet3d")


def find_levels(spacing, size, depth):
    """Choose kernels and pooling for volumes by the rule of nnU-Net.

    An axis is pooled while its feature map keeps SMALLEST_SIDE voxels and its spacing is less than COARSE times the
    finest of these axes; a single axis, only while half as much again remains. A kernel has length 1 along an axis
    until its spacing is less than COARSE times the finest, and then 3. At the lowest level it is 3 along all.

    Args:
        spacing: mm along (up, back, left).
        size: voxels along (up, back, left).
        depth: maximum number of levels below the first.

    Returns:
        list of kernel sizes of the levels, and list of pool sizes below each level except the lowest; tuples of three.

    Raises:
        ValueError: unless spacing and size have three positive finite numbers.
    """
    for name, values, most in (("spacing", spacing, 1e4), ("size", size, 1e5)):
        numbers = [value for value in values if isinstance(value, int | float) and 0 < value <= most]
        if len(numbers) != 3 or len(values) != 3:
            raise ValueError(f"expected three numbers above 0 and up to {most:g} for {name} (found {values})")
    spacing, size, kernel = list(spacing), list(size), [1, 1, 1]
    kernels, strides = [], []
    while len(strides) < depth:
        large = [axis for axis in range(3) if size[axis] >= 2 * SMALLEST_SIDE]
        finest = min((spacing[axis] for axis in large), default=0)
        pooled = [axis for axis in large if spacing[axis] < COARSE * finest]
        if not pooled or (len(pooled) == 1 and size[pooled[0]] < 3 * SMALLEST_SIDE):
            break
        kernel = [
            3 if length == 3 or mm < COARSE * min(spacing) else 1 for length, mm in zip(kernel, spacing, strict=True)
        ]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in pooled else 1 for axis in range(3)))
        for axis in pooled:
            spacing[axis], size[axis] = 2 * spacing[axis], math.ceil(size[axis] / 2)
    return [*kernels, (3, 3, 3)], strides


def blocks_of(strides):
    """Voxels of the volume along each axis that become one after pooling by all of these."""
    return [math.prod(stride[axis] for stride in strides) for axis in range(3)]


# --- deep supervision


class Kept(threading.local):
    """Tensors of the current step, which Keras must not track as state of a layer; each device has its own thread."""

    tensors = ()


@keras.saving.register_keras_serializable(package="segmentation")
class Supervision(layers.Layer):
    """Pass on the logits of the volume, and keep those of lower levels for the loss.

    Inputs are (B, S, H, W, K) and one tensor for each lower level; the output is the first.

    Args:
        blocks: for each lower level, how many voxels of the volume (up, back, left) became one of its voxels.
    """

    def __init__(self, blocks, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [list(map(int, block)) for block in blocks]
        self.kept = Kept()

    def call(self, inputs):
        volume, *lower = inputs
        self.kept.tensors = lower
        return volume

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def get_config(self):
        return {**super().get_config(), "blocks": self.blocks}


@keras.saving.register_keras_serializable(package="segmentation")
class SupervisedModel(keras.Model):
    """Model with a layer Supervision. In training, its loss is the mean over the levels with weights 1, 1/2, 1/4, ...

    It has one output, and its loss in validation is that of the output alone.
    """

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if not training:
            return loss
        supervision, total = self.get_layer("supervision"), 1.0
        for level, (logits, block) in enumerate(zip(supervision.kept.tensors, supervision.blocks, strict=True), 1):
            probabilities = ops.sigmoid(ops.cast(logits, "float32"))
            loss += 0.5**level * self.loss(middles(y, block), probabilities)
            total += 0.5**level
        return loss / total


def middles(y, block):
    """Targets (B, S, H, W, C) at the middle voxel of each block (up, back, left), as a lower level has them."""
    for axis, side in enumerate(block, 1):
        length = ops.shape(y)[axis]
        if side > 1:
            places = ops.arange(0, length, side, dtype="int32") + side // 2
            y = ops.take(y, ops.minimum(places, length - 1), axis=axis)
    return y
