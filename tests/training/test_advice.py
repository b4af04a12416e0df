"""Each rule of docs/advice.md: an example that it applies to, and one that it does not."""

from types import SimpleNamespace

import numpy as np
import pytest
from drawings import make_cases

from common.slices.images import read_mask, read_slice
from common.training import advice
from common.training.training_log import Log

LEARNS = [0.1, 0.3, 0.5, 0.6, 0.65, 0.66]


def log_of(val_dice=None, dice=LEARNS, loss=(1.0, 0.8, 0.6, 0.5, 0.45, 0.44), rate=(1e-3,) * 6, **columns):
    val_dice = dice if val_dice is None else val_dice
    rows = [
        {"epoch": i + 1, "loss": loss[i], "dice": dice[i], "val_dice": val_dice[i], "learning_rate": rate[i]}
        | {name: values[i] for name, values in columns.items()}
        for i in range(len(val_dice))
    ]
    return Log(rows)


@pytest.mark.parametrize(
    ("rule", "applies", "does_not"),
    [
        ("nothing predicted", log_of([0.0] * 6), log_of([0.0] * 5 + [0.1])),
        ("nothing predicted", log_of([0.2] + [0.0] * 5), log_of([0.0] * 4)),
        ("overfitting", log_of([0.6] * 6, [0.5, 0.7, 0.9, 0.98, 0.98, 0.99]), log_of([0.8] * 6, [0.95] * 6)),
        ("overfitting", log_of([0.6] * 3, [0.9] * 3), log_of([0.2] * 6, [0.6] * 6)),
        ("learning rate", log_of(loss=[1.0, 0.5, 0.9, 0.8, 0.9, 0.9]), log_of(loss=[1.0, 0.5, 0.9, 0.8, 0.5, 0.4])),
        ("learning rate", log_of(loss=[-0.5] * 3 + [-0.1] * 3), log_of(loss=[-0.5] * 3 + [-0.45] * 3)),
        (
            "learning rate",
            log_of(loss=[1.0, 0.5, 0.4, 0.9, 0.9, 0.9]),
            log_of(loss=[1.0, 0.5, 0.4, 0.9, 0.9, 0.9], rate=[1e-3, 5e-4, 1e-5, 1e-3, 9e-4, 8e-4]),
        ),
        (
            "class never predicted",
            log_of(val_dice_1=LEARNS, val_dice_2=[0.0] * 6),
            log_of(val_dice_1=LEARNS, val_dice_2=[0.0, 0.0, 0.0, 0.0, 0.0, 0.1]),
        ),
        (
            "class never predicted",
            log_of(val_dice_1=LEARNS, val_dice_2=[0.0] * 6),
            log_of([0.0] * 6, val_dice_1=[0.0] * 6, val_dice_2=[0.0] * 6),
        ),
        ("too short", log_of(), log_of([0.1, 0.3, 0.5, 0.6, 0.65, 0.64])),
    ],
)
def test_rules_on_epochs(rule, applies, does_not):
    found, other = advice.of_log(applies, ended=True), advice.of_log(does_not, ended=True)
    assert rule in found and rule not in other, (found, other)


def test_a_run_that_learns_gets_no_advice():
    assert advice.of_log(log_of(), ended=False) == {} and advice.of_log(Log()) == {}


def test_classes_have_names():
    log = log_of(val_dice_1=LEARNS, val_dice_2=[0.0] * 6)
    assert "edema not predicted" in advice.of_log(log, names=["tumor", "edema"])["class never predicted"]
    assert "class 2 not predicted" in advice.of_log(log)["class never predicted"]


class Square:
    """A set of square slices of one class."""

    axes, classes, shape = 2, 1, (64, 64, 1)

    @staticmethod
    def to_draw(image):
        return image[..., 0]

    def __init__(self, x, y, case):
        self.x, self.y, self.case = x, y, case

    def __len__(self):
        return len(self.case)


@pytest.mark.parametrize("shift", [0, 5])
def test_shifted_masks(tmp_path, shift):
    cases = make_cases(tmp_path, cases=4, slices=4, size=64)
    pairs = [(read_slice(path), read_mask(path.parents[1] / "y" / path.name)) for path in sorted(cases.glob("*/x/*"))]
    x, y = (np.stack(side)[..., None] for side in zip(*pairs, strict=True))
    y = np.roll(y, shift, axis=1)
    training = Square(x, y, [f"case{i // 4}" for i in range(16)])
    found = advice.of_sets(training, None).get("shifted masks", "")
    assert ("move 5 pixels up" in found) == bool(shift), found


class Slices:
    """A set of slices with the class numbers of each case."""

    axes, shape = 2, (2, 1, 1)  # not square, so that no edges are looked for

    def __init__(self, **cases):
        self.numbers = [numbers for of_case in cases.values() for numbers in of_case]
        self.case = [name for name, of_case in cases.items() for _ in of_case]
        self.classes = max(max(numbers) for numbers in self.numbers)

    def __len__(self):
        return len(self.case)

    def batch(self, indices):
        return None, np.array([self.numbers[i] for i in indices], np.uint8)


def test_rules_on_sets():
    few, enough = (Slices(**{f"case{k}": [[0, 1]] for k in range(count)}) for count in (4, 5))
    assert "4 cases" in advice.of_sets(few, few)["few validation cases"]
    assert advice.of_sets(few, enough) == advice.of_sets(few, None) == {}
    volumes = SimpleNamespace(axes=3, classes=2, names=["a"])
    assert "1 case:" in advice.of_sets(volumes, volumes)["few validation cases"]
    rare = Slices(one=[[0, 1], [0, 2]], two=[[0, 1], [1, 1]], three=[[0, 0]])
    assert "class 2 (in one)" in advice.of_sets(rare, enough)["class in one case"]
    assert "edema (in one)" in advice.of_sets(rare, enough, ["tumor", "edema"])["class in one case"]
    shared = Slices(one=[[0, 1], [0, 2]], two=[[0, 1], [1, 2]])
    alone = Slices(one=[[0, 1], [0, 2]])
    assert advice.of_sets(shared, enough) == advice.of_sets(alone, enough) == {}
