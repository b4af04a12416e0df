"""Read the weights of a layer of a Core ML neural network."""

import numpy as np


def read_weights(message, shape, axis=0):
    """Read weights as float32.

    Args:
        message: WeightParams: float32, float16, or integers of 1 to 8 bits with a linear scale or a palette.
        shape: expected shape.
        axis: axis of the output channels and of a linear scale with several values.

    Returns:
        array of `shape`, float32.

    Raises:
        ValueError: if the number of weights does not fit.
    """
    count = int(np.prod(shape))
    if len(message.floatValue):
        values = np.array(message.floatValue, np.float32)
    elif message.float16Value:
        values = np.frombuffer(message.float16Value, "<f2").astype(np.float32)
    elif message.rawValue:
        integers = _unpack(message.rawValue, message.quantization.numberOfBits, shape)
        return _dequantize(integers, message.quantization, axis)
    else:
        values = np.zeros(0, np.float32)
    if values.size != count:
        raise ValueError(f"wrong number of weights (found {values.size}, expected {count} for {tuple(shape)})")
    return values.reshape(shape)


def _unpack(raw, bits, shape):
    """Unpack integers of `bits` bits each, packed without gaps, highest bit first."""
    if not 1 <= bits <= 8:
        raise ValueError(f"wrong weight size (found {bits} bits, expected 1 to 8)")
    count = int(np.prod(shape))
    packed = np.frombuffer(raw, np.uint8)
    expected = -(-count * bits // 8)
    if packed.size != expected:
        raise ValueError(
            f"wrong number of bytes (found {packed.size}, expected {expected} for {tuple(shape)} in {bits} bits)"
        )
    if bits < 8:
        single_bits = np.unpackbits(packed, count=count * bits).reshape(count, bits)
        packed = np.packbits(single_bits, axis=1).ravel() >> (8 - bits)
    return packed.reshape(shape)


def _dequantize(integers, quantization, axis):
    match quantization.WhichOneof("QuantizationType"):
        case "lookupTableQuantization":
            palette = np.array(quantization.lookupTableQuantization.floatValue, np.float32)
            if palette.size != 2**quantization.numberOfBits:
                raise ValueError(
                    f"wrong palette size (found {palette.size} for {quantization.numberOfBits} bits, "
                    f"expected {2**quantization.numberOfBits})"
                )
            return palette[integers]
        case "linearQuantization":
            linear = quantization.linearQuantization
            scale, bias = (np.array(values, np.float32) for values in (linear.scale, linear.bias))
            along = [-1 if i == axis else 1 for i in range(integers.ndim)]
            return integers.astype(np.float32) * scale.reshape(along) + (bias.reshape(along) if bias.size else 0)
    raise ValueError("quantized weights have neither a scale nor a palette")
