"""Networks: the counts of the table, sizes, outputs, learning, and files of one's own."""

import inspect
import itertools
import math
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from drawings import code_block, disc_slice
from hypothesis import given
from hypothesis import strategies as st
from running import ROOT

import models
from common import devices
from common.setting_types import MODEL_SETTINGS
from losses import SERIES, TERMS, follow_steps, get_loss
from models import build_model, extra_layers, layers
from models.cvnet_synapse import bottom_kernels

# A small form of every network: name, side of its images, settings.
SMALL = {
    "unet": ("unet", 24, {"features": 4, "depth": 2}),
    "one level": ("unet", 24, {"features": 4, "depth": 1}),  # for the losses, which see its output only
    "crop_classifier": ("crop_classifier", 24, {"features": 4, "depth": 2}),
    "cvnet_synapse": ("cvnet_synapse", 72, {"width": 0.1}),
    "cvnet_synapse_512": ("cvnet_synapse_512", 128, {"width": 0.1}),
    "mobilenetv2": ("deeplab_v3plus", 40, {"backbone": "mobilenetv2", "alpha": 0.35}),
    "xception": ("deeplab_v3plus", 32, {}),
}
LARGE = {"cvnet_synapse", "cvnet_synapse_512", "mobilenetv2", "xception", "deeplab_v3plus"}
SIMILAR = {"iou", "smooth_dice", "tversky", "focal_tversky", "series+dice", "log_cosh", "focal", "constrained_focal"}
VOLUMES = (None, None, None, 1)


def networks(*rows):
    """Parameters of a test: those of large networks, and of losses like others, are slow."""
    return [pytest.param(*row, marks=pytest.mark.slow if {*row[:2]} & (LARGE | SIMILAR) else ()) for row in rows]


def small(key, classes=1):
    name, side, settings = SMALL[key]
    return build_model(name, (side, side, 1), classes, **settings)


def discs(side, count):
    pairs = [disc_slice(side, seed) for seed in range(count)]
    x = np.stack([image for image, _ in pairs])[..., None].astype(np.float32) / 255
    return x, (np.stack([mask for _, mask in pairs])[..., None] > 0).astype(np.uint8)


@pytest.fixture
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


def counts(model):
    return model.count_params(), sum(int(np.prod(v.shape)) for v in model.trainable_variables)


@pytest.mark.parametrize(
    ("name", "side", "settings", "parameters", "trainable"),
    networks(
        ("unet", 200, {}, 31_054_145, 31_042_369),
        ("cvnet_synapse", 200, {}, 26_118_252, 26_105_596),
        ("cvnet_synapse_512", 512, {}, 47_196_340, 47_183_588),
        ("deeplab_v3plus", 200, {"backbone": "xception", "output_stride": 16}, 41_252_497, 41_049_697),
        ("deeplab_v3plus", 200, {"backbone": "xception", "output_stride": 8}, 41_252_497, 41_049_697),
        ("deeplab_v3plus", 200, {"backbone": "mobilenetv2"}, 2_140_929, None),
    ),
)
def test_networks_have_the_published_number_of_parameters(name, side, settings, parameters, trainable):
    model = build_model(name, (side, side, 1), **settings)
    assert counts(model)[0] == parameters
    assert trainable is None or counts(model)[1] == trainable
    assert model.output_shape == (None, side, side, 1)


@pytest.mark.parametrize(
    ("key", "classes"),
    networks(
        *((key, 1) for key in SMALL if key != "one level"),
        *((key, 3) for key in SMALL if key not in ("xception", "one level")),
    ),
)
def test_every_network_gives_probabilities_and_survives_saving(tmp_path, key, classes):
    model = small(key, classes)
    x = np.random.default_rng(0).random((2, *model.input_shape[1:]), np.float32)
    p = model.predict(x, verbose=0)
    assert p.shape == (*x.shape[:3], 1 if classes == 1 else 4) and p.dtype == np.float32
    assert np.isfinite(p).all() and p.min() >= 0 and p.max() <= 1
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(*(keras.ops.convert_to_numpy(network(x, training=False)) for network in (model, copy)))


@pytest.mark.parametrize(
    ("key", "loss", "policy"),
    networks(
        *((key, "mse+dice", "float32") for key in ("unet", "mobilenetv2")),
        *((key, "hausdorff+dice", "mixed_bfloat16") for key in ("unet", "cvnet_synapse")),
        *(("one level", loss, "float32") for loss in [*TERMS, "series+dice"] if loss not in ("cce", *SERIES)),
        *(
            ("one level", loss, "mixed_bfloat16") for loss in SERIES[::2]
        ),  # all, and all networks: tests/benchmarks/learning.py
        *(("one level", loss, "mixed_float16") for loss in SERIES[1::2]),
    ),
    indirect=["policy"],
)
def test_twenty_steps_lower_the_loss(key, loss, policy):
    """From nearly empty predictions, since at 0.5 everywhere those of the Hausdorff loss are near the mask by chance.

    Judged on the same batch with normalisation by it, since running means lag behind for longer than that.
    """
    keras.utils.set_random_seed(0)
    model = small(key)
    model.get_layer("logits").bias.assign(model.get_layer("logits").bias - 2)
    x, y = discs(model.input_shape[1], 4)
    judge = get_loss(loss)
    before = float(judge(y, model(x, training=True)))
    model.compile(keras.optimizers.Adam(3e-3), get_loss(loss), jit_compile=devices.usual_jit())
    model.optimizer.build(model.trainable_variables)
    follow_steps(model)
    for _ in range(20):
        assert np.isfinite(model.train_on_batch(x, y))
    assert all(np.isfinite(weights).all() for weights in model.get_weights())
    assert float(judge(y, model(x, training=True))) < before


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("unet", {"features": 2, "depth": 1}),
        ("unet", {"features": 2, "depth": 1, "normalisation": False}),
        ("pretrained_unet", {"features": 2, "encoder_weights": None}),
    ],
)
def test_no_head_is_stuck_below_one_half(name, settings):
    """After a ReLU, a head with negative weights could not pass the probability of its bias, whatever the image."""
    keras.utils.set_random_seed(0)
    model = build_model(name, (32, 32, 1), **settings)
    logits = model.get_layer("logits")
    kernel, bias = logits.get_weights()
    x = discs(32, 4)[0]
    for sign in (-1, 1):
        logits.set_weights([sign * np.abs(kernel) - 1e-3, 0 * bias])
        assert keras.ops.max(model(x)) > 0.5 > keras.ops.min(model(x))


def test_further_options_of_unet():
    options = {"dropout": 0.5, "dropout_levels": 2, "upsampling": "nearest", "initializer": "he_normal", "l2": 0.01}
    model = build_model("unet", (32, 32, 1), features=4, depth=3, **options)
    assert {layer.name for layer in model.layers if "_drop" in layer.name} == {
        *("bottom_drop1", "bottom_drop2", "down2_drop1", "down2_drop2", "up2_drop1", "up2_drop2")
    }
    kernel = model.get_layer("bottom_conv1").kernel
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 16)), rel=0.1)
    kernels = [layer.kernel for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    decayed = [kernel for kernel in kernels if kernel.shape[0] > 1]
    squares = sum(float(keras.ops.sum(kernel**2)) for kernel in decayed)
    assert float(sum(model.losses)) == pytest.approx(0.01 * squares, rel=1e-4)
    assert len(decayed) == 2 * 7 + 3 and model.output_shape == (None, 32, 32, 1)
    with pytest.raises(ValueError, match="expected transposed or nearest or bilinear"):
        build_model("unet", (32, 32, 1), upsampling="cubic")


@pytest.mark.parametrize(("shape", "depth"), [((32, 48), 2), ((21, 30), 1), ((40, 24), 3)])
def test_valid_padding_of_unet(shape, depth):
    """What a network of valid convolutions sees is the image in black, without any other border."""
    options = {"features": 4, "depth": depth, "dropout": 0.0}
    valid = build_model("unet", (*shape, 1), **options, padding="valid")
    assert valid.output_shape == (None, *shape, 1)
    side, margin = 256, 64
    same = build_model("unet", (side, side, 1), **options)
    assert same.count_params() == valid.count_params()
    rng = np.random.default_rng(0)
    same.set_weights([rng.normal(0, 0.2, w.shape) if w.ndim > 1 else w for w in same.get_weights()])
    valid.set_weights(same.get_weights())
    image = rng.random((1, *shape, 1)).astype(np.float32)
    found, differences = keras.ops.convert_to_numpy(valid(image)), []
    for top, left in itertools.product(range(margin, margin + 2**depth), repeat=2):  # where pooling meets the image
        large = np.zeros((1, side, side, 1), np.float32)
        large[:, top : top + shape[0], left : left + shape[1]] = image
        expected = keras.ops.convert_to_numpy(same(large))[:, top : top + shape[0], left : left + shape[1]]
        differences.append(np.abs(found - expected).max())
    assert min(differences) < 1e-5 and np.ptp(found) > 0.01 and max(differences) > 1e-3
    with pytest.raises(ValueError, match="expected padding same or valid"):
        build_model("unet", (32, 32, 1), padding="full")


def test_valid_padding_of_unet_is_as_wide_as_in_the_paper():
    """A bottom of 28 pixels gives 388 of 572; 388 x 388 images then need no cropping."""
    model = build_model("unet", (388, 388, 1), features=1, padding="valid")
    assert model.get_layer("pad").output.shape[1:3] == (572, 572)
    assert "crop" not in {layer.name for layer in model.layers}


@pytest.mark.parametrize(("name", "side"), [("cvnet_synapse", 72), ("cvnet_synapse_512", 128)])
def test_further_options_of_synapse(name, side):
    plain = build_model(name, (side, side, 1), width=0.05)
    options = {"pooling": True, "spatial_dropout": 0.1, "parallel_spatial_dropout": 0.2}
    model = build_model(name, (side, side, 1), width=0.05, **options)
    for level in (1, 2):
        joins = [network.get_layer(f"down{level}_join").output.shape for network in (model, plain)]
        assert joins[0] == joins[1]
    rates = {layer.rate for layer in model.layers if isinstance(layer, keras.layers.SpatialDropout2D)}
    assert rates == {0.1, 0.2} and model.get_layer("down1_pool").pool_size == (2, 2)
    own = keras.layers.MaxPooling2D, keras.layers.SpatialDropout2D
    assert not any(isinstance(layer, own) for layer in plain.layers)
    with pytest.raises(ValueError, match="spatial_dropout=1"):
        build_model(name, (side, side, 1), spatial_dropout=1.0)


# --- sizes


@given(st.integers(1, 1200), st.sampled_from([(4, 8), (5, 0)]))
def test_sizes_of_synapse(side, form):
    """A size fits if the two convolutions at the bottom halve the map; else the nearest that fit stand around it."""
    halvings, border = form
    step = 4 * 2**halvings
    fits = side > border and (side - border) % step == 0
    try:
        (first, _), (second, _) = bottom_kernels("net", (side, side, 1), halvings, border)
    except ValueError as error:
        assert not fits
        below, above = (int(number) for number in str(error).split("are ")[1].split(" and "))
        assert above - below == step and (below - border) % step == 0
        assert below < side < above or side < below == border + step
    else:
        bottom = (side - border) // 2**halvings
        assert fits and first % 2 == second % 2 == 1 and first >= second >= 1
        assert 2 * (bottom - (first - 1) - (second - 1)) == bottom


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("backbone", ["mobilenetv2", "xception"])
def test_deeplab_takes_any_size(backbone, stride):
    model = build_model("deeplab_v3plus", (41, 30, 1), backbone=backbone, output_stride=stride)
    assert model.output_shape == (None, 41, 30, 1)
    last = "exit_block2_sep3_pointwise_relu" if backbone == "xception" else "block16_project_norm"
    assert model.get_layer(last).output.shape[1:3] == (48 // stride, 32 // stride)


def test_deeplab_on_resnet50_refines_a_map_of_a_sixteenth():
    model = build_model("deeplab_v3plus", (41, 30, 1), backbone="resnet50", backbone_weights=None)
    assert model.output_shape == (None, 41, 30, 1)
    assert model.get_layer("conv4_block6_out").output.shape[1:] == (4, 2, 1024)
    assert not any(layer.name.startswith("conv5") for layer in model.layers)
    with pytest.raises(ValueError, match=r"gone\.h5"):
        build_model("deeplab_v3plus", (41, 30, 1), backbone="resnet50", backbone_weights="gone.h5")


def test_recommended_rate_of_sgd_goes_with_the_batch():
    assert models.recommended("cvnet_synapse")["LEARNING_RATE"] == 0.5
    assert models.recommended("cvnet_synapse", 8)["LEARNING_RATE"] == pytest.approx(0.05)
    assert models.recommended("cvnet_synapse_512", 16)["LEARNING_RATE"] == 0.35
    assert models.recommended("unet", 2)["LEARNING_RATE"] == models.recommended("unet")["LEARNING_RATE"]


# --- layers


def value_of(layer, x):
    return keras.ops.convert_to_numpy(layer(x))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ("layer", "formula"),
    [
        (layers.SynapticTransmissionRegulator, lambda x, w, b: w * x + b),
        (layers.ParametricSwish, lambda x, alpha: x * sigmoid((1.5 - 0.5**alpha) * x)),
        (extra_layers.FullSizePReLU, lambda x, alpha: np.maximum(x, 0) - alpha * np.maximum(-x, 0)),
        (extra_layers.Swish, lambda x: x * sigmoid(x)),
        (extra_layers.GELU, lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))),
        (extra_layers.Square, lambda x: x**2),
        (extra_layers.SquareRoot, lambda x: np.sqrt(np.maximum(x, 1e-7))),
    ],
)
def test_layers_follow_their_formulas_and_survive_saving(tmp_path, layer, formula):
    x = np.random.default_rng(0).normal(0, 2, (2, 3, 4, 5)).astype(np.float32)
    made = layer()
    assert np.allclose(value_of(made, x), formula(x, *made.get_weights()), rtol=1e-5, atol=1e-6)
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, layer()(inputs))
    model.save(tmp_path / "layer.keras")
    copy = keras.saving.load_model(tmp_path / "layer.keras")
    assert np.array_equal(copy.predict(x, verbose=0), model.predict(x, verbose=0))


def test_weights_of_the_layers_start_where_they_should():
    x = np.zeros((1, 40, 40, 64), np.float32)
    deviation = np.sqrt(2 / 64)
    for layer, shapes, means in (
        (layers.SynapticTransmissionRegulator(), [(64,), (64,)], [1.2, 0]),
        (layers.ParametricSwish(), [(40, 40, 64)], [1]),
        (extra_layers.FullSizePReLU(), [(40, 40, 64)], [0.2]),
    ):
        layer(x)
        assert [weights.shape for weights in layer.get_weights()] == shapes
        for weights, mean in zip(layer.get_weights(), means, strict=True):
            assert weights.mean() == pytest.approx(mean, abs=0.1) and abs(weights - mean).max() <= 2 * deviation + 1e-5
            assert weights.std() == pytest.approx(0.88 * deviation, rel=0.3)
    regulator = layers.SynapticTransmissionRegulator()
    regulator(x)
    squares = sum(float((weights**2).sum()) for weights in regulator.get_weights())
    assert float(sum(regulator.losses)) == pytest.approx(1e-4 * squares, rel=1e-4)


def test_own_networks_may_import_the_extra_layers_from_where_they_were():
    assert layers.GELU is extra_layers.GELU


def test_elementwise_layers_need_a_fixed_size():
    with pytest.raises(ValueError, match="fixed size"):
        layers.ParametricSwish()(keras.Input((None, None, 3)))


# --- U-net


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
        ("unet", {"features": "a"}, r"expected a whole number for features \(found 'a'\)"),
        ("unet", {"depth": 2.0}, "expected a whole number for depth"),
        ("unet", {"depth": True}, "expected a whole number for depth"),
        ("unet", {"dropout": math.nan}, r"expected a finite number for dropout \(found nan\)"),
        ("unet", {"dropout": 10**400}, "expected a finite number for dropout"),
        ("unet", {"normalisation": 1}, "expected True or False for normalisation"),
        ("unet", {"name": "other"}, "no setting 'name'"),
        ("unet", {"classes": 3}, "no setting 'classes'"),
        ("gone.py", {}, "gone.py: network file does not exist"),
        ("cvnet_synapse", {}, "side of 16; the nearest sizes that fit are 72 and 136"),
        ("cvnet_synapse_512", {}, "side of 16; the nearest sizes that fit are 128 and 256"),
        ("deeplab_v3plus", {"backbone": "resnet"}, "xception"),
        ("deeplab_v3plus", {"output_stride": 4}, "16 or 8"),
        ("deeplab_v3plus", {"output_stride": 8.0}, "16 or 8"),
        ("deeplab_v3plus", {"alpha": 0.5}, "mobilenetv2"),
        ("deeplab_v3plus", {"backbone": "resnet50", "output_stride": 8}, "output_stride=16"),
    ],
)
def test_wrong_names_and_settings_are_refused(name, arguments, words):
    with pytest.raises(ValueError, match=words):
        build_model(name, (16, 16, 1), **arguments)


@pytest.mark.parametrize(
    ("name", "shape", "arguments", "words"),
    [
        ("unet", (40, 16, 1), {"depth": 5, "features": 1}, r"2\*\*depth <= 16"),
        ("unet", (512, 512, 1), {"depth": 50}, r"2\*\*depth <= 512"),
        ("unet", (512, 512, 1), {"depth": 10**9}, r"2\*\*depth <= 512"),
        ("unet", (512, 512, 1), {"depth": 9}, r"features \* 2\*\*depth <= 4096"),
        ("unet", (512, 512, 1), {"features": 10**6}, r"features \* 2\*\*depth <= 4096"),
        ("se_resunet3d", VOLUMES, {"depth": 50}, "depth <= 8"),
        ("se_resunet3d", VOLUMES, {"depth": 10**9}, "depth <= 8"),
        ("se_resunet3d", VOLUMES, {"features": 10**6}, r"features \* 2\*\*depth <= 2048"),
        ("se_resunet3d", VOLUMES, {"noise": 1e300}, "noise <= 10"),
        ("cvnet_synapse", (200, 200, 1), {"width": 1e6}, "width <= 4"),
        ("cvnet_synapse", (200, 200, 1), {"noise": 1e300}, "noise <= 10"),
        ("deeplab_v3plus", (64, 64, 1), {"backbone": "mobilenetv2", "alpha": 1e6}, "alpha <= 4"),
    ],
)
def test_networks_that_would_never_be_built_are_refused_at_once(name, shape, arguments, words):
    started = time.monotonic()
    with pytest.raises(ValueError, match=words) as error:
        build_model(name, shape, **arguments)
    assert time.monotonic() - started < 1 and "\n" not in str(error.value)


def test_the_types_of_model_settings_are_those_of_the_networks():
    assert MODEL_SETTINGS.keys() == models.NETWORKS.keys()
    for name, types in MODEL_SETTINGS.items():
        parameters = inspect.signature(models.NETWORKS[name].build_model).parameters
        assert types.__annotations__.keys() == parameters.keys() - set(models.NOT_SETTINGS), name


def test_the_deepest_networks_that_fit():
    assert build_model("unet", (16, 40, 1), features=1, depth=4).output_shape == (None, 16, 40, 1)
    deepest = build_model("se_resunet3d", VOLUMES, features=1, depth=8)
    assert deepest.predict_on_batch(np.zeros((1, 9, 20, 16, 1), np.float32)).shape == (1, 9, 20, 16, 1)


def test_layers_of_the_networks_know_the_device_as_the_scripts_do():
    assert layers._is_tensorflow_on_cpu() == devices.is_tensorflow_on_cpu()


def test_importing_models_makes_every_layer_known_to_keras_and_loads_keras_only():
    """A file with a layer that no network uses loads, and `models` needs nothing else of the project."""
    code = "import sys, models, keras\nfor name in sys.argv[1:]: keras.saving.get_registered_object(name).__name__\n"
    code += "assert not [name for name in sys.modules if name.split('.')[0] in ('common', 'losses', 'coreml')]"
    names = [f"segmentation>{name}" for name in ("FullSizePReLU", "Swish", "GELU", "Square", "SquareRoot", "CropLike")]
    subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, check=True)


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


def test_the_network_of_the_documentation(tmp_path):
    (tmp_path / "my_network.py").write_text(code_block("extending.md", "def build_model"))
    model = build_model(str(tmp_path / "my_network.py"), (16, 16, 1), 3, width=4)
    assert model.output_shape == (None, 16, 16, 4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (OWN.format(first="", channels=2, output="output"), "expected an output of"),
        (
            OWN.format(first="", channels=1, output="out"),
            "no layer output; name the first .* last one output",
        ),
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
