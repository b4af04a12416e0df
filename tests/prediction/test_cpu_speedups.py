"""Networks loaded for prediction against Keras' own operations."""

import keras
import numpy as np
import pytest
from keras import layers

from common.prediction import cpu_speedups
from common.prediction.networks_in_workers import load_for_prediction
from common.training.trained_models import load_network
from models import build_model

on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="elsewhere these are Keras' own")


def saved(network, path):
    """The file of a network whose batch normalization has random weights and statistics, as after training."""
    rng = np.random.default_rng(0)
    for layer in network._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    network.save(path)
    return path


def every_kind():
    """A network with convolutions of every kind, followed by batch normalization."""
    x = inputs = keras.Input((24, 24, 4))
    kinds = [
        layers.Conv2D(8, 3, padding="same"),
        layers.Conv2D(8, 5, groups=4, use_bias=False),
        layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=False),
        layers.DepthwiseConv2D(3, dilation_rate=2),
        layers.Conv2D(8, 3, strides=2, padding="same"),
    ]
    options = [{}, {"scale": False}, {"center": False}, {}, {"epsilon": 1e-5}]
    for kind, option in zip(kinds, options, strict=True):
        x = layers.ReLU()(layers.BatchNormalization(**option)(kind(x)))
    nested = keras.Input((8, 8, 8))
    inner = layers.BatchNormalization()(layers.Conv2D(8, 1)(nested))
    x = keras.Model(nested, inner)(x)
    x = layers.Reshape((2, 4, 8, 8))(x)
    x = layers.BatchNormalization()(layers.Conv3D(4, (2, 3, 3), padding="same")(x))
    return keras.Model(inputs, x)


def changed(network):
    """Names of the layers of a network with other operations than Keras'."""
    found = []
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            found += changed(layer)
        elif "call" in vars(layer):
            found.append(layer.name)
    return found


def assert_as_keras(path, folded):
    """Both ways to load a network give the same, and `folded` layers of batch normalization pass their input on."""
    before = path.read_bytes()
    ours, theirs = load_for_prediction(path), load_network(path)
    x = np.random.default_rng(1).random((3, *theirs.input_shape[1:]), np.float32)
    np.testing.assert_allclose(ours.predict_on_batch(x), theirs.predict_on_batch(x), atol=1e-5)
    assert len([name for name in changed(ours) if "norm" in name]) == folded and not changed(theirs)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    ours.save(path.with_name("copy.keras"))
    assert path.read_bytes() == before and not changed(load_network(path.with_name("copy.keras")))


@on_tensorflow
def test_probabilities_are_those_of_keras(tmp_path):
    unet = build_model("unet", (24, 20, 1), 2, features=4, depth=1)
    assert_as_keras(saved(unet, tmp_path / "unet.keras"), 6)
    assert_as_keras(saved(every_kind(), tmp_path / "kinds.keras"), 7)


@on_tensorflow
@pytest.mark.slow
def test_probabilities_of_a_pretrained_network_are_those_of_keras(tmp_path):
    network = build_model("pretrained_unet", (64, 64, 3), 2)
    norms = [layer for layer in network.layers if isinstance(layer, layers.BatchNormalization)]
    assert len(norms) > 50
    assert_as_keras(saved(network, tmp_path / "network.keras"), len(norms))


@pytest.mark.parametrize("name", ["unet", "unet3d"])
def test_bfloat16_rounds_all_but_the_last_layers(name, tmp_path):
    shape = (24, 20, 1) if name == "unet" else (8, 16, 16, 1)
    path = saved(build_model(name, shape, 2, features=4, depth=1), tmp_path / "network.keras")
    exact, half, again = (load_for_prediction(path, precision) for precision in (None, "mixed_bfloat16", None))
    kinds = {layer.name: layer.compute_dtype for layer in half.layers}
    convolutions = [layer.name for layer in half.layers if "conv" in layer.name]
    assert {kinds[name] for name in convolutions} == {"bfloat16"}
    assert kinds[half.output_names[0]] == kinds["logits"] == "float32"
    x = np.random.default_rng(1).random((3, *shape), np.float32)
    rounded, expected = half.predict_on_batch(x), exact.predict_on_batch(x)
    assert rounded.dtype == expected.dtype == np.float32
    assert 0 < np.abs(rounded - expected).max() < 0.05
    for a, b in zip(half.get_weights(), exact.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    cpu_speedups.set_precision(again, "mixed_bfloat16")
    cpu_speedups.set_precision(again, "float32")
    np.testing.assert_allclose(again.predict_on_batch(x), expected, atol=1e-6)


@on_tensorflow
def test_a_network_trained_in_bfloat16_is_predicted_in_float32_on_request(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        trained = build_model("unet", (24, 20, 1), 2, features=4, depth=1)
    finally:
        keras.config.set_dtype_policy("float32")
    plain = build_model("unet", (24, 20, 1), 2, features=4, depth=1)
    path = saved(trained, tmp_path / "network.keras")
    plain.set_weights(trained.get_weights())
    x = np.random.default_rng(1).random((3, 24, 20, 1), np.float32)
    found = load_for_prediction(path, "float32").predict_on_batch(x)
    np.testing.assert_allclose(found, plain.predict_on_batch(x), atol=1e-5)


@on_tensorflow
def test_wide_convolutions_are_winograds(monkeypatch):
    taken = []
    own = cpu_speedups.convolve_winograd
    monkeypatch.setattr(cpu_speedups, "convolve_winograd", lambda *given: taken.append(1) or own(*given))
    x = keras.Input((13, 14, 256))
    network = keras.Model(x, layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(256, 3, padding="same")(x))))
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    cpu_speedups.speed_up_prediction(network)
    inputs = np.random.default_rng(1).normal(size=(2, 13, 14, 256)).astype(np.float32)
    np.testing.assert_allclose(network.predict_on_batch(inputs), copy.predict_on_batch(inputs), atol=2e-5)
    assert taken


@on_tensorflow
def test_only_what_nothing_else_reads_becomes_part_of_a_convolution():
    x = keras.Input((8, 8, 2))
    read_twice, with_activation = layers.Conv2D(4, 3, name="twice")(x), layers.Conv2D(4, 3, activation="relu")(x)
    shared = layers.BatchNormalization()
    outputs = [layers.BatchNormalization()(read_twice), read_twice, layers.BatchNormalization()(with_activation)]
    outputs += [shared(layers.Conv2D(4, 3)(x)), shared(layers.Conv2D(4, 3)(x))]
    outputs += [layers.BatchNormalization(axis=1)(layers.Conv2D(4, 3)(x))]
    answered = layers.Conv2D(4, 3)(x)
    network = keras.Model(x, [*outputs, answered])
    layers.BatchNormalization()(answered)  # outside of the network, which answers with its input
    cpu_speedups.speed_up_prediction(network)
    assert changed(network) == []


def test_nothing_changes_in_float16_and_with_an_unknown_keras(monkeypatch):
    network = build_model("unet", (16, 16, 1), features=2, depth=1)
    with monkeypatch.context() as patch:
        patch.setattr(keras, "__version__", "3.99.0")
        cpu_speedups.speed_up_prediction(network)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        half = build_model("unet", (16, 16, 1), features=2, depth=1)
    finally:
        keras.config.set_dtype_policy(policy)
    cpu_speedups.speed_up_prediction(half)
    assert changed(network) == changed(half) == []
