"""Draw the curves of compared runs, and write their page."""

import os
import warnings
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from common.evaluation.settings_table import differing_settings
from common.files import real_path
from common.html import write_page
from common.lazy import Lazy
from common.plots import CLASS_COLORS, PLOT_STYLE, SOFT, svg
from common.replacing import whole_entries
from common.streams import one_line
from common.training.run_folder import Run
from common.words import number_of

matplotlib, figures = Lazy("matplotlib"), Lazy("matplotlib.figure")

NAME = "index.html"
TEMPLATE = "evaluation/comparison.html.jinja"
NARROW = ("run", "fold", "trial", "dice", "95% interval", "status", "state")  # columns that a narrow screen shows
LABELED = 12  # curves with a color and a label; others are gray
COLORS = (*CLASS_COLORS, "#000000")
LINES = ("-", "--")
LONGEST_LABEL = 48
PNG = b"\x89PNG\r\n\x1a\n"
LARGEST_IMAGE = 5_000_000  # bytes


def write_comparison(path, folder, sections):
    """Write the page; a page that this toolkit made before is replaced, any other file is refused.

    Args:
        path: Path of the .html file.
        folder: Path of the folder that was compared.
        sections: list of `common.evaluation.comparison.Section`.

    Raises:
        InputError: if there is a file that this toolkit did not make, or that changed since.
    """
    path = Path(os.path.abspath(path))
    anchors = {id(section.summary): f"#section{number}" for number, section in enumerate(sections) if section.summary}
    shown = [_shown(section, path.parent, anchors) for section in sections]
    with whole_entries(path.parent, [path.name], replace=True) as unfinished:
        write_page(
            unfinished / path.name,
            TEMPLATE,
            f"Comparison of {one_line(real_path(folder).name)}",
            headlines=headlines(sections[0]),
            sections=shown,
            labeled=LABELED,
            narrow=NARROW,
        )


def headlines(section):
    """Large figures at the top of the page: list of (label, figure, note)."""
    best = section.summary if section.kind == "folds" else section.entries[0] if section.entries else None
    tiles = []
    if best and best.dice is not None:
        label = "mean validation Dice" if section.kind == "folds" else "best validation Dice"
        tiles.append((label, f"{best.dice:.4f}", best.interval or best.name))
    with_cases = [entry for entry in section.entries if entry.case_dice is not None]
    if with_cases:
        best = max(with_cases, key=lambda entry: entry.case_dice)
        tiles.append(("best Dice over cases", f"{best.case_dice:.4f}", f"{best.name}, {best.case_interval}"))
    tiles.append((section.kind, str(len(section.entries)), ""))
    minutes = sum(entry.minutes or 0 for entry in section.entries)
    return [*tiles, ("training", f"{minutes / 60:.1f} h" if minutes >= 100 else f"{minutes:.1f} min", "")]


def _shown(section, root, anchors):
    """What the template shows of a section: dict."""
    table = section.table if section.table is not None else entry_table(section)
    addresses = [anchors.get(id(entry)) or address_of(Run(entry.folder).report_file, root) for entry in section.entries]
    differing = differing_settings(section.entries) if section.kind == "runs" else {}
    name = "trial" if section.kind == "trials" else section.kind.removesuffix("s")
    return {
        "title": section.title,
        "text": section.text,
        "table": table,
        "links": {name: addresses, "dice over cases": [_scores_address(entry, root) for entry in section.entries]},
        "curves": draw_curves(section.entries) if any(entry.curve for entry in section.entries) else None,
        "labels": [entry.name for entry in section.entries if entry.curve][:LABELED],
        "differing": pd.DataFrame({"run": [entry.name for entry in section.entries], **differing})
        if differing
        else None,
        "compares_settings": section.kind == "runs" and len(section.entries) > 1,
        "scores": _scores_address(section.summary, root) if section.summary else "",
        "image": _importance(section.summary.folder) if section.kind == "trials" else None,
        "name": name,
    }


def entry_table(section):
    """DataFrame with a row for each entry of a section; columns that nothing is known of are missing."""
    entries = section.entries
    table = pd.DataFrame(
        {
            section.kind.removesuffix("s"): [entry.name for entry in entries],
            "rank": range(1, len(entries) + 1),
            "network": [entry.network for entry in entries],
            "dice": [entry.dice for entry in entries],
            "95% interval": [entry.interval for entry in entries],
            "dice over cases": [entry.case_dice for entry in entries],
            "95% interval over cases": [entry.case_interval for entry in entries],
            "epoch": [entry.epoch for entry in entries],
            "epochs": [_epochs_of(entry) for entry in entries],
            "minutes": [entry.minutes if (entry.minutes or 0) < 10 else round(entry.minutes) for entry in entries],
            "parameters": [entry.parameters for entry in entries],
            "status": [entry.status for entry in entries],
        },
        dtype=object,  # so that missing values do not turn whole numbers into floats
    )
    kept = ("dice", "epoch", "epochs", "minutes", "status", table.columns[0])
    empty = [name for name in table if name not in kept and all(value in (None, "") for value in table[name])]
    return table.drop(columns=empty)


def _epochs_of(entry):
    return f"{entry.epochs} of {entry.planned}" if entry.planned else str(entry.epochs)


def address_of(path, root):
    """Relative address of a file for a page in the folder `root`; "" if the file is missing.

    Every character that could make it anything but a relative path is quoted.
    """
    if not path.is_file():
        return ""
    try:
        relative = os.path.relpath(os.path.abspath(path), root)
    except ValueError:  # on another drive of Windows
        return ""
    return "./" + quote(os.fsencode(relative.replace(os.sep, "/")))


def _scores_address(entry, root):
    return address_of(Run(entry.folder).scores_folder / "report.html", root) if entry.case_dice is not None else ""


def _importance(folder):
    """Content of the importance.png of a study; None if it is missing or something else."""
    path = folder / "importance.png"
    if not path.is_file() or path.stat().st_size > LARGEST_IMAGE:
        return None
    content = path.read_bytes()
    return content if content.startswith(PNG) else None


def draw_curves(entries):
    """Plot the validation Dice over the epochs, the best entries in color.

    Args:
        entries: list of `common.evaluation.comparison.Entry`, best first, at least one with a curve.

    Returns:
        content of an SVG file.
    """
    curves = [(rank, entry) for rank, entry in enumerate(entries, 1) if entry.curve]
    with matplotlib.rc_context(PLOT_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the font lacks characters of a name
        figure = figures.Figure(figsize=(6.2, 3.6 + 0.2 * min(len(curves), LABELED + 1)))
        axis = figure.subplots()
        handles, labels = [], []
        for number, (rank, entry) in reversed(list(enumerate(curves))):  # the best on top
            style = {"color": "#b0b7bd", "linewidth": 0.9}
            if number < LABELED:
                line = LINES[number // len(COLORS) % len(LINES)]
                style = {"color": COLORS[number % len(COLORS)], "linestyle": line, "linewidth": 1.7}
            (curve,) = axis.plot(*zip(*entry.curve, strict=True), **style)
            axis.plot(*max(entry.curve, key=lambda point: point[1]), "o", color=style["color"], markersize=3.5)
            if number < LABELED:
                handles.insert(0, curve)
                labels.insert(0, _label(rank, entry.name))
            elif number == LABELED:
                handles.append(curve)
                labels.append(f"{number_of(len(curves) - LABELED, 'other')}")
        axis.set(xlabel="epoch", ylabel="validation Dice")
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, 0), min(high, 1))
        axis.grid(color=SOFT)
        axis.set_axisbelow(True)
        height = figure.get_size_inches()[1]
        legend = figure.legend(handles, labels, loc="lower left", bbox_to_anchor=(0.09, 0), frameon=False, fontsize=9.5)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a name may contain dollar signs
        return svg(figure, left=0.11, top=1 - 0.12 / height, bottom=1 - 3.1 / height)


def _label(rank, name):
    """Label of a curve; it begins with the rank, since labels that begin with an underscore disappear."""
    name = "".join(character if character.isprintable() else "?" for character in name)
    return f"{rank}  {name if len(name) <= LONGEST_LABEL else name[:LONGEST_LABEL] + '...'}"
