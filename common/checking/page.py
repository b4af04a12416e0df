"""The page of a check: findings, plots of the data set, and the cases."""

from pathlib import Path

import numpy as np
import pandas as pd

from common.checking.findings import NOTE, OK, PROBLEM
from common.html import write_page
from common.lazy import Lazy
from common.plots import CLASS_COLORS, PLOT_STYLE, SOFT, svg
from common.public_settings import without_own_paths
from common.slices.classes import is_target, type_of_masks
from common.slices.drawing import draw_outlines, evenly_spaced
from common.slices.images import encode_jpeg, read_pair, resize
from common.slices.masks import to_classes
from common.streams import one_line

matplotlib, figures = Lazy("matplotlib"), Lazy("matplotlib.figure")

LARGEST = 480  # side of an image in the page, in pixels
MOST_CASES, MOST_BARS, MOST_NAMES = 500, 120, 12  # in the table, in the plot, and with their names in it
TO_LOOK_AT = 12  # slices of the whole set
NARROW = ("case", "slices", "empty", "foreground")


def write_check(path, title, sections, data, environment):
    """Write the page, complete or not at all.

    Args:
        path: path of the .html file.
        title: page title.
        sections: dict of heading to list of Finding; empty ones are left out.
        data: DataCheck.
        environment: text.
    """
    sections = {name: [_public(finding, data.root) for finding in found] for name, found in sections.items() if found}
    findings = [finding for of_section in sections.values() for finding in of_section]
    shown = [entry for finding in findings for entry in finding.shown]
    facts, classes = data.facts, data.classes
    slices = facts.slices if facts else []
    write_page(
        path,
        "checking/check.html.jinja",
        title,
        headlines=_headlines(findings, slices),
        sections=sections,
        suspicious=[_for_page(s, caption, classes) for s, caption in shown],
        slices=[_for_page(s, f"{s.case.name} {s.name}", classes) for s in _to_look_at(slices)],
        grays=plot_grays(facts.histograms, slices[0].bits) if slices else None,
        sizes=plot_sizes(facts.sizes) if slices and facts.sizes else None,
        counts=plot_counts(slices) if slices else None,
        drawn=len(facts.histograms) if slices else 0,
        cases=case_table(slices).head(MOST_CASES) if slices else None,
        case_count=len({s.case for s in slices}),
        narrow=NARROW,
        environment=environment,
    )


def _public(finding, root):
    """A finding without paths of this machine and its user."""
    own, public = (str(Path(root)), without_own_paths(str(Path(root)))) if root else ("", "")

    def shorten(text):
        return without_own_paths(text.replace(own, public) if own != public else text)

    return finding._replace(text=shorten(finding.text), rows=tuple(map(shorten, finding.rows)))


def _headlines(findings, slices):
    levels = [finding.level for finding in findings]
    counts = [(name + "s", str(levels.count(level)), "") for name, level in ((PROBLEM, PROBLEM), (NOTE, NOTE))]
    if not slices:
        return [*counts, ("passed", str(levels.count(OK)), "")]
    empty = sum(not s.foreground for s in slices)
    size = f"{slices[0].size}x{slices[0].size}, {slices[0].bits} bits"
    return [
        *counts,
        ("cases", str(len({s.case for s in slices})), ""),
        ("slices", str(len(slices)), size),
        ("empty masks", f"{empty / len(slices):.0%}", str(empty)),
    ]


def _to_look_at(slices):
    return evenly_spaced([s for s in slices if s.foreground] or slices, TO_LOOK_AT)


def _for_page(s, caption, classes):
    image, mask = read_pair(s.x, s.y, mask_type=type_of_masks(s.overlap))
    numbers = is_target(mask).astype(np.uint8) if classes is None else to_classes(mask, classes, bool(s.overlap))
    side = min(LARGEST, max(len(image), 160))
    picture = draw_outlines(image, numbers)
    return encode_jpeg(resize(picture, (side, side))), caption


def case_table(slices):
    """DataFrame with a row for each case, those with the least foreground first."""
    by_case = {}
    for s in slices:
        by_case.setdefault(s.case.name, []).append(s)
    rows = [
        {
            "case": case,
            "slices": len(members),
            "empty": sum(not s.foreground for s in members),
            "foreground": float(np.mean([s.foreground for s in members])),
            "largest_mask": max(s.foreground for s in members),
        }
        for case, members in by_case.items()
    ]
    return pd.DataFrame(rows).sort_values("foreground", kind="stable")


# --- plots


def plot_grays(histograms, bits):
    """Share of the pixels at every gray level, a line for each case.

    Args:
        histograms: dict of case to (bins,) number of pixels.
        bits: bit depth.

    Returns:
        content of an SVG file.
    """
    with matplotlib.rc_context(PLOT_STYLE):
        figure = figures.Figure(figsize=(10.5, 3.2))
        axis = figure.subplots()
        for counts in histograms.values():
            levels = np.arange(len(counts)) * 2**bits // len(counts)
            axis.plot(levels, np.where(counts, counts / counts.sum(), np.nan), color=CLASS_COLORS[0], alpha=0.4, lw=1)
        axis.set(yscale="log", xlabel="gray level", ylabel="share of pixels")
        axis.grid(color=SOFT)
        return svg(figure, left=0.075)


def plot_sizes(sizes):
    """Number of masks by size, a line for each class.

    Args:
        sizes: dict of class to fractions of a slice, above 0.

    Returns:
        content of an SVG file.
    """
    lowest = min(map(min, sizes.values()))
    edges = np.geomspace(lowest * 0.99, 1.01, 40)
    with matplotlib.rc_context(PLOT_STYLE):
        figure = figures.Figure(figsize=(10.5, 3.2))
        axis = figure.subplots()
        for index, number in enumerate(sorted(sizes)):
            counts = np.histogram(sizes[number], edges)[0]
            color = CLASS_COLORS[index % len(CLASS_COLORS)]
            axis.stairs(counts, edges * 100, color=color, fill=len(sizes) == 1, alpha=0.8, label=f"class {number}")
        axis.set(xscale="log", xlabel="mask size (% of the slice)", ylabel="masks")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.grid(color=SOFT)
        axis.set_axisbelow(True)
        if len(sizes) > 1:
            axis.legend(frameon=False, fontsize=8)
        return svg(figure, left=0.075)


def plot_counts(slices):
    """Slices of each case with and without foreground, as bars.

    Returns:
        content of an SVG file.
    """
    counts = {}
    for s in slices:
        counts.setdefault(s.case.name, [0, 0])[0 if s.foreground else 1] += 1
    cases = evenly_spaced(list(counts), MOST_BARS)
    filled, empty = np.array([counts[case] for case in cases]).T
    with matplotlib.rc_context(PLOT_STYLE):
        figure = figures.Figure(figsize=(10.5, 3.2))
        axis = figure.subplots()
        places = np.arange(1, len(cases) + 1)
        axis.bar(places, filled, color=CLASS_COLORS[0], label="with foreground")
        axis.bar(places, empty, bottom=filled, color=CLASS_COLORS[1], alpha=0.6, label="empty")
        axis.set(xlabel="case", ylabel="slices", xlim=(0, len(cases) + 1))
        if len(cases) <= MOST_NAMES:
            axis.set_xticks(places, [one_line(case)[:12] for case in cases], parse_math=False)
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.legend(frameon=False, fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
        return svg(figure, left=0.075, top=0.9)
