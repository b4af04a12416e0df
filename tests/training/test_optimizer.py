"""Learning rates and the controller against the formulas."""

import math

import numpy as np
import pytest

from common.training.optimizer import Controller, learning_rate
from common.training.training_log import Log

GRAPH = [[0, 5e-3], [5, 1.5e-2], [10, 1.5e-2], [20, 1e-2], [30, 7.5e-3], [50, 5e-3]]


def test_poly_of_the_codeset():
    for epoch in (0, 1, 50, 99):
        assert learning_rate("poly", epoch, 100, 0.5) == pytest.approx(0.5 * (1 - epoch / 100) ** 0.9)


@pytest.mark.parametrize(("epoch", "rate"), [(0, 5e-3), (2, 9e-3), (7, 1.5e-2), (15, 1.25e-2), (50, 5e-3), (60, 5e-3)])
def test_graph_joins_points_by_straight_lines(epoch, rate):
    assert learning_rate("graph", epoch, 50, 1, points=GRAPH) == pytest.approx(rate)


def test_cosine_with_and_without_restarts():
    assert learning_rate("cosine", 0, 10, 1) == 1
    assert learning_rate("cosine", 5, 10, 1) == pytest.approx(0.5)
    rates = [learning_rate("cosine", e, 700, 1e-2, period=100, factor=2, lowest=1e-6) for e in range(700)]
    assert rates[0] == rates[100] == rates[300] == pytest.approx(1e-2)
    assert rates[99] < 1e-5 and rates[299] < 1e-5
    assert rates[200] == pytest.approx(1e-6 + (1e-2 - 1e-6) * (1 + math.cos(math.pi / 2)) / 2)


def test_warm_up_rises_to_the_schedule():
    rates = [learning_rate("cosine", epoch, 20, 1.0, warm_up=3) for epoch in range(20)]
    plain = [learning_rate("cosine", epoch, 20, 1.0) for epoch in range(20)]
    assert rates[:3] == pytest.approx([plain[0] / 4, plain[1] / 2, plain[2] * 0.75]) and rates[3:] == plain[3:]
    assert learning_rate("constant", 0, 5, 0.5, warm_up=1) == 0.25


def test_a_schedule_continues_after_the_epochs_that_are_over():
    for schedule, settings in (("poly", {}), ("graph", {"points": GRAPH}), ("cosine", {"period": 10})):
        whole = [learning_rate(schedule, epoch, 50, 0.5, **settings) for epoch in range(50)]
        assert [learning_rate(schedule, epoch, 20, 0.5, skip=30, **settings) for epoch in range(20)] == whole[30:]


def test_constant():
    assert learning_rate("constant", 7, 10, 0.25) == 0.25


@pytest.mark.parametrize(
    ("schedule", "settings"),
    [("linear", {}), ("graph", {}), ("graph", {"points": [[5, 1], [0, 1]]}), ("cosine", {"factor": 0})],
)
def test_wrong_schedules_are_refused(schedule, settings):
    with pytest.raises(ValueError, match="SCHEDULE"):
        learning_rate(schedule, 0, 10, 1, **settings)


def test_controller_falls_rises_and_stays_within_its_limits():
    controller = Controller(step=(0.1, 5.0), patience=(3, 2), limit=(0.01, 1.0))
    steps = [controller.update(best) for best in [0, 0, 0, 0, 0, 0, 0, 0, 0]]
    assert steps == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01])
    steps = [controller.update(best) for best in [1, 1, 1, 0, 1, 1, 1, 1, 1, 1]]
    assert steps == pytest.approx([0.01, 0.05, 0.05, 0.05, 0.05, 0.25, 0.25, 1, 1, 1])


def codeset_multiplier(courses, step, patience, limit):
    """Multiplier of AIS Training Codeset after a course of (IoU, Dice) of each epoch; its rules, written anew."""
    multiplier, best, row = 1.0, [-math.inf, -math.inf], {"good": 0, "bad": 0}
    for scores in courses:
        is_new = [score > known for score, known in zip(scores, best, strict=True)]
        best = [max(score, known) for score, known in zip(scores, best, strict=True)]
        kind, other, which = ("good", "bad", 1) if any(is_new) else ("bad", "good", 0)
        row[kind], row[other] = row[kind] + 1, 0
        if row[kind] >= patience[which] and step[which] != 1:
            choose = max if step[which] < 1 else min
            multiplier, row[kind] = choose(limit[which], multiplier * step[which]), 0
    return multiplier


def test_controller_is_the_one_of_the_codeset_over_2000_courses():
    rng, different = np.random.default_rng(0), set()
    for _ in range(2000):
        epochs = int(rng.integers(1, 60))
        rise = np.linspace(0, rng.uniform(0, 1), epochs)[:, None]
        course = np.round(rise + rng.normal(0, rng.uniform(0.01, 0.3), (epochs, 2)), 2).clip(0, 1).tolist()
        settings = {
            "step": [float(rng.choice([0.1, 0.5, 0.8, 1])), float(rng.choice([1, 1.5, 2.5, 5]))],
            "patience": [int(rng.integers(1, 16)), int(rng.integers(1, 6))],
            "limit": [float(rng.choice([0.001, 0.01, 0.3])), float(rng.choice([0.7, 1, 4]))],
        }
        log = Log([{"epoch": i, "val_iou": iou, "val_dice": dice} for i, (iou, dice) in enumerate(course, 1)])
        expected = codeset_multiplier(course, **settings)
        assert log.multiplier(Controller(**settings)) == expected
        different.add(expected)
    assert len(different) > 50, "the courses differ"


@pytest.mark.parametrize("settings", [{"step": (0.1,)}, {"patience": (0, 1)}, {"limit": (0.1, 1, 2)}])
def test_wrong_controllers_are_refused(settings):
    with pytest.raises(ValueError, match="CONTROLLER: expected two positive numbers"):
        Controller(**settings)
