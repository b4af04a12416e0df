"""A reference interpreter for Core ML models: it runs a saved .mlmodel or .mlpackage on any computer.

It executes the graph and the weights of the file as Apple's specification defines them (the comments in the protocol
buffers of coremltools, and the documentation of its intermediate language), with nothing else at hand: no part of it
sees the network that the file was made from. Where a program computes in half precision, every result is rounded to it.
Apple's own arithmetic on a device can differ in the last digits.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.errors import InputError


@dataclass
class End:
    """An input or output of a model.

    Attributes:
        name: str.
        kind: "array", or "image" for a grey image of 0..255.
        shape: of the array, or (height, width).
        number: type of the numbers of an array, such as "FLOAT32" or "DOUBLE"; "UINT8" for an image.
        factor, offset: a pixel of an image becomes factor * pixel + offset.
        inner_shape: the shape that the graph works with.
    """

    name: str
    kind: str
    shape: tuple
    number: str = "FLOAT32"
    factor: float = 1.0
    offset: float = 0.0
    inner_shape: tuple | None = None

    def read(self, value):
        """What is given for an input, as the float32 array that the graph works with."""
        value = np.asarray(value)
        if value.shape != self.shape:
            raise ValueError(f"{self.name} takes {self.shape}, not {value.shape}")
        if self.kind == "image" and value.dtype != np.uint8:
            raise ValueError(f"{self.name} takes an image of uint8, not {value.dtype}")
        value = value.astype(np.float32)
        if self.kind == "image":
            value = np.float32(self.factor) * value + np.float32(self.offset)
        return value.reshape(self.inner_shape or self.shape)

    def write(self, value):
        """An output in the shape that the file declares; pixels of an image are rounded to uint8."""
        if self.shape and value.size != np.prod(self.shape):
            raise ValueError(f"{self.name} declares {self.shape}; the graph gives {value.shape}")
        value = value.reshape(self.shape) if self.shape else value
        return value if self.kind == "array" else np.rint(value).clip(0, 255).astype(np.uint8)


@dataclass
class Step:
    """One layer or operation.

    Attributes:
        name, kind: str.
        inputs, outputs: names of values.
        compute: function of the arrays of `inputs` that returns a tuple of those of `outputs`.
    """

    name: str
    kind: str
    inputs: list
    outputs: list
    compute: object = field(repr=False)


class Model:
    """A model that can be run.

    Attributes:
        path: where it came from.
        inputs, outputs: lists of End.
        steps: list of Step, in the order of the file.
    """

    def __init__(self, path, inputs, outputs, steps):
        self.path, self.inputs, self.outputs, self.steps = path, inputs, outputs, steps
        self._last_use = {name: number for number, step in enumerate(steps) for name in step.inputs}

    def run(self, values, watch=None):
        """Run the model once.

        Args:
            values: dict of an array for each input: of its shape, or an image of uint8 (height, width).
            watch: function of (step, name, array), called for every value as it is made.

        Returns:
            dict of the outputs: float32 arrays, images as uint8.

        Raises:
            ValueError: if an input does not fit.
            InputError: if a step cannot be computed, naming it.
        """
        held = {end.name: end.read(values[end.name]) for end in self.inputs}
        kept = {end.name for end in self.outputs}
        for number, step in enumerate(self.steps):
            try:
                with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # as on the device: inf and NaN
                    results = step.compute(*(held[name] for name in step.inputs))
            except KeyError as error:
                raise InputError(f"{self.path}: {step.kind} {step.name} reads {error}, which nothing gives") from None
            except (ValueError, TypeError, IndexError, np.exceptions.AxisError) as error:
                raise InputError(f"{self.path}: {step.kind} {step.name} cannot be computed: {error}") from error
            for name, result in zip(step.outputs, results, strict=True):
                held[name] = result
                if watch:
                    watch(step, name, result)
            for name in {*step.inputs, *step.outputs} - kept:
                if self._last_use.get(name, number) <= number:
                    held.pop(name, None)
        missing = kept - set(held)
        if missing:
            raise InputError(f"{self.path}: nothing gives the output {min(missing)}")
        return {end.name: end.write(held[end.name]) for end in self.outputs}


def open_model(path):
    """Read a saved model.

    Args:
        path: .mlmodel of the neural-network kind, or .mlpackage with an ML program.

    Returns:
        Model.

    Raises:
        InputError: if the file is missing, damaged, of another kind, or newer than coremltools knows, or if it has a
            layer or an operation that is not known here, which is named.
    """
    import coremltools as ct

    from coreml import read_neural_network as neuralnetwork
    from coreml import read_program as program

    path = Path(path)
    spec = _read_spec(path)
    newest = max(version for name, version in vars(ct).items() if name.startswith("_SPECIFICATION_VERSION_IOS"))
    if spec.specificationVersion > newest:
        raise InputError(
            f"{path} has specification version {spec.specificationVersion}; coremltools {ct.__version__} knows those "
            f"up to {newest}"
        )
    kind = spec.WhichOneof("Type")
    readers = {"neuralNetwork": neuralnetwork.read_steps, "mlProgram": program.read_steps}
    if kind not in readers:
        raise InputError(f"{path} is a Core ML model of the kind {kind}; expected neuralNetwork or mlProgram")
    inputs, outputs = (
        [_read_end(end, path) for end in ends] for ends in (spec.description.input, spec.description.output)
    )
    steps = readers[kind](spec, inputs, path)
    return Model(path, inputs, outputs, steps)


def _read_spec(path):
    import coremltools as ct
    from google.protobuf.message import DecodeError

    if path.suffix not in (".mlmodel", ".mlpackage"):
        raise InputError(f"{path} is no Core ML model; expected a .mlmodel or a .mlpackage")
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if path.is_dir() != (path.suffix == ".mlpackage"):
        raise InputError(f"{path}: a .mlpackage is a folder and a .mlmodel a file; this is the other way round")
    if path.is_dir() and not (path / "Manifest.json").is_file():
        raise InputError(f"{path} is no Core ML package: it has no Manifest.json")
    try:
        spec = ct.utils.load_spec(str(path))
    except (DecodeError, RuntimeError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{path} is damaged, or no Core ML model: {reason}") from None
    if not spec.specificationVersion or not spec.WhichOneof("Type"):
        raise InputError(f"{path} is damaged, or no Core ML model: it names no kind of model")
    return spec


def _read_end(end, path):
    if end.type.HasField("imageType"):
        image = end.type.imageType
        if not image.ColorSpace.Name(image.colorSpace).startswith("GRAYSCALE"):
            raise InputError(f"{path}: {end.name} is a coloured image; only grey ones are known here")
        return End(end.name, "image", (image.height, image.width), "UINT8")
    if end.type.HasField("multiArrayType"):
        array = end.type.multiArrayType
        return End(end.name, "array", tuple(array.shape), array.ArrayDataType.Name(array.dataType))
    raise InputError(f"{path}: {end.name} is a {end.type.WhichOneof('Type')}; only arrays and images are known here")
