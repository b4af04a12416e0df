"""Compare runs on one page: scores with intervals, settings that differ, and curves.

    python compare_runs.py --runs runs

Reads   RUNS: folder of run folders, cross-validations and studies; or one cross-validation or
        study of tune.py; only what they recorded
Writes  RUNS/index.html, or OUTPUT
Takes   about two seconds for 100 runs
Expect  a page whose tables sort by a click, and link to the report of each run

Run it again at any time: it replaces the page that it made before, and no other file. A run that
is damaged or has not ended is a row with the reason.
"""

from common import setting_types as types
from common.settings import apply_command_line, require_folder

RUNS: types.PathName = "runs"  # folder of runs; or one cross-validation or study
OUTPUT: str = ""  # .html file to write; "": index.html in RUNS

settings = apply_command_line(globals())

from pathlib import Path

from common.errors import InputError
from common.evaluation.comparison import compare
from common.evaluation.comparison_page import NAME, entry_table, write_comparison
from common.streams import print_lines
from common.words import number_of

ROWS = 15  # in the terminal
SHOWN = ("dice", "95% interval", "dice over cases", "epoch", "epochs", "minutes", "status")  # columns there


def main():
    folder = require_folder(settings.RUNS, "RUNS")
    output = Path(settings.OUTPUT or folder / NAME)
    if output.suffix.lower() not in (".html", ".htm") or output.is_dir():
        raise InputError(f"OUTPUT: expected an .html file (found {settings.OUTPUT}); add .html to the name")
    sections, others = compare(folder)
    write_comparison(output, folder, sections)
    print_table(sections[0])
    if others:
        listed = ", ".join(others[:10]) + (", ..." if len(others) > 10 else "")
        print(f"skipped {number_of(len(others), 'folder')} without a run: {listed}")
    summaries = sum(section.summary is not None for section in sections[1:])
    runs = sum(len(section.entries) for section in sections) - summaries
    print(f"wrote {output} (runs: {runs})")


def print_table(section):
    """Print the best entries of a section, and how many others there are."""
    table = entry_table(section)
    table = table[[table.columns[0], *(name for name in SHOWN if name in table)]]
    print_lines(table.head(ROWS).map(in_short).to_string(index=False))
    if len(table) > ROWS:
        unknown = sum(entry.dice is None for entry in section.entries)
        print(f"the best {ROWS} of {len(table)}" + (f"; without a score: {unknown}" if unknown else ""))


def in_short(value):
    if value is None:
        return "-"
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


if __name__ == "__main__":
    main()
