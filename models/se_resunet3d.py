"""Residual 3-D U-net with squeeze and excitation, used by the second place in the Medical Segmentation Decathlon 2018.

It follows Isensee et al., arXiv 1809.10486 (instance normalization, leaky ReLU), He et al., arXiv 1512.03385 (residual
blocks) and Hu et al., arXiv 1709.01507 (squeeze and excitation).
"""

import keras
from keras import layers, ops

from models.layers import CropLike, PlanarConv3D
from models.unet3d import Supervision, blocks_of, find_levels

# Used by train.py for settings that are None.
RECOMMENDED = {"BATCH_SIZE": 1, "OPTIMIZER": "adam", "LEARNING_RATE": 1e-4, "SCHEDULE": "constant"}
FOR_VOLUMES = True
SLOPE = 0.3  # negative slope of the leaky ReLU
MOST_CHANNELS = 2048  # at the lowest level: half a billion parameters
MOST_DEPTH = 8  # 2**8 voxels of each axis become one
LARGE = (10_000,) * 3  # voxels: volumes of any size are pooled alike
REGION = "roi"  # layer of the second output
MOST_NOISE = 10  # ten times the standard deviation of a standardized volume


def build_model(
    input_shape,
    classes=1,
    *,
    spacing=(1, 1, 1),
    features=32,
    depth=3,
    ratio=16,
    squeeze=True,
    noise=0.1,
    roi=False,
    last_relu=False,
):
    """Build the network for volumes of any size: sizes are rounded up on the way down and cropped on the way up.

    With one channel, one label and the defaults it has 7,911,563 parameters, all of them trainable.

    Args:
        input_shape: (None, None, None, channels) of standardized volumes, or a fixed size.
        classes: K labels, one sigmoid channel each, none for the background.
        spacing: mm along (up, back, left); pooling spares an axis until the others are as coarse, as in
            `models.unet3d.find_levels`. train.py takes it from the packed set.
        features: channels of the first level; each level below has twice as many, up to MOST_CHANNELS.
        depth: how many times the volume is pooled, 1 to MOST_DEPTH.
        ratio: reduction ratio of squeeze and excitation, at least 1.
        squeeze: whether blocks have squeeze and excitation.
        noise: standard deviation of the Gaussian noise on the input during training, up to MOST_NOISE; 0: none.
        roi: whether a second output, at the lowest level, learns the region of all labels; `with_region` returns it.
        last_relu: whether probabilities of 0.5 and less become 0, in training too (use a loss of overlaps then, such
            as "smooth_dice": they have no gradient).

    Returns:
        keras.Model with layers `input` and `output`; (B, S, H, W, C) to (B, S, H, W, K) in float32.

    Raises:
        ValueError: for spacing, features, depth, ratio or noise out of range.
    """
    fits = 1 <= depth <= MOST_DEPTH and 1 <= features <= MOST_CHANNELS // 2**depth
    if not fits or ratio < 1 or not 0 <= noise <= MOST_NOISE:
        raise ValueError(
            f"se_resunet3d: expected features, depth and ratio >= 1, depth <= {MOST_DEPTH}, "
            f"features * 2**depth <= {MOST_CHANNELS} and 0 <= noise <= {MOST_NOISE} "
            f"(found features={features}, depth={depth}, ratio={ratio}, noise={noise})"
        )

    strides = find_levels(spacing, LARGE, depth)[1]

    def convolution(x, filters, name):
        """3x3x3 without bias, which normalization would cancel, and instance normalization."""
        x = PlanarConv3D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv")(x)
        return instance_norm(x, f"{name}_norm")

    def instance_norm(x, name):
        return layers.GroupNormalization(groups=-1, name=name)(x)

    def relu(x, name):
        return layers.LeakyReLU(SLOPE, name=name)(x)

    def squeeze_and_excite(x, filters, name):
        weights = layers.GlobalAveragePooling3D(keepdims=True, name=f"{name}_squeeze")(x)
        weights = layers.Dense(max(1, filters // ratio), activation="relu", name=f"{name}_narrow")(weights)
        weights = layers.Dense(filters, activation="sigmoid", name=f"{name}_excite")(weights)
        return layers.Multiply(name=f"{name}_scale")([x, weights])

    def residual_block(x, filters, name):
        y = relu(convolution(x, filters, f"{name}_1"), f"{name}_1_relu")
        y = convolution(y, filters, f"{name}_2")
        y = squeeze_and_excite(y, filters, name) if squeeze else y
        y = layers.Add(name=f"{name}_add")([y, convolution(x, filters, f"{name}_shortcut")])
        return relu(y, f"{name}_relu")

    inputs = keras.Input(input_shape, name="input")
    x = layers.GaussianNoise(noise, name="noise")(inputs) if noise else inputs
    x = relu(convolution(x, features, "first"), "first_relu")
    skips = []
    for level in range(1, depth + 1):
        skips.append(x)
        x = layers.MaxPooling3D(strides[level - 1], padding="same", name=f"pool{level}")(x)
        x = residual_block(x, features * 2**level, f"down{level}")
    lowest = x
    for level in reversed(range(depth)):
        filters, step = features * 2**level, strides[level]
        x = layers.Conv3DTranspose(filters, step, strides=step, use_bias=False, name=f"up{level}_conv")(x)
        x = relu(instance_norm(x, f"up{level}_norm"), f"up{level}_relu")
        x = CropLike(name=f"up{level}_crop")([x, skips[level]])
        x = layers.Concatenate(name=f"up{level}_join")([skips[level], x])
        x = residual_block(x, filters, f"up{level}_block")
    x = layers.Conv3D(classes, 1, name="logits")(x)
    if roi:
        region = layers.Conv3D(1, 1, name=REGION)(lowest)
        x = Supervision([blocks_of(strides)], name="supervision")([x, region])
    outputs = layers.Activation(cut_sigmoid if last_relu else "sigmoid", dtype="float32", name="output")(x)
    return (TwoHeadedModel if roi else keras.Model)(inputs, outputs, name="se_resunet3d")


@keras.saving.register_keras_serializable(package="segmentation")
def cut_sigmoid(x):
    """Probabilities of logits; those of 0.5 and less are 0."""
    probabilities = ops.sigmoid(x)
    return ops.where(probabilities > 0.5, probabilities, ops.zeros_like(probabilities))


# --- the region of all labels


@keras.saving.register_keras_serializable(package="segmentation")
class TwoHeadedModel(keras.Model):
    """Model whose loss in training includes the region at the lowest level, as 1 - (2 tp + 1) / (t + p + 1).

    It has one output, and its loss in validation is that of the output alone.
    """

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if not training:
            return loss
        supervision = self.get_layer("supervision")
        region = ops.sigmoid(ops.cast(supervision.kept.tensors[0], "float32"))
        truth, axes = region_of(y, supervision.blocks[0]), (1, 2, 3, 4)
        overlap, total = ops.sum(truth * region, axes), ops.sum(truth, axes) + ops.sum(region, axes)
        return loss + ops.mean(1 - (2 * overlap + 1) / (total + 1))


def region_of(y, block):
    """Which blocks (up, back, left) contain a label: (B, s, h, w, 1) float32 from targets (B, S, H, W, C)."""
    labeled = ops.cast(ops.max(y, axis=-1, keepdims=True) > 0, "float32")
    return ops.max_pool(labeled, tuple(block), strides=tuple(block), padding="same", data_format="channels_last")


def with_region(model):
    """Model with the same weights whose output has the probability of the region as one more channel, the last.

    Args:
        model: keras.Model.

    Returns:
        keras.Model from (B, S, H, W, C) to (B, S, H, W, K + 1) in float32; None if the model was built without `roi`.
    """
    if not isinstance(model, TwoHeadedModel):
        return None
    (block,) = model.get_layer("supervision").blocks
    (output,) = model.outputs
    region = layers.Activation("sigmoid", dtype="float32")(model.get_layer(REGION).output)
    region = CropLike()([layers.UpSampling3D(tuple(block))(region), output])
    return keras.Model(model.inputs, layers.Concatenate(dtype="float32")([output, region]))
