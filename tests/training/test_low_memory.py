"""Activations that are computed again: the same training."""

import keras
import numpy as np
import pytest
from keras import layers

from common.training.low_memory import save_memory
from losses import get_loss
from models import build_model


def weights_after(steps, model, x):
    """Losses and weights after steps of SGD."""
    model.compile(keras.optimizers.SGD(0.05), get_loss("bce+dice", axes=3), jit_compile=False)
    losses = [float(model.train_on_batch(x, (x > 0.5).astype(np.uint8))) for _ in range(steps)]
    return losses, model.get_weights()


@pytest.mark.parametrize(
    ("name", "settings"),
    [("se_resunet3d", {"depth": 1, "noise": 0}), ("unet3d", {"depth": 3, "size": (16, 16, 16)})],
)
def test_training_is_the_same(tmp_path, name, settings):
    keras.utils.set_random_seed(1)
    model = build_model(name, (None, None, None, 1), features=2, **settings)
    model.save(tmp_path / "network.keras")
    usual, low = (keras.saving.load_model(tmp_path / "network.keras") for _ in range(2))
    assert save_memory(low) >= 3
    x = np.random.default_rng(0).normal(size=(1, 17, 16, 18, 1)).astype(np.float32)
    (losses, ours), (expected, theirs) = (weights_after(3, network, x) for network in (low, usual))
    assert losses[0] > losses[-1]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    low.save(tmp_path / "copy.keras")
    copy = keras.saving.load_model(tmp_path / "copy.keras")
    np.testing.assert_allclose(copy.predict_on_batch(x), low.predict_on_batch(x), atol=1e-5)


def test_levels_with_state_are_computed_once():
    """Batch normalization and dropout would change twice, and dropout drop other elements the second time."""
    for settings in ({"dropout": 0}, {"normalisation": False}):
        assert save_memory(build_model("unet", (16, 16, 1), features=2, depth=1, **settings)) == 0
    assert save_memory(build_model("unet", (16, 16, 1), features=2, depth=1, dropout=0, normalisation=False)) == 3

    class Own(layers.Layer):
        def call(self, x):
            return x

    x = keras.Input((8, 8, 1))
    assert save_memory(keras.Model(x, Own(name="level1_b")(layers.ReLU(name="level1_a")(x)))) == 0
