"""The start message, curves, network diagram and report page of a run."""

import functools
import io
import itertools
from contextlib import redirect_stdout

import keras
import pandas as pd

from common.devices import describe
from common.files import whole_file
from common.html import write_page
from common.lazy import Lazy
from common.plots import CLASS_COLORS as LINE_COLORS
from common.public_settings import without_own_paths
from common.slices.drawing import CLASS_COLORS, TRUTH_COLOR, contact_sheet, draw_outlines
from common.slices.images import encode_jpeg, read_image, write_png
from common.training.progress import class_columns

figures, ticker = Lazy("matplotlib.figure"), Lazy("matplotlib.ticker")

REFRESH = 20  # seconds until a browser reloads the page during training
AUGMENTED = 24  # slices in augmented_slices.png
NARROW = ("epoch", "loss", "val_loss", "val_dice", "val_iou")  # columns that a narrow screen shows


def announce(settings, model, log, training, validation, used, run):
    """Print what train.py is about to do.

    Args:
        settings: settings in force.
        model: keras.Model.
        log: Log of its epochs so far.
        training, validation: data sets; validation may be None.
        used: `common.training.distribution.Devices`.
        run: Run; None in a process that writes no run folder.
    """
    classes = "one class" if training.classes == 1 else f"{training.classes} classes"
    validated = f"validation on {validation.in_words()}" if validation else "no validation"
    print(
        f"{settings.MODEL}, {model.count_params():,} parameters, {settings.LOSS}; training on {training.in_words()}, "
        f"{validated}, {classes}; {describe()}{used.in_words()}, {settings.PRECISION}",
        f"{f'run folder {run}' if run else 'process 0 writes the run folder'}; "
        + (f"continuing after epoch {len(log)}" if log else "the first step compiles the network"),
        sep="\n",
        flush=True,
    )


def draw_network(model, run):
    """Write `model_summary.txt` and, if Graphviz is installed and draws it, `network.png` into the run folder."""
    lines = []
    model.summary(line_length=80, print_fn=lines.append)  # longer lines are cut off if there is no terminal
    with whole_file(run.summary_file) as unfinished:
        unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")
    try:
        with whole_file(run.diagram_file) as unfinished, redirect_stdout(io.StringIO()):  # pydot prints errors there
            keras.utils.plot_model(model, unfinished, show_shapes=True, show_layer_names=True, dpi=60)
    except ImportError:  # Keras also raises this for a missing program
        print("skipped the drawing of the network; install Graphviz to get it (https://graphviz.org/download)")
    except Exception as error:  # Graphviz aborts on some networks, and pydot and Keras pass that on in any way
        reason = (str(error).splitlines() or [type(error).__name__])[-1][-200:]
        print(
            f"skipped the drawing of the network: Graphviz failed ({reason}); {run.summary_file.name} lists the layers"
        )


def draw_augmented(batches, run):
    """Write `augmented_slices.png`: slices of the first epoch as the model sees them, with outlines of their masks.

    Args:
        batches: `common.training.sets.Batches`, before the first epoch.
        run: Run.
    """
    x, y = batches.first(AUGMENTED)
    colors = [TRUTH_COLOR] if batches.slices.classes == 1 else CLASS_COLORS
    shown = [
        draw_outlines((batches.slices.to_draw(image) * 255).round().astype("uint8"), mask[..., 0], colors)
        for image, mask in zip(x, y, strict=True)
    ]
    write_png(run.augmented_file, contact_sheet(shown, min(6, len(shown)), 200))


def write_report(run, log, images=(), refresh=REFRESH, calibration=None):
    """Write `report.html` in a run folder, which must contain curves.png, settings.json and state.json.

    Args:
        run: `common.training.run_folder.Run`.
        log: `common.training.run_folder.Log` with at least one epoch.
        images: result of `common.prediction.examples.best_and_worst`; empty until the run ends.
        refresh: seconds until a browser reloads it; None after the run has ended.
        calibration: `common.training.run_records.Calibration`; None until the run ends.
    """
    settings, state, last = run.settings, run.state, log.rows[-1]
    epochs = state["epochs"]
    reasons = {name: reason for name, reason in run.reasons.items() if not reason.startswith("constant in ")}
    score, epoch = log.best("dice")
    if log.has_validation:
        best = "best validation Dice", f"{score:.4f}", f"in epoch {epoch}"
        loss = "validation loss", f"{last['val_loss']:.4f}", f"training {last['loss']:.4f}"
    else:
        best = "validation", "none", "the model of the last epoch counts"
        loss = "training loss", f"{last['loss']:.4f}", f"training Dice {last['dice']:.4f}"
    left = f", {(epochs - last['epoch']) * last['seconds'] / 60:.0f} min left" if refresh and epochs else ""
    headlines = [
        best,
        ("epoch", str(last["epoch"]), f"of {epochs or 'as many as fit'}{left}"),
        loss,
        ("learning rate", f"{last['learning_rate']:.2g}", f"{last['seconds']:.1f} s per epoch"),
    ]
    strips = run.strips()
    write_page(
        run.report_file,
        "training/report.html.jinja",
        run.name,
        refresh,
        headlines=headlines,
        curves=run.curves_file.read_bytes(),
        calibration=calibration,
        reliability=draw_calibration(calibration) if calibration and not calibration.source else None,
        advice=(state.get("advice") or {}).values(),
        strips=[(path.read_bytes(), f"epoch {epoch}") for epoch, path in strips.items()],
        augmented=_as_jpeg(run.augmented_file) if run.augmented_file.is_file() else None,
        images=[(encode_jpeg(image), caption) for image, caption in images],
        time=state.get("time"),
        epochs=pd.DataFrame(log.rows[::-1]),
        narrow=NARROW,
        decisions=without_own_paths({name: value for name, value in settings.items() if name in reasons}),
        settings=without_own_paths({name: value for name, value in settings.items() if name not in reasons}),
        reasons=without_own_paths(reasons),
        environment=run.environment,
    )


@functools.cache
def _as_jpeg(path):
    """Content of an image file as JPEG; encoded once, since the page is written after every epoch."""
    return encode_jpeg(read_image(path))


def finish_report(run, log, pictures, calibration=None):
    """Write `validation_slices.png` and the final `report.html`.

    Args:
        pictures: result of `common.prediction.examples.best_and_worst`.
        run, log, calibration: as for `write_report`.
    """
    if pictures:
        shown, captions = zip(*pictures, strict=True)
        write_png(run.examples_file, contact_sheet(shown, min(6, len(shown)), 200, captions))
    write_report(run, log, pictures, None, calibration)


def draw_curves(log, path, names=()):
    """Plot loss, Dice and IoU, Dice of each class if there are several, and learning rate over the epochs.

    Args:
        log: Log.
        path: Path of a PNG file, written completely or not at all.
        names: names of the classes.
    """
    table, prefix = pd.DataFrame(log.rows), "val_" if log.has_validation else ""
    classes = class_columns(log.rows[-1], names)
    widths = [3, 3, *([3] if classes else []), 2]
    figure = figures.Figure(figsize=(1.3 * sum(widths), 3.5))
    axes = figure.subplots(1, len(widths), width_ratios=widths)
    figure.subplots_adjust(left=0.045, right=0.99, top=0.9, bottom=0.15, wspace=0.2)  # a layout engine draws twice
    for axis, columns in zip(axes[:2], (("loss",), ("dice", "iou")), strict=True):
        for name, color in zip(columns, LINE_COLORS, strict=False):
            axis.plot(table["epoch"], table[name], "--", color=color, label=f"training {name}")
            if log.has_validation:
                axis.plot(table["epoch"], table[f"val_{name}"], color=color, label=f"validation {name}")
    for (column, name), color in zip(classes.items(), itertools.cycle(LINE_COLORS), strict=False):
        axes[2].plot(table["epoch"], table[column], color=color, label=name)
    score, epoch = log.best("dice")
    title = f"best validation Dice {score:.3f} in epoch {epoch}" if log.has_validation else "Dice, without validation"
    axes[0].set(title="loss")
    axes[1].set(ylim=(0, 1), title=title)
    if classes:
        axes[2].set(ylim=(0, 1), title=f"{'validation' if prefix else 'training'} Dice by class")
    for axis in axes[:-1]:
        axis.legend(fontsize=8)
    axes[-1].plot(table["epoch"], table["learning_rate"], color=LINE_COLORS[2], drawstyle="steps-mid")
    axes[-1].set(title="learning rate", yscale="log" if (table["learning_rate"] > 0).all() else "linear")
    axes[-1].yaxis.set_minor_formatter(ticker.NullFormatter())  # labels of minor ticks run into the plot to the left
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
        if epoch:
            axis.axvline(epoch, color="gray", linewidth=1, linestyle=":")
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=100, format="png")


def draw_calibration(calibration):
    """Plot Dice over the threshold, and the reliability curves; return the PNG file as bytes.

    Args:
        calibration: `common.training.run_records.Calibration`.
    """
    has_curve = calibration.dice_by_threshold is not None
    figure = figures.Figure(figsize=(9 if has_curve else 4.5, 4.5), layout="constrained")
    axes = figure.subplots(1, 1 + has_curve, squeeze=False)[0]
    if has_curve:
        thresholds = [number / 100 for number in range(1, 100)]
        axes[0].plot(thresholds, calibration.dice_by_threshold, color=LINE_COLORS[0])
        axes[0].axvline(calibration.threshold, color="gray", linestyle=":", label=f"chosen: {calibration.threshold:g}")
        axes[0].set(xlabel="threshold", ylabel="validation Dice", xlim=(0, 1), ylim=(0, 1))
    axes[-1].plot([0, 1], [0, 1], ":", color="gray", label="calibrated")
    for curve, color, label in (
        (calibration.reliability, LINE_COLORS[0], "as predicted"),
        (calibration.scaled_reliability, LINE_COLORS[1], f"at temperature {calibration.temperature:.2f}"),
    ):
        _, probability, share = zip(*curve, strict=True)
        axes[-1].plot(probability, share, "o-", color=color, markersize=4, label=label)
    axes[-1].set(xlabel="mean probability", ylabel="share of foreground", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    for axis in axes:
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    content = io.BytesIO()
    figure.savefig(content, dpi=100, format="png")
    return content.getvalue()
