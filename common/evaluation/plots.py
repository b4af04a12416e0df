"""Plots of scores, as SVG files."""

import io

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

INK, SOFT = "#1b2733", "#dfe5ea"
COLOURS = ("#0b6e66", "#c4572b", "#4665a8", "#8a6d1d", "#7d4a87", "#5b6b7a")  # of classes
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "svg.hashsalt": "1",
}


def box_plots(table, groups):
    """Box plots of scores with a dot for every row.

    Args:
        table: DataFrame with columns class and the scores.
        groups: list of (names of scores that share an axis, label of the axis).

    Returns:
        content of an SVG file.
    """
    classes = sorted(table["class"].unique())
    with plt.rc_context(STYLE):
        widths = [len(names) for names, _ in groups]
        figure, axes = plt.subplots(1, len(groups), figsize=(10.5, 3.6), width_ratios=widths, squeeze=False)
        rng = np.random.default_rng(0)
        for axis, (names, label) in zip(axes[0], groups, strict=True):
            for c, number in enumerate(classes):
                of_class = table[table["class"] == number]
                values = [of_class[name].dropna().to_numpy(float) for name in names]
                width = 0.7 / len(classes)
                places = np.arange(len(names)) + (c - (len(classes) - 1) / 2) * width
                colour = COLOURS[c % len(COLOURS)]
                line = {"color": colour, "linewidth": 1.4}
                axis.boxplot(
                    values,
                    positions=places,
                    widths=0.7 * width,
                    showfliers=False,
                    medianprops=line | {"linewidth": 2.4},
                    boxprops=line,
                    whiskerprops=line,
                    capprops=line,
                    manage_ticks=False,
                )
                for place, found in zip(places, values, strict=True):
                    spread = rng.uniform(-0.2, 0.2, len(found)) * width
                    axis.plot(place + spread, found, ".", color=colour, alpha=0.35, markersize=4, zorder=1)
                axis.plot([], [], color=colour, label=f"class {number}")
            axis.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names])
            axis.set_ylabel(label)
            axis.grid(axis="y", color=SOFT)
            axis.set_axisbelow(True)
            if (table[names].max(skipna=True).max() or 0) <= 1:
                axis.set_ylim(0, 1.02)
        if len(classes) > 1:
            axes[0][0].legend(frameon=False, fontsize=8)
        return _svg(figure)


def dice_by_size(table, sizes, label):
    """Dice against the size of the mask.

    Args:
        table: DataFrame with columns class and dice.
        sizes: (N,) size of each row's mask, greater than 0.
        label: of the axis.

    Returns:
        content of an SVG file.
    """
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(10.5, 3.2))
        for c, number in enumerate(sorted(table["class"].unique())):
            here = (table["class"] == number).to_numpy()
            axis.plot(
                np.asarray(sizes)[here],
                table["dice"][here],
                "o",
                color=COLOURS[c % len(COLOURS)],
                alpha=0.6,
                markersize=4.5,
                markeredgewidth=0,
                label=f"class {number}",
            )
        axis.set(xscale="log", ylim=(-0.02, 1.02), xlabel=label, ylabel="Dice")
        axis.grid(color=SOFT)
        axis.set_axisbelow(True)
        if table["class"].nunique() > 1:
            axis.legend(frameon=False, fontsize=8)
        return _svg(figure)


def _svg(figure):
    figure.subplots_adjust(left=0.055, right=0.99, top=0.96, bottom=0.2, wspace=0.16)  # a layout engine draws twice
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    plt.close(figure)
    return content.getvalue()
