"""Train with less memory: activations of a network are computed again in the backward pass.

Only tensors between levels are kept (gradient checkpointing, Chen et al., arXiv 1604.06174). The backward pass computes
a level again, of which it keeps what is between convolutions, and then one convolution after the other. Levels are
layers in a row whose names begin alike, such as `down1_1_conv` and `down1_add`. Weights, gradients and files are the
same but for rounding.

Layers that change state as they compute, such as batch normalization and dropout, would do so twice. Levels that
contain one are computed as usual, so this is for networks without them, as those for volumes are.
"""

import itertools
import re
from functools import partial

import keras

from models.layers import CropLike, PlanarConv3D

OWN = CropLike, PlanarConv3D  # of models/, which may be computed twice


def save_memory(model):
    """Let a model compute its levels again in the backward pass.

    Args:
        model: keras.Model made of layers by their inputs and outputs; changed in place.

    Returns:
        Number of levels that are computed again; 0 if there are none.
    """
    by_depth = getattr(model, "_nodes_by_depth", {})
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]
    if not nodes:
        return 0
    whole = Part(nodes, model.outputs, [_level_of, _convolutions()])
    count = sum(part.is_pure for part in whole.parts)
    if count:
        model.call = partial(_call, model, model.call, whole)
    for layer in model.layers:
        if type(layer) is PlanarConv3D:  # planes side by side take three times the memory of its input
            layer.convolution_op = partial(keras.layers.Conv3D.convolution_op, layer)
    return count


def _level_of(node):
    """Start of the name of a node's layer, up to its first number."""
    found = re.match(r"[a-z]+\d*", node.operation.name.lower())
    return found[0] if found else node.operation.name


def _convolutions():
    """Function of the nodes in turn that returns how many convolutions there were so far."""
    count = itertools.count()
    seen = [next(count)]

    def number(node):
        if hasattr(node.operation, "kernel_size"):
            seen[0] = next(count)
        return seen[0]

    return number


class Part:
    """Layers of a network in a row.

    Args:
        nodes: their nodes in Keras' graph, in order.
        wanted: symbolic tensors that are used outside of the part.
        keys: functions of a node whose value is equal within each smaller part, from large parts to small ones.

    Attributes:
        inputs, outputs: symbolic tensors that come from outside, and are used there.
        parts: list of smaller parts.
        is_pure: whether it may be computed twice, and has more than one layer.
    """

    def __init__(self, nodes, wanted, keys):
        self.nodes, key = nodes, keys[0] if keys else None
        made = {id(tensor) for node in nodes for tensor in node.outputs}
        taken = {id(tensor): tensor for node in nodes for tensor in node.input_tensors}
        self.inputs = [tensor for number, tensor in taken.items() if number not in made]
        wanted = {id(tensor): tensor for tensor in wanted}
        self.outputs = [tensor for node in nodes for tensor in node.outputs if id(tensor) in wanted]
        self.is_pure = len(nodes) > 1 and all(_is_pure(node.operation) for node in nodes)
        self.parts, groups = [], [list(group) for _, group in itertools.groupby(nodes, key)] if key else []
        for group in groups if len(groups) > 1 else []:
            others = [node for other in groups if other is not group for node in other]
            needed = [tensor for node in others for tensor in node.input_tensors]
            self.parts.append(Part(group, [*needed, *wanted.values()], keys[1:]))

    def run(self, training, *tensors):
        """Tensors for `outputs`, as a list, from those for `inputs`."""
        known = dict(zip(map(id, self.inputs), tensors, strict=True))
        for part in self.parts:
            run, taken = partial(part.run, training), [known[id(tensor)] for tensor in part.inputs]
            results = keras.remat(run)(*taken) if part.is_pure else run(*taken)
            known.update(zip(map(id, part.outputs), results, strict=True))
        for node in self.nodes if not self.parts else []:
            arguments, options = node.arguments.fill_in(known)
            if "training" in getattr(node.operation, "_call_context_args", {}):
                options["training"] = training
            results = keras.tree.flatten(node.operation(*arguments, **options))
            known.update(zip(map(id, node.outputs), results, strict=True))
        return [known[id(tensor)] for tensor in self.outputs]


def _is_pure(layer):
    """Whether a layer has no state that changes: no statistics and no random numbers."""
    is_known = type(layer) in OWN or type(layer).__module__.startswith("keras.")
    is_leaf = isinstance(layer, keras.layers.Layer) and not isinstance(layer, keras.Model)
    return is_known and is_leaf and not layer.non_trainable_variables and not hasattr(layer, "seed_generator")


def _call(model, usual, whole, inputs, training=None, mask=None):
    """In place of `Model.call`."""
    if not training:
        return usual(inputs, training=training, mask=mask)
    known = dict(zip(map(id, model.inputs), keras.tree.flatten(inputs), strict=True))
    outputs = whole.run(training, *(known[id(tensor)] for tensor in whole.inputs))
    outputs = dict(zip(map(id, whole.outputs), outputs, strict=True))
    outputs = [outputs[id(tensor)] for tensor in model.outputs]
    return outputs[0] if len(outputs) == 1 else outputs
