"""The validation slices that the page of a run shows while the model learns."""

import numpy as np

from common.slices.drawing import PREDICTED_COLOR, TRUTH_COLOR
from common.slices.images import read_image
from common.training import watching
from common.training.run_folder import Run
from common.training.watching import Watched, examples_of_volumes


class Volumes:
    """A stand-in for a VolumeSet of (image, labels), both (S, H, W)."""

    axes = 3

    def __init__(self, *volumes, overlap=""):
        self.volumes, self.overlap = volumes, overlap
        self.places = [np.argwhere(labels) for _, labels in volumes]

    def __len__(self):
        return len(self.volumes)

    def shown_volume(self, i):
        image, labels = self.volumes[i]
        return image[..., None].astype(np.float32), labels


def one_volume(shape=(40, 150, 140), slices=(30, 38), row=120, column=9):
    """A volume whose labels grow towards the last of these slices, near a corner."""
    labels = np.zeros(shape, np.uint8)
    for k in range(*slices):
        half = 2 + k - slices[0]
        labels[k, row - half : row + half, max(0, column - half) : column + half] = 1
    return np.random.default_rng(0).normal(size=shape) + labels, labels


def test_the_slice_with_the_largest_label_is_shown_in_its_block():
    image, labels = one_volume()
    (example,) = examples_of_volumes(Volumes((image, labels), (image, np.zeros_like(labels))))
    assert example.x.shape == (32, 128, 128, 1) and example.background.shape == (128, 128)
    expected = labels[37, 22:, :128]
    assert np.array_equal(example.truth, expected) and expected.sum() == labels[37].sum()
    assert np.array_equal(example.x[37 - 8, ..., 0], image[37, 22:, :128].astype(np.float32))
    probabilities = np.zeros((32, 128, 128, 2), np.float32)
    probabilities[29, 3:5, 6:8, 1] = 0.9
    assert np.array_equal(example.mask_of(probabilities), np.where(probabilities[29, ..., 1] > 0, 2, 0))


def test_nested_labels_are_the_highest_above_half():
    image, labels = one_volume((8, 20, 24), (2, 6), 10, 12)
    (example,) = examples_of_volumes(Volumes((image, labels), overlap="nested"))
    assert example.x.shape == (8, 20, 20, 1)  # square, as it is drawn
    assert set(np.unique(example.mask_of(np.full((8, 20, 20, 2), 0.7, np.float32)))) == {2}


def test_a_strip_of_volumes_is_written(tmp_path):
    run, found = Run(tmp_path), [one_volume((9, 30, 30), (2, 6), 15, 15)] * 6
    watched = Watched(run, Volumes(*found))
    strip = watched.draw(lambda x, training: np.full((*x.shape[:-1], 1), 0.2, np.float32), 3)
    assert strip.shape == (watching.SIDE, watching.WATCHED * watching.SIDE, 3)
    assert shows(strip, TRUTH_COLOR) and not shows(strip, PREDICTED_COLOR)
    certain = watched.draw(lambda x, training: np.ones((*x.shape[:-1], 1), np.float32), 4)
    assert shows(certain, PREDICTED_COLOR)
    assert read_image(run.strip_file(3)).shape == strip.shape
    assert Watched(run, None).draw(None, 4) is None


def shows(strip, color):
    """Whether a pixel has about this color: small slices are enlarged after their outlines are drawn."""
    return (np.abs(strip.astype(int) - color).max(axis=-1) < 60).any()
