"""Losses and metrics against references in NumPy that are written from the formulas."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from losses import TERMS, get_loss
from losses.metrics import Overlap, training_metrics

# --- references


def channels(mask, count):
    """Class numbers (B, H, W, 1) as (B, H, W, count) of float64."""
    return mask.astype(np.float64) if count == 1 else (mask == np.arange(count)).astype(np.float64)


def reference_term(name, t, p):
    t, p = t.astype(np.float64), p.astype(np.float64)
    if name == "mse":
        return ((t - p) ** 2).mean((1, 2, 3))
    clipped = p.clip(1e-7, float(np.float32(1 - 1e-7)))
    if name == "bce":
        return -(t * np.log(clipped) + (1 - t) * np.log(1 - clipped)).mean((1, 2, 3))
    if name == "cce":
        normal = (p / p.sum(-1, keepdims=True)).clip(1e-7, 1 - 1e-7)
        return -(t * np.log(normal)).sum(-1).mean((1, 2))
    if t.shape[-1] > 1:
        t, p = t[..., 1:], p[..., 1:]
    both, a, b = (t * p).sum((1, 2)), t.sum((1, 2)), p.sum((1, 2))
    top, bottom = (2 * both, a + b) if name == "dice" else (both, a + b - both)
    score = np.where(bottom == 0, 1.0, top / np.where(bottom == 0, 1, bottom))
    return (1 - score).mean(-1)


def reference(name, mask, p):
    t = channels(mask, p.shape[-1])
    return sum(reference_term(part, t, p) for part in name.split("+")).mean()


def example(seed, classes=1, batch=3, size=8):
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, classes + 1, (batch, size, size, 1)).astype(np.uint8)
    scores = rng.random((batch, size, size, 1 if classes == 1 else classes + 1)).astype(np.float32)
    return mask, scores if classes == 1 else scores / scores.sum(-1, keepdims=True)


BINARY = ["mse", "bce", "dice", "iou", "mse+dice", "mse+iou", "bce+dice", "bce+iou"]


# --- losses


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("seed", range(3))
def test_binary_losses(name, seed):
    mask, p = example(seed)
    assert float(get_loss(name)(mask, p)) == pytest.approx(reference(name, mask, p), rel=1e-5)


@pytest.mark.parametrize("name", [*BINARY, "cce", "cce+dice", "cce+iou"])
def test_losses_of_several_classes(name):
    mask, p = example(5, classes=3)
    assert float(get_loss(name)(mask, p)) == pytest.approx(reference(name, mask, p), rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.uint8, (2, 5, 4, 1), elements=st.integers(0, 1)),
    hnp.arrays(np.float32, (2, 5, 4, 1), elements=st.sampled_from([0, 1e-6, 0.25, 0.5, 1 - 2**-20, 1])),
    st.sampled_from(BINARY),
)
def test_losses_on_degenerate_inputs(mask, p, name):
    loss = float(get_loss(name)(mask, p))
    assert np.isfinite(loss)
    if p.sum() > 1e-3 or p.sum() == 0:  # sums near the epsilon of 1e-7 are rounded towards 1
        assert loss == pytest.approx(reference(name, mask, p), rel=1e-3, abs=1e-3)


def test_overlap_losses_of_empty_masks():
    """The rule: an empty mask costs nothing where nothing is predicted, and 1 where anything is."""
    empty, some = np.zeros((1, 4, 4, 1), np.uint8), np.full((1, 4, 4, 1), 0.5, np.float32)
    for name in ("dice", "iou"):
        assert float(get_loss(name)(empty, np.zeros_like(some))) == pytest.approx(0)
        assert float(get_loss(name)(empty, some)) == pytest.approx(1)


def test_known_values():
    """Two of four pixels in common of masks of three: Dice 2/3, IoU 1/2."""
    mask = np.array([1, 1, 1, 0], np.uint8).reshape(1, 2, 2, 1)
    p = np.array([1, 1, 0, 1], np.float32).reshape(1, 2, 2, 1)
    assert float(get_loss("dice")(mask, p)) == pytest.approx(1 / 3)
    assert float(get_loss("iou")(mask, p)) == pytest.approx(1 / 2)
    assert float(get_loss("mse")(mask, p)) == pytest.approx(1 / 2)


def test_sums_are_exact_in_float32_whatever_the_policy():
    """65,536 pixels of bfloat16 do not add up; the loss must not be computed in it."""
    mask = np.ones((1, 256, 256, 1), np.uint8)
    p = keras.ops.cast(np.full((1, 256, 256, 1), 0.75, np.float32), "bfloat16")
    assert float(get_loss("dice")(mask, p)) == pytest.approx(1 - 2 * 0.75 / 1.75, rel=1e-6)


@pytest.mark.parametrize("name", ["mse", "bce", "dice", "iou", "bce+iou"])
def test_gradients_are_those_of_finite_differences(name):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("takes gradients by TensorFlow")
    import tensorflow as tf

    mask, p = example(7, batch=2, size=4)
    p = p * 0.8 + 0.1
    variable = tf.Variable(p)
    with tf.GradientTape() as tape:
        loss = get_loss(name)(mask, variable)
    gradient = tape.gradient(loss, variable).numpy()
    rng = np.random.default_rng(0)
    for _ in range(5):
        at = tuple(rng.integers(0, side) for side in p.shape)
        step = np.zeros(p.shape)
        step[at] = 1e-5
        numeric = (reference(name, mask, p + step) - reference(name, mask, p - step)) / 2e-5
        assert gradient[at] == pytest.approx(numeric, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("name", ["", "dise", "mse+", "mse+mse", "MSE"])
def test_unknown_losses_are_refused(name):
    with pytest.raises(ValueError, match="unknown loss"):
        get_loss(name)


def test_cross_entropy_of_classes_refuses_one_class():
    with pytest.raises(ValueError, match="bce"):
        get_loss("cce")(*example(0))


@pytest.mark.parametrize("name", list(TERMS))
def test_losses_survive_saving(name):
    copy = keras.losses.deserialize(keras.losses.serialize(get_loss(name)))
    assert copy.terms == name


# --- metrics


def reference_metric(score, soft, batches):
    values = []
    for mask, p in batches:
        t = channels(mask, p.shape[-1])
        if not soft:
            p = (p > 0.5) if p.shape[-1] == 1 else (p.argmax(-1)[..., None] == np.arange(p.shape[-1]))
        p = p.astype(np.float64)
        if t.shape[-1] > 1:
            t, p = t[..., 1:], p[..., 1:]
        for ti, pi in zip(t, p, strict=True):
            present = [c for c in range(ti.shape[-1]) if ti[..., c].any()]
            if present:
                each = [
                    1 - reference_term(score, ti[None, ..., c : c + 1], pi[None, ..., c : c + 1])[0] for c in present
                ]
                values.append(np.mean(each))
    return np.mean(values) if values else 0.0


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("score", ["dice", "iou"])
@pytest.mark.parametrize("soft", [False, True])
def test_metrics_are_exact_over_an_epoch_of_uneven_batches(classes, score, soft):
    batches = [example(seed, classes, batch) for seed, batch in enumerate((3, 3, 1))]
    batches[0][0][1] = 0  # an empty mask
    metric = Overlap(score, soft)
    for mask, p in batches:
        metric.update_state(mask, p)
    assert float(metric.result()) == pytest.approx(reference_metric(score, soft, batches), rel=1e-5)
    metric.reset_state()
    assert float(metric.result()) == 0


def test_images_with_empty_masks_are_left_out():
    mask, p = np.zeros((2, 4, 4, 1), np.uint8), np.ones((2, 4, 4, 1), np.float32)
    mask[1, :2] = 1
    metric = Overlap("dice")
    metric.update_state(mask, p)
    assert float(metric.result()) == pytest.approx(2 * 8 / (8 + 16))


def test_half_is_background():
    metric = Overlap("dice")
    metric.update_state(np.ones((1, 2, 2, 1), np.uint8), np.full((1, 2, 2, 1), 0.5, np.float32))
    assert float(metric.result()) == pytest.approx(0, abs=1e-6)


def test_metrics_are_named_by_what_they_are():
    assert [metric.name for metric in training_metrics()] == ["dice", "iou", "soft_dice", "soft_iou"]
