"""Learning rate by epoch: a schedule, times the multiplier of a controller that watches validation."""

import math

import numpy as np

SCHEDULES = ("constant", "poly", "graph", "cosine")


def learning_rate(schedule, epoch, epochs, base, *, power=0.9, points=(), period=0, factor=2.0, lowest=0.0):
    """Learning rate of an epoch.

    Args:
        schedule: "constant"; "poly", base * (1 - epoch / epochs)^power; "graph", `points` [epoch, rate] joined by
            straight lines; "cosine" from base down to `lowest` over `period` epochs, then again over `factor` times as
            many (Loshchilov and Hutter, arXiv 1608.03983); a period of 0 takes all the epochs.
        epoch: counted from 0.
        epochs: number of epochs of the run.
        base: rate to start from.

    Returns:
        float.

    Raises:
        ValueError: for an unknown schedule, or points or periods that make none.
    """
    if schedule == "constant":
        return float(base)
    if schedule == "poly":
        return float(base * max(1 - epoch / epochs, 0) ** power)
    if schedule == "graph":
        at = [point[0] for point in points]
        if len(at) < 2 or at != sorted(at) or any(len(point) != 2 for point in points):
            raise ValueError(f"points of the graph are {points}; expected at least two [epoch, rate], in order")
        return float(np.interp(epoch, at, [point[1] for point in points]))
    if schedule == "cosine":
        length, start = period or epochs, 0
        if length < 0 or factor <= 0:
            raise ValueError(f"cosine needs period >= 0 and factor > 0, not {period} and {factor}")
        while epoch >= start + max(length, 1):
            start, length = start + max(length, 1), length * factor
        return float(lowest + (base - lowest) * (1 + math.cos(math.pi * (epoch - start) / max(length, 1))) / 2)
    raise ValueError(f"unknown schedule {schedule!r}; choose one of {', '.join(SCHEDULES)}")


class Controller:
    """Multiplier of the learning rate that falls while validation does not improve, and rises while it does.

    Args:
        step: the multiplier is multiplied by step[0] after patience[0] epochs in a row without a new best, and by
            step[1] after patience[1] epochs in a row with one.
        patience: two numbers of epochs.
        limit: least and greatest multiplier.

    Raises:
        ValueError: unless each is a pair of positive numbers.
    """

    def __init__(self, step=(0.1, 2.5), patience=(10, 3), limit=(0.001, 1.0)):
        for name, pair in (("step", step), ("patience", patience), ("limit", limit)):
            if len(pair) != 2 or min(pair) <= 0:
                raise ValueError(f"the controller's {name} is {pair}; expected two positive numbers")
        self.step, self.patience, self.limit = step, patience, limit
        self.multiplier = 1.0
        self.in_a_row = [0, 0]  # epochs without a new best, with one

    def update(self, is_best):
        """Take note of an epoch.

        Args:
            is_best: whether it brought a new best.

        Returns:
            The multiplier for the next epoch.
        """
        kind = int(is_best)
        self.in_a_row[kind] += 1
        self.in_a_row[1 - kind] = 0
        if self.in_a_row[kind] >= self.patience[kind]:
            self.in_a_row[kind] = 0
            low, high = self.limit
            self.multiplier = min(max(self.multiplier * self.step[kind], low), high)
        return self.multiplier
