"""Plan a training: settings for train.py that fit a set of slices, a device and a time, with a reason for each.

The rules are in docs/plan.md; `make_plan` is a function of facts and measured times only.
"""

import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.settings import FORMAT, REASONS
from common.slices.classes import is_target
from common.words import number_of

SMALLEST_SIDE = 64  # pixels; the encoder of pretrained_unet halves the size five times
FEW_SLICES = 32
SMALL_SHARE = 0.05  # of the pixels of a slice with foreground
FEW_FILLED = 0.5  # share of slices with foreground
MOST_LOOKED_AT = 2000  # masks; more would change no decision, and reading all takes minutes for large sets
MOST_EPOCHS, FEWEST_EPOCHS = 300, 5
MOST_STEPS = 30_000  # more rarely help on sets that fit a workstation
CHOSEN = ("MODEL", "LOSS", "AUGMENTATION", "FOREGROUND")  # settings of train.py that suit the training set if None
AVERAGED_STEPS = 1000  # from here on, an average over the last 100 steps or so is worth it


@dataclass(frozen=True)
class Facts:
    """What a plan depends on.

    Attributes:
        side: side length of the slices in pixels.
        classes: 1, or K.
        training, validation: number of slices; cases: number of cases for training.
        filled: share of the slices for training that have foreground, 0..1.
        foreground: mean share of foreground pixels in these slices, 0..1.
        augmented: whether the set contains variants of step 1.
        overlapping: whether the K classes overlap.
        tiles: whether the slices are tiles of larger images.
    """

    side: int
    classes: int
    training: int
    validation: int
    cases: int
    filled: float
    foreground: float
    augmented: bool
    overlapping: bool = False
    tiles: bool = False

    smaller = "smaller slices"

    def in_words(self):
        """The facts as lines of text."""
        kind = "overlapping class" if self.overlapping else "class"
        classes = "one class" if self.classes == 1 else number_of(self.classes, kind, f"{kind}es")
        yield f"{number_of(self.training, 'slice')} for training from {number_of(self.cases, 'case')}"
        validation = number_of(self.validation, "slice") if self.validation else "none"
        yield f"{validation} for validation; {self.side}x{self.side} pixels, {classes}"
        yield f"{self.filled:.0%} of the slices have foreground, which covers {self.foreground:.2%} of them"


def read_facts(training, validation):
    """Read the facts from two sets, from up to MOST_LOOKED_AT masks at equal distances.

    Args:
        training, validation: `common.training.sets.SliceSet`; validation may be None.

    Returns:
        Facts.

    Raises:
        InputError: if no slice for training has foreground.
    """
    shares = shares_of_foreground(training, MOST_LOOKED_AT)
    filled = [share for share in shares if share]
    if not filled and not training.has_foreground():
        raise InputError(f"{training.path}: every mask is empty, so there is nothing to learn; check the masks")
    folders = {Path(source.replace("\\", "/")).parent.name for source in training.source}
    return Facts(
        side=training.shape[0],
        classes=training.classes,
        overlapping=training.overlapping,
        training=len(training),
        validation=0 if validation is None else len(validation),
        cases=len(set(training.case)),
        filled=len(filled) / len(shares),
        foreground=statistics.fmean(filled or [0.0]),
        augmented=any(folder.startswith("x_") and folder != "x_O" for folder in folders),
        tiles=training.preparation["fit"] == "tile",
    )


def shares_of_foreground(slices, most):
    """Share of foreground pixels of up to `most` masks of a SliceSet, at equal distances; list of floats, 0..1."""
    masks = (slices.y[i] for i in np.unique(np.linspace(0, len(slices) - 1, min(most, len(slices))).astype(int)))
    return [float(np.count_nonzero(is_target(mask))) / mask.size for mask in masks]


def network_of(facts):
    """Choose network, batch size, augmentation, loss and sampling.

    Args:
        facts: Facts.

    Returns:
        dict of setting of train.py to (value, reason).
    """
    chosen = {}
    if facts.side >= SMALLEST_SIDE:
        reason = "its encoder knows images from ImageNet, which helps most on few cases"
        chosen["MODEL"] = "pretrained_unet", reason
        chosen["MODEL_SETTINGS"] = {}, "the light encoder, whose weights are installed"
    else:
        chosen["MODEL"] = "unet", f"slices under {SMALLEST_SIDE} pixels are too small for a pretrained encoder"
        chosen["MODEL_SETTINGS"] = {"features": 16, "depth": 3}, "small slices need no more levels"
    few = facts.training < FEW_SLICES
    size = max(1, min(4 if few else 8, facts.training))
    chosen["BATCH_SIZE"] = size, "few slices: more steps in an epoch" if few else "as recommended for this network"
    if facts.augmented:
        chosen["AUGMENTATION"] = {}, "step 1 has made variants of the slices"
    elif facts.tiles:
        turned = {"preset": "medical", "flip": "horizontal_and_vertical", "turn": 0.75}
        chosen["AUGMENTATION"] = turned, "tiles show details, which have no upright position"
    else:
        chosen["AUGMENTATION"] = "medical", "changes within what scanners and patients vary by"
    pixelwise = "bce" if facts.classes == 1 or facts.overlapping else "cce"
    if facts.foreground < SMALL_SHARE or facts.filled < 1:
        reason = "Dice over the batch: small targets and empty slices count by their pixels"
        chosen["LOSS"] = f"{pixelwise}+batch_dice", reason
    else:
        chosen["LOSS"] = f"{pixelwise}+dice", "every slice has a target of some size"
    if facts.filled < FEW_FILLED:
        chosen["FOREGROUND"] = 0.33, f"only {facts.filled:.0%} of the slices have foreground"
    else:
        chosen["FOREGROUND"] = 0.0, f"{facts.filled:.0%} of the slices have foreground"
    return chosen


def schedule_of(facts, batch_size, minutes, seconds_per_step, seconds_before):
    """Choose number of epochs, learning rate schedule and optimizer.

    Args:
        facts: Facts, or `common.training.volume_plan.VolumeFacts` with crops.
        batch_size: slices, crops or volumes per step.
        minutes: time for training.
        seconds_per_step: measured time of a step with its batch.
        seconds_before: measured time to the end of the first step, compiling included.

    Returns:
        dict of setting of train.py to (value, reason).

    Raises:
        InputError: if fewer than FEWEST_EPOCHS fit.
    """
    steps = math.ceil(facts.training / batch_size)
    validation = 0.4 * math.ceil(facts.validation / batch_size)  # a step without gradients, in training steps
    per_epoch = (steps + validation) * seconds_per_step
    fit = int((60 * minutes - 2 * seconds_before) / per_epoch)
    if fit < FEWEST_EPOCHS:
        needed = math.ceil((FEWEST_EPOCHS * per_epoch + 2 * seconds_before) / 60)
        raise InputError(
            f"MINUTES: too short for {FEWEST_EPOCHS} epochs on this device (found {minutes:g}; one epoch takes "
            f"{per_epoch:.1f} s, starting and compiling {2 * seconds_before:.0f} s); use at least {needed}, "
            f"{facts.smaller} or a GPU"
        )
    epochs = min(fit, MOST_EPOCHS, max(FEWEST_EPOCHS, MOST_STEPS // steps))
    measured = f"a step takes {seconds_per_step:.2f} s here, so an epoch takes {per_epoch:.1f} s"
    reason = f"{measured}; this many fit into {minutes:g} minutes" if epochs == fit else f"{measured}; more rarely help"
    return {
        "EPOCHS": (epochs, reason),
        "MAX_MINUTES": (minutes, "the time that you gave"),
        "EARLY_STOP": (0, "the learning rate reaches its end with the last epoch"),
        **rates_of(epochs, epochs * steps),
    }


def rates_of(epochs, steps):
    """Choose learning rate schedule and optimizer.

    Args:
        epochs: number of epochs in the run; None: unknown.
        steps: number of steps in the run; 0 if unknown, or if weights cannot be averaged.

    Returns:
        dict of setting of train.py to (value, reason).
    """
    warm_up = max(1, (epochs or 0) // 20)
    chosen = {
        "SCHEDULE": ("cosine", "falls to 0 at the last epoch"),
        "SCHEDULE_SETTINGS": ({"warm_up": warm_up}, "the first steps, with large gradients, are small"),
        "LEARNING_RATE": (1e-3, "the usual one for this optimizer"),
    }
    optimizer = {"name": "adamw"}
    if steps >= AVERAGED_STEPS:
        chosen["OPTIMIZER"] = optimizer | {"use_ema": True, "ema_momentum": 0.99}, "averaged weights vary less"
    else:
        chosen["OPTIMIZER"] = optimizer, f"too few steps to average weights ({steps or 'not known'})"
    return chosen


def choose_missing(settings, training, validation):
    """Choose what is None in the settings of train.py, for its sets.

    Args:
        settings: `common.settings.Settings` of train.py.
        training, validation: results of `common.training.configure.open_sets`.

    Returns:
        dict of setting to (value, reason); with MODEL set, only of the others in CHOSEN.

    Raises:
        InputError: if no slice for training has foreground.
    """
    names = [name for name in CHOSEN if settings.values[name] is None]
    if not names:
        return {}
    if training.axes == 3:
        facts, chosen = volume_choices(settings, training, validation, names)
    else:
        facts = read_facts(training, validation)
        chosen = network_of(facts)
    if "MODEL" in names:
        size = chosen["BATCH_SIZE"][0] if settings.BATCH_SIZE in (None, "auto") else settings.BATCH_SIZE
        epochs = settings.EPOCHS
        names += ["MODEL_SETTINGS"] + ["BATCH_SIZE"] * (settings.BATCH_SIZE is None)
        rates = rates_of(epochs, (epochs or 0) * math.ceil(facts.training / size))
        if settings.SCHEDULE is None:
            names += ["SCHEDULE"] + ["SCHEDULE_SETTINGS"] * (not settings.SCHEDULE_SETTINGS)
        if settings.OPTIMIZER is None:
            names += ["OPTIMIZER"] + ["LEARNING_RATE"] * (settings.LEARNING_RATE is None)
        chosen |= rates
    return {name: chosen[name] for name in names}


def volume_choices(settings, training, validation, names):
    """Facts with crops, and choices for volumes; adds CROP to `names` if it is chosen too.

    With a network of the user's own choice, crops are the user's too.
    """
    from common.training import volume_plan  # reads the levels of a network, which loads Keras

    facts = volume_plan.read_facts(training, validation)
    decided = "CROP" in settings.given or "MODEL" not in names or settings.CROP is not None
    chosen = volume_plan.network_of(facts, settings.CROP, can_crop=not decided)
    if not decided:
        names.append("CROP")
    return facts.with_crops(chosen["CROP"][0]), chosen


def time_steps(step, count=5):
    """Measure a function that does one training step.

    Returns:
        (seconds of a step, median of `count`; seconds of the first call).
    """
    started = time.perf_counter()
    step()
    first = time.perf_counter() - started
    times = []
    for _ in range(count):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return statistics.median(times), first


def as_record(chosen):
    """Content of plan.json: a settings file of train.py with reasons.

    Args:
        chosen: dict of setting to (value, reason).
    """
    values = {name: value for name, (value, _) in chosen.items()}
    return {FORMAT: 1} | values | {REASONS: {name: f"planned: {reason}" for name, (_, reason) in chosen.items()}}
