"""Layers that several networks share."""

from keras import layers


def output_layer(classes):
    """Last layer of every network: probabilities in float32 whatever the precision of the rest.

    Args:
        classes: 1 for a sigmoid, K > 1 for a softmax over K + 1 channels (the first is the background).
    """
    return layers.Activation("sigmoid" if classes == 1 else "softmax", dtype="float32", name="output")
