"""Read the operations of a Core ML program.

Half-precision values are stored as the equal float32 numbers. An operation computes in float32, and its result is
rounded to half precision once.
"""

import numpy as np

from common.errors import InputError
from coreml.model import Operation
from coreml.program_operations import OPERATIONS

WEIGHTS_FOLDER = "Data/com.apple.CoreML/weights"  # inside a .mlpackage


def read_operations(spec, inputs, path):
    """Read the operations of a model.

    Args:
        spec: Model message of coremltools.
        inputs: list of Feature; sets their graph_shape.
        path: Path of the package, which contains the weights.

    Returns:
        list of Operation, without the constants.

    Raises:
        InputError: if the program or its weights are damaged, or for an unsupported operation.
    """
    _check_operations(spec, path)
    function = _load_program(spec, path).functions["main"]
    for feature in inputs:
        feature.graph_shape = tuple(function.inputs[feature.name].shape)
    constants, operations = {}, []
    for mil_operation in function.operations:
        if mil_operation.op_type == "const":
            constants[mil_operation.outputs[0].name] = _read_constant(mil_operation.outputs[0].val)
            continue
        operation = _read_operation(mil_operation, constants)
        if operation.inputs or not operation.type.startswith("constexpr"):
            operations.append(operation)
            continue
        try:  # compressed weights: unpack once, not for every image
            constants[operation.outputs[0]] = operation.compute()[0]
        except (ValueError, TypeError, IndexError) as error:
            raise InputError(f"{path}: {operation.type} {operation.name} cannot be unpacked: {error}") from error
    return operations


def _check_operations(spec, path):
    if "main" not in spec.mlProgram.functions:
        raise InputError(f"{path}: damaged (no function main in the program); copy or convert it again")
    function = spec.mlProgram.functions["main"]
    for operation in function.block_specializations[function.opset].operations:
        if operation.type != "const" and operation.type not in OPERATIONS:
            name = operation.outputs[0].name if operation.outputs else "without a name"
            raise InputError(f"{path}: unsupported type of operation {name} (found {operation.type})")


def _load_program(spec, path):
    from coremltools.converters.mil.frontend.milproto.load import load  # slow to import

    try:
        return load(spec, spec.specificationVersion, str(path / WEIGHTS_FOLDER))
    except Exception as error:  # coremltools raises anything: lengths, types, names, weights file
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"{path}: damaged (coremltools cannot read its program: {reason}); copy or convert it again"
        ) from None


def _read_constant(value):
    """A constant as Python or float32 numbers; float32 represents every half-precision number."""
    if isinstance(value, np.ndarray) and value.dtype == np.float16:
        return value.astype(np.float32)
    return float(value) if isinstance(value, np.float16) else value


def _read_operation(mil_operation, constants):
    """An operation with its constant arguments bound.

    Args:
        mil_operation: Operation of coremltools' intermediate language (MIL).
        constants: dict of name to constant, as read so far.
    """
    names = _argument_names(mil_operation)
    inputs = list(dict.fromkeys(name for name in _flatten(names.values()) if name not in constants))
    types = [variable.dtype.__name__ for variable in mil_operation.outputs]
    function = OPERATIONS[mil_operation.op_type]

    def compute(*arrays):
        values = dict(zip(inputs, arrays, strict=True))

        def value(name):
            return values[name] if name in values else constants[name]

        arguments = {
            parameter: [value(item) for item in name] if isinstance(name, list) else value(name)
            for parameter, name in names.items()
        }
        results = function(**arguments)
        results = results if isinstance(results, (list, tuple)) else (results,)
        return tuple(_round_to(result, dtype) for result, dtype in zip(results, types, strict=True))

    outputs = [variable.name for variable in mil_operation.outputs]
    return Operation(outputs[0], mil_operation.op_type, inputs, outputs, compute)


def _argument_names(mil_operation):
    """Dict from parameter to the name of its value, or a list of names."""
    names = {}
    for parameter, variable in mil_operation.inputs.items():
        if isinstance(variable, (list, tuple)):
            names[parameter] = [item.name for item in variable]
        elif variable is not None:
            names[parameter] = variable.name
    return names


def _flatten(names):
    for name in names:
        yield from name if isinstance(name, list) else [name]


def _round_to(value, dtype):
    if dtype == "fp16":
        return np.asarray(value).astype(np.float16).astype(np.float32)
    types = {"fp32": np.float32, "bool": np.bool_, "int": np.int32}
    return np.asarray(value).astype(types.get(dtype, getattr(np, dtype, None)))
