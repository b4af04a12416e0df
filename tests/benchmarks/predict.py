"""Prediction of slices by a U-net on a CPU, against Keras' own operations, ONNX Runtime and OpenVINO, all in float32.

On a CPU that computes bfloat16, also in bfloat16, against float32 and against OpenVINO's own choice.

    python tests/benchmarks/predict.py [features]

Ours is what predict.py does between reading and writing: slices to batches, network, probabilities of each slice. The
others only execute the network on batches in memory; ONNX Runtime and OpenVINO are left out if they are not installed.
Each comparison alternates, since other work on the machine slows both alike. Needs about 4 GB.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from comparing import compare
from runtimes import BATCH, OPENVINO_HALF, make_network, over_batches, runtimes, seconds

from common.devices import has_bfloat16, import_keras
from common.prediction.ensemble import average_over, predict_images
from common.prediction.networks_in_workers import load_for_prediction
from common.prediction.precision import HALF
from common.slices.images import to_unit
from common.training.trained_models import load_network

SIDE, SLICES, ROUNDS = 512, 16, 5


def ours(network, slices):
    return [
        p for _, p in predict_images(slices, partial(map, partial(average_over, network)), SIDE, "resize", 0, BATCH)
    ]


def main(features=16):
    import_keras()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_network(int(features), SIDE, folder / "network.keras")
        slices = np.random.default_rng(1).integers(0, 256, (SLICES, SIDE, SIDE), np.uint8)
        x, plain, fast = (
            to_unit(slices)[..., None],
            *(load(folder / "network.keras") for load in (load_network, load_for_prediction)),
        )
        others = {"Keras' own operations": plain.predict_on_batch, **runtimes(plain, folder)}
        half = others.pop(OPENVINO_HALF, None)
        pairs = [("float32", fast, name, execute) for name, execute in others.items()]
        if has_bfloat16():
            in_half = load_for_prediction(folder / "network.keras", HALF)
            pairs.append(("bfloat16", in_half, "float32", fast.predict_on_batch))
            pairs += [("bfloat16", in_half, OPENVINO_HALF, half)] * bool(half)
        for precision, network, name, execute in pairs:
            mine, others_own = [], []
            compare(
                f"{SLICES} slices of {SIDE}x{SIDE}, U-net of {features} features, {precision}, against {name}",
                partial(seconds, partial(ours, network, slices), mine),
                partial(seconds, partial(over_batches, execute, x), others_own),
                rounds=ROUNDS,
            )
            print(
                f"  largest difference of probabilities {np.abs(np.subtract(mine, others_own)).max():.1e}", flush=True
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
