"""Prepare a model for training: optimizer, loss, metrics, learning-rate schedules and the controller."""

import math

import keras
import numpy as np

from common.training.cpu_speedups import speed_up
from losses import follow_steps, get_loss, training_metrics
from models import classes_of

SCHEDULES = ("constant", "poly", "graph", "cosine")


def compile_network(model, optimizer, rate, loss, jit, ignores=False):
    """Compile a model for training.

    Args:
        model: keras.Model.
        optimizer, rate: as in `make_optimizer`.
        loss: as in `losses.get_loss`.
        jit: whether to compile with XLA or PyTorch's compiler.
        ignores: whether masks have pixels that do not count; see `losses.get_loss`.
    """
    model.compile(
        optimizer=make_optimizer(optimizer, rate),
        loss=get_loss(loss, ignores=ignores),
        metrics=training_metrics(classes_of(model), ignores),
        jit_compile=jit,
    )
    model.optimizer.build(model.trainable_variables)  # otherwise the first step builds it, and is traced twice
    prepare_steps(model)


def prepare_steps(model):
    """Change a compiled or loaded model as training needs; its file contains none of these changes."""
    follow_steps(model)
    speed_up(model)


def make_optimizer(setting, rate=None):
    """Make the optimizer for a setting.

    Args:
        setting: name, or dict with "name" and the optimizer's settings, as for `OPTIMIZER` in train.py.
        rate: learning rate, unless the settings contain one; None: Keras' default.

    Raises:
        ValueError: for an unknown name or setting.
    """
    setting = {"name": setting} if isinstance(setting, str) else dict(setting)
    if "name" not in setting:
        raise ValueError(f'expected a name, such as {{"name": "sgd", "momentum": 0.9}} (found {setting})')
    name = setting.pop("name").lower()
    rate = {} if rate is None else {"learning_rate": rate}
    return keras.optimizers.get({"class_name": name, "config": rate | setting})


# --- learning rate


def learning_rate(schedule, epoch, epochs, base, *, warm_up=0, skip=0, **settings):
    """Learning rate of an epoch: that of `scheduled_rate`, in the first `warm_up` epochs rising in equal steps.

    Args:
        schedule, epoch, epochs, base: as in `scheduled_rate`.
        warm_up: number of epochs; epoch i of them, from 0, has (i + 1) / (warm_up + 1) of the rate.
        skip: number of epochs that the schedule had before this run, whose length is then epochs + skip.
        settings: further keyword arguments of `scheduled_rate`.

    Returns:
        float.

    Raises:
        ValueError: as in `scheduled_rate`.
    """
    return scheduled_rate(schedule, epoch + skip, epochs + skip, base, **settings) * min(1, (epoch + 1) / (warm_up + 1))


def scheduled_rate(schedule, epoch, epochs, base, *, power=0.9, points=(), period=0, factor=2.0, lowest=0.0):
    """Learning rate of an epoch by a schedule.

    Args:
        schedule: "constant"; "poly": base * (1 - epoch / epochs)^power; "graph": `points` [epoch, learning rate],
            interpolated linearly; "cosine": from base down to `lowest` over `period` epochs, then again over `factor`
            times as many (Loshchilov and Hutter, arXiv 1608.03983); a period of 0 means all epochs.
        epoch: counted from 0.
        epochs: number of epochs in the run.
        base: initial learning rate.

    Returns:
        float.

    Raises:
        ValueError: for an unknown schedule, or invalid points or periods.
    """
    if schedule == "constant":
        return float(base)
    if schedule == "poly":
        return float(base * max(1 - epoch / epochs, 0) ** power)
    if schedule == "graph":
        at = [point[0] for point in points]
        if len(at) < 2 or at != sorted(at) or any(len(point) != 2 for point in points):
            raise ValueError(
                f"SCHEDULE_SETTINGS: expected at least two points [epoch, rate], in order (found {points})"
            )
        return float(np.interp(epoch, at, [point[1] for point in points]))
    if schedule == "cosine":
        length, start = period or epochs, 0
        if length < 0 or factor <= 0:
            raise ValueError(f"SCHEDULE_SETTINGS: expected period >= 0 and factor > 0 (found {period} and {factor})")
        while epoch >= start + max(length, 1):
            start, length = start + max(length, 1), length * factor
        return float(lowest + (base - lowest) * (1 + math.cos(math.pi * (epoch - start) / max(length, 1))) / 2)
    raise ValueError(f"SCHEDULE: unknown schedule {schedule!r}; choose one of {', '.join(SCHEDULES)}")


class Controller:
    """Multiplier of the learning rate that falls while validation does not improve, and rises while it does.

    Args:
        step: factors for the multiplier: step[0] after patience[0] epochs in a row without a new best, step[1] after
            patience[1] epochs in a row with one.
        patience: two numbers of epochs.
        limit: minimum multiplier when it falls, and maximum when it rises.

    Raises:
        ValueError: unless each is a pair of positive numbers.
    """

    def __init__(self, step=(0.1, 2.5), patience=(10, 3), limit=(0.001, 1.0)):
        for name, pair in (("step", step), ("patience", patience), ("limit", limit)):
            if len(pair) != 2 or min(pair) <= 0:
                raise ValueError(f"CONTROLLER: expected two positive numbers for {name} (found {pair})")
        self.step, self.patience, self.limit = step, patience, limit
        self.multiplier = 1.0
        self.in_a_row = [0, 0]  # epochs without a new best, with one

    def update(self, is_best):
        """Update the multiplier after an epoch.

        Args:
            is_best: whether the epoch is a new best.

        Returns:
            The multiplier for the next epoch.
        """
        same, other = int(is_best), 1 - int(is_best)
        self.in_a_row[same] += 1
        self.in_a_row[other] = 0
        if self.in_a_row[same] >= self.patience[same]:
            self.in_a_row[same] = 0
            (low, high), changed = self.limit, self.multiplier * self.step[same]
            if self.step[same] != 1:
                self.multiplier = max(changed, low) if self.step[same] < 1 else min(changed, high)
        return self.multiplier
