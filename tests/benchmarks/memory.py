"""Memory and time of a training step in 3-D with MEMORY "low" against "fast".

    python tests/benchmarks/memory.py [side] [features] [way]

With a way, "fast" or "low", only this one is measured. Each trains three steps on one drawn volume in a process of its
own. Memory is the greatest resident memory of the process, less that before the first step; time is processor time of
the last step, which other work hardly changes.
"""

import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

NETWORKS = ("se_resunet3d", "unet3d")


def step(name, memory, side, features):
    """Print MB and seconds of a step."""
    from common.devices import import_keras, set_up

    import_keras()
    import numpy as np

    from common.training.low_memory import save_memory
    from common.training.optimizer import compile_network
    from models import build_model

    set_up(1, True)
    sizes = {"size": (side,) * 3} if name == "unet3d" else {}
    model = build_model(name, (None, None, None, 1), features=features, **sizes)
    if memory == "low":
        save_memory(model)
    compile_network(model, "sgd", 0.01, "bce+dice", False)
    x = np.random.default_rng(0).normal(size=(1, side, side, side, 1)).astype(np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        start = time.process_time()
        model.train_on_batch(x, (x > 0.5).astype(np.uint8))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print((peak - before) / 1024, time.process_time() - start)


def measured(name, memory, side, features):
    """MB and seconds of a step, from a process of its own."""
    command = [sys.executable, __file__, name, memory, str(side), str(features)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return tuple(map(float, result.stdout.split()[-2:]))


def main(side=64, features=16, way=None):
    side, features = int(side), int(features)
    for name in NETWORKS:
        title = f"{name} of {features} features, {side}x{side}x{side}"
        if way:
            memory, seconds = measured(name, way, side, features)
            print(f"{title}: with MEMORY {way} {memory:.0f} MB; {seconds:.0f} s of processor time a step", flush=True)
            continue
        (fast, seconds), (low, other) = (measured(name, memory, side, features) for memory in ("fast", "low"))
        print(
            f"{title}: {fast:.0f} MB, with MEMORY low {low:.0f} MB; a step takes {other / seconds:.2f} times as long",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in NETWORKS:
        step(*sys.argv[1:3], *map(int, sys.argv[3:]))
    else:
        main(*sys.argv[1:])
