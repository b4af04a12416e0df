"""The documentation: pages are linked, links resolve, and docs/settings.md is what the scripts say."""

import re
from pathlib import Path

import pytest
from running import ROOT

from common.settings_page import PAGE, make_page

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def names(paths):
    return [path.relative_to(ROOT).as_posix() for path in paths]


def text_of(page):
    """A page without its code."""
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def links_of(page):
    """Links of a page to files of the project: (link as written, Path, heading or "")."""
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if not re.match(r"[a-z]+:", link):
            path, _, heading = link.partition("#")
            found.append((link, (page.parent / path).resolve() if path else page, heading))
    return found


def headings_of(page):
    """Anchors that GitHub makes of the headings of a page."""
    titles = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S), re.M
    )
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def test_settings_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == make_page(), "run: python -m common.settings_page"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_resolve(page):
    broken = [
        link
        for link, path, heading in links_of(page)
        if not path.exists() or (heading and (path.suffix != ".md" or heading not in headings_of(path)))
    ]
    assert not broken, f"{page.relative_to(ROOT)}: {broken}"


def test_every_page_is_linked():
    linked = {path for page in PAGES for _, path, _ in links_of(page) if path != page}
    alone = [page for page in PAGES if page not in linked and page != ROOT / "README.md"]
    assert not alone, f"no page links to {names(alone)}"


def test_links_stay_in_the_project():
    outside = [
        f"{page.name}: {link}" for page in PAGES for link, path, _ in links_of(page) if not path.is_relative_to(ROOT)
    ]
    assert not outside


def test_links_are_found():
    assert (ROOT / "docs" / "extending.md") in {path for _, path, _ in links_of(ROOT / "docs" / "design.md")}
    assert "private-parts-of-libraries-that-we-rely-on" in headings_of(Path(ROOT, "docs", "design.md"))
