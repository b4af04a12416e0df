"""Networks: the counts of the table, sizes, outputs, and files of one's own."""

import keras
import numpy as np
import pytest

import models
from models import build_model


def counts(model):
    return model.count_params(), sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def test_unet_has_the_published_number_of_parameters():
    assert counts(build_model("unet", (200, 200, 1))) == (31_054_145, 31_042_369)


@pytest.mark.parametrize("size", [(24, 24), (25, 39), (40, 33)])
@pytest.mark.parametrize("classes", [1, 3])
def test_unet_takes_any_size(size, classes):
    model = build_model("unet", (*size, 1), classes, features=2, depth=3)
    p = model.predict(np.random.default_rng(0).random((2, *size, 1), np.float32), verbose=0)
    assert p.shape == (2, *size, 1 if classes == 1 else 4) and p.dtype == np.float32
    assert p.min() >= 0 and p.max() <= 1
    if classes > 1:
        assert np.allclose(p.sum(-1), 1, atol=1e-5)


def test_unet_sees_every_pixel_at_its_place():
    """Padding and cropping must not shift: a bright pixel changes the output most around itself."""
    model = build_model("unet", (25, 25, 1), features=4, depth=1, normalisation=False, dropout=0)
    image = np.zeros((1, 25, 25, 1), np.float32)
    before = model.predict(image, verbose=0)
    image[0, 3, 20] = 10
    change = np.abs(model.predict(image, verbose=0) - before)[0, ..., 0]
    rows, columns = np.nonzero(change > 1e-7)
    assert rows.max() <= 3 + 10 and columns.min() >= 20 - 10


def test_arguments_change_the_network():
    names = [layer.name for layer in build_model("unet", (16, 16, 1), features=2, depth=1, dropout=0).layers]
    assert names[0] == "input" and names[-1] == "output"
    assert not any("drop" in name for name in names)
    plain = build_model("unet", (16, 16, 1), features=2, depth=1, normalisation=False)
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in plain.layers)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("unett", {}, "unknown network"),
        ("unet", {"feature": 2}, "no setting 'feature'"),
        ("unet", {"features": 0}, "features >= 1"),
        ("unet", {"dropout": 1.0}, "dropout < 1"),
        ("gone.py", {}, "does not exist"),
    ],
)
def test_wrong_names_and_settings_are_refused(name, arguments, words):
    with pytest.raises(ValueError, match=words):
        build_model(name, (16, 16, 1), **arguments)


OWN = """
import keras
RECOMMENDED = {{"BATCH_SIZE": 2}}
def build_model({first}input_shape, classes, width=3):
    x = inputs = keras.Input(input_shape, name="input")
    x = keras.layers.Conv2D(width, 3, padding="same")(x)
    x = keras.layers.Conv2D({channels}, 1)(x)
    return keras.Model(inputs, keras.layers.Activation("sigmoid", name="{output}")(x))
"""


def test_a_network_of_ones_own(tmp_path):
    for number, first in enumerate(("", "name, ")):
        file = tmp_path / f"own{number}.py"
        file.write_text(OWN.format(first=first, channels=1, output="output"))
        assert build_model(str(file), (16, 16, 1), 1, width=5).count_params() == 5 * 10 + 6
        assert models.recommended(str(file))["BATCH_SIZE"] == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (OWN.format(first="", channels=2, output="output"), "expected"),
        (OWN.format(first="", channels=1, output="out"), "called input and output"),
        ("def other(): pass", "no function build_model"),
        ("import gone_module", "does not run"),
        ("def build_model(", "does not run"),
    ],
)
def test_wrong_networks_of_ones_own_are_refused(tmp_path, text, words):
    file = tmp_path / "own.py"
    file.write_text(text)
    with pytest.raises(ValueError, match=words):
        build_model(str(file), (16, 16, 1), 1)
