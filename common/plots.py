"""Style of the plots in pages."""

import io

INK, SOFT = "#1b2733", "#dfe5ea"
CLASS_COLORS = ("#0b6e66", "#c4572b", "#4665a8", "#8a6d1d", "#7d4a87", "#5b6b7a")
PLOT_STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "svg.hashsalt": "1",
}


def svg(figure, left=0.055, top=0.96):
    """Content of an SVG file of a matplotlib figure; the same figure gives the same bytes.

    Args:
        figure: matplotlib.figure.Figure.
        left, top: edges of the plots as fractions of the figure; fixed, since a layout engine draws twice.
    """
    figure.subplots_adjust(left=left, right=0.99, top=top, bottom=0.2, wspace=0.16)
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()
