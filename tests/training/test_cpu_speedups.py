"""cpu_speedups.py against Keras' own layers and plain definitions."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from common.training import cpu_speedups
from common.training.cpu_speedups import speed_up, speedups_in_words
from models import build_model

on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="elsewhere these are Keras' own")


def faster(layer, channels):
    """The layer, changed."""
    speed_up(keras.Sequential([keras.Input((None, None, channels)), layer]))
    return layer


def trained(layer, inputs, upstream):
    """What a layer gives in training, the gradients of inputs and weights, and its weights afterwards."""
    import tensorflow as tf

    inputs = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=True)
    gradients = tape.gradient(outputs, [inputs, *[v.value for v in layer.trainable_variables]], tf.constant(upstream))
    return [keras.ops.convert_to_numpy(array) for array in (outputs, *gradients, *layer.get_weights())]


def assert_as_keras(ours, theirs, shape, seed, tolerance):
    """Give a layer and Keras' own the same weights, and train both a step."""
    rng = np.random.default_rng(seed)
    theirs.build((None, None, None, shape[-1]))
    if not ours.built:
        ours.build((None, None, None, shape[-1]))
    weights = [rng.normal(1, 0.3, weight.shape).astype(np.float32) for weight in theirs.get_weights()]
    for layer in (ours, theirs):
        layer.set_weights(weights)
    inputs = rng.normal(0.5, 2, shape).astype(np.float32)
    upstream = rng.normal(size=theirs.compute_output_shape(shape)).astype(np.float32)
    for a, b in zip(trained(ours, inputs, upstream), trained(theirs, inputs, upstream), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance * max(1, np.abs(b).max()))


@on_tensorflow
@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 45),
    st.integers(1, 45),
    st.integers(1, 18),
    st.sampled_from([(3, 3), (1, 5), (5, 1), (7, 3)]),
    st.integers(1, 18),
)
def test_gradients_of_a_convolution(count, height, width, channels, kernel, filters):
    class ByProducts(layers.Conv2D):
        def convolution_op(self, inputs, kernel):
            return cpu_speedups.convolve(inputs, kernel)

    class Winograd(layers.Conv2D):
        def convolution_op(self, inputs, kernel):
            return cpu_speedups.convolve_winograd(inputs, kernel)

    for way in (ByProducts, Winograd) if kernel == (3, 3) else (ByProducts,):
        ours, theirs = (kind(filters, kernel, padding="same") for kind in (way, layers.Conv2D))
        assert_as_keras(ours, theirs, (count, height, width, channels), 1, 2e-5)


@on_tensorflow
@pytest.mark.parametrize(
    ("channels", "kernel", "options", "side", "way"),
    [
        (16, 3, {}, 40, "convolve"),
        (16, 3, {"activation": "relu", "use_bias": False}, 41, "convolve"),
        (16, 3, {}, 39, None),
        (16, 3, {"padding": "valid"}, 50, None),
        (16, 3, {"strides": 2}, 50, None),
        (16, 3, {"dilation_rate": 2}, 50, None),
        (16, 3, {"groups": 2}, 50, None),
        (64, 3, {}, 12, "convolve_winograd"),
        (64, 3, {"activation": "relu"}, 50, "convolve_winograd"),
        (64, 3, {}, 11, None),
        (64, 5, {}, 40, "convolve"),
        (64, 3, {"dilation_rate": 2}, 50, None),
    ],
)
@pytest.mark.parametrize("avx512", [False, True])
def test_convolution_is_that_of_keras_whichever_way_is_taken(monkeypatch, channels, kernel, options, side, way, avx512):
    taken = set()
    monkeypatch.setattr(cpu_speedups, "has_avx512", lambda: avx512)

    def watched(name, own):
        return lambda *arguments: taken.add(name) or own(*arguments)

    for name in ("convolve", "convolve_winograd"):
        monkeypatch.setattr(cpu_speedups, name, watched(name, getattr(cpu_speedups, name)))
    ours, theirs = (layers.Conv2D(channels, kernel, **{"padding": "same", **options}) for _ in range(2))
    assert_as_keras(faster(ours, channels), theirs, (2, side, side, channels), 2, 2e-5)
    if avx512 and way == "convolve":
        way = None
    assert taken == ({way} if way else set())


@on_tensorflow
def test_sums_by_winograd_lose_hardly_more_than_others():
    """Against float64: a root mean square error of some 1e-6 of the standard deviation."""
    rng = np.random.default_rng(0)
    x, kernel = np.maximum(rng.normal(size=(2, 26, 26, 128)), 0), rng.normal(size=(3, 3, 128, 64))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)]), (3, 3), (1, 2))
    expected = np.einsum("bhwcij,ijcd->bhwd", windows, kernel, optimize=True)
    found = cpu_speedups.convolve_winograd(x.astype(np.float32), kernel.astype(np.float32)).numpy()
    assert np.sqrt(((found - expected) ** 2).mean()) < 2e-6 * expected.std()


@on_tensorflow
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(2, 20), st.integers(1, 20), st.integers(1, 9), st.floats(0, 0.99))
def test_batch_normalization_in_training(count, height, width, channels, momentum):
    options = {"momentum": momentum, "epsilon": 1e-2}
    ours, theirs = (layers.BatchNormalization(**options) for _ in range(2))
    assert_as_keras(faster(ours, channels), theirs, (count, height, width, channels), 3, 1e-4)


@on_tensorflow
def test_batch_normalization_of_bfloat16_sums_in_float32():
    """Against Keras in float32: rounding of input, upstream and output is all that differs, and moments do not."""
    ours, theirs = layers.BatchNormalization(dtype="mixed_bfloat16"), layers.BatchNormalization()
    rng = np.random.default_rng(0)
    x = np.asarray(keras.ops.cast(rng.normal(3, 1, (4, 60, 60, 5)), "bfloat16"), np.float32)
    upstream = np.asarray(keras.ops.cast(rng.normal(size=x.shape), "bfloat16"), np.float32)
    theirs.build(x.shape)
    faster(ours, 5).set_weights(theirs.get_weights())
    found = trained(ours, keras.ops.cast(x, "bfloat16"), keras.ops.cast(upstream, "bfloat16"))
    expected = trained(theirs, x, upstream)
    for place, (a, b) in enumerate(zip(found, expected, strict=True)):
        rounded = place < 2  # the output and the gradient of the input
        np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=2**-7 if rounded else 1e-4, atol=2**-7)
    np.testing.assert_allclose(ours.moving_mean, theirs.moving_mean, rtol=1e-6)


@on_tensorflow
def test_a_network_in_bfloat16_learns_as_in_float32():
    x = np.random.default_rng(0).random((4, 48, 48, 1), np.float32)
    losses, weights = [], None
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        try:
            model = build_model("unet", (48, 48, 1), features=16, depth=2, dropout=0.2)
            model.set_weights(weights or model.get_weights())
            weights = weights or model.get_weights()
            speed_up(model)
            model.compile(keras.optimizers.Adam(1e-3), "mse", jit_compile=False)
            losses.append([model.train_on_batch(x, x > 0.5) for _ in range(20)])
        finally:
            keras.config.set_dtype_policy("float32")
    for found in losses:
        assert found[-1] < 0.8 * found[0]
    np.testing.assert_allclose(*losses, rtol=0.1)


@pytest.mark.parametrize("kind", ["Conv2D", "BatchNormalization", "Dropout"])
def test_what_is_predicted_is_that_of_keras(kind):
    arguments = {"Conv2D": (16, 3, 1, "same"), "Dropout": (0.4,)}.get(kind, ())
    inputs = np.random.default_rng(0).normal(size=(2, 48, 48, 16)).astype(np.float32)
    ours, theirs = (getattr(layers, kind)(*arguments) for _ in range(2))
    theirs.build(inputs.shape)
    faster(ours, 16).set_weights(theirs.get_weights())
    np.testing.assert_allclose(ours(inputs), theirs(inputs), rtol=1e-6, atol=1e-6 * (kind == "BatchNormalization"))


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("rate", [0.002, 0.2, 0.5, 0.99])
def test_dropout_keeps_the_mean_and_drops_its_share(rate, precision):
    layer = faster(layers.Dropout(rate, seed=1, dtype=precision), 5)
    x = np.full((3, 101, 103, 5), 2.0, np.float32)
    once, again = (np.asarray(keras.ops.cast(layer(x, training=True), "float32")) for _ in range(2))
    assert (once != again).any(), "every call draws anew"
    for y in (once, again):
        dropped = (y == 0).mean()
        assert abs(dropped - rate) < 1 / 512 + 4 * (rate * (1 - rate) / x.size) ** 0.5
        kept = y[y != 0]
        np.testing.assert_allclose(kept, kept[0], rtol=1e-6)
        rounding = 0.002 if precision == "float32" else 2**-7
        assert y.mean() == pytest.approx(2, abs=10 * (rate / (1 - rate) / x.size) ** 0.5 + rounding)
        for axis in range(4):  # no place is favoured
            shares = (y == 0).mean(axis=tuple(a for a in range(4) if a != axis))
            assert np.ptp(shares) < 12 * (rate * (1 - rate) * shares.size / x.size) ** 0.5


@on_tensorflow
def test_gradient_of_dropout_is_what_it_kept():
    layer = faster(layers.Dropout(0.25), 3)
    x, upstream = np.ones((2, 7, 9, 3), np.float32), np.random.default_rng(0).normal(size=(2, 7, 9, 3))
    outputs, gradient, *_ = trained(layer, x, upstream.astype(np.float32))
    np.testing.assert_allclose(gradient, outputs * upstream, rtol=1e-5)


def test_files_and_copies_of_a_network_are_keras_own(tmp_path):
    model = build_model("unet", (48, 48, 1), features=16, depth=1)
    speed_up(model)
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).random((2, 48, 48, 1), np.float32)
    for other in (keras.saving.load_model(tmp_path / "model.keras"), keras.models.clone_model(model)):
        other.set_weights(model.get_weights())
        assert {type(layer).__module__.split(".")[0] for layer in other.layers} == {"keras"}
        assert not any("call" in vars(layer) or "convolution_op" in vars(layer) for layer in other.layers)
        np.testing.assert_allclose(other.predict_on_batch(x), model.predict_on_batch(x), atol=1e-6)


@on_tensorflow
def test_network_learns_what_it_learns_with_keras_own_layers():
    x = np.random.default_rng(0).random((4, 48, 48, 1), np.float32)
    models = [build_model("unet", (48, 48, 1), features=16, depth=1, dropout=0) for _ in range(2)]
    models[1].set_weights(models[0].get_weights())
    speed_up(models[0])
    losses = []
    for model in models:
        model.compile("sgd", "mse", jit_compile=False)
        losses.append([model.train_on_batch(x, x > 0.5) for _ in range(5)] + [model.test_on_batch(x, x > 0.5)])
    np.testing.assert_allclose(*losses, rtol=1e-4)
    for ours, theirs in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_environment_says_what_is_changed(monkeypatch):
    model = build_model("unet", (48, 48, 1), features=16, depth=1, dropout=0.2)
    speed_up(model)
    said = speedups_in_words(model)
    if keras.backend.backend() != "tensorflow":
        assert said == ""
        return
    assert "CPU speedups in" in said and "dropout 0.2: drops different elements than Keras, 51 of 256" in said
    assert speedups_in_words(keras.Sequential([keras.Input((3,)), layers.Dense(1)])) == ""
    monkeypatch.setattr(keras, "__version__", "3.99.0")
    other = build_model("unet", (48, 48, 1), features=16, depth=1, dropout=0.2)
    speed_up(other)
    assert not any("call" in vars(layer) or "convolution_op" in vars(layer) for layer in other.layers)
    assert "CPU speedups: off (made for Keras 3.15, found 3.99.0)" in speedups_in_words(other)
