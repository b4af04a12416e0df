"""ONNX, LiteRT, OpenVINO and SavedModel: written by Keras' own export, and executed by the runtime of each format."""

import re
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from common.devices import silenced_libraries
from common.errors import InputError
from common.system_errors import raise_system_error
from coreml.convert import layer_of

INSTALL = "pip install -r requirements-export.txt"
TIMED_RUNS = 10
OF_INPUT = ("channels", "neighbors", "fit", "plane", "resampled", "stretched")  # fields of SliceData


# --- runtimes: each takes a batch of one, (1, ..., C) float32, and returns (1, ..., C)


def _load_onnx(path):
    import onnxruntime  # optional

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(["output"], {"input": batch})[0]


def _load_litert(path):
    import tensorflow as tf  # slow to import

    runner = tf.lite.Interpreter(str(path)).get_signature_runner()
    return lambda batch: runner(input=batch)["output"]


def _load_openvino(path):
    import openvino  # optional

    # On some processors, it would compute in half precision.
    model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda batch: model({"input": batch})["output"]


def _load_saved_model(path):
    import tensorflow as tf  # slow to import

    function = tf.saved_model.load(str(path)).signatures["serving_default"]
    return lambda batch: function(input=tf.constant(batch))["output"].numpy()


@dataclass(frozen=True)
class Format:
    """A format that Keras exports.

    Attributes:
        keras_name: name of the format in `keras.Model.export` that it is made from.
        ending: of the file, or of the folder.
        load: function from a path to the function that executes it.
        packages: what it needs apart from requirements.txt.
    """

    keras_name: str
    ending: str
    load: object
    packages: tuple = ()

    def missing_packages(self):
        """Names of its packages that are not installed, as a list."""
        return [name for name in self.packages if not find_spec(name)]


EXPORTS = {
    "onnx": Format("onnx", ".onnx", _load_onnx, ("tf2onnx", "onnxruntime")),
    "litert": Format("litert", ".tflite", _load_litert),
    "openvino": Format("onnx", ".xml", _load_openvino, ("tf2onnx", "openvino")),
    "saved_model": Format("tf_saved_model", "", _load_saved_model),
}


def usable(names, skip):
    """Formats whose packages are installed.

    Args:
        names: list of keys of EXPORTS; repetitions count once.
        skip: whether to take all formats instead and to print those that lack a package.

    Raises:
        InputError: if a package is missing and not `skip`.
    """
    found = {name: EXPORTS[name].missing_packages() for name in (EXPORTS if skip else names)}
    for name, packages in found.items():
        if packages:
            text = f"{name} needs packages that are not installed ({', '.join(packages)}); {INSTALL}"
            if not skip:
                raise InputError(f"FORMATS: {text}")
            print(f"skipping {text}")
    return [name for name, packages in found.items() if not packages]


class ExportedModel:
    """A saved model in its runtime, as `coreml.compare` runs it.

    Args:
        path: Path of the model.
        name: key of EXPORTS.

    Raises:
        InputError: if its runtime cannot load it.
    """

    def __init__(self, path, name):
        self.path, self.name = path, name
        self._execute = self._try(EXPORTS[name].load, path)

    def run(self, inputs):
        """Run it on {"input": (C, ...) float32}; returns {"output": (C, ...) float32}."""
        batch = np.ascontiguousarray(np.moveaxis(inputs["input"], 0, -1)[None], np.float32)
        return {"output": np.moveaxis(np.asarray(self._try(self._execute, batch))[0], -1, 0)}

    def _try(self, function, *arguments):
        try:
            with silenced_libraries():
                return function(*arguments)
        except Exception as error:  # the runtimes raise anything
            raise_system_error(error, self.path)
            raise InputError(f"{self.path.name}: cannot be executed ({_reason(error)}); use another format") from error


# --- writing


def check_network(network, source):
    """Check that a network takes one image or volume and returns one of the same size.

    Args:
        network: keras.Model.
        source: file that it was loaded from, for the message.

    Raises:
        InputError: if not.
    """
    tensors = [*getattr(network, "inputs", ()), *getattr(network, "outputs", ())]  # a user's class may lack these
    shapes = [tuple(tensor.shape[1:]) for tensor in tensors]
    if len(shapes) != 2 or len(shapes[0]) not in (3, 4) or shapes[0][:-1] != shapes[1][:-1]:
        raise InputError(
            f"{source}: unexpected input or output (found {' and '.join(map(str, shapes)) or 'none'}); expected one "
            "input (height, width, channels), or (slices, height, width, channels), and one output of the same size"
        )


def write_model(network, name, path, source):
    """Write a network in a format, with tensors called `input` and `output`, and any number of images per batch.

    Args:
        network: keras.Model in float32 with one input and one output.
        name: key of EXPORTS.
        path: Path to write, with the ending of the format; OpenVINO writes the weights to a .bin file next to it.
        source: file that the network was loaded from, for messages.

    Raises:
        InputError: if the format lacks an operation.
    """
    import keras  # import after choosing the backend

    model = keras.Model(network.inputs[0], {"output": network.outputs[0]})
    signature = [keras.InputSpec(shape=network.input_shape, dtype="float32", name="input")]
    written = path.with_suffix(".onnx") if name == "openvino" else path
    try:
        with silenced_libraries():
            model.export(str(written), format=EXPORTS[name].keras_name, verbose=False, input_signature=signature)
            if name == "openvino":
                _convert_to_openvino(written, path)
    except Exception as error:  # converters raise anything
        raise_system_error(error, tempfile.gettempdir())
        layer = next(filter(None, (layer_of(node, network) for node in re.findall(r"[\w/]+", str(error)))), None)
        reason = f"{_reason(error)}, layer {layer.name}" if layer else _reason(error)
        raise InputError(f"{source}: cannot be exported to {name} ({reason}); use another format") from error


def _convert_to_openvino(onnx_file, path):
    """Convert an ONNX file and remove it.

    Of the graph that Keras exports to OpenVINO itself, OpenVINO 2026.4 drops zero padding before a convolution with
    padding "same", such as that of a U-net whose side is no multiple of its step.
    """
    import openvino  # optional

    openvino.save_model(openvino.convert_model(onnx_file), path, compress_to_fp16=False)
    onnx_file.unlink()


def _reason(error):
    """The first line of an error message, or the operations that LiteRT lacks."""
    lacks = sorted(set(re.findall(r"\bFlex(\w+)|\btf\.(\w+) op is neither", str(error))))
    if lacks:
        return f"LiteRT has no operation {', '.join(filter(None, sum(lacks, ())))}"
    if "Select TensorFlow op" in str(error):
        return "LiteRT lacks an operation of this network"
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)[:200]


def interface_of(network, run, facts, threshold, class_names):
    """What a program must know to use an exported model, as JSON values.

    Args:
        network: keras.Model.
        run: `common.training.run_folder.Run`; empty for a single .keras file.
        facts: metadata of the model, see `coreml.metadata.recorded_facts`, and of `coreml.fold.calibrate`.
        threshold: probability above which a pixel is foreground.
        class_names: names without the background; []: as in training.
    """
    from models import has_overlapping_classes  # imports Keras, whose backend the script chooses

    data, channels = run.data, network.output_shape[-1]
    volumes = len(network.input_shape) == 5
    overlapping = has_overlapping_classes(network)
    exclusive = channels > 1 and not volumes and not overlapping
    scaled = {"divide_by": 2 ** (getattr(data, "bits", None) or 8) - 1}
    intensity = getattr(data, "intensity", None)
    found = {
        "network": facts["network"] or network.name,
        **{name: facts[name] for name in ("run", "weights", "scores", "spacing", "window")},
        "input": {
            "name": "input",
            "shape": network.input_shape,
            "axes": [*(["batch", "slice"] if volumes else ["batch"]), "row", "column", "channel"],
            "type": "float32",
            **{name: getattr(data, name, None) for name in OF_INPUT},
        },
        "normalization": {"intensity": intensity and intensity.model_dump()} if volumes else scaled,
        "output": {
            "name": "output",
            "shape": network.output_shape,
            "type": "float32",
            "values": "probability of background, then of each class" if exclusive else "probability of each class",
        },
        "classes": channels - 1 if exclusive else channels,
        "overlapping": overlapping or None,
        "class_names": class_names or facts["class_names"],
        "mask": "class of the largest probability" if exclusive else f"probability above {threshold:g}",
        "threshold": None if exclusive else threshold,
        "calibration": facts.get("calibration"),
    }
    return {name: value for name, value in found.items() if value is not None}


def milliseconds(function):
    """Median time of calls of a function without arguments, in ms; the first call is left out."""
    function()
    times = []
    for _ in range(TIMED_RUNS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))
