"""Whether an exported model does what the Keras network does: slice by slice, and layer by layer where it does not."""

from dataclasses import dataclass

import numpy as np

from common.scores import count_pixels, mean_dice, scores_of_counts
from common.slices.masks import class_numbers
from coreml.convert import layer_of


@dataclass
class Comparison:
    """What came out of a comparison.

    Attributes:
        slices: how many.
        largest, mean: absolute difference of the probabilities; None where the model gives class numbers only.
        dice: between the masks of the two, mean over the classes; 1 where all are empty.
        changed: pixels whose class differs.
        truth: (Dice of Keras, Dice of the model) against the truth, mean over the slices with a mask; None without any.
    """

    slices: int
    largest: float | None
    mean: float | None
    dice: float
    changed: int
    truth: tuple | None

    def in_words(self):
        words = [f"{self.slices} slices"]
        if self.largest is not None:
            words.append(f"largest difference {self.largest:.2g}, mean {self.mean:.2g}")
        words.append(f"Dice between the masks {self.dice:.4f}, {self.changed} pixels changed")
        if self.truth:
            words.append("Dice against the truth {:.4f} in Keras, {:.4f} in the file".format(*self.truth))
        return "; ".join(words)

    def beyond(self, largest_difference, least_dice):
        """What is beyond limits, as texts; None stands for no limit."""
        faults = []
        if None not in (largest_difference, self.largest) and not self.largest <= largest_difference:
            faults.append(f"the probabilities differ by {self.largest:.2g}, more than {largest_difference:g}")
        if not self.dice >= least_dice:
            faults.append(f"the Dice between the masks is {self.dice:.4f}, less than {least_dice:g}")
        return faults


def faults_of_ends(model, network, contract):
    """What of a model's ends is not as the contract says, as texts.

    Args:
        model: `coreml.model.Model`.
        network: keras.Model.
        contract: Contract.
    """
    (height, width, channels), planes = network.input_shape[1:], network.output_shape[-1]
    number = "DOUBLE" if contract.format == "mlmodel" else "FLOAT32"
    planes = planes if contract.output_kind == "probabilities" else 1
    image, taken, given = (
        ("image", (height, width), "UINT8"),
        ("array", (channels, height, width), number),
        ("array", (planes, height, width), number),
    )
    expected = {
        "input": image if contract.input_kind == "image" else taken,
        "output": image if contract.output_kind == "image" else given,
    }
    faults = []
    for name, ends in (("input", model.inputs), ("output", model.outputs)):
        found = {end.name: (end.type, end.shape, end.data_type) for end in ends}
        if found != {name: expected[name]}:
            faults.append(f"its {name} is {_in_words(found)}; expected {_in_words({name: expected[name]})}")
    return faults


def _in_words(ends):
    return (
        ", ".join(f"{name}, an {kind} of {shape}, {number}" for name, (kind, shape, number) in ends.items()) or "none"
    )


def prepare(image, contract):
    """What the two are given for a slice.

    Args:
        image: (H, W, C) float32 in 0..1.
        contract: `coreml.convert.Contract`.

    Returns:
        the same for Keras, and what the model takes: planes (C, H, W), or (H, W) uint8, to which both are rounded.
    """
    if contract.input_kind == "array":
        return image, np.ascontiguousarray(image.transpose(2, 0, 1))
    pixels = np.rint(255 * image[..., 0]).astype(np.uint8)
    return (pixels / np.float32(255))[..., None], pixels


def compare(network, model, contract, images, truths):
    """Run both on slices.

    Args:
        network: keras.Model in float32.
        model: what has `run(dict)`: `coreml.model.Model`.
        contract: Contract that the model was exported with.
        images: iterable of (H, W, C) float32 in 0..1.
        truths: iterable of class numbers (H, W), or of None, as many.

    Returns:
        Comparison.
    """
    largest, total, count, changed = 0.0, 0.0, 0, 0
    counts, dices, slices = {}, [], 0
    for image, truth in zip(images, truths, strict=True):
        image, given = prepare(image, contract)
        expected = network.predict_on_batch(image[None])[0]
        got = model.run({"input": given})["output"]
        masks = _mask_of_probabilities(expected, contract), _mask(got, expected.shape[-1], contract)
        probabilities = _probabilities(got, expected.shape[-1], contract)
        if probabilities is not None:
            difference = np.abs(probabilities - expected.transpose(2, 0, 1).astype(np.float64))
            if contract.output_kind == "image":  # a grey level is rounded
                difference = np.maximum(difference - 0.5 / 255, 0)
            difference = np.where(np.isnan(difference), np.inf, difference)
            largest, total, count = max(largest, difference.max()), total + difference.sum(), count + difference.size
        changed += int(np.count_nonzero(masks[0] != masks[1]))
        for number in range(1, max(2, expected.shape[-1])):
            pixels = count_pixels(masks[1] == number, masks[0] == number)
            counts[number] = np.add(counts.get(number, 0), pixels)
        if truth is not None and truth.any():
            dices.append([mean_dice(mask, truth) for mask in masks])
        slices += 1
    scores = [scores_of_counts(*pixels)["dice"] for pixels in counts.values()]
    scores = [score for score in scores if not np.isnan(score)]
    return Comparison(
        slices,
        float(largest) if count else None,
        float(total / count) if count else None,
        float(np.mean(scores)) if scores else 1.0,
        changed,
        tuple(np.mean(dices, axis=0).tolist()) if dices else None,
    )


def _probabilities(got, planes, contract):
    if contract.output_kind == "probabilities":
        return got
    return got[None] / 255 if contract.output_kind == "image" and planes == 1 else None


def _mask_of_probabilities(probabilities, contract):
    if probabilities.shape[-1] == 1:
        return (probabilities[..., 0] > contract.threshold).astype(np.uint8)
    return class_numbers(probabilities)


def _mask(got, planes, contract):
    if contract.output_kind == "probabilities":
        return _mask_of_probabilities(got.transpose(1, 2, 0), contract)
    if contract.output_kind == "image" and planes == 1:
        return (got > 255 * contract.threshold).astype(np.uint8)
    return np.rint(got.reshape(got.shape[-2:])).astype(np.uint8)


# --- where the two part company


def first_difference(network, model, contract, image, tolerance=1e-3):
    """Find the first layer whose output differs.

    Values of the model are known by the names of the layers that they were made from. A layer that was folded into
    another has no value of its own: a fault in it shows in the next one that has.

    Args:
        network: keras.Model.
        model: `coreml.model.Model`.
        contract: Contract.
        image: (H, W, C) float32 in 0..1.
        tolerance: difference that counts, as a share of the greatest value of the layer.

    Returns:
        dict of layer (keras.Layer), step (`coreml.model.Operation`), difference (that share) and before (name of the
        last layer that agrees, or None); or None where every layer that can be compared agrees.
    """
    import keras

    image, given = prepare(image, contract)
    last = {}  # name of a layer to the last step and value that carry its name

    def watch(step, name, value):
        layer = layer_of(name, network)
        if layer is not None and value.ndim == 4 and not _is_half_of(layer, name):
            last[layer.name] = step, value

    model.run({"input": given}, watch)
    layers = [layer for layer in network.layers if layer.name in last]
    outputs = keras.Model(network.inputs, [layer.output for layer in layers]).predict_on_batch(image[None])
    before = None
    for layer, expected in zip(layers, outputs, strict=True):
        step, value = last[layer.name]
        expected = np.asarray(expected)
        found = [v for v in (value, value.transpose(0, 2, 3, 1)) if v.shape == expected.shape]
        if not found:
            if value.size == expected.size:
                continue  # another layout, such as the planes of the output
            return {"layer": layer, "step": step, "difference": np.inf, "before": before}
        greatest = max(float(np.abs(expected).max()), 1e-6)
        difference = min(float(np.abs(v - expected).max()) for v in found) / greatest
        if not difference <= tolerance:
            return {"layer": layer, "step": step, "difference": difference, "before": before}
        before = layer.name
    return None


def _is_half_of(layer, name):
    """Whether a value is of the first half of a separable convolution; the second may be folded into what follows."""
    import keras

    return isinstance(layer, keras.layers.SeparableConv2D) and "depthwise" in name


def difference_in_words(found):
    """One line on the result of `first_difference`."""
    if found is None:
        return "every layer agrees: the difference lies in how the input is read or the output is written"
    agrees = f"after {found['before']}, which agrees, " if found["before"] else ""
    return (
        f"{agrees}they part company at layer {found['layer'].name}, {found['step'].type} {found['step'].name} in the "
        f"file, by {found['difference']:.2g} of its greatest value"
    )


# --- Apple's own


class AppleModel:
    """A saved model run by Core ML itself, on macOS.

    Args:
        path: .mlmodel or .mlpackage.
    """

    def __init__(self, path):
        import coremltools as ct

        self.model = ct.models.MLModel(str(path))

    def run(self, values):
        """As `coreml.model.Model.run`."""
        from PIL import Image

        given = {
            name: Image.fromarray(value) if value.dtype == np.uint8 else value.astype(np.float32)
            for name, value in values.items()
        }
        return {name: np.asarray(value) for name, value in self.model.predict(given).items()}
