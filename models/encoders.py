"""Encoders with weights from ImageNet, for images with any number of channels."""

import keras
from keras import layers

from models.layers import NORM_MOMENTUM
from models.pretrained_weights import read_efficientnet_lite0

# EfficientNet-Lite0 (Tan and Le, arXiv 1905.11946): filters, kernel, stride, expansion, repeats.
LITE0_STEM = 32
LITE0_STAGES = (
    *((16, 3, 1, 1, 1), (24, 3, 2, 6, 2), (40, 5, 2, 6, 2), (80, 3, 2, 6, 3)),
    *((112, 5, 1, 6, 3), (192, 5, 2, 6, 4), (320, 3, 1, 6, 1)),
)
LITE0_SKIPS = ("block0_project_norm", "block2_add", "block4_add", "block10_add", "block15_project_norm")
LITE0_EPSILON = 1e-3

# Networks of keras.applications: function, its further arguments, the layers whose outputs are 2, 4, 8, 16 and 32 times
# smaller than the image, and how they want images of 0..1: (factor, mean of red, green, blue after it, divisor).
SKIPS_OF_MOBILENET = ("block_1_expand_relu", "block_3_expand_relu", "block_6_expand_relu", "block_13_expand_relu")
APPLICATIONS = {
    "efficientnetv2-b0": (
        "EfficientNetV2B0",
        {"include_preprocessing": False},
        ("block1a_project_activation", "block2b_add", "block3b_add", "block5e_add", "block6h_add"),
        (1, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ),
    "mobilenetv2": ("MobileNetV2", {}, (*SKIPS_OF_MOBILENET, "block_16_project_BN"), (1, (0.5,) * 3, (0.5,) * 3)),
    "resnet50": (
        "ResNet50",
        {},
        ("conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out"),
        (255, (123.68, 116.779, 103.939), (1,) * 3),
    ),
}
REVERSED = ("resnet50",)  # their weights take blue, green, red
ENCODERS = ("efficientnet_lite0", *APPLICATIONS)
STRIDE = 32  # how many times smaller the last feature map is


def encode(x, encoder, weights="imagenet"):
    """Run images through an encoder.

    Args:
        x: Keras tensor (B, H, W, C) in 0..1; H and W are multiples of STRIDE.
        encoder: name in ENCODERS.
        weights: "imagenet", the path of a file with the weights, or None for random ones. The kernels of the first
            layer are kept for 3 channels, summed for 1, and for other numbers C divided by C as well.

    Returns:
        Keras tensors that are 2, 4, 8, 16 and 32 times smaller than x.

    Raises:
        ValueError: if the weights are missing, damaged or of another network.
    """
    if encoder == "efficientnet_lite0":
        mean, divisor = 127 / 255, 128 / 255
        x = layers.Rescaling(1 / divisor, -mean / divisor, name="standardize")(x)
        return efficientnet_lite0(x, weights)
    return application(x, encoder, weights)


# --- EfficientNet-Lite0


def efficientnet_lite0(x, weights):
    """EfficientNet-Lite0 up to its last block; arguments and result as in `encode`, x standardized."""
    source, outputs = {}, {}
    if weights is not None:
        source = read_efficientnet_lite0(None if weights == "imagenet" else weights)

    def conv(x, name, theirs, kernel=1, stride=1, filters=None, relu6=True):
        """Convolution (depthwise without filters), batch normalization and ReLU6."""
        kind = layers.Conv2D if filters else layers.DepthwiseConv2D
        sizes = (filters, kernel, stride) if filters else (kernel, stride)
        layer = kind(*sizes, padding="same", use_bias=False, name=f"{name}_conv")
        x = layer(x)
        norm = layers.BatchNormalization(momentum=NORM_MOMENTUM, epsilon=LITE0_EPSILON, name=f"{name}_norm")
        x = outputs[norm.name] = norm(x)
        if source:
            kernels, norms = theirs
            order = (2, 3, 1, 0) if filters else (2, 3, 0, 1)
            layer.set_weights([for_channels(source[f"{kernels}.weight"].transpose(order), layer.kernel.shape)])
            names = ("weight", "bias", "running_mean", "running_var")
            norm.set_weights([source[f"{norms}.{value}"] for value in names])
        return layers.ReLU(6, name=f"{name}_relu6")(x) if relu6 else x

    x = conv(x, "stem", ("_conv_stem", "_bn0"), 3, 2, LITE0_STEM)
    number = 0
    for filters, kernel, stride, expansion, repeats in LITE0_STAGES:
        for repeat in range(repeats):
            name, theirs, entry = f"block{number}", f"_blocks.{number}", x
            if expansion > 1:
                pair = (f"{theirs}._expand_conv", f"{theirs}._bn0")
                x = conv(x, f"{name}_expand", pair, filters=expansion * x.shape[-1])
            pair = (f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            x = conv(x, f"{name}_depthwise", pair, kernel, stride if repeat == 0 else 1)
            pair = (f"{theirs}._project_conv", f"{theirs}._bn2")
            x = conv(x, f"{name}_project", pair, filters=filters, relu6=False)
            if repeat:
                x = outputs[f"{name}_add"] = layers.Add(name=f"{name}_add")([x, entry])
            number += 1
    return [outputs[name] for name in LITE0_SKIPS]


def for_channels(kernel, shape):
    """Kernel (H, W, 3, O) of the first layer for another number of channels; other kernels are unchanged."""
    channels = shape[2]
    if kernel.shape[2] == channels:
        return kernel
    return (kernel.sum(2, keepdims=True) / channels).repeat(channels, 2)


# --- keras.applications


def application(x, encoder, weights):
    """A network of keras.applications; arguments and result as in `encode`."""
    function, more, skips, (factor, means, divisors) = APPLICATIONS[encoder]
    channels = x.shape[-1]
    if channels != 3:  # one mean for all
        means, divisors = (([sum(values) / 3] * channels) for values in (means, divisors))
    scales = [factor / divisor for divisor in divisors]
    offsets = [-mean / divisor for mean, divisor in zip(means, divisors, strict=True)]
    x = layers.Rescaling(scales, offsets, name="standardize")(x)
    build = getattr(keras.applications, function)
    network = build(include_top=False, weights=None, input_tensor=x, **more)
    if weights is not None:
        copy_weights(load_application(encoder, weights), network, encoder in REVERSED)
    return [network.get_layer(name).output for name in skips]


def load_application(encoder, weights):
    """A network of keras.applications for 3 channels with weights; arguments and errors as in `encode`."""
    function, more, _, _ = APPLICATIONS[encoder]
    build = getattr(keras.applications, function)
    try:
        return build(include_top=False, weights=weights, input_shape=(224, 224, 3), **more)
    except Exception as error:  # Keras raises a bare Exception without a connection
        reason = next(filter(None, str(error).splitlines()), type(error).__name__)
    if weights == "imagenet":
        ask = 'connect to the internet once, pass the path of its file "..._notop.h5" as "encoder_weights"'
        raise ValueError(f'{encoder}: cannot download its weights ({reason}); {ask}, or use "efficientnet_lite0"')
    raise ValueError(f"{weights}: not the weights of {encoder} ({reason}); pass the file of keras.applications")


def copy_weights(source, network, is_reversed):
    """Copy weights between two forms of a network that differ in the channels of the image."""
    theirs = [layer for layer in source.layers if layer.weights]
    ours = {layer.name: layer for layer in network.layers}
    first = True
    for layer in theirs:
        weights = layer.get_weights()
        if first and is_reversed:
            weights[0] = weights[0][:, :, ::-1]
        if first:
            weights[0] = for_channels(weights[0], ours[layer.name].kernel.shape)
        ours[layer.name].set_weights(weights)
        first = False
