"""Every network learns eight real slices by heart, is saved, loaded and converted to both kinds of Core ML model.

python tests/benchmarks/overfit.py [name ...]

The slices are crops of ../shared/data/membrane. Networks that would take hours on two cores are narrower here, or see
smaller crops, as their line says. DeepLab on MobileNetV2 gives an eighth of the size and has no skip,
so that membranes of six pixels are beyond it (Dice 0.90 after 500 steps); its crops are enlarged twice.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import comparing

SLICES = comparing.ROOT.parent / "shared" / "data" / "membrane"
COUNT, GOAL, MINUTES = 8, 0.95, 30

# What a line is called: name of the network, side of its images, settings, and how far the crops are enlarged.
NETWORKS = {
    "unet": ("unet", 200, {"features": 32, "dropout": 0.0}, 1),
    "cvnet_synapse": ("cvnet_synapse", 200, {"dropout": 0.0, "parallel_dropout": 0.0, "noise": 0.0}, 1),
    "cvnet_synapse_512": (
        "cvnet_synapse_512",
        256,
        {"width": 0.25, "dropout": 0.0, "parallel_dropout": 0.0, "noise": 0.0},
        1,
    ),
    "deeplab_v3plus xception 16": ("deeplab_v3plus", 200, {"dropout": 0.0}, 1),
    "deeplab_v3plus xception 8": ("deeplab_v3plus", 104, {"output_stride": 8, "dropout": 0.0}, 1),
    "deeplab_v3plus mobilenetv2": ("deeplab_v3plus", 200, {"backbone": "mobilenetv2", "dropout": 0.0}, 2),
}


def main(wanted):
    from common import devices

    devices.import_keras()
    devices.set_up(1, deterministic=False)
    for title in wanted or NETWORKS:
        learn(title, *NETWORKS[title])


def learn(title, name, side, settings, zoom):
    import keras
    import numpy as np

    from common.devices import usual_jit
    from losses import get_loss
    from models import build_model

    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    x, y = read_slices(side, zoom)
    model = build_model(name, (side, side, 1), **settings)
    model.compile(keras.optimizers.Nadam(1e-3), get_loss("bce+dice"), jit_compile=usual_jit())
    begun, steps, score = time.monotonic(), 0, 0.0
    while score < GOAL and time.monotonic() - begun < 60 * MINUTES:
        for _ in range(10):
            model.train_on_batch(x, y)
        steps += 10
        score = dice(model.predict(x, COUNT, verbose=0), y)
        print(f"\r{title}: {steps} steps, Dice {score:.3f}", end="", flush=True)
    minutes = (time.monotonic() - begun) / 60
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "network.keras")
        model.save(file)
        loaded = keras.saving.load_model(file, compile=False)
        same = np.array_equal(loaded.predict(x, COUNT, verbose=0), model.predict(x, COUNT, verbose=0))
        kinds = [kind for kind in ("mlmodel", "mlpackage") if converts(file, kind)]
    print(
        f"\r{title} {side}x{side} {settings}, {model.count_params():,} parameters: Dice {score:.3f} after {steps} "
        f"steps of {COUNT} slices, {minutes:.1f} minutes; loaded predictions {'equal' if same else 'DIFFER'}; "
        f"converts to {', '.join(kinds) or 'NOTHING'}",
        flush=True,
    )


def read_slices(side, zoom):
    """The middle of the first slices: (COUNT, side, side, 1), float32 scaled to 0..1 and uint8 masks of 0 and 1."""
    import cv2
    import numpy as np

    def read(kind, interpolation):
        found = []
        for file in sorted((SLICES / "case01" / kind).glob("*.png"))[:COUNT]:
            picture = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
            edge = (picture.shape[0] - side // zoom) // 2
            middle = picture[edge : edge + side // zoom, edge : edge + side // zoom]
            found.append(cv2.resize(middle, (side, side), interpolation=interpolation))
        return np.stack(found)[..., None]

    x, y = read("x", cv2.INTER_LINEAR), read("y", cv2.INTER_NEAREST)
    return (x / 255).astype(np.float32), (y > 0).astype(np.uint8)


def dice(predicted, mask):
    """Mean Dice of the slices at a threshold of 0.5."""
    both, sizes = (
        ((predicted > 0.5) & (mask > 0)).sum((1, 2, 3)),
        (predicted > 0.5).sum((1, 2, 3)) + mask.sum((1, 2, 3)),
    )
    return float((2 * both / sizes).mean())


def converts(file, kind):
    command = [sys.executable, "convert_coreml.py", "--run", file, "--format", kind, "--output", f"{file}.{kind}"]
    result = subprocess.run(list(map(str, command)), cwd=comparing.ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        print(result.stderr)
    return result.returncode == 0


if __name__ == "__main__":
    main(sys.argv[1:])
