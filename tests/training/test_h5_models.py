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
