"""Slices and tiles of one value are predicted once."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from common.prediction.ensemble import predict_images

SIZE = 32


class Network:
    """In place of a network: the probability is the brightness, of places far from an edge less; counts its work."""

    def __init__(self):
        self.rows, self.batches, self.used = 0, 0, []
        self.weights = np.linspace(0.5, 1, SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE, 1)

    def __call__(self, batches):
        for x in batches:
            self.rows, self.batches = self.rows + len(x), self.batches + bool(len(x))
            self.used += [row.tobytes() for row in x if row.any()]
            yield x[..., :1] * self.weights if len(x) else x


def predicted(images, fit="resize", **settings):
    network = Network()
    return network, [p for _, p in predict_images(iter(images), network, SIZE, fit, **settings)]


def scan(seed, count, shape=(SIZE, SIZE), channels=None):
    """Slices of which three in four are of one value: black, white, or another one."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        value = rng.choice([255, 7, *range(20, 40)]) if number % 3 == 0 else 0
        image = np.full(shape if channels is None else (*shape, channels), value, np.uint8)
        if number % 4 == 1:
            image[3:9, 4:30] = rng.integers(0, 255, (6, 26) if channels is None else (6, 26, channels))
        yield image


@pytest.mark.parametrize(("fit", "shape"), [("resize", (SIZE, SIZE)), ("tile", (70, 90)), ("pad", (20, 40))])
@pytest.mark.parametrize("channels", [None, 3])
def test_skipping_changes_nothing(fit, shape, channels):
    images = list(scan(1, 60, shape, channels))
    fast, ours = predicted(images, fit, batch_size=4)
    slow, theirs = predicted(images, fit, batch_size=4, skip_empty=False)
    assert len(ours) == len(theirs) == 60 and fast.rows < slow.rows
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


@hypothesis.settings(deadline=None)
@hypothesis.given(
    st.lists(st.tuples(st.integers(8, 90), st.integers(8, 90), st.booleans()), min_size=1, max_size=6),
    st.integers(1, 9),
)
def test_no_tile_is_left_over(shapes, batch_size):
    """Also if the last tiles of the last image fill no batch: 9 tiles in batches of 8."""
    rng = np.random.default_rng(len(shapes))
    images = [np.full(s, 9, np.uint8) if flat else rng.integers(0, 255, s, np.uint8) for *s, flat in shapes]
    _, found = predicted(images, "tile", batch_size=batch_size)
    assert [p.shape[:2] for p in found] == [image.shape for image in images]
    assert all(p.max() <= 1 + 1e-6 for p in found)


def test_a_volume_of_air_is_predicted_once_and_streamed():
    taken = []

    def images():
        for number in range(1000):
            taken.append(number)
            yield np.zeros((SIZE, SIZE), np.uint16)

    network = Network()
    for number, _ in enumerate(predict_images(images(), network, SIZE, "resize", batch_size=8)):
        assert len(taken) <= number + 3 * 8
    assert number == 999 and network.batches == 1


def test_equal_bytes_of_other_types_are_not_equal():
    """0x0101 in 8 and in 16 bits."""
    images = [np.full((SIZE, SIZE), 1, np.uint8), np.full((SIZE, SIZE), 257, np.uint16)]
    for a, b in zip(predicted(images)[1], predicted(images, skip_empty=False)[1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("count", "rows"), [(3, 3), (8, 8), (9, 16)])
def test_a_few_images_are_a_small_batch(count, rows):
    images = [np.random.default_rng(number).integers(0, 255, (SIZE, SIZE), np.uint8) for number in range(count)]
    assert predicted(images, batch_size=8)[0].rows == rows


def test_no_images():
    assert predicted([])[1] == []
