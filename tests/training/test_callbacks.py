"""Callbacks: their order, copies that are saved in the background, errors of the thread, and the table of times."""

import time

import keras
import numpy as np
import pytest
from keras import layers

from common.training import callbacks, timing
from common.training.callbacks import BackgroundWriter, EpochControl, RunWriter, copy_model, copy_state, in_order
from common.training.run_folder import Run
from common.training.run_records import SliceData
from common.training.timing import Timer, in_lines
from common.training.training_log import Log


class Batches(keras.utils.PyDataset):
    """Three batches, each made in a twentieth of a second."""

    def __init__(self):
        super().__init__()
        self.set_epoch(0)

    def set_epoch(self, epoch):
        self.made_at = {}

    def __len__(self):
        return 3

    def __getitem__(self, index):
        time.sleep(0.05)
        self.made_at.setdefault(index, time.perf_counter())
        return np.ones((2, 3), np.float32), np.ones((2, 1), np.float32)


class StandIn:
    """A training set of which only the facts count."""

    axes, classes, shape = 2, 1, (2, 1, 1)

    def record(self):
        return SliceData()


def small_model():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.BatchNormalization(), layers.Dense(1)])
    model.compile("nadam", "mse", metrics=[keras.metrics.MeanSquaredError(name) for name in ("dice", "iou")])
    model.optimizer.build(model.trainable_variables)
    return model


def test_a_copy_is_saved_as_the_network_was(tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.BatchNormalization(), layers.Dense(1)])
    model.compile("nadam", "mse")
    model.optimizer.build(model.trainable_variables)
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    model.train_on_batch(x, x[:, :1])
    copy = copy_model(model)
    copy_state(model, copy)
    expected = [np.array(keras.ops.convert_to_numpy(v)) for v in (*model.variables, *model.optimizer.variables)]
    model.train_on_batch(x, x[:, :1])
    writer = BackgroundWriter()
    writer.start(copy.save, tmp_path / "copy.keras")
    writer.wait()
    saved = keras.saving.load_model(tmp_path / "copy.keras")
    values = [keras.ops.convert_to_numpy(v) for v in (*saved.variables, *saved.optimizer.variables)]
    assert copy is not model and all(map(np.array_equal, values, expected))
    assert not np.array_equal(model.layers[0].kernel, expected[0])


def test_what_fails_in_the_background_is_raised_by_the_next_job_or_the_wait():
    def fail():
        raise OSError(28, "No space left on device")

    for follow in (lambda writer: writer.start(print), BackgroundWriter.wait):
        writer = BackgroundWriter()
        writer.start(fail)
        with pytest.raises(OSError, match="No space left"):
            follow(writer)
        writer.wait()


def test_the_table_of_times_has_three_rows_that_add_up(capsys):
    batches, model = Batches(), small_model()
    timer = Timer(batches)
    assert timer.table() == {}
    control = EpochControl(Log(), batches, lambda epoch, epochs, log: 0.01, seed=1, epochs=2)
    callbacks = in_order(timer, control, None)
    model.fit(batches, validation_data=Batches(), epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
    total = timer.ended - timer.started
    table = timer.table()
    assert set(table) <= {timing.COMPILING, timing.TRAINING, timing.WAITING} and timing.COMPILING in table
    seconds = {row: float(text.split()[0]) for row, text in table.items()}
    assert sum(seconds.values()) == pytest.approx(total, abs=0.3), "each is rounded to 0.1 s, or left out below 0.05 s"
    shares = [float(text.split()[2].rstrip("%")) for text in table.values()]
    assert sum(shares) == pytest.approx(100, abs=5)
    assert timer.waiting > 0.05, "batches after the first of each epoch were waited for"
    assert len(in_lines(table).splitlines()) == len(table) and "compiled" in capsys.readouterr().out


class Clock(keras.callbacks.Callback):
    """In place of `time` in callbacks.py: compiling takes 48 s, and an epoch 7 s."""

    def __init__(self):
        super().__init__()
        self.now, self.compiled = 0.0, False

    def monotonic(self):
        return self.now

    def on_train_batch_end(self, batch, logs=None):
        self.now += 0.0 if self.compiled else 48.0
        self.compiled = True

    def on_epoch_end(self, epoch, logs=None):
        self.now += 7.0


def test_compiling_does_not_count_for_the_next_epoch(monkeypatch):
    """It counted, so a run of 90 s ended after its first epoch, of 55 s."""
    batches, model, log, clock = Batches(), small_model(), Log(), Clock()
    monkeypatch.setattr(callbacks, "time", clock)
    control = EpochControl(log, batches, lambda epoch, epochs, log: 0.01, seed=1, epochs=100, max_minutes=1.5)
    model.fit(batches, epochs=100, shuffle=False, verbose=0, callbacks=[clock, control])
    assert [row["seconds"] for row in log.rows] == [55, 7, 7, 7, 7, 7] and clock.now == 90
    assert "another epoch would exceed" in control.end_reason


def test_the_order_of_callbacks_is_checked(tmp_path):
    batches, model = Batches(), small_model()
    timer = Timer(batches)
    control = EpochControl(Log(), batches, lambda epoch, epochs, log: 0.01, seed=1, epochs=1)
    writer = RunWriter(Run(tmp_path), control, timer, StandIn(), None)
    ours = in_order(timer, control, writer)
    assert ours == [timer, control, writer.averaging, writer] and len(in_order(timer, control, None)) == 3
    settings = {"validation_data": Batches(), "epochs": 1, "shuffle": False, "verbose": 0}
    with pytest.raises(RuntimeError, match="see in_order"):
        model.fit(batches, callbacks=[timer, writer, control], **settings)
