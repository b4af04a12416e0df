"""Twenty steps with every loss in every precision, and with every network: the loss is finite and falls.

python tests/benchmarks/learning.py [losses] [networks]

The tests hold a part of this; all of it takes a while. A line for each run that does not learn, and a count at the end.
"""

import itertools
import sys

import comparing

sys.path[:0] = [str(comparing.ROOT / "tests"), str(comparing.ROOT / "tests" / "models")]

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
NETWORK_LOSSES = ("mse+dice", "hausdorff+dice")
RUNS = None  # how many of the runs; None: all


def main(wanted):
    from common import devices

    devices.import_keras()
    import keras
    import test_models as tests

    from losses import TERMS

    runs = []
    if "losses" in wanted:
        alone = [name for name in TERMS if name != "cce"] + ["series"]
        summed = [f"{name}+{overlap}" for name in alone for overlap in ("dice", "iou") if name not in ("dice", "iou")]
        runs += itertools.product(["unet"], alone + summed, POLICIES)
    if "networks" in wanted:
        runs += itertools.product(tests.SMALL, NETWORK_LOSSES, POLICIES[:2])
    runs, failed = runs[:RUNS], 0
    for network, loss, policy in runs:
        try:
            keras.config.set_dtype_policy(policy)
            tests.test_twenty_steps_lower_the_loss(network, loss, policy)
        except AssertionError as error:
            failed += 1
            print(f"{network}, {loss}, {policy}: {str(error).splitlines()[0]}", flush=True)
    print(f"{len(runs)} runs, {failed} without learning")


if __name__ == "__main__":
    main(sys.argv[1:] or ["losses", "networks"])
