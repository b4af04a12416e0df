"""Read network files that were written for Keras 2: their imports, and the functions of its backend."""

import ast

import keras
from keras import ops

from models.extra_layers import GELU, FullSizePReLU, Square, SquareRoot, Swish
from models.layers import ParametricSwish, SynapticTransmissionRegulator

# Layers of Custom_layers.py of AIS Training Codeset, under their names there.
CUSTOM_LAYERS = {
    "FullSizePReLU": FullSizePReLU,
    "GELU": GELU,
    "ParametricSwish": ParametricSwish,
    "SQRT": SquareRoot,
    "Square": Square,
    "Swish": Swish,
    "SynapticTransmissionRegulator": SynapticTransmissionRegulator,
}
MOVED = {"keras.engine": "keras.layers", "keras.utils": "keras.utils"}  # packages whose modules Keras 3 does not have
RENAMED = {("LeakyReLU", "alpha"): "negative_slope"}  # arguments: class and name there, and here
RENAMED |= {
    (optimizer, "lr"): "learning_rate"
    for optimizer in ("SGD", "RMSprop", "Adagrad", "Adadelta", "Adam", "Adamax", "Nadam")
}


def translated(source, path):
    """Python code of a file for Keras 2, as a tree for Keras 3.

    Imports are found where they are now, arguments have their names of now, and `backend` is `Backend`.

    Args:
        source: bytes of the file.
        path: its path, for messages.

    Raises:
        SyntaxError: if it is no Python code.
        ImportError: if it uses a layer of Custom_layers.py that is not in CUSTOM_LAYERS.
    """
    return ast.fix_missing_locations(_ForKeras3().visit(ast.parse(source, path)))


class _ForKeras3(ast.NodeTransformer):
    def visit_ImportFrom(self, node):
        module = (node.module or "").removeprefix("tensorflow.")
        if module.rpartition(".")[2] == "Custom_layers":
            if missing := [alias.name for alias in node.names if alias.name not in CUSTOM_LAYERS]:
                raise ImportError(f"{missing[0]} of Custom_layers is not in the toolkit; copy the class into the file")
            return [_assign(alias, "CUSTOM_LAYERS[{!r}]") for alias in node.names]
        if module == "keras":
            backends = [_assign(alias, "Backend()") for alias in node.names if alias.name == "backend"]
            others = [alias for alias in node.names if alias.name != "backend"]
            return backends + [ast.ImportFrom(module, others, 0)] * bool(others)
        node.module = _moved(module) if module.startswith("keras.") else node.module
        return node

    def visit_Import(self, node):
        is_backend = {alias.name: alias.name.removeprefix("tensorflow.") == "keras.backend" for alias in node.names}
        backends = [_assign(alias, "Backend()") for alias in node.names if is_backend[alias.name] and alias.asname]
        others = [alias for alias in node.names if not (is_backend[alias.name] and alias.asname)]
        return backends + [ast.Import(others)] * bool(others)

    def visit_Call(self, node):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        for keyword in node.keywords:
            keyword.arg = RENAMED.get((name, keyword.arg), keyword.arg)
        return self.generic_visit(node)

    def visit_Attribute(self, node):
        node.attr = "shape" if node.attr == "_keras_shape" else node.attr
        return self.generic_visit(node)


def _moved(module):
    """Name in Keras 3 of a module of Keras 2, such as keras.layers for keras.layers.convolutional."""
    package = ".".join(module.split(".")[:2])
    return MOVED.get(package, "keras.layers" if package == "keras.layers" else module)


def _assign(alias, value):
    """Statement that assigns what this module has, instead of an import."""
    code = f"from models import keras2 as _keras2; {alias.asname or alias.name} = _keras2.{value.format(alias.name)}"
    return ast.If(ast.Constant(True), ast.parse(code).body, [])


class Backend:
    """The functions of `keras.backend` of Keras 2 that layers use, by those of `keras.ops`."""

    pow, flatten, permute_dimensions = map(staticmethod, (ops.power, ops.ravel, ops.transpose))

    @staticmethod
    def int_shape(x):
        return tuple(x.shape)

    @staticmethod
    def concatenate(tensors, axis=-1):
        return ops.concatenate(tensors, axis)

    def __getattr__(self, name):
        for place in (ops, keras.config):
            if hasattr(place, name):
                return getattr(place, name)
        raise AttributeError(f"backend.{name} is not in Keras 3; use keras.ops")
