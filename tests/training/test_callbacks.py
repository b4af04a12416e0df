"""Copies that are saved aside, errors of the thread, and the count of operations."""

import keras
import numpy as np
import pytest
from keras import layers

from common.training.aside import Aside, copy_network, copy_state
from common.training.flops import image_flops, peak_flops


def test_a_copy_is_saved_as_the_network_was(tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.BatchNormalization(), layers.Dense(1)])
    model.compile("nadam", "mse")
    model.optimizer.build(model.trainable_variables)
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    model.train_on_batch(x, x[:, :1])
    copy = copy_network(model)
    copy_state(model, copy)
    expected = [np.array(keras.ops.convert_to_numpy(v)) for v in (*model.variables, *model.optimizer.variables)]
    model.train_on_batch(x, x[:, :1])
    aside = Aside()
    aside.start(copy.save, tmp_path / "copy.keras")
    aside.wait()
    saved = keras.saving.load_model(tmp_path / "copy.keras")
    values = [keras.ops.convert_to_numpy(v) for v in (*saved.variables, *saved.optimizer.variables)]
    assert copy is not model and all(map(np.array_equal, values, expected))
    assert not np.array_equal(model.layers[0].kernel, expected[0])


def test_what_fails_aside_is_raised_by_the_next_job_or_the_wait():
    def fail():
        raise OSError(28, "No space left on device")

    for follow in (lambda aside: aside.start(print), Aside.wait):
        aside = Aside()
        aside.start(fail)
        with pytest.raises(OSError, match="No space left"):
            follow(aside)
        aside.wait()


def test_operations_are_those_of_the_convolutions():
    inputs = keras.Input((8, 6, 3))
    x = layers.Conv2D(5, 3, padding="same", strides=2)(inputs)  # 4x3 places
    x = layers.BatchNormalization()(x)
    x = layers.Conv2DTranspose(2, 2, strides=2)(x)  # from 4x3 places
    x = layers.SeparableConv2D(4, 3, padding="same")(x)  # 8x6 places
    model = keras.Model(inputs, layers.Dense(7)(x))
    products = 12 * 9 * 3 * 5 + 12 * 4 * 5 * 2 + 48 * (9 * 2 + 2 * 4) + 48 * 4 * 7
    assert image_flops(model) == 3 * 2 * products
    assert image_flops(keras.Sequential([keras.Input((None, None, 1)), layers.Conv2D(1, 3)])) == 0


def test_peaks_by_the_name_of_a_device():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12 and peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("Tesla V100-SXM2-16GB") == 125e12 and peak_flops("NVIDIA RTX A4000") is None
