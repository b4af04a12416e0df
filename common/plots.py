"""Style of the plots in pages."""

import io

INK, SOFT = "#1b2733", "#dfe5ea"
# Okabe and Ito, safe for color-blind readers; without the yellow one, which is too pale on white
CLASS_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
PLOT_STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "svg.hashsalt": "1",
}


def svg(figure, left=0.055, top=0.96, bottom=0.2):
    """Content of an SVG file of a matplotlib figure; the same figure gives the same bytes.

    Args:
        figure: matplotlib.figure.Figure.
        left, top, bottom: edges of the plots as fractions of the figure; fixed, since a layout engine draws twice.
    """
    figure.subplots_adjust(left=left, right=0.99, top=top, bottom=bottom, wspace=0.16)
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()
