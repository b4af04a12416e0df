"""What a check finds: a level and one line. Needs the standard library only."""

from typing import NamedTuple

OK, NOTE, PROBLEM = "ok", "note", "problem"
MOST_LINES = 10  # of one kind in the terminal


class Finding(NamedTuple):
    """One line of a check.

    Attributes:
        level: OK, NOTE or PROBLEM.
        text: in the grammar of error messages if it is a problem.
        rows: further examples, for the page.
        shown: slices to draw in the page, a list of (common.slices.checks.Checked, caption).
    """

    level: str
    text: str
    rows: tuple = ()
    shown: tuple = ()


def in_line(finding):
    """A finding as a line of the terminal."""
    return f"{finding.level:<8} {finding.text}"


def as_findings(problems, more="more problems of this kind; mend these first"):
    """Messages of errors as findings, at most MOST_LINES and one for the rest.

    Args:
        problems: list of str; further lines of a message begin with two spaces.
        more: text after the number of the others.
    """
    findings = []
    for problem in problems[:MOST_LINES]:
        first, *lines = problem.split("\n  ")
        findings.append(Finding(PROBLEM, f"{first} {'; '.join(lines)}".strip(), tuple(lines)))
    rest = problems[MOST_LINES:]
    return findings + ([Finding(PROBLEM, f"{len(rest)} {more}", tuple(rest))] if rest else [])
