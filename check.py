"""Check whether this machine is ready to train, and whether a data set is.

    python check.py --cases data/mine

Reads   CASES/<case>/x and y from step 0, if set
Writes  OUTPUT, a page with all findings, plots of the data set and slices to look at
Takes   about 20 s for the machine, and 5 s per 1,000 slices of 256x256 on two cores

Prints a line for each finding. Problems are to be solved before you train, and the exit status is
then 1; notes are to be known. It starts with the standard library alone, so that it can tell which
packages are missing.
"""

from common.checking.packages import require_packages

if __name__ == "__main__":
    require_packages()

from common import setting_types as types
from common.settings import apply_command_line

# --- input and output
CASES: str = ""  # folder that contains the case folders; "": check only the machine
OUTPUT: types.PageName = "check.html"  # page to write
REPLACE: bool = False  # True: overwrite an existing page

# --- machine
STEP: bool = True  # False: do not import Keras, and try no training step

settings = apply_command_line(globals())

from itertools import chain
from pathlib import Path

from common.checking.findings import NOTE, PROBLEM, in_line
from common.checking.machine import check_backend, check_disk, check_processor, check_step
from common.checking.packages import check_imports, check_packages, check_python
from common.devices import environment
from common.errors import InputError
from common.public_settings import without_own_paths
from common.replacing import new_file, refuse_existing
from common.settings import require_folder
from common.streams import one_line
from common.words import number_of


def main():
    refuse_existing(settings.OUTPUT, settings.REPLACE)
    if settings.CASES:
        require_folder(settings.CASES, "CASES")
    places = {"the page": Path(settings.OUTPUT).parent, "results": "."}
    machine = report(check_python(), check_packages(), check_processor(), check_disk(places))
    refuse_broken(report(check_imports(heavy=False)), "do what it says above")
    # these import packages that are known to work only now
    from common.checking.data_set import DataCheck
    from common.checking.page import write_check

    data = DataCheck(settings.CASES)
    if settings.STEP:
        print("importing Keras and trying a training step", flush=True)
        refuse_broken(report(check_imports(heavy=True)), "do what it says above, or pass --no-step for the data alone")
        machine += report(check_step(), check_backend())
    sections = {"This machine": machine, "The data": report(data.findings())}
    title = f"Check of {without_own_paths(settings.CASES)}" if settings.CASES else "Check of this machine"
    with new_file(settings.OUTPUT, settings.REPLACE) as unfinished:
        write_check(unfinished, title, sections, data, environment(with_backend=settings.STEP))
    levels = [finding.level for findings in sections.values() for finding in findings]
    print(f"wrote {settings.OUTPUT} (problems: {levels.count(PROBLEM)}, notes: {levels.count(NOTE)})")
    if PROBLEM in levels:
        count = number_of(levels.count(PROBLEM), "problem")
        raise InputError(f"{settings.OUTPUT}: not ready to train (found {count}); solve what it says, and check again")


def refuse_broken(findings, advice):
    if findings:
        raise InputError(f"packages: some cannot be imported (found {len(findings)}); {advice}")


def report(*groups):
    """Print findings as they come, a line for each, and return them as a list."""
    findings = []
    for finding in chain(*groups):
        print(one_line(in_line(finding)), flush=True)
        findings.append(finding)
    return findings


if __name__ == "__main__":
    main()
