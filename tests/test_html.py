"""The pages that scripts write, in a real browser: at two widths, light and dark, by mouse and keyboard."""

import numpy as np
import pytest
from browsing import (
    MODES,
    check_accessibility,
    check_fit,
    check_keyboard,
    check_middle,
    check_page,
    click_everything,
    opened,
)
from drawings import make_cases, write_image
from running import run_here

from common.slices.images import read_mask

Error = pytest.importorskip("playwright.sync_api").Error


@pytest.fixture(scope="session")
def scored(made_once):
    """Report of evaluate.py with everything that it can show."""

    def score(root):
        truth = make_cases(root / "truth", cases=6, slices=2, size=48, classes=2)
        for file in sorted(truth.glob("case*/y/*.png")):
            write_image(root / "a" / file.parent.parent.name / file.name, np.roll(read_mask(file), 2, axis=0))
        run_here("evaluate.py", PREDICTED=root / "a", TRUTH=truth, OUTPUT=root / "first")
        flags = {"AGAINST": root / "first", "WORST": 3, "LESIONS": "overlap"}
        return run_here("evaluate.py", PREDICTED=root / "a", TRUTH=truth, OUTPUT=root / "scores", **flags).stdout

    return made_once("scored", score)[0] / "scores" / "report.html"


@pytest.mark.parametrize(("width", "scheme"), MODES)
def test_evaluation(browser, scored, width, scheme):
    check_page(browser, scored, width, scheme)


def test_tables_of_lesions(browser, tmp_path):
    columns = "seriesuid,coordX,coordY,coordZ"
    scans = "abcdef"
    true = [f"{name},{10 * i},{5 * i},{-20 * i},8" for i, name in enumerate(scans)]
    found = [f"{name},{10 * i + i % 3},{5 * i},{-20 * i},{0.9 - 0.1 * i:.1f},7" for i, name in enumerate(scans)]
    found += [f"{name},99,99,99,{0.1 * i:.1f},7" for i, name in enumerate(scans)]
    (tmp_path / "t.csv").write_text("\n".join([f"{columns},diameter_mm", *true]))
    (tmp_path / "p.csv").write_text("\n".join([f"{columns},probability,diameter_mm", *found]))
    run_here("evaluate.py", PREDICTED=tmp_path / "p.csv", TRUTH=tmp_path / "t.csv", OUTPUT=tmp_path / "s")
    check_page(browser, tmp_path / "s" / "report.html", *MODES[0])
    check_page(browser, tmp_path / "s" / "report.html", *MODES[-1])


@pytest.mark.parametrize(("width", "scheme"), MODES)
def test_run(browser, trained, width, scheme):
    check_page(browser, trained[0] / "report.html", width, scheme)


def test_a_page_of_middle_width(browser, trained):
    check_middle(browser, trained[0] / "report.html")


def test_a_narrow_page_scrolls_along_a_plot_by_keyboard(browser, scored):
    with opened(browser, scored, 390) as page:
        region = page.get_by_role("region", name="box plots").first
        region.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("e => e.scrollLeft > 0", arg=region.element_handle())


@pytest.mark.parametrize(
    ("check", "damage"),
    [
        (check_accessibility, "document.querySelector('h2').style.color = '#ddd'"),
        (check_accessibility, "document.querySelector('img').removeAttribute('alt')"),
        (check_fit, "document.querySelector('h2').style.width = '2000px'"),
        (check_fit, "document.querySelector('table').parentNode.style.overflowX = 'scroll'; "
            "document.querySelector('table').style.width = '2000px'"),
        (check_keyboard, "document.querySelector('button').style.outline = 'none'"),
        (check_keyboard, "document.querySelector('button').tabIndex = -1"),
        (click_everything, "document.querySelector('th button').replaceWith('dice')"),
        (click_everything, "document.querySelector('dialog').close = () => {}"),
    ],
)  # fmt: skip
def test_the_checks_find_what_they_look_for(browser, scored, check, damage):
    with opened(browser, scored) as page:
        page.set_default_timeout(2000)
        page.evaluate(damage)
        with pytest.raises((AssertionError, Error)):
            check(page)
