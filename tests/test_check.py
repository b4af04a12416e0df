"""check.py on good and bad sets: what it prints, its exit status and its page."""

import shutil

import cv2
import numpy as np
import pytest
from browsing import MODES, check_page, opened
from drawings import disc_slice, make_cases, write_image
from running import assert_refused, leftovers, run_here, run_script

from common.slices.images import read_mask, read_slice


def levels(result):
    """Lines of findings by level."""
    lines = result.stdout.splitlines()
    return {level: [line[9:] for line in lines if line.startswith(f"{level:9}")] for level in ("ok", "note", "problem")}


def change_masks(case, change):
    for path in sorted((case / "y").glob("*.png")):
        write_image(path, change(read_mask(path)))


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """Result and page of a set with a problem in almost every case."""
    root = tmp_path_factory.mktemp("bad")
    cases = make_cases(root / "cases", cases=8, slices=6, size=96)
    change_masks(cases / "case03", lambda mask: np.roll(mask, 8, 0))
    path = cases / "case04" / "y" / "0002.png"
    write_image(path, 255 - read_mask(path))
    shutil.copy(cases / "case01" / "x" / "0003.png", cases / "case05" / "x" / "0001.png")
    copy = np.clip(read_slice(cases / "case02" / "x" / "0004.png") * 1.1 + 9, 0, 255).astype(np.uint8)
    copy = cv2.imdecode(cv2.imencode(".jpg", copy, [cv2.IMWRITE_JPEG_QUALITY, 80])[1], cv2.IMREAD_GRAYSCALE)
    write_image(cases / "case06" / "x" / "0002.png", copy)
    change_masks(cases / "case07", lambda mask: mask * 0)
    (cases / "case08" / "x" / "0006.png").unlink()
    result = run_here("check.py", CASES=cases, OUTPUT=root / "check.html", STEP=False, expect=1)
    return result, root / "check.html"


def test_everything_odd_is_reported_in_one_line_each(bad):
    result, _ = bad
    found = levels(result)
    expected = {
        "case03: masks of the case may be shifted (found edges": "8 pixels up",
        "case04/y/0002.png: mask may be inverted (found foreground on": "1 such of",
        "case05/x/0001.png: the same image as case01/x/0003.png (found 1 such pair": "correlation 1.000",
        "case06/x/0002.png: nearly the same image as case02/x/0004.png (found 1 such pair": "correlation 0.9",
    }
    for beginning, words in expected.items():
        (line,) = [line for line in found["problem"] if line.startswith(beginning)]
        assert words in line and "; " in line
    assert any("0006.png: no image in" in line for line in found["problem"])
    assert len(found["problem"]) == 5
    assert any(line.startswith("case07: all masks of the case are empty") for line in found["note"])
    assert result.stderr.splitlines() == [
        f"check.py: error: {bad[1]}: not ready to train (found 5 problems); solve what it says, and check again"
    ]


@pytest.mark.parametrize(("width", "scheme"), MODES)
def test_the_page_in_a_browser(browser, bad, width, scheme):
    check_page(browser, bad[1], width, scheme)


def test_the_page_shows_findings_plots_and_slices(browser, bad):
    with opened(browser, bad[1]) as page:
        assert page.locator("img.plot").count() == 3 and page.locator("tr.problem").count() == 5
        assert page.evaluate("[...document.querySelectorAll('img.plot')].every(i => i.alt.length > 20)")
        captions = page.locator(".pictures figcaption").all_inner_texts()
        assert {"case05/x/0001.png", "case01/x/0003.png", "case03 0001"} <= set(captions)
        assert page.locator("table.sorted tbody tr").count() == 7  # without the case whose files have no partner


def test_the_page_contains_no_path_of_this_machine(bad):
    text = bad[1].read_text(encoding="utf-8")
    assert str(bad[1].parent) not in text and "case05/x/0001.png" in text


def test_a_good_set_has_no_problem_in_a_process_of_its_own(tmp_path):
    cases = make_cases(tmp_path / "cases", cases=6, slices=6, size=64, classes=2, empty=True)
    result = run_script("check.py", CASES=cases, OUTPUT=tmp_path / "check.html", STEP=False)
    found = levels(result)
    assert not result.stderr and not found["problem"] and not [line for line in found["note"] if "pack" not in line]
    assert "data: 36 slices of 64x64, 8 bits, 2 classes, in 6 cases, 6 empty masks" in found["ok"]
    assert "problems: 0" in result.stdout.splitlines()[-1]
    assert not leftovers(tmp_path)


def test_the_machine_alone_and_an_existing_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run_here("check.py", "--no-step")
    assert (tmp_path / "check.html").is_file() and any(line.startswith("disk: ") for line in levels(result)["ok"])
    assert_refused("check.py", "check.html: already exists", STEP=False)
    run_here("check.py", "--no-step", "--replace")
    assert_refused("check.py", "OUTPUT", status=2, STEP=False, OUTPUT="check")


def test_what_step_2_refuses_is_reported_whole(tmp_path):
    """Step 2 stops at the first kind; here all of them are lines."""
    cases = make_cases(tmp_path / "cases", cases=3, slices=3, size=24)
    (cases / "case01" / "x" / "0001.png").write_bytes(b"")
    path = cases / "case01" / "y" / "0002.png"
    write_image(path, read_mask(path) // 2 + 100)
    for side, image in zip("xy", disc_slice(32, 9), strict=True):
        write_image(cases / "case02" / side / "0001.png", image)
    write_image(cases / "case03" / "y" / "0001.png", read_mask(cases / "case03" / "y" / "0001.png") // 255 * 2)
    (cases / "case03" / "case.json").write_text("{")
    result = run_here("check.py", CASES=cases, OUTPUT=tmp_path / "check.html", STEP=False, expect=1)
    problems = "\n".join(levels(result)["problem"])
    for words in ("0001.png: file is empty", "expected mask values 0 and 255", "differ in side length", "case.json"):
        assert words in problems, problems


def test_masks_of_another_set_of_values_and_only_empty_ones(tmp_path):
    cases = make_cases(tmp_path / "cases", cases=2, slices=2, size=24)
    change_masks(cases / "case01", lambda mask: mask // 255)
    result = run_here("check.py", CASES=cases, OUTPUT=tmp_path / "a.html", STEP=False, expect=1)
    assert any("expected class numbers" in line or "expected 0 and 255" in line for line in levels(result)["problem"])
    for case in cases.iterdir():
        change_masks(case, lambda mask: mask * 0)
    result = run_here("check.py", CASES=cases, OUTPUT=tmp_path / "b.html", STEP=False, expect=1)
    assert any("all masks are empty (found 4 masks" in line for line in levels(result)["problem"])
