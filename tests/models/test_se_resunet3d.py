"""The 3-D network: its sizes, its layers, and that it learns."""

import keras
import numpy as np
import pytest
import SimpleITK as sitk
from by_heart import learn_by_heart
from drawings import draw_case
from keras import ops
from running import TINY_SE_RESUNET3D

from common.training.optimizer import compile_network
from common.training.trained_models import load_network
from losses import get_loss
from models import build_model
from models.layers import PlanarConv3D
from models.se_resunet3d import with_region


@pytest.fixture(scope="module")
def network():
    return build_model("se_resunet3d", (None, None, None, 2), 3, **TINY_SE_RESUNET3D)


def test_parameters_are_as_documented():
    assert build_model("se_resunet3d", (None, None, None, 1)).count_params() == 7_911_563


@pytest.mark.parametrize("axis", range(3))
def test_the_output_has_the_size_of_the_input(network, axis):
    for side in range(17, 41):
        size = [18, 19, 17]
        size[axis] = side
        assert network.predict_on_batch(np.zeros((1, *size, 2), np.float32)).shape == (1, *size, 3)


def test_levels_are_those_of_the_paper():
    """Three levels of 64, 128 and 256 channels below one of 32; squeezed to a sixteenth."""
    model = build_model("se_resunet3d", (None, None, None, 1))
    widths = {layer.name: layer.output.shape[-1] for layer in model.layers}
    assert [widths[f"down{level}_add"] for level in (1, 2, 3)] == [64, 128, 256]
    assert widths["first_relu"] == 32 and widths["down3_narrow"] == 16 and widths["output"] == 1
    deeper = build_model("se_resunet3d", (None, None, None, 1), depth=4)
    assert deeper.get_layer("down4_add").output.shape[-1] == 512
    plain = build_model("se_resunet3d", (None, None, None, 1), squeeze=False)
    dense = sum(layer.count_params() for layer in model.layers if layer.name.endswith(("_narrow", "_excite")))
    assert model.count_params() - plain.count_params() == dense > 0
    with pytest.raises(ValueError, match="ratio >= 1"):
        build_model("se_resunet3d", (None, None, None, 1), ratio=0)
    with pytest.raises(ValueError, match="not for slices"):
        build_model("se_resunet3d", (64, 64, 1))
    with pytest.raises(ValueError, match="not for volumes; choose se_resunet3d or unet3d"):
        build_model("unet", (None, None, None, 1))


def test_thick_slices_are_pooled_within_first():
    thick = build_model("se_resunet3d", (None, None, None, 1), spacing=(4, 1, 1), **TINY_SE_RESUNET3D | {"depth": 3})
    assert [thick.get_layer(f"pool{level}").pool_size for level in (1, 2, 3)] == [(1, 2, 2), (1, 2, 2), (2, 2, 2)]
    thick.run_eagerly = True
    for size in ((1, 17, 30), (5, 16, 16)):
        assert thick.predict_on_batch(np.zeros((1, *size, 1), np.float32)).shape == (1, *size, 1)
    with pytest.raises(ValueError, match=r"expected three numbers above 0 .* for spacing"):
        build_model("se_resunet3d", (None, None, None, 1), spacing=(1, 1))


@pytest.mark.parametrize("has_onednn", ["0", "1"])
def test_planar_convolution_is_the_convolution(has_onednn, monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", has_onednn)
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 7, 3)).astype(np.float32)
    ours, theirs = (kind(4, 3, padding="same", use_bias=False) for kind in (PlanarConv3D, keras.layers.Conv3D))
    theirs(x), ours(x)
    ours.set_weights(theirs.get_weights())
    assert np.allclose(*(ops.convert_to_numpy(layer(x)) for layer in (ours, theirs)), atol=1e-5)


def test_a_saved_network_gives_the_same(network, tmp_path):
    network.save(tmp_path / "n.keras")
    x = np.random.default_rng(0).normal(size=(1, 19, 22, 17, 2)).astype(np.float32)
    assert np.array_equal(*(n.predict_on_batch(x) for n in (network, load_network(tmp_path / "n.keras"))))


@pytest.mark.slow
def test_it_learns_two_cases_by_heart():
    keras.utils.set_random_seed(1)
    model = build_model("se_resunet3d", (None, None, None, 1), 2, features=4, depth=1, ratio=2, noise=0)
    model.compile(keras.optimizers.Adam(0.006), get_loss("bce+dice", 2, axes=3), jit_compile=False)
    cases = [map(sitk.GetArrayFromImage, draw_case(seed, (22, 20, 16))) for seed in (1, 2)]
    images, labels = zip(*cases, strict=True)
    x, y = np.stack(images)[..., None] / np.float32(250) - 1, np.stack(labels)[..., None]
    learn_by_heart(model, x, y)


# --- the region output and thresholded probabilities


def test_probabilities_of_half_and_less_are_cut_off(tmp_path):
    settings = TINY_SE_RESUNET3D | {"last_relu": True}
    cut = build_model("se_resunet3d", (None, None, None, 1), 2, **settings)
    usual = build_model("se_resunet3d", (None, None, None, 1), 2, **TINY_SE_RESUNET3D)
    usual.set_weights(cut.get_weights())
    x = np.random.default_rng(0).normal(size=(1, 12, 14, 10, 1)).astype(np.float32)
    found, whole = (n.predict_on_batch(x) for n in (cut, usual))
    assert ((whole > 0.5).any()) and (whole < 0.5).any()
    np.testing.assert_array_equal(found, np.where(whole > 0.5, whole, 0))
    cut.save(tmp_path / "n.keras")
    np.testing.assert_array_equal(load_network(tmp_path / "n.keras").predict_on_batch(x), found)


@pytest.fixture
def two_headed():
    keras.utils.set_random_seed(0)
    return build_model("se_resunet3d", (None, None, None, 1), 2, features=2, depth=2, ratio=2, roi=True)


def test_the_region_at_the_lowest_level_is_part_of_the_loss_of_training(two_headed, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1, 9, 16, 13, 1)).astype(np.float32), np.zeros((1, 9, 16, 13, 1), np.uint8)
    y[0, 1:4, 3:6, 9:12] = 2
    y[0, 8, 15, 0] = 1
    compile_network(two_headed, {"name": "sgd"}, 0.0, "smooth_dice", jit=False)
    two_headed.get_layer("noise").stddev = 0.0
    two_headed.run_eagerly = True
    heads = keras.Model(two_headed.inputs, [two_headed.get_layer("output").output, two_headed.get_layer("roi").output])
    output, logits = map(ops.convert_to_numpy, heads([x]))
    assert logits.shape == (1, 3, 4, 4, 1)
    truth = np.zeros(logits.shape)
    padded = np.pad(y, ((0, 0), (1, 2), (0, 0), (1, 2), (0, 0)))  # as pooling with the padding "same" does
    for place in np.ndindex(3, 4, 4):
        block = tuple(slice(4 * n, 4 * n + 4) for n in place)
        truth[(0, *place)] = padded[0][block].any()
    region = 1 / (1 + np.exp(-logits))
    expected = 1 - (2 * (truth * region).sum() + 1) / (truth.sum() + region.sum() + 1)
    own = float(get_loss("smooth_dice", 2, axes=3)(y, output))
    assert float(two_headed.train_on_batch(x, y)[0]) == pytest.approx(own + expected, rel=1e-5)
    assert float(two_headed.test_on_batch(x, y)[0]) == pytest.approx(own, rel=1e-5)
    two_headed.save(tmp_path / "n.keras")
    both = with_region(load_network(tmp_path / "n.keras"))
    found = both.predict_on_batch(x)
    assert np.allclose(found[..., :2], output, atol=1e-6)
    enlarged = np.kron(region[0, ..., 0], np.ones((4, 4, 4)))[:9, :16, :13]
    assert np.allclose(found[0, ..., 2], enlarged, atol=1e-6)


def test_a_network_without_it_has_no_region(network):
    assert with_region(network) is None
