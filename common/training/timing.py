"""How a run spends its time: a table at its end, in the terminal and in report.html."""

import time

import keras

from common.parallel import print_above

COMPILING = "first step of training and of validation (compiling)"
TRAINING = "training and validation"
WAITING = "waiting for images (reading and augmenting)"


class Timer(keras.callbacks.Callback):
    """Times the parts of `fit` that are visible from outside; must be the first callback.

    The model waits for a batch from when Keras requests it until it is made. This is an upper bound on an accelerator,
    which may still be busy with the previous step. The very first step counts as compiling.

    Args:
        batches: training batches; `made_at` is a dict of batch index to the time.perf_counter() when it was made in
            this epoch.
    """

    def __init__(self, batches):
        super().__init__()
        self.batches, self.started, self.ended = batches, None, None
        self.compiled, self.compiling, self.waiting = set(), 0.0, 0.0

    def on_train_begin(self, logs=None):
        self.started = time.perf_counter()

    def on_epoch_begin(self, epoch, logs=None):
        self._begin("training")

    def on_train_batch_begin(self, batch, logs=None):
        self._note_first_step()
        self.asked_at[batch] = time.perf_counter()

    def on_test_begin(self, logs=None):
        self._end_training()
        self._begin("validation")

    def on_test_batch_begin(self, batch, logs=None):
        self._note_first_step()
        self.asked_at[batch] = time.perf_counter()

    def on_test_end(self, logs=None):
        self._note_first_step()

    def on_epoch_end(self, epoch, logs=None):
        if self.phase == "training":  # without validation
            self._end_training()

    def _end_training(self):
        self._note_first_step()
        for batch, asked in self.asked_at.items():
            self.waiting += max(0.0, self.batches.made_at.get(batch, 0.0) - asked)

    def on_train_end(self, logs=None):
        self.ended = time.perf_counter()

    def _begin(self, phase):
        self.phase, self.phase_started, self.asked_at = phase, time.perf_counter(), {}

    def _note_first_step(self):
        """Add the first step of a phase, after it ends, to the compiling time."""
        if self.phase in self.compiled or not self.asked_at:
            return
        seconds = time.perf_counter() - self.phase_started
        self.compiled.add(self.phase)
        self.compiling += seconds
        self.asked_at.clear()
        if self.phase == "training":
            print_above(f"compiled the network and ran the first step in {seconds:.1f} s")

    def table(self):
        """Time since training began, as a dict of text to text; empty before that."""
        if self.started is None:
            return {}
        total = (self.ended or time.perf_counter()) - self.started
        training = total - self.compiling - self.waiting
        spent = {COMPILING: self.compiling, TRAINING: training, WAITING: self.waiting}
        return {row: f"{seconds:.1f} s, {seconds / total:.1%}" for row, seconds in spent.items() if seconds >= 0.05}


def in_lines(table):
    """Format the result of `Timer.table` as text, one row per line."""
    width = max(map(len, table), default=0)
    return "\n".join(f"  {row:{width}}  {text}" for row, text in table.items())
