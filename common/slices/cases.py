"""Case folders (`<name with "case">/x`, `y`, `case.json`): import, find and read them."""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from common.errors import InputError, summarize
from common.files import json_text, natural_key, one_name, put_file, remove
from common.parallel import one_by_one, progress
from common.replacing import refuse_existing, whole_entries
from common.settings import require_folder
from common.slices.case_files import RECORD
from common.slices.finding import IMAGE_ENDINGS, report_skipped
from common.slices.images import images_in, slice_ending
from common.slices.lists import read_list
from common.workers import Threads

FORMAT = 1  # version of case.json


class Slice(NamedTuple):
    """A slice or mask of a set: case ("" for loose images), file name without suffix, path."""

    case: str
    name: str
    path: Path


@dataclass(frozen=True)
class CaseRecord:
    """Content of `case.json`: the origin of the slices of a case.

    Attributes:
        source: what the slices were made from; never anything that identifies a patient.
        size: side length of the slices in pixels.
        slices: dict of slice name to {"image", "mask": file names; "image_size": [height, width] of the source;
            "box": [left, top, width, height] cut from it and scaled to `size`}.
        fit: how the slices were fitted to their size ("resize", "crop", "pad", "tile"), or None.
        stretched: whether each source was stretched from its minimum to its maximum.
        mask_values: mapping of the source's mask values, or None.
        class_names: list of the name of class 1, 2 and so on, or None.
        overlap: how classes share pixels: "overlapping" or "nested"; None or "": not at all.
        channels: "rgb", a list of the patterns of the files that became channels, or None for gray slices.
        neighbors: how many slices before and after a slice of a volume are its further channels.
        spacing: [row, column] distance of the source's pixels in mm, or None.
        window: [low, high], source values mapped to black and white, or None.
        volume: entry from `common.volumes.slicing.open_slices` for slices of a volume, or None.
        pseudo_labels: entry from `common.prediction.pseudo_labels` if a model made the masks, or None.
    """

    source: str
    size: int
    slices: dict
    fit: str | None = None
    stretched: bool = False
    mask_values: dict | None = None
    channels: str | list | None = None
    neighbors: int = 0
    spacing: list | None = None
    window: list | None = None
    volume: dict | None = None
    pseudo_labels: dict | None = None
    class_names: list | None = None
    overlap: str | None = None

    def as_json(self):
        """dict to write as JSON; `read_case_record` reads it."""
        return {
            "format": FORMAT,
            "source": self.source,
            "size": self.size,
            "fit": self.fit,
            "stretched": self.stretched,
            "spacing": self.spacing,
            "origin": self.volume and self.volume["geometry"]["origin"],
            "orientation": self.volume and self.volume["geometry"]["direction"],
            "window": self.window,
            "mask_values": self.mask_values and repr(self.mask_values),
            **({"class_names": self.class_names} if self.class_names else {}),
            **({"overlap": self.overlap} if self.overlap else {}),
            **({"channels": self.channels} if self.channels else {}),
            **({"neighbors": self.neighbors} if self.neighbors else {}),
            **({"volume": self.volume} if self.volume else {}),
            **({"pseudo_labels": self.pseudo_labels} if self.pseudo_labels else {}),
            "slices": self.slices,
        }


# --- importing


class Imported(NamedTuple):
    """What an importer returns for a source, such as an image or a volume.

    Attributes:
        slices: iterable of (slice and mask as bytes of `common.slices.images.encode_slice`, entry of
            `CaseRecord.slices`).
        record: dict of CaseRecord attributes that depend on the source.
        values: set of values in its mask.
        notes: anything that the script wants to know about the source.
    """

    slices: Iterable
    record: Mapping = MappingProxyType({})
    values: Set = frozenset()
    notes: object = None


class ImportResult(NamedTuple):
    """What became of the sources.

    Attributes:
        slices, cases: how many were written.
        values: set of values of all masks.
        problems: error messages for unusable sources.
        notes: list of the notes of the usable sources, in their order.
    """

    slices: int
    cases: int
    values: set
    problems: list
    notes: list


def refuse_existing_cases(cases, replace):
    """Raise InputError if a case folder exists and must not be replaced.

    Args:
        cases: Paths of the case folders.
        replace: whether to replace existing case folders.
    """
    for case in cases:
        one_name(case.name, f"{case}: name of the case")
        refuse_existing(case, replace, cases=True)


def import_cases(sources, load, make_record, replace, *, parallel=True, workers=None, check=None, earlier=()):
    """Write case folders, all of them in one step or none; skip cases without any usable source.

    Args:
        sources: list of (Path of the case folder, source); sources of one case are adjacent and share one slice
            numbering; all case folders have the same parent.
        load: function of a source to Imported; raises InputError for an unusable source. Processes need a function of
            a module, or a partial of one, and, with `parallel`, a list of slices.
        make_record: function of `slices` and the attributes in `Imported.record` to CaseRecord.
        replace: whether to replace existing case folders.
        parallel: whether to load sources on all cores; False, for large sources: one by one, and each stays in memory
            until its slices are written.
        workers: `common.workers.Threads` or Processes, which load a few sources in each task, or, without `parallel`,
            load and write a case; None: threads.
        check: function of all mask values, and of the notes, that raises InputError for invalid ones, before the case
            folders appear.
        earlier: result of `common.slices.leftovers.find_earlier_cases`; these disappear in the same step, unless no
            source is usable.

    Returns:
        ImportResult.
    """
    counts, values, problems, notes = [], set(), [], []
    workers, names = workers or Threads(), list(dict.fromkeys(case.name for case, _ in sources))
    removed = [case.name for case in earlier]
    with whole_entries(sources[0][0].parent, names, replace, removed=lambda: removed if any(counts) else []) as new:
        for filled in (_load_and_fill if parallel else _fill_each)(sources, load, make_record, new, workers):
            counts.append(filled.slices)
            values |= filled.values
            problems += filled.problems
            notes += filled.notes
        if check:
            try:
                check(values, notes)
            except InputError as error:  # after the sources that were not usable, which may be the reason
                raise type(error)(summarize([*problems, str(error)], "problems")) from None
    return ImportResult(sum(counts), sum(map(bool, counts)), values, problems, notes)


class _Filled(NamedTuple):
    """What became of the sources of a case, as in ImportResult."""

    slices: int
    values: set
    problems: list
    notes: list


def _load_and_fill(sources, load, make_record, new, workers):
    """Load sources by workers and write the cases here; yields _Filled of each case."""
    problems = []
    loaded = workers.map(load, [source for _, source in sources], problems)
    results = zip([case for case, _ in sources], progress(loaded, len(sources), "importing"), strict=True)
    for case, of_case in itertools.groupby(results, key=lambda result: result[0]):
        notes = []
        count, found = fill_case(new / case.name, _noting((imported for _, imported in of_case), notes), make_record)
        yield _Filled(count, found, problems[:], notes)
        problems.clear()


def _fill_each(sources, load, make_record, new, workers):
    """Load and write a case after another, or in each worker; yields _Filled of each case."""
    cases = [(case, [source for _, source in of_case]) for case, of_case in itertools.groupby(sources, lambda s: s[0])]
    fill = partial(_fill_one, load=load, make_record=make_record, new=new)
    yield from progress(workers.map_large(fill, cases), len(cases), "importing")


def _fill_one(task, load, make_record, new):
    case, sources = task
    problems, notes = [], []
    loaded = _noting(one_by_one(load, sources, problems), notes)
    return _Filled(*fill_case(new / case.name, loaded, make_record), problems, notes)


def _noting(loaded, notes):
    """Pass on what could be loaded, and add its notes to a list."""
    for imported in loaded:
        if imported:
            notes.append(imported.notes)
            yield imported
        del imported  # before the next is loaded


def fill_case(folder, sources, make_record):
    """Write slices, masks and case.json into a folder of a staging folder, or remove it if there are no slices.

    Args:
        folder: Path; several processes may write the same case.
        sources: iterable of Imported.
        make_record: as `import_cases`.

    Returns:
        number of slices, and set of values in their masks.
    """
    slices, attributes, values, aside = {}, {}, set(), folder.parents[1]
    for side in ("x", "y"):
        (folder / side).mkdir(parents=True, exist_ok=True)
    for imported in sources:
        values |= imported.values
        attributes |= imported.record
        for image, mask, entry in imported.slices:
            name = f"{len(slices) + 1:04d}"
            put_file(folder / "x" / f"{name}{slice_ending(image)}", image, aside)
            put_file(folder / "y" / f"{name}.png", mask, aside)
            slices[name] = entry
    if slices:
        record = make_record(slices=slices, **attributes).as_json()
        put_file(folder / RECORD, json_text(record).encode(), aside)
    else:
        remove(folder)
    return len(slices), values


# --- reading


def is_case(folder):
    """Whether a folder contains slices and masks."""
    return (folder / "x").is_dir() and (folder / "y").is_dir()


def find_cases(root):
    """Find the case folders of a data set, in natural order; `root` may be a case folder itself.

    Args:
        root: value of the setting CASES.

    Raises:
        InputError: if there are none, or one lacks `x` or `y`.
    """
    root = require_folder(root, "CASES")
    if is_case(root):
        return [root]
    cases = [path for path in root.iterdir() if path.is_dir() and is_case_name(path.name)]
    cases.sort(key=lambda case: natural_key(case.name))
    if not cases:
        raise InputError(
            f'{root}: contains no case folder (expected "case" in its name, and x and y inside); '
            "make case folders with 0_import_images.py, or pass their parent folder as --cases"
        )
    incomplete = [f"{case}: x or y is missing; import the case again" for case in cases if not is_case(case)]
    if incomplete:
        raise InputError(summarize(incomplete, "case folders are incomplete"))
    return cases


def is_case_name(name):
    """Whether a folder with this name counts as a case folder."""
    return "case" in name.lower() and not name.startswith(".")


def as_case_name(text):
    """Turn a name into a valid case folder name."""
    return text if is_case_name(text) else f"case_{text}"


# --- slices and their masks


def match_files(first, second, missing_second, missing_first, problem):
    """Match files by key.

    Args:
        first, second: dicts of key to Path.
        missing_second: what a file in `first` lacks, for the message, such as "mask in data/masks".
        missing_first: the same for a file in `second`.
        problem: text after the number of such files, such as "masks have no partner".

    Returns:
        list of (key, Path in `first`, Path in `second`), in the order of `first`.

    Raises:
        InputError: if a file has no partner.
    """
    if alone := without_partner(first, second, missing_second) + without_partner(second, first, missing_first):
        raise InputError(summarize(alone, problem))
    return [(key, path, second[key]) for key, path in first.items()]


def without_partner(files, others, missing):
    """Error messages for the files, a dict of key to Path, whose key is missing in `others`."""
    return [f"{path}: no {missing}" for key, path in files.items() if key not in others]


def pair_up(images, masks, case, skipped=None):
    """Match the images and masks of a case by name.

    Args:
        images, masks: folders.
        case: case name for messages.
        skipped: as in `common.slices.images.images_in`.

    Returns:
        list of (name, image path, mask path).

    Raises:
        InputError: if an image has no mask or a mask no image.
    """
    missing = f"mask in {masks}", f"image in {images}"
    return match_files(
        images_in(images, skipped), images_in(masks, skipped), *missing, f"files in {case} have no partner"
    )


def different(slices, source):
    """The slices of a list; raises InputError if two have the same case and name: one result would hide the other."""
    counts = Counter((s.case, s.name) for s in slices)
    if extra := len(slices) - len(counts):
        case, name = next(key for key, count in counts.items() if count > 1)
        raise InputError(
            f"{source}: rows repeat the case and slice name of another row ({extra} of {len(slices)}, such as "
            f"{case} {name}); use a list without variants and with each slice once"
        )
    return slices


def find_slices(source, side, setting):
    """Find slices or masks in any kind of source.

    Args:
        source: a folder of images, a case folder, a folder of cases, a folder of image folders, or a list from step 2.
        side: "x" for images, "y" for masks.
        setting: setting name for messages.

    Returns:
        list of Slice, in natural order within a folder; `case` is empty for loose images and for a single case folder.

    Raises:
        InputError: if there are none.
    """
    path = Path(source)
    if path.suffix.lower() == ".csv":
        rows = read_list(path).itertuples()
        return different([Slice(row.case, Path(row.x).stem, Path(getattr(row, side))) for row in rows], source)
    root = require_folder(source, setting)
    if is_case(root):
        folders = {"": root / side}
    else:
        inner = sorted((f for f in root.iterdir() if f.is_dir()), key=lambda f: natural_key(f.name))
        folders = {f.name: f / side for f in inner if is_case(f)} or {"": root}
        if folders == {"": root} and not images_in(root):
            folders = {f.name: f for f in inner if not f.name.startswith(".")}
    skipped = []
    slices = [
        Slice(case, name, file)
        for case, folder in folders.items()
        for name, file in sorted(images_in(folder, skipped).items(), key=lambda item: natural_key(item[0]))
    ]
    if side == "x":
        report_skipped(skipped)
    if not slices:
        raise InputError(
            f"{setting}: no image ({', '.join(IMAGE_ENDINGS)}) and no case folder in {root}; choose another folder"
        )
    return slices
