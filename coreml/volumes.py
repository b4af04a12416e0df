"""Networks for volumes as Core ML takes them: of a fixed size, and with at most five axes in every operation."""

import keras
from keras import layers, ops

from common.errors import InputError
from models.layers import PlanarConv3D


def are_for_volumes(network):
    """Whether a network takes volumes, (B, S, H, W, C)."""
    inputs = getattr(network, "inputs", None) or ()  # a user's class may lack these
    return len(inputs) == 1 and len(inputs[0].shape) == 5


@keras.saving.register_keras_serializable(package="segmentation")
class InstanceNormalization(layers.GroupNormalization):
    """GroupNormalization with a group for each channel; Keras computes it on six axes, which Core ML does not have."""

    def call(self, inputs):
        axes = tuple(range(1, len(inputs.shape) - 1))
        centered = inputs - ops.mean(inputs, axes, keepdims=True)
        y = centered * ops.rsqrt(ops.mean(ops.square(centered), axes, keepdims=True) + self.epsilon)
        y = y * self.gamma if self.scale else y
        return y + self.beta if self.center else y


def with_fixed_size(network, size, source):
    """Copy of a network for volumes of one size, with the same weights and results.

    Args:
        network: keras.Model in float32, for volumes of any size.
        size: voxels (up, back, left), or None if neither the user nor the run states it.
        source: file that it was loaded from, for messages.

    Raises:
        InputError: without a size, if the network cannot be copied, or if it is for slices.
    """
    if not are_for_volumes(network):
        raise InputError(f"VOLUME_SIZE: only for models for volumes ({source} is for slices); leave it at None")
    *own, channels = network.input_shape[1:]
    if size is None and None in own:
        raise InputError(
            f"VOLUME_SIZE: not set, and the run has no CROP ({source} takes any size, Core ML needs one); pass "
            '--volume-size "[64, 96, 96]", such as the size of the volumes that the app cuts out'
        )
    try:
        inputs = keras.Input((*(size or own), channels), name="input")
        copy = keras.models.clone_model(network, input_tensors=inputs, clone_function=_replacement)
        copy.set_weights(network.get_weights())
    except (NotImplementedError, TypeError, ValueError) as error:
        reason = next(filter(None, str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"{source}: cannot be used at a size of {size or own} ({reason}); use another --volume-size"
        ) from error
    return copy


def _replacement(layer):
    """A layer with the same weights and results that Core ML has."""
    config = layer.get_config()
    if isinstance(layer, PlanarConv3D):
        return layers.Conv3D.from_config(config)
    if type(layer) is layers.GroupNormalization and layer.groups in (-1, layer.input.shape[-1]):
        return InstanceNormalization.from_config(config)
    return type(layer).from_config(config)
