"""Pages in headless Chromium: what must be true of every page that a script writes."""

import itertools
import shutil
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

try:
    from axe_playwright_python.sync_playwright import Axe  # reads its script as the locale says, which ITK can change
except ModuleNotFoundError:
    Axe = None

MODES = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
CONTROLS = """[...document.querySelectorAll('a[href], button, input, summary, [tabindex="0"]')]
    .filter(e => e.checkVisibility())"""
OUTSIDE = """[...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && !e.closest('.scroll > *') &&
    (e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1)).map(e => e.outerHTML)"""
SCROLLS = """[...document.querySelectorAll('body *')].filter(e => e.scrollWidth > e.clientWidth + 1 &&
    ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && !e.matches('.scroll')).map(e => e.outerHTML)"""
FOCUSED = """() => {
    const focused = document.activeElement, style = getComputedStyle(focused);
    return [controls().indexOf(focused), style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2];
}""".replace("controls()", CONTROLS)

SORTED = """table => [...table.querySelectorAll('thead button')].flatMap(button => [1, 2].map(() => {
    button.click();
    const head = button.closest('th');
    return [[...table.querySelectorAll('th[aria-sort]')].map(e => e === head && e.ariaSort),
            [...table.tBodies[0].rows].map(row => row.cells[head.cellIndex].dataset.value)];
}))"""


def start_browser(playwright):
    """Headless Chromium of the system; skips the test, saying so, if there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not path:
        pytest.skip("there is no Chromium")
    return playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])


@contextmanager
def opened(browser, path, width=1280, scheme="light"):
    """Page of a file on disk, which must neither report anything to the console nor ask for anything else."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(Path(path).absolute().as_uri())
    yield page
    assert not said and all(url.startswith(("file:", "data:")) for url in asked), (said, asked)
    context.close()


def check_middle(browser, path):
    """Nothing is wider than a screen between a phone and a desktop."""
    with opened(browser, path, 900) as page:
        check_fit(page)


def check_page(browser, path, width, scheme):
    """Check what is true of every page: it fits, can be read, printed and worked by keyboard, and its controls work."""
    with opened(browser, path, width, scheme) as page:
        check_fit(page)
        assert (lightness(page) > 0.5) == (scheme == "light"), "it follows the mode of the system"
        check_accessibility(page)
        check_keyboard(page)
        if (width, scheme) in MODES[::3]:
            click_everything(page)
            check_links(page)
        page.emulate_media(media="print", color_scheme=scheme)
        page.set_viewport_size({"width": 718, "height": 1000})  # A4 within the usual margins
        assert lightness(page) == 1, "printed on white"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        if scheme == "dark":
            check_accessibility(page)


def check_fit(page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(OUTSIDE) == [] and page.evaluate(SCROLLS) == []
    assert page.evaluate("[...document.images].filter(i => i.src && !i.naturalWidth).length") == 0


def lightness(page):
    """Red of the background of the page, 0 to 1."""
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return int(color.removeprefix("rgb(").split(",")[0]) / 255


def check_accessibility(page):
    if Axe is None:
        pytest.skip("needs axe-playwright-python; install tests/requirements.txt")
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    shown = [(rule["id"], rule["impact"], [node["html"][:200] for node in rule["nodes"]][:5]) for rule in found]
    assert not shown, "\n".join(map(str, shown))


def check_keyboard(page):
    """Tab reaches every control in its order, and shows it."""
    count = page.evaluate(f"{CONTROLS}.length")
    found = []
    for _ in range(count):
        page.keyboard.press("Tab")
        found.append(page.evaluate(FOCUSED))
    assert found == [[number, True] for number in range(count)]
    page.evaluate("document.activeElement.blur()")


def click_everything(page):
    """Sort every table by every column, open and close every image, move every slider, unfold everything."""
    for table in page.locator("table.sorted").all():
        table.locator("thead button").first.press("Enter")
        assert table.locator("thead th").first.get_attribute("aria-sort") == "ascending"
        for shown, cells in table.evaluate(SORTED):
            assert shown in (["ascending"], ["descending"]), "one column has the arrow"
            check_order(cells, *shown)
    dialog = page.locator("dialog")
    closings = itertools.cycle(
        (lambda: page.keyboard.press("Escape"), dialog.get_by_role("button").click, dialog.click)
    )
    for button, close in zip(page.locator(".pictures button").all(), closings, strict=False):
        button.press("Enter")
        assert dialog.evaluate("d => d.open && d.querySelector('img').naturalWidth > 0 && d.innerText.length > 0")
        close()
        assert not dialog.evaluate("d => d.open") and button.evaluate("b => b === document.activeElement")
    for figure in page.locator(".slider").all():
        for key, number in (("Home", 0), ("ArrowRight", 1), ("End", -1)):
            figure.locator("input").press(key)
            shown = figure.evaluate("f => [...f.querySelectorAll('img')].map(i => i.checkVisibility())")
            assert sum(shown) == 1 and shown[number if len(shown) > 1 else 0], "one image, the chosen one"
            caption = figure.locator("span").inner_text()
            assert figure.locator("img:visible").get_attribute("alt").endswith(caption)
    for details in page.locator("details").all():
        details.locator("summary").press("Enter")
        assert details.evaluate("d => d.open")


def check_order(cells, order):
    """Numbers are sorted as such, and missing values are at the end."""
    values = cells[: len(cells) - cells.count("")]
    assert "" not in values
    try:
        values = [float(value) for value in values]
    except ValueError:
        return
    assert values == sorted(values, reverse=order == "descending")


def check_links(page):
    """Every link leads to a file that exists."""
    for address in page.locator("a[href]").evaluate_all("links => links.map(a => a.href)"):
        parts = urlsplit(address)
        assert parts.scheme == "file" and Path(unquote(parts.path)).is_file(), address
