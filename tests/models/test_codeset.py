"""Network files of AIS Training Codeset, as they are: imports of Keras 2, Build_Model, and what they recommend."""

import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from running import only_folder, run_here

import models
from common.errors import SettingError
from common.settings import Settings
from common.training.configure import configure, configure_folds, learning_rate_of_epoch
from models.keras2 import Backend

IMPORTS = """
import tensorflow as tf
import keras.backend as KB
from keras import backend as K
from keras import layers
from keras.models import Model
from keras.layers import Input, Layer, BatchNormalization, Activation, Dropout, SpatialDropout2D, ZeroPadding2D
from keras.layers.noise import GaussianDropout, GaussianNoise
from keras.layers.convolutional import Conv2D, SeparableConv2D, Conv2DTranspose, UpSampling2D, Cropping2D
from keras.layers.pooling import MaxPooling2D
from keras.layers.merge import Concatenate
from keras.layers.advanced_activations import ReLU, LeakyReLU, PReLU, ELU
from keras.layers.normalization import BatchNormalization as Normalization
from tensorflow.keras.layers import Add
from keras.initializers import Constant, TruncatedNormal
from keras.constraints import NonNeg
from keras.regularizers import l2
from keras.engine.base_layer import InputSpec
from keras.optimizers import SGD, Adam, Nadam
from neural_networks.Custom_layers import ParametricSwish, Swish as Swishing, SQRT
"""
NETWORK = """
class Shift(Layer):
    def __init__(self, **kwargs):
        super(Shift, self).__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape):
        assert K.image_data_format() == "channels_last"
        self.weight = self.add_weight(name="weight", shape=list(input_shape[1:]), initializer=TruncatedNormal(mean=1.0),
                                      regularizer=l2(1e-4), trainable=True, constraint=NonNeg())
        self.input_spec = InputSpec(ndim=4, axes={3: input_shape[3]})
        super(Shift, self).build(input_shape)

    def call(self, x):
        return K.sigmoid(self.weight * x) * x + KB.sqrt(KB.square(x) + K.epsilon())

    def compute_output_shape(self, input_shape):
        return input_shape


def bounded(x):
    return ReLU(max_value=6)(x)


def Model_Name(): return "a name"
def Model_Description(): return "a description"
def Custom_Layers(): return {"Shift": Shift, "ParametricSwish": ParametricSwish}
def Number_of_Classes(): return 1


def Build_Model():
    inputs = Input(shape=(SIDE, SIDE, 1), name="input")
    x = Conv2D(filters=4, kernel_size=3, padding="same", kernel_initializer="he_uniform", use_bias=False)(inputs)
    x = BatchNormalization(momentum=0.95)(x)
    assert K.int_shape(x) == (None, SIDE, SIDE, 4) and x._keras_shape[-1] == 4
    y = MaxPooling2D(pool_size=(2, 2))(Activation(bounded)(ParametricSwish()(x)))
    y = GaussianDropout(rate=0.1)(Shift()(y))
    y = Swishing()(Conv2DTranspose(2, kernel_size=(2, 2), strides=(2, 2))(y))
    x = LeakyReLU(alpha=0.2)(Concatenate()([x, y]))
    return Model(inputs=inputs, outputs=Conv2D(1, kernel_size=(1, 1), activation="sigmoid", name="output")(x))
"""
SYNAPSE = """
def Batch_Size(): return 4
def Optimizer(base_lr=0.1): return SGD(lr=base_lr, momentum=0.95, nesterov=True)
def Learning_Rate_Parameters():
    return {'formula': ['poly', 0.35, 100], 'graph': [[0, 0.0], [1, 0.0]], 'step': [0.1, 5.0], 'limit': [0.01, 1.0],
            'patience': [15, 1], 'stop_count': 40}
"""
UNET = """
def Batch_Size(): return 8
def Learning_Rate_Lsit(): return [[0, 5e-3], [5, 1.5e-2], [50, 5e-3]]
"""
CONTROLLER = {"step": [0.1, 5.0], "limit": [0.01, 1.0], "patience": [15, 1]}


def write(path, rates, network=NETWORK, imports=IMPORTS, side=24):
    path.write_text(imports + network.replace("SIDE", str(side)) + rates)
    return str(path)


def values(settings, *names):
    return tuple(settings.values[name] for name in names)


def test_a_file_of_the_codeset_says_how_to_train_it(tmp_path):
    synapse, unet = write(tmp_path / "CV_net.py", SYNAPSE), write(tmp_path / "U_net.py", UNET)
    rates = ("OPTIMIZER", "LEARNING_RATE", "SCHEDULE", "EPOCHS", "EARLY_STOP", "CONTROLLER")
    sgd = {"name": "sgd", "momentum": 0.95, "nesterov": True}
    found = configure(Settings.of("train.py", MODEL=synapse, AS_PUBLISHED=True))
    assert values(found, "BATCH_SIZE", *rates) == (4, sgd, 0.35, "poly", 100, 40, CONTROLLER)
    plain = configure(Settings.of("train.py", MODEL=synapse))
    assert values(plain, "BATCH_SIZE", *rates) == (4, sgd, 0.35, "poly", 50, 50, {})
    late = configure(Settings.of("train.py", MODEL=synapse, AS_PUBLISHED=True, SCHEDULE_SETTINGS={"skip": 30}))
    assert late.EPOCHS == 70 and learning_rate_of_epoch(late, 0, 70, None) == pytest.approx(0.35 * 0.7**0.9)
    half = configure(Settings.of("train.py", MODEL=synapse, AS_PUBLISHED=True, BATCH_SIZE=2, EPOCHS=7))
    assert values(half, "LEARNING_RATE", "EPOCHS", "EARLY_STOP") == (pytest.approx(0.175), 7, 40)
    for settings, epochs in (({}, 50), ({"AS_PUBLISHED": True}, 50), ({"EPOCHS": 3}, 3)):
        found = configure(Settings.of("train.py", MODEL=unet, **settings))
        assert values(found, "BATCH_SIZE", *rates) == (8, "nadam", 5e-3, "graph", epochs, 50, {})
        assert found.SCHEDULE_SETTINGS == {"points": [[0, 5e-3], [5, 1.5e-2], [50, 5e-3]]}
    for settings in ({}, {"AS_PUBLISHED": True}):
        late = configure(Settings.of("train.py", MODEL=unet, SCHEDULE_SETTINGS={"skip": 30}, **settings))
        assert values(late, "SCHEDULE", "EPOCHS") == ("graph", 20)
        assert learning_rate_of_epoch(late, 0, 20, None) == pytest.approx(1.5e-2 - 1e-2 * 25 / 45)
        own = configure(Settings.of("train.py", MODEL=unet, LEARNING_RATE=1e-4, **settings))
        assert values(own, "LEARNING_RATE", "SCHEDULE", "SCHEDULE_SETTINGS") == (1e-4, "constant", {})


def test_the_networks_of_the_codeset_train_as_published_there(monkeypatch):
    graph = [[0, 5e-3], [5, 1.5e-2], [10, 1.5e-2], [20, 1e-2], [30, 7.5e-3], [50, 5e-3]]
    for name, size in (("unet", 8), ("deeplab_v3plus", 12)):
        found = configure(Settings.of("train.py", MODEL=name, AS_PUBLISHED=True))
        assert values(found, "BATCH_SIZE", "OPTIMIZER", "SCHEDULE", "EPOCHS") == (size, "nadam", "graph", 50)
        assert values(found, "SCHEDULE_SETTINGS") == ({"points": graph},) and found.CONTROLLER == {}
    for name, size, rate, controller in (("cvnet_synapse", 80, 0.5, {}), ("cvnet_synapse_512", 16, 0.35, CONTROLLER)):
        found = configure(Settings.of("train.py", MODEL=name, AS_PUBLISHED=True))
        assert values(found, "BATCH_SIZE", "LEARNING_RATE", "SCHEDULE", "EPOCHS") == (size, rate, "poly", 100)
        assert values(found, "CONTROLLER") == (controller,) and found.OPTIMIZER["momentum"] == 0.95
        assert configure(Settings.of("train.py", MODEL=name, AS_PUBLISHED=True, VALIDATION="")).CONTROLLER == {}
    monkeypatch.setattr("common.training.configure.find_folds", lambda path: [1, 2])
    monkeypatch.setattr("common.training.configure.open_sets", lambda settings: (SimpleNamespace(axes=2), None))
    monkeypatch.setattr("common.training.configure.choose_missing", lambda settings, *sets: {})
    folds = configure_folds(Settings.of("train.py", MODEL="cvnet_synapse_512", AS_PUBLISHED=True, FOLD="all"))
    assert values(folds, "EPOCHS", "CONTROLLER", "BATCH_SIZE") == (100, CONTROLLER, 16), "each fold is given these"
    with pytest.raises(SettingError, match="AS_PUBLISHED: pretrained_unet: no published settings; choose unet"):
        configure(Settings.of("train.py", MODEL="pretrained_unet", AS_PUBLISHED=True))
    with pytest.raises(SettingError, match="AS_PUBLISHED: needs MODEL"):
        configure(Settings.of("train.py", AS_PUBLISHED=True))


def test_a_file_of_the_codeset_trains_predicts_and_is_kept(packed, tmp_path):
    file = write(tmp_path / "CV_net.py", SYNAPSE)
    sets = {name: packed["packed"] / f"{name.lower()}.h5" for name in ("TRAIN", "VALIDATION")}
    run_here("train.py", **sets, RUNS=tmp_path / "runs", MODEL=file, LOSS="mse+dice", AS_PUBLISHED=True, EPOCHS=1)
    run = only_folder(tmp_path / "runs")
    assert (run / "code" / "CV_net.py").read_text() == (tmp_path / "CV_net.py").read_text()
    recorded = json.loads((run / "settings.json").read_text())
    assert recorded["CONTROLLER"] == CONTROLLER and recorded["EPOCHS"] == 1
    assert recorded["reasons"]["EARLY_STOP"] == f"as the author of {file} trained it"
    test = packed["lists"] / "test.csv"
    done = run_here("predict.py", RUN=run, INPUT=test, OUTPUT=tmp_path / "out", MODEL=file, OVERLAYS=False)
    assert list((tmp_path / "out").rglob("*.png")), done.stdout


def test_functions_of_the_old_backend():
    x, backend = np.arange(6, dtype=np.float32).reshape(1, 2, 3) - 2, Backend()
    expected = {"relu": x.clip(0), "flatten": x.ravel(), "square": x**2, "permute_dimensions": x.transpose(2, 0, 1)}
    for name, value in expected.items():
        arguments = [(2, 0, 1)] if name == "permute_dimensions" else []
        assert np.allclose(getattr(backend, name)(x, *arguments), value)
    assert np.allclose(backend.pow(x, 2), x**2) and backend.int_shape(keras.Input((4, 5))) == (None, 4, 5)
    assert backend.concatenate([x, x]).shape == (1, 2, 6)
    assert np.allclose(backend.sum(x, axis=-1, keepdims=True), x.sum(-1, keepdims=True))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("SIDE", "32", r"for images of 32x32x1 \(found 24x24x1 in the sets\)"),
        ("K.int_shape(x)", "K.resize_images(x)", "backend.resize_images is not in Keras 3; use keras.ops"),
        ("def Model_Name", "from Custom_layers import SigmoidShift\ndef Model_Name", "SigmoidShift of Custom_layers"),
        ("def Model_Name", "from keras.contrib import CRF\ndef Model_Name", "does not run .ModuleNotFoundError"),
        ("def Model_Name", "def Batch_Size(): return 1 / 0\ndef Model_Name", r"Batch_Size\(\) does not run in Keras 3"),
        ("return Model(", "return dict(", "does not return a Keras model with one input"),
        ('name="output"', 'name="out"', "no layer output"),
    ],
)
def test_wrong_files_of_the_codeset_are_refused(tmp_path, old, new, words):
    rates = "def Learning_Rate_Lsit(): return [[0, 5e-3], [50, 5e-3]]"
    file = write(tmp_path / "net.py", rates, NETWORK.replace(old, new))
    with pytest.raises(ValueError, match=words):
        models.build_model(file, (24, 24, 1))


@pytest.mark.parametrize(
    "rates",
    [
        "def Learning_Rate_Lsit(): return [0, 5e-3]",
        "def Learning_Rate_Formula(): return ['cosine', 0.1, 50]",
        "def Learning_Rate_Parameters(): return {'formula': ['poly', 0.1]}",
        "def Learning_Rate_Parameters(): return {'step': [0.1]}",
        "def Learning_Rate_Parameters(): return 3",
    ],
)
def test_wrong_learning_rates_of_the_codeset_are_refused(tmp_path, rates):
    with pytest.raises(ValueError, match="its learning rates are not as in AIS Training Codeset"):
        models.recommended(write(tmp_path / "net.py", rates))
