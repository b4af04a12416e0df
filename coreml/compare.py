"""Compare an exported model with its Keras network, slice by slice, and find the first layer that differs."""

from dataclasses import dataclass

import numpy as np

from common.scores import count_pixels, scores_of_counts
from common.slices.classes import class_numbers, has_class, is_target, mean_dice, without_ignored
from common.words import number_of
from coreml.convert import layer_of


@dataclass
class Comparison:
    """How far a model and its Keras network agree on some slices or volumes.

    Attributes:
        slices: number of slices or volumes.
        max_difference, mean_difference: absolute difference of the probabilities, 0..1; None if the model outputs
            class numbers only.
        dice: Dice between the two masks, mean over the classes; 1 if both are empty.
        changed_pixels: number of pixels whose class differs.
        dice_to_truth: (Dice of Keras, Dice of the model) against the true masks, mean over the slices with a mask; None
            without any.
        axes: 2 for slices, 3 for volumes.
    """

    slices: int
    max_difference: float | None
    mean_difference: float | None
    dice: float
    changed_pixels: int
    dice_to_truth: tuple | None
    axes: int = 2

    def __str__(self):
        image, point = ("volume", "voxels") if self.axes == 3 else ("slice", "pixels")
        texts = [number_of(self.slices, image)]
        if self.max_difference is not None:
            texts.append(f"largest difference {self.max_difference:.2g}, mean {self.mean_difference:.2g}")
        texts.append(f"Dice between the masks {self.dice:.4f}, changed {point}: {self.changed_pixels}")
        if self.dice_to_truth:
            texts.append("Dice against the truth {:.4f} (Keras), {:.4f} (file)".format(*self.dice_to_truth))
        return "; ".join(texts)


def compare_on_slices(network, model, contract, images, truths):
    """Run both on slices.

    Args:
        network: keras.Model in float32.
        model: `coreml.model.Model`, AppleModel or `coreml.exports.ExportedModel`.
        contract: `coreml.convert.Contract` that the model was exported with.
        images: iterable of (H, W, C) float32 in 0..1, or of volumes (S, H, W, C).
        truths: iterable of true masks, class numbers (H, W) or None, one for each image.

    Returns:
        Comparison.
    """
    differences, changed_pixels, pixel_counts, dice_to_truth, slices, axes = [], 0, {}, [], 0, 2
    for image, truth in zip(images, truths, strict=True):
        keras_input, model_input = prepare_inputs(image, contract)
        expected = network.predict_on_batch(keras_input[None])[0]
        output = model.run({"input": model_input})["output"]
        channels = expected.shape[-1]
        differences.append(_probability_differences(output, expected, contract))
        rule = contract.threshold, contract.overlapping
        masks = class_numbers(expected, *rule), _mask_of_output(output, channels, contract)
        changed_pixels += int(np.count_nonzero(masks[0] != masks[1]))
        for number in range(1, channels + 1 if contract.overlapping else max(2, channels)):
            counts = count_pixels(has_class(masks[1], number), has_class(masks[0], number))
            pixel_counts[number] = np.add(pixel_counts.get(number, 0), counts)
        if truth is not None and is_target(truth).any():
            dice_to_truth.append([mean_dice(*without_ignored(mask, truth)) for mask in masks])
        slices, axes = slices + 1, expected.ndim - 1
    scores = [scores_of_counts(*counts)["dice"] for counts in pixel_counts.values()]
    scores = [score for score in scores if not np.isnan(score)]
    return Comparison(
        slices,
        *_max_and_mean(differences),
        float(np.mean(scores)) if scores else 1.0,
        changed_pixels,
        tuple(np.mean(dice_to_truth, axis=0).tolist()) if dice_to_truth else None,
        axes,
    )


def prepare_inputs(image, contract):
    """Prepare the Keras and model inputs for a slice.

    Args:
        image: (H, W, C) float32 in 0..1.
        contract: `coreml.convert.Contract`.

    Returns:
        Keras input (H, W, C) and model input: (C, H, W) float32, or an image uint8, to which both are rounded, (H, W)
        or RGB (H, W, 3).
    """
    if contract.input_kind == "array":
        return image, np.ascontiguousarray(np.moveaxis(image, -1, 0))
    pixels = np.rint(255 * image).astype(np.uint8)
    return pixels / np.float32(255), pixels[..., 0] if image.shape[-1] == 1 else pixels


def _probability_differences(output, expected, contract):
    """(maximum, sum, count) of the absolute differences, or None if the model outputs class numbers."""
    if contract.output_kind == "probabilities":
        probabilities = output
    elif contract.output_kind == "image" and expected.shape[-1] == 1:
        probabilities = output[None] / 255
    else:
        return None
    difference = np.abs(probabilities - np.moveaxis(expected, -1, 0).astype(np.float64))
    if contract.output_kind == "image":  # gray levels are rounded
        difference = np.maximum(difference - 0.5 / 255, 0)
    difference = np.where(np.isnan(difference), np.inf, difference)
    return difference.max(), difference.sum(), difference.size


def _max_and_mean(differences):
    if None in differences or not differences:
        return None, None
    maxima, sums, counts = zip(*differences, strict=True)
    return float(max(maxima)), float(sum(sums) / sum(counts))


def _mask_of_output(output, channels, contract):
    if contract.output_kind == "probabilities":
        return class_numbers(np.moveaxis(output, 0, -1), contract.threshold, contract.overlapping)
    if contract.output_kind == "image" and channels == 1:
        return class_numbers(output[..., None], 255 * contract.threshold)
    return np.rint(output.reshape(output.shape[-2:])).astype(np.uint8)


# --- the first layer that differs


@dataclass
class LayerDifference:
    """A layer whose output in the model does not match Keras.

    Attributes:
        layer: keras.Layer.
        operation: `coreml.model.Operation` that computes it.
        difference: largest absolute difference, as a fraction of the layer's largest absolute value.
        last_equal: name of the last layer that agrees, or None.
    """

    layer: object
    operation: object
    difference: float
    last_equal: str | None

    def __str__(self):
        matches = f"; the last that matches is {self.last_equal}" if self.last_equal else ""
        return (
            f"the first layer that differs is {self.layer.name} ({self.operation.type} {self.operation.name} in the "
            f"file), by {self.difference:.2g} of its largest value{matches}"
        )


def first_difference(network, model, contract, image, tolerance=1e-3):
    """Find the first layer whose output differs.

    Values of the model are matched to layers by name. A layer folded into another one has no value of its own; its
    faults show in the next layer with a value.

    Args:
        network: keras.Model.
        model: `coreml.model.Model`.
        contract: `coreml.convert.Contract`.
        image: (H, W, C) float32 in 0..1.
        tolerance: largest difference that passes, as a fraction of the layer's largest absolute value.

    Returns:
        LayerDifference, or None if all comparable layers agree.
    """
    import keras  # import after choosing the backend

    keras_input, model_input = prepare_inputs(image, contract)
    computed = _layer_values(network, model, model_input)
    layers = [layer for layer in network.layers if layer.name in computed]
    outputs = keras.Model(network.inputs, [layer.output for layer in layers]).predict_on_batch(keras_input[None])
    last_equal = None
    for layer, expected in zip(layers, outputs, strict=True):
        operation, value = computed[layer.name]
        difference = _relative_difference(value, np.asarray(expected))
        if difference is None:
            continue
        if not difference <= tolerance:
            return LayerDifference(layer, operation, difference, last_equal)
        last_equal = layer.name
    return None


def _layer_values(network, model, model_input):
    """Dict from layer name to the last (operation, value) of the model with this name."""
    values = {}

    def watch(operation, name, value):
        layer = layer_of(name, network)
        if layer is not None and value.ndim == len(network.input_shape) and not _is_depthwise_half(layer, name):
            values[layer.name] = operation, value

    model.run({"input": model_input}, watch)
    return values


def _is_depthwise_half(layer, name):
    """Whether a value is from the first half of a separable convolution; the second may be folded away."""
    import keras  # import after choosing the backend

    return isinstance(layer, keras.layers.SeparableConv2D) and "depthwise" in name


def _relative_difference(value, expected):
    """Largest difference as a fraction of the largest absolute value; None if the layouts cannot be compared."""
    candidates = [v for v in (value, np.moveaxis(value, 1, -1)) if v.shape == expected.shape]
    if not candidates:
        return None if value.size == expected.size else np.inf  # such as the output channels
    largest = max(float(np.abs(expected).max()), 1e-6)
    return min(float(np.abs(v - expected).max()) for v in candidates) / largest


# --- Core ML itself


class AppleModel:
    """A saved model that Core ML itself runs, on macOS.

    Args:
        path: .mlmodel or .mlpackage.
    """

    def __init__(self, path):
        import coremltools as ct  # slow to import

        self.model = ct.models.MLModel(str(path))

    def run(self, inputs):
        """Like `coreml.model.Model.run`."""
        from PIL import Image  # needed on macOS only

        inputs = {
            name: Image.fromarray(value) if value.dtype == np.uint8 else value.astype(np.float32)
            for name, value in inputs.items()
        }
        return {name: np.asarray(value) for name, value in self.model.predict(inputs).items()}
