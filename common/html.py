"""A page of HTML that is one file: tables that sort, pictures that grow on a click, nothing from outside."""

import base64
import html
from numbers import Integral

import pandas as pd

from common.files import whole_file

STYLE = """
:root { --ink: #1b2733; --soft: #5b6b7a; --line: #dfe5ea; --shade: #f4f7f9; --accent: #0b6e66 }
* { box-sizing: border-box }
body { font: 15px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; color: var(--ink); background: #fff;
  max-width: 1180px; margin: 0 auto; padding: 1.6rem 1.2rem 4rem; overflow-wrap: anywhere }
h1 { font-size: 1.55rem; line-height: 1.25; margin: 0 0 .2rem } h2 { font-size: 1.1rem; margin: 2.4rem 0 .6rem }
p { margin: .3rem 0 .8rem; max-width: 46rem } .soft, figcaption { color: var(--soft) }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .8rem; margin: 1.4rem 0 }
.tile { border: 1px solid var(--line); border-top: 3px solid var(--accent); border-radius: 6px; padding: .7rem .9rem }
.tile b { display: block; font-size: 1.5rem; line-height: 1.3; font-variant-numeric: tabular-nums }
.tile span { color: var(--soft); font-size: .85rem; display: block }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem }
th, td { text-align: right; padding: .28rem .5rem; border-bottom: 1px solid var(--line); vertical-align: top }
td:not(.text) { white-space: nowrap } th { vertical-align: bottom }
th.text, td.text, .plain th, .plain td { text-align: left; white-space: normal }
.plain th { vertical-align: top }
thead th { border-bottom: 2px solid var(--ink); font-weight: 600 }
tbody tr:hover { background: var(--shade) }
th button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0; padding: 0; cursor: pointer }
th button:hover, th button:focus-visible { color: var(--accent); text-decoration: underline }
th[aria-sort=ascending] button::after { content: " \\2191" }
th[aria-sort=descending] button::after { content: " \\2193" }
.plain th { width: 14rem; font-weight: 500; color: var(--soft) }
th button { overflow-wrap: normal; text-align: inherit }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: .9rem }
figure { margin: 0 } figure img { width: 100%; height: auto; display: block; border-radius: 4px; background: #000 }
figure button { border: 0; padding: 0; background: none; width: 100%; cursor: zoom-in; border-radius: 4px }
figure button:focus-visible { outline: 3px solid var(--accent) } figcaption { font-size: .84rem; margin-top: .25rem }
.plot { width: 100%; height: auto; display: block } .key { font-weight: 600 }
dialog { border: 0; padding: 0; background: #0b1016; color: #fff; border-radius: 6px; max-width: 96vw;
  max-height: 96vh }
dialog::backdrop { background: rgba(10, 16, 22, .75) } dialog figcaption { color: #dfe5ea; padding: .5rem .8rem }
dialog img { width: min(92vw, 82vh); height: auto; image-rendering: auto; cursor: zoom-out }
details { margin: 1rem 0 } summary { cursor: pointer; font-weight: 600 }
pre { white-space: pre-wrap; background: var(--shade); padding: .8rem; border-radius: 6px; font-size: .85rem }
@media (max-width: 720px) { .wide { display: none } th, td { padding: .28rem .3rem } .plain th { width: 9rem } }
@media print { body { max-width: none; padding: 0; font-size: 11px } h2 { break-after: avoid }
  figure, tr, .tile, .plot { break-inside: avoid } .pictures { grid-template-columns: repeat(4, 1fr) }
  details > * { display: block } th button { color: inherit } }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sorted")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y, undefined, {numeric: true}) : x - y;
      return up ? order : -order;
    });
    table.tBodies[0].append(...rows);
  }));
}
const shown = document.querySelector("dialog");
for (const figure of document.querySelectorAll(".pictures figure"))
  figure.querySelector("button").addEventListener("click", () => {
    shown.querySelector("img").src = figure.querySelector("img").src;
    shown.querySelector("img").alt = figure.querySelector("img").alt;
    shown.querySelector("figcaption").textContent = figure.querySelector("figcaption").textContent;
    shown.showModal();
  });
shown.addEventListener("click", () => shown.close());
"""


def write_page(path, title, parts, refresh=None):
    """Write a page, whole or not at all.

    Args:
        path: of the .html file.
        title: text.
        parts: HTML of its parts, of the functions below.
        refresh: seconds after which a browser loads it again; None: never.
    """
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
{again}<title>{html.escape(title)}</title><link rel="icon" href="data:,"><style>{STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
{"".join(parts)}
<dialog><figure><img alt=""><figcaption></figcaption></figure></dialog>
<script>{SCRIPT}</script></body></html>
"""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def section(title, *parts):
    """A heading and what stands below it."""
    return f"<h2>{html.escape(title)}</h2>" + "".join(parts)


def paragraph(text):
    return f"<p>{html.escape(text)}</p>"


def folded(title, *parts):
    """What is shown on a click."""
    return f"<details><summary>{html.escape(title)}</summary>{''.join(parts)}</details>"


def tiles(values):
    """Figures in large.

    Args:
        values: list of (label, figure, note); texts.
    """
    cells = (
        f'<div class="tile"><span>{html.escape(label)}</span><b>{html.escape(figure)}</b>'
        f"<span>{html.escape(note)}</span></div>"
        for label, figure, note in values
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def plain_table(values):
    """A table of names and values, a row each."""
    rows = "".join(f"<tr><th>{html.escape(str(k))}</th><td>{html.escape(str(v))}</td></tr>" for k, v in values.items())
    return f'<table class="plain"><tbody>{rows}</tbody></table>'


def text_block(text):
    return f"<pre>{html.escape(text)}</pre>"


def sorted_table(table, narrow):
    """A table that is sorted by a click on the head of a column.

    Args:
        table: DataFrame; numbers are shown as `number` has them, NaN as a dash.
        narrow: names of the columns that a narrow screen shows.
    """

    def cell(value, name):
        kind = "text" if isinstance(value, str) else ""
        classes = " ".join(filter(None, (kind, "" if name in narrow else "wide")))
        shown = value if isinstance(value, str) else "-" if pd.isna(value) else number(value)
        raw = "" if not isinstance(value, str) and pd.isna(value) else value
        return f'<td class="{classes}" data-value="{html.escape(str(raw))}">{html.escape(shown)}</td>'

    def head(name):
        text = "text" if len(table) and isinstance(table[name].iloc[0], str) else ""
        classes = " ".join(filter(None, (text, "" if name in narrow else "wide")))
        return f'<th class="{classes}"><button>{html.escape(name.replace("_", " "))}</button></th>'

    names = list(table.columns)
    rows = "".join(
        "<tr>" + "".join(cell(value, name) for name, value in zip(names, row, strict=True)) + "</tr>"
        for row in table.itertuples(index=False, name=None)
    )
    heads = "".join(map(head, names))
    return f'<table class="sorted"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'


def number(value):
    """A number as text: whole, with three decimals, or, from 100 on, with one."""
    if isinstance(value, Integral):
        return str(value)
    return f"{value:.3g}" if 1e-6 < abs(value) < 1e-3 else f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"


def picture(data, kind, alternative):
    """A plot or a picture in full width.

    Args:
        data: content of the file.
        kind: "svg+xml", "png" or "jpeg".
        alternative: text for who does not see it.
    """
    return f'<img class="plot" alt="{html.escape(alternative)}" src="{_address(data, kind)}">'


def gallery(pictures):
    """Pictures that grow on a click.

    Args:
        pictures: list of (content of a JPEG file, caption).
    """
    figures = (
        f'<figure><button title="enlarge"><img alt="{html.escape(caption)}" src="{_address(data, "jpeg")}"></button>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for data, caption in pictures
    )
    return f'<div class="pictures">{"".join(figures)}</div>'


def _address(data, kind):
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
