"""DeepLab v3+ (Chen et al., arXiv 1802.02611) on modified aligned Xception, MobileNetV2 (arXiv 1801.04381), ResNet."""

import keras
from keras import layers

from models.codeset import COMPARISON
from models.encoders import STRIDE, encode
from models.layers import NORM_MOMENTUM, output_channels, output_layer, pad_to_multiple

# Used by train.py for settings that are None.
RECOMMENDED = {"BATCH_SIZE": 12, "OPTIMIZER": "nadam", "LEARNING_RATE": 1e-3, "SCHEDULE": "poly"}
PUBLISHED = COMPARISON | {"BATCH_SIZE": 12}  # used with AS_PUBLISHED

BACKBONE_EPSILON, HEAD_EPSILON = 1e-3, 1e-5  # batch normalization before the pyramid, and from the pyramid on

# Dilation rates by output stride: middle blocks, the two exit blocks, pyramid.
XCEPTION_RATES = {16: (1, (1, 2), (6, 12, 18)), 8: (2, (2, 4), (12, 24, 36))}

# MobileNetV2 from its second block on: filters, stride and dilation rate at output stride 8.
INVERTED_RESIDUALS = (
    *((24, 2, 1), (24, 1, 1)),
    *((32, 2, 1), (32, 1, 1), (32, 1, 1)),
    *((64, 1, 1), (64, 1, 2), (64, 1, 2), (64, 1, 2)),
    *((96, 1, 2), (96, 1, 2), (96, 1, 2)),
    *((160, 1, 2), (160, 1, 4), (160, 1, 4)),
    (320, 1, 4),
)

BACKBONES = ("xception", "mobilenetv2", "resnet50")
MOST_ALPHA = 4  # sixteen times the parameters


def build_model(
    input_shape,
    classes=1,
    *,
    overlapping=False,
    backbone="xception",
    backbone_weights="imagenet",
    output_stride=None,
    alpha=1.0,
    dropout=0.1,
    momentum=NORM_MOMENTUM,
):
    """Build a DeepLab v3+ for images of any size; it pads them with black and crops the result.

    At (200, 200, 1) with the defaults it has 41,252,497 parameters, 41,049,697 of them trainable; on MobileNetV2
    2,140,929. On MobileNetV2 it has no decoder, and its pyramid has only the pooling and 1x1 branches.

    Args:
        input_shape: (height, width, channels) of the images, scaled to 0..1.
        classes: 1 for one sigmoid channel; K > 1 for a softmax over K + 1 channels.
        overlapping: whether the K classes overlap: a sigmoid channel for each instead.
        backbone: "xception" or "mobilenetv2", with random weights; or "resnet50" of keras.applications up to its fourth
            stage (He et al., arXiv 1512.03385).
        backbone_weights: for ResNet-50, as `encoder_weights` of `models.pretrained_unet`.
        output_stride: how many times smaller the feature map before the pyramid is, 16 or 8; None: 8 for MobileNetV2,
            16 for the others. ResNet-50 has 16.
        alpha: factor for the filters of MobileNetV2, up to MOST_ALPHA.
        dropout: dropout rate before the last layers, 0 <= dropout < 1.
        momentum: batch normalization momentum, 0 < momentum < 1.

    Returns:
        keras.Model with layers `input` and `output`; (B, H, W, C) to (B, H, W, 1 or K + 1) in float32.

    Raises:
        ValueError: for a setting out of range or for another backbone, or if weights are missing or damaged.
    """
    if backbone not in BACKBONES or output_stride not in (None, 8, 16) or isinstance(output_stride, float):
        raise ValueError(
            'deeplab_v3plus: expected backbone="xception", "mobilenetv2" or "resnet50" and output_stride=16 or 8 '
            f"(found backbone={backbone!r}, output_stride={output_stride})"
        )
    if not 0 < alpha <= MOST_ALPHA or not 0 <= dropout < 1 or not 0 < momentum < 1:
        raise ValueError(
            f"deeplab_v3plus: expected 0 < alpha <= {MOST_ALPHA}, 0 <= dropout < 1 and 0 < momentum < 1 "
            f"(found alpha={alpha}, dropout={dropout}, momentum={momentum})"
        )
    if backbone == "resnet50" and output_stride == 8:
        raise ValueError('deeplab_v3plus: backbone="resnet50" has output_stride=16 (found 8); remove it')
    if backbone != "mobilenetv2" and alpha != 1:
        raise ValueError(f'deeplab_v3plus: alpha is for backbone="mobilenetv2" only (found {alpha}); remove it')
    blocks = Blocks(momentum)
    inputs = keras.Input(input_shape, name="input")
    padded, crop = pad_to_multiple(inputs, STRIDE if backbone == "resnet50" else 16)
    if backbone == "resnet50":
        _, skip, _, x, _ = encode(padded, backbone, backbone_weights)
        stride, rates = 16, XCEPTION_RATES[16][2]
    elif backbone == "xception":
        stride = output_stride or 16
        x, skip = xception(blocks, padded, stride)
        rates = XCEPTION_RATES[stride][2]
    else:
        stride, skip, rates = output_stride or 8, None, ()
        x = mobilenetv2(blocks, padded, alpha, stride)
    x = pyramid(blocks, x, rates, dropout)
    if skip is not None:
        x = decode(blocks, x, skip, stride // 4)
        stride = 4
    x = layers.Conv2D(output_channels(classes, overlapping), 1, name="logits")(x)
    x = crop(layers.UpSampling2D(stride, interpolation="bilinear", name="logits_up")(x))
    return keras.Model(inputs, output_layer(classes, overlapping)(x), name="deeplab_v3plus")


class Blocks:
    """Building blocks of the network, with one batch normalization momentum."""

    def __init__(self, momentum):
        self.momentum = momentum

    def norm(self, x, name, epsilon=BACKBONE_EPSILON):
        return layers.BatchNormalization(momentum=self.momentum, epsilon=epsilon, name=f"{name}_norm")(x)

    def conv(self, x, filters, kernel, name, stride=1, epsilon=BACKBONE_EPSILON, activation=None):
        """Convolution without bias, batch normalization, and an activation if given."""
        x = layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False, name=f"{name}_conv")(x)
        x = self.norm(x, name, epsilon)
        return layers.Activation(activation, name=f"{name}_{activation}")(x) if activation else x

    def separable(self, x, filters, name, stride=1, rate=1, inside=False, epsilon=BACKBONE_EPSILON):
        """Depthwise and pointwise convolution, each with normalization; ReLU first, or after each if `inside`."""

        def relu(x, where):
            return layers.ReLU(name=f"{name}_{where}relu")(x)

        x = x if inside else relu(x, "")
        if stride > 1:  # padding "same" depends on the map size; this does not
            x = layers.ZeroPadding2D(rate, name=f"{name}_pad")(x)
        x = layers.DepthwiseConv2D(
            3,
            stride,
            padding="same" if stride == 1 else "valid",
            dilation_rate=rate,
            use_bias=False,
            name=f"{name}_depthwise",
        )(x)
        x = self.norm(x, f"{name}_depthwise", epsilon)
        x = relu(x, "depthwise_") if inside else x
        x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_pointwise")(x)
        x = self.norm(x, f"{name}_pointwise", epsilon)
        return relu(x, "pointwise_") if inside else x

    def xception_block(self, x, filters, name, shortcut, stride=1, rate=1, inside=False):
        """Three separable units and a shortcut ("conv", "sum" or None); outputs of the block and its second unit."""
        entry, outputs = x, []
        for number, count in enumerate(filters, 1):
            last = number == len(filters)
            x = self.separable(x, count, f"{name}_sep{number}", stride if last else 1, rate, inside)
            outputs.append(x)
        if shortcut == "conv":
            entry = self.conv(entry, filters[-1], 1, f"{name}_shortcut", stride)
        if shortcut:
            x = layers.Add(name=f"{name}_add")([x, entry])
        return x, outputs[1]

    def inverted_residual(self, x, filters, stride, rate, expansion, name):
        """Expand by 1x1, depthwise 3x3, project by 1x1; added to the input if the shapes match."""
        entry = x
        if expansion > 1:
            x = self.conv(x, expansion * x.shape[-1], 1, f"{name}_expand", activation="relu6")
        x = layers.DepthwiseConv2D(
            3, stride, padding="same", dilation_rate=rate, use_bias=False, name=f"{name}_depthwise"
        )(x)
        x = layers.Activation("relu6", name=f"{name}_relu6")(self.norm(x, f"{name}_depthwise"))
        x = self.conv(x, filters, 1, f"{name}_project")
        return layers.Add(name=f"{name}_add")([entry, x]) if stride == 1 and entry.shape[-1] == filters else x


def xception(blocks, x, output_stride):
    """Modified aligned Xception; returns its feature map, and the map at a quarter of the size for the decoder."""
    middle_rate, exit_rates, _ = XCEPTION_RATES[output_stride]
    x = blocks.conv(x, 32, 3, "entry1", stride=2, activation="relu")
    x = blocks.conv(x, 64, 3, "entry2", activation="relu")
    x, _ = blocks.xception_block(x, [128] * 3, "entry_block1", "conv", stride=2)
    x, skip = blocks.xception_block(x, [256] * 3, "entry_block2", "conv", stride=2)
    x, _ = blocks.xception_block(x, [728] * 3, "entry_block3", "conv", stride=output_stride // 8)
    for number in range(1, 17):
        x, _ = blocks.xception_block(x, [728] * 3, f"middle_block{number}", "sum", rate=middle_rate)
    x, _ = blocks.xception_block(x, [728, 1024, 1024], "exit_block1", "conv", rate=exit_rates[0])
    x, _ = blocks.xception_block(x, [1536, 1536, 2048], "exit_block2", None, rate=exit_rates[1], inside=True)
    return x, skip


def mobilenetv2(blocks, x, alpha, output_stride):
    """MobileNetV2 minus its last layers; at output stride 16, the first 64-filter block strides instead of dilating."""

    def filters(count):
        """alpha times count, rounded to a multiple of 8, but down by at most a tenth."""
        wanted = count * alpha
        rounded = max(8, int(wanted + 4) // 8 * 8)
        return rounded if rounded >= 0.9 * wanted else rounded + 8

    x = blocks.conv(x, filters(32), 3, "stem", stride=2, activation="relu6")
    x = blocks.inverted_residual(x, filters(16), 1, 1, 1, "block0")
    first_of_64 = next(i for i, block in enumerate(INVERTED_RESIDUALS) if block[0] == 64)
    for number, (count, stride, rate) in enumerate(INVERTED_RESIDUALS):
        if output_stride == 16:
            stride, rate = 2 if number == first_of_64 else stride, max(1, rate // 2)
        x = blocks.inverted_residual(x, filters(count), stride, rate, 6, f"block{number + 1}")
    return x


def pyramid(blocks, x, rates, dropout):
    """Atrous spatial pyramid pooling: image pooling, 1x1 and separable convolutions, joined to 256 filters."""
    pooled = layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    pooled = blocks.conv(pooled, 256, 1, "pool", epsilon=HEAD_EPSILON, activation="relu")
    branches = [
        layers.UpSampling2D(x.shape[1:3], interpolation="bilinear", name="pool_up")(pooled),
        blocks.conv(x, 256, 1, "pyramid0", epsilon=HEAD_EPSILON, activation="relu"),
    ]
    for number, rate in enumerate(rates, 1):
        branches.append(blocks.separable(x, 256, f"pyramid{number}", 1, rate, inside=True, epsilon=HEAD_EPSILON))
    x = layers.Concatenate(name="pyramid_join")(branches)
    x = blocks.conv(x, 256, 1, "pyramid_project", epsilon=HEAD_EPSILON, activation="relu")
    return layers.Dropout(dropout, name="pyramid_drop")(x) if dropout else x


def decode(blocks, x, skip, factor):
    """Upsample by `factor`, join the skip connection, and refine."""
    x = layers.UpSampling2D(factor, interpolation="bilinear", name="decoder_up")(x)
    skip = blocks.conv(skip, 48, 1, "decoder_skip", epsilon=HEAD_EPSILON, activation="relu")
    x = layers.Concatenate(name="decoder_join")([x, skip])
    for number in (1, 2):
        x = blocks.separable(x, 256, f"decoder{number}", inside=True, epsilon=HEAD_EPSILON)
    return x
