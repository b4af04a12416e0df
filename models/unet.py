"""U-net (Ronneberger et al., arXiv 1505.04597) with batch normalization and dropout; no activation before the head."""

import keras
from keras import layers

from models.codeset import COMPARISON
from models.layers import (
    NORM_MOMENTUM,
    crop_to,
    output_channels,
    output_layer,
    pad_for_valid,
    pad_to_multiple,
    require_levels,
)

# Used by train.py for settings that are None.
RECOMMENDED = {"BATCH_SIZE": 8, "OPTIMIZER": "nadam", "LEARNING_RATE": 1e-3, "SCHEDULE": "constant"}
PUBLISHED = COMPARISON | {"BATCH_SIZE": 8}  # used with AS_PUBLISHED
MOST_CHANNELS = 4096  # at the lowest level: half a billion parameters
UPSAMPLING = ("transposed", "nearest", "bilinear")


def build_model(
    input_shape,
    classes=1,
    *,
    overlapping=False,
    features=64,
    depth=4,
    dropout=0.2,
    dropout_levels=0,
    normalisation=True,
    upsampling="transposed",
    initializer="glorot_uniform",
    l2=0.0,
    padding="same",
):
    """Build a U-net for images of any size; it pads them with black and crops the result.

    At (200, 200, 1) with the defaults it has 31,054,145 parameters, 31,042,369 of them trainable.

    Args:
        input_shape: (height, width, channels) of the images, scaled to 0..1.
        classes: 1 for one sigmoid channel; K > 1 for a softmax over K + 1 channels.
        overlapping: whether the K classes overlap: a sigmoid channel for each instead.
        features: channels of the first level; each level below has twice as many, up to MOST_CHANNELS.
        depth: how many times height and width are halved, at least 1; 2**depth may not exceed the smaller of them.
        dropout: dropout rate after every activation, 0 <= dropout < 1.
        dropout_levels: use dropout in this number of lowest levels only, the bottom being one; 0: in all.
        normalisation: whether to use batch normalization after every convolution.
        upsampling: a transposed convolution, or "nearest" or "bilinear" enlarging and a 2x2 convolution with a ReLU.
        initializer: of the kernels of all 3x3 convolutions and of those 2x2 ones.
        l2: L2 decay of the same kernels, 0 to 1.
        padding: of the 3x3 convolutions, "same" or, as in the paper, "valid": they see no black but the one around the
            image, which takes a margin of 92 pixels on each side at a depth of 4, and the skips are cropped.

    Returns:
        keras.Model with layers `input` and `output`; (B, H, W, C) to (B, H, W, 1 or K + 1) in float32.

    Raises:
        ValueError: for features, depth, dropout or l2 out of range, or an unknown word.
    """
    require_levels("unet", input_shape, features, depth, dropout, MOST_CHANNELS)
    if padding not in ("same", "valid"):
        raise ValueError(f"unet: expected padding same or valid (found {padding})")
    if upsampling not in UPSAMPLING or not 0 <= l2 <= 1:
        raise ValueError(f"unet: expected {' or '.join(UPSAMPLING)}, and 0 <= l2 <= 1 (found {upsampling} and {l2})")
    kernels = {"kernel_initializer": initializer, "kernel_regularizer": keras.regularizers.L2(l2) if l2 else None}

    def double_block(x, level, name, last=False):
        rate = dropout if not dropout_levels or level > depth - dropout_levels else 0
        for i in (1, 2):
            x = layers.Conv2D(features * 2**level, 3, padding=padding, name=f"{name}_conv{i}", **kernels)(x)
            if normalisation:
                x = layers.BatchNormalization(momentum=NORM_MOMENTUM, name=f"{name}_norm{i}")(x)
            if not last or i == 1:  # after a ReLU, a head with negative weights could never pass 0.5
                x = layers.ReLU(name=f"{name}_relu{i}")(x)
            if rate:
                x = layers.Dropout(rate, name=f"{name}_drop{i}")(x)
        return x

    def enlarge(x, filters, name):
        if upsampling == "transposed":
            return layers.Conv2DTranspose(filters, 2, strides=2, name=f"{name}_conv0")(x)
        x = layers.UpSampling2D(2, interpolation=upsampling, name=f"{name}_enlarge")(x)
        return layers.Conv2D(filters, 2, padding="same", activation="relu", name=f"{name}_conv0", **kernels)(x)

    inputs = keras.Input(input_shape, name="input")
    x, crop = pad_for_valid(inputs, depth) if padding == "valid" else pad_to_multiple(inputs, 2**depth)

    skips = []
    for level in range(depth):
        x = double_block(x, level, f"down{level}")
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"pool{level}")(x)
    x = double_block(x, depth, "bottom")
    for level in reversed(range(depth)):
        x = enlarge(x, features * 2**level, f"up{level}")
        skip = crop_to(skips[level], x, f"up{level}_crop") if padding == "valid" else skips[level]
        x = layers.Concatenate(name=f"up{level}_join")([x, skip])
        x = double_block(x, level, f"up{level}", last=level == 0)

    x = crop(layers.Conv2D(output_channels(classes, overlapping), 1, name="logits")(x))
    return keras.Model(inputs, output_layer(classes, overlapping)(x), name="unet")
