"""Exponential average of the weights: validate and keep the averaged model, train and resume the other one."""

import keras
import numpy as np

STATISTICS_BATCHES = 32  # training batches from which the statistics of batch normalization are taken again


class AveragedWeights(keras.callbacks.Callback):
    """Validates with the average of the weights, if the optimizer has `use_ema`; must be before RunWriter.

    Without validation, it only takes the average at the end of an epoch.

    The average has batch statistics of its own: means over training batches of the epoch.

    Args:
        batches: training batches.

    Attributes:
        values: arrays of `model.weights` as they were validated last, or would have been; None without an average.
    """

    def __init__(self, batches):
        super().__init__()
        self.batches, self.values, self.own = batches, None, None

    @property
    def is_on(self):
        """Whether the optimizer averages the weights."""
        return bool(getattr(getattr(self.model, "optimizer", None), "use_ema", False))

    def on_epoch_begin(self, epoch, logs=None):
        self.values = None

    def on_epoch_end(self, epoch, logs=None):
        if self.values is None:  # without validation
            self.on_test_begin()
            self.on_test_end()

    def on_test_begin(self, logs=None):
        if not self.is_on:
            return
        self.own = values_of(self.model.weights)
        averages = values_of(self.model.optimizer._model_variables_moving_average)
        for weight, average in zip(self.model.trainable_variables, averages, strict=True):
            weight.assign(average)
        self._take_statistics()

    def on_test_end(self, logs=None):
        if not self.is_on:
            return
        self.values = values_of(self.model.weights)
        set_values(self.model, self.own)

    def _take_statistics(self):
        """Set the statistics of batch normalization to means over batches."""
        norms = [layer for layer in self.model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
        if not norms:
            return
        momenta = [layer.momentum for layer in norms]
        for index in range(min(len(self.batches), STATISTICS_BATCHES)):
            for layer in norms:
                layer.momentum = index / (index + 1)
            self.model(self.batches.batch(index)[0], training=True)
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum


def values_of(variables):
    """Values of variables as arrays of their own: JAX deletes an array once a step has used it up."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def set_values(model, values):
    """Set `model.weights` to arrays."""
    for weight, value in zip(model.weights, values, strict=True):
        weight.assign(np.asarray(value))
