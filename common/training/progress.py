"""What the terminal shows of a run: a bar and a line for each epoch, and when it will have ended."""

import math
import time

from common.devices import peak_memory
from common.parallel import ProgressBar, print_above
from common.words import number_of

WIDTH = 100  # characters of a line
FORM = "{desc} {percentage:3.0f}%|{bar:16}| {n_fmt}/{total_fmt}{postfix}"
LOOK = 1.0  # seconds between two looks at the loss, for which the device has to finish its step
TIMED_STEPS = 4  # after the first one, from which the duration of the run is estimated
VALIDATION_STEP = 1 / 3  # duration of a step without gradients, of one with
TOLERATED = 1.3  # factor by which the first estimate may be wrong without a second one


class EpochBar:
    """The bar of an epoch: its number, the loss, images a second, and the time left of the epoch and of the run.

    Args:
        model: keras.Model in training.
        batches: training batches.
        validation_steps: number of batches for validation.
        epoch: number of the epoch, from 1.
        epochs: number of epochs in the run; None: not known yet.
        seconds: duration of an epoch, if known; None: estimated from the steps of this one.
        deadline: time.monotonic() at which the run ends at the latest.
    """

    def __init__(self, model, batches, validation_steps, epoch, epochs, seconds, deadline):
        self.model, self.steps, self.validation_steps = model, len(batches), validation_steps
        self.images = getattr(batches, "batch_size", 1)
        self.left, self.seconds, self.deadline = (epochs or epoch) - epoch, seconds, deadline
        self.bar = ProgressBar(self.steps, f"epoch {epoch}/{epochs}" if epochs else f"epoch {epoch}", form=FORM)
        self.started = self.looked = None

    def move_to(self, step):
        """Show that `step` steps are done."""
        now = time.monotonic()
        if step == 1:  # the first one may have compiled the network
            self.started = self.looked = now
        if step < 2 or now - self.looked < LOOK:
            self.bar.move_to(step, self.bar.note)
            return
        self.looked = now
        speed = self.images * (step - 1) / (now - self.started)
        run = "" if math.isinf(left := self.seconds_left(step)) else f", run {duration(left)} left"
        note = f"loss {mean_loss(self.model):.4f}, {speed:.3g} images/s, {duration(self._epoch_left(step))} left{run}"
        self.bar.move_to(step, note)

    def _per_step(self, step):
        return (time.monotonic() - self.started) / (step - 1)

    def _epoch_left(self, step):
        return (self.steps - step + VALIDATION_STEP * self.validation_steps) * self._per_step(step)

    def seconds_left(self, step):
        """Estimated seconds until the run ends, after `step` steps, at least 2."""
        whole = self.seconds or (self.steps + VALIDATION_STEP * self.validation_steps) * self._per_step(step)
        return min(self._epoch_left(step) + self.left * whole, self.deadline - time.monotonic())

    def close(self):
        self.bar.close()


class Estimate:
    """Prints how long the run will take: before its first step, and again if the first steps show that it was wrong.

    Args:
        log: `common.training.run_folder.Log` of the epochs so far.
        epochs: number of epochs in the run; None: as many as fit into `max_minutes`.
        max_minutes: setting MAX_MINUTES.
        guess: function that returns the seconds of an epoch, guessed before the first step, or None.
    """

    def __init__(self, log, epochs, max_minutes, guess=None):
        self.epochs, self.max_minutes, self.printed, self.is_measured = epochs, max_minutes, None, False
        left = (epochs or 0) - len(log)
        if not epochs and max_minutes:
            self._print(60 * max_minutes, "as many epochs as fit")
            self.is_measured = True
        elif log and left > 0:
            self._print(left * usual_seconds(log), number_of(left, "epoch"))
            self.is_measured = True
        elif left > 0 and guess and (seconds := guess()):
            self._print(left * seconds, number_of(left, "epoch"), "first estimate: about")

    def after(self, bar, step):
        """Print it after enough steps of the first epoch."""
        if not self.is_measured and step > TIMED_STEPS:
            self._correct(bar.seconds_left(step), number_of(bar.left + 1, "epoch"))

    def after_epoch(self, log):
        """Print it after the second epoch, if the first one, which compiles the network, had few steps."""
        left = (self.epochs or 0) - len(log)
        if not self.is_measured and left > 0 and len(log) > 1:
            self._correct(left * log.rows[-1]["seconds"], f"{number_of(left, 'epoch')} more")

    def _correct(self, seconds, what):
        self.is_measured = True
        if not self.printed or not 1 / TOLERATED < seconds / self.printed < TOLERATED:
            self._print(seconds, what)

    def _print(self, seconds, what, start="estimated time:"):
        self.printed = seconds
        limit = f", or MAX_MINUTES = {self.max_minutes:g}" if self.max_minutes and self.epochs else ""
        end = time.strftime("%H:%M", time.localtime(time.time() + seconds))
        print_above(f"{start} {duration(seconds)} for {what}{limit}; until {end}")


def guessed_seconds(model, batches, validation_steps):
    """Guess the seconds of an epoch from what the network takes for a batch, without training.

    Args:
        model: keras.Model on one device.
        batches: training batches.
        validation_steps: number of batches for validation.

    Returns:
        Seconds, or None if the size of the network's input is not fixed.
    """
    import keras  # slow, and not needed to read logs

    shape = model.input_shape[1:]
    if None in shape:
        return None
    images = keras.ops.zeros((getattr(batches, "batch_size", 1), *shape))
    for _ in range(2):  # the first time includes preparations
        started = time.perf_counter()
        keras.ops.convert_to_numpy(model(images, training=False))  # waits for the device
        seconds = time.perf_counter() - started
    return (len(batches) / VALIDATION_STEP + validation_steps) * seconds


def usual_seconds(log):
    """Median duration of the last epochs, in seconds."""
    last = sorted(row["seconds"] for row in log.rows[-5:])
    return last[len(last) // 2]


def mean_loss(model):
    """Mean loss of the epoch so far; waits for the step that the device is doing."""
    import keras  # slow, and not needed to read logs

    state = getattr(model, "_jax_state", None) or {}  # on JAX, `fit` updates the variables only at its end
    variables = (state.get("metrics_variables") or model.metrics_variables)[:2]
    total, count = (float(keras.ops.convert_to_numpy(v)) for v in variables)  # also of several devices
    return total / max(count, 1.0)


def duration(seconds):
    """A time in words: "12 s", "3 min", "2 h 05 min"."""
    if seconds < 100:
        return f"{max(seconds, 0):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def epoch_line(row, epochs, is_best, names=()):
    """The results of an epoch in one line of up to 100 characters.

    Args:
        row: row of the log.
        epochs: number of epochs in the run; None: not known yet.
        is_best: whether it is the best epoch.
        names: names of the classes, if there are several.
    """
    memory = peak_memory()
    scores = [f"{name} {row[key]:.2f}" for key, name in class_columns(row, names).items()]
    parts = {
        "epoch": f"epoch {row['epoch']:{len(str(epochs))}}/{epochs}" if epochs else f"epoch {row['epoch']}",
        "loss": f"loss {row['loss']:.4f}",
        "val_loss": f"val_loss {row['val_loss']:.4f}" if "val_loss" in row else "",
        "dice": f"dice {row['dice']:.3f}",
        "val_dice": f"val_dice {row['val_dice']:.3f}" if "val_dice" in row else "",
        "classes": f"({', '.join(scores)})" if scores else "",
        "memory": f"{memory / 1e9:.1f} GB" if memory else "",
        "seconds": f"{row['seconds']:.1f} s",
        "best": "best",
    }
    for unneeded in ("", "memory", "val_loss", "dice"):
        parts.pop(unneeded, None)
        line = "  ".join(filter(None, parts.values()))
        if len(line) <= WIDTH:
            break
    while len(line) > WIDTH and len(scores) > 1:
        scores.pop()
        parts["classes"] = f"({', '.join(scores)}, ...)"
        line = "  ".join(filter(None, parts.values()))
    if len(line) > WIDTH:
        line = "  ".join(text for name, text in parts.items() if text and name != "classes")
    return line if is_best else line.removesuffix("  best")


def class_columns(row, names=()):
    """Columns with the Dice of each class, of validation if there is one: dict of column to name of the class."""
    prefix = "val_dice_" if "val_dice" in row else "dice_"
    numbers = [int(column.removeprefix(prefix)) for column in row if column.removeprefix(prefix).isdecimal()]
    return {f"{prefix}{k}": str(names[k - 1]) if k <= len(names) else f"class {k}" for k in sorted(numbers)}
