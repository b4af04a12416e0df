"""CV-net SYNAPSE: an encoder and decoder of units that regulate, convolve, normalise and activate.

The network of AIS Training Codeset for 200x200 and, under the name cvnet_synapse_512, for 512x512. It is not tied to
these sizes: between encoder and decoder its maps must be halved once more, which the two valid convolutions at the
bottom do, whose kernels (5 and 3 at 200, 5 and 5 at 512) follow from the size.
"""

import keras
from keras import layers

from models.layers import ParametricSwish, SynapticTransmissionRegulator, output_channels, output_layer

NORM_MOMENTUM = 0.95

# What train.py uses where its own setting is None; the rate is that of this batch size.
RECOMMENDED = {
    "BATCH_SIZE": 80,
    "OPTIMIZER": {"name": "sgd", "momentum": 0.95, "nesterov": True},
    "LEARNING_RATE": 0.50,
    "SCHEDULE": "poly",
}

ENCODER = (16, 32, 128, 512)  # filters of a level; the last two regulate
DECODER = (512, 384, 160, 56, 24)  # filters of a level; the first three regulate
BOTTOM = (1024, 2048)
MOST_WIDTH = 4  # sixteen times the parameters
MOST_NOISE = 10  # ten times the deviation of a normalised map


def build_model(input_shape, classes=1, *, width=1.0, dropout=0.2, parallel_dropout=0.4, noise=0.1):
    """Build a CV-net SYNAPSE for images of 200x200, or of another side that is a multiple of 64 plus 8.

    At (200, 200, 1) with the defaults it has 26,118,252 parameters, 26,105,596 of them trainable.

    Args:
        input_shape: (height, width, channels) of the images, scaled to 0..1.
        classes: 1 gives one sigmoid channel; K > 1 gives a softmax over K + 1 channels.
        width: factor on the number of filters of every layer but the output, up to MOST_WIDTH.
        dropout: rate of the Gaussian drop-out of all units, 0 <= dropout < 1, but the parallel ones.
        parallel_dropout: that of the two parallel units of a level.
        noise: deviation of the Gaussian noise in the head, 0 to MOST_NOISE.

    Returns:
        keras.Model with layers `input` and `output`; (B, H, W, C) to (B, H, W, 1 or K + 1) in float32.

    Raises:
        ValueError: for a size that does not fit, saying the nearest two that do, or a setting out of its range.
    """
    scaled = make_scale("cvnet_synapse", width, dropout, parallel_dropout, noise)
    kernels = bottom_kernels("cvnet_synapse", input_shape, halvings=4, border=8)
    inputs = keras.Input(input_shape, name="input")
    x = layers.Conv2D(scaled(8), 9, use_bias=False, name="stem_conv")(inputs)
    x = stem_activation(x)
    x = encode_and_decode(x, ENCODER, DECODER, kernels, BOTTOM, scaled, dropout, parallel_dropout)
    x = layers.Conv2DTranspose(scaled(32), 7, use_bias=False, kernel_initializer="he_uniform", name="head1_conv")(x)
    return finish(inputs, x, classes, scaled, noise, "cvnet_synapse")


# --- what the network for 512x512 shares


def make_scale(name, width, dropout, parallel_dropout, noise):
    """Function from a number of filters to the same times the width; refuses settings out of their range."""
    rates_fit = 0 <= dropout < 1 and 0 <= parallel_dropout < 1
    if not rates_fit or not 0 < width <= MOST_WIDTH or not 0 <= noise <= MOST_NOISE:
        raise ValueError(
            f"{name} needs 0 < width <= {MOST_WIDTH}, 0 <= dropout < 1, 0 <= parallel_dropout < 1 and "
            f"0 <= noise <= {MOST_NOISE}, "
            f"not width={width}, dropout={dropout}, parallel_dropout={parallel_dropout}, noise={noise}"
        )
    return lambda filters: max(1, round(filters * width))


def bottom_kernels(name, input_shape, halvings, border):
    """Kernels of the two convolutions at the bottom, for each of height and width.

    After `halvings` the map has k = (side - border) / 2^halvings pixels. The decoder doubles the bottom's map to k
    again, so two valid convolutions of odd kernels a >= b must take off k / 2 = a + b - 2 pixels: 4 divides k.

    Args:
        name: of the network, for the message.
        input_shape: (height, width, channels).
        halvings: number of strided levels.
        border: pixels that the stem takes off.

    Returns:
        [(a, a'), (b, b')], kernels of the first and the second in height and width.

    Raises:
        ValueError: if a side does not fit.
    """
    step = 4 * 2**halvings
    kernels = []
    for side in input_shape[:2]:
        if (side - border) % step or side <= border:
            below = max((side - border) // step, 1)
            sizes = [border + step * count for count in (below, below + 1)]
            raise ValueError(
                f"{name} takes no side of {side}; the nearest sizes that fit are {sizes[0]} and {sizes[1]}"
            )
        lost = (side - border) // 2**halvings // 2
        second = lost // 2 // 2 * 2  # each takes off an even number, the first one the greater half
        kernels.append((lost - second + 1, second + 1))
    return list(zip(*kernels, strict=True))


def stem_activation(x):
    x = layers.BatchNormalization(momentum=NORM_MOMENTUM, name="stem_norm")(x)
    return layers.Activation("sigmoid", name="stem_sigmoid")(x)


def unit(x, filters, kernel, kind, drop, regulate, name, padding="same"):
    """SynapticNeuronUnit: regulator, convolution, batch normalisation, ParametricSwish, Gaussian drop-out.

    Args:
        kind: "normal", "separable", "strided" (stride 2, then a row and a column of zeros at the top and the left), or
            "transpose_up" (bilinear doubling before a transposed convolution of stride 1).
    """
    if kind == "transpose_up":
        x = layers.UpSampling2D(2, interpolation="bilinear", name=f"{name}_up")(x)
    if regulate:
        x = SynapticTransmissionRegulator(name=f"{name}_regulator")(x)
    options = {"padding": padding, "use_bias": False, "name": f"{name}_conv"}
    if kind == "separable":
        options |= {"depthwise_initializer": "he_uniform", "pointwise_initializer": "he_uniform"}
        x = layers.SeparableConv2D(filters, kernel, **options)(x)
    elif kind == "transpose_up":
        x = layers.Conv2DTranspose(filters, kernel, kernel_initializer="he_uniform", **options)(x)
    else:
        strides = 2 if kind == "strided" else 1
        x = layers.Conv2D(filters, kernel, strides, kernel_initializer="he_uniform", **options)(x)
    if kind == "strided":
        x = layers.ZeroPadding2D(((1, 0), (1, 0)), name=f"{name}_pad")(x)
    x = layers.BatchNormalization(momentum=NORM_MOMENTUM, name=f"{name}_norm")(x)
    x = ParametricSwish(name=f"{name}_swish")(x)
    return layers.GaussianDropout(drop, name=f"{name}_drop")(x) if drop else x


def encode_and_decode(x, encoder, decoder, kernels, bottom, scaled, dropout, parallel_dropout):
    """From the stem to the map before the head.

    Args:
        x: tensor (B, H, W, C), the stem.
        encoder: filters of the encoder's levels; all but the first len(encoder) - 2 regulate.
        decoder: filters of the decoder's levels; the first three regulate.
        kernels: of `bottom_kernels`.
        bottom: filters of the two convolutions at the bottom.
        scaled: function of `make_scale`.
        dropout, parallel_dropout: rates.
    """
    skips = [x]
    for level, filters in enumerate(map(scaled, encoder), 1):
        regulate = level > len(encoder) - 2
        x = unit(x, filters, 3, "strided", dropout, regulate, f"down{level}", padding="valid")
        x = layers.Concatenate(name=f"down{level}_join")(
            [
                unit(x, filters, 1, "normal", parallel_dropout, False, f"down{level}_point", padding="valid"),
                unit(x, filters, 5, "separable", parallel_dropout, False, f"down{level}_wide"),
            ]
        )
        skips.append(x)
    for number, (filters, kernel) in enumerate(zip(map(scaled, bottom), kernels, strict=True), 1):
        x = unit(x, filters, kernel, "separable", dropout, True, f"bottom{number}", padding="valid")
    for level, filters in enumerate(map(scaled, decoder)):
        x = unit(x, filters, 3, "transpose_up", dropout, level < 3, f"up{level}")
        x = layers.Concatenate(name=f"up{level}_join")([x, skips.pop()])
    return x


def finish(inputs, x, classes, scaled, noise, name):
    """The head after its first convolution, and the model."""
    x = head_activation(x, noise, "head1")
    x = layers.Conv2DTranspose(scaled(16), 3, use_bias=False, kernel_initializer="he_uniform", name="head2_conv")(x)
    x = head_activation(x, noise, "head2")
    x = layers.Concatenate(name="head_join")([x, inputs])
    x = layers.Conv2D(output_channels(classes), 1, name="logits")(x)
    x = SynapticTransmissionRegulator(name="logits_regulator")(x)
    return keras.Model(inputs, output_layer(classes)(x), name=name)


def head_activation(x, noise, name):
    x = layers.BatchNormalization(momentum=NORM_MOMENTUM, name=f"{name}_norm")(x)
    x = ParametricSwish(name=f"{name}_swish")(x)
    return layers.GaussianNoise(noise, name=f"{name}_noise")(x) if noise else x
