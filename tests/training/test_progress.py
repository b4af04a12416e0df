"""What the terminal shows of a run."""

import math
import re
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

from common.training import progress
from common.training.progress import EpochBar, Estimate, duration, epoch_line, guessed_seconds, mean_loss
from common.training.training_log import Log

ROW = {"epoch": 7, "loss": 0.12345, "dice": 0.9876, "val_loss": 0.2, "val_dice": 0.9, "seconds": 1234.5}


def test_an_epoch_is_one_line_of_at_most_100_characters():
    assert re.fullmatch(
        r"epoch   7/500  loss 0\.1235  val_loss 0\.2000  dice 0\.988  val_dice 0\.900  \d+\.\d GB  1234\.5 s  best",
        epoch_line(ROW, 500, True),
    )
    assert "val_" not in epoch_line({name: v for name, v in ROW.items() if not name.startswith("val")}, None, False)
    for count in range(2, 30):
        scores = {f"val_dice_{k}": k / 30 for k in range(1, count + 1)}
        line = epoch_line(ROW | scores, 500, True, ["left ventricle", "myocardium"])
        assert len(line) <= 100 and "(left ventricle 0.03, " in line and line.endswith("1234.5 s  best"), line
    assert "class 2 0.07" in epoch_line(ROW | {"val_dice_1": 0.03, "val_dice_2": 0.07}, 500, True)
    long = epoch_line(ROW | {"val_dice_1": 0.03, "val_dice_2": 0.07}, 500, True, ["x" * 90, "y"])
    assert len(long) <= 100 and "val_dice 0.900" in long


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (59.6, "60 s"), (120, "2 min"), (5990, "100 min"), (7500, "2 h 05 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == ("1 h 40 min" if seconds == 5990 else text)


def test_the_bar_knows_loss_speed_and_time_left(monkeypatch):
    now = SimpleNamespace(value=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.value)
    monkeypatch.setattr(progress, "mean_loss", lambda model: 0.5)
    batches = type("Batches", (), {"batch_size": 8, "__len__": lambda self: 10})()
    bar = EpochBar(None, batches, 6, 3, 5, None, math.inf)
    bar.move_to(0)
    now.value = 60.0  # compiling
    bar.move_to(1)
    now.value = 64.0
    bar.move_to(3)
    # 2 s a step: 7 steps and 6 validation steps of a third; then 2 epochs of 10 and 6
    assert bar.bar.note == "loss 0.5000, 4 images/s, 18 s left, run 66 s left"
    assert EpochBar(None, batches, 6, 5, 5, 100.0, math.inf).left == 0
    bar.close()
    limited = EpochBar(None, batches, 0, 1, 100, 50.0, deadline=now.value + 30)
    limited.move_to(1)
    now.value += 2
    limited.move_to(2)
    assert limited.bar.note.endswith("run 28 s left")
    limited.close()


def test_the_estimate_is_printed_once_and_early(capsys):
    Estimate(Log(), None, 10)
    assert "10 min for as many epochs as fit; until " in capsys.readouterr().out
    resumed = Estimate(Log([{"epoch": i, "seconds": 60.0} for i in (1, 2)]), 5, None)
    assert "3 min for 3 epochs; until " in capsys.readouterr().out
    new, bar = Estimate(Log(), 50, 30), SimpleNamespace(left=49, seconds_left=lambda step: 600)
    for step in range(8):
        new.after(bar, step)
    for estimate in (new, resumed):
        estimate.after_epoch(Log([{"epoch": 1, "seconds": 60.0}] * 2))
    assert capsys.readouterr().out.count("10 min for 50 epochs, or MAX_MINUTES = 30; until ") == 1
    short = Estimate(Log(), 3, None)
    short.after_epoch(Log([{"epoch": 1, "seconds": 600.0}]))
    assert "estimated" not in capsys.readouterr().out, "the first epoch compiles the network"
    short.after_epoch(Log([{"epoch": 1, "seconds": 600.0}, {"epoch": 2, "seconds": 120.0}]))
    assert "2 min for 1 epoch more" in capsys.readouterr().out


@pytest.mark.parametrize(("measured", "printed"), [(650, 1), (900, 2), (400, 2)])
def test_an_estimate_before_the_first_step_is_corrected_if_it_was_wrong(capsys, measured, printed):
    guessed = Estimate(Log(), 50, None, lambda: 12.0)
    assert "first estimate: about 10 min for 50 epochs; until " in capsys.readouterr().out
    bar = SimpleNamespace(left=49, seconds_left=lambda step: measured)
    for step in range(8):
        guessed.after(bar, step)
    guessed.after_epoch(Log([{"epoch": 1, "seconds": 1e6}] * 2))
    assert capsys.readouterr().out.count("estimated time: ") == printed - 1


def test_a_guessed_epoch_counts_the_steps_of_both_sets():
    model = keras.Sequential([keras.Input((8, 8, 1)), SlowLayer()])
    seconds = guessed_seconds(model, Steps(range(4), 5), validation_steps=3)
    assert seconds == pytest.approx((4 * 3 + 3) * 5 * 0.05, rel=0.3)
    assert guessed_seconds(keras.Sequential([keras.Input((None, None, 1)), SlowLayer()]), Steps(), 0) is None


class SlowLayer(layers.Layer):
    def call(self, x):
        time.sleep(0.05 * (x.shape[0] or 1))
        return x


class Steps(list):
    def __init__(self, steps=(), batch_size=1):
        super().__init__(steps)
        self.batch_size = batch_size


def test_the_loss_so_far_is_the_mean_over_the_steps():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse", metrics=[keras.metrics.MeanAbsoluteError()])
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    steps = [model.evaluate(x[[i]], x[[i], :1], verbose=0)[0] for i in range(4)]
    seen = []
    look = keras.callbacks.LambdaCallback()
    look.on_train_batch_begin = lambda batch, logs=None: seen.append(mean_loss(model))
    model.fit(x, x[:, :1], batch_size=1, epochs=1, shuffle=False, verbose=0, callbacks=[look])
    assert seen == pytest.approx([0, *(np.mean(steps[:k]) for k in (1, 2, 3))], rel=1e-5)
