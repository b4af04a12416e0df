"""Losses and metrics against references in NumPy that are written from the formulas."""

from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from drawings import code_block
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.setting_types import TERMS as LOSS_NAMES
from losses import SERIES, TERMS, follow_steps, get_loss, own
from losses.hausdorff import distances
from losses.metrics import ClassDice, FalsePositivesOnEmpty, Overlap, training_metrics

# --- references


def channels(mask, count):
    """Class numbers (B, H, W, 1) as (B, H, W, count) of float64."""
    return mask.astype(np.float64) if count == 1 else (mask == np.arange(count)).astype(np.float64)


def reference_term(name, t, p):
    t, p = t.astype(np.float64), p.astype(np.float64)
    if name == "mse":
        return ((t - p) ** 2).mean((1, 2, 3))
    if name == "log_cosh":
        return np.log(np.cosh(p - t)).mean((1, 2, 3))
    clipped = p.clip(1e-7, float(np.float32(1 - 1e-7)))
    if name in ("kld", "focal", "constrained_focal"):
        if t.shape[-1] == 1:
            if name == "focal":  # Keras clips p, and takes 1 - p of that
                p = clipped
            t, p = np.concatenate([1 - t, t], -1), np.concatenate([1 - p, p], -1)
        clipped = p.clip(1e-7, float(np.float32(1 - 1e-7)))
        true, log = (t * p).sum(-1), np.log((t * clipped).sum(-1))
        if name == "kld":
            return -log.mean((1, 2))  # t log t is 0
        if name == "focal":
            return (-np.where(t[..., 0] > 0, 0.75, 0.25) * (1 - true) ** 2 * log).mean((1, 2))
        weights = np.ones(log.shape)
        for image in range(len(t)):
            for number in range(1, t.shape[-1]):
                inside = t[image, ..., number] > 0
                weights[image][inside] = (inside.size - inside.sum()) / max(inside.sum(), 1)
        return (-(weights**0.4) * log).mean((1, 2))
    if name == "bce":
        return -(t * np.log(clipped) + (1 - t) * np.log(1 - clipped)).mean((1, 2, 3))
    if name == "cce":
        normal = (p / p.sum(-1, keepdims=True)).clip(1e-7, 1 - 1e-7)
        return -(t * np.log(normal)).sum(-1).mean((1, 2))
    if name == "weighted_bce":
        if t.shape[-1] == 1:
            t, p = np.concatenate([1 - t, t], -1), np.concatenate([1 - p, p], -1)
        logs = -np.log(p.clip(1e-7, float(np.float32(1 - 1e-7))))
        values = []
        for inside, log in zip(t > 0, logs, strict=True):
            present = [k for k in range(inside.shape[-1]) if inside[..., k].any()]
            values.append(np.mean([log[..., k][inside[..., k]].mean() for k in present]))
        return np.array(values)
    whole = p
    if t.shape[-1] > 1:
        t, p = t[..., 1:], p[..., 1:]
    if name == "hausdorff":
        hard = reference_harden(whole)
        return ((t - p) ** 2 * ((hundred_rounds(t) / 101) ** 2 + (hundred_rounds(hard) / 101) ** 2)).mean((1, 2, 3))
    both, a, b = (t * p).sum((1, 2)), t.sum((1, 2)), p.sum((1, 2))
    if name == "smooth_batch_dice":
        return np.full(len(t), (1 - (2 * both.sum(0) + 1) / (a.sum(0) + b.sum(0) + 1)).mean())
    if name == "batch_dice":
        both, a, b, name = *(np.broadcast_to(sums.sum(0), sums.shape) for sums in (both, a, b)), "dice"
    if name.endswith("tversky"):
        bottom = both + 0.3 * (b - both) + 0.7 * (a - both)
        score = 1 - np.where(bottom == 0, 1.0, both / np.where(bottom == 0, 1, bottom))
        return (score ** (0.75 if name == "focal_tversky" else 1)).mean(-1)
    if name == "rou":
        return 1 - ((a - both) / (a + b - both)).mean(-1)  # 1 - as the others
    top, bottom = (2 * both, a + b) if name == "dice" else (both, a + b - both)
    score = np.where(bottom == 0, 1.0, top / np.where(bottom == 0, 1, bottom))
    return (1 - score).mean(-1)


def reference_harden(p):
    """Foreground channels of probabilities as zeros and ones."""
    return p > 0.5 if p.shape[-1] == 1 else (p.argmax(-1)[..., None] == np.arange(p.shape[-1]))[..., 1:]


def hundred_rounds(masks):
    """Distances of (B, H, W, C) as AIS finds them: 101 less the sum of a hundred dilations by 3x3 and the mask."""
    result = np.empty(masks.shape, np.float32)
    for image, channel in np.ndindex(masks.shape[0], masks.shape[-1]):
        grown = masks[image, ..., channel].astype(np.uint8)
        total = grown.astype(np.float32)
        for _ in range(100):
            grown = cv2.dilate(grown, np.ones((3, 3), np.uint8))
            total += grown
        result[image, ..., channel] = 101 - total
    return result


def reference(name, mask, p):
    t = channels(mask, p.shape[-1])
    return sum(reference_term(part, t, p) for part in name.split("+")).mean()


def example(seed, classes=1, batch=3, size=8):
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, classes + 1, (batch, size, size, 1)).astype(np.uint8)
    scores = rng.random((batch, size, size, 1 if classes == 1 else classes + 1)).astype(np.float32)
    return mask, scores if classes == 1 else scores / scores.sum(-1, keepdims=True)


PIXEL = ["mse", "log_cosh", "kld", "focal", "constrained_focal", "hausdorff", "bce", "weighted_bce"]
BINARY = [
    *(f"{name}{term}" for name in PIXEL for term in ("", "+dice", "+iou")),
    *("dice", "batch_dice", "bce+batch_dice", "smooth_batch_dice", "iou", "tversky", "focal_tversky"),
]


# --- losses


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("seed", range(3))
def test_binary_losses(name, seed):
    mask, p = example(seed)
    assert float(get_loss(name)(mask, p)) == pytest.approx(reference(name, mask, p), rel=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        *PIXEL,
        "dice",
        "batch_dice",
        "smooth_batch_dice",
        "iou",
        "tversky",
        "focal_tversky",
        "mse+dice",
        "cce",
        "cce+iou",
    ],
)
def test_losses_of_several_classes(name):
    mask, p = example(5, classes=3)
    assert float(get_loss(name)(mask, p)) == pytest.approx(reference(name, mask, p), rel=1e-5)


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(np.uint8, (2, 5, 4, 1), elements=st.integers(0, 1)),
    hnp.arrays(np.float32, (2, 5, 4, 1), elements=st.sampled_from([0, 1e-6, 0.25, 0.5, 1 - 2**-20, 1])),
    st.sampled_from(BINARY),
)
def test_losses_on_degenerate_inputs(mask, p, name):
    loss = float(get_loss(name)(mask, p))
    assert np.isfinite(loss)
    sums = p.sum((1, 2, 3))
    if np.all((sums > 0.2) | (sums == 0)):  # sums near the epsilon of 1e-4 are rounded towards 1
        assert loss == pytest.approx(reference(name, mask, p), rel=1e-3, abs=1e-3)


def test_overlap_losses_of_empty_masks():
    """The rule: an empty mask costs nothing where nothing is predicted, and 1 where anything is."""
    empty, some = np.zeros((1, 4, 4, 1), np.uint8), np.full((1, 4, 4, 1), 0.5, np.float32)
    for name in ("dice", "iou"):
        assert float(get_loss(name)(empty, np.zeros_like(some))) == pytest.approx(0)
        assert float(get_loss(name)(empty, some)) == pytest.approx(1, abs=1e-4)


def test_the_dice_of_a_batch_counts_an_empty_mask_with_its_false_positives():
    """Three of four pixels found in one image, two false ones in another: 2 * 3 / (4 + 5)."""
    mask, p = np.zeros((2, 2, 4, 1), np.uint8), np.zeros((2, 2, 4, 1), np.float32)
    mask[0, 0], p[0, 0, :3], p[1, 1, :2] = 1, 1, 1
    assert float(get_loss("batch_dice")(mask, p)) == pytest.approx(1 - 6 / 9)
    values = get_loss("batch_dice").call(mask, p)
    assert values.shape == (2,) and values[0] == values[1]
    flat = np.full((1, 4, 4, 1), 0.5, np.float32)
    one = np.zeros((1, 4, 4, 1), np.uint8)
    one[0, 0, 0] = 1
    expected = np.mean([-np.log(0.9), -np.log(0.2)])
    assert float(get_loss("weighted_bce")(one, np.where(one, 0.2, 0.1).astype(np.float32))) == pytest.approx(expected)
    assert float(get_loss("weighted_bce")(0 * one, flat)) == pytest.approx(np.log(2)), "only the background is there"


def test_cross_entropy_of_channels_is_that_of_probabilities_behind_a_softmax_too():
    """There, Keras on TensorFlow takes the logits of a softmax for those of sigmoids."""
    x = np.random.default_rng(0).random((2, 4, 4, 2), np.float32)
    y = np.random.default_rng(1).integers(0, 3, (2, 4, 4, 1)).astype(np.uint8)
    inputs = keras.Input((4, 4, 2))
    model = keras.Model(inputs, keras.layers.Conv2D(3, 1, activation="softmax")(inputs))
    model.compile("sgd", get_loss("bce", 2))
    found, p, t = model.evaluate(x, y, verbose=0), model.predict(x, verbose=0), np.eye(3)[y[..., 0]]
    assert found == pytest.approx(-(t * np.log(p) + (1 - t) * np.log(1 - p)).mean(), rel=1e-5)


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


@pytest.mark.parametrize("name", [*PIXEL, "dice", "batch_dice", "iou", "tversky", "focal_tversky", "bce+iou"])
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


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 150),
    st.sampled_from([0, 1e-3, 0.02, 0.5, 1]),
    st.integers(0, 2**32 - 1),
)
def test_distances_are_those_of_a_hundred_dilations_bit_for_bit(height, width, density, seed):
    masks = (np.random.default_rng(seed).random((2, height, width, 2)) < density).astype(np.float32)
    assert np.array_equal(keras.ops.convert_to_numpy(distances(masks)), hundred_rounds(masks))


@pytest.mark.parametrize("cap", [1, 2, 3, 7, 64, 65])
def test_distances_are_capped(cap):
    mask = np.zeros((1, 5, 90, 1), np.float32)
    mask[0, 2, 3] = 1
    rows, columns = np.indices((5, 90))
    expected = np.minimum(np.maximum(abs(rows - 2), abs(columns - 3)), cap)
    assert np.array_equal(keras.ops.convert_to_numpy(distances(mask, cap))[0, ..., 0], expected)


DEGENERATE_MASKS = {
    "empty": lambda: np.zeros((1, 6, 6, 1), np.uint8),
    "full": lambda: np.ones((1, 6, 6, 1), np.uint8),
    "one pixel": lambda: np.eye(1, 36, 8, dtype=np.uint8).reshape(1, 6, 6, 1),
}


@pytest.mark.parametrize("policy", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("mask", list(DEGENERATE_MASKS))
@pytest.mark.parametrize("name", [name for name in (*TERMS, "series") if name != "cce"])
def test_losses_and_slopes_are_finite(name, mask, policy):
    """Also for predictions of exactly 0 and 1, and in half precision, where 1 - 1e-7 is 1."""
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        pytest.skip("takes gradients by TensorFlow")
    target = DEGENERATE_MASKS[mask]()
    for p in (np.zeros(target.shape), np.ones(target.shape), target, 1 - target, np.full(target.shape, 0.5)):
        prediction = tf.Variable(tf.cast(p, policy))
        with tf.GradientTape() as tape:
            loss = get_loss(name)(target, prediction)
        assert loss.dtype == "float32" and np.isfinite(loss)
        assert np.isfinite(tf.cast(tape.gradient(loss, prediction), "float32")).all(), p


def test_series_takes_ten_batches_of_each_and_begins_again():
    mask, p = example(3)
    loss = get_loss("series+dice")
    for step, name in [(0, "mse"), (9, "mse"), (10, "log_cosh"), (59, "hausdorff"), (60, "mse"), (25, SERIES[2])]:
        loss.steps = step
        assert float(loss(mask, p)) == pytest.approx(reference(f"{name}+dice", mask, p), rel=1e-5)


def test_series_follows_the_steps_of_the_network():
    """A network that gives what it is given, and does not learn: its loss tells whose turn it was."""
    mask, p = example(4, batch=1)
    inputs = keras.Input(p.shape[1:])
    model = keras.Model(inputs, keras.layers.Conv2D(1, 1, kernel_initializer="ones")(inputs))
    model.compile(keras.optimizers.SGD(0.0), get_loss("series"))
    follow_steps(model)
    for step in range(25):
        model.reset_metrics()
        expected = reference(SERIES[step // 10], mask, p)
        assert float(model.train_on_batch(p, mask)) == pytest.approx(expected, rel=1e-4), step


def test_kullback_leibler_divergence_sees_the_background():
    """With the one channel alone, as Keras would take it, a prediction of 1 everywhere costs nothing."""
    assert float(get_loss("kld")(np.zeros((1, 2, 2, 1), np.uint8), np.ones((1, 2, 2, 1), np.float32))) > 10


def test_tversky_weighs_what_is_missed_more():
    mask, nothing = np.zeros((2, 4, 4, 1), np.uint8), np.zeros((1, 4, 4, 1), np.float32)
    mask[:, :2] = 1
    too_little, too_much = mask[:1].astype(np.float32), mask[:1].astype(np.float32)
    too_little[0, 0], too_much[0, 2] = 0, 1
    costs = [float(get_loss("tversky")(mask[:1], p)) for p in (too_much, too_little, nothing)]
    assert costs == pytest.approx([1 - 8 / (8 + 0.3 * 4), 1 - 4 / (4 + 0.7 * 4), 1], abs=1e-5)


@pytest.mark.parametrize("name", ["", "dise", "mse+", "mse+mse", "MSE"])
def test_unknown_losses_are_refused(name):
    with pytest.raises(ValueError, match="unknown loss"):
        get_loss(name)


def test_the_type_of_loss_knows_every_loss():
    assert set(LOSS_NAMES) == set(TERMS)


def test_cross_entropy_of_classes_refuses_one_class():
    with pytest.raises(ValueError, match="bce"):
        get_loss("cce")(*example(0))


@pytest.mark.parametrize("name", [*TERMS, "series+dice"])
def test_losses_survive_saving(name):
    copy = keras.losses.deserialize(keras.losses.serialize(get_loss(name)))
    assert copy.terms == name


# --- losses of one's own

OWN = """
from keras import ops

def loss(targets, probabilities):
    return ops.mean(ops.abs(targets - probabilities), axis=tuple(range(1, len(targets.shape))))
"""


@pytest.mark.parametrize("axes", [2, 3])
def test_a_loss_of_ones_own_is_used_alone_and_in_sums(tmp_path, axes):
    (tmp_path / "my.py").write_text(OWN)
    mask = np.zeros((2, *[4] * axes, 1), np.uint8)
    mask[0, 0] = 1
    p = np.full(mask.shape, 0.25, np.float32)
    alone, total = get_loss(f"{tmp_path}/my.py", 1, axes), get_loss(f"{tmp_path}/my.py+dice", 1, axes)
    assert alone.name == "my" and total.name == "my_dice"
    assert float(alone(mask, p)) == pytest.approx((0.25 * 0.75 + 0.75 * 0.25 + 0.25) / 2)
    assert float(total(mask, p)) == pytest.approx(float(alone(mask, p)) + float(get_loss("dice")(mask, p)))


def test_a_checkpoint_takes_the_copy_of_its_own_loss(tmp_path):
    """Also if the file has changed or gone since, and in a run that was resumed, saved again and moved."""
    mask, p = example(0)
    (tmp_path / "code").mkdir()
    (tmp_path / "my.py").write_text(OWN)
    (tmp_path / "code" / "my.py").write_text(OWN)
    inputs = keras.Input(p.shape[1:])
    model = keras.Model(inputs, keras.layers.Conv2D(1, 1, kernel_initializer="ones")(inputs))
    model.compile(keras.optimizers.Adam(1e-3), get_loss(f"{tmp_path}/my.py+dice", 1))
    model.train_on_batch(p, mask)
    model.save(tmp_path / "model.keras")
    expected = float(model.loss(mask, p))
    (tmp_path / "my.py").unlink()
    own.find_loss.cache_clear()
    (tmp_path / "my.py").write_text("raise SystemExit")  # a path in a checkpoint runs nothing
    with pytest.raises(ValueError, match="only as copies in its run folder"):
        keras.saving.load_model(tmp_path / "model.keras")
    for folder in ("code", "moved"):
        if folder == "moved":
            (tmp_path / "code").rename(tmp_path / "moved")
            own.find_loss.cache_clear()
        with own.copies(lambda path, folder=folder: tmp_path / folder / Path(path).name):
            copy = keras.saving.load_model(tmp_path / "model.keras")
        assert float(copy.loss(mask, p)) == expected and copy.loss.terms == f"{tmp_path}/{folder}/my.py+dice"
        copy.train_on_batch(p, mask)
        copy.save(tmp_path / "model.keras")


def test_the_loss_of_the_documentation(tmp_path):
    (tmp_path / "my_loss.py").write_text(code_block("extending.md", "def loss"))
    mask, p = example(0, classes=3)
    expected = np.abs(channels(mask, 4) - p).mean()
    assert float(get_loss(f"{tmp_path}/my_loss.py", 3)(mask, p)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "loss file does not exist"),
        ("def loss(", r"does not run \(SyntaxError"),
        ("import gone_module", r"does not run \(ModuleNotFoundError"),
        ("def cost(targets, probabilities): pass", "no function loss"),
        ("loss = 3", "no function loss"),
        ("def loss(targets): pass", "fails on .*TypeError"),
        ("def loss(targets, probabilities): return None", "fails on .*AttributeError"),
        ("def loss(targets, probabilities): return targets", r"found \(2, 16, 16, 4\)"),
        ("import keras\ndef loss(t, p): return keras.ops.mean(p)", r"found \(\)"),
        ("import keras\ndef loss(t, p): return keras.ops.cast(p[:, 0, 0, 0], 'float16')", "expected .* float32"),
    ],
)
def test_wrong_losses_of_ones_own_are_refused(tmp_path, text, words):
    if text:
        (tmp_path / "my.py").write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        get_loss(f"{tmp_path}/my.py+dice", 3)
    assert "\n" not in str(error.value)


def test_two_losses_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown loss"):
        get_loss("a/my.py+b/my.py")


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
@pytest.mark.parametrize("score", ["dice", "iou", "rou"])
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
    names = [metric.name for metric in training_metrics()]
    assert names == ["dice", "iou", "rou", "fpoet", "soft_dice", "soft_iou"]
    assert [metric.name for metric in training_metrics(2)] == [*names, "dice_1", "dice_2"]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_dice_of_a_class_is_over_the_images_that_contain_it(number):
    metric, scores = ClassDice(number), []
    for seed in range(3):
        mask, p = example(seed, 3, batch=4)
        mask[: seed + 1][mask[: seed + 1] == number] = 0
        metric.update_state(mask, p)
        predicted, true = reference_harden(p)[..., number - 1], mask[..., 0] == number
        for guess, truth in zip(predicted[seed + 1 :], true[seed + 1 :], strict=True):
            scores.append(2 * (guess & truth).sum() / (guess.sum() + truth.sum()))
    assert float(metric.result()) == pytest.approx(np.mean(scores), rel=1e-5)
    metric.reset_state()
    assert np.isnan(float(metric.result())), "without an image that contains it"


@pytest.mark.parametrize("classes", [1, 3])
def test_false_positives_on_empty_truth(classes):
    metric, shares = FalsePositivesOnEmpty(), []
    for seed in range(3):
        mask, p = example(seed, classes, batch=4)
        mask[:seed] = 0
        metric.update_state(mask, p)
        shares += list(reference_harden(p[:seed]).any(-1).mean((1, 2)))
    assert float(metric.result()) == pytest.approx(np.mean(shares), rel=1e-5)
    metric.reset_state()
    assert float(metric.result()) == 0


def test_residual_over_union_is_what_is_left_uncovered():
    """Three of four pixels of the mask are missed and one is too much: union 5."""
    mask, p = np.zeros((1, 4, 4, 1), np.uint8), np.zeros((1, 4, 4, 1), np.float32)
    mask[0, 0], p[0, 0, 0], p[0, 3, 3] = 1, 1, 1
    metric = Overlap("rou")
    metric.update_state(mask, p)
    assert float(metric.result()) == pytest.approx(3 / 5)
