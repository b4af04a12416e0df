"""Pictures and page of a finished run."""

import keras
import pandas as pd

from common import html as page
from common.files import read_json, whole_file
from common.slices.drawing import contact_sheet
from common.slices.images import encode_jpeg, write_png
from common.training.run_folder import load_network, model_file

REFRESH = 20  # seconds after which a browser loads the page of a run that is going on again
NARROW = ("epoch", "loss", "val_loss", "val_dice", "val_iou")


def draw_network(model, run):
    """Write `model_summary.txt` and, where Graphviz is installed, `network.png` into a run folder."""
    lines = []
    model.summary(line_length=80, print_fn=lines.append)  # wider is cut off where there is no terminal
    with whole_file(run / "model_summary.txt") as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    try:
        with whole_file(run / "network.png") as part:
            keras.utils.plot_model(model, part, show_shapes=True, show_layer_names=True, dpi=60)
    except ImportError:  # what Keras makes of a missing program too
        print("no picture of the network: it needs Graphviz (https://graphviz.org/download)")


def write_report(run, log, pictures=(), refresh=REFRESH):
    """Write `report.html` of a run folder, which must hold curves.png, settings.json and state.json.

    Args:
        run: Path of the run folder.
        log: common.training.callbacks.Log with at least one epoch.
        pictures: of `SliceSet.best_and_worst`, once there are any.
        refresh: seconds after which a browser loads it again; None once the run has ended.
    """
    settings, state, last = read_json(run / "settings.json"), read_json(run / "state.json"), log.rows[-1]
    epochs = state["epochs"]
    score, epoch = log.best("dice")
    left = (epochs - last["epoch"]) * last["seconds"] / 60
    figures = [
        ("best validation Dice", f"{score:.4f}", f"in epoch {epoch}"),
        ("epoch", str(last["epoch"]), f"of {epochs}" + (f", {left:.0f} minutes left" if refresh else "")),
        ("validation loss", f"{last['val_loss']:.4f}", f"training {last['loss']:.4f}"),
        ("learning rate", f"{last['learning_rate']:.2g}", f"{last['seconds']:.1f} s an epoch"),
    ]
    curves = page.picture((run / "curves.png").read_bytes(), "png", "loss, Dice and learning rate over the epochs")
    parts = [page.tiles(figures), page.section("Curves", curves)]
    if pictures:
        note = "Mask in green, prediction in orange, by the best epoch; first the worst, then the best."
        shown = page.gallery([(encode_jpeg(picture), caption) for picture, caption in pictures])
        parts.append(page.section("Validation images", page.paragraph(note), shown))
    if state.get("time"):
        parts.append(page.section("Where the time went, since the last start", page.plain_table(state["time"])))
    environment = (run / "environment.txt").read_text(encoding="utf-8")
    parts += [
        page.section("Epochs", page.sorted_table(pd.DataFrame(log.rows[::-1]), NARROW)),
        page.section("Settings", page.plain_table(settings)),
        page.folded("Environment", page.text_block(environment)),
    ]
    page.write_page(run / "report.html", run.name, parts, refresh)


def finish_report(run, log, validation, batch_size):
    """Write `validation_slices.png` and the last form of `report.html`.

    Args:
        validation: SliceSet or VolumeSet.
        batch_size: slices that are predicted at a time.
    """
    pictures = validation.best_and_worst(load_network(model_file(run)), batch_size)
    if pictures:
        shown, captions = zip(*pictures, strict=True)
        write_png(run / "validation_slices.png", contact_sheet(shown, min(6, len(shown)), 200, captions))
    write_report(run, log, pictures, refresh=None)
