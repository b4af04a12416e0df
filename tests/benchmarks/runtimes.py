"""A network with statistics, and the runtimes that execute it, for benchmarks of prediction."""

import importlib.util
import os
import time

import numpy as np

BATCH = 8
OPENVINO_HALF = "OpenVINO in its default precision"


def make_network(features, side, path):
    """Save a U-net whose batch normalization has statistics other than 0 and 1, as after training."""
    import keras

    from models import build_model

    rng = np.random.default_rng(0)
    network = build_model("unet", (side, side, 1), features=features)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    network.save(path)


def seconds(predict, found):
    """Seconds that `predict` takes; what it gives becomes the content of the list `found`."""
    start = time.perf_counter()
    found[:] = predict()
    return time.perf_counter() - start


def over_batches(execute, x):
    return [p for start in range(0, len(x), BATCH) for p in execute(x[start : start + BATCH])]


def runtimes(network, folder):
    """Function of a batch by name: each installed runtime in float32, and OpenVINO in the precision that it prefers."""
    found, file = {}, str(folder / "network.onnx")
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("tf2onnx"):
        import onnxruntime  # optional

        network.predict_on_batch(
            np.zeros((1, *network.input_shape[1:]), np.float32)
        )  # Keras exports only what was called
        network.export(file, format="onnx", verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))  # by default, also on cores that we may not use
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        found["ONNX Runtime"] = lambda x: session.run(None, {name: x})[0]
        if importlib.util.find_spec("openvino"):
            import openvino  # optional

            for kind, hint in {"OpenVINO": {"INFERENCE_PRECISION_HINT": "f32"}, OPENVINO_HALF: {}}.items():
                compiled = openvino.Core().compile_model(file, "CPU", hint)
                found[kind] = lambda x, compiled=compiled: compiled(x)[0]
    return found
