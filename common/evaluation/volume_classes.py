"""Label volumes of one side of an evaluation, and the numbers of their classes."""

import re
from pathlib import Path
from typing import NamedTuple

from common.errors import InputError, SettingError, summarize
from common.slices.classes import MOST_OVERLAPPING, OVERLAPPING
from common.slices.regions import Regions
from common.volumes.label_files import doubled_segment
from common.volumes.segments import Numbering, as_key, describe, require_names

UNNAMED = re.compile(r"(class )?\d+")  # what predict.py calls a class without a name


class Labels(NamedTuple):
    """Label files of one volume on one side.

    Attributes:
        files: dict of Path to list of `common.volumes.segments.Segment`; the list is empty for a volume of numbers.
        case: name of the case; of a true volume "".
        scan: Path of the volume that the labels belong to, or None.
        series: number of its series, if it is a folder with several, or None.
        numbering: `common.volumes.segments.Numbering` of the segments, or None.
        overlap: how the classes share voxels; see `common.slices.classes`.
        regions: `common.slices.regions.Regions` of the numbers in a volume; None: numbers are classes.
    """

    files: dict
    case: str = ""
    scan: Path | None = None
    series: int | None = None
    numbering: Numbering | None = None
    overlap: str = ""
    regions: Regions | None = None

    @property
    def path(self):
        """Path of the first file."""
        return next(iter(self.files))

    @property
    def segments(self):
        """All segments of the files, a list."""
        return [segment for segments in self.files.values() for segment in segments]


def with_numbers(predicted, true, classes, recorded, overlap):
    """Give the segments of both sides the same class numbers.

    Args:
        predicted, true: dicts of name to Labels.
        classes: setting CLASSES, names in class order, or None.
        recorded: names of the classes of predict.py, [] if unknown.
        overlap: how the classes of predict.py share voxels; see `common.slices.classes`.

    Returns:
        list of both dicts, with numbering and overlap.

    Raises:
        SettingError: if a name in `classes` is on neither side.
        InputError: if no class of one side has the name of a class.
    """
    names_in = [_names_in(side) for side in (predicted, true)]
    if not any(names_in):
        if classes:
            raise SettingError("CLASSES: no names in the label files (found numbers only); remove it")
        return [{n: labels._replace(overlap=overlap) for n, labels in side.items()} for side in (predicted, true)]
    if all(map(UNNAMED.fullmatch, recorded)):
        recorded = []
    if classes:
        _require_classes(classes, names_in, recorded)
    names = list(classes or recorded or (names_in[1] | names_in[0]).values())
    own = [names, names]
    if not classes and len(names_in[0] or recorded) < 2 and len(names_in[1]) < 2:  # one class, whatever its name is
        own = [list(side.values()) or names[:1] for side in names_in]
    elif all(names_in) and not classes and not names_in[0].keys() & names_in[1].keys():
        found, expected = (", ".join(side.values()) for side in names_in)
        raise InputError(
            f"PREDICTED: no segment has the name of one in TRUTH (found {found}; expected {expected}); rename them"
        )
    shared = OVERLAPPING if 1 < len(own[0]) <= MOST_OVERLAPPING else ""
    found = []
    for side, numbers, name in zip((predicted, true), own, ("PREDICTED", "TRUTH"), strict=True):
        numbering = Numbering(dict(enumerate(numbers, 1)), None, bool(shared))
        _print_classes(name, side, numbering)
        how = {"numbering": numbering, "overlap": shared and ((overlap if name == "PREDICTED" else "") or shared)}
        found.append({key: labels._replace(**how) for key, labels in side.items()})
    return found


def _require_classes(classes, names_in, recorded):
    """Raise SettingError if a name in CLASSES is on neither side.

    Predicted numbers may be of a class that no true file contains, unless one there has a name that is not in CLASSES.

    Args:
        classes: setting CLASSES.
        names_in: for each side, dict of comparable name to name of its segments.
        recorded: names of the classes of predict.py, [] if unknown.
    """
    known = names_in[1] | names_in[0] | {as_key(name): name for name in recorded}
    if names_in[0] or names_in[1].keys() - set(map(as_key, classes)):
        require_names(classes, known)


def recorded_regions(value):
    """Regions in prediction.json, dict of name to list of label numbers; None if there are none, or it is damaged."""
    lists = list(value.values()) if isinstance(value, dict) else []
    is_right = all(isinstance(numbers, list) and all(n in range(1, 100) for n in numbers) for numbers in lists)
    return value if lists and is_right else None


def with_regions(predicted, true, regions, recorded):
    """Make classes regions of the numbers in TRUTH; in PREDICTED too, unless they are classes of predict.py or named.

    Args:
        predicted, true: dicts of name to Labels, of `with_numbers`.
        regions: `common.slices.regions.Regions`.
        recorded: names of the classes of predict.py, [] if unknown.

    Returns:
        list of both dicts.

    Raises:
        SettingError: if true volumes have segments, or classes of predict.py have other names or another order.
    """
    if any(labels.segments for labels in true.values()):
        raise SettingError("REGIONS: for label volumes of numbers (found segments with names in TRUTH); remove it")
    named = [] if all(map(UNNAMED.fullmatch, recorded)) else recorded
    if named and regions.names and [*map(as_key, named)] != [*map(as_key, regions.names)]:
        found, expected = ", ".join(regions.names), ", ".join(named)
        raise SettingError(
            f"REGIONS: PREDICTED has other classes (found {found}; expected {expected}); use its names, in this order"
        )
    how = {"overlap": regions.overlap, "regions": regions}
    return [
        {
            n: labels._replace(**how if not (labels.overlap or labels.segments) else {})
            for n, labels in predicted.items()
        },
        {n: labels._replace(**how) for n, labels in true.items()},
    ]


def _print_classes(setting, side, numbering):
    """Print the classes of a side; raise InputError if none is a class, or one is in two files."""
    files = {name: labels.segments for name, labels in side.items() if labels.segments}
    if not files:
        return
    if problems := [text for labels in side.values() if (text := doubled_segment(labels.files, numbering))]:
        raise InputError(summarize(problems, "volumes have files with the same segment"))
    if not any(numbering.of(segment) for segments in files.values() for segment in segments):
        found, expected = (", ".join(names.values()) for names in (_names_in(side), numbering.names))
        raise InputError(
            f"{setting}: no segment has the name of a class (found {found}; expected {expected}); set CLASSES, or "
            "rename the segments"
        )
    print(f"{setting}: {describe(files, numbering)}", flush=True)
    found = {numbering.of(segment) for segments in files.values() for segment in segments}
    if absent := [name for number, name in numbering.names.items() if number not in found]:
        print(f"note: {setting} has no {', '.join(absent[:10])}{', ...' * (len(absent) > 10)}; scored as empty there")


def _names_in(side):
    """dict of comparable name to name of the segments of a side."""
    names = {}
    for labels in side.values():
        for segment in labels.segments:
            names.setdefault(as_key(segment.name), segment.name)
    return names
