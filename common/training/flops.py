"""Floating-point operations of training, counted from the shapes of the layers, and what chips can do at most."""

import math
import re

import keras
from keras import layers

BACKWARD = 2  # a step backwards takes twice the operations of one forwards: for the inputs and for the weights
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)

# 1e12 operations a second in half precision, sums in float32, dense matrices; from NVIDIA's data sheets of the chips.
# The first name whose words stand in the device's own name counts.
PEAKS = {
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A40": 150,
    "A30": 165,
    "A10": 125,
    "V100": 125,
    "T4": 65,
    "RTX 4090": 165,
    "RTX 3090": 71,
    "RTX A6000": 155,
}


def image_flops(model):
    """Operations of a training step for each image.

    Those of convolutions and dense layers are counted, a product and a sum each, forwards and twice as many backwards.
    All else (normalisation, activations, pooling, loss) is small: TensorFlow's profiler counts 0.2 % more for a U-net.

    Args:
        model: keras.Model of layers with fixed shapes.

    Returns:
        float; 0 where no layer could be counted.
    """
    products = 0
    for layer in model.layers:
        kernels = [w for w in layer.trainable_weights if w.name.endswith("kernel")]
        tensor = getattr(layer, "input" if isinstance(layer, TRANSPOSED) else "output", None)
        if not kernels or not isinstance(tensor, keras.KerasTensor):
            continue
        if None not in (places := tensor.shape[1:-1]):
            products += sum(math.prod(kernel.shape) for kernel in kernels) * math.prod(places)
    return 2.0 * products * (1 + BACKWARD)


def peak_flops(device_name):
    """Greatest operations a second of a chip in half precision by words of its name; None where it is not known."""
    return next((1e12 * peak for name, peak in PEAKS.items() if re.search(rf"\b{name}\b", device_name)), None)
