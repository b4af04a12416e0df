"""Callbacks of a run: set up each epoch, decide when to stop, and update the run folder."""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import keras
import numpy as np

from common import devices
from common.errors import InputError
from common.parallel import print_above
from common.training import advice
from common.training.averaging import AveragedWeights, set_values
from common.training.board import Board
from common.training.checkpoints import save_checkpoint
from common.training.progress import EpochBar, Estimate, epoch_line, guessed_seconds, usual_seconds
from common.training.report import draw_augmented, draw_curves, write_report
from common.training.run_folder import MEASURED
from common.training.sets import Batches
from common.training.training_log import Log
from common.training.watching import Watched

SHARE_OF_DRAWING = 0.01  # maximum share of the run time spent on drawing curves and validation slices
SHARE_OF_TIME = 0.95  # share of MAX_MINUTES to fill with EPOCHS = None; epochs do not all take the same time


def in_order(timer, control, writer):
    """Callbacks for `fit`, in the order they need.

    Timer is first, to time Keras and not the other callbacks. RunWriter is last, since it writes the row that
    EpochControl adds to the log, and the average of the weights.

    Args:
        timer: `common.training.timing.Timer`.
        control: EpochControl.
        writer: RunWriter; None in every process except the first.
    """
    averaging = AveragedWeights(control.training)
    if writer:
        writer.averaging = averaging
    return [timer, control, averaging, *([writer] if writer else [])]


class EpochControl(keras.callbacks.Callback):
    """Sets up each epoch, keeps the log and decides when to stop.

    Args:
        log: `common.training.run_folder.Log` of the epochs so far.
        training: training batches; `set_epoch` is called for each epoch.
        learning_rate: function of the epoch, from 0, the number of epochs and the log that returns the learning rate.
        seed: int, for dropout and noise layers.
        epochs: number of epochs in the run; None: as many as fit into `max_minutes`, measured over two epochs.
        early_stop: stop after this many epochs without a new best; 0: never.
        max_minutes: stop before an epoch that would exceed this time; None: never.
        broadcast: function that returns the first process's value in all processes, whose clocks differ.
        validation: validation batches; None: none.

    Attributes:
        epochs: number of epochs in the run; None until it is measured.
        end_reason: why training is over, as text, or None.
        failed: whether training stopped because of an error.
        has_taken_its_time: whether it has ended after its epochs or minutes, not by `early_stop`.
    """

    def __init__(
        self,
        log,
        training,
        learning_rate,
        seed,
        epochs,
        early_stop=0,
        max_minutes=None,
        broadcast=lambda value: value,
        validation=None,
    ):
        super().__init__()
        self.log, self.training, self.learning_rate_of, self.seed = log, training, learning_rate, seed
        self.epochs, self.early_stop, self.max_minutes, self.broadcast = epochs, early_stop, max_minutes, broadcast
        self.validation_steps = len(validation) if validation else 0
        self.deadline = time.monotonic() + 60 * max_minutes if max_minutes else math.inf
        self.ends = []  # when the epochs ended
        self.longest = 0.0  # seconds of the longest epoch; the first one, which compiles the network, counts alone only
        self.compiling = 0.0  # seconds of the very first step, if its epoch has more
        self.end_reason, self.failed = log.reason_to_stop(epochs, early_stop), False
        self.has_taken_its_time = False

    def on_train_begin(self, logs=None):
        can_guess = len(getattr(self.training, "devices", ())) == 1
        guess = partial(guessed_seconds, self.model, self.training, self.validation_steps) if can_guess else None
        self.estimate = Estimate(self.log, self.epochs, self.max_minutes, guess)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_started = time.monotonic()
        self.training.set_epoch(epoch)
        seconds = usual_seconds(self.log) if len(self.log) > 1 else None  # the first epoch compiles
        self.bar = EpochBar(
            self.model, self.training, self.validation_steps, epoch + 1, self.epochs, seconds, self.deadline
        )
        self.learning_rate = self.learning_rate_of(epoch, self.epochs, self.log)
        self.model.optimizer.learning_rate = self.learning_rate
        generators = [v for v in self.model.variables if v.name == "seed_generator_state"]
        for number, state in enumerate(generators):
            word = np.random.SeedSequence([self.seed, epoch, number]).generate_state(1)[0] >> 1
            state.assign(np.array([word, 0]))

    def on_train_batch_begin(self, batch, logs=None):
        """Move the bar; not at the batch end, since Keras would then wait for the metrics of every step."""
        if batch == 0:
            devices.hold_memory()  # again: TensorFlow undoes it when it starts to read batches from Python
        if batch == 1 and not self.ends:
            self.compiling = time.monotonic() - self.epoch_started
        self.bar.move_to(batch)
        self.estimate.after(self.bar, batch)

    def on_epoch_end(self, epoch, logs=None):
        self.bar.close()
        if not math.isfinite(logs["loss"]):
            self.end_reason = (
                f"LEARNING_RATE or LOSS: the loss of epoch {epoch + 1} is not finite ({logs['loss']}); "
                "lower LEARNING_RATE or choose another LOSS"
            )
            if epoch:
                self.end_reason += f"; last.keras contains epoch {epoch}"
            self.failed = self.model.stop_training = True
            return
        row = {"epoch": epoch + 1, "learning_rate": self.learning_rate}
        row |= {name: float(value) for name, value in logs.items()}
        now = time.monotonic()
        row["seconds"] = round(now - self.epoch_started, 3)
        self.log.rows.append(row)
        compiling = 0.0 if self.ends else self.compiling
        self.longest = max(self.longest if len(self.ends) > 1 else 0.0, now - self.epoch_started - compiling)
        self.ends.append(now)
        if self.epochs is None and len(self.ends) == 2:
            seconds = now - self.ends[0]  # with the time between two epochs
            self.epochs = self.broadcast(epochs_that_fit(len(self.log), seconds, self.deadline - now))
        self.end_reason = self.log.reason_to_stop(self.epochs, self.early_stop)
        self.has_taken_its_time = bool(self.epochs) and len(self.log) >= self.epochs
        if not self.end_reason and self.max_minutes and self.broadcast(now + self.longest > self.deadline):
            self.end_reason = f"stopped early, another epoch would exceed MAX_MINUTES ({self.max_minutes:g})"
            self.has_taken_its_time = True
        self.model.stop_training = self.end_reason is not None


def epochs_that_fit(done, seconds, left):
    """Number of epochs in a run after some of them: as many as fit into the time left, in seconds."""
    return done + max(0, int(SHARE_OF_TIME * left / seconds))


class RunWriter(keras.callbacks.Callback):
    """Prints the results of each epoch and updates the run folder.

    Args:
        run: `common.training.run_folder.Run`.
        control: EpochControl of the run.
        timer: `common.training.timing.Timer`.
        training, validation: sets; validation may be None.
    """

    def __init__(self, run, control, timer, training, validation):
        super().__init__()
        self.run, self.control, self.timer, self.log = run, control, timer, control.log
        self.data, self.watched = training.record(), Watched(run, validation)
        self.draw_after, self.copy, self.best = -math.inf, None, None
        self.measures_epochs, self.names = control.epochs is None, run.class_names(self.data)
        self.advice = {}
        self._advise(advice.of_sets(training, validation, self.names))
        self.board = Board(run.tensorboard_folder)
        self.background = BackgroundWriter()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        """Wait until nothing writes to the run, however training ended: from then on, another process may."""
        self.background.thread.shutdown()

    def on_train_begin(self, logs=None):
        self.copy = self.best = copy_model(self.model)
        if self.averaging.is_on:
            self.best = copy_model(self.model)
            if self.best is self.model:
                raise InputError("OPTIMIZER: use_ema needs a network that Keras can clone; remove it")
        if not self.log and isinstance(batches := self.control.training, Batches):
            draw_augmented(batches, self.run)

    def on_epoch_end(self, epoch, logs=None):
        if self.control.failed:
            return
        if len(self.log) != epoch + 1:
            raise RuntimeError("RunWriter is called before EpochControl has added the epoch to the log; see in_order")
        row, epochs = self.log.rows[-1], self.control.epochs
        print(epoch_line(row, epochs, self.log.has_validation and self.log.is_best("dice"), self.names), flush=True)
        self.control.estimate.after_epoch(self.log)
        self._advise(advice.of_log(self.log, self.control.has_taken_its_time, self.names))
        measured, self.measures_epochs = self.measures_epochs and epochs is not None, epochs is None
        if measured:
            print(f"EPOCHS = {epochs}: {MEASURED}", flush=True)
        self.finish_writing()
        copy_state(self.model, self.copy)
        if self.averaging.is_on:
            set_values(self.best, self.averaging.values)
        end_reason = self.control.end_reason
        self.background.start(self._write, Log(self.log.rows), epochs, measured, end_reason, dict(self.advice))
        if self.copy is self.model:
            self.finish_writing()

    def _advise(self, found):
        """Print advice that is new."""
        for rule, sentence in found.items():
            if rule not in self.advice:
                print_above(f"advice: {sentence}")
        self.advice |= found

    def _write(self, log, epochs, measured, end_reason, sentences):
        save_checkpoint(self.copy, log, self.run, self.best, epochs)
        if measured:  # after the checkpoint, which decides: until it is written, a resumed run measures again
            self.run.record_epochs(epochs)
        row = log.rows[-1]
        self.board.add_scalars({name: value for name, value in row.items() if name != "epoch"}, row["epoch"])
        started = time.monotonic()
        if started >= self.draw_after:
            self._draw(log)
            seconds = time.monotonic() - started
            # the first drawing also loads fonts and the like
            self.draw_after = started + seconds / SHARE_OF_DRAWING if self.draw_after > -math.inf else started
        self.board.flush()
        self._write_state(log, epochs, end_reason, sentences)
        write_report(self.run, log)

    def _draw(self, log):
        draw_curves(log, self.run.curves_file, self.names)
        strip = self.watched.draw(self.best, len(log)) if self.best else None
        if strip is not None:
            self.board.add_image("validation slices", strip, len(log))

    def _write_state(self, log, epochs, end_reason, sentences):
        self.run.write_state(log, epochs, end_reason, self.timer.table(), self.data, sentences)

    def finish_writing(self):
        """Wait for the files of the last epoch; raises OSError if the disk is full."""
        self.background.wait()

    def close(self):
        """Write the final files, after all others are written."""
        self.finish_writing()
        if self.log.rows:
            if not self.run.strip_file(len(self.log)).is_file():
                self._draw(self.log)
            # a run killed right after its last checkpoint has the state of the previous epoch
            self._write_state(self.log, self.control.epochs, self.control.end_reason, self.advice)
        self.board.close()


# --- writing while training continues


class BackgroundWriter:
    """A thread that runs one job at a time.

    Before Python exits, it waits for a running job, even after an error or Ctrl-C.
    """

    def __init__(self):
        self.thread, self.job = ThreadPoolExecutor(1, "writer"), None

    def start(self, function, *arguments):
        """Start a job after the previous one ends; raise the exception of the previous one, if any."""
        self.wait()
        self.job = self.thread.submit(function, *arguments)

    def wait(self):
        """Wait until the job ends; raise its exception, if any."""
        if self.job:
            try:
                self.job.result()
            finally:  # after Ctrl-C, the job may still be running
                self.job = None if self.job.done() else self.job


def copy_model(model):
    """Copy a compiled model and its optimizer to CPU memory, to save the copy while the model trains.

    `copy_state` updates the copy.

    Returns:
        keras.Model; the model itself if Keras cannot clone it.
    """
    try:
        with keras.device("cpu:0"):
            copy = keras.models.clone_model(model)
            copy.compile_from_config(model.get_compile_config())
    except (NotImplementedError, TypeError, ValueError):
        return model
    same = [v.shape for v in _state(copy)] == [v.shape for v in _state(model)]
    return copy if same else model


def copy_state(model, copy):
    """Copy the current weights and optimizer state to a copy made by `copy_model`."""
    for ours, theirs in zip(_state(model), _state(copy), strict=True):
        theirs.assign(keras.ops.convert_to_numpy(ours))


def _state(model):
    return [*model.variables, *model.optimizer.variables]
