"""Training on several devices of one machine with TensorFlow: each has the whole model and a share of every batch.

`tf.distribute.MirroredStrategy` copies the variables to all devices and adds up their gradients. By itself, each device
would compute its own loss and batch normalization. Here both cover the whole batch, as on one device:

- every device gathers the probabilities of the others, and the loss of all of them has a gradient for its own ones;
- batch normalization sums over all devices.

Shares may differ in size: metrics add up. A device without an image computes a black one that counts nowhere, since
convolutions of TensorFlow fail on none.
"""

import threading
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from common.devices import OneDevice
from common.parallel import ordered_map
from common.words import number_of
from models.unet3d import Supervision

_share = threading.local()  # `images`: number of images in the share of the device whose step this thread traces


class MirroredDevices(OneDevice):
    """Several devices to train a model on; methods as in OneDevice.

    Args:
        names: device names, such as "GPU:0".
    """

    can_jit = False  # XLA cannot compile what passes from device to device

    def __init__(self, names):
        self.strategy, self.first = tf.distribute.MirroredStrategy(names), None  # the first batch

    def __len__(self):
        return self.strategy.num_replicas_in_sync

    def in_words(self):
        return f", {number_of(len(self), 'device')}"

    def scope(self):
        return self.strategy.scope()

    def prepare(self, model):
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer._moments = partial(_moments_of_all, layer)
        model.compute_loss = partial(_loss_of_all, model)
        model.call = partial(_call_on_share, model.call)
        model._maybe_symbolic_build = partial(self._build, model)

    def _build(self, model, iterator=None, data_batch=None):
        """In place of Keras' own, which averages the shares of the first batch and fails if they differ in size."""
        with self.scope():
            model._symbolic_build(data_batch=data_batch or self.first)

    def feed(self, batches):
        self.first = batches[0]
        signature = tuple(tf.TensorSpec((None, *array.shape[1:]), array.dtype) for array in self.first)
        options = tf.data.Options()
        options.autotune.enabled = False

        def make(_):
            shares = tf.data.Dataset.from_generator(partial(self._shares, batches), output_signature=signature)
            return shares.prefetch(2 * len(self)).with_options(options)

        dataset = self.strategy.distribute_datasets_from_function(make)
        dataset._cardinality = len(batches)  # in steps; otherwise Keras begins a step that has no batch
        return dataset

    def _shares(self, batches):
        """Yield the share of each device in turn; `on_epoch_begin` and threads are as Keras has them."""
        batches.on_epoch_begin()
        made = map(batches.__getitem__, range(len(batches)))
        if batches.workers > 1:
            made = ordered_map(batches.__getitem__, range(len(batches)), batches.workers)
        for batch in made:
            yield from zip(*(np.array_split(array, len(self)) for array in batch), strict=True)
        batches.on_epoch_end()


def _several():
    """The replica context if this is one of several devices in a step, otherwise None."""
    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None


def _call_on_share(usual, inputs, training=None, mask=None):
    """In place of `Model.call`: accepts a share without an image."""
    if _several() is None:
        return usual(inputs, training=training, mask=mask)
    _share.images = tf.shape(inputs)[0]
    missing = tf.maximum(1 - _share.images, 0)
    inputs = tf.concat([inputs, tf.zeros([missing, *inputs.shape[1:]], inputs.dtype)], 0)
    outputs = usual(inputs, training=training, mask=mask)
    return tf.nest.map_structure(lambda values: values[: _share.images], outputs)


def _moments_of_all(layer, inputs, mask):
    """In place of `BatchNormalization._moments`: mean and variance over the whole batch."""
    context = _several()
    if context is None or mask is not None:
        return type(layer)._moments(layer, inputs, mask)
    x, axes = tf.cast(inputs, tf.float32), layer._reduction_axes
    of_image = tf.size(x[0]) // x.shape[layer.axis]

    def total(values):
        return tf.reduce_sum(tf.reduce_sum(values, axes[1:])[: _share.images], 0)

    count, sums = context.all_reduce("sum", [tf.cast(_share.images * of_image, tf.float32), total(x)])
    mean = sums / count
    shape = [1 if axis in axes else -1 for axis in range(len(x.shape))]
    variance = context.all_reduce("sum", total(tf.square(x - tf.reshape(mean, shape)))) / count
    return tf.cast(mean, inputs.dtype), tf.cast(variance, inputs.dtype)


def _loss_of_all(model, x=None, y=None, y_pred=None, sample_weight=None, training=True):
    """In place of `Model.compute_loss`: the loss of the whole batch, with gradients for the share of this device."""
    if context := _several():
        y = tf.nest.map_structure(lambda values: _gather(context, values), y)
        y_pred = tf.nest.map_structure(partial(_gather_with_own_gradient, context), y_pred)
        for layer in model.layers:
            if isinstance(layer, Supervision):
                own = [values[: _share.images] for values in layer.kept.tensors]
                layer.kept.tensors = [_gather_with_own_gradient(context, values) for values in own]
    options = {"x": x, "y": y, "y_pred": y_pred, "sample_weight": sample_weight, "training": training}
    return type(model).compute_loss(model, **options)


def _gather(context, values):
    """Values of all devices along the first axis; small integers travel as int32, as TensorFlow needs it."""
    small = values.dtype.is_integer and values.dtype.size < 4
    return tf.cast(context.all_gather(tf.cast(values, tf.int32) if small else values, 0), values.dtype)


def _gather_with_own_gradient(context, own):
    """`_gather`, whose gradient for the own values is multiplied by the number of devices: Keras divides by it."""
    counts = context.all_gather(tf.shape(own)[:1], 0)
    number = context.replica_id_in_sync_group
    start = tf.reduce_sum(counts[:number])
    values = _gather(context, tf.stop_gradient(own))

    @tf.custom_gradient
    def multiplied(own):
        return tf.identity(own), lambda upstream: upstream * tf.cast(context.num_replicas_in_sync, upstream.dtype)

    return tf.concat([values[:start], multiplied(own), values[start + counts[number] :]], 0)
