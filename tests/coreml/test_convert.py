"""convert_coreml.py: what it writes, read back through coremltools, and what it says of bad input."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import keras
import numpy as np
import pytest
from drawings import write_image
from keras import layers
from running import run_here, run_main

ROOT = Path(__file__).resolve().parents[2]
import models
from common.errors import InputError
from common.settings import Settings
from common.training import trust
from common.training.trained_models import load_network, model_file
from coreml.compare import AppleModel
from coreml.compress import COMPRESSIONS
from coreml.convert import convert_network, count_operations
from coreml.reader import read_model
from models.unet import build_model

ct = pytest.importorskip("coremltools")
on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="coremltools reads TensorFlow only")
DOUBLE = ct.proto.FeatureTypes_pb2.ArrayFeatureType.DOUBLE
FLOAT32 = ct.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT32
SETTINGS = {"MODEL": "unet", "MODEL_SETTINGS": {"features": 4, "depth": 2}, "LOSS": "mse+dice", "VALIDATION": "gone.h5"}
OWN_PATH = {"TRAIN": "/home/jdoe/packed/train.h5"}
STATE = {"epoch": 3, "best_dice": {"score": 0.75, "epoch": 2}, "data": {"classes": 1, "spacing": [0.5, 0.7]}}


# --- networks and runs


@contextmanager
def precision(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def unet(classes=1, policy="float32"):
    with precision(policy):
        return with_random_weights(build_model((40, 40, 1), classes, features=4, depth=2))


def small_network(*middle, shape=(40, 40, 1), out=layers.Conv2D):
    """A convolution, `middle` and a last layer."""
    inputs = x = keras.Input(shape, name="input")
    for layer in (layers.Conv2D(4, 3, padding="same"), *middle, out(1, 1)):
        x = layer(x)
    return keras.Model(inputs, layers.Activation("sigmoid", name="output")(x))


def with_random_weights(model, seed=0):
    """Give every weight a value that shows: batch statistics too, which are 0 and 1 before training."""
    generator = np.random.default_rng(seed)
    low = {"moving_variance": 0.5, "gamma": 0.5}
    for weight in model.weights:
        weight.assign(generator.uniform(low.get(weight.name, -0.5), 1.5, weight.shape))
    return model


def make_run(folder, model, state=STATE, name="best_dice"):
    folder.mkdir(exist_ok=True)
    model.save(folder / f"{name}.keras")
    (folder / "settings.json").write_text(json.dumps(SETTINGS | OWN_PATH))
    (folder / "state.json").write_text(json.dumps(state))
    return folder


@pytest.fixture
def convert(monkeypatch):
    """Run the script in this process under settings and read back what it wrote."""
    for name in ("KERAS_BACKEND", "CUDA_VISIBLE_DEVICES", "TQDM_DISABLE", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # what the script sets is put back after the test
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")

    kept = {}

    def run(run_folder, **settings):
        kept.update({"RUN": run_folder, **settings})  # as somebody who edits constants and leaves the others
        run_main("convert_coreml.py", **kept)
        folder = Path(kept.get("OUTPUT", run_folder))
        folder = folder if folder.is_dir() and folder.suffix != ".mlpackage" else folder.parent
        written = max(folder.glob(f"*.{kept.get('FORMAT', 'mlmodel')}"), key=lambda path: path.stat().st_mtime_ns)
        return ct.utils.load_spec(str(written))

    return run


def script(*arguments, backend="tensorflow"):
    environment = {**os.environ, "KERAS_BACKEND": backend}
    return subprocess.run(
        [sys.executable, ROOT / "convert_coreml.py", *map(str, arguments)],
        capture_output=True,
        check=False,
        text=True,
        env=environment,
        cwd=ROOT,
        timeout=300,
    )


def array(end):
    return end.name, tuple(end.type.multiArrayType.shape), end.type.multiArrayType.dataType


def convolutions(spec):
    """Kernels and biases of the convolutions of a neural network, kernels as (out, in, height, width)."""
    found = []
    for layer in spec.neuralNetwork.layers:
        if layer.WhichOneof("layer") == "convolution" and not layer.convolution.isDeconvolution:
            c = layer.convolution
            shape = (c.outputChannels, c.kernelChannels, *c.kernelSize)
            found.append((np.reshape(c.weights.floatValue, shape), np.array(c.bias.floatValue)))
    return found


# --- what is written


def test_script_writes_the_contract_of_the_plugin(tmp_path):
    model = unet()
    run = make_run(tmp_path / "20250102-030405_unet", model)
    log = "epoch,dice,val_dice,val_iou,val_fpoet\n1,0.1,0.2,0.3,\n2,0.6,0.75,0.6,\n3,0.6,0.5,0.4,0.1\n"
    (run / "training_log.csv").write_text(log)
    done = script("--run", run, "--author", "A. Author", "--licence", "MIT", backend="jax")
    assert (done.returncode, done.stderr) == (0, "")
    output = run / "20250102-030405_unet.mlmodel"
    assert done.stdout.strip().splitlines()[-1].startswith(f"wrote {output}, float32 weights, ")
    assert "\nchecking on drawn slices (8), because the run's validation set gone.h5 is missing" in done.stdout
    assert "input   array of (1, 40, 40), DOUBLE\noutput  array of (1, 40, 40), DOUBLE\n" in done.stdout
    assert sorted(path.name for path in run.iterdir()) == sorted(
        ["best_dice.keras", "settings.json", "state.json", "training_log.csv", output.name]
        + [f"{output.stem}_card{ending}" for ending in (".json", ".md")]
    )

    spec = ct.utils.load_spec(str(output))
    assert spec.WhichOneof("Type") == "neuralNetwork"
    assert [array(end) for end in spec.description.input] == [("input", (1, 40, 40), DOUBLE)]
    assert [array(end) for end in spec.description.output] == [("output", (1, 40, 40), DOUBLE)]
    kinds = set(count_operations(spec))
    assert kinds == {"convolution", "activation", "pooling", "concat", "expandDims", "squeeze"}

    metadata = spec.description.metadata
    assert (metadata.author, metadata.license) == ("A. Author", "MIT")
    assert metadata.shortDescription == "unet, 40x40, classes: 1"
    assert spec.description.input[0].shortDescription == "slice, gray values divided by 255"
    assert spec.description.output[0].shortDescription == "probability of the mask, 0..1"
    facts = {key: value for key, value in metadata.userDefined.items() if not key.startswith("com.")}
    assert json.loads(facts.pop("settings")) == SETTINGS | {"TRAIN": "train.h5"}
    assert not [own for own in (str(tmp_path), "jdoe") if own.encode() in output.read_bytes()]
    assert facts == {
        "network": "unet",
        "run": run.name,
        "weights": "best_dice.keras",
        "compression": "float32",
        "threshold": "0.5",
        "score": "0.75",
        "scores": '{"dice": 0.75, "iou": 0.6}',
        "classes": "1",
        "spacing": "[0.5, 0.7]",
    }


@on_tensorflow
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_weights_are_those_of_the_network_whatever_its_precision(tmp_path, convert, policy):
    model = unet(policy=policy)
    found = convolutions(convert(make_run(tmp_path / "run", model)))

    first, norm = model.get_layer("down0_conv1"), model.get_layer("down0_norm1")
    gamma, beta, mean, variance = norm.get_weights()  # folded into the convolution before it
    scale = gamma / np.sqrt(variance + norm.epsilon)
    kernel, bias = first.get_weights()
    np.testing.assert_allclose(found[0][0], (kernel * scale).transpose(3, 2, 0, 1), rtol=1e-5)
    np.testing.assert_allclose(found[0][1], (bias - mean) * scale + beta, rtol=1e-4, atol=1e-5)

    kernel, bias = model.get_layer("logits").get_weights()
    np.testing.assert_array_equal(found[-1][0], kernel.transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(found[-1][1], bias)


@on_tensorflow
def test_package_is_a_float32_program(tmp_path, convert):
    run = make_run(tmp_path / "run", unet(policy="mixed_bfloat16"))
    spec = convert(run, FORMAT="mlpackage")
    assert spec.WhichOneof("Type") == "mlProgram"
    assert [array(end) for end in spec.description.input] == [("input", (1, 40, 40), FLOAT32)]
    assert [array(end) for end in spec.description.output] == [("output", (1, 40, 40), FLOAT32)]
    kinds = count_operations(spec)
    assert kinds["conv"] == 11
    assert not [kind for kind in kinds if kind == "cast" or "random" in kind or "dropout" in kind]
    assert spec.description.metadata.userDefined["score"] == "0.75"
    with pytest.raises(InputError, match="exists"):
        convert(run, FORMAT="mlpackage")
    convert(run, FORMAT="mlpackage", REPLACE=True)
    assert not list(tmp_path.rglob(".part*"))


@on_tensorflow
def test_no_half_precision_is_left_in_a_nested_network(tmp_path, convert):
    with precision("mixed_bfloat16"):  # the inner network casts its input to the type that it was built under
        network = small_network(keras.Sequential([layers.Conv2D(4, 3, padding="same"), layers.ReLU()]))
    spec = convert(make_run(tmp_path / "run", network), FORMAT="mlpackage")
    assert set(count_operations(spec)) == {"expand_dims", "conv", "relu", "sigmoid", "squeeze"}


@on_tensorflow
@pytest.mark.parametrize("kind", ["mlmodel", "mlpackage"])
def test_several_classes_are_planes_with_the_background_first(tmp_path, convert, kind):
    spec = convert(make_run(tmp_path / "run", unet(classes=3)), FORMAT=kind)
    assert array(spec.description.output[0])[:2] == ("output", (4, 40, 40))
    assert spec.description.metadata.userDefined["classes"] == "3"
    assert spec.description.output[0].shortDescription == "probability of background and classes, 0..1"


@on_tensorflow
@pytest.mark.parametrize("kind", ["mlmodel", "mlpackage"])
def test_image_input_is_gray_and_scaled_to_one(tmp_path, convert, kind):
    spec = convert(make_run(tmp_path / "run", unet()), FORMAT=kind, INPUT_KIND="image")
    (end,) = spec.description.input
    image = end.type.imageType
    gray = ct.proto.FeatureTypes_pb2.ImageFeatureType.GRAYSCALE
    assert (end.name, image.height, image.width, image.colorSpace) == ("input", 40, 40, gray)
    if kind == "mlmodel":
        (step,) = spec.neuralNetwork.preprocessing
        assert step.featureName == "input"
        assert step.scaler.channelScale == pytest.approx(1 / 255)
        assert step.scaler.grayBias == 0
    else:
        assert count_operations(spec)["mul"] == 1
    assert array(spec.description.output[0])[:2] == ("output", (1, 40, 40))


@on_tensorflow
@pytest.mark.parametrize("kind", ["mlmodel", "mlpackage"])
def test_image_input_of_three_channels_is_rgb(tmp_path, convert, kind):
    """The check runs the file on colors that differ, so that channels in another order would not pass."""
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), np.uint8)
    for number, image in enumerate(images):
        write_image(tmp_path / "slices" / f"{number}.png", image)
    run = make_run(tmp_path / "run", with_random_weights(small_network(shape=(40, 40, 3))))
    spec = convert(run, FORMAT=kind, INPUT_KIND="image", SLICES=str(tmp_path / "slices"))
    (end,) = spec.description.input
    image = end.type.imageType
    rgb = ct.proto.FeatureTypes_pb2.ImageFeatureType.RGB
    assert (end.name, image.height, image.width, image.colorSpace) == ("input", 40, 40, rgb)
    assert end.shortDescription == "slice, an RGB image of 0..255"


@on_tensorflow
def test_noise_layers_are_gone_and_channels_are_planes(tmp_path, convert):
    noise = layers.GaussianNoise(0.1), layers.GaussianDropout(0.2), layers.SpatialDropout2D(0.2)
    run = make_run(tmp_path / "run", small_network(*noise, shape=(40, 48, 2)))
    spec = convert(run, DESCRIPTION="mine", INPUT_DESCRIPTION="in", OUTPUT_DESCRIPTION="out")
    assert array(spec.description.input[0]) == ("input", (2, 40, 48), DOUBLE)
    assert array(spec.description.output[0]) == ("output", (1, 40, 48), DOUBLE)
    assert set(count_operations(spec)) == {"expandDims", "convolution", "activation", "squeeze"}
    ends = spec.description.input[0], spec.description.output[0]
    assert spec.description.metadata.shortDescription == "mine"
    assert [end.shortDescription for end in ends] == ["in", "out"]
    with pytest.raises(InputError, match=r"needs 1 or 3 channels \(found 2 in"):
        convert(run, INPUT_KIND="image", REPLACE=True)


@on_tensorflow
def test_model_alone_lands_beside_itself_and_sparse_state_will_do(tmp_path, convert):
    small_network().save(tmp_path / "mine.keras")
    spec = convert(tmp_path / "mine.keras")
    assert (tmp_path / "mine.mlmodel").is_file()
    facts = {key for key in spec.description.metadata.userDefined if not key.startswith("com.")}
    assert facts == {"network", "weights", "classes", "compression", "threshold"}

    run = make_run(tmp_path / "run", small_network(), state={}, name="last")
    spec = convert(run, WEIGHTS_FILE="last", OUTPUT=str(tmp_path / "new" / "named.mlmodel"))
    assert (tmp_path / "new" / "named.mlmodel").is_file()
    assert "score" not in spec.description.metadata.userDefined


@on_tensorflow
@pytest.mark.parametrize(
    "network, message",
    [
        (lambda: small_network(layers.Activation("gelu")), "Core ML has no operation Erfc"),
        (lambda: small_network(layers.UpSampling2D(2)), r"\(40, 40, 1\) and \(80, 80, 1\)"),
        (lambda: small_network(shape=(None, None, 1)), r"\(None, None, 1\).* fixed size"),
        (lambda: small_network(layers.Flatten(), out=lambda *_: layers.Dense(1)), r"and \(1,\)"),
    ],
    ids=["operation", "size", "no size", "classifier"],
)
def test_network_that_does_not_fit_is_named(tmp_path, convert, network, message):
    run = make_run(tmp_path / "run", network())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message):
        convert(run)
    assert sorted(tmp_path.rglob("*")) == before


# --- the check, and smaller weights


@pytest.mark.slow
@on_tensorflow
def test_model_beyond_the_limits_stays_unverified(tmp_path, convert, monkeypatch, capsys):
    run = make_run(tmp_path / "run", unet())

    def wrong(network, *rest):
        weights = network.get_weights()
        network.set_weights([weights[0] * 1.1, *weights[1:]])
        model = convert_network(network, *rest)
        network.set_weights(weights)
        return model

    monkeypatch.setattr("coreml.convert.convert_network", wrong)
    with pytest.raises(InputError) as raised:
        convert(run)
    assert "run-unverified.mlmodel does not match Keras: " in str(raised.value)
    assert "the first layer that differs is down0_norm1 (convolution unet" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert sorted(path.name for path in run.iterdir() if path.suffix == ".mlmodel") == ["run-unverified.mlmodel"]
    monkeypatch.setattr("coreml.convert.convert_network", convert_network)
    convert(run)  # an unverified model is in nobody's way
    assert (run / "run.mlmodel").is_file()


@pytest.mark.slow
@on_tensorflow
def test_check_uses_the_slices_of_the_run_and_their_masks(tmp_path, convert, packed, capsys):
    network = with_random_weights(build_model((24, 24, 1), features=2, depth=1))
    run = make_run(tmp_path / "run", network)
    settings = SETTINGS | {"VALIDATION": str(packed["packed"] / "validation.h5")}
    (run / "settings.json").write_text(json.dumps(settings))
    convert(run, CHECKED=3)
    printed = capsys.readouterr().out
    assert f"checking on {settings['VALIDATION']} (slices: 3)" in printed
    assert "check   3 slices; largest difference " in printed and "; Dice against the truth 0." in printed
    for name in ("cases", "lists"):
        source = packed[name] / "validation.csv" if name == "lists" else packed[name]
        convert(run, SLICES=str(source), CHECK_ONLY=True)
        assert f"checking on {source} (slices: " in capsys.readouterr().out
    convert(run, SLICES=str(packed["cases"] / "case01" / "x"), CHECK_ONLY=False, REPLACE=True, INPUT_KIND="image")
    assert "x (slices: 3)" in capsys.readouterr().out
    with pytest.raises(InputError, match="gone does not exist"):
        convert(run, SLICES=str(tmp_path / "gone"), REPLACE=True)
    other = make_run(tmp_path / "other", unet())
    with pytest.raises(InputError, match=r"found slices of \(24, 24, 1\), expected \(40, 40, 1\)"):
        convert(other, SLICES=settings["VALIDATION"])
    three = make_run(tmp_path / "three", with_random_weights(build_model((24, 24, 1), 3, features=2, depth=1)))
    with pytest.raises(InputError, match="found classes: 1, expected 3"):
        convert(three, SLICES=settings["VALIDATION"])


@on_tensorflow
def test_model_that_is_there_is_checked_and_left_alone(tmp_path, convert, capsys):
    run = make_run(tmp_path / "run", unet())
    convert(run)
    path = run / "run.mlmodel"
    sound = path.read_bytes()
    convert(run, CHECK_ONLY=True)
    assert capsys.readouterr().out.splitlines()[-1] == f"{path} matches Keras"

    def assert_refused(change, message, **settings):
        spec = ct.utils.load_spec(str(path))
        change(spec)
        path.write_bytes(spec.SerializeToString())
        with pytest.raises(InputError, match=message):
            convert(run, CHECK_ONLY=True, **settings)
        path.write_bytes(sound)

    def lose_a_bias(spec):
        layer = next(la for la in spec.neuralNetwork.layers if la.WhichOneof("layer") == "convolution")
        layer.convolution.hasBias = False

    def single(spec):
        spec.description.input[0].type.multiArrayType.dataType = FLOAT32

    assert_refused(lose_a_bias, "the first layer that differs is down0_norm1")
    assert_refused(lambda spec: ct.utils.rename_feature(spec, "input", "x"), r"wrong input \(found x, an array of")
    assert_refused(single, r"wrong input \(found input, an array of \(1, 40, 40\), FLOAT32; expected .* DOUBLE")
    assert_refused(lambda spec: None, r"wrong input \(found .*; expected input, an image of", INPUT_KIND="image")
    path.write_bytes(sound[:1000])
    with pytest.raises(InputError, match="damaged"):
        convert(run, CHECK_ONLY=True)
    with pytest.raises(InputError, match=r"gone\.mlmodel does not exist"):
        convert(run, CHECK_ONLY=True, OUTPUT=str(tmp_path / "gone.mlmodel"))
    assert sorted(file.name for file in run.iterdir() if "ml" in file.suffix) == ["run.mlmodel"]


@pytest.mark.slow
@on_tensorflow
def test_compare_writes_every_kind_and_prints_what_it_loses(tmp_path, convert, capsys):
    model = with_random_weights(build_model((40, 40, 1), features=32, depth=1))
    run = make_run(tmp_path / "run", model)
    convert(run, FORMAT="mlpackage", COMPARE=True, TARGET="macOS13", LEAST_DICE=0.0, LARGEST_DIFFERENCE=1.0)
    printed = capsys.readouterr().out
    kinds = ["float32", "float16", "linear8", "palette8", "palette6", "palette4"]
    lines = [line.split()[0] for line in printed.splitlines() if line.split()[0] in kinds]
    assert lines == kinds
    assert {path.name for path in run.glob("*.mlpackage")} == {f"run-{kind}.mlpackage" for kind in kinds}
    assert "models written: 6; smallest within the limits: " in printed
    assert "run-palette4.mlpackage" in printed.splitlines()[-1]
    make_run(run, small_network())
    convert(run, FORMAT="mlpackage", COMPARE=True, TARGET="macOS12", REPLACE=True)
    printed = capsys.readouterr().out
    assert "skipping palette4: TARGET: macOS12 is too old for a .mlpackage with palette4 weights" in printed
    assert "use --target macOS13" in printed


def test_every_compression_is_a_choice():
    annotation = Settings.of("convert_coreml.py").annotations["COMPRESSION"]
    assert get_args(annotation) == COMPRESSIONS


@on_tensorflow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"FORMAT": "mlpackage", "COMPRESSION": "palette6", "TARGET": "iOS15"},
            "TARGET: iOS15 is too old .* use --target iOS16",
        ),
        ({"FORMAT": "mlpackage", "TARGET": "macOS11"}, "TARGET: macOS11 is too old .* use --target macOS12"),
        ({"TARGET": "macOS9"}, r"TARGET: unknown system \(found \'macOS9\'\); choose one of iOS13"),
        ({"VOLUME_SIZE": [8, 8, 8]}, r"VOLUME_SIZE: only for models for volumes \(.* is for slices\)"),
        ({"CLASS_NAMES": ["a", "b"]}, r"CLASS_NAMES: wrong number of names \(found 2, expected 1\)"),
        ({"OUTPUT_KIND": "image"}, "needs an ML program; use --format mlpackage"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path, convert, settings, message):
    run = make_run(tmp_path / "run", unet())
    with pytest.raises(InputError, match=message):
        convert(run, **settings)
    assert not list(run.glob("*.ml*"))


@on_tensorflow
@pytest.mark.parametrize(("trained", "given"), [(["lung", "nodule"], []), (["a", "b"], ["lung", "nodule"])])
def test_metadata_carries_names_of_classes_and_window(tmp_path, convert, trained, given):
    """The names are those of training, unless others are given."""
    run = make_run(tmp_path / "run", unet(classes=2))
    (run / "settings.json").write_text(json.dumps(SETTINGS | {"CLASS_NAMES": trained}))
    spec = convert(run, CLASS_NAMES=given, WINDOW=[-1000, 400], OUTPUT_KIND="classes")
    facts = spec.description.metadata.userDefined
    assert (json.loads(facts["class_names"]), json.loads(facts["window"])) == (["lung", "nodule"], [-1000, 400])
    assert "threshold" not in facts
    assert spec.description.output[0].shortDescription == "class numbers, 0 (background) to 2"
    assert array(spec.description.output[0]) == ("output", (1, 40, 40), DOUBLE)


@on_tensorflow
def test_metadata_of_a_run_whose_name_is_not_utf8(tmp_path, convert):
    run = make_run(tmp_path / os.fsdecode(b"r\xe9 run"), unet())
    spec = convert(run, AUTHOR="M\udcc3\udcbcller")  # as a POSIX locale reads the flag
    metadata = spec.description.metadata
    assert (metadata.userDefined["run"], metadata.author) == ("r\\xe9 run", "M\u00fcller")


@pytest.mark.slow
@on_tensorflow
def test_on_a_mac_core_ml_itself_is_asked(tmp_path, convert, monkeypatch, capsys):
    """The system is played by the interpreter, once as it is and once wrong."""

    class Played:
        shift = 0.0

        def __init__(self, path):
            self.model = read_model(path)

        def predict(self, given):
            given = {name: np.asarray(value) for name, value in given.items()}
            return {name: value + Played.shift for name, value in self.model.run(given).items()}

    run = make_run(tmp_path / "run", unet())
    monkeypatch.setattr(AppleModel, "__init__", lambda self, path: setattr(self, "model", Played(path)))
    monkeypatch.setattr(sys, "platform", "darwin")
    convert(run, INPUT_KIND="image")
    assert "Core ML, float32: 8 slices; largest difference" in capsys.readouterr().out
    Played.shift = 0.25
    with pytest.raises(InputError, match="in Core ML itself, the probabilities differ"):
        convert(run, REPLACE=True)


# --- own networks

OWN_LAYERS = """
import keras
from keras import layers, ops


@keras.saving.register_keras_serializable(package="mine")
class Gate(layers.Layer):
    def call(self, x):
        return {body}


def build_model(input_shape, classes):
    inputs = keras.Input(input_shape, name="input")
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    x = Gate(name="my_gate")(x)
    x = layers.Dense(3, activation="swish")(layers.LayerNormalization()(x))
    x = layers.Conv2D(1, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x) * x)
    return keras.Model(inputs, layers.Activation("sigmoid", name="output")(x))
"""


def own_network(folder, body):
    """Run folder of a user's network with a layer whose `call` returns `body`."""
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "mine.py").write_text(OWN_LAYERS.format(body=body))
    models.find_network.cache_clear()
    model = with_random_weights(models.build_model(str(folder / "code" / "mine.py"), (40, 40, 1)))
    run = make_run(folder, model)
    (run / "settings.json").write_text(json.dumps({"MODEL": "mine.py"}))
    trust.trust([folder / "code" / "mine.py"])
    return run


@on_tensorflow
@pytest.mark.parametrize("kind", ["mlmodel", "mlpackage"])
def test_own_layer_of_convertible_operations(tmp_path, convert, kind):
    spec = convert(own_network(tmp_path / "run", "x * ops.sigmoid(ops.maximum(x, 0.1)) + ops.tanh(x)"), FORMAT=kind)
    assert spec.description.metadata.userDefined["network"] == "mine.py"


@on_tensorflow
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "ops.gelu(x, approximate=False)",
            r"no operation Erfc?, used by layer my_gate \(Gate\); write the tanh form",
        ),
        ("ops.arctan2(x, 2.0)", r"no operation Atan2, used by layer my_gate \(Gate\); write keras.ops.arctan"),
        ("ops.image.resize(x, (40, 40), 'bicubic') + x", "my_gate"),
    ],
)
def test_own_layer_that_does_not_convert_is_named_with_what_to_write(tmp_path, convert, body, message):
    run = own_network(tmp_path / "run", body)
    with pytest.raises(InputError, match=message):
        convert(run)
    assert not list(run.glob("*.ml*"))


# --- bad input


@pytest.fixture(scope="module")
def good_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "good", small_network())


@pytest.mark.parametrize(
    "arguments, message, status",
    [
        ([], "RUN: not set", 1),
        (["--run", "{tmp}/gone"], "gone: does not exist", 1),
        (["--run", "{tmp}/empty"], "no trained model", 1),
        (["--run", "{tmp}/text.keras"], "text.keras: damaged", 1),
        (["--run", "{tmp}/text.txt"], ": not a .keras file", 1),
        (["--run", "{run}", "--weights-file", "best_iou"], "no best_iou.keras (found best_dice", 1),
        (["--run", "{run}", "--output", "{tmp}/out.mlpackage"], "does not end in .mlmodel", 1),
        (["--run", "{run}", "--output", "{tmp}/there.mlmodel"], "there.mlmodel: already exists", 1),
        (["--run", "{tmp}/torn"], "settings.json: damaged", 1),
        (["--run", "{tmp}/short"], "training_log.csv: damaged, or without epoch 2", 1),
        (["--run", "{run}", "--weights-file", "best"], "WEIGHTS_FILE: expected 'best_dice', 'best_iou' or 'last'", 2),
        (["--run", "{run}", "--format", "onnx"], "FORMAT: expected 'mlmodel' or 'mlpackage' (found 'onnx')", 2),
        (["--run", "{run}", "--input-kind", "rgb"], "INPUT_KIND: expected 'array' or 'image' (found 'rgb')", 2),
        (["--run", "{run}", "--window", "[200, -200]"], "(found [200, -200])", 2),
        (["--run", "{run}", "--checked", "0"], "CHECKED: expected", 2),
        (["--run", "{run}", "--threshold", "1.0"], "THRESHOLD: expected", 2),
        (["--run", "{run}", "--compression", "zip"], "COMPRESSION: expected 'float32', ", 2),
    ],
)
def test_bad_settings_end_in_one_message(tmp_path, good_run, arguments, message, status):
    (tmp_path / "empty").mkdir()
    for name in ("text.keras", "text.txt", "there.mlmodel"):
        (tmp_path / name).write_text("no model")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "best_dice.keras").write_bytes((good_run / "best_dice.keras").read_bytes())
    (tmp_path / "torn" / "settings.json").write_text("[1, 2")
    shutil.copytree(good_run, tmp_path / "short")
    (tmp_path / "short" / "training_log.csv").write_text("epoch,val_dice\n1,0.5\n")
    before = {path: path.stat().st_mtime_ns for path in (*tmp_path.rglob("*"), *good_run.rglob("*"))}
    flags = [word.format(tmp=tmp_path, run=good_run) for word in arguments]
    done = run_here("convert_coreml.py", *flags, expect=status)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert {path: path.stat().st_mtime_ns for path in (*tmp_path.rglob("*"), *good_run.rglob("*"))} == before


def test_damaged_archive_is_named(tmp_path, good_run):
    content = bytearray((good_run / "best_dice.keras").read_bytes())
    start = content.index(b"config.json") + 40
    content[start : start + 20] = b"x" * 20
    (tmp_path / "model.keras").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.keras: cannot be loaded"):
        load_network(model_file(tmp_path / "model.keras"))
