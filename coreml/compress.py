"""Weights of a Core ML model stored smaller: half precision, 8-bit linear numbers, or palettes of 8, 6 or 4 bits."""

import contextlib
import io

import numpy as np

from common.errors import InputError

KINDS = ("float32", "float16", "linear8", "palette8", "palette6", "palette4")
SMALL = ("linear8", "palette8", "palette6", "palette4")  # an ML program can hold them from macOS 13 on
LEAST_WEIGHTS = 10_000  # of a layer to be stored in 8 bits or fewer; smaller ones save nothing


def computes_in_half(kind, file_format):
    """Whether the model computes in half precision: an ML program does for all weights but float32."""
    return file_format == "mlpackage" and kind != "float32"


def choose_target(kind, file_format, target):
    """The oldest system that a model is for.

    Args:
        kind: one of KINDS.
        file_format: "mlmodel" or "mlpackage".
        target: name such as "macOS13" or "iOS16"; None for the oldest that the kind allows.

    Returns:
        coremltools.target.

    Raises:
        InputError: if there is no such system, or it does not run that kind, naming the one that does.
    """
    import coremltools as ct

    needed = ct.target.iOS13
    if file_format == "mlpackage":
        needed = ct.target.iOS16 if kind in SMALL else ct.target.iOS15
    if target is None:
        return needed
    require_system(target, needed.value, f"a .{file_format} with {kind} weights")
    return ct.target[target.replace(".", "_")]


def require_system(target, version, what):
    """Check that a system reads a specification version.

    Args:
        target: name such as "macOS13" or "iOS16".
        version: of the specification.
        what: what needs it, for the message.

    Raises:
        InputError: if there is no such system, or it is too old, naming the one of its family that is not.
    """
    import coremltools as ct

    systems = {name.replace("_", "."): system.value for name, system in ct.target.__members__.items()}
    if target not in systems:
        raise InputError(f"TARGET is {target!r}; choose one of {', '.join(systems)}")
    if systems[target] < version:
        family = target.rstrip("0123456789.")
        *_, first = (name for name, v in systems.items() if v == version and name.rstrip("0123456789.") == family)
        raise InputError(f"{what} needs {first}, not TARGET {target}; give --target {first}, or another kind of model")


def compress(model, kind):
    """Store the weights of a model smaller.

    Args:
        model: coremltools.models.MLModel; an ML program that computes in half precision holds its weights so already.
        kind: one of KINDS.

    Returns:
        MLModel.
    """
    if kind == "float32" or (kind == "float16" and model.get_spec().WhichOneof("Type") == "mlProgram"):
        return model
    if model.get_spec().WhichOneof("Type") == "mlProgram":
        return _compress_program(model, kind)
    return _compress_network(model, kind)


def _compress_program(model, kind):
    import coremltools.optimize.coreml as cto

    if kind == "linear8":
        config = cto.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=LEAST_WEIGHTS)
        return cto.linear_quantize_weights(model, cto.OptimizationConfig(global_config=config))
    config = cto.OpPalettizerConfig(mode="kmeans", nbits=int(kind[-1]), weight_threshold=LEAST_WEIGHTS)
    return cto.palettize_weights(model, cto.OptimizationConfig(global_config=config))


def _compress_network(model, kind):
    import coremltools as ct
    from coremltools.models.neural_network import quantization_utils as quantization

    if kind in ("float16", "linear8"):
        options = {}
        if kind == "linear8":
            options["selector"] = quantization.AdvancedQuantizedLayerSelector(
                skip_layer_types=["batchnorm", "bias", "depthwiseConv"], minimum_conv_weight_count=LEAST_WEIGHTS
            )
        with contextlib.redirect_stdout(io.StringIO()):  # it tells of every layer
            result = quantization.quantize_weights(model, 16 if kind == "float16" else 8, "linear", **options)
        return result if hasattr(result, "get_spec") else ct.models.MLModel(result, skip_model_load=True)
    spec = model.get_spec()
    for weights in _large_weights(spec.neuralNetwork):
        _palettise(weights, int(kind[-1]))
    return ct.models.MLModel(spec, skip_model_load=True)


def _large_weights(network):
    for layer in network.layers:
        kind = layer.WhichOneof("layer")
        name = {"loadConstantND": "data"}.get(kind, "weights")
        message = getattr(layer, kind)
        if name in message.DESCRIPTOR.fields_by_name and len(getattr(message, name).floatValue) >= LEAST_WEIGHTS:
            yield getattr(message, name)


def _palettise(message, bits):
    """Replace the numbers of a WeightParams by a palette and the places in it, packed from the highest bit on.

    As `quantize_weights` of coremltools does, which holds every bit as an object of Python on the way: several
    gigabytes for a U-net.
    """
    palette, places = best_palette(np.array(message.floatValue, np.float32), bits)
    ones = np.unpackbits(places.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :]
    message.rawValue = np.packbits(ones).tobytes()
    message.quantization.numberOfBits = bits
    message.quantization.lookupTableQuantization.floatValue[:] = palette
    del message.floatValue[:]


def best_palette(values, bits):
    """The 2^bits colours with the least sum of squared differences, by k-means in one dimension, which is exact.

    Args:
        values: (N,) float; they are rounded to half precision first, as coremltools does for ML programs.
        bits: int.

    Returns:
        colours (2^bits,) float32, and places (N,) int.
    """
    from coremltools.models.neural_network.quantization_utils import _get_kmeans_lookup_table_and_weight

    palette, places = _get_kmeans_lookup_table_and_weight(bits, values.astype(np.float16), force_kmeans1d=True)
    return palette.astype(np.float32).ravel(), np.asarray(places).ravel()
