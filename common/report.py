"""Pictures and page of a finished run."""

import base64
import html
from pathlib import Path

import keras
import pandas as pd

from common.datasets import Batches
from common.files import read_json, whole_file
from common.images import class_numbers, contact_sheet, draw_outlines, to_eight_bit, write_png
from common.runs import load_network, model_file
from common.scores import mean_dice

TRUTH_COLOUR, PREDICTED_COLOUR = (0, 200, 120), (255, 150, 0)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2733; max-width: 1100px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; overflow-wrap: anywhere } h2 { font-size: 1.1rem; margin-top: 2rem }
img { max-width: 100%; height: auto }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f3f5f7; padding: 1rem }
table { border-collapse: collapse } td, th { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top }
td { overflow-wrap: anywhere } tr { border-bottom: 1px solid #dde3e8 }
@media print { body { margin: 0; max-width: none } img { break-inside: avoid } }
"""


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


def write_report(run, validation, batch_size):
    """Write `validation_slices.png` and `report.html` of a run folder.

    Args:
        run: Path of the run folder.
        validation: SliceSet.
        batch_size: slices that are predicted at a time.
    """
    model = load_network(model_file(run))
    write_png(run / "validation_slices.png", best_and_worst(model, validation, batch_size))
    state, settings = read_json(run / "state.json"), read_json(run / "settings.json")
    scores = {"epochs": f"{state['epoch']} of {state['epochs']}"}
    for metric in ("dice", "iou"):
        best = state[f"best_{metric}"]
        scores[f"best validation {metric}"] = f"{best['score']:.4f} in epoch {best['epoch']}"
    last = pd.read_csv(run / "training_log.csv").tail(1).T
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(run.name)}</title><style>{STYLE}</style></head><body>
<h1>{html.escape(run.name)}</h1>{_table(scores)}
<h2>Curves</h2>{_picture(run / "curves.png", "loss, Dice and learning rate over the epochs")}
<h2>Validation slices, worst and best</h2>
<p>Mask in green, prediction in orange, Dice in the corner; first the worst, then the best slices of the best epoch.</p>
{_picture(run / "validation_slices.png", "worst and best validation slices")}
<h2>Last epoch</h2>{_table(last.iloc[:, 0].map("{:.6g}".format).to_dict())}
<h2>Settings</h2>{_table(settings)}
<h2>Environment</h2><pre>{html.escape((run / "environment.txt").read_text(encoding="utf-8"))}</pre>
</body></html>
"""
    with whole_file(run / "report.html") as part:
        part.write_text(page, encoding="utf-8")


def best_and_worst(model, slices, batch_size, count=6):
    """Sheet of the `count` worst and the `count` best slices with a mask, with the outlines of mask and prediction.

    Returns:
        (rows * 200, columns * 200, 3) uint8, RGB.
    """
    batches = Batches(slices, batch_size)
    scores = {}
    for b in range(len(batches)):
        x, y = batches[b]
        predicted = class_numbers(model.predict_on_batch(x))
        for i, (mask, guess) in enumerate(zip(y[..., 0], predicted, strict=True)):
            if mask.any():
                scores[b * batch_size + i] = mean_dice(guess, mask)
    ranked = sorted(scores, key=scores.get)
    chosen = ranked[:count] + [i for i in ranked[-count:] if i not in ranked[:count]]
    pictures = []
    for i in chosen:
        x, y = slices.batch([i])
        picture = draw_outlines(to_eight_bit(slices.x[i][..., 0]), y[0, ..., 0], [TRUTH_COLOUR])
        pictures.append(draw_outlines(picture, class_numbers(model.predict_on_batch(x))[0], [PREDICTED_COLOUR]))
    captions = [f"{scores[i]:.3f} {slices.case[i]} {Path(slices.source[i]).stem}" for i in chosen]
    return contact_sheet(pictures, min(count, len(pictures)), 200, captions)


def _table(values):
    rows = "".join(f"<tr><th>{html.escape(str(k))}</th><td>{html.escape(str(v))}</td></tr>" for k, v in values.items())
    return f"<table>{rows}</table>"


def _picture(path, alternative):
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{alternative}" src="data:image/png;base64,{data}">'
