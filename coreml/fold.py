"""Fold the calibration of a run into the last layer of its network, so that 0.5 means the chosen threshold."""

import numpy as np
from scipy.special import expit, logit, softmax

GAIN_AND_SHIFT = (("kernel", "bias"), ("pointwise_kernel", "bias"), ("gamma", "beta"), ("w", "b"))  # names of weights
CHECKED = 4  # images
LARGEST_ERROR = 1e-4  # of a probability, against the calculation
KNOWN = 1e-4  # float32 probabilities closer to 0 or 1 do not determine their logits


def calibrate(network, calibration, images):
    """Fold threshold and temperature into the layer that computes the logits, in place, and print that.

    A logit z becomes (z - logit(threshold)) / temperature with a sigmoid, and z / temperature with a softmax.

    Args:
        network: keras.Model in float32; unchanged if its last layers do not allow this.
        calibration: `common.training.run_records.Calibration`; None: change nothing.
        images: list of (H, W, C) float32 in 0..1 to check on.

    Returns:
        dict of further metadata: "calibration", with threshold and temperature, if they are in the network now.
    """
    if calibration is None:
        return {}
    folded = {"threshold": calibration.threshold, "temperature": calibration.temperature}
    folded = {name: round(value, 6) for name, value in folded.items() if value is not None}
    values = ", ".join(f"{name} {value:.4g}" for name, value in folded.items())
    layer = fold(network, images[:CHECKED], **folded)
    if layer is None:
        print(f"{values}: not in the model, since its last layers are not a convolution with sigmoid or softmax")
        return {}
    print(f"{values}: folded into layer {layer.name}" + ("; 0.5 means the threshold" if calibration.threshold else ""))
    return {"calibration": folded}


def fold(network, images, temperature, threshold=0.5):
    """Fold a temperature and a threshold into the last layer with weights, in place.

    Args:
        network: keras.Model in float32, with a sigmoid for each channel, or a softmax.
        images: list of (H, W, C) float32 in 0..1; the result on them is compared with the calculation.
        temperature: above 0.
        threshold: 0 to 1, for a sigmoid.

    Returns:
        keras.Layer that was changed; None, with the network as before, if this does not fold them.
    """
    layer = _last_with_weights(network)
    names = {weight.name: weight for weight in layer.weights} if layer else {}
    gain, shift = next((pair for pair in GAIN_AND_SHIFT if pair[0] in names), (None, None))
    offset = logit(threshold)
    if gain is None or (offset and shift not in names):
        return None
    from models import classes_of  # loads Keras; the script chose its backend

    before, sigmoid = layer.get_weights(), classes_of(network) == network.output_shape[-1]
    expected = [_calibrated(_predict(network, image), temperature, offset, sigmoid) for image in images]
    names[gain].assign(names[gain].numpy() / temperature)
    if shift in names:
        names[shift].assign((names[shift].numpy() - offset) / temperature)
    if all(_matches(_predict(network, image), *pair) for image, pair in zip(images, expected, strict=True)):
        return layer
    layer.set_weights(before)
    return None


def _last_with_weights(network):
    """Last layer with weights on the way to the output, if the layers after it form a line; otherwise None."""
    tensor = network.outputs[0]
    while True:
        layer = next((layer for layer in network.layers if _only(layer, "output") is tensor), None)
        if layer is None or layer.weights:
            return layer
        tensor = _only(layer, "input")


def _only(layer, side):
    """Input or output tensor of a layer; None if it is used several times, or is the input of the network."""
    try:
        return getattr(layer, side)
    except (AttributeError, ValueError):
        return None


def _predict(network, image):
    return np.asarray(network.predict_on_batch(image[None])[0], np.float64)


def _calibrated(probabilities, temperature, offset, sigmoid):
    """Probabilities (H, W, C) after calibration, and where they are known, (H, W)."""
    known = ((probabilities > KNOWN) & (probabilities < 1 - KNOWN)).all(axis=-1)
    probabilities = np.clip(probabilities, KNOWN, 1 - KNOWN)
    if sigmoid:
        return expit((logit(probabilities) - offset) / temperature), known
    return softmax(np.log(probabilities) / temperature, axis=-1), known


def _matches(found, expected, known):
    return np.abs(found - expected)[known].max(initial=0) <= LARGEST_ERROR
