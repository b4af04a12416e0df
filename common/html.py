"""Write a page of HTML that is one file: its styles, scripts and images are in it, and nothing comes from outside.

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

TEMPLATES = Path(__file__).parent


def write_page(path, template, title, refresh=None, **values):
    """Write a page, whole or not at all. Text in `values` is escaped.

    Args:
        path: of the .html file.
        template: path of the template from the folder `common`, for instance "training/report.html.jinja".
        title: text.
        refresh: seconds after which a browser loads the page again; None: never.
        values: what the template shows.
    """
    text = _environment.get_template(template).render(title=title, refresh=refresh, **values)
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def in_words(value):
    """A value of a table as text: "-" if missing; numbers whole, with three decimals, or from 100 on with one."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "-"
    if isinstance(value, Integral):
        return str(value)
    return f"{value:.3g}" if 1e-6 < abs(value) < 1e-3 else f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"


@functools.cache
def _source(name):
    """A file of CSS or JavaScript, which stands in the page as it is."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _as_address(content, type):
    """Content of an image file as the address of an `<img>`; type: "png", "jpeg" or "svg+xml"."""
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
_environment.filters |= {"in_words": in_words, "as_address": _as_address}
_environment.tests["missing"] = pd.isna
