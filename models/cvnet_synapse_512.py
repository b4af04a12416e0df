"""CV-net SYNAPSE for 512x512: one more level than `models.cvnet_synapse`, whose parts it uses."""

import keras
from keras import layers

from models import cvnet_synapse
from models.cvnet_synapse import bottom_kernels, encode_and_decode, finish, make_scale, stem_activation

# Used by train.py for settings that are None; the learning rate is for this batch size.
RECOMMENDED = cvnet_synapse.RECOMMENDED | {"BATCH_SIZE": 16, "LEARNING_RATE": 0.35}
# Used with AS_PUBLISHED.
CONTROLLER = {"step": [0.1, 5.0], "patience": [15, 1], "limit": [0.01, 1.0]}
PUBLISHED = cvnet_synapse.PUBLISHED | RECOMMENDED | {"CONTROLLER": CONTROLLER}

ENCODER = (8, 16, 32, 128, 512)  # filters per level; the last two regulate
DECODER = (512, 384, 160, 56, 24, 24)  # filters per level; the first three regulate
BOTTOM = (1024, 2048)


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
    """Build a CV-net SYNAPSE for images of 512x512, or with other sides that are a multiple of 128.

    At (512, 512, 1) with the defaults it has 47,196,340 parameters, 47,183,588 of them trainable. Arguments,
    result and errors are as in `models.cvnet_synapse.build_model`.
    """
    rates = (dropout, spatial_dropout), (parallel_dropout, parallel_spatial_dropout)
    scaled = make_scale("cvnet_synapse_512", width, rates, noise)
    kernels = bottom_kernels("cvnet_synapse_512", input_shape, halvings=5, border=0)
    inputs = keras.Input(input_shape, name="input")
    x = layers.Conv2D(scaled(8), 3, padding="same", use_bias=False, name="stem_conv")(inputs)
    x = stem_activation(x)
    x = encode_and_decode(x, ENCODER, DECODER, kernels, BOTTOM, scaled, rates, pooling)
    x = layers.Conv2D(scaled(32), 3, use_bias=False, kernel_initializer="he_uniform", name="head1_conv")(x)
    return finish(inputs, x, classes, overlapping, scaled, noise, "cvnet_synapse_512")
