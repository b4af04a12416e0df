"""The Hausdorff loss against a hundred dilations, and what it costs a step: python tests/benchmarks/hausdorff.py"""

import time

from comparing import compare

BATCH, SIZE, FEATURES = 8, 200, 16


def make_batch():
    """BATCH discs as masks, and predictions that are nearly them."""
    import numpy as np

    rng = np.random.default_rng(0)
    rows, columns = np.indices((SIZE, SIZE))
    centers = rng.integers(SIZE // 4, 3 * SIZE // 4, (BATCH, 2, 1, 1))
    masks = ((rows - centers[:, 0]) ** 2 + (columns - centers[:, 1]) ** 2 < (SIZE // 6) ** 2)[..., None]
    predictions = (0.8 * np.roll(masks, 9, axis=1) + 0.1 + rng.uniform(-0.1, 0.1, masks.shape)).astype(np.float32)
    return masks.astype(np.uint8), predictions


def hundred_rounds(targets, probabilities):
    """The loss as AIS computes it: a hundred rounds of 3x3 max pooling for each of the two distances."""
    from keras import ops

    def distance(masks):
        total = grown = masks
        for _ in range(100):
            grown = ops.max_pool(grown, 3, 1, padding="same")
            total = total + grown
        return (101 - total) / 101

    hard = ops.cast(probabilities > 0.5, "float32")
    squares = ops.square(distance(targets)) + ops.square(ops.stop_gradient(distance(hard)))
    return ops.mean(ops.square(targets - probabilities) * squares, axis=(1, 2, 3))


def main():
    from common import devices

    devices.import_keras()
    import tensorflow as tf

    from losses import get_loss
    from losses.hausdorff import hausdorff
    from models import build_model

    devices.set_up(1, deterministic=False)
    masks, predictions = make_batch()
    targets, variable = tf.constant(masks, tf.float32), tf.Variable(predictions)

    def timed(function, repeats=5):
        @tf.function
        def step():
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(function(targets, variable))
            return loss, tape.gradient(loss, variable)

        def run():
            started = time.perf_counter()
            for _ in range(repeats):
                step()[1].numpy()
            return (time.perf_counter() - started) / repeats

        return run

    compare(
        f"Hausdorff loss forward and backward, {BATCH} masks of {SIZE}x{SIZE}, against a hundred rounds",
        timed(hausdorff),
        timed(hundred_rounds),
    )

    def step_with(loss):
        model = build_model("unet", (SIZE, SIZE, 1), features=FEATURES)
        model.compile("nadam", get_loss(loss), jit_compile=devices.usual_jit())

        def run():
            started = time.perf_counter()
            model.train_on_batch(predictions, masks)
            return time.perf_counter() - started

        return run

    compare(
        f"a step of a U-net of {FEATURES} features, hausdorff+dice against mse+dice",
        step_with("hausdorff+dice"),
        step_with("mse+dice"),
        rounds=7,
    )


if __name__ == "__main__":
    main()
