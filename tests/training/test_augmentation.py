"""Augmentation of slices: each change against NumPy or SciPy, and what the random numbers depend on."""

import cv2
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st

from common.devices import OneDevice
from common.settings import Settings
from common.training.augmentation import (
    EDGES,
    KINDS,
    MEDICAL,
    elastic_field,
    inverse_matrix,
    make_augmentation,
    places_of,
    warp,
)
from common.training.plan import Facts, network_of
from common.training.sets import Batches, open_set

SCIPY_EDGES = {"constant": "constant", "nearest": "nearest", "reflect": "reflect", "wrap": "grid-wrap"}


def blobs(height=48, width=40, seed=0):
    """A smooth slice (H, W, 1) float32 in 0..1, and a mask of classes 0, 1, 2."""
    noise = np.random.default_rng(seed).random((height, width), np.float32)
    x = cv2.GaussianBlur(noise, (0, 0), 3)
    x = (x - x.min()) / (x.max() - x.min())
    return x[..., None], ((x > 0.5).astype(np.uint8) + (x > 0.7))[..., None]


def disc(side=81, center=(40, 40), radius=10):
    rows, columns = np.indices((side, side))
    mask = ((rows - center[1]) ** 2 + (columns - center[0]) ** 2 <= radius**2).astype(np.uint8)[..., None]
    return mask.astype(np.float32), mask


def center_of(y):
    """(x, y) of the middle of a mask."""
    return np.argwhere(y[..., 0])[:, ::-1].mean(0)


def always(**amounts):
    """Augmentation by exactly these amounts."""
    return make_augmentation({name: [1, amount, amount] for name, amount in amounts.items()})


# --- places


@given(
    st.floats(-180, 180),
    st.floats(-0.4, 0.8),
    st.tuples(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3)),
    st.tuples(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2)),
    st.tuples(st.booleans(), st.booleans()),
    st.sampled_from([0, 1, 2, 3]),
    st.sampled_from(list(EDGES)),
    st.sampled_from([0, 0.3]),
)
def test_warps_are_those_of_scipy(rotation, zoom, shear, shift, mirrored, turns, edge, elastic):
    x, y = blobs()
    amounts = {"rotation": [rotation], "zoom": [zoom], "shear": shear, "shift": shift}
    amounts |= {"turn": [1]} if turns else {}
    matrix = inverse_matrix(amounts, mirrored, turns, x.shape)
    moved = elastic_field(np.random.default_rng(0), elastic, x.shape)
    places = places_of(matrix, moved) if elastic else None
    rows, columns = np.indices(x.shape[:2])
    source = matrix @ np.stack([columns.ravel(), rows.ravel(), np.ones(x.size)])
    source = source.reshape(2, *x.shape[:2]) + (np.moveaxis(moved, -1, 0) if elastic else 0)
    inside = (source > 1).all(0) & (source[0] < x.shape[1] - 2) & (source[1] < x.shape[0] - 2)
    expected = scipy.ndimage.map_coordinates(x[..., 0], source[::-1], order=1, mode=SCIPY_EDGES[edge])
    ours = warp(x, matrix, places, EDGES[edge], cv2.INTER_LINEAR)
    assert ours.shape == x.shape and ours.dtype == np.float32
    where = inside if edge in ("constant", "wrap") else np.ones_like(inside)  # SciPy ends at the last pixel's center
    assert np.abs(ours[..., 0] - expected)[where].max(initial=0) < 0.02
    mask = warp(y, matrix, places, EDGES[edge], cv2.INTER_NEAREST)
    assert mask.shape == y.shape and mask.dtype == np.uint8
    assert set(np.unique(mask)) <= {0, *np.unique(y)} if edge == "constant" else {*np.unique(y)}
    clear = inside & (np.abs(source % 1 - 0.5) > 0.05).all(0)  # not halfway between two pixels
    nearest = np.rint(source).astype(int)
    assert (mask[..., 0] == y[nearest[1] % len(y), nearest[0] % x.shape[1], 0])[clear].all()


def test_each_place_setting_does_what_its_name_says():
    x, y = disc(center=(60, 40))
    _, zoomed = always(zoom=0.5)(*disc(), [1])
    assert zoomed.sum() / y.sum() == pytest.approx(1.5**2, rel=0.03), "1.5 times as large"
    _, turned = always(rotation=90)(x, y, [1])
    assert np.abs(center_of(turned) - (40, 20)).max() < 0.6 or np.abs(center_of(turned) - (40, 60)).max() < 0.6
    _, turned = always(rotation=30)(x, y, [1])
    assert np.hypot(*(center_of(turned) - 40)) == pytest.approx(20, abs=0.5)
    assert abs(center_of(turned)[1] - 40) == pytest.approx(10, abs=0.5)
    _, shifted = always(shift=0.1)(x, y, [1])
    assert np.abs(center_of(shifted) - (68.1, 48.1)).max() < 0.6, "to the right and down by a tenth of the side"
    _, sheared = always(shear=0.2)(*disc(), [1])
    rows, columns = np.argwhere(sheared[..., 0]).T
    assert abs(np.corrcoef(rows, columns)[0, 1]) > 0.2
    assert always(zoom=0, shear=0, rotation=0) is None, "0 is no change"


def test_flips_and_turns_move_whole_pixels():
    x, y = blobs(40, 40)
    seen = set()
    augment = make_augmentation({"flip": "horizontal_and_vertical", "turn": 0.5})
    ways = {
        (turns, flipped): (np.rot90(x[:, :: 1 - 2 * flipped], turns), np.rot90(y[:, :: 1 - 2 * flipped], turns))
        for turns in range(4)
        for flipped in (0, 1)
    }
    for seed in range(80):
        image, mask = augment(x, y, [seed])
        (way,) = [w for w, (a, b) in ways.items() if np.array_equal(a, image) and np.array_equal(b, mask)]
        seen.add(way)
    assert seen == set(ways)
    for name, axis in (("horizontal", 1), ("vertical", 0)):
        results = [make_augmentation({"flip": name})(x, y, [seed])[0] for seed in range(60)]
        flipped = [np.array_equal(image, np.flip(x, axis)) for image in results]
        assert all(f or np.array_equal(image, x) for f, image in zip(flipped, results, strict=True))
        assert 15 < sum(flipped) < 45


@given(st.integers(0, 2**32 - 1), st.sampled_from(list(EDGES)))
def test_image_and_mask_move_together(seed, edge):
    """A slice that is its own mask: after any warp, it is above one half where the mask is."""
    mask = (blobs(64, 64, seed=5)[1] > 0).astype(np.uint8)
    places = {name: MEDICAL[name] for name in ("flip", "rotation", "zoom", "shear", "shift", "elastic")}
    places = {name: value if name == "flip" else [1, *value[1:]] for name, value in places.items()}
    x, y = make_augmentation({**places, "turn": 0.5, "fill": edge})(mask.astype(np.float32), mask, [seed])
    clear = np.abs(x - 0.5) > 0.49  # all four pixels around the place are alike
    assert clear.mean() > 0.5 and ((x > 0.5) == y)[clear].all()


def test_elastic_changes_are_smooth_and_as_large_as_said():
    fields = [elastic_field(np.random.default_rng(seed), 1.0, (200, 200, 1)) for seed in range(40)]
    assert np.std(fields) == pytest.approx(0.028 * 200, rel=0.25)
    assert np.abs(np.diff(fields[0], axis=1)).max() < 1.5


# --- gray values


def test_gray_values_follow_their_formulas():
    x, y = blobs()
    low, high, mean = x.min(), x.max(), x.mean()
    for amounts, expected in (
        ({"invert": 1}, low + high - x),
        ({"gamma": 0.5}, ((x - low) / (high - low)) ** 1.5 * (high - low) + low),
        ({"gamma": -0.3}, ((x - low) / (high - low)) ** 0.7 * (high - low) + low),
        ({"inverse_gamma": 0.5}, high - ((high - x) / (high - low)) ** 1.5 * (high - low)),
        ({"brightness": 0.1}, np.clip(x + 0.1, 0, 1)),
        ({"brightness": -0.2}, np.clip(x - 0.2, 0, 1)),
        ({"contrast": 0.3}, np.clip((x - mean) * 1.3 + mean, 0, 1)),
        ({"blur": 1.5}, scipy.ndimage.gaussian_filter(x[..., 0], 1.5, mode="reflect")[..., None]),
    ):
        before = x.copy()
        image, mask = always(**amounts)(x, y, [3])
        np.testing.assert_allclose(image, expected, atol=2e-4, err_msg=str(amounts))
        assert np.array_equal(mask, y) and np.array_equal(x, before), "mask and input are unchanged"
        assert image.dtype == np.float32 and image.shape == x.shape


def test_noise_and_low_resolution():
    flat = np.full((64, 64, 1), 0.5, np.float32)
    y = np.zeros((64, 64, 1), np.uint8)
    noisy = always(noise=0.1)(flat, y, [1])[0]
    assert noisy.mean() == pytest.approx(0.5, abs=0.01) and noisy.std() == pytest.approx(0.1, rel=0.1)
    stripes = np.tile(np.float32([0, 1]), (64, 32))[..., None]
    coarse = always(resolution=0.5)(stripes, y, [1])[0]
    assert np.abs(coarse - 0.5).max() < 0.01, "half the resolution cannot show lines of one pixel"
    ramp = np.tile(np.linspace(0.2, 0.8, 64, dtype=np.float32), (64, 1))[..., None]
    assert np.abs(always(resolution=0.5)(ramp, y, [1])[0] - ramp)[:, 4:-4].max() < 0.02
    for value in (0.0, 0.4):  # a constant slice has no range
        plain = np.full((8, 8, 1), value, np.float32)
        assert np.allclose(always(gamma=0.5, inverse_gamma=0.5)(plain, y[:8, :8], [1])[0], value)


def test_cut_and_mix_takes_one_rectangle_of_image_and_mask():
    x, y = np.zeros((40, 60, 1), np.float32), np.zeros((40, 60, 1), np.uint8)
    asked = []

    def other(place):
        asked.append(place)
        return np.ones_like(x), np.full_like(y, 2)

    for seed in range(20):
        image, mask = always(cutmix=0.25)(x, y, [seed], other)
        assert np.array_equal(image == 1, mask == 2) and set(np.unique(mask)) == {0, 2}
        rows, columns = np.nonzero(mask[..., 0])
        assert mask.astype(bool).sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert mask.astype(bool).mean() == pytest.approx(0.25, abs=0.03)
    assert len(set(asked)) == 20 and all(0 <= place < 1 for place in asked)
    assert not x.any() and not y.any(), "the slice itself is unchanged"


# --- settings


def test_probabilities_are_kept():
    x, y = blobs()
    for name in set(KINDS) - {"cutmix", "turn"}:
        high = KINDS[name].limits[1]
        augment = make_augmentation({name: [0.3, min(high, 0.3), min(high, 0.5)]})
        changed = np.mean([not np.array_equal(augment(x, y, [seed])[0], x) for seed in range(400)])
        assert changed == pytest.approx(0.3, abs=0.07), name


def test_settings_of_earlier_versions_still_work():
    """Numbers: each slice changes by up to the number in both directions, as with Keras' layers."""
    old = {"flip": "horizontal", "rotation": 10, "shift": 0.05, "zoom": 0.1, "shear": 0.1, "elastic": 0.5}
    old |= {"brightness": 0.1, "contrast": 0.2, "blur": 1.0, "fill": "nearest"}
    assert old == Settings.of("train.py", AUGMENTATION=old).AUGMENTATION
    ranges = make_augmentation(old).ranges
    assert ranges["rotation"] == (1, -10, 10) and ranges["contrast"] == (1, -0.2, 0.2)
    assert ranges["blur"] == (0.5, 0, 1) and ranges["elastic"] == (0.5, 0, 0.5)
    assert make_augmentation({}) is None
    assert make_augmentation({"rotation": 0, "flip": "", "fill": "reflect"}) is None


def test_a_preset_can_be_changed():
    plain, changed = (
        make_augmentation(setting)
        for setting in ("medical", {"preset": "medical", "rotation": 90, "noise": 0, "flip": "vertical"})
    )
    assert "noise" in plain.ranges and "noise" not in changed.ranges
    assert changed.ranges["rotation"] == (1, -90, 90) and changed.mirrors == (1,)
    assert changed.ranges["gamma"] == plain.ranges["gamma"]
    facts = Facts(side=96, classes=1, training=40, validation=8, cases=9, filled=1, foreground=0.2, augmented=False)
    assert Settings.of("train.py").AUGMENTATION is None and network_of(facts)["AUGMENTATION"][0] == "medical"
    Settings.of("train.py", AUGMENTATION={"preset": "medical", **MEDICAL})


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"rotate": 3}, "unknown key 'rotate'"),
        ({"margins": [0.1]}, "unknown key 'margins'"),
        ({"rotation": [2, -10, 10]}, "rotation"),
        ({"noise": [0.5, -0.1, 0.1]}, "noise"),
        ({"zoom": [1, 0.2, 0.1]}, "zoom"),
        ({"flip": "xy"}, "flip"),
    ],
)
def test_invalid_settings_are_refused(setting, words):
    with pytest.raises(ValueError, match="^AUGMENTATION: .*" + words):
        make_augmentation(setting)


# --- what the random numbers depend on


class Half(OneDevice):
    """One of two processes."""

    processes = 2

    def __init__(self, process):
        self.process = process

    def own_share(self, items):
        return items if len(items) % 2 else items[self.process :: 2]


def slices_of(batches, epoch):
    """dict of slice number to its image and mask in an epoch."""
    batches.set_epoch(epoch)
    shown = {}
    for index in range(len(batches)):
        own = batches.devices.own_share(batches.order[index * batches.batch_size : (index + 1) * batches.batch_size])
        shown |= dict(zip(own.tolist(), zip(*batches[index], strict=True), strict=True))
    return shown


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for number, pair in ours.items():
        assert all(map(np.array_equal, pair, theirs[number])), number


def test_random_numbers_depend_on_seed_epoch_and_slice_alone(packed):
    slices = open_set(packed["packed"] / "train.h5")
    augment = make_augmentation({"preset": "medical", "rotation": 20, "cutmix": [0.5, 0.1, 0.5]})
    reference = slices_of(Batches(slices, 3, 1, augment), 2)
    assert len(reference) == len(slices)
    assert_equal(slices_of(Batches(slices, 8, 1, augment), 2), reference)
    files = Batches(open_set(packed["packed"] / "train.h5", memory_gb=0), 3, 1, augment)
    assert_equal(slices_of(files, 2), reference)
    halves = [slices_of(Batches(slices, 4, 1, augment, Half(process)), 2) for process in (0, 1)]
    assert_equal(halves[0] | halves[1], reference)
    later = Batches(slices, 3, 1, augment)
    later.set_epoch(2)
    for index in (2, 0):  # in any order
        for number, image in zip(later.order[3 * index :], later[index][0], strict=False):
            assert np.array_equal(image, reference[number][0])
    for other in (slices_of(Batches(slices, 3, 2, augment), 2), slices_of(Batches(slices, 3, 1, augment), 3)):
        different = [not np.array_equal(other[number][0], reference[number][0]) for number in reference]
        assert all(different)


def test_batches_are_prepared_ahead_of_the_step(packed):
    """While a batch is in use, the next one is made; an error comes with its own batch."""
    batches = Batches(open_set(packed["packed"] / "train.h5"), 3, 1)
    batches[0]
    assert 1 in batches.ahead and batches.ahead[1].result(timeout=10) and set(batches.made_at) >= {0, 1}
    batches.set_epoch(1)
    assert not batches.ahead and not batches.made_at, "those of another epoch do not count"

    class Broken:
        overlapping = False

        def __len__(self):
            return 8

        def batch(self, indices):
            if 7 in indices:
                raise OSError("disk")
            return np.zeros((len(indices), 8, 8, 1), np.float32), np.zeros((len(indices), 8, 8, 1), np.uint8)

    broken = Batches(Broken(), 2)
    for index in range(3):
        broken[index]
    with pytest.raises(OSError, match="disk"):
        broken[3]
