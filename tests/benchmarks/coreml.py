"""Convert and check every network at its full width, in both formats, as a user does.

python tests/benchmarks/coreml.py [title ...]

Each network is trained for a few steps first, so that no statistic keeps its initial value, and is checked on slices
of ../shared/data/membrane. Each line has the result of the check, the seconds and the peak memory of the whole process.
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

# From the title of a line to network, image size and settings.
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
OPTIONS = [
    ("--format", "mlmodel", "--input-kind", "array"),
    ("--format", "mlmodel", "--input-kind", "image"),
    ("--format", "mlpackage", "--input-kind", "array"),
    ("--format", "mlpackage", "--input-kind", "image"),
    ("--format", "mlpackage", "--compression", "float16"),
]


def main(titles):
    with tempfile.TemporaryDirectory() as folder:
        for title in titles or NETWORKS:
            file = Path(folder, "network.keras")
            subprocess.run([sys.executable, __file__, "--train", title, file], check=True)
            for options in OPTIONS:
                print(f"{title} {' '.join(options[1::2])}: {convert(file, options)}", flush=True)


def train(title, file):
    """Train a network for STEPS on the slices and save it."""
    from common import devices  # in the process that trains, so that memory is its own

    devices.import_keras()
    import cv2
    import numpy as np

    from losses import get_loss
    from models import build_model

    name, size, settings = NETWORKS[title]
    devices.set_up(1, deterministic=False)
    network = build_model(name, (size, size, 1), **settings)
    network.compile("adam", get_loss("bce+dice"), jit_compile=False)

    def read_slices(folder):
        images = [cv2.imread(str(SLICES / folder / name), cv2.IMREAD_GRAYSCALE) for name in ("0001.png", "0002.png")]
        return np.stack([cv2.resize(image, (size, size)) for image in images])[..., None]

    x, y = read_slices("x"), read_slices("y")
    for _ in range(STEPS):
        network.train_on_batch((x / 255).astype(np.float32), (y > 127).astype(np.uint8))
    network.save(file)


def convert(file, options):
    """Convert a network; return the line of the check, or of the error, with seconds and memory."""
    output = file.with_name(f"model.{options[1]}")
    command = ["convert_coreml.py", "--run", file, *options, "--output", output, "--slices", SLICES, "--replace"]
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
    results = [line for line in printed.splitlines() if line.startswith("check  ") or "error" in line]
    result = (results or [printed[-300:]])[0].removeprefix("check").strip()
    return f"{result}; {time.monotonic() - started:.0f} s, {usage.ru_maxrss / 1e6:.1f} GB"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train(*sys.argv[2:])
    else:
        main(sys.argv[1:])
