"""The plain 3-D U-net: kernels by spacing, sizes, deep supervision, and that it learns."""

import keras
import numpy as np
import pytest
from by_heart import learn_by_heart
from keras import ops

from common.training.callbacks import copy_model, copy_state
from common.training.optimizer import compile_network
from common.training.trained_models import load_network
from losses import get_loss
from models import build_model
from models.layers import PlanarConv3D
from models.unet3d import find_levels, middles

ANY = (None, None, None, 1)
DEEP = {"features": 2, "size": (8, 32, 32), "spacing": (5, 1, 1)}  # strides 1 2 2, 1 2 2, 2 1 1


@pytest.mark.parametrize(
    ("spacing", "size", "strides", "planar"),
    [
        ((1, 1, 1), (128, 128, 128), [(2, 2, 2)] * 5, 0),
        ((1, 0.77, 0.77), (128, 128, 128), [(2, 2, 2)] * 5, 0),  # nnU-Net's plans: liver, heart (ACDC), prostate
        ((5, 1.56, 1.56), (20, 256, 224), [(1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2)], 1),
        ((3.6, 0.62, 0.62), (20, 320, 256), [(1, 2, 2)] * 2 + [(2, 2, 2)] * 2 + [(1, 2, 2)] * 2, 2),
        ((2, 1, 1), (32, 32, 32), [(1, 2, 2), (2, 2, 2), (2, 2, 2)], 1),  # twice is coarse
        ((1.99, 1, 1), (32, 32, 32), [(2, 2, 2)] * 3, 0),
        ((1, 1, 1), (7, 7, 11), [], 0),
        ((1, 1, 1), (7, 7, 12), [(1, 1, 2)], 0),
    ],
)
def test_kernels_and_pooling_are_those_of_nnunet(spacing, size, strides, planar):
    kernels, found = find_levels(spacing, size, 8)
    assert found == strides
    assert kernels == [(1, 3, 3)] * planar + [(3, 3, 3)] * (len(strides) + 1 - planar)
    model = build_model("unet3d", ANY, features=1, spacing=spacing, size=size, depth=8)
    pools = [layer.pool_size for layer in model.layers if layer.name.startswith("pool")]
    assert [tuple(pool) for pool in pools] == strides
    assert model.get_layer("down0_conv1" if strides else "bottom_conv1").kernel_size == kernels[0]


def test_parameters_are_as_documented():
    model = build_model("unet3d", ANY)
    assert model.count_params() == 31_189_828
    widths = {layer.name: layer.output.shape[-1] for layer in model.layers}
    assert [widths[f"down{level}_relu2"] for level in range(5)] == [32, 64, 128, 256, 320]
    plain = build_model("unet3d", ANY, deep_supervision=False)
    assert model.count_params() - plain.count_params() == sum(n + 1 for n in (64, 128, 256))


def test_the_output_has_the_size_of_the_input():
    network = build_model("unet3d", (None, None, None, 2), 3, **DEEP)
    network.run_eagerly = True
    for size in ((1, 19, 17), (6, 1, 32), (3, 17, 2), (8, 33, 31)):
        output = network.predict_on_batch(np.ones((1, *size, 2), np.float32))
        assert output.shape == (1, *size, 3) and np.isfinite(output).all()


def test_wrong_settings_are_refused():
    for words, settings in (
        ("expected three numbers above 0 .* for spacing", {"spacing": (0, 1, 1)}),
        ("expected three numbers above 0 .* for size", {"size": (32, 32)}),
        ("features <= 320", {"features": 321}),
        ("depth <= 8", {"depth": 9}),
        ("expected True or False for deep_supervision", {"deep_supervision": 1}),
    ):
        with pytest.raises(ValueError, match=words):
            build_model("unet3d", ANY, **settings)


@pytest.mark.parametrize("kernel", [(1, 3, 3), (3, 1, 3), (3, 3, 3), (1, 1, 3)])
def test_planar_convolution_is_the_convolution(kernel, monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 7, 3)).astype(np.float32)
    ours, theirs = (kind(4, kernel, padding="same", use_bias=False) for kind in (PlanarConv3D, keras.layers.Conv3D))
    theirs(x), ours(x)
    ours.set_weights(theirs.get_weights())
    assert np.allclose(*(ops.convert_to_numpy(layer(x)) for layer in (ours, theirs)), atol=1e-5)


# --- deep supervision


def test_targets_of_lower_levels_are_at_the_middle_of_their_blocks():
    y = np.arange(7 * 6 * 5).reshape(1, 7, 6, 5, 1)
    found = ops.convert_to_numpy(middles(y, [4, 2, 1]))
    assert np.array_equal(found, y[:, [2, 6]][:, :, [1, 3, 5]])  # the last block of an odd side is cut


@pytest.fixture
def deep():
    keras.utils.set_random_seed(0)
    return build_model("unet3d", ANY, 2, **DEEP)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(1, 7, 17, 18, 1)).astype(np.float32), rng.integers(0, 3, (1, 7, 17, 18, 1)).astype(np.uint8)


def test_the_loss_of_training_is_the_weighted_mean_over_the_levels(deep, batch):
    x, y = batch
    compile_network(deep, {"name": "sgd"}, 0.0, "bce+dice", jit=False)
    deep.run_eagerly = True
    lower = keras.Model(deep.inputs, [deep.get_layer("output").output, deep.get_layer("logits1").output])
    output, logits = map(ops.convert_to_numpy, lower([x]))
    assert logits.shape == (1, 7, 9, 9, 2)
    loss = get_loss("bce+dice", 2, axes=3)
    pooled = y[:, :, [*range(1, 17, 2), 16]][:, :, :, 1::2]
    own, of_lower = float(loss(y, output)), float(loss(pooled, 1 / (1 + np.exp(-logits))))
    assert float(deep.train_on_batch(x, y)[0]) == pytest.approx((own + of_lower / 2) / 1.5, rel=1e-5)
    assert float(deep.test_on_batch(x, y)[0]) == pytest.approx(own, rel=1e-5)


def test_a_supervised_model_is_saved_copied_and_resumed(deep, batch, tmp_path):
    compile_network(deep, {"name": "adam"}, 1e-3, "bce+dice", jit=False)
    deep.run_eagerly = True
    before = deep.get_layer("logits1").get_weights()[0]
    deep.train_on_batch(*batch)
    assert not np.array_equal(before, deep.get_layer("logits1").get_weights()[0])
    copy = copy_model(deep)
    assert copy is not deep and type(copy) is type(deep)
    copy_state(deep, copy)
    copy.save(tmp_path / "n.keras")
    used = load_network(tmp_path / "n.keras")
    used.run_eagerly = True
    assert used.output_shape == (None, None, None, None, 2)
    assert np.array_equal(*(n.predict_on_batch(batch[0]) for n in (deep, used)))
    resumed = keras.saving.load_model(tmp_path / "n.keras", safe_mode=True)
    resumed.run_eagerly = True
    assert np.allclose(*(n.train_on_batch(*batch) for n in (deep, resumed)), equal_nan=True)


@pytest.mark.slow
def test_it_learns_two_cases_by_heart():
    keras.utils.set_random_seed(1)
    model = build_model("unet3d", ANY, features=4, size=(16, 20, 20), spacing=(2.5, 1, 1))
    compile_network(model, {"name": "adam"}, 0.006, "bce+dice", jit=False)
    z, y, x = np.indices((16, 20, 20))
    masks = [(z - 8) ** 2 * 4 + (y - a) ** 2 + (x - b) ** 2 < 30 for a, b in ((8, 12), (12, 8))]
    labels = np.stack(masks)[..., None].astype(np.uint8)
    images = labels * np.float32(1.5) + np.random.default_rng(0).normal(size=labels.shape).astype(np.float32)
    learn_by_heart(model, images, labels)
