"""What is odd in a data set that can be read: too few cases, leaks, and masks that are empty, inverted or shifted."""

import numpy as np

from common.checking.findings import NOTE, OK, PROBLEM, Finding
from common.checking.leaks import MOST_CANDIDATES, find_alike, find_candidates, find_equal
from common.slices.drawing import evenly_spaced
from common.slices.shifts import in_words
from common.words import number_of

FEWEST_CASES = 5  # shares of 0.2 and 0.1 are a case each
MOST_ROWS = 1000  # examples of a finding in the page
SHOWN = 6  # slices of a finding, or pairs of them, to draw
# An inverted mask covers more than half of its slice, and mostly its whole border. Single ones are odd only if the
# other masks hardly touch the border (tiles of large structures do), or if gray levels are swapped too.
COVERED, WHOLE_BORDER, HARDLY = 0.5, 0.95, 0.5
FEWEST_OTHERS, AGREEING = 5, 0.9  # masks, and the fraction of them with foreground darker, or brighter
SWAP = 'swap foreground and background at import, such as with --mask-values "{0: 255}"'


def find_suspicions(facts, classes):
    """Yield a Finding for everything that is odd.

    Args:
        facts: DataFacts with at least one slice.
        classes: number of classes; None if unknown.
    """
    yield from find_few_cases(facts.slices)
    yield from find_empty(facts.slices)
    yield from find_rare_classes(facts, classes)
    yield from find_inverted(facts.slices, facts.frames, facts.contrasts)
    yield from find_shifted(facts.slices, facts.alignment)
    yield from find_leaks(facts.slices, facts.signatures)


def name_of(path):
    """Path of a slice or mask in its data set: "case01/x/0001.png"."""
    return "/".join(path.parts[-3:])


def find_few_cases(slices):
    """Findings about the number of cases."""
    count = len({s.case for s in slices})
    if count == 1:
        text = "CASES: only one case, so each list is a run of neighboring slices (found 1, expected at least 5)"
        return [Finding(NOTE, f"{text}; scores on them are too good for other patients")]
    if count < FEWEST_CASES:
        text = f"CASES: few cases for validation and test (found {count}, expected at least {FEWEST_CASES})"
        return [Finding(NOTE, f"{text}; use --test-share 0 in step 2, or cross-validate with --folds")]
    return []


def find_empty(slices):
    """Findings about empty masks."""
    filled = {s.case for s in slices if s.foreground}
    if not filled:
        text = f"CASES: all masks are empty (found {number_of(len(slices), 'mask')} without foreground)"
        return [Finding(PROBLEM, f"{text}; import them again, with --mask-values or --label-values if values differ")]
    cases = list(dict.fromkeys(s.case for s in slices))
    empty = [case.name for case in cases if case not in filled]
    if not empty:
        return []
    text = f"{empty[0]}: all masks of the case are empty (found {number_of(len(empty), 'such case')} of {len(cases)})"
    return [Finding(NOTE, f"{text}; right for patients without the target", tuple(empty[:MOST_ROWS]))]


def find_rare_classes(facts, classes):
    """Findings about classes in no mask, or in those of one case only."""
    findings = []
    if len({s.case for s in facts.slices}) == 1 or not facts.cases_of:
        return findings
    for number in range(1, (classes or max(facts.cases_of)) + 1):
        cases = facts.cases_of.get(number, set())
        if not cases:
            text = f"class {number}: in no mask (found up to class {classes})"
            findings.append(Finding(NOTE, f"{text}; number the classes from 1 without gaps"))
        elif len(cases) == 1:
            text = f"class {number}: only in one case (found in {min(cases)})"
            findings.append(Finding(NOTE, f"{text}; a network cannot learn it and be tested on it: add cases"))
    return findings


def find_inverted(slices, frames, contrasts):
    """Findings about masks whose foreground and background may be swapped.

    Args:
        slices: list of Checked.
        frames: fraction of the border of each mask that is foreground.
        contrasts: mean gray level of foreground minus background in each slice; 0 without one of them.
    """
    filled = [i for i, s in enumerate(slices) if s.foreground]
    large = [i for i in filled if slices[i].foreground > COVERED]
    median = np.median([slices[i].foreground for i in filled]) if filled else 0
    covering = [i for i in large if frames[i] >= WHOLE_BORDER]
    if len(covering) > len(filled) / 2:
        found = f"found foreground on {median:.0%} of the median mask, and on the whole border of {len(covering)} of"
        text = f"CASES: masks may be inverted ({found} {number_of(len(filled), 'mask')} with foreground)"
        return [_inverted(f"{text}; {SWAP}", [slices[i] for i in covering])]
    if covering and np.percentile([frames[i] for i in filled if i not in set(covering)], 95) >= HARDLY:
        covering = []
    odd = sorted({*covering, *_of_other_contrast(slices, contrasts, filled)})
    if odd:
        first = slices[odd[0]]
        cases = {slices[i].case.name for i in odd}
        what = f"{first.case.name}: masks" if len(odd) > len(cases) == 1 else f"{name_of(first.y)}: mask"
        found = f"found foreground on {first.foreground:.0%} of {name_of(first.y)}, unlike in the other masks"
        count = f"{len(odd)} such of {number_of(len(filled), 'mask')}"
        return [_inverted(f"{what} may be inverted ({found}; {count}); {SWAP}", [slices[i] for i in odd])]
    if median > COVERED:
        text = f"CASES: masks may be inverted (found foreground on {median:.0%} of the median mask)"
        return [Finding(NOTE, f"{text}; if the target is not that large, {SWAP}")]
    return []


def _of_other_contrast(slices, contrasts, filled):
    """Indices of large masks that would be like the small ones if they were inverted: in size and brightness."""
    small = [i for i in filled if slices[i].foreground <= COVERED and contrasts[i]]
    brighter = sum(contrasts[i] > 0 for i in small)
    if len(small) < FEWEST_OTHERS or max(brighter, len(small) - brighter) < AGREEING * len(small):
        return []
    sign = 1 if brighter > len(small) / 2 else -1
    sizes = [slices[i].foreground for i in small]
    large = [i for i in filled if slices[i].foreground > COVERED]
    odd = [i for i in large if contrasts[i] * sign < 0 and min(sizes) <= 1 - slices[i].foreground <= max(sizes)]
    return odd if len(odd) < len(small) / 2 else []


def _inverted(text, slices):
    rows = tuple(f"{name_of(s.y)}: {s.foreground:.0%} foreground" for s in slices[:MOST_ROWS])
    shown = tuple((s, f"{name_of(s.y)}, {s.foreground:.0%} foreground") for s in evenly_spaced(slices, SHOWN))
    return Finding(PROBLEM, text, rows, shown)


def find_shifted(slices, alignment):
    """Findings about masks that do not lie on the edges of their images.

    Args:
        slices: list of Checked.
        alignment: `common.slices.shifts.Alignment` of all of them.
    """
    offset, cases = alignment.finish(), alignment.shifted
    advice = "look at the outlines in the page, and import images and masks again"
    if offset:
        return [_shift("CASES: masks", offset, [s for s in slices if s.foreground], advice)]
    findings = []
    for case, of_case in cases.items():
        filled = [s for s in slices if s.foreground and s.case.name == case]
        findings.append(_shift(f"{case}: masks of the case", of_case, filled, advice))
    return findings


def _shift(what, offset, slices, advice):
    down, right, stronger = offset
    found = f"found edges {stronger:.1f} times as strong if the outlines move {in_words(down, right)}"
    shown = tuple((s, f"{s.case.name} {s.name}") for s in evenly_spaced(slices, SHOWN))
    return Finding(PROBLEM, f"{what} may be shifted ({found}); {advice}", (), shown)


def find_leaks(slices, signatures):
    """Findings about images that are in two cases, which would be in training and test."""
    if len({s.case for s in slices}) == 1:
        return []
    advice = "remove the copy, or make one case of both"
    findings = []
    pairs = find_candidates(slices, signatures)
    if len(pairs) == MOST_CANDIDATES:
        text = f"leaks: very many slices of different cases look alike (found at least {MOST_CANDIDATES:,} pairs)"
        findings.append(Finding(NOTE, f"{text}; only the most similar ones were compared"))
    kinds = {"the same image as": find_equal(slices), "nearly the same image as": find_alike(slices, pairs)}
    for what, leaks in kinds.items():
        if not leaks:
            continue
        first, second, correlation = leaks[0]
        found = f"found {number_of(len(leaks), 'such pair')} of slices in two cases, correlation {correlation:.3f}"
        rows = [f"{name_of(b.x)}: {name_of(a.x)}, correlation {c:.3f}" for a, b, c in leaks[:MOST_ROWS]]
        shown = [(s, name_of(s.x)) for leak in leaks[:SHOWN] for s in leak[:2]]
        text = f"{name_of(second.x)}: {what} {name_of(first.x)} ({found}); {advice}"
        findings.append(Finding(PROBLEM, text, tuple(rows), tuple(shown)))
    return findings or [Finding(OK, "leaks: no image is in two cases")]
