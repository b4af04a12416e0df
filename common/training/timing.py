"""Where the time of a run goes: a table at its end, in the terminal and in report.html."""

import threading
import time
from contextlib import contextmanager

import keras

FIRST = "first step of training and of validation, which compile"
STEPS = "steps: to the device, forward, backward, metrics"
WAITING = "waiting for images to be read and augmented"
VALIDATION = "validation"
COPYING = "copying the weights for a checkpoint"
BLOCKED = "waiting for the files of the epoch before"
BETWEEN = "between the epochs otherwise"
IN_TURN = (FIRST, STEPS, WAITING, VALIDATION, COPYING, BLOCKED, BETWEEN)  # these add up to the time of the run
ASIDE = (
    "reading",
    "augmenting",
    "reading and augmenting",
    "writing files",
)  # in other threads, beside the steps where the backend allows it


class Clock:
    """Seconds by what they went for, from any thread; there is one in a process, `clock`."""

    def __init__(self):
        self.spent, self.made_batches, self.lock = {}, {}, threading.Lock()
        self.images, self.image_flops, self.peak = 0, 0, None  # of the steps; see Timer

    def add(self, what, seconds):
        with self.lock:
            self.spent[what] = self.spent.get(what, 0.0) + seconds

    @contextmanager
    def timed(self, what):
        """Add the seconds that the block takes."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(what, time.perf_counter() - started)

    def made(self, index, images):
        """Note that a batch of an epoch is made, so that `Timer` can tell how long the network waited for it."""
        self.made_batches.setdefault(index, (time.perf_counter(), images))


clock = Clock()


class Timer(keras.callbacks.Callback):
    """Times the parts of `fit` that can be told apart from outside; it goes before all other callbacks.

    Metrics and the way to the device are part of a compiled step, and are not shown by themselves. The network waits
    for a batch from the moment that it asks for it until it is made; on an accelerator, which may still be busy with
    the step before, that is an upper bound.

    Args:
        image_flops: floating-point operations of a training step for each image, or 0; see `common.training.flops`.
        peak: of the device, in operations a second, or None.
    """

    def __init__(self, image_flops=0, peak=None):
        super().__init__()
        clock.image_flops, clock.peak = image_flops, peak

    def on_train_begin(self, logs=None):
        self.compiled, self.ended = set(), None

    def on_epoch_begin(self, epoch, logs=None):
        if self.ended:
            self._end_epoch()
        clock.made_batches.clear()
        self._begin(STEPS)

    def on_train_batch_begin(self, batch, logs=None):
        self._note_first()
        self.asked[batch] = time.perf_counter()

    def on_test_begin(self, logs=None):
        float(self.model.metrics[0].result())  # on an accelerator: once its last step is done
        self._end()
        self._begin(VALIDATION)

    def on_test_batch_begin(self, batch, logs=None):
        self._note_first()
        self.asked[batch] = time.perf_counter()

    def on_test_end(self, logs=None):
        self._end()
        self.ended, self.measured = time.perf_counter(), _measured()

    def on_train_end(self, logs=None):
        if self.ended:
            self._end_epoch()

    def _begin(self, what):
        self.what, self.asked, self.first, self.started = what, {}, 0.0, time.perf_counter()

    def _note_first(self):
        """Take the first step of all out of the others, since it also compiles the network."""
        if self.what not in self.compiled and self.asked:
            self.compiled.add(self.what)
            self.first = time.perf_counter() - self.started
            clock.add(FIRST, self.first)
            if self.what == STEPS:
                print(f"the network is compiled, and its first step done, after {self.first:.1f} s", flush=True)

    def _end(self):
        self._note_first()
        waited = 0.0
        if self.what == STEPS:
            for batch, asked in self.asked.items():
                made, images = clock.made_batches.get(batch, (0.0, 0))
                if batch or not self.first:
                    waited += max(0.0, made - asked)
                    clock.images += images
            clock.add(WAITING, waited)
        clock.add(self.what, time.perf_counter() - self.started - self.first - waited)

    def _end_epoch(self):
        clock.add(BETWEEN, time.perf_counter() - self.ended - (_measured() - self.measured))
        self.ended = None


def _measured():
    """Seconds between epochs that have a name."""
    return clock.spent.get(COPYING, 0.0) + clock.spent.get(BLOCKED, 0.0)


def time_table():
    """The time of this process so far: dict of text to text, for a table; empty before the first epoch is over."""
    spent = {what: clock.spent[what] for what in IN_TURN if clock.spent.get(what, 0) >= 0.05}
    total = sum(spent.values())
    table = {what: f"{seconds:.1f} s, {seconds / total:.1%}" for what, seconds in spent.items()}
    if clock.image_flops and clock.images and STEPS in spent:
        rate = clock.image_flops * clock.images / spent[STEPS]
        share = f", {rate / clock.peak:.1%} of what the chip can do" if clock.peak else ""
        table["in these steps"] = f"{rate / 1e9:,.1f} GFLOP/s{share}"
    for what in ASIDE:
        if clock.spent.get(what, 0) >= 0.05:
            table[f"{what}, beside these"] = f"{clock.spent[what]:.1f} s"
    return table


def in_lines(table):
    """A table of `time_table`, a line each."""
    width = max(map(len, table), default=0)
    return "\n".join(f"  {what:{width}}  {text}" for what, text in table.items())
