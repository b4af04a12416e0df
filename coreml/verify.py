"""Verify a saved model: its inputs and outputs, its results on slices, and the output of every layer."""

import sys
from dataclasses import dataclass

from coreml.compare import AppleModel, Comparison, compare_on_slices, first_difference

LAYER_TOLERANCE = 1e-3  # max difference as a fraction of a layer's largest value, for float32 weights
COMPRESSED_LAYER_TOLERANCE = 0.05


@dataclass(frozen=True)
class Limits:
    """Limits that a model must stay within.

    Attributes:
        max_difference: max difference of a probability, for float32 weights; compressed weights only need the Dice.
        min_dice: min Dice between the masks of Keras and the model.
    """

    max_difference: float
    min_dice: float

    def exceeded_by(self, comparison, compressed):
        """List the exceeded limits as texts."""
        faults = []
        difference = None if compressed else comparison.max_difference
        if difference is not None and not difference <= self.max_difference:
            faults.append(f"the probabilities differ by {difference:.2g}, more than {self.max_difference:g}")
        if not comparison.dice >= self.min_dice:
            faults.append(f"the Dice between the masks is {comparison.dice:.4f}, less than {self.min_dice:g}")
        return faults


@dataclass
class Verification:
    """Result of `verify`.

    Attributes:
        faults: list of texts; empty if the model matches Keras.
        comparison: Comparison by the interpreter; None if the inputs or outputs do not match the contract.
        apple: Comparison by Core ML itself; None except on macOS.
    """

    faults: list
    comparison: Comparison | None = None
    apple: Comparison | None = None


def verify(network, model, contract, images, truths, limits, compressed):
    """Compare a saved model with Keras on all slices, and every layer on the first one.

    Args:
        network: keras.Model in float32.
        model: `coreml.model.Model`.
        contract: `coreml.convert.Contract`.
        images: list of (H, W, C) float32 in 0..1, or of volumes (S, H, W, C).
        truths: list of true masks, class numbers (H, W) or None.
        limits: Limits.
        compressed: whether weights are stored in less than float32.

    Returns:
        Verification.
    """
    faults = feature_mismatches(model, network, contract)
    if faults:
        return Verification(faults)
    comparison, apple = compare_on_slices(network, model, contract, images, truths), None
    faults = limits.exceeded_by(comparison, compressed)
    if faults or not compressed:  # slices may hide a fault inside
        tolerance = COMPRESSED_LAYER_TOLERANCE if compressed else LAYER_TOLERANCE
        difference = first_difference(network, model, contract, images[0], tolerance)
        if difference:
            faults.append(str(difference))
        elif faults:
            faults.append("every layer matches, so the difference is in how the input is read or the output is written")
    if sys.platform == "darwin":
        apple = compare_on_slices(network, AppleModel(model.path), contract, images, truths)
        faults += [f"in Core ML itself, {fault}" for fault in limits.exceeded_by(apple, compressed)]
    return Verification(faults, comparison, apple)


def feature_mismatches(model, network, contract):
    """List inputs and outputs that do not match the contract, as texts.

    Args:
        model: `coreml.model.Model`.
        network: keras.Model.
        contract: `coreml.convert.Contract`.
    """
    *sides, channels = network.input_shape[1:]
    data_type = "DOUBLE" if contract.format == "mlmodel" else "FLOAT32"
    image = "image", tuple(sides), "UINT8"
    expected_input = "array", (channels, *sides), data_type
    if contract.input_kind == "image":
        expected_input = image if channels == 1 else ("image", (*sides, channels), "UINT8")
    channels = network.output_shape[-1] if contract.output_kind == "probabilities" else 1
    expected_output = image if contract.output_kind == "image" else ("array", (channels, *sides), data_type)
    mismatches = []
    for name, expected, features in (
        ("input", expected_input, model.inputs),
        ("output", expected_output, model.outputs),
    ):
        found = {feature.name: (feature.type, feature.shape, feature.data_type) for feature in features}
        if found != {name: expected}:
            mismatches.append(
                f"wrong {name} (found {_describe(found) or 'none'}; expected {_describe({name: expected})})"
            )
    return mismatches


def _describe(features):
    return ", ".join("{}, an {} of {}, {}".format(name, *feature) for name, feature in features.items())


def unverified_path(path):
    """Path with the suffix -unverified, and a number if that exists."""
    stem, number = f"{path.stem}-unverified", 1
    path = path.with_stem(stem)
    while path.exists():
        number += 1
        path = path.with_stem(f"{stem}-{number}")
    return path
