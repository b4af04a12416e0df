"""Check a data set: what step 2 refuses, all of it, and what is odd."""

from common.checking.facts import DataFacts
from common.checking.findings import OK, Finding, as_findings
from common.checking.machine import check_room
from common.checking.suspicions import find_suspicions
from common.errors import InputError
from common.slices.cases import find_cases
from common.slices.checks import count_classes_of, find_differences, find_pairs
from common.slices.variants import find_variants
from common.words import number_of


class DataCheck:
    """The check of a folder of case folders. Raises InputError if it contains none.

    Args:
        root: value of the setting CASES; "": no data.

    Attributes:
        root: the same.
        facts: DataFacts; None until `findings` has read the slices.
        classes: number of classes; None if unknown.
    """

    def __init__(self, root):
        self.root, self.facts, self.classes = root, None, None
        self._cases = find_cases(root) if root else []

    def findings(self):
        """Yield a Finding for everything that was checked."""
        if not self.root:
            return
        cases, problems = self._cases, []
        pairs = find_pairs(cases, problems)
        print(f"checking {number_of(len(pairs), 'slice')} in {number_of(len(cases), 'case')}", flush=True)
        self.facts = DataFacts(pairs, problems)
        slices = self.facts.slices
        yield from as_findings(problems)
        yield from as_findings(find_differences(slices, self.root))
        yield from as_findings(self._problems_of_variants(cases))
        if not slices:
            return
        try:
            self.classes = count_classes_of(slices, self.root)
        except InputError as error:
            yield from as_findings([str(error)])
        yield Finding(OK, self._in_words())
        yield from find_suspicions(self.facts, self.classes)
        yield from check_room(sum(s.size**2 * (s.bits // 8 + 1) for s in slices), ".")

    def _problems_of_variants(self, cases):
        problems = []
        for case in cases:
            try:
                find_variants(case)
            except InputError as error:
                problems.append(str(error))
        return problems

    def _in_words(self):
        slices = self.facts.slices
        size, bits, cases = slices[0].size, slices[0].bits, len({s.case for s in slices})
        classes = "" if self.classes is None else f", {number_of(self.classes, 'class', 'classes')}"
        empty = sum(not s.foreground for s in slices)
        what = (
            f"{number_of(len(slices), 'slice')} of {size}x{size}, {bits} bits{classes}, in {number_of(cases, 'case')}"
        )
        return f"data: {what}, {number_of(empty, 'empty mask')}"
