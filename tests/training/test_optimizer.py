"""Learning rates and the controller against the formulas."""

import math

import pytest

from common.training.optimizer import Controller, learning_rate

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


@pytest.mark.parametrize("settings", [{"step": (0.1,)}, {"patience": (0, 1)}, {"limit": (0.1, 1, 2)}])
def test_wrong_controllers_are_refused(settings):
    with pytest.raises(ValueError, match="CONTROLLER: expected two positive numbers"):
        Controller(**settings)
