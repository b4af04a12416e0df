"""Write an HTML page as one self-contained file, with its styles, scripts and images.

A room's template extends page/page.html.jinja and uses the macros of page/parts.html.jinja.
"""

import base64
import functools
from numbers import Integral
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.files import whole_file
from common.streams import printable

TEMPLATES = Path(__file__).parent


def write_page(path, template, title, refresh=None, **values):
    """Write a page, complete or not at all. Text in `values` is escaped.

    Args:
        path: path of the .html file.
        template: template path relative to `common`, such as "training/report.html.jinja".
        title: page title.
        refresh: seconds until the browser reloads the page; None: never.
        values: variables of the template.
    """
    text = _environment.get_template(template).render(title=title, refresh=refresh, **values)
    with whole_file(path) as unfinished:
        unfinished.write_text(printable(text), encoding="utf-8", errors="backslashreplace")


def in_words(value):
    """Format a table value: "-" if missing, integers as is, floats with three decimals, or one from 100 up."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "-"
    if isinstance(value, Integral):
        return str(value)
    return f"{value:.3g}" if 1e-6 < abs(value) < 1e-3 else f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"


@functools.cache
def _source(name):
    """Content of a CSS or JavaScript file, to include as is."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def as_address(content, type):
    """Encode the content of an image file as `<img>` address; type: "png", "jpeg" or "svg+xml"."""
    return Markup(f"data:image/{type};base64,{base64.b64encode(content).decode()}")


_environment = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_environment.globals["source"] = _source
_environment.filters |= {"in_words": in_words, "as_address": as_address}
_environment.tests["missing"] = pd.isna
