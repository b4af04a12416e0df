"""convert_coreml.py: what it writes, read back through coremltools, and what it says of bad input."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import convert_coreml
import models
from common.coreml.export import layer_kinds
from common.errors import InputError
from common.runs import load_network, model_file
from models.unet import build_model

ct = pytest.importorskip("coremltools")
on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="coremltools reads TensorFlow only")
DOUBLE = ct.proto.FeatureTypes_pb2.ArrayFeatureType.DOUBLE
FLOAT32 = ct.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT32
SETTINGS = {"MODEL": "unet", "MODEL_SETTINGS": {"features": 4, "depth": 2}, "LOSS": "mse+dice", "VALIDATION": "gone.h5"}
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
    (folder / "settings.json").write_text(json.dumps(SETTINGS))
    (folder / "state.json").write_text(json.dumps(state))
    return folder


@pytest.fixture
def convert(monkeypatch):
    """Run the script in this process under settings and read back what it wrote."""
    for name in ("KERAS_BACKEND", "CUDA_VISIBLE_DEVICES", "TQDM_DISABLE", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # what the script sets is put back after the test
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")

    def run(run_folder, **settings):
        for name, value in {"RUN": str(run_folder), **settings}.items():
            monkeypatch.setattr(convert_coreml, name, value)
        _, paths = convert_coreml.check_settings()
        convert_coreml.main()
        return ct.utils.load_spec(str(next(iter(paths.values()))))

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
    done = script("--run", run, "--author", "A. Author", "--licence", "MIT", backend="jax")
    assert (done.returncode, done.stderr) == (0, "")
    output = run / "20250102-030405_unet.mlmodel"
    assert done.stdout.strip().splitlines()[-1].startswith(f"wrote {output}, float32 weights, ")
    assert "\nchecking on 8 drawn pictures, since the validation set of the run, gone.h5, is not here" in done.stdout
    assert "input   array of (1, 40, 40), DOUBLE\noutput  array of (1, 40, 40), DOUBLE\n" in done.stdout
    assert sorted(path.name for path in run.iterdir()) == sorted(
        ["best_dice.keras", "settings.json", "state.json", output.name]
    )

    spec = ct.utils.load_spec(str(output))
    assert spec.WhichOneof("Type") == "neuralNetwork"
    assert [array(end) for end in spec.description.input] == [("input", (1, 40, 40), DOUBLE)]
    assert [array(end) for end in spec.description.output] == [("output", (1, 40, 40), DOUBLE)]
    kinds = set(layer_kinds(spec))
    assert kinds == {"convolution", "activation", "pooling", "concat", "expandDims", "squeeze"}

    metadata = spec.description.metadata
    assert (metadata.author, metadata.license) == ("A. Author", "MIT")
    assert metadata.shortDescription == "unet, 40x40, classes: 1"
    assert spec.description.input[0].shortDescription == "slice, grey values divided by 255"
    assert spec.description.output[0].shortDescription == "probability of the mask, 0..1"
    facts = {key: value for key, value in metadata.userDefined.items() if not key.startswith("com.")}
    assert json.loads(facts.pop("settings")) == SETTINGS
    assert facts == {
        "network": "unet",
        "run": run.name,
        "weights": "best_dice.keras",
        "compression": "float32",
        "threshold": "0.5",
        "score": "0.75",
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
    kinds = layer_kinds(spec)
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
    assert set(layer_kinds(spec)) == {"expand_dims", "conv", "relu", "sigmoid", "squeeze"}


@on_tensorflow
@pytest.mark.parametrize("kind", ["mlmodel", "mlpackage"])
@pytest.mark.parametrize(
    ("name", "side", "settings"),
    [
        ("cvnet_synapse", 72, {"width": 0.1}),
        ("cvnet_synapse_512", 128, {"width": 0.1}),
        ("deeplab_v3plus", 40, {"backbone": "mobilenetv2", "alpha": 0.35}),
    ],
)
def test_every_network_converts(tmp_path, convert, name, side, settings, kind):
    """Into layers that the viewer has: the own ones have become ordinary multiplications, additions and sigmoids."""
    model = models.build_model(name, (side, side, 1), **settings)
    spec = convert(make_run(tmp_path / "run", model), FORMAT=kind)
    kinds = layer_kinds(spec)
    assert kinds and not [kind for kind in kinds if "custom" in kind or "random" in kind or "dropout" in kind]


@on_tensorflow
@pytest.mark.parametrize("kind", ["mlmodel", "mlpackage"])
def test_several_classes_are_planes_with_the_background_first(tmp_path, convert, kind):
    spec = convert(make_run(tmp_path / "run", unet(classes=3)), FORMAT=kind)
    assert array(spec.description.output[0])[:2] == ("output", (4, 40, 40))
    assert spec.description.metadata.userDefined["classes"] == "3"
    assert spec.description.output[0].shortDescription == "probability of background and classes, 0..1"


@on_tensorflow
@pytest.mark.parametrize("kind", ["mlmodel", "mlpackage"])
def test_image_input_is_grey_and_scaled_to_one(tmp_path, convert, kind):
    spec = convert(make_run(tmp_path / "run", unet()), FORMAT=kind, INPUT_KIND="image")
    (end,) = spec.description.input
    image = end.type.imageType
    grey = ct.proto.FeatureTypes_pb2.ImageFeatureType.GRAYSCALE
    assert (end.name, image.height, image.width, image.colorSpace) == ("input", 40, 40, grey)
    if kind == "mlmodel":
        (step,) = spec.neuralNetwork.preprocessing
        assert step.featureName == "input"
        assert step.scaler.channelScale == pytest.approx(1 / 255)
        assert step.scaler.grayBias == 0
    else:
        assert layer_kinds(spec)["mul"] == 1
    assert array(spec.description.output[0])[:2] == ("output", (1, 40, 40))


@on_tensorflow
def test_noise_layers_are_gone_and_channels_are_planes(tmp_path, convert):
    noise = layers.GaussianNoise(0.1), layers.GaussianDropout(0.2), layers.SpatialDropout2D(0.2)
    run = make_run(tmp_path / "run", small_network(*noise, shape=(40, 48, 2)))
    spec = convert(run, DESCRIPTION="mine", INPUT_DESCRIPTION="in", OUTPUT_DESCRIPTION="out")
    assert array(spec.description.input[0]) == ("input", (2, 40, 48), DOUBLE)
    assert array(spec.description.output[0]) == ("output", (1, 40, 48), DOUBLE)
    assert set(layer_kinds(spec)) == {"expandDims", "convolution", "activation", "squeeze"}
    ends = spec.description.input[0], spec.description.output[0]
    assert spec.description.metadata.shortDescription == "mine"
    assert [end.shortDescription for end in ends] == ["in", "out"]
    with pytest.raises(InputError, match="takes 2 channels"):
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


# --- bad input


@pytest.fixture(scope="module")
def good_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "good", small_network())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "RUN is not set"),
        (["--run", "{tmp}/gone"], "gone does not exist"),
        (["--run", "{tmp}/empty"], "is no run folder"),
        (["--run", "{tmp}/text.keras"], "text.keras is damaged"),
        (["--run", "{tmp}/text.txt"], "is no .keras file"),
        (["--run", "{run}", "--weights-file", "best_iou"], "holds no best_iou.keras; it has best_dice"),
        (["--run", "{run}", "--weights-file", "best"], "WEIGHTS_FILE is 'best'"),
        (["--run", "{run}", "--format", "onnx"], "FORMAT is 'onnx'"),
        (["--run", "{run}", "--input-kind", "rgb"], "INPUT_KIND is 'rgb'"),
        (["--run", "{run}", "--output", "{tmp}/out.mlpackage"], "does not end in .mlmodel"),
        (["--run", "{run}", "--output", "{tmp}/there.mlmodel"], "there.mlmodel exists"),
        (["--run", "{tmp}/torn"], "settings.json is damaged"),
    ],
)
def test_bad_settings_end_in_one_message(tmp_path, good_run, arguments, message):
    (tmp_path / "empty").mkdir()
    for name in ("text.keras", "text.txt", "there.mlmodel"):
        (tmp_path / name).write_text("no model")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "best_dice.keras").write_bytes((good_run / "best_dice.keras").read_bytes())
    (tmp_path / "torn" / "settings.json").write_text("[1, 2")
    before = {path: path.stat().st_mtime_ns for path in (*tmp_path.rglob("*"), *good_run.rglob("*"))}
    done = script(*(argument.format(tmp=tmp_path, run=good_run) for argument in arguments))
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert {path: path.stat().st_mtime_ns for path in (*tmp_path.rglob("*"), *good_run.rglob("*"))} == before


def test_damaged_archive_is_named(tmp_path, good_run):
    content = bytearray((good_run / "best_dice.keras").read_bytes())
    start = content.index(b"config.json") + 40
    content[start : start + 20] = b"x" * 20
    (tmp_path / "model.keras").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.keras cannot be loaded"):
        load_network(model_file(tmp_path / "model.keras"))
