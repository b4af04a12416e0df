"""What predict.py averages over is chosen on the validation set: only if it is worth it, and with its own threshold."""

import zlib

import numpy as np
import pytest
from drawings import make_cases

from common.prediction.flip_choice import choose_flips
from common.training.sets import open_set


class Noisy:
    """In place of a network: what is bright, with noise that depends on the content, as turned slices differ."""

    def __init__(self, noise):
        self.noise = noise

    def predict_on_batch(self, x):
        rng = np.random.default_rng(zlib.crc32(x.tobytes()))
        return np.clip(0.2 + 0.6 * (x > 0.5) + rng.normal(0, self.noise, x.shape), 0, 1).astype(np.float32)


class Upright:
    """In place of a network: knows the right half only; mirrored or turned slices look new to it."""

    def predict_on_batch(self, x):
        seen = (x > 0.5).astype(np.float32)
        seen[:, :, : x.shape[2] // 3] *= 0.3
        return seen


@pytest.fixture
def slices(tmp_path):
    """30 slices in three cases; five have no foreground."""
    cases = make_cases(tmp_path / "cases", cases=3, slices=10, size=32, empty=True)
    rows = [f"{x},{x.parents[1] / 'y' / x.name},{x.parents[1].name}" for x in sorted(cases.glob("*/x/*.png"))]
    (tmp_path / "list.csv").write_text("\n".join(["x,y,case", *rows]) + "\n")
    return open_set(tmp_path / "list.csv")


def dice_over(slices, model, forms):
    """Best mean Dice over all thresholds of a network averaged over (quarter turns, mirrored), pixel by pixel."""
    thresholds, sums, count = np.arange(1, 100) / 100, np.zeros(99), 0
    for i in range(len(slices)):
        x, y = slices.batch([i])
        truth = y[0, ..., 0] == 1
        if not truth.any():
            continue
        found = np.zeros(truth.shape)
        for turns, mirrored in forms:
            turned = np.rot90(x[0, ..., 0], turns)
            turned = turned[:, ::-1] if mirrored else turned
            answer = model.predict_on_batch(np.ascontiguousarray(turned)[None, ..., None])[0, ..., 0]
            found += np.rot90(answer[:, ::-1] if mirrored else answer, -turns) / len(forms)
        above = found[..., None].astype(np.float32) > thresholds.astype(np.float32)
        sums += 2 * (above & truth[..., None]).sum((0, 1)) / (above.sum((0, 1)) + truth.sum())
        count += 1
    return (sums / count).max()


def test_turns_are_chosen_where_they_help(slices):
    model = Noisy(0.4)
    found = choose_flips(slices, model, epochs=100)
    assert found["flips"] == "turns" and found["flips_slices"] == int(slices.with_foreground.sum()) < 40
    turns = [(number, mirrored) for number in range(4) for mirrored in (False, True)]
    assert found["flips_dice"] == pytest.approx(dice_over(slices, model, turns), abs=1e-6)
    assert found["flips_dice_without"] == pytest.approx(dice_over(slices, model, [(0, False)]), abs=1e-6)
    assert 0 < found["flips_threshold"] < 1


@pytest.mark.parametrize("model", [Upright(), Noisy(0.02)])
def test_nothing_is_chosen_that_is_not_worth_it(slices, model):
    """Flips make it worse; or the gain is too small."""
    assert choose_flips(slices, model, epochs=100) == {"flips": "none"}


def test_flips_take_half_as_long_as_turns(slices):
    """A network that errs in mirrored slices only in part gains as much from flips alone."""

    class Striped:
        def predict_on_batch(self, x):
            found = 0.2 + 0.6 * (x > 0.5)
            found[:, ::2, : x.shape[2] // 2] = 0.5  # a quarter of the pixels, elsewhere in each mirror image
            return found.astype(np.float32)

    assert choose_flips(slices, Striped(), epochs=100)["flips"] == "flips"


def test_a_short_training_chooses_none(slices):
    assert choose_flips(slices, Noisy(0.4), epochs=1) == {}


def test_two_cases_are_too_few(slices):
    slices.case = [min(case, "case02") for case in slices.case]
    assert len(set(slices.case)) == 2 and choose_flips(slices, Noisy(0.4), epochs=100) == {}


class Memorized:
    """In place of a network: right about the slices as they are, and wrong about them mirrored or turned."""

    def __init__(self, slices):
        self.known = {slices.batch([i])[0].tobytes() for i in range(len(slices))}

    def predict_on_batch(self, x):
        bright = x > 0.5
        return (0.2 + 0.6 * (bright if x.tobytes() in self.known else ~bright)).astype(np.float32)


@pytest.mark.parametrize(("make", "expected"), [(Noisy, "turns"), (Upright, "flips"), (Memorized, "none")])
def test_a_network_that_saw_all_orientations_averages_unless_it_loses(slices, make, expected):
    """As good or better: averages, also of one case; Upright is as good at a lower threshold."""
    model = make(0.4) if make is Noisy else make(slices) if make is Memorized else make()
    slices.case = ["case01"] * len(slices)
    assert choose_flips(slices, model, epochs=100) == {}
    assert choose_flips(slices, model, epochs=100, turns=True)["flips"] == expected
