"""Convert a trained network to Core ML.

Reads   RUN: a run folder of train.py, or a .keras file
Writes  OUTPUT: a .mlmodel with the ends that A.I.Segmentation expects, or a .mlpackage
Takes   a minute and 4 GB of memory for a U-net of 200x200 and 31 million parameters on two cores

The model gives probabilities, 0..1: (1, H, W) for one class, (K + 1, H, W) for K classes with the background first.
Core ML itself runs on macOS only; the conversion runs anywhere.
"""

from common.settings import apply_command_line

# --- where from, where to
RUN = ""  # run folder of train.py, or a .keras file
WEIGHTS_FILE = "best_dice"  # which model of the run: "best_dice", "best_iou" or "last"
OUTPUT = ""  # file to write; empty: the run's name with the ending of FORMAT, in the run folder
REPLACE = False  # True to write over a model that exists

# --- kind of model
FORMAT = "mlmodel"  # "mlmodel": neural network, for A.I.Segmentation; "mlpackage": ML program, macOS 12 or later
INPUT_KIND = "array"  # "array": (1, H, W) of grey/255; "image": a grey image, 0..255

# --- what the model says about itself
AUTHOR = ""  # who made it
LICENCE = ""  # terms of use
DESCRIPTION = ""  # empty: network, size and classes
INPUT_DESCRIPTION = ""  # empty: what INPUT_KIND asks for
OUTPUT_DESCRIPTION = ""  # empty: what the probabilities are of

apply_command_line(globals())

import json
import logging
import os
import re
from collections import Counter
from pathlib import Path

from common.devices import import_keras
from common.errors import InputError
from common.files import read_json, refuse_existing, require_choice, whole_file, whole_folder
from common.runs import MODELS, load_network, model_file


def main():
    source, output = check_settings()
    settings, state = (read_record(source.with_name(name)) for name in ("settings.json", "state.json"))
    print(f"converting {source} to {output}", flush=True)
    load_libraries()
    network = load_network(source)
    check_ends(network, source)
    model = convert(single_precision(network), source)
    spec = model.get_spec()
    set_ends(spec, network.output_shape)
    describe(spec.description, network, source, settings, state)
    save(spec, model.weights_dir, output)
    report(output)


def check_settings():
    """Check the settings.

    Returns:
        Path of the .keras file, Path of the model to write.
    """
    require_choice(FORMAT, ("mlmodel", "mlpackage"), "FORMAT")
    require_choice(INPUT_KIND, ("array", "image"), "INPUT_KIND")
    require_choice(WEIGHTS_FILE, MODELS, "WEIGHTS_FILE")
    source = model_file(RUN, WEIGHTS_FILE)
    run = source.resolve().parent
    name = run.name if (run / "settings.json").is_file() else source.stem
    output = Path(OUTPUT) if OUTPUT else source.with_name(f"{name}.{FORMAT}")
    if output.suffix != f".{FORMAT}":
        raise InputError(f"OUTPUT: {output} does not end in .{FORMAT}; change the ending, or give another --format")
    refuse_existing(output, REPLACE)
    return source, output


def read_record(path):
    """Read what train.py recorded beside a model; empty for a model that stands alone."""
    record = read_json(path) if path.is_file() else {}
    if not isinstance(record, dict):
        raise InputError(f"{path} is damaged: it is not a JSON object")
    return record


def load_libraries():
    """Import Keras on TensorFlow, the only backend that coremltools reads, on the CPU and without chatter."""
    os.environ |= {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1", "TQDM_DISABLE": "1"}
    logging.getLogger("coremltools").setLevel(logging.ERROR)  # it warns of every TensorFlow after 2.12
    import_keras()


# --- from Keras to Core ML


def check_ends(network, source):
    """Raise InputError for a network that does not take one image of fixed size and give planes of that size."""
    ends = [*getattr(network, "inputs", ()), *getattr(network, "outputs", ())]  # a model of an own class may lack them
    match shapes := [tuple(end.shape[1:]) for end in ends]:
        case [(int(), int(), channels), (_, _, int())] if shapes[0][:2] == shapes[1][:2]:
            if INPUT_KIND == "image" and channels != 1:
                raise InputError(f"{source} takes {channels} channels, a grey image has one; give --input-kind array")
        case _:
            raise InputError(
                f"{source} has the ends {' and '.join(map(str, shapes)) or 'that no image fits'}; expected one input "
                "(height, width, channels) of fixed size and one output of the same height and width"
            )


def single_precision(network):
    """Rebuild a network in float32 with the same weights: coremltools reads no bfloat16."""

    def in_float32(config):
        if isinstance(config, dict):
            return {key: in_float32(value) for key, value in config.items()}
        if isinstance(config, (list, tuple)):
            return [in_float32(item) for item in config]
        if isinstance(config, str) and re.fullmatch(r"(mixed_)?b?float16", config):  # a policy, or the type of an end
            return "float32"
        return config

    copy = type(network).from_config(in_float32(network.get_config()))
    copy.set_weights(network.get_weights())
    return copy


def convert(network, source):
    """Convert a float32 network as it predicts: drop-out and noise layers fall away.

    The ends are planes, (C, H, W); the layout of Keras, (1, H, W, C), is made inside.

    Returns:
        coremltools.models.MLModel.

    Raises:
        InputError: if an operation has no counterpart in Core ML.
    """
    import coremltools as ct
    import tensorflow as tf

    height, width, channels = network.input_shape[1:]
    if INPUT_KIND == "image":
        shape = (1, height, width, 1)
        end = ct.ImageType("input", shape, scale=1 / 255, color_layout=ct.colorlayout.GRAYSCALE)
    else:
        shape = (channels, height, width)
        end = ct.TensorType("input", shape)

    @tf.function(input_signature=[tf.TensorSpec(shape, name="input")])
    def planes(x):
        if INPUT_KIND == "array":
            x = tf.transpose(tf.expand_dims(x, 0), (0, 2, 3, 1))
        return tf.squeeze(tf.transpose(network(x, training=False), (0, 3, 1, 2)), 0)

    options = {"convert_to": "neuralnetwork"}
    if FORMAT == "mlpackage":
        options = {"convert_to": "mlprogram", "compute_precision": ct.precision.FLOAT32}
    try:
        traced = planes.get_concrete_function()
        return ct.convert([traced], source="tensorflow", inputs=[end], skip_model_load=True, **options)
    except Exception as error:  # coremltools raises whatever its rule for an operation runs into
        unknown = re.match(r"Conversion for TF op '(\w+)' not implemented\.\s*name: \"(.+)\"", str(error))
        reason = str(error).strip().split("\n")[0]
        if unknown:
            reason = "Core ML has no operation {} ({}); build that layer of others".format(*unknown.groups())
        raise InputError(f"{source} does not convert: {reason}") from error


# --- the contract


def set_ends(spec, output_shape):
    """Name the output, and state both arrays of a neural network as the plugin reads them, in double."""
    import coremltools as ct

    ct.utils.rename_feature(spec, spec.description.output[0].name, "output")
    if FORMAT == "mlpackage":  # an ML program knows no double
        return
    _, height, width, planes = output_shape
    spec.description.output[0].type.multiArrayType.shape[:] = (planes, height, width)
    for end in (*spec.description.input, *spec.description.output):
        if end.type.HasField("multiArrayType"):
            end.type.multiArrayType.dataType = ct.proto.FeatureTypes_pb2.ArrayFeatureType.DOUBLE


def describe(description, network, source, settings, state):
    """Fill in the metadata: texts from the settings of this script, facts from those of the run and its state."""
    _, height, width, planes = network.output_shape
    classes = max(planes - 1, 1)
    name = settings.get("MODEL") or network.name
    what = "the mask" if planes == 1 else "background and classes"
    grey = "grey values divided by 255" if INPUT_KIND == "array" else "a grey image of 0..255"
    metadata = description.metadata
    metadata.author, metadata.license = AUTHOR, LICENCE
    metadata.shortDescription = DESCRIPTION or f"{name}, {height}x{width}, classes: {classes}"
    description.input[0].shortDescription = INPUT_DESCRIPTION or f"slice, {grey}"
    description.output[0].shortDescription = OUTPUT_DESCRIPTION or f"probability of {what}, 0..1"
    facts = {
        "network": name,
        "run": source.resolve().parent.name if settings else None,
        "weights": source.name,
        "score": (state.get(source.stem) or {}).get("score"),
        "classes": classes,
        "spacing": (state.get("data") or {}).get("spacing"),
        "settings": settings or None,
    }
    for key, value in facts.items():
        if value is not None:
            metadata.userDefined[key] = value if isinstance(value, str) else json.dumps(value)


def save(spec, weights, output):
    """Write a model; `weights` is the folder with the weights of an ML program."""
    import coremltools as ct

    with whole_file(output) if FORMAT == "mlmodel" else whole_folder(output, REPLACE) as part:
        ct.utils.save_spec(spec, str(part), weights_dir=weights)


# --- what was written


def report(path):
    """Read a model back and print its ends, its layers and its size."""
    import coremltools as ct

    spec = ct.utils.load_spec(str(path))
    for end in (*spec.description.input, *spec.description.output):
        image, array = end.type.imageType, end.type.multiArrayType
        if end.type.HasField("imageType"):
            print(f"{end.name:8}grey image of {image.height}x{image.width}")
        else:
            print(f"{end.name:8}array of {tuple(array.shape)}, {array.ArrayDataType.Name(array.dataType)}")
    kinds = layer_kinds(spec)
    print("layers ", ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))
    size = sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
    print(f"wrote {path}: {spec.WhichOneof('Type')}, {kinds.total()} layers, {size / 1e6:.3g} MB")


def layer_kinds(spec):
    """Layers of a neural network, or operations of an ML program, as a Counter of their kinds."""
    if spec.WhichOneof("Type") == "neuralNetwork":
        return Counter(layer.WhichOneof("layer") for layer in spec.neuralNetwork.layers)
    main_function = spec.mlProgram.functions["main"]
    operations = main_function.block_specializations[main_function.opset].operations
    return Counter(operation.type for operation in operations if operation.type != "const")


if __name__ == "__main__":
    main()
