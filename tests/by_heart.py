"""A network learns a few images by heart."""

import pytest

from losses.metrics import Overlap


def learn_by_heart(model, images, labels):
    """Train a compiled model on one batch until its Dice is above 0.95; fails after 150 steps."""
    metric = Overlap("dice")
    for step in range(150):
        model.train_on_batch(images, labels)
        if step % 25 == 24:
            metric.reset_state()
            metric.update_state(labels, model.predict_on_batch(images))
            if metric.result() > 0.95:
                return
    pytest.fail(f"Dice {float(metric.result()):.3f} after 150 steps")
