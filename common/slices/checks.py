"""Check the slices of case folders with their masks: what step 2 refuses."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError, summarize
from common.files import natural_key
from common.parallel import ordered_map, progress
from common.slices.case_files import read_case_record
from common.slices.cases import pair_up
from common.slices.classes import is_target, type_of_masks
from common.slices.finding import report_skipped
from common.slices.images import read_pair, with_channels
from common.slices.masks import check_mask_values, class_count_of_files, values_of
from common.slices.preparation import common_preparation, count_classes


class Pair(NamedTuple):
    """Files of a slice and its mask."""

    case: Path
    name: str
    x: Path
    y: Path
    group: str  # slices that must stay in one list: the tiles of one image
    overlap: str = ""  # how classes share pixels: "overlapping", "nested" or ""


class Checked(NamedTuple):
    """A slice with its mask, as found on disk."""

    case: Path
    name: str
    x: Path
    y: Path
    group: str
    size: int
    bits: int
    values: frozenset  # of the mask
    foreground: float  # fraction of the slice
    digest: bytes = b""  # of the image; empty for an image of one gray level
    channels: int = 1
    overlap: str = ""


def check_data(cases, where):
    """Read every slice and mask.

    Args:
        cases: list of Paths.
        where: their folder, for messages.

    Returns:
        list of Checked.

    Raises:
        InputError: if a file is unreadable, a partner is missing, sizes or bit depths differ, or mask values are
            invalid.
    """
    problems = []
    pairs = find_pairs(cases, problems)
    checked = ordered_map(check_slice, pairs, problems=problems)
    slices = [result for result in progress(checked, len(pairs), "checking") if result]
    if problems:
        raise InputError(summarize(problems, "problems in the data set"))
    if differences := find_differences(slices, where):
        raise InputError(differences[0])
    return slices


def find_pairs(cases, problems):
    """Match the slices and masks of cases, in natural order, and print what was skipped.

    Args:
        cases: list of Paths.
        problems: list that collects messages of cases that cannot be used, such as files without a partner.

    Returns:
        list of Pair.
    """
    pairs, skipped = [], []
    for case in cases:
        try:
            record = read_case_record(case)
            slices, overlap = record.get("slices", {}), record.get("overlap") or ""
            found = pair_up(case / "x", case / "y", case, skipped)
        except InputError as error:
            problems.append(str(error))
            continue
        for name, x, y in sorted(found, key=lambda pair: natural_key(pair[0])):
            pairs.append(Pair(case, name, x, y, f"{case}/{slices.get(name, {}).get('image') or name}", overlap))
    report_skipped(skipped)
    return pairs


def check_slice(pair):
    """Read a Pair: Checked. Raises InputError as `common.slices.images.read_pair` and `check_mask_values`."""
    return check_images(pair, *read_pair(pair.x, pair.y, mask_type=type_of_masks(pair.overlap)))


def check_images(pair, image, mask):
    """Checked of a Pair that has been read, (H, H) or (H, H, C) uint8 or uint16 and (H, H) uint8 or, for overlapping
    classes, uint16.

    Raises:
        InputError: if mask values are invalid.
    """
    values = frozenset(values_of(mask))
    if not pair.overlap:
        check_mask_values(values, pair.y)
    digest = hashlib.blake2b(image, digest_size=16).digest() if np.ptp(image) else b""
    channels = with_channels(image).shape[2]
    facts = values, float(is_target(mask).mean()), digest, channels, pair.overlap
    return Checked(*pair[:5], len(image), 8 * image.itemsize, *facts)


def count_classes_of(slices, where):
    """Number of classes in a list of Checked; an error lists the masks that do not fit the others.

    Args:
        slices: list of Checked.
        where: folder of their cases.
    """
    if not slices[0].overlap:
        return class_count_of_files({s.y: s.values for s in slices}, where)
    values = set().union(*(s.values for s in slices))
    return count_classes(values, where, common_preparation({"x": [s.x for s in slices]}))


def find_differences(slices, where):
    """Messages for what all slices of a set must share and do not; also if there are none.

    Args:
        slices: list of Checked.
        where: folder of their cases.
    """
    if not slices:
        return [f"CASES: no slices in {where}; import some with 0_import_images.py"]
    messages = []
    shared = ("side length", "size"), ("bit depth", "bits"), ("number of channels", "channels")
    for what, attribute in (*shared, ("how classes overlap", "overlap")):
        found = {getattr(s, attribute): s for s in slices}
        if len(found) > 1:
            examples = ", ".join(f"{value or 'exclusive'} in {s.x}" for value, s in sorted(found.items()))
            messages.append(f"CASES: slices differ in {what} (found {examples}); import all with the same settings")
    return messages
