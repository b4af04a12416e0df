"""Compress the weights of a Core ML model: half precision, 8-bit linear integers, or palettes of 8, 6 or 4 bits."""

import contextlib
import io

import numpy as np

from common.errors import InputError
from coreml.passes import exact_passes

COMPRESSIONS = ("float32", "float16", "linear8", "palette8", "palette6", "palette4")
BELOW_16_BITS = ("linear8", "palette8", "palette6", "palette4")  # in an ML program: macOS 13 or later
MIN_WEIGHTS = 10_000  # min weights of a layer for which 8 bits or fewer save space


def uses_half_precision(compression, file_format):
    """Whether the model computes in half precision: an ML program does, unless its weights are float32."""
    return file_format == "mlpackage" and compression != "float32"


def choose_target(compression, file_format, target):
    """Choose the oldest system that must run a model.

    Args:
        compression: one of COMPRESSIONS.
        file_format: "mlmodel" or "mlpackage".
        target: name such as "macOS13" or "iOS16"; None for the oldest one possible.

    Returns:
        coremltools.target.

    Raises:
        InputError: if the system is unknown or too old; the message suggests the oldest possible one.
    """
    import coremltools as ct  # slow to import

    needed = ct.target.iOS13
    if file_format == "mlpackage":
        needed = ct.target.iOS16 if compression in BELOW_16_BITS else ct.target.iOS15
    if target is None:
        return needed
    require_system(target, needed.value, f"a .{file_format} with {compression} weights")
    return ct.target[target.replace(".", "_")]


def require_system(target, version, subject):
    """Check that a system reads a specification version.

    Args:
        target: name such as "macOS13" or "iOS16".
        version: specification version.
        subject: what needs this version, for the message.

    Raises:
        InputError: if the system is unknown or too old; the message suggests the first of its family that reads it.
    """
    import coremltools as ct  # slow to import

    systems = {name.replace("_", "."): system.value for name, system in ct.target.__members__.items()}
    if target not in systems:
        raise InputError(f"TARGET: unknown system (found {target!r}); choose one of {', '.join(systems)}")
    if systems[target] < version:
        family = target.rstrip("0123456789.")
        *_, first = (name for name, v in systems.items() if v == version and name.rstrip("0123456789.") == family)
        raise InputError(
            f"TARGET: {target} is too old for {subject}; use --target {first}, or another --compression or --format"
        )


def compress_weights(model, compression):
    """Compress the weights of a model.

    Args:
        model: coremltools.models.MLModel; an ML program with half precision was converted with float16 weights.
        compression: one of COMPRESSIONS.

    Returns:
        MLModel.
    """
    is_program = model.get_spec().WhichOneof("Type") == "mlProgram"
    if compression == "float32" or (compression == "float16" and is_program):
        return model
    if is_program:
        return _compress_program(model, compression)
    if compression.startswith("palette"):
        return _palettize_network(model, int(compression[-1]))
    return _quantize_network(model, compression)


def _compress_program(model, compression):
    import coremltools.optimize.coreml as cto  # slow to import

    if compression == "linear8":
        compress, config = cto.linear_quantize_weights, cto.OpLinearQuantizerConfig
        options = {"mode": "linear_symmetric"}
    else:
        compress, config = cto.palettize_weights, cto.OpPalettizerConfig
        options = {"mode": "kmeans", "nbits": int(compression[-1])}
    with exact_passes():
        return compress(model, cto.OptimizationConfig(global_config=config(**options, weight_threshold=MIN_WEIGHTS)))


def _palettize_network(model, bits):
    import coremltools as ct  # slow to import

    spec = model.get_spec()
    for weights in _large_weights(spec.neuralNetwork):
        _palettize(weights, bits)
    return ct.models.MLModel(spec, skip_model_load=True)


def _large_weights(network):
    for layer in network.layers:
        layer_type = layer.WhichOneof("layer")
        field = "data" if layer_type == "loadConstantND" else "weights"
        parameters = getattr(layer, layer_type)
        if field in parameters.DESCRIPTOR.fields_by_name:
            weights = getattr(parameters, field)
            if len(weights.floatValue) >= MIN_WEIGHTS:
                yield weights


def _palettize(weights, bits):
    """Replace the numbers of a WeightParams by a palette and packed indices into it, highest bit first.

    `quantize_weights` of coremltools does the same, but makes every bit a Python object: several gigabytes for a U-net.
    """
    palette, indices = best_palette(np.array(weights.floatValue, np.float32), bits)
    single_bits = np.unpackbits(indices.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :]
    weights.rawValue = np.packbits(single_bits).tobytes()
    weights.quantization.numberOfBits = bits
    weights.quantization.lookupTableQuantization.floatValue[:] = palette
    del weights.floatValue[:]


def best_palette(values, bits):
    """The 2^bits values with the smallest sum of squared differences, by exact k-means in one dimension.

    Args:
        values: (N,) float, first rounded to half precision, as coremltools does for ML programs.
        bits: int.

    Returns:
        palette (2^bits,) float32, and indices (N,) int.
    """
    # slow to import; private: the public function palettizes whole ML programs only
    from coremltools.models.neural_network.quantization_utils import _get_kmeans_lookup_table_and_weight

    palette, indices = _get_kmeans_lookup_table_and_weight(bits, values.astype(np.float16), force_kmeans1d=True)
    return palette.astype(np.float32).ravel(), np.asarray(indices).ravel()


def _quantize_network(model, compression):
    import coremltools as ct  # slow to import
    from coremltools.models.neural_network import quantization_utils as quantization

    bits, options = 16, {}
    if compression == "linear8":
        bits = 8
        options["selector"] = quantization.AdvancedQuantizedLayerSelector(
            skip_layer_types=["batchnorm", "bias", "depthwiseConv"], minimum_conv_weight_count=MIN_WEIGHTS
        )
    with contextlib.redirect_stdout(io.StringIO()):  # prints every layer
        result = quantization.quantize_weights(model, bits, "linear", **options)
    spec = result.get_spec() if hasattr(result, "get_spec") else result
    for layer in spec.neuralNetwork.layers:
        if layer.WhichOneof("layer") == "convolution3d":
            _quantize_convolution_3d(layer.convolution3d, bits)
    return ct.models.MLModel(spec, skip_model_load=True)


def _quantize_convolution_3d(layer, bits):
    """Quantize the weights of a Convolution3DLayerParams, which the public function leaves as they are."""
    import coremltools as ct  # slow to import
    from coremltools.models.neural_network.quantization_utils import _quantize_wp_field  # private, see docs/design.md

    mode = ct.models._QUANTIZATION_MODE_LINEAR_QUANTIZATION
    if bits == 16:  # a bias has the same number of bits
        for weights in (layer.weights, layer.bias):
            _quantize_wp_field(weights, bits, mode, None)
    elif len(layer.weights.floatValue) >= MIN_WEIGHTS:
        axis = int(layer.isDeconvolution)  # of the output channels
        first = layer.inputChannels if layer.isDeconvolution else layer.outputChannels
        kernel = layer.kernelDepth * layer.kernelHeight * layer.kernelWidth
        shape = (first, len(layer.weights.floatValue) // (first * kernel), kernel, 1)
        _quantize_wp_field(layer.weights, bits, mode, shape, axis)
