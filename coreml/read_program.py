"""Core ML models of the ML-program kind: their operations, in order, as steps that can be computed.

Values of half precision are held as float32 numbers that half precision can hold: every result is rounded to it, once,
after a computation in float32.
"""

import numpy as np

from common.errors import InputError
from coreml.program_operations import OPERATIONS


def read_steps(spec, inputs, path):
    """Steps of a model.

    Args:
        spec: Model message of coremltools.
        inputs: list of End; those that are images get the shape that the program works with.
        path: the package, in which the weights lie.

    Returns:
        list of Step.

    Raises:
        InputError: if the program or its weights are damaged, or for an operation that is not known here.
    """
    from coremltools.converters.mil.frontend.milproto.load import load

    _check_operations(spec, path)
    try:
        program = load(spec, spec.specificationVersion, str(path / "Data" / "com.apple.CoreML" / "weights"))
    except Exception as error:  # whatever the reader runs into: lengths, types, names, the file of weights
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{path} is damaged: coremltools cannot read its program: {reason}") from None
    function = program.functions["main"]
    for end in inputs:
        end.inner_shape = tuple(function.inputs[end.name].shape)
    constants, steps = {}, []
    for operation in function.operations:
        if operation.op_type == "const":
            constants[operation.outputs[0].name] = _constant(operation.outputs[0].val)
        else:
            steps.append(_read_step(operation, constants))
    ready = []
    for step in steps:  # constants that are unpacked: once, not with every image
        if step.inputs or not step.kind.startswith("constexpr"):
            ready.append(step)
            continue
        try:
            constants[step.outputs[0]] = step.compute()[0]
        except (ValueError, TypeError, IndexError) as error:
            raise InputError(f"{path}: {step.kind} {step.name} cannot be unpacked: {error}") from error
    return ready


def _check_operations(spec, path):
    if "main" not in spec.mlProgram.functions:
        raise InputError(f"{path} is damaged: its program has no function main")
    function = spec.mlProgram.functions["main"]
    for operation in function.block_specializations[function.opset].operations:
        if operation.type != "const" and operation.type not in OPERATIONS:
            name = operation.outputs[0].name if operation.outputs else "without a name"
            raise InputError(f"{path}: operation {name} is of the kind {operation.type}, which is not known here")


def _constant(value):
    """A constant as Python or float32 numbers: half precision holds none that float32 does not."""
    if isinstance(value, np.ndarray) and value.dtype == np.float16:
        return value.astype(np.float32)
    return float(value) if isinstance(value, np.float16) else value


def _read_step(operation, constants):
    from coreml.model import Step

    names = {}
    for parameter, variable in operation.inputs.items():
        if variable is not None:
            several = isinstance(variable, (list, tuple))
            names[parameter] = [one.name for one in variable] if several else variable.name
    flat = [name for one in names.values() for name in (one if isinstance(one, list) else [one])]
    fixed = set(constants) | {v.name for v in _variables(operation) if v.op and v.op.op_type.startswith("constexpr")}
    inputs = list(dict.fromkeys(name for name in flat if name not in fixed))
    types = [variable.dtype.__name__ for variable in operation.outputs]
    function = OPERATIONS[operation.op_type]

    def compute(*arrays):
        held = dict(zip(inputs, arrays, strict=True))

        def value(name):
            return held[name] if name in held else constants[name]

        arguments = {
            p: [value(n) for n in name] if isinstance(name, list) else value(name) for p, name in names.items()
        }
        results = function(**arguments)
        results = results if isinstance(results, (list, tuple)) else (results,)
        return tuple(_in_type(result, kind) for result, kind in zip(results, types, strict=True))

    return Step(operation.outputs[0].name, operation.op_type, inputs, [v.name for v in operation.outputs], compute)


def _variables(operation):
    for variable in operation.inputs.values():
        yield from variable if isinstance(variable, (list, tuple)) else [variable] if variable is not None else []


def _in_type(value, kind):
    if kind == "fp16":
        return np.asarray(value).astype(np.float16).astype(np.float32)
    types = {"fp32": np.float32, "bool": np.bool_, "int": np.int32}
    return np.asarray(value).astype(types.get(kind, getattr(np, kind, None)))
