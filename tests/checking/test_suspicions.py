"""What is odd in a data set: cases, classes, empty and inverted masks."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from common.checking.findings import NOTE, PROBLEM, as_findings, in_line
from common.checking.suspicions import find_empty, find_few_cases, find_inverted, find_rare_classes
from common.slices.checks import Checked


def slices_of(shares, per_case=3):
    """Checked slices with foreground on these shares of their masks."""
    slices = []
    for i, share in enumerate(shares):
        case, name = Path(f"case{i // per_case + 1}"), f"{i:04d}"
        values = frozenset({0, 255} if 0 < share < 1 else {255} if share else {0})
        files = case / "x" / f"{name}.png", case / "y" / f"{name}.png"
        slices.append(Checked(case, name, *files, "", 64, 8, values, share, b""))
    return slices


def test_few_cases():
    assert find_few_cases(slices_of([0.1] * 15)) == []
    (one,), (few,) = (find_few_cases(slices_of([0.1] * count)) for count in (3, 12))
    assert one.level == few.level == NOTE and "only one case" in one.text and "(found 4, expected" in few.text


def test_empty_masks():
    (finding,) = find_empty(slices_of([0.0] * 6))
    assert finding.level == PROBLEM and "all masks are empty (found 6 masks" in finding.text
    (finding,) = find_empty(slices_of([0.1] * 3 + [0.0] * 3 + [0.1, 0.0, 0.0]))
    assert finding.level == NOTE and finding.text.startswith("case2: all masks of the case are empty")
    assert find_empty(slices_of([0.1, 0.0, 0.0] * 3)) == []


def test_classes_in_one_case_or_none():
    facts = SimpleNamespace(slices=slices_of([0.1] * 9), cases_of={1: {"case1", "case2"}, 3: {"case2"}})
    missing, rare = find_rare_classes(facts, 3)
    assert missing.text.startswith("class 2: in no mask")
    assert rare.text.startswith("class 3: only in one case (found in case2)")
    facts.cases_of = {1: {"case1", "case2"}}
    assert find_rare_classes(facts, 1) == []


NORMAL = [0.05, 0.1, 0.0, 0.2, 0.15, 0.1, 0.0, 0.05, 0.3]


def test_an_inverted_set():
    slices = slices_of([1 - share for share in NORMAL])
    (finding,) = find_inverted(slices, [1.0] * 9, [-30.0] * 9)
    assert finding.level == PROBLEM and finding.text.startswith("CASES: masks may be inverted")
    assert "whole border of 9 of 9 masks" in finding.text and len(finding.rows) == 9 and finding.shown
    assert find_inverted(slices_of(NORMAL), [0.0] * 9, [30.0] * 9) == []


def test_a_single_inverted_mask_and_an_inverted_case():
    shares, frames, contrasts = list(NORMAL), [0.0] * 9, [30.0] * 9
    shares[4], frames[4], contrasts[4] = 0.85, 1.0, -30.0
    (finding,) = find_inverted(slices_of(shares), frames, contrasts)
    assert finding.level == PROBLEM and finding.text.startswith("case2/y/0004.png: mask may be inverted (found")
    shares[3:6], frames[3:6] = [0.8, 0.85, 1.0], [1.0, 1.0, 1.0]
    (finding,) = find_inverted(slices_of(shares), frames, contrasts)
    assert finding.text.startswith("case2: masks may be inverted") and "3 such of" in finding.text


def test_structures_that_touch_the_border_are_not_inverted():
    """Tiles of a large organ: some are full, others half full."""
    shares = [0.1, 0.5, 1.0, 0.9, 0.3, 0.0, 0.7, 0.2, 0.4]
    assert find_inverted(slices_of(shares), [0.2, 0.5, 1.0, 1.0, 0.3, 0.0, 0.7, 0.2, 0.4], [30.0] * 9) == []


def test_an_inverted_mask_of_structures_that_touch_the_border():
    """Membranes: gray levels are swapped as well, and the size is right if foreground and background are."""
    shares, contrasts = [0.2, 0.25, 0.22, 0.3, 0.21, 0.78], [-30.0] * 5 + [30.0]
    frames = [0.25] * 5 + [0.77]
    (finding,) = find_inverted(slices_of(shares), frames, contrasts)
    assert finding.text.startswith("case2/y/0005.png: mask may be inverted (found foreground on 78%")
    assert find_inverted(slices_of(shares), frames, [-30.0] * 6) == []  # a large structure


def test_large_targets_are_a_note():
    (finding,) = find_inverted(slices_of([0.7] * 6), [0.7] * 6, [30.0] * 6)
    assert finding.level == NOTE and "70% of the median mask" in finding.text
    assert find_inverted(slices_of([0.0] * 6), [0.0] * 6, np.zeros(6)) == []


def test_many_problems_are_ten_lines_and_a_count():
    findings = as_findings([f"{i}.png is bad" for i in range(14)])
    assert len(findings) == 11 and findings[-1].text.startswith("4 more problems") and len(findings[-1].rows) == 4
    (finding,) = as_findings(["2 files have no partner:\n  a.png: no mask\n  b.png: no mask"])
    assert in_line(finding) == "problem  2 files have no partner: a.png: no mask; b.png: no mask"
