"""Plots of detection scores: FROC curves, and predicted against true coordinates and diameters."""

import numpy as np

from common.evaluation.lesion_scores import RATES
from common.evaluation.lesions import FALSE_POSITIVE_RATES, FOUND
from common.lazy import Lazy
from common.plots import CLASS_COLORS, INK, PLOT_STYLE, SOFT, svg

matplotlib, figures = Lazy("matplotlib"), Lazy("matplotlib.figure")


def froc_plot(result):
    """Draw the FROC curves of a LesionResult from 1/8 to 8 false positives, with 95% bands; content of an SVG file."""
    ticks, rates = FALSE_POSITIVE_RATES, np.geomspace(RATES[0], RATES[-1], 400)
    with matplotlib.rc_context(PLOT_STYLE):
        figure = figures.Figure(figsize=(10.5, 3.8))
        axis = figure.subplots()
        for number, (curve, (low, high), _) in result.curves.items():
            color = CLASS_COLORS[(number - 1) % len(CLASS_COLORS)]
            axis.plot(rates, curve.sensitivity_at(rates), color=color, linewidth=2, label=f"class {number}")
            axis.plot(ticks, curve.sensitivity_at(ticks), "o", color=color, markersize=5)
            if np.isfinite(low).all():
                axis.fill_between(RATES, low, high, color=color, alpha=0.15, linewidth=0)
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
        axis.set(ylim=(-0.02, 1.02), xlabel=f"false positives per {result.scans}", ylabel="sensitivity")
        axis.grid(color=SOFT)
        axis.set_axisbelow(True)
        if len(result.curves) > 1:
            axis.legend(frameon=False, fontsize=8)
        return svg(figure)


def error_plot(result):
    """Plot predicted against true coordinates and diameters of the lesions found; None if none is found."""
    found = result.rows[result.rows["kind"] == FOUND]
    names = [name for name in ("x", "y", "z", "diameter") if (found[f"predicted_{name}"] - found[name]).notna().any()]
    if not names:
        return None
    with matplotlib.rc_context(PLOT_STYLE):
        figure = figures.Figure(figsize=(10.5, 3.2))
        for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            both = found[[name, f"predicted_{name}"]].to_numpy(float)
            ends = np.nanmin(both), np.nanmax(both)
            axis.plot(ends, ends, color=INK, linewidth=0.8)
            for number, rows in found.groupby("class"):
                color = CLASS_COLORS[(number - 1) % len(CLASS_COLORS)]
                axis.plot(rows[name], rows[f"predicted_{name}"], "o", color=color, alpha=0.6, markersize=4)
            axis.set(xlabel=f"true {name} ({result.unit})")
            axis.grid(color=SOFT)
            axis.set_axisbelow(True)
        figure.axes[0].set_ylabel("predicted")
        return svg(figure, left=0.07)
