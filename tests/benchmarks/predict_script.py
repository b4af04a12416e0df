"""Prediction of a volume by the whole predict.py, against runtimes that have its slices in memory.

    python tests/benchmarks/predict_script.py [slices] [rounds] [other copy of the project]

A volume of 512x512x300 (or so many slices) is written as NIfTI; the network is a U-net of 16 features. Ours is the
process from its start to its end: loading libraries, reading, network, masks, overlays, labels and page written.
ONNX Runtime and OpenVINO only execute the exported network on batches in memory. All compute in float32; on a CPU that
computes bfloat16, predict.py in bfloat16 is also compared with OpenVINO in its default precision. With another copy of
the project, such as an older version, its predict.py is compared too, as it comes.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from comparing import ROOT, compare, run
from runtimes import OPENVINO_HALF, make_network, over_batches, runtimes, seconds

from common.devices import has_bfloat16, import_keras
from common.prediction.precision import HALF
from common.slices.images import to_unit
from common.training.trained_models import load_network

SIDE, FEATURES = 512, 16


def draw(path, slices):
    """Write a volume of a body with noise, in air with less; returns it, (N, H, W) uint8."""
    import SimpleITK as sitk  # slow to import
    from scipy import ndimage

    rng = np.random.default_rng(0)
    back, left = np.ogrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    body = (back / 0.7) ** 2 + (left / 0.9) ** 2 < 1
    organs = 900 * ndimage.gaussian_filter(rng.normal(size=(slices, SIDE, SIDE)), (2, 12, 12))
    volume = np.where(body, 120 + organs + rng.normal(0, 8, organs.shape), rng.normal(8, 2, organs.shape))
    volume = volume.clip(0, 255).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(volume), str(path))
    return volume


def main(slices=300, rounds=3, other=None):
    import_keras()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_network(FEATURES, SIDE, folder / "network.keras")
        volume = draw(folder / "volume.nii", int(slices))
        others = runtimes(load_network(folder / "network.keras"), folder)
        files = ["--run", folder / "network.keras", "--input", folder / "volume.nii", "--output", folder / "predicted"]

        def script(*settings, project=ROOT):
            return run(Path(project, "predict.py"), *files, "--replace", *settings)[0]

        def execute(network):
            return seconds(partial(over_batches, network, to_unit(volume)[..., None]), [])

        pairs = [("float32", name, partial(execute, network)) for name, network in others.items()]
        pairs = [pair for pair in pairs if pair[1] != OPENVINO_HALF]
        if has_bfloat16() and OPENVINO_HALF in others:
            pairs.append((HALF, OPENVINO_HALF, partial(execute, others[OPENVINO_HALF])))
        if other:
            pairs.append(("auto", f"predict.py of {other}", partial(script, project=other)))
        for precision, name, theirs in pairs:
            what = f"volume of {SIDE}x{SIDE}x{slices}, U-net of {FEATURES} features, {precision}, against {name}"
            compare(what, partial(script, "--precision", precision), theirs, rounds=int(rounds), warm_up=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
