"""Weights of layers of a Core ML neural network, from the forms in which a file holds them."""

import numpy as np


def weights(message, shape, axis=0):
    """Weights of a message as float32.

    Args:
        message: WeightParams: float32, float16, or numbers of 1 to 8 bits with a linear scale or a palette.
        shape: expected shape.
        axis: of its output channels, along which a linear scale of several numbers runs.

    Raises:
        ValueError: if the count does not fit.
    """
    count = int(np.prod(shape))
    if len(message.floatValue):
        values = np.array(message.floatValue, np.float32)
    elif message.float16Value:
        values = np.frombuffer(message.float16Value, "<f2").astype(np.float32)
    elif message.rawValue:
        return _dequantise(message, count, shape, axis)
    else:
        values = np.zeros(0, np.float32)
    if values.size != count:
        raise ValueError(f"{values.size} weights are there, {tuple(shape)} needs {count}")
    return values.reshape(shape)


def _dequantise(message, count, shape, axis):
    bits = message.quantization.numberOfBits
    if not 1 <= bits <= 8:
        raise ValueError(f"weights of {bits} bits")
    packed = np.frombuffer(message.rawValue, np.uint8)
    if packed.size != -(-count * bits // 8):
        raise ValueError(f"{packed.size} bytes are there, {tuple(shape)} in {bits} bits needs {-(-count * bits // 8)}")
    numbers = packed
    if bits < 8:  # the highest bit first, one number after the other
        ones = np.unpackbits(packed, count=count * bits).reshape(count, bits)
        numbers = np.packbits(ones, axis=1).ravel() >> (8 - bits)
    kind = message.quantization.WhichOneof("QuantizationType")
    if kind == "lookupTableQuantization":
        palette = np.array(message.quantization.lookupTableQuantization.floatValue, np.float32)
        if palette.size != 2**bits:
            raise ValueError(f"a palette of {palette.size} colours for {bits} bits")
        return palette[numbers].reshape(shape)
    if kind == "linearQuantization":
        linear = message.quantization.linearQuantization
        scale, bias = (np.array(v, np.float32) for v in (linear.scale, linear.bias))
        numbers = numbers.reshape(shape).astype(np.float32)
        along = [-1 if i == axis else 1 for i in range(len(shape))]
        return numbers * scale.reshape(along) + (bias.reshape(along) if bias.size else 0)
    raise ValueError("quantised weights without a scale or a palette")
