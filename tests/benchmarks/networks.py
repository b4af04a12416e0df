"""Every network at its own width on this machine: images a second, and float32 against bfloat16.

python tests/benchmarks/networks.py [name ...]
"""

import sys

import paired  # noqa: F401  (puts the project on the path)

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
    from common import devices, trials

    devices.import_keras()
    import keras
    import numpy as np

    from losses import get_loss
    from models import build_model

    devices.set_up(1, deterministic=False)
    slowdown = trials.slowdown_of_bfloat16()
    policies = ("float32", "mixed_bfloat16") if slowdown <= trials.GREATEST_SLOWDOWN else ("float32",)
    print(f"a step of two convolutions takes {slowdown:.1f} times as long in bfloat16 as in float32")
    first = None
    for title in wanted or NETWORKS:
        name, side, settings = NETWORKS[title]

        def make_model(name=name, side=side, settings=settings):
            model = build_model(name, (side, side, 1), **settings)
            model.compile("nadam", get_loss("mse+dice"), jit_compile=devices.usual_jit())
            return model

        rng = np.random.default_rng(0)
        x = rng.random((BATCH, side, side, 1), np.float32)
        batch = x, (x > 0.5).astype(np.uint8)
        seconds = trials.time_precisions(make_model, lambda batch=batch: batch, ROUNDS, policies)
        first = first or seconds["float32"]
        half = (
            "not tried" if len(policies) == 1 else f"{seconds['float32'] / seconds['mixed_bfloat16']:.2f} times as fast"
        )
        rate, ratio = BATCH / seconds["float32"], first / seconds["float32"]
        print(f"{title}: {rate:.2f} images/s in float32, {ratio:.2f} times the first; bfloat16 {half}", flush=True)
        keras.utils.clear_session()


if __name__ == "__main__":
    main(sys.argv[1:])
