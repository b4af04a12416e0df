"""A reference interpreter for Core ML models; it runs a model that `coreml.reader` read, on any computer.

It executes the graph and weights of the file as Apple's specification defines them: the comments in coremltools'
protocol buffers and the documentation of its intermediate language. It never sees the original Keras network. If a
program computes in half precision, every result is rounded to it. Apple's arithmetic on a device can differ in the
last digits.
"""

from dataclasses import dataclass, field

import numpy as np

from common.errors import InputError


@dataclass
class Feature:
    """An input or output of a model.

    Attributes:
        name: str.
        type: "array", or "image" for an image of 0..255.
        shape: of the array, or (height, width) of a gray image, or (height, width, 3) of an RGB image.
        data_type: element type, such as "FLOAT32" or "DOUBLE"; "UINT8" for an image.
        scale, bias: the graph input of an image is scale * pixel + bias.
        graph_shape: shape inside the graph; None: `shape`.
    """

    name: str
    type: str
    shape: tuple
    data_type: str = "FLOAT32"
    scale: float = 1.0
    bias: float = 0.0
    graph_shape: tuple | None = None

    def to_graph(self, value):
        """Convert an input to the float32 array for the graph.

        Args:
            value: array of `shape`; uint8 for an image.

        Raises:
            ValueError: for another shape or type.
        """
        value = np.asarray(value)
        if value.shape != self.shape:
            raise ValueError(f"{self.name}: wrong shape (found {value.shape}, expected {self.shape})")
        if self.type == "image" and value.dtype != np.uint8:
            raise ValueError(f"{self.name}: wrong image type (found {value.dtype}, expected uint8)")
        value = value.astype(np.float32)
        if self.type == "image":
            value = np.float32(self.scale) * value + np.float32(self.bias)
            value = value.transpose(2, 0, 1) if value.ndim == 3 else value
        return value.reshape(self.graph_shape or self.shape)

    def from_graph(self, value):
        """Convert an output of the graph to the declared shape; pixels of an image are rounded to uint8.

        Raises:
            ValueError: if the shape does not fit.
        """
        if self.shape and value.size != np.prod(self.shape):
            raise ValueError(f"{self.name}: wrong shape (found {value.shape} in the graph, declared {self.shape})")
        value = value.reshape(self.shape) if self.shape else value
        return value if self.type == "array" else np.rint(value).clip(0, 255).astype(np.uint8)


@dataclass
class Operation:
    """A layer of a neural network, or an operation of an ML program.

    Attributes:
        name: str.
        type: Core ML's name for what it computes, such as "convolution" or "conv".
        inputs, outputs: lists of value names.
        compute: function from the arrays of `inputs` to a tuple of the arrays of `outputs`.
    """

    name: str
    type: str
    inputs: list
    outputs: list
    compute: object = field(repr=False)


class Model:
    """A model that can be run.

    Attributes:
        path: file that it was read from.
        inputs, outputs: lists of Feature.
        operations: list of Operation, in the order of the file.
    """

    def __init__(self, path, inputs, outputs, operations):
        self.path, self.inputs, self.outputs, self.operations = path, inputs, outputs, operations
        self._last_use = {name: i for i, operation in enumerate(operations) for name in operation.inputs}

    def run(self, inputs, watch=None):
        """Run the model once.

        Args:
            inputs: dict of input name to array: of its shape; uint8 for an image.
            watch: function of (operation, value name, array), called for every computed value.

        Returns:
            dict of outputs: float32 arrays, images as uint8.

        Raises:
            ValueError: if an input does not fit.
            InputError: if an operation fails; the message names it.
        """
        values = {feature.name: feature.to_graph(inputs[feature.name]) for feature in self.inputs}
        output_names = {feature.name for feature in self.outputs}
        for i, operation in enumerate(self.operations):
            results = self._compute(operation, values)
            for name, result in zip(operation.outputs, results, strict=True):
                values[name] = result
                if watch:
                    watch(operation, name, result)
            for name in {*operation.inputs, *operation.outputs} - output_names:
                if self._last_use.get(name, i) <= i:
                    values.pop(name, None)
        missing = output_names - set(values)
        if missing:
            raise InputError(f"{self.path}: nothing computes the output {min(missing)}")
        return {feature.name: feature.from_graph(values[feature.name]) for feature in self.outputs}

    def _compute(self, operation, values):
        title = f"{self.path}: {operation.type} {operation.name}"
        try:
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # as on the device: inf and NaN
                return operation.compute(*(values[name] for name in operation.inputs))
        except KeyError as error:
            raise InputError(f"{title} reads {error}, which nothing computes") from None
        except (ValueError, TypeError, IndexError, np.exceptions.AxisError) as error:
            raise InputError(f"{title} cannot be computed: {error}") from error
