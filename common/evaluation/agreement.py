"""Agreement of predicted and true areas or volumes: Bland-Altman limits and the intraclass correlation coefficient."""

import numpy as np
import pandas as pd

from common.lazy import Lazy
from common.plots import CLASS_COLORS, INK, PLOT_STYLE, SOFT, svg

matplotlib, figures = Lazy("matplotlib"), Lazy("matplotlib.figure")
stats = Lazy("scipy.stats")

COLUMNS = ["class", "n", "bias", "low", "high", "sd", "lower_limit", "upper_limit", "icc", "icc_low", "icc_high"]
MOST_PANELS = 4  # classes in the plot


def agreement_of_sizes(sizes, interval_of_mean):
    """Summarize the agreement of sizes by class.

    Bland and Altman, Lancet 1986, doi 10.1016/S0140-6736(86)90837-8.

    Args:
        sizes: DataFrame with case, class, true and predicted.
        interval_of_mean: function of values and cases to (low, high).

    Returns:
        DataFrame with a row for each class: n, bias (mean of predicted minus true) with low and high, sd of the
        differences, limits of agreement (bias -+ 1.96 sd), and the ICC with its 95% interval; NaN below two images.
    """
    rows = []
    for number, of_class in sizes.groupby("class"):
        differences = (of_class["predicted"] - of_class["true"]).to_numpy(float)
        bias, sd = differences.mean(), differences.std(ddof=1) if len(differences) > 1 else np.nan
        low, high = interval_of_mean(differences, of_class["case"])
        limits = bias - 1.96 * sd, bias + 1.96 * sd
        icc = intraclass_correlation(of_class[["true", "predicted"]].to_numpy(float))
        rows.append((number, len(differences), bias, low, high, sd, *limits, *icc))
    return pd.DataFrame(rows, columns=COLUMNS)


def intraclass_correlation(values):
    """ICC(2,1): two-way random effects, absolute agreement, single measure.

    Shrout and Fleiss, Psychological Bulletin 1979, doi 10.1037/0033-2909.86.2.420; interval of McGraw and Wong,
    Psychological Methods 1996, doi 10.1037/1082-989X.1.1.30.

    Args:
        values: (N targets, K raters) array.

    Returns:
        ICC, and low and high of its 95% interval; NaN if undefined.
    """
    n, k = values.shape
    if n < 2:
        return np.nan, np.nan, np.nan
    mean, of_targets, of_raters = values.mean(), values.mean(axis=1), values.mean(axis=0)
    between = k * ((of_targets - mean) ** 2).sum() / (n - 1)
    raters = n * ((of_raters - mean) ** 2).sum() / (k - 1)
    rest = values - of_targets[:, None] - of_raters + mean
    error = (rest**2).sum() / ((n - 1) * (k - 1))
    denominator = between + (k - 1) * error + k * (raters - error) / n
    if not denominator:
        return np.nan, np.nan, np.nan
    icc = (between - error) / denominator
    if error <= 1e-12 * between:
        return icc, np.nan, np.nan
    ratio, agreement = raters / error, n * (1 + (k - 1) * icc) - k * icc
    freedom = (k - 1) * (n - 1) * (k * icc * ratio + agreement) ** 2
    freedom /= (n - 1) * k**2 * icc**2 * ratio**2 + agreement**2
    above, below = stats.f.ppf(0.975, n - 1, freedom), stats.f.ppf(0.975, freedom, n - 1)
    spread = k * raters + (k * n - k - n) * error
    low = n * (between - above * error) / (above * spread + n * between)
    high = n * (below * between - error) / (spread + n * below * between)
    return icc, float(low), float(high)


def bland_altman_plot(sizes, agreement, unit):
    """Draw predicted minus true size against their mean, a panel for each class; content of an SVG file.

    Args:
        sizes, agreement: argument and result of `agreement_of_sizes`.
        unit: of the sizes.

    Returns:
        bytes; None if there are no sizes.
    """
    if agreement.empty:
        return None
    shown = agreement.head(MOST_PANELS)
    with matplotlib.rc_context(PLOT_STYLE):
        figure = figures.Figure(figsize=(10.5, 3.4))
        for axis, row in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.itertuples(), strict=True):
            of_class = sizes[sizes["class"] == row[1]]
            mean, difference = (of_class["predicted"] + of_class["true"]) / 2, of_class["predicted"] - of_class["true"]
            color = CLASS_COLORS[(row[1] - 1) % len(CLASS_COLORS)]
            axis.plot(mean, difference, "o", color=color, alpha=0.6, markersize=4.5, markeredgewidth=0)
            for value, style in ((row.bias, "-"), (row.lower_limit, "--"), (row.upper_limit, "--")):
                if np.isfinite(value):
                    axis.axhline(value, color=INK, linewidth=1, linestyle=style)
            axis.set(xlabel=f"class {row[1]}: mean ({unit})")
            axis.grid(color=SOFT)
            axis.set_axisbelow(True)
        figure.axes[0].set_ylabel(f"predicted minus true ({unit})")
        return svg(figure, left=0.08)
