"""Convert a Keras network to Core ML, save it, and describe the file."""

import errno
import json
import os
import re
import tempfile
from collections import Counter
from dataclasses import dataclass

import numpy as np

from common.errors import InputError
from common.system_errors import errors_of, raise_system_error
from coreml.passes import exact_pipeline
from coreml.reader import name_of, read_spec

# Replacements for TensorFlow operations that Core ML lacks.
REPLACEMENTS = {
    "Erf": "the tanh form of GELU, keras.ops.gelu(x, approximate=True), or models.extra_layers.GELU",
    "Erfc": "the tanh form of GELU, keras.ops.gelu(x, approximate=True), or models.extra_layers.GELU",
    "ResizeBicubic": 'bilinear interpolation, UpSampling2D(interpolation="bilinear")',
    "ResizeArea": "average pooling",
    "ScaleAndTranslate": 'bilinear interpolation, UpSampling2D(interpolation="bilinear")',
    "Log1p": "keras.ops.log(1 + x)",
    "Expm1": "keras.ops.exp(x) - 1",
    "Xlogy": "x * keras.ops.log(y)",
    "Atan2": "keras.ops.arctan(y / x)",
    "SelectV2": "keras.ops.maximum, keras.ops.relu, or a product with a mask",
    "PyFunc": "operations of keras.ops instead of NumPy",
    "EagerPyFunc": "operations of keras.ops instead of NumPy",
}
DEFAULT_REPLACEMENT = "sums, products, convolutions and the activations of Keras"


@dataclass(frozen=True)
class Contract:
    """The format of a model, its input and its output.

    Attributes:
        format: "mlmodel" (neural network, for A.I.Segmentation) or "mlpackage" (ML program).
        input_kind: "array": (C, H, W) in 0..1; "image": a gray or RGB image of 0..255.
        output_kind: "probabilities": (C, H, W); "classes": class numbers (1, H, W); "image": a gray image of 255 times
            the probability (one class) or of class numbers.
        threshold: probability above which a pixel is foreground, with one class or overlapping ones.
        overlapping: whether classes overlap; see `models.has_overlapping_classes`.
    """

    format: str
    input_kind: str = "array"
    output_kind: str = "probabilities"
    threshold: float = 0.5
    overlapping: bool = False

    @property
    def kinds(self):
        """input_kind and output_kind."""
        return self.input_kind, self.output_kind

    def classes_of(self, channels):
        """Number of classes of a network with this number of output channels, without the background."""
        return channels if self.overlapping or channels == 1 else channels - 1

    def check_network(self, network, source):
        """Check that a network takes one image, or volume, of fixed size and returns one of the same size.

        Args:
            network: keras.Model.
            source: file that it was loaded from, for the message.

        Raises:
            InputError: if not.
        """
        inputs = getattr(network, "inputs", None) or ()
        volumes = any(len(tensor.shape) == 5 for tensor in inputs)
        if self.overlapping and not volumes and self.output_kind != "probabilities":
            raise InputError(
                f"OUTPUT_KIND: {self.output_kind!r} has one class for each pixel, and the classes of {source} overlap; "
                "use --output-kind probabilities"
            )
        tensors = [*getattr(network, "inputs", ()), *getattr(network, "outputs", ())]  # a user's class may lack these
        match shapes := [tuple(tensor.shape[1:]) for tensor in tensors]:
            case [(int(), int(), channels), (_, _, int())] if shapes[0][:2] == shapes[1][:2]:
                if self.input_kind == "image" and channels not in (1, 3):
                    raise InputError(
                        f"INPUT_KIND: 'image' needs 1 or 3 channels (found {channels} in {source}); "
                        "use --input-kind array"
                    )
            case [(int(), int(), int(), _), (*_, int())] if shapes[0][:3] == shapes[1][:3] and len(shapes[1]) == 4:
                kinds = {"INPUT_KIND": "array", "OUTPUT_KIND": "probabilities"}
                for (name, kind), own in zip(kinds.items(), self.kinds, strict=True):
                    if own != kind:
                        option = f"--{name.lower().replace('_', '-')} {kind}"
                        raise InputError(f"{name}: {own!r} is for slices ({source} is for volumes); use {option}")
            case _:
                raise InputError(
                    f"{source}: unexpected input or output (found {' and '.join(map(str, shapes)) or 'none'}); "
                    "expected one input (height, width, channels) of fixed size and one output of the same size"
                )


def to_float32(network):
    """Rebuild a keras.Model in float32 with the same weights, since coremltools cannot read bfloat16."""

    def in_float32(config):
        if isinstance(config, dict):
            return {key: in_float32(value) for key, value in config.items()}
        if isinstance(config, (list, tuple)):
            return [in_float32(item) for item in config]
        if isinstance(config, str) and re.fullmatch(r"(mixed_)?b?float16", config):  # a policy, or the type of an input
            return "float32"
        return config

    copy = type(network).from_config(in_float32(network.get_config()))
    copy.set_weights(network.get_weights())
    return copy


def convert_network(network, source, contract, half_precision, target):
    """Convert a network for inference, without dropout and noise layers.

    Args:
        network: keras.Model in float32.
        source: file that it was loaded from, for messages.
        contract: Contract.
        half_precision: whether an ML program computes in half precision.
        target: coremltools.target, the oldest system that must run an ML program.

    Returns:
        coremltools.models.MLModel; `coreml.metadata.complete_spec` names its output and adds its metadata.

    Raises:
        InputError: if Core ML lacks an operation; the message names the layer and a replacement.
    """
    import coremltools as ct  # slow to import

    *sides, channels = network.input_shape[1:]
    if contract.input_kind == "image":
        shape = (1, *sides, channels)
        colors = ct.colorlayout.GRAYSCALE if channels == 1 else ct.colorlayout.RGB
        input_type = ct.ImageType("input", shape, scale=1 / 255, color_layout=colors)
    else:
        shape = (channels, *sides)
        input_type = ct.TensorType("input", shape, dtype=np.float32)
    options = {"convert_to": "neuralnetwork"}
    if contract.format == "mlpackage":
        precision = ct.precision.FLOAT16 if half_precision else ct.precision.FLOAT32
        is_image = contract.output_kind == "image"
        output_type = (
            ct.ImageType(color_layout=ct.colorlayout.GRAYSCALE) if is_image else ct.TensorType(dtype=np.float32)
        )
        options = {"convert_to": "mlprogram", "compute_precision": precision, "outputs": [output_type]}
        options["minimum_deployment_target"] = target
    options |= {"source": "tensorflow", "skip_model_load": True, "pass_pipeline": exact_pipeline()}
    try:
        function = _as_function(network, shape, contract).get_concrete_function()
        with np.errstate(over="ignore"):  # float32 values outside the half-precision range
            return ct.convert([function], inputs=[input_type], **options)
    except Exception as error:  # coremltools raises any exception of its conversion rules
        raise_system_error(error, tempfile.gettempdir())
        raise InputError(f"{source}: cannot be converted: {_explain(error, network)}") from error


def _as_function(network, shape, contract):
    """The network as a TensorFlow function with the input and output of the contract."""
    import tensorflow as tf  # slow to import

    @tf.function(input_signature=[tf.TensorSpec(shape, name="input")])
    def function(x):
        if contract.input_kind == "array":  # convert to the Keras layout
            x = tf.transpose(tf.expand_dims(x, 0), (0, *range(2, len(shape) + 1), 1))
        y = network(x, training=False)
        one_class = y.shape[-1] == 1
        if contract.output_kind == "probabilities":
            last = len(y.shape) - 1
            return tf.squeeze(tf.transpose(y, (0, last, *range(1, last))), 0)
        if contract.output_kind == "image" and one_class:
            return tf.transpose(255 * y, (0, 3, 1, 2))
        classes = y[..., 0] > contract.threshold if one_class else tf.argmax(y, -1)
        classes = tf.cast(classes, tf.float32)
        return tf.expand_dims(classes, 1) if contract.output_kind == "image" else classes

    return function


def _explain(error, network):
    """One line that explains why a network does not convert."""
    reason = str(error).strip().split("\n")[0]
    unknown = re.match(r"Conversion for TF op '(\w+)' not implemented\.\s*name: \"(.+)\"", str(error))
    if not unknown:
        return reason
    operation, node = unknown.groups()
    layer = layer_of(node, network)
    user = f"layer {layer.name} ({type(layer).__name__})" if layer else node
    replacement = REPLACEMENTS.get(operation, DEFAULT_REPLACEMENT)
    return f"Core ML has no operation {operation}, used by {user}; write {replacement} instead"


def layer_of(node, network):
    """Find the layer of a TensorFlow or Core ML node by the node's name.

    When TensorFlow numbers the network, as in unet_1, it adds a number to each layer too: conv2d_1 is then the layer
    conv2d, and conv2d_1_2 the layer conv2d_1.

    Returns:
        keras.Layer, or None.
    """
    names = "|".join(map(re.escape, sorted((layer.name for layer in network.layers), key=len, reverse=True)))
    network_name = re.escape(network.name)
    patterns = rf"{network_name}_\d+[/_]({names})_\d+[/_]", rf"{network_name}(?:_\d+)?[/_]({names})(?:_\d+)?[/_]"
    found = next(filter(None, (re.match(pattern, node) for pattern in patterns)), None)
    return network.get_layer(found[1]) if found else None


def save_model(spec, weights_dir, path):
    """Write a model to a path of `common.replacing.staged`.

    Args:
        spec: Model message.
        weights_dir: folder with the weights of an ML program.
        path: Path of a .mlmodel or .mlpackage.
    """
    import coremltools as ct  # slow to import

    with errors_of(path):
        ct.utils.save_spec(spec, str(path), weights_dir=weights_dir)
        if path.is_dir() and not _is_json(path / "Manifest.json"):  # coremltools writes it last, and ignores errors
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _is_json(path):
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False


def describe_file(path):
    """Yield the input, the output and the layers of a saved model as lines of text."""
    spec = read_spec(path)
    for feature in (*spec.description.input, *spec.description.output):
        image, array = feature.type.imageType, feature.type.multiArrayType
        if feature.type.HasField("imageType"):
            colors = "RGB" if name_of(image.ColorSpace, image.colorSpace) == "RGB" else "gray"
            yield f"{feature.name:8}{colors} image of {image.height}x{image.width}"
        else:
            yield f"{feature.name:8}array of {tuple(array.shape)}, {name_of(array.ArrayDataType, array.dataType)}"
    counts = count_operations(spec)
    listed = ", ".join(f"{name} {count}" for name, count in counts.most_common())
    yield f"{spec.WhichOneof('Type')}, layers: {counts.total()} ({listed})"


def count_operations(spec):
    """Count the layers of a neural network, or the operations of an ML program, by type.

    Returns:
        Counter.
    """
    if spec.WhichOneof("Type") == "neuralNetwork":
        return Counter(layer.WhichOneof("layer") for layer in spec.neuralNetwork.layers)
    function = spec.mlProgram.functions["main"]
    operations = function.block_specializations[function.opset].operations
    return Counter(operation.type for operation in operations if operation.type != "const")


def size_in_bytes(path):
    """Size of a file, or of all files of a folder."""
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
