"""Prediction of slices by a U-net on a CPU, against Keras' own operations, ONNX Runtime and OpenVINO, all in float32.

    python tests/benchmarks/predict.py [features]

Ours is what predict.py does between reading and writing: slices to batches, network, probabilities of each slice. The
others only execute the network on batches in memory; ONNX Runtime and OpenVINO are left out if they are not installed.
Each comparison alternates, since other work on the machine slows both alike. Needs about 4 GB.
"""

import importlib.util
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from comparing import compare

from common.devices import import_keras
from common.prediction.ensemble import average_over, predict_images
from common.prediction.networks_in_workers import load_for_prediction
from common.slices.images import to_unit
from common.training.trained_models import load_network

SIDE, SLICES, BATCH, ROUNDS = 512, 16, 8, 5


def make_network(features, path):
    """Save a U-net whose batch normalization has statistics other than 0 and 1, as after training."""
    import keras

    from models import build_model

    rng = np.random.default_rng(0)
    network = build_model("unet", (SIDE, SIDE, 1), features=features)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    network.save(path)


def seconds(predict, found):
    """Seconds that `predict` takes; what it gives becomes the content of the list `found`."""
    start = time.perf_counter()
    found[:] = predict()
    return time.perf_counter() - start


def ours(network, slices):
    return [
        p for _, p in predict_images(slices, partial(map, partial(average_over, network)), SIDE, "resize", 0, BATCH)
    ]


def over_batches(execute, x):
    return [p for start in range(0, len(x), BATCH) for p in execute(x[start : start + BATCH])]


def runtimes(network, folder):
    """Function of a batch for each installed runtime, as a dict by name."""
    found, file = {}, str(folder / "network.onnx")
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("tf2onnx"):
        import onnxruntime  # optional

        network.predict_on_batch(np.zeros((1, SIDE, SIDE, 1), np.float32))  # Keras exports only what was called
        network.export(file, format="onnx", verbose=False)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        found["ONNX Runtime"] = lambda x: session.run(None, {name: x})[0]
        if importlib.util.find_spec("openvino"):
            import openvino  # optional

            compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            found["OpenVINO"] = lambda x: compiled(x)[0]
    return found


def main(features=16):
    import_keras()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_network(int(features), folder / "network.keras")
        slices = np.random.default_rng(1).integers(0, 256, (SLICES, SIDE, SIDE), np.uint8)
        x, plain, fast = (
            to_unit(slices)[..., None],
            *(load(folder / "network.keras") for load in (load_network, load_for_prediction)),
        )
        others = {"Keras' own operations": plain.predict_on_batch, **runtimes(plain, folder)}
        for name, execute in others.items():
            mine, others_own = [], []
            compare(
                f"{SLICES} slices of {SIDE}x{SIDE}, U-net of {features} features, against {name}",
                partial(seconds, partial(ours, fast, slices), mine),
                partial(seconds, partial(over_batches, execute, x), others_own),
                rounds=ROUNDS,
            )
            print(
                f"  largest difference of probabilities {np.abs(np.subtract(mine, others_own)).max():.1e}", flush=True
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
