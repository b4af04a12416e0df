"""Models that Keras 2 wrote to .h5 files: their weights fit the toolkit's networks, and give the same probabilities."""

import re

import h5py
import numpy as np
import pytest
from drawings import disc_slice, write_image
from running import assert_refused, only_folder, run_here

from common.errors import InputError
from common.training.h5_models import load_h5, network_of, read_weights

tf_keras = pytest.importorskip("tf_keras", reason="Keras 2, which writes such files, is not installed")
layers = tf_keras.layers


def unet(side, features, depth, normalized=True):
    """U-net in Keras 2, as AIS Training Codeset describes it."""

    def block(x, filters):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same")(x)
            x = layers.BatchNormalization()(x) if normalized else x
            x = layers.Dropout(0.2)(layers.Activation("relu")(x))
        return x

    x = inputs = layers.Input((side, side, 1), name="input")
    missing = -side % 2**depth
    padding = [[missing // 2, missing - missing // 2]] * 2
    x = layers.ZeroPadding2D(padding)(x) if missing else x
    skips = []
    for level in range(depth):
        skips.append(block(x, features * 2**level))
        x = layers.MaxPooling2D(2)(skips[-1])
    x = block(x, features * 2**depth)
    for level in reversed(range(depth)):
        x = layers.Conv2DTranspose(features * 2**level, 2, 2)(x)
        x = block(layers.Concatenate()([x, skips.pop()]), features * 2**level)
    x = layers.Conv2D(1, 1)(x)
    x = layers.Cropping2D(padding)(x) if missing else x
    return tf_keras.Model(inputs, layers.Activation("sigmoid", name="output")(x))


class Regulator(layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(name="weight", shape=(1, 1, shape[-1]), initializer="random_normal")
        self.shift = self.add_weight(name="bias", shape=(1, 1, shape[-1]), initializer="random_normal")

    def call(self, x):
        return x * self.scale + self.shift


class ParametricSwish(layers.Layer):
    def build(self, shape):
        self.alpha = self.add_weight(name="alpha", shape=tuple(shape[1:]), initializer="random_uniform")

    def call(self, x):
        import tensorflow as tf

        return x * tf.sigmoid((1.5 - 0.5**self.alpha) * x)


def synapse(side, width, large=False):
    """CV-net SYNAPSE, or the one for 512x512, in Keras 2, as AIS Training Codeset describes it; narrower."""

    def unit(x, filters, kernel, kind, regulate=False, padding="same"):
        if kind == "up":
            x = layers.UpSampling2D(2, interpolation="bilinear")(x)
        x = Regulator()(x) if regulate else x
        options = {"padding": padding, "use_bias": False}
        if kind == "separable":
            x = layers.SeparableConv2D(filters, kernel, **options)(x)
        elif kind == "up":
            x = layers.Conv2DTranspose(filters, kernel, **options)(x)
        else:
            x = layers.Conv2D(filters, kernel, 2 if kind == "strided" else 1, **options)(x)
        x = layers.ZeroPadding2D(((1, 0), (1, 0)))(x) if kind == "strided" else x
        return layers.GaussianDropout(0.2)(ParametricSwish()(layers.BatchNormalization(momentum=0.95)(x)))

    def scaled(filters):
        return max(1, round(filters * width))

    inputs = layers.Input((side, side, 1), name="input")
    x = layers.Conv2D(scaled(8), 3 if large else 9, padding="same" if large else "valid", use_bias=False)(inputs)
    x = layers.Activation("sigmoid")(layers.BatchNormalization()(x))
    skips = [x]
    encoder = (8, 16, 32, 128, 512) if large else (16, 32, 128, 512)
    for level, filters in enumerate(map(scaled, encoder)):
        x = unit(x, filters, 3, "strided", level > len(encoder) - 3, "valid")
        x = layers.Concatenate()([unit(x, filters, 1, "normal", padding="valid"), unit(x, filters, 5, "separable")])
        skips.append(x)
    lost = side // 64 if large else (side - 8) // 32
    second = lost // 2 // 2 * 2
    for filters, kernel in ((1024, lost - second + 1), (2048, second + 1)):
        x = unit(x, scaled(filters), kernel, "separable", True, "valid")
    for level, filters in enumerate(map(scaled, (512, 384, 160, 56, 24, 24)[: len(skips)])):
        x = layers.Concatenate()([unit(x, filters, 3, "up", level < 3), skips.pop()])
    first = (
        layers.Conv2D(scaled(32), 3, use_bias=False) if large else layers.Conv2DTranspose(scaled(32), 7, use_bias=False)
    )
    for layer in (first, layers.Conv2DTranspose(scaled(16), 3, use_bias=False)):
        x = layer(x)
        x = layers.GaussianNoise(0.1)(ParametricSwish()(layers.BatchNormalization(momentum=0.95)(x)))
    x = layers.Conv2D(1, 1)(layers.Concatenate()([x, inputs]))
    return tf_keras.Model(inputs, layers.Activation("sigmoid", name="output")(Regulator()(x)))


def deeplab(side, backbone):
    """DeepLab v3+ in Keras 2, as AIS Training Codeset describes it; on MobileNetV2 as large as the image."""

    def norm(x, epsilon=1e-3, activation=None):
        x = layers.BatchNormalization(epsilon=epsilon)(x)
        return layers.ReLU(max_value=6 if activation == "relu6" else None)(x) if activation else x

    def conv(x, filters, kernel=1, stride=1, **options):
        return norm(layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False)(x), **options)

    def separable(x, filters, stride=1, rate=1, inside=False, epsilon=1e-3):
        after = {"epsilon": epsilon, "activation": "relu" if inside else None}
        x = layers.ZeroPadding2D(1)(x) if stride > 1 else x
        x = x if inside else layers.ReLU()(x)
        how = {"padding": "valid" if stride > 1 else "same", "dilation_rate": rate, "use_bias": False}
        x = norm(layers.DepthwiseConv2D(3, stride, **how)(x), **after)
        return conv(x, filters, **after)

    def block(x, filters, shortcut, stride=1, rate=1, inside=False):
        entry, outputs = x, []
        for number, count in enumerate(filters):
            x = separable(x, count, stride if number == 2 else 1, rate, inside)
            outputs.append(x)
        if shortcut:
            x = layers.Add()([x, conv(entry, filters[-1], 1, stride) if shortcut == "conv" else entry])
        return x, outputs[1]

    def inverted(x, filters, stride, rate, expansion=6):
        entry = x
        x = conv(x, expansion * x.shape[-1], activation="relu6") if expansion > 1 else x
        how = {"padding": "same", "dilation_rate": rate, "use_bias": False}
        x = conv(norm(layers.DepthwiseConv2D(3, stride, **how)(x), activation="relu6"), filters)
        return layers.Add()([entry, x]) if stride == 1 and entry.shape[-1] == filters else x

    inputs = layers.Input((side, side, 1), name="input")
    x = conv(layers.ZeroPadding2D(4)(inputs), 32, 3, 2, activation="relu" if backbone == "xception" else "relu6")
    if backbone == "xception":
        x, _ = block(conv(x, 64, 3, activation="relu"), [128] * 3, "conv", 2)
        x, skip = block(x, [256] * 3, "conv", 2)
        x, _ = block(x, [728] * 3, "conv", 2)
        for _ in range(16):
            x, _ = block(x, [728] * 3, "sum")
        x, _ = block(x, [728, 1024, 1024], "conv")
        x, _ = block(x, [1536, 1536, 2048], None, rate=2, inside=True)
    else:
        x = inverted(x, 16, 1, 1, 1)
        for filters, stride, rates in ((24, 2, (1, 1)), (32, 2, (1, 1, 1)), (64, 1, (1, 2, 2, 2)), (96, 1, (2, 2, 2))):
            for number, rate in enumerate(rates):
                x = inverted(x, filters, 1 if number else stride, rate)
        for filters, rate in ((160, 2), (160, 4), (160, 4), (320, 4)):
            x = inverted(x, filters, 1, rate)
    head, size = {"epsilon": 1e-5, "activation": "relu"}, x.shape[1]
    pooled = conv(layers.AveragePooling2D(size)(x), 256, **head)
    branches = [layers.UpSampling2D(size, interpolation="bilinear")(pooled), conv(x, 256, **head)]
    for rate in (6, 12, 18) if backbone == "xception" else ():
        branches.append(separable(x, 256, rate=rate, inside=True, epsilon=1e-5))
    x = layers.Dropout(0.1)(conv(layers.Concatenate()(branches), 256, **head))
    if backbone == "xception":
        x = layers.UpSampling2D(4, interpolation="bilinear")(x)
        x = layers.Concatenate()([x, conv(skip, 48, **head)])
        for _ in range(2):
            x = separable(x, 256, inside=True, epsilon=1e-5)
    x = layers.Conv2D(1, 1)(x)
    x = layers.UpSampling2D(4 if backbone == "xception" else 8, interpolation="bilinear")(x)
    return tf_keras.Model(inputs, layers.Cropping2D(4, name="output")(layers.Activation("sigmoid")(x)))


def saved(model, path, seed=0):
    """Write a model with random weights."""
    rng = np.random.default_rng(seed)
    model.set_weights([np.abs(rng.normal(0, 0.3, value.shape)) for value in model.get_weights()])
    model.save_weights(path) if path.name.startswith("weights") else model.save(path)
    return path


NETWORKS = {
    "unet": (lambda: unet(24, 4, 2), {"features": 4, "depth": 2}),
    "unet without normalization": (lambda: unet(20, 2, 3, False), {"features": 2, "depth": 3, "normalisation": False}),
    "cvnet_synapse": (lambda: synapse(72, 0.25), {"width": 0.25}),
    "cvnet_synapse_512": (lambda: synapse(128, 0.25, large=True), {"width": 0.25}),
}


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("name", NETWORKS)
def test_probabilities_are_those_of_keras_2(name, tmp_path, capsys):
    build, settings = NETWORKS[name]
    model = build()
    path = saved(model, tmp_path / "model.h5")
    found = load_h5(path)
    side = model.input_shape[1]
    assert f"fit {name.split()[0]} at {side}x{side} {settings}" in capsys.readouterr().out
    x = np.random.default_rng(1).random((2, side, side, 1), np.float32)
    np.testing.assert_allclose(found.predict(x, verbose=0), model.predict(x, verbose=0), rtol=0, atol=1e-6)
    assert network_of(path) == (name.split()[0], settings)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("backbone", [pytest.param("xception", marks=pytest.mark.slow), "mobilenetv2"])
def test_deeplab_gives_the_probabilities_of_keras_2(backbone, tmp_path, capsys):
    """At 200x200, where its dilated convolutions see the map and its border, with normalization that does something."""
    tf_keras.utils.set_random_seed(0)
    rng, model = np.random.default_rng(0), deeplab(200, backbone)
    assert model.count_params() == {"xception": 41_252_497, "mobilenetv2": 2_140_929}[backbone]
    x = np.random.default_rng(1).random((1, 200, 200, 1), np.float32)
    normalizations = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    for layer in normalizations:
        layer.gamma.assign(rng.uniform(0.8, 1.2, layer.gamma.shape))
        layer.beta.assign(rng.normal(0, 0.1, layer.beta.shape))
        layer.momentum = 0.0
    model(x, training=True)  # the statistics of this image, so that no layer fades
    for layer in normalizations:  # 0 of a single pixel, which would make rounding 300 times as large
        layer.moving_variance.assign(np.maximum(layer.moving_variance, 0.01))
    model.save(tmp_path / "model.h5")
    found = load_h5(tmp_path / "model.h5")
    assert f"fit deeplab_v3plus at 200x200 {{'backbone': '{backbone}'}}" in capsys.readouterr().out
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(found.predict(x, verbose=0), expected, rtol=0, atol=1e-4)
    assert np.ptp(expected) > 0.01


def test_weights_alone_are_for_200_pixels(tmp_path):
    model = unet(200, 2, 2)
    found = load_h5(saved(model, tmp_path / "weights.h5"))
    assert found.input_shape == (None, 200, 200, 1)
    x = np.random.default_rng(1).random((1, 200, 200, 1), np.float32)
    np.testing.assert_allclose(found.predict(x, verbose=0), model.predict(x, verbose=0), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_predict_convert_and_retrain(tmp_path, packed):
    path = saved(unet(24, 4, 2), tmp_path / "model.h5")
    for number in range(2):
        write_image(tmp_path / "new" / f"{number}.png", disc_slice(24, number)[0])
    said = run_here("predict.py", RUN=path, INPUT=tmp_path / "new", OUTPUT=tmp_path / "out").stdout
    assert "its weights fit unet" in said and "wrote 2 masks" in said
    said = run_here("convert_coreml.py", RUN=path, OUTPUT=tmp_path / "a.mlmodel").stdout
    assert "wrote" in said
    sets = {name.upper(): packed["packed"] / f"{name}.h5" for name in ("train", "validation")}
    said = run_here("train.py", MODE="retrain", RUN=path, RUNS=tmp_path / "runs", EPOCHS=1, **sets).stdout
    assert re.search(rf"loaded \d\d layers from {path}$", said, re.M)
    assert only_folder(tmp_path / "runs").name.endswith("_unet")


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_other_files_are_refused(tmp_path, packed):
    path = saved(unet(24, 4, 2), tmp_path / "model.h5")
    given = {"INPUT": tmp_path / "new", "OUTPUT": tmp_path / "out"}
    write_image(tmp_path / "new" / "a.png", disc_slice(24, 0)[0])
    (tmp_path / "cut.h5").write_bytes(path.read_bytes()[:20000])
    assert_refused("predict.py", "cut.h5", "damaged", RUN=tmp_path / "cut.h5", **given)
    assert_refused("predict.py", "train.h5", "not a model of Keras", RUN=packed["packed"] / "train.h5", **given)
    inputs = layers.Input((24, 24, 1))
    other = tf_keras.Model(inputs, layers.Conv2D(1, 1)(layers.Conv2D(7, 5, padding="same")(inputs)))
    other.save(tmp_path / "other.h5")
    words = "other.h5: its weights fit no network of the toolkit", "(5, 5, 1, 7)"
    assert_refused("predict.py", *words, RUN=tmp_path / "other.h5", **given)
    with h5py.File(path, "a") as file:
        names = []
        file["model_weights"].visit(names.append)
        kernel = next(name for name in names if name.endswith("kernel:0"))
        file["model_weights"][kernel][...] = np.nan
    with pytest.raises(InputError, match="weights that are not finite"):
        read_weights(path)
