"""Masks with a file for each class: find them by a name pattern with {class}, and join them into one mask."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError
from common.files import natural_key
from common.settings import require_folder
from common.slices.classes import (
    IGNORED,
    IGNORED_SET,
    MOST_OVERLAPPING,
    OVERLAPPING,
    highest_class,
    is_target,
    sets_of_classes,
    type_of_masks,
)
from common.slices.finding import IMAGE_ENDINGS, find_images, report_skipped, scan, walk
from common.slices.masks import values_of
from common.slices.matching import IMAGE_FOLDERS, MASK_FOLDERS
from common.slices.preparation import classes_in_words
from common.slices.regions import Regions
from common.slices.source_masks import read_source_mask
from common.words import number_of

EXAMPLES = '"masks/{class}/{id}.png" or "masks/{id}_{class}.png"'


def has_classes(setting):
    """Whether a setting MASKS has {class} in its path."""
    return "{class}" in setting


def find_class_masks(setting, wanted, images):
    """Find the masks of each class.

    Args:
        setting: MASKS, with {class} as the name of a folder or in the file name.
        wanted: names of the classes in order; empty: all, in natural order.
        images: dict of (subfolder, id) to Path of the images.

    Returns:
        names of the classes, dict of (subfolder, id) to dict of class number to Path, and the folder of the masks.

    Raises:
        InputError: if the pattern cannot be used, a class has no masks, or there are too many.
    """
    parts = Path(setting).parts
    first = next(index for index, part in enumerate(parts) if "{" in part)
    name = parts[-1]
    if parts[first:] in (("{class}",), ("{class}", name)) and name.replace("{class}", "{id}").count("{id}") == 1:
        find = _find_in_folders
    elif len(parts) == first + 1 and name.count("{id}") == name.count("{class}") == 1 and "}{" not in name:
        find = _find_by_names
    else:
        raise InputError(f"MASKS: expected a pattern such as {EXAMPLES} (found {setting})")
    root = require_folder(Path(*parts[:first]), "MASKS")
    found = find(root, name, images)
    names = list(wanted) or sorted(found, key=natural_key)
    if len(set(names)) < len(names):
        raise InputError(f"CLASS_NAMES: a name is listed twice (found {', '.join(names)}); list each name once")
    if missing := [name for name in names if not found.get(name)]:
        raise InputError(f"MASKS: no mask of class {missing[0]} matches {setting} (found {', '.join(found) or 'none'})")
    if not names:
        raise InputError(f"MASKS: no mask of any class matches {setting} (found no class in {root})")
    if len(names) > MOST_OVERLAPPING:
        raise InputError(
            f"MASKS: expected up to {MOST_OVERLAPPING} classes (found {len(names)}); choose some with --class-names"
        )
    masks = {}
    for number, name in enumerate(names, 1):
        for key, file in found[name].items():
            masks.setdefault(key, {})[number] = file
    return names, masks, root


def _find_in_folders(root, name, images):
    """Masks by class of a folder for each class: dict of class name to dict of key to Path."""
    _, folders, skipped = scan(root)
    report_skipped(skipped)
    found = {}
    for folder in folders:
        files, skipped = walk(folder)
        report_skipped(skipped)
        pattern = "{id}" if name == "{class}" else name
        found[folder.name] = find_images(folder, files, pattern, IMAGE_FOLDERS, MASK_FOLDERS)
    return found


def _find_by_names(root, name, images):
    """Masks by class in file names, as `_find_in_folders`; ids are those of images, since both may contain any text."""
    files, skipped = walk(root)
    report_skipped(skipped)
    is_ending = Path(name).suffix.lower() in IMAGE_ENDINGS
    stem, ending = (Path(name).stem, Path(name).suffix.lower()) if is_ending else (name, "")
    order = ("{id}", "{class}") if stem.index("{id}") < stem.index("{class}") else ("{class}", "{id}")
    before, rest = stem.split(order[0])
    between, after = rest.split(order[1])
    found = {}
    for file in files:
        if ending and file.suffix.lower() != ending:
            continue
        folders = file.parent.relative_to(root).parts
        folder = "_".join(folders[:-1] if folders and folders[-1].lower() in MASK_FOLDERS else folders)
        if not (file.stem.startswith(before) and file.stem.endswith(after)):
            continue
        core = file.stem[len(before) : len(file.stem) - len(after)]
        places = [i for i in range(1, len(core)) if core.startswith(between, i) and i + len(between) < len(core)]
        for place in reversed(places) if order[0] == "{id}" else places:  # the longest id first
            both = dict(zip(order, (core[:place], core[place + len(between) :]), strict=True))
            if (folder, both["{id}"]) in images:
                found.setdefault(both["{class}"], {})[folder, both["{id}"]] = file
                break
    return found


def read_class_masks(files, count, shape, mapping=None, threshold=None, ignore=None):
    """Join the masks of an image.

    Args:
        files: dict of class number to Path; a class without a file is nowhere.
        count: number of classes.
        shape: (H, W) of the image.
        mapping, threshold, ignore: as for `common.slices.source_masks.read_source_mask`.

    Returns:
        (H, W) uint16 set of classes; see `common.slices.classes`.

    Raises:
        InputError: if a file is unreadable, or has another size or several classes.
    """
    classes, ignored = [np.zeros(shape, bool)] * count, np.zeros(shape, bool)
    for number, path in files.items():
        mask = read_source_mask(path, None, mapping, threshold, ignore)
        if mask.shape != shape:
            sizes = "{1}x{0}, expected {3}x{2}".format(*mask.shape, *shape)
            raise InputError(f"{path}: size differs from its image (found {sizes}); replace one")
        if len(found := sorted(values_of(mask) - {0, IGNORED})) > 1:
            raise InputError(
                f"{path}: expected one class in the masks of a class (found the values {', '.join(map(str, found))}); "
                "pass --mask-values"
            )
        ignored |= mask == IGNORED
        classes[number - 1] = is_target(mask)
    sets = sets_of_classes(classes)
    sets[ignored] = IGNORED_SET
    return sets


class MaskReading(NamedTuple):
    """How the masks of an import are read, without the list of their files.

    Attributes:
        colors, mapping, threshold, ignore: settings COLORS, MASK_VALUES, MASK_THRESHOLD and IGNORE of
            0_import_images.py.
        by_class: whether each class has its own files.
        count: number of classes with files.
        overlap: how classes share pixels; see `common.slices.classes`.
        regions: Regions, or None.
    """

    colors: dict
    mapping: dict | None
    threshold: int | None
    ignore: int | None
    by_class: bool
    count: int
    overlap: str
    regions: Regions | None

    def read(self, path, of_class, shape):
        """Read the mask of an image.

        Args:
            path: its file; None: no foreground.
            of_class: dict of class number to Path, if each class has a file.
            shape: (H, W) of the image; only for these, and without a file.

        Returns:
            (H, W) uint8 or, for overlapping classes, uint16; with one file, of the size that it has.

        Raises:
            InputError: as `read_class_masks` and `read_source_mask`.
        """
        if path is None:
            return np.zeros(shape, type_of_masks(self.overlap))
        if not self.by_class:
            mask = read_source_mask(path, self.colors, self.mapping, self.threshold, self.ignore)
            return self.regions.sets_of(mask, path) if self.regions else mask
        sets = read_class_masks(of_class, self.count, shape, self.mapping, self.threshold, self.ignore)
        if self.overlap:
            return sets
        numbers = highest_class(sets)
        return numbers if self.count > 1 else np.where(numbers == 1, np.uint8(255), numbers)


class MaskReader:
    """Finds the masks of an import.

    Args:
        settings: settings of 0_import_images.py.
        names: names of the classes of class numbers, [] if unknown.

    Attributes:
        by_class: whether each class has its own files.
        names: names of the classes, [] if unknown; of files, known after `find`.
        overlap: how classes share pixels; see `common.slices.classes`.
        files: dict of key to dict of class number to Path, after `find`.
    """

    def __init__(self, settings, names):
        self.settings, self.by_class, self.files = settings, has_classes(settings.MASKS), {}
        self.regions = Regions(settings.REGIONS) if settings.REGIONS else None
        self.names, self.overlap = names, ""
        if self.regions:
            self.names, self.overlap = self.regions.names, self.regions.overlap
        elif self.by_class and settings.OVERLAP == "keep":
            self.overlap = OVERLAPPING

    def find(self, images):
        """Find the files of each class.

        Args:
            images: dict of key to Path, from `find_images`.

        Returns:
            images without files that are masks, dict of key to the Path of the first mask, and the folder of the masks.
        """
        self.names, self.files, root = find_class_masks(self.settings.MASKS, self.settings.CLASS_NAMES, images)
        if len(self.names) == 1:
            self.overlap = ""
        used = {path for files in self.files.values() for path in files.values()}
        images = {key: path for key, path in images.items() if path not in used}
        first = {key: files[min(files)] for key, files in self.files.items()}
        return images, first, root

    @property
    def reading(self):
        """MaskReading, after `find` if each class has its own files."""
        s, count = self.settings, len(self.names)
        return MaskReading(
            s.COLORS, s.MASK_VALUES, s.MASK_THRESHOLD, s.IGNORE, self.by_class, count, self.overlap, self.regions
        )

    def in_words(self, values):
        """Number and kind of the classes of all masks, by the set of their values."""
        return classes_in_words(values, self.settings.MASKS, self.overlap, self.names)

    def note_missing(self, sources):
        """Print how many images have no mask of a class: it is nowhere in them.

        Args:
            sources: list of dicts of class number to Path, one for each image; empty without masks of each class.
        """
        with_masks = [files for files in sources if files]
        for number, name in enumerate(self.names, 1):
            if missing := sum(number not in files for files in with_masks):
                images = number_of(len(with_masks), "image")
                print(f"note: {name} has no mask in {missing} of {images} and counts as absent there")
