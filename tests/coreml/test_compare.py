"""Exported networks against Keras: every network in both kinds, and faults that are planted in the exported file."""

from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from drawings import disc_slice

ROOT = Path(__file__).resolve().parents[2]
import models
from coreml.compare import compare_on_slices, first_difference, prepare_inputs
from coreml.compress import choose_target, compress_weights, uses_half_precision
from coreml.convert import Contract, convert_network, layer_of, save_model, size_in_bytes
from coreml.metadata import complete_spec
from coreml.reader import read_model
from coreml.verify import feature_mismatches

ct = pytest.importorskip("coremltools")
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="coremltools reads networks of TensorFlow only"
)


def without_names(shape, classes):
    """A network of layers that Keras names: conv2d, conv2d_1 and so on."""
    layers = keras.layers
    keras.backend.clear_session(free_memory=False)  # names begin anew
    inputs = keras.Input(shape, name="input")
    top = layers.Cropping2D(((3, 1), (2, 2)))(layers.Conv2D(4, 3, padding="same", activation="relu")(inputs))
    x = layers.Conv2D(6, 3, padding="same", activation="relu")(layers.MaxPooling2D()(top))
    x = layers.Concatenate()([layers.UpSampling2D()(x), top])
    x = layers.Conv2D(5, 3, padding="same", activation="relu")(layers.ZeroPadding2D(((3, 1), (2, 2)))(x))
    return keras.Model(inputs, layers.Conv2D(classes, 1, activation="sigmoid", name="output")(x))


def normalized_after_activation(shape, classes):
    """A network whose normalization cannot become part of a convolution, as in CV-net."""
    layers = keras.layers
    inputs = keras.Input(shape, name="input")
    x = layers.Conv2D(40, 3, padding="same", activation="relu")(inputs)
    x = layers.Conv2D(40, 3, padding="same", activation="relu")(layers.BatchNormalization()(x))  # 14,400 weights
    x = layers.BatchNormalization()(x)
    return keras.Model(inputs, layers.Conv2D(classes, 1, activation="sigmoid", name="logits")(x))


# Small forms, in which every layer of the network is there.
NETWORKS = {
    "unet": ("unet", 40, 1, {"features": 4, "depth": 2}),
    "unet of other parts": ("unet", 40, 1, {"features": 4, "depth": 2, "upsampling": "nearest", "padding": "valid"}),
    "layers without names": (without_names, 40, 1, {}),
    "unet of three classes": ("unet", 40, 3, {"features": 4, "depth": 1}),
    "cvnet_synapse": ("cvnet_synapse", 72, 1, {"width": 0.1}),
    "cvnet_synapse_512": ("cvnet_synapse_512", 128, 1, {"width": 0.05}),
    "mobilenetv2": ("deeplab_v3plus", 40, 1, {"backbone": "mobilenetv2", "alpha": 0.35}),
}
SLOW = ("cvnet_synapse", "cvnet_synapse_512", "mobilenetv2")


def titles_of(titles):
    """Parameters of a test: those of large networks are slow."""
    return [pytest.param(title, marks=pytest.mark.slow if title in SLOW else ()) for title in titles]


WIDE = {  # with weights enough to be stored smaller
    "wide unet": ("unet", 40, 1, {"features": 16, "depth": 2}),
    "normalized after activation": (normalized_after_activation, 24, 1, {}),
}


@pytest.fixture(scope="module")
def networks():
    """Function from a name of NETWORKS to the network, with no weight and no statistic at its start value."""
    made = {}

    def get(title):
        if title not in made:
            name, side, classes, settings = (NETWORKS | WIDE)[title]
            keras.utils.set_random_seed(0)
            build = name if callable(name) else partial(models.build_model, name)
            made[title] = network = stir(build((side, side, 1), classes, **settings))
            if title in WIDE:  # about half of the pixels in the mask, so that Dice does not hang on one
                kernel, bias = network.get_layer("logits").get_weights()
                network.get_layer("logits").set_weights([kernel, bias + 0.3])
        return made[title]

    return get


def stir(network):
    """Give biases and normalizations values as training would."""
    rng = np.random.default_rng(0)
    ranges = {"gamma": (0.5, 1.5), "beta": (-0.5, 0.5), "moving_mean": (-0.3, 0.3), "moving_variance": (0.5, 1.5)}
    for weight in network.weights:
        if weight.name in ranges or weight.name == "bias":
            weight.assign(rng.uniform(*ranges.get(weight.name, (-0.3, 0.3)), weight.shape))
    return network


def slices(side, count=2, classes=1):
    pairs = [disc_slice(side, seed, classes) for seed in range(count)]
    return [(x / np.float32(255))[..., None] for x, _ in pairs], [(y > 0) * 1 if classes == 1 else y for _, y in pairs]


@pytest.fixture(scope="module")
def exported(networks, tmp_path_factory):
    """Function that exports a network once and gives the network, the path and the contract.

    As in the script, kinds of weights that compute alike are made of one conversion.
    """
    made, converted = {}, {}

    def get(title, *ends, kind="float32"):
        contract = Contract(*ends)
        if (title, contract, kind) not in made:
            network = networks(title)
            target = choose_target(kind, contract.format, None)
            half = uses_half_precision(kind, contract.format)
            options = title, contract, half, target
            if options not in converted:
                converted[options] = convert_network(network, *options)
            model = compress_weights(converted[options], kind)
            texts = dict.fromkeys(("author", "licence", "description", "input", "output"), "")
            spec = complete_spec(model, contract, network, texts, {"network": title})
            path = tmp_path_factory.mktemp("exported") / f"model.{contract.format}"
            save_model(spec, model.weights_dir, path)
            made[title, contract, kind] = network, path, contract
        return made[title, contract, kind]

    return get


def compare_with(network, model, contract, count=2):
    side, planes = network.input_shape[1], network.output_shape[-1]
    return compare_on_slices(network, model, contract, *slices(side, count, max(planes - 1, 1)))


@pytest.mark.parametrize("title", titles_of(NETWORKS))
def test_exported_network_is_that_of_keras(exported, title):
    for ends in (("mlmodel", "image"), ("mlpackage", "array")):
        network, path, contract = exported(title, *ends)
        model = read_model(path)
        found = compare_with(network, model, contract)
        assert found.max_difference < 1e-5 and found.dice == 1 and found.changed_pixels == 0
        assert not feature_mismatches(model, network, contract)
        assert not [o.type for o in model.operations if any(word in o.type for word in ("custom", "random", "dropout"))]
        assert first_difference(network, model, contract, slices(network.input_shape[1])[0][0]) is None
        # most layers with weights are found again, but for those that a normalisation swallows: a fault can be placed
        known = {layer_of(name, network) for operation in model.operations for name in operation.outputs}
        heavy = {layer for layer in network.layers if layer.weights}
        assert len(known & heavy) > 0.4 * len(heavy)


@pytest.mark.parametrize("separator", ["/", "_"])
def test_layers_that_keras_names_are_told_apart(separator):
    network = without_names((40, 40, 1), 1)
    for node, layer in {
        "{}_1/conv2d_1/Relu": "conv2d",
        "{}_1/conv2d_1_2/BiasAdd": "conv2d_1",
        "{}/conv2d_1/Relu": "conv2d_1",
        "{}/conv2d/Relu": "conv2d",
        "{}_1/output_1/Sigmoid": "output",
    }.items():
        assert layer_of(node.format(network.name).replace("/", separator), network).name == layer
    assert layer_of("transpose_11", network) is None


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["mlmodel", "mlpackage"])
def test_smaller_weights(exported, file_format):
    network, whole, _ = exported("wide unet", file_format, "array")
    for kind, bits in (("float16", 16), ("linear8", 8), ("palette8", 8), ("palette6", 6), ("palette4", 4)):
        _, path, contract = exported("wide unet", file_format, "array", kind=kind)
        found = compare_with(network, read_model(path), contract, 4)
        assert found.max_difference > 0, kind
        assert found.dice >= {16: 0.999, 8: 0.99, 6: 0.98, 4: 0.9}[bits], (kind, found)
        assert size_in_bytes(path) < {16: 0.6, 8: 0.55, 6: 0.5, 4: 0.46}[bits] * size_in_bytes(whole), kind


@pytest.mark.parametrize("kind", ["linear8", "palette8"])
def test_normalization_after_an_activation_survives_smaller_weights(exported, kind):
    network, path, contract = exported("normalized after activation", "mlpackage", "array", kind=kind)
    found = compare_with(network, read_model(path), contract, 2)
    assert 0 < found.max_difference < 0.05 and found.dice >= 0.98, found


def test_kinds_of_outputs(exported):
    for title, classes in (("unet", 1), ("unet of three classes", 3)):
        for file_format, kind in (("mlmodel", "classes"), ("mlpackage", "image")):
            network, path, contract = exported(title, file_format, "image", kind)
            side = network.input_shape[1]
            images, truths = slices(side, 2, classes)
            found = compare_on_slices(network, read_model(path), contract, images, truths)
            assert found.dice == 1 and found.dice_to_truth[0] == found.dice_to_truth[1]
            assert (found.max_difference is None) == (kind == "classes" or classes == 3)
            got = read_model(path).run({"input": prepare_inputs(images[0], contract)[1]})["output"]
            assert (got.shape, got.dtype) == (
                ((side, side), np.uint8) if kind == "image" else ((1, side, side), np.float32)
            )
            assert set(np.unique(got)) <= set(range(256 if kind == "image" and classes == 1 else classes + 1))


# --- planted faults


def layers_of(spec, kind):
    return [getattr(layer, kind) for layer in spec.neuralNetwork.layers if layer.WhichOneof("layer") == kind]


def convolutions(spec, deconvolution=False, least=1):
    return [
        c for c in layers_of(spec, "convolution") if c.isDeconvolution == deconvolution and c.outputChannels >= least
    ]


def rewrite(weights, change):
    weights.floatValue[:] = np.asarray(change(np.array(weights.floatValue, np.float32))).ravel().tolist()


def kernel(convolution, change):
    shape = (
        convolution.outputChannels,
        convolution.kernelChannels // (convolution.nGroups or 1),
        *convolution.kernelSize,
    )
    if convolution.isDeconvolution:
        shape = convolution.kernelChannels, convolution.outputChannels, *convolution.kernelSize
    elif convolution.nGroups > 1:
        shape = convolution.outputChannels, convolution.kernelChannels, *convolution.kernelSize
    rewrite(convolution.weights, lambda w: change(w.reshape(shape)))


def square(spec):
    return next(c for c in convolutions(spec) if c.kernelChannels == c.outputChannels and c.kernelSize[0] == 3)


def pad_one_side(spec):
    convolution = convolutions(spec, least=4)[1]
    convolution.valid.SetInParent()
    del convolution.valid.paddingAmounts.borderAmounts[:]
    for _ in range(2):
        edge = convolution.valid.paddingAmounts.borderAmounts.add()
        edge.startEdgeSize, edge.endEdgeSize = 2, 0


def swap_concatenation(spec):
    layer = next(layer for layer in spec.neuralNetwork.layers if layer.WhichOneof("layer") == "concat")
    layer.input[:] = list(layer.input)[::-1]


def repeat_concatenation(spec):
    layer = next(layer for layer in spec.neuralNetwork.layers if layer.WhichOneof("layer") == "concat")
    layer.input[1] = layer.input[0]


def lose_activation(spec, kind="ReLU"):
    activation = next(a for a in layers_of(spec, "activation") if a.WhichOneof("NonlinearityType") == kind)
    activation.linear.alpha = 1.0


def leak(spec):
    layers_of(spec, "activation")[2].leakyReLU.alpha = 0.1


def other_output(spec):
    layers_of(spec, "activation")[-1].sigmoidHard.alpha = 0.2
    layers_of(spec, "activation")[-1].sigmoidHard.beta = 0.5


def set_scaler(spec, factor=1 / 255, offset=0.0):
    scaler = spec.neuralNetwork.preprocessing[0].scaler
    scaler.channelScale, scaler.grayBias = factor, offset


def lose_rates(spec):
    for convolution in layers_of(spec, "convolution"):
        convolution.dilationFactor[:] = [1, 1]


def move_crop(spec):
    cut = layers_of(spec, "sliceStatic")[0]
    cut.beginIds[1], cut.endIds[1] = cut.beginIds[1] + 1, cut.endIds[1] + 1


def lose_sum(spec):
    layer = next(layer for layer in spec.neuralNetwork.layers if layer.WhichOneof("layer") == "add")
    layer.input[0] = layer.input[1]


def lose_scale(spec):
    layers = spec.neuralNetwork.layers
    product = next(layer for layer in layers if layer.WhichOneof("layer") == "multiply" and "down1_norm" in layer.name)
    constant = next(
        layer for layer in layers if layer.WhichOneof("layer") == "loadConstantND" and layer.output[0] in product.input
    )
    rewrite(constant.loadConstantND.data, np.ones_like)


def transpose_alpha(spec):
    constant = max(layers_of(spec, "loadConstantND"), key=lambda c: len(c.data.floatValue))
    shape = list(constant.shape)
    rewrite(constant.data, lambda a: a.reshape(shape).swapaxes(-1, -2))


def overflow(spec):
    kernel(convolutions(spec)[2], lambda w: np.where(np.abs(w) == np.abs(w).max(), np.inf, w))


def upsampling(spec, mode, linear):
    layer = layers_of(spec, "upsample")[-1]
    layer.mode, layer.linearUpsampleMode = mode, linear


# The fault, the network, the layer that must be named, and how it is planted.
FAULTS = {
    "a kernel with height and width changed over": (
        "unet",
        "down0_norm2",
        lambda s: kernel(square(s), lambda w: w.swapaxes(2, 3)),
    ),
    "a kernel with its channels changed over": (
        "unet",
        "down0_norm2",
        lambda s: kernel(square(s), lambda w: w.swapaxes(0, 1)),
    ),
    "a kernel turned round, as in a true convolution": (
        "unet",
        "down0_norm2",
        lambda s: kernel(square(s), lambda w: w[:, :, ::-1, ::-1]),
    ),
    "a transposed convolution that is mirrored": (
        "unet",
        "up1_conv0",
        lambda s: kernel(convolutions(s, True)[0], lambda w: w[:, :, :, ::-1]),
    ),
    "a bias that is lost": ("unet", "logits", lambda s: rewrite(convolutions(s)[-1].bias, np.zeros_like)),
    "biases one channel on": ("unet", "down0_norm2", lambda s: rewrite(square(s).bias, lambda b: np.roll(b, 1))),
    "a concatenation the other way round": ("unet", "up1_join", swap_concatenation),
    "a concatenation of twice the same": ("unet", "up1_join", repeat_concatenation),
    "padding on one side": ("unet", "down0_norm2", pad_one_side),
    "an activation that is lost": ("unet", "down0_relu1", lose_activation),
    "an activation that leaks": ("unet", "down1_relu1", leak),
    "another activation at the end": ("unet", "output", other_output),
    "averages instead of maxima": ("unet", "down1_norm1", lambda s: setattr(layers_of(s, "pooling")[0], "type", 1)),
    "one weight that half precision made infinite": ("unet", "down1_norm1", overflow),
    "an input that is scaled twice": ("unet", "down0_norm1", lambda s: set_scaler(s, 1 / 255**2)),
    "an input that is scaled by 256": ("unet", "down0_norm1", lambda s: set_scaler(s, 1 / 256)),
    "an input with an offset": ("unet", "down0_norm1", lambda s: set_scaler(s, offset=-0.5)),
    "corners of the upsampling aligned": ("cvnet_synapse", "up4_up", lambda s: upsampling(s, 1, 1)),
    "upsampling shifted by part of a pixel": ("cvnet_synapse", "up4_up", lambda s: upsampling(s, 1, 0)),
    "upsampling by the nearest pixel": ("cvnet_synapse", "up4_up", lambda s: upsampling(s, 0, 0)),
    "a normalisation without its scale": (
        "cvnet_synapse",
        "down1_norm",
        lose_scale,
    ),
    "a learnt activation with height and width changed over": ("cvnet_synapse", "head1_swish", transpose_alpha),
    "dilation that is lost": ("mobilenetv2", "block7_depthwise_norm", lose_rates),
    "an odd row of padding on the other side": (
        "mobilenetv2",
        "stem_norm",
        lambda s: setattr(convolutions(s)[0].same, "asymmetryMode", 1),
    ),
    "a residual sum of twice the same": ("mobilenetv2", "block2_add", lose_sum),
    "a crop one row down": ("mobilenetv2", "crop", move_crop),
    "a limit of six that became a half": (
        "mobilenetv2",
        "stem_relu6",
        lambda s: setattr(layers_of(s, "unary")[0], "alpha", -0.5),
    ),
}


@pytest.mark.parametrize("title", titles_of(["unet", "cvnet_synapse", "mobilenetv2"]))
def test_planted_faults_are_caught_and_placed(tmp_path, exported, title):
    network, sound, contract = exported(title, "mlmodel", "image")
    image = slices(network.input_shape[1])[0][0]
    for fault, (_, layer, plant) in ((f, planted) for f, planted in FAULTS.items() if planted[0] == title):
        spec = ct.utils.load_spec(str(sound))
        plant(spec)
        path = tmp_path / "model.mlmodel"
        ct.utils.save_spec(spec, str(path))
        difference = first_difference(network, read_model(path), contract, image)
        assert difference is not None, fault
        assert difference.layer.name == layer, (fault, str(difference))
