"""Overlapping classes from class numbers: regions of several numbers, such as a whole tumor and its core."""

import itertools

import numpy as np

from common.errors import InputError
from common.slices.classes import (
    IGNORED,
    IGNORED_SET,
    MOST_OVERLAPPING,
    NESTED,
    OVERLAPPING,
    highest_class,
    sets_of_numbers,
)


class Regions:
    """The setting REGIONS.

    Args:
        setting: "nested": each class includes those with larger numbers; "overlapping": each number is a class; or a
            dict of class name to list of numbers.

    Attributes:
        names: names of the classes, [] if unknown.
        overlap: "overlapping" or "nested": whether each class includes the next.

    Raises:
        InputError: for too many regions, or for one alone.
    """

    def __init__(self, setting):
        if isinstance(setting, str):
            self.names, self.overlap, self.known = [], setting, {*range(MOST_OVERLAPPING + 1), IGNORED}
            self.table = sets_of_numbers(np.arange(256, dtype=np.uint8), nested=setting == NESTED)
            return
        if not 2 <= len(setting) <= MOST_OVERLAPPING:
            raise InputError(f"REGIONS: expected 2 to {MOST_OVERLAPPING} regions (found {len(setting)})")
        self.names, regions = list(setting), [set(numbers) for numbers in setting.values()]
        self.known = {0, IGNORED}.union(*regions)
        self.table = np.zeros(256, np.uint16)
        for index, numbers in enumerate(regions):
            self.table[list(numbers)] |= np.uint16(1 << index)
        self.table[IGNORED] = IGNORED_SET
        nested = all(later <= earlier for earlier, later in itertools.pairwise(regions))
        self.overlap = NESTED if nested else OVERLAPPING

    def sets_of(self, numbers, where):
        """Mask of overlapping classes of class numbers, (...) uint8 to uint16; IGNORED stays ignored.

        Args:
            numbers: class numbers; 255 is 1.
            where: file, for messages.

        Raises:
            InputError: for a number that is in no region.
        """
        numbers = np.where(numbers == 255, np.uint8(1), numbers)
        if unknown := sorted(set(np.unique(numbers).tolist()) - self.known):
            found = ", ".join(map(str, unknown[:8]))
            raise InputError(f"{where}: numbers in no region of REGIONS (found {found}); add them, or map them to 0")
        return self.table[numbers]

    def as_packed(self, numbers, where):
        """Labels as in packed volumes: class numbers of nested regions, sets of others; arguments as of `sets_of`."""
        sets = self.sets_of(numbers, where)
        return highest_class(sets) if self.overlap == NESTED else sets
