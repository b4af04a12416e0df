"""Threshold and temperature in the last layer of a converted network."""

import json

import keras
import numpy as np
import pytest
from keras import layers
from running import run_here
from scipy.special import expit, logit, softmax

from common.files import file_digest, write_json
from common.training.run_folder import Run
from coreml.fold import fold
from coreml.reader import read_model
from models import build_model

ct = pytest.importorskip("coremltools")
on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="coremltools reads TensorFlow only")
RNG = np.random.default_rng(0)


def images(shape, count=2):
    return [RNG.random(shape).astype(np.float32) for _ in range(count)]


def in_between(network):
    """Random weights, whose probabilities are neither 0 nor 1 everywhere."""
    rng = np.random.default_rng(1)
    for weight in network.weights:
        if weight.name == "moving_variance":
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif weight.dtype == "float32":
            weight.assign(np.asarray(weight) + rng.normal(0, 0.1, weight.shape))
    return network


def head(*last):
    inputs = keras.Input((24, 24, 1), name="input")
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    for layer in last:
        x = layer(x)
    return in_between(keras.Model(inputs, x))


OURS = {
    "unet": ("unet", (24, 24, 1), {"features": 2, "depth": 1}),
    "unet, cropped": ("unet", (30, 30, 1), {"features": 2, "depth": 2}),
    "cvnet_synapse, a gain per channel": ("cvnet_synapse", (72, 72, 1), {"width": 0.05}),
    "deeplab_v3plus, enlarged": ("deeplab_v3plus", (40, 40, 1), {"backbone": "mobilenetv2"}),
}


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("name", OURS)
def test_every_network_of_ours_is_folded(name, classes):
    architecture, shape, settings = OURS[name]
    network = in_between(build_model(architecture, shape, classes, **settings))
    shown = images(shape)
    before = [network.predict_on_batch(image[None])[0].astype(float) for image in shown]
    changes = {"temperature": 1.7} | ({"threshold": 0.3} if classes == 1 else {})
    assert fold(network, shown, **changes) is not None
    for image, p in zip(shown, before, strict=True):
        found = network.predict_on_batch(image[None])[0]
        if classes == 1:
            np.testing.assert_allclose(found, expit((logit(p) - np.log(0.3 / 0.7)) / 1.7), atol=1e-5)
            sure = np.abs(p - 0.3) > 1e-5
            assert np.array_equal((found > 0.5)[sure], (p > 0.3)[sure]), "0.5 means the threshold"
        else:
            np.testing.assert_allclose(found, softmax(np.log(p) / 1.7, axis=-1), atol=1e-5)
            assert np.array_equal(found.argmax(-1), p.argmax(-1))


@pytest.mark.parametrize(
    "last",
    [
        lambda: [layers.Conv2D(1, 1, activation="sigmoid")],
        lambda: [layers.Dense(1), layers.Activation("sigmoid")],
        lambda: [layers.SeparableConv2D(1, 3, padding="same"), layers.Dropout(0.2), layers.Activation("sigmoid")],
        lambda: [layers.Conv2D(1, 1, use_bias=False), layers.BatchNormalization(), layers.Activation("sigmoid")],
        lambda: [
            layers.Conv2D(1, 3, padding="same"),
            layers.Cropping2D(2),
            layers.UpSampling2D(2),
            layers.Activation("sigmoid"),
        ],
    ],
    ids=["activation of the layer", "dense", "separable", "normalization", "cropped and enlarged"],
)
def test_other_heads_that_can_be_folded(last):
    network, shown = head(*last()), images((24, 24, 1))
    p = network.predict_on_batch(shown[0][None])[0].astype(float)
    assert fold(network, shown, temperature=0.6, threshold=0.8) is not None
    found = network.predict_on_batch(shown[0][None])[0]
    np.testing.assert_allclose(found, expit((logit(p) - np.log(4)) / 0.6), atol=1e-5)


@pytest.mark.parametrize(
    "last",
    [
        lambda: [layers.Conv2D(1, 1, use_bias=False), layers.Activation("sigmoid")],
        lambda: [layers.Conv2D(1, 1), layers.ReLU(), layers.Activation("sigmoid")],
        lambda: [layers.Conv2D(1, 1), layers.ZeroPadding2D(2), layers.Activation("sigmoid")],
        lambda: [layers.Conv2D(1, 1), layers.Activation("hard_sigmoid")],
        lambda: [layers.Conv2D(1, 1), lambda x: layers.Add()([x, x[:, ::-1]]), layers.Activation("sigmoid")],
    ],
    ids=["no bias", "ReLU", "padded", "another function", "not a line"],
)
def test_heads_that_cannot_be_folded_stay_as_they_are(last):
    network, shown = head(*last()), images((24, 24, 1))
    before = network.get_weights()
    assert fold(network, shown, temperature=0.6, threshold=0.8) is None
    for ours, theirs in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@on_tensorflow
def test_both_formats_have_it_and_pass_the_check(tmp_path, monkeypatch):
    for name in ("KERAS_BACKEND", "CUDA_VISIBLE_DEVICES", "TQDM_DISABLE"):
        monkeypatch.setenv(name, "tensorflow" if name == "KERAS_BACKEND" else "")
    run, network = tmp_path / "run", in_between(build_model("unet", (24, 24, 1), features=2, depth=1))
    run.mkdir()
    network.save(run / "best_dice.keras")
    write_json(run / "settings.json", {"MODEL": "unet"})
    curve = [[10.0, 0.2, 0.3]]
    record = {"model": file_digest(run / "best_dice.keras"), "threshold": 0.4, "dice": 0.8, "dice_at_half": 0.7}
    record |= {"temperature": 2.0, "ece": 0.1, "scaled_ece": 0.05, "reliability": curve, "scaled_reliability": curve}
    write_json(run / "calibration.json", record)
    assert Run(run).calibration_of(run / "best_dice.keras").threshold == 0.4
    image = images((24, 24, 1))[0]
    p = network.predict_on_batch(image[None])[0, ..., 0].astype(float)
    expected = expit((logit(p) - logit(0.4)) / 2)
    for kind in ("mlmodel", "mlpackage"):
        out = run_here("convert_coreml.py", RUN=run, FORMAT=kind, CHECKED=2).stdout
        assert "threshold 0.4, temperature 2: folded into layer logits; 0.5 means the threshold\n" in out
        path = run / f"run.{kind}"
        output = read_model(path).run({"input": image.transpose(2, 0, 1)})["output"]
        np.testing.assert_allclose(output[0], expected, atol=1e-4)
        facts = ct.utils.load_spec(str(path)).description.metadata.userDefined
        assert json.loads(facts["calibration"]) == {"threshold": 0.4, "temperature": 2.0}
        assert facts["threshold"] == "0.5"
    out = run_here("convert_coreml.py", RUN=run, CALIBRATE=False, CHECKED=2, OUTPUT=tmp_path / "raw.mlmodel").stdout
    assert "folded" not in out
    output = read_model(tmp_path / "raw.mlmodel").run({"input": image.transpose(2, 0, 1)})["output"]
    np.testing.assert_allclose(output[0], p, atol=1e-4)
