"""A small classifier of whole crops, such as nodule candidates: every pixel of its output has the same probability."""

import keras
from keras import layers

from models.layers import NORM_MOMENTUM, output_channels, output_layer, require_levels

# Used by train.py for settings that are None.
RECOMMENDED = {"BATCH_SIZE": 32, "OPTIMIZER": "adam", "LEARNING_RATE": 1e-3, "SCHEDULE": "cosine"}
MOST_CHANNELS = 2048  # at the lowest level


def build_model(input_shape, classes=1, *, overlapping=False, features=16, depth=3, dropout=0.3):
    """Build a classifier for crops of one size: convolutions, global mean and maximum, one probability for the crop.

    It trains, predicts and converts like any network for slices, since its output has the size of the crop. The mask of
    a crop is full or empty.

    Args:
        input_shape: (height, width, channels) of the crops, scaled to 0..1.
        classes: 1 for one sigmoid channel; K > 1 for a softmax over K + 1 channels.
        overlapping: whether the K classes overlap: a sigmoid channel for each instead.
        features: channels of the first level; each level below has twice as many, up to MOST_CHANNELS.
        depth: how many times height and width are halved, at least 1; 2**depth may not exceed the smaller of them.
        dropout: dropout rate before the last layer, 0 <= dropout < 1.

    Returns:
        keras.Model with layers `input` and `output`; (B, H, W, C) to (B, H, W, 1 or K + 1) in float32.

    Raises:
        ValueError: for features, depth or dropout out of range.
    """
    require_levels("crop_classifier", input_shape, features, depth, dropout, MOST_CHANNELS)
    inputs = keras.Input(input_shape, name="input")
    x = inputs
    for level in range(depth + 1):
        for i in (1, 2):
            x = layers.Conv2D(features * 2**level, 3, padding="same", name=f"down{level}_conv{i}")(x)
            x = layers.BatchNormalization(momentum=NORM_MOMENTUM, name=f"down{level}_norm{i}")(x)
            x = layers.ReLU(name=f"down{level}_relu{i}")(x)
        if level < depth:
            x = layers.MaxPooling2D(2, name=f"pool{level}")(x)
    mean = layers.GlobalAveragePooling2D(keepdims=True, name="mean")(x)
    maximum = layers.GlobalMaxPooling2D(keepdims=True, name="maximum")(x)
    x = layers.Concatenate(name="join")([mean, maximum])
    x = layers.Dropout(dropout, name="drop")(x) if dropout else x
    x = layers.Conv2D(output_channels(classes, overlapping), 1, name="logits")(x)
    x = layers.UpSampling2D(input_shape[:2], name="spread")(x)
    return keras.Model(inputs, output_layer(classes, overlapping)(x), name="crop_classifier")
