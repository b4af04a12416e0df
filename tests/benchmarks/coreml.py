"""Conversion and check of every network at its own width, in both kinds, as a user runs them.

python tests/benchmarks/coreml.py [name ...]

Each network is trained for a few steps first, so that no statistic is at its start value, and is checked on slices of
../shared/data/membrane. A line gives what the check found, the seconds and the greatest memory of the whole process.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import comparing

SLICES = comparing.ROOT.parent / "shared" / "data" / "membrane" / "case01"
STEPS = 4

# What a line is called: name of the network, side of its images, settings.
NETWORKS = {
    "unet 200": ("unet", 200, {}),
    "unet 512": ("unet", 512, {}),
    "cvnet_synapse 200": ("cvnet_synapse", 200, {}),
    "cvnet_synapse_512": ("cvnet_synapse_512", 512, {}),
    "deeplab_v3plus mobilenetv2 200": ("deeplab_v3plus", 200, {"backbone": "mobilenetv2"}),
    "deeplab_v3plus mobilenetv2 512": ("deeplab_v3plus", 512, {"backbone": "mobilenetv2"}),
    "deeplab_v3plus xception 16 200": ("deeplab_v3plus", 200, {}),
    "deeplab_v3plus xception 8 200": ("deeplab_v3plus", 200, {"output_stride": 8}),
    "deeplab_v3plus xception 16 512": ("deeplab_v3plus", 512, {}),
}
WAYS = [
    ("--format", "mlmodel", "--input-kind", "array"),
    ("--format", "mlmodel", "--input-kind", "image"),
    ("--format", "mlpackage", "--input-kind", "array"),
    ("--format", "mlpackage", "--input-kind", "image"),
    ("--format", "mlpackage", "--compression", "float16"),
]


def main(wanted):
    with tempfile.TemporaryDirectory() as folder:
        for title in wanted or NETWORKS:
            file = Path(folder, "network.keras")
            subprocess.run([sys.executable, __file__, "--train", title, file], check=True)
            for way in WAYS:
                print(f"{title} {' '.join(way[1::2])}: {convert(file, way)}", flush=True)


def train(title, file):
    """Train a network for STEPS on the slices and save it."""
    from common import devices

    devices.import_keras()
    import cv2
    import numpy as np

    from losses import get_loss
    from models import build_model

    name, side, settings = NETWORKS[title]
    devices.set_up(1, deterministic=False)
    network = build_model(name, (side, side, 1), **settings)
    network.compile("adam", get_loss("bce+dice"), jit_compile=False)
    x, y = (
        np.stack([cv2.resize(cv2.imread(str(SLICES / kind / f"000{n}.png"), 0), (side, side)) for n in (1, 2)])[
            ..., None
        ]
        for kind in ("x", "y")
    )
    for _ in range(STEPS):
        network.train_on_batch((x / 255).astype(np.float32), (y > 127).astype(np.uint8))
    network.save(file)


def convert(file, way):
    """Convert a network and give the line of the check, or of the error, with seconds and memory."""
    output = file.with_name(f"model.{way[1]}")
    command = ["convert_coreml.py", "--run", file, *way, "--output", output, "--slices", SLICES, "--replace"]
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=comparing.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    printed = process.stdout.read()
    _, _, usage = os.wait4(process.pid, 0)
    said = next(
        (line for line in printed.splitlines() if line.startswith("check  ") or "error" in line), printed[-300:]
    )
    return f"{said.removeprefix('check').strip()}; {time.monotonic() - started:.0f} s, {usage.ru_maxrss / 1e6:.1f} GB"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train(*sys.argv[2:])
    else:
        main(sys.argv[1:])
