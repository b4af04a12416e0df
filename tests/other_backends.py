"""Networks and losses on the backend of KERAS_BACKEND, for tests/training/test_backends.py.

    python tests/other_backends.py make FOLDER      write small networks, each with its images and masks
    python tests/other_backends.py compute FOLDER   compute with them, and write what came out to FOLDER/<backend>.npz

Outputs are probabilities, and for each loss its value and the probabilities after a step of plain gradient descent.
"""

import sys
from pathlib import Path

import keras
import numpy as np

import models  # noqa: F401  (registers the layers of the networks)
from losses import TERMS, get_loss
from models import build_model

QUIET = {"dropout": 0, "parallel_dropout": 0, "noise": 0}  # each backend draws others
NETWORKS = {  # name: network, shape, classes, settings
    "unet": ("unet", (24, 24, 1), 1, {"features": 4, "depth": 2}),
    "classes": ("unet", (24, 24, 1), 3, {"features": 4, "depth": 1}),
    "cvnet": ("cvnet_synapse", (72, 72, 1), 1, {"width": 0.1, **QUIET}),
    "cvnet_512": ("cvnet_synapse_512", (128, 128, 1), 1, {"width": 0.1, **QUIET}),
    "mobilenet": ("deeplab_v3plus", (40, 40, 1), 1, {"backbone": "mobilenetv2", "alpha": 0.35}),
    "xception": ("deeplab_v3plus", (32, 32, 1), 1, {}),
    "pretrained": ("pretrained_unet", (64, 64, 1), 1, {}),
    "volumes": ("se_resunet3d", (16, 16, 16, 1), 1, {"features": 2, "depth": 1, "ratio": 2, "noise": 0}),
    "unet3d": ("unet3d", (12, 24, 24, 1), 1, {"features": 2, "spacing": (3, 1, 1), "size": (12, 24, 24)}),
}
LOSSES = sorted(TERMS)  # all with "unet", or "classes" for several; the others with these
FEW = ["bce+dice"]


def make(folder):
    for number, (name, (network, shape, classes, settings)) in enumerate(NETWORKS.items()):
        keras.utils.set_random_seed(number)
        model = build_model(network, shape, classes, **settings)
        for layer in model.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0  # each backend draws others
        model.save(folder / f"{name}.keras")
        x = np.random.default_rng(number).random((2, *shape), np.float32)
        y = np.minimum(x * (classes + 1), classes).astype(np.uint8)
        np.savez(folder / f"{name}.npz", x=x, y=y)


def compute(folder):
    outputs = {}
    for name, (_, _, classes, _) in NETWORKS.items():
        with np.load(folder / f"{name}.npz") as arrays:
            x, y = arrays["x"], arrays["y"]
        model = keras.saving.load_model(folder / f"{name}.keras", compile=False)
        start = model.get_weights()
        outputs[name] = probabilities(model, x)
        losses = [loss for loss in LOSSES if classes > 1 or loss != "cce"] if name in ("unet", "classes") else FEW
        for loss in losses:
            model.set_weights(start)
            model.compile(keras.optimizers.SGD(0.01), get_loss(loss, classes, len(x.shape) - 2), jit_compile=False)
            if keras.backend.backend() == "tensorflow":
                model.run_eagerly = loss not in FEW  # which saves compiling; on JAX it is slower
            outputs[f"{name} {loss}"] = np.float32(model.train_on_batch(x, y))
            outputs[f"{name} {loss} step"] = probabilities(model, x)
        model.save(folder / "copy.keras")
        copy = keras.saving.load_model(folder / "copy.keras", compile=False)
        np.testing.assert_allclose(probabilities(copy, x), probabilities(model, x), atol=1e-5, err_msg=name)
    np.savez(folder / f"{keras.backend.backend()}.npz", **outputs)


def probabilities(model, x):
    if keras.backend.backend() == "jax":
        return model.predict_on_batch(x)
    return keras.ops.convert_to_numpy(model(x, training=False))


if __name__ == "__main__":
    {"make": make, "compute": compute}[sys.argv[1]](Path(sys.argv[2]))
