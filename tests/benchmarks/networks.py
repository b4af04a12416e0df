"""Every network at its own width on this machine: images a second in training, against Keras' own layers and bfloat16.

python tests/benchmarks/networks.py [name ...]
"""

import sys
from functools import partial

import comparing  # noqa: F401  (puts the project on the path)

BATCH, ROUNDS = 2, 2

# What a line is called: name of the network, side of its images, settings.
NETWORKS = {
    "unet": ("unet", 200, {}),
    "cvnet_synapse": ("cvnet_synapse", 200, {}),
    "deeplab_v3plus xception 16": ("deeplab_v3plus", 200, {}),
    "deeplab_v3plus xception 8": ("deeplab_v3plus", 200, {"output_stride": 8}),
    "deeplab_v3plus mobilenetv2": ("deeplab_v3plus", 200, {"backbone": "mobilenetv2"}),
    "cvnet_synapse_512": ("cvnet_synapse_512", 512, {}),
}


def main(wanted):
    from common import devices
    from common.training import autotune as trials

    devices.import_keras()
    import keras
    import numpy as np

    from common.training.optimizer import compile_network
    from losses import get_loss
    from models import build_model

    devices.set_up(1, deterministic=False)
    slowdown = trials.slowdown_of_bfloat16()
    tries_half = slowdown <= trials.GREATEST_SLOWDOWN
    print(f"a step of two convolutions takes {slowdown:.1f} times as long in bfloat16 as in float32")
    first = None
    for title in wanted or NETWORKS:
        name, side, settings = NETWORKS[title]
        build = partial(build_model, name, (side, side, 1), **settings)

        def as_train(build=build):
            model = build()
            compile_network(model, "nadam", 1e-3, "mse+dice", devices.usual_jit())
            return model

        def as_keras(build=build):
            model = build()
            model.compile("nadam", get_loss("mse+dice"), jit_compile=devices.usual_jit())
            return model

        rng = np.random.default_rng(0)
        x = rng.random((BATCH, side, side, 1), np.float32)
        batch = x, (x > 0.5).astype(np.uint8)
        own, keras_own = trials.time_steps({"own": as_train, "Keras": as_keras}, lambda b=batch: b, ROUNDS).values()
        half = "not tried"
        if tries_half:
            seconds = trials.time_precisions(as_train, lambda b=batch: b, ROUNDS)
            half = f"{seconds['float32'] / seconds['mixed_bfloat16']:.2f} times as fast"
        first = first or own
        print(
            f"{title}: {BATCH / own:.2f} images/s in float32, {first / own:.2f} times the first, "
            f"{keras_own / own:.2f} times Keras' own layers; bfloat16 {half}",
            flush=True,
        )
        keras.utils.clear_session()


if __name__ == "__main__":
    main(sys.argv[1:])
