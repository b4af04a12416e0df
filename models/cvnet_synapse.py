"""CV-net SYNAPSE: an encoder and decoder of units that regulate, convolve, normalize and activate.

The network of AIS Training Codeset for 200x200 and, as cvnet_synapse_512, for 512x512. It also accepts other sizes:
between encoder and decoder, two valid convolutions at the bottom halve the feature map once more. Their kernels (5 and
3 at 200, 5 and 5 at 512) follow from the size.
"""

import keras
from keras import layers

from models.layers import ParametricSwish, SynapticTransmissionRegulator, output_channels, output_layer

NORM_MOMENTUM = 0.95

# Used by train.py for settings that are None; the learning rate is for this batch size.
RECOMMENDED = {
    "BATCH_SIZE": 80,
    "OPTIMIZER": {"name": "sgd", "momentum": 0.95, "nesterov": True},
    "LEARNING_RATE": 0.50,
    "SCHEDULE": "poly",
}
# Used with AS_PUBLISHED.
PUBLISHED = RECOMMENDED | {"SCHEDULE_SETTINGS": {}, "CONTROLLER": {}, "EPOCHS": 100, "EARLY_STOP": 50}

ENCODER = (16, 32, 128, 512)  # filters per level; the last two regulate
DECODER = (512, 384, 160, 56, 24)  # filters per level; the first three regulate
BOTTOM = (1024, 2048)
MOST_WIDTH = 4  # sixteen times the parameters
MOST_NOISE = 10  # ten times the standard deviation of a normalized feature map


def build_model(
    input_shape,
    classes=1,
    *,
    overlapping=False,
    width=1.0,
    dropout=0.2,
    parallel_dropout=0.4,
    spatial_dropout=0.0,
    parallel_spatial_dropout=0.0,
    pooling=False,
    noise=0.1,
):
    """Build a CV-net SYNAPSE for images of 200x200, or with other sides that are a multiple of 64 plus 8.

    At (200, 200, 1) with the defaults it has 26,118,252 parameters, 26,105,596 of them trainable.

    Args:
        input_shape: (height, width, channels) of the images, scaled to 0..1.
        classes: 1 for one sigmoid channel; K > 1 for a softmax over K + 1 channels.
        overlapping: whether the K classes overlap: a sigmoid channel for each instead.
        width: factor for the filters of every layer except the output, up to MOST_WIDTH.
        dropout: Gaussian dropout rate of all units except the parallel ones, 0 <= dropout < 1.
        parallel_dropout: dropout rate of the two parallel units of a level, 0 <= parallel_dropout < 1.
        spatial_dropout, parallel_spatial_dropout: rates of the dropout of whole channels that follows each of the two.
        pooling: whether the encoder halves by 2x2 maximum pooling after a convolution, not by strides.
        noise: standard deviation of the Gaussian noise in the head, 0 to MOST_NOISE.

    Returns:
        keras.Model with layers `input` and `output`; (B, H, W, C) to (B, H, W, 1 or K + 1) in float32.

    Raises:
        ValueError: for a size that does not fit (with the nearest two that do), or a setting out of range.
    """
    rates = (dropout, spatial_dropout), (parallel_dropout, parallel_spatial_dropout)
    scaled = make_scale("cvnet_synapse", width, rates, noise)
    kernels = bottom_kernels("cvnet_synapse", input_shape, halvings=4, border=8)
    inputs = keras.Input(input_shape, name="input")
    x = layers.Conv2D(scaled(8), 9, use_bias=False, name="stem_conv")(inputs)
    x = stem_activation(x)
    x = encode_and_decode(x, ENCODER, DECODER, kernels, BOTTOM, scaled, rates, pooling)
    x = layers.Conv2DTranspose(scaled(32), 7, use_bias=False, kernel_initializer="he_uniform", name="head1_conv")(x)
    return finish(inputs, x, classes, overlapping, scaled, noise, "cvnet_synapse")


# --- shared with the network for 512x512


def make_scale(name, width, rates, noise):
    """Return a function that multiplies filters by the width; raise ValueError for settings out of range."""
    (dropout, spatial_dropout), (parallel_dropout, parallel_spatial_dropout) = rates
    rates_fit = all(0 <= rate < 1 for pair in rates for rate in pair)
    if not rates_fit or not 0 < width <= MOST_WIDTH or not 0 <= noise <= MOST_NOISE:
        raise ValueError(
            f"{name}: expected 0 < width <= {MOST_WIDTH}, 0 <= dropout < 1, 0 <= parallel_dropout < 1, the same of "
            f"spatial_dropout and parallel_spatial_dropout, and 0 <= noise <= {MOST_NOISE} (found width={width}, "
            f"dropout={dropout}, parallel_dropout={parallel_dropout}, spatial_dropout={spatial_dropout}, "
            f"parallel_spatial_dropout={parallel_spatial_dropout}, noise={noise})"
        )
    return lambda filters: max(1, round(filters * width))


def bottom_kernels(name, input_shape, halvings, border):
    """Kernels of the two convolutions at the bottom, for height and width.

    After `halvings`, the feature map has k = (side - border) / 2^halvings pixels. The decoder doubles the map at the
    bottom to k again. So two valid convolutions with odd kernels a >= b must remove k / 2 = a + b - 2 pixels, which
    requires k to be a multiple of 4.

    Args:
        name: network name, for the message.
        input_shape: (height, width, channels).
        halvings: number of strided levels.
        border: pixels that the stem removes.

    Returns:
        [(a, a'), (b, b')], (height, width) of the first and the second kernel.

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
                f"{name}: cannot use a side of {side}; the nearest sizes that fit are {sizes[0]} and {sizes[1]}"
            )
        lost = (side - border) // 2**halvings // 2
        second = lost // 2 // 2 * 2  # each removes an even number, the first one the larger half
        kernels.append((lost - second + 1, second + 1))
    return list(zip(*kernels, strict=True))


def stem_activation(x):
    x = layers.BatchNormalization(momentum=NORM_MOMENTUM, name="stem_norm")(x)
    return layers.Activation("sigmoid", name="stem_sigmoid")(x)


def unit(x, filters, kernel, kind, drop, regulate, name, padding="same"):
    """SynapticNeuronUnit: regulator, convolution, batch normalization, ParametricSwish, Gaussian dropout.

    Args:
        kind: "normal", "separable", "strided" (stride 2, then a row of zeros at the top and a column at the left),
            "pooled" (2x2 maximum pooling after the activation) or "transpose_up" (bilinear doubling before a transposed
            convolution of stride 1).
        drop: rates of the Gaussian dropout and of the dropout of whole channels.
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
    if kind == "pooled":
        x = layers.MaxPooling2D(2, name=f"{name}_pool")(x)
    gaussian, spatial = drop
    x = layers.GaussianDropout(gaussian, name=f"{name}_drop")(x) if gaussian else x
    return layers.SpatialDropout2D(spatial, name=f"{name}_drop_channels")(x) if spatial else x


def encode_and_decode(x, encoder, decoder, kernels, bottom, scaled, rates, pooling):
    """From the stem to the feature map before the head.

    Args:
        x: output of the stem, (B, H, W, C).
        encoder: filters of the encoder's levels; the last two regulate.
        decoder: filters of the decoder's levels; the first three regulate.
        kernels: result of `bottom_kernels`.
        bottom: filters of the two convolutions at the bottom.
        scaled: result of `make_scale`.
        rates: dropout rates as for `unit`, of all units but the parallel ones, and of these.
        pooling: see `build_model`.
    """
    skips, (dropout, parallel_dropout) = [x], rates
    kind, padding = ("pooled", "same") if pooling else ("strided", "valid")
    for level, filters in enumerate(map(scaled, encoder), 1):
        regulate = level > len(encoder) - 2
        x = unit(x, filters, 3, kind, dropout, regulate, f"down{level}", padding)
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


def finish(inputs, x, classes, overlapping, scaled, noise, name):
    """Add the head after its first convolution, and make the model."""
    x = head_activation(x, noise, "head1")
    x = layers.Conv2DTranspose(scaled(16), 3, use_bias=False, kernel_initializer="he_uniform", name="head2_conv")(x)
    x = head_activation(x, noise, "head2")
    x = layers.Concatenate(name="head_join")([x, inputs])
    x = layers.Conv2D(output_channels(classes, overlapping), 1, name="logits")(x)
    x = SynapticTransmissionRegulator(name="logits_regulator")(x)
    return keras.Model(inputs, output_layer(classes, overlapping)(x), name=name)


def head_activation(x, noise, name):
    x = layers.BatchNormalization(momentum=NORM_MOMENTUM, name=f"{name}_norm")(x)
    x = ParametricSwish(name=f"{name}_swish")(x)
    return layers.GaussianNoise(noise, name=f"{name}_noise")(x) if noise else x
