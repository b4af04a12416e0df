"""U-net (Ronneberger et al., arXiv 1505.04597) with batch normalization and dropout; no activation before the head."""

import keras
from keras import layers

from models.codeset import COMPARISON
from models.layers import NORM_MOMENTUM, output_channels, output_layer, pad_to_multiple, require_levels

# Used by train.py for settings that are None.
RECOMMENDED = {"BATCH_SIZE": 8, "OPTIMIZER": "nadam", "LEARNING_RATE": 1e-3, "SCHEDULE": "constant"}
PUBLISHED = COMPARISON | {"BATCH_SIZE": 8}  # used with AS_PUBLISHED
MOST_CHANNELS = 4096  # at the lowest level: half a billion parameters


def build_model(input_shape, classes=1, *, overlapping=False, features=64, depth=4, dropout=0.2, normalisation=True):
    """Build a U-net for images of any size; it pads them with black and crops the result.

    At (200, 200, 1) with the defaults it has 31,054,145 parameters, 31,042,369 of them trainable.

    Args:
        input_shape: (height, width, channels) of the images, scaled to 0..1.
        classes: 1 for one sigmoid channel; K > 1 for a softmax over K + 1 channels.
        overlapping: whether the K classes overlap: a sigmoid channel for each instead.
        features: channels of the first level; each level below has twice as many, up to MOST_CHANNELS.
        depth: how many times height and width are halved, at least 1; 2**depth may not exceed the smaller of them.
        dropout: dropout rate after every activation, 0 <= dropout < 1.
        normalisation: whether to use batch normalization after every convolution.

    Returns:
        keras.Model with layers `input` and `output`; (B, H, W, C) to (B, H, W, 1 or K + 1) in float32.

    Raises:
        ValueError: for features, depth or dropout out of range.
    """
    require_levels("unet", input_shape, features, depth, dropout, MOST_CHANNELS)

    def double_block(x, filters, name, last=False):
        for i in (1, 2):
            x = layers.Conv2D(filters, 3, padding="same", name=f"{name}_conv{i}")(x)
            if normalisation:
                x = layers.BatchNormalization(momentum=NORM_MOMENTUM, name=f"{name}_norm{i}")(x)
            if not last or i == 1:  # after a ReLU, a head with negative weights could never pass 0.5
                x = layers.ReLU(name=f"{name}_relu{i}")(x)
            if dropout:
                x = layers.Dropout(dropout, name=f"{name}_drop{i}")(x)
        return x

    inputs = keras.Input(input_shape, name="input")
    x, crop = pad_to_multiple(inputs, 2**depth)

    skips = []
    for level in range(depth):
        x = double_block(x, features * 2**level, f"down{level}")
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"pool{level}")(x)
    x = double_block(x, features * 2**depth, "bottom")
    for level in reversed(range(depth)):
        x = layers.Conv2DTranspose(features * 2**level, 2, strides=2, name=f"up{level}_conv0")(x)
        x = layers.Concatenate(name=f"up{level}_join")([x, skips[level]])
        x = double_block(x, features * 2**level, f"up{level}", last=level == 0)

    x = crop(layers.Conv2D(output_channels(classes, overlapping), 1, name="logits")(x))
    return keras.Model(inputs, output_layer(classes, overlapping)(x), name="unet")
