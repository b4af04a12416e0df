"""Networks for volumes in Core ML: converted at one size, executed from the file, and compared with Keras."""

import json

import keras
import numpy as np
import pytest
from running import assert_refused, run_here

from coreml.reader import read_model
from coreml.volumes import InstanceNormalization
from models import build_model

ct = pytest.importorskip("coremltools")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="coremltools reads TensorFlow only")
SCRIPT = "convert_coreml.py"
PACKAGE = {"FORMAT": "mlpackage", "VOLUME_SIZE": [16, 24, 19], "CHECKED": 1}
SMALL = {
    "se_resunet3d": {"features": 2, "depth": 2, "ratio": 2},
    "unet3d": {"features": 2, "depth": 2, "spacing": [3.0, 1.0, 1.0], "size": [16, 24, 19]},
}


def save(path, name, classes=2):
    keras.utils.set_random_seed(0)
    network = build_model(name, (None, None, None, 2), classes, **SMALL[name])
    network.set_weights(
        [weight + 0.1 * np.random.default_rng(0).normal(size=weight.shape) for weight in network.get_weights()]
    )
    network.save(path)
    return network


OPERATIONS = {
    "mlpackage": {"conv", "conv_transpose", "max_pool"},
    "mlmodel": {"convolution3d", "pooling3d", "reduceMean"},
}


@pytest.mark.parametrize("kind", OPERATIONS)
@pytest.mark.parametrize("name", SMALL)
def test_a_network_for_volumes_is_converted_at_one_size(tmp_path, name, kind):
    network = save(tmp_path / "net.keras", name)
    said = run_here(SCRIPT, RUN=tmp_path / "net.keras", **PACKAGE | {"FORMAT": kind}).stdout
    assert "check   1 volume; largest difference" in said and "changed voxels: " in said
    assert "checking on 1 drawn volume" in said and "wrote" in said and "layers: " in said
    model = read_model(tmp_path / f"net.{kind}")
    assert [feature.shape for feature in (*model.inputs, *model.outputs)] == [(2, 16, 24, 19), (2, 16, 24, 19)]
    assert OPERATIONS[kind] <= {operation.type for operation in model.operations}
    x = np.random.default_rng(1).normal(size=(16, 24, 19, 2)).astype(np.float32)
    found = model.run({"input": np.moveaxis(x, -1, 0)})["output"]
    expected = network.predict_on_batch(x[None])[0]
    assert expected.std() > 0.01 and np.abs(np.moveaxis(found, 0, -1) - expected).max() < 1e-5
    description = ct.utils.load_spec(str(tmp_path / f"net.{kind}")).description
    assert description.input[0].shortDescription == "volume, standardized as in training, channels: 2"
    assert "16x24x19" in description.metadata.shortDescription
    card = json.loads((tmp_path / "net_card.json").read_text())
    assert card["Model"]["Model properties"]["Output"]["Description"] == "mask of 16x24x19 voxels, classes: 2"


def test_what_volumes_cannot_have_is_refused_in_one_line(tmp_path):
    save(tmp_path / "net.keras", "se_resunet3d", 1)
    run = {"RUN": tmp_path / "net.keras"}
    assert_refused(SCRIPT, "VOLUME_SIZE: not set, and the run has no CROP", "--volume-size", **run)
    for setting, value, use in (
        ("INPUT_KIND", "image", "array"),
        ("OUTPUT_KIND", "classes", "probabilities"),
    ):
        words = f"{setting}: {value!r} is for slices", f"use --{setting.lower().replace('_', '-')} {use}"
        assert_refused(SCRIPT, *words, **run, **PACKAGE | {setting: value})
    assert [path.name for path in tmp_path.iterdir()] == ["net.keras"]


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}])
def test_normalization_on_five_axes_is_the_one_of_keras(options):
    x = np.random.default_rng(0).normal(3, 2, (2, 4, 5, 6, 3)).astype(np.float32)
    ours, theirs = InstanceNormalization(groups=-1, **options), keras.layers.GroupNormalization(groups=-1, **options)
    assert np.allclose(ours(x), theirs(x), atol=1e-5) and np.std(ours(x)) == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize(("kind", "share", "limit"), [("float16", 0.55, 2e-3), ("linear8", 0.35, 2e-2)])
def test_weights_of_volumes_become_smaller(tmp_path, kind, share, limit):
    keras.utils.set_random_seed(0)
    network = build_model("unet3d", (None, None, None, 2), 2, features=32, depth=1, size=[8, 8, 8])
    assert any("up" in layer.name and layer.weights[0].shape[-1] >= 32 for layer in network.layers if layer.weights)
    network.save(tmp_path / "net.keras")
    for compression in ("float32", kind):
        file = tmp_path / f"{compression}.mlmodel"
        settings = {"OUTPUT": file, "COMPRESSION": compression, "VOLUME_SIZE": [8, 8, 8], "CHECKED": 1}
        run_here(SCRIPT, RUN=tmp_path / "net.keras", LEAST_DICE=0.95, **settings)
    whole, small = (tmp_path / f"{name}.mlmodel" for name in ("float32", kind))
    assert small.stat().st_size < share * whole.stat().st_size
    x = {"input": np.random.default_rng(1).normal(size=(2, 8, 8, 8)).astype(np.float32)}
    difference = np.abs(read_model(small).run(x)["output"] - read_model(whole).run(x)["output"])
    assert 0 < difference.max() < limit
