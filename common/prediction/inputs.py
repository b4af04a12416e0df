"""Inputs that predict.py predicts slice by slice: image files, or the slices of a volume."""

import functools
from pathlib import Path

from common.errors import InputError
from common.slices.case_files import read_case_record
from common.slices.cases import Slice, find_slices
from common.slices.images import read_image, stretch, to_gray, window_to_gray
from common.volumes.finding import name_of
from common.volumes.privacy import safe_names

RESERVED = ("overlays", "full")  # folders that predict.py writes next to its masks


def refuse_same_output(names, setting):
    """Raise InputError if two inputs would be written under one name.

    Args:
        names: dict of input name to output name.
        setting: setting name for the message.
    """
    written = {}
    for name, output in names.items():
        if (other := written.setdefault(output.lower(), name)) != name:  # some systems ignore upper and lower case
            raise InputError(f"{setting}: {other} and {name} would overwrite each other; rename one of them")


class ImageInput:
    """Image files: loose, in case folders, or in a list.

    Args:
        source: setting INPUT.
        stretched: whether training slices were stretched from their minimum to their maximum.

    Attributes:
        slices: list of `common.slices.cases.Slice`.
        volumes, names: dicts of volume name to Path and to safe name; empty.

    Raises:
        InputError: if no image is found.
    """

    def __init__(self, source, stretched):
        self.slices, self._stretched = find_slices(source, "x", "INPUT"), stretched
        self.volumes, self.names = {}, {}
        self._record_in = functools.cache(read_case_record)
        self._check_cases(source)

    def _check_cases(self, source):
        folders = {}
        refuse_same_output({s.case: s.case for s in self.slices}, "INPUT")
        for s in self.slices:
            if s.case.lower() in RESERVED:
                raise InputError(f"INPUT: {source} has a case {s.case}, as a folder that predict.py writes; rename it")
            folder = s.path.parent.parent
            other = folders.setdefault(s.case, folder)
            if s.case and other != folder and (self._record_in(folder) or self._record_in(other)):
                raise InputError(
                    f"INPUT: {source} has slices of {other} and of {folder} under the case {s.case}; "
                    "use a case name for each"
                )

    def read(self, s):
        """Gray image (H, W) of a slice, uint8 or uint16; stretched as in training, unless its importer did that."""
        image = to_gray(read_image(s.path))
        return stretch(image) if self._stretched and not self.case_of(s)[1] else image

    def case_of(self, s):
        """Case name of a slice, and the content of case.json ({} if missing)."""
        folder = s.path.parent.parent
        return s.case or folder.name, self._record_in(folder)


class VolumeInput:
    """Slices of a volume (file or folder); attributes and methods as in `ImageInput`.

    Args:
        path: setting INPUT.
        plane, window, spacing, series, not_finite: as for `common.volumes.slicing.open_slices`.
        case_names: setting NAMES.

    Raises:
        InputError: if the volume cannot be read.
    """

    def __init__(self, path, plane, window, spacing, series, not_finite=None, case_names="numbers"):
        from common.volumes.slicing import open_slices, slice_entry  # needs SimpleITK, images do not

        self._values, self._levels, volume = open_slices(
            path, plane, window, spacing=spacing, series=series, not_finite=not_finite
        )
        entries = {f"{i + 1:04d}": slice_entry(self._values.shape[1:], i) for i in range(len(self._values))}
        self.slices = [Slice("", name, Path(path)) for name in entries]
        own = name_of(Path(path).resolve())
        self.volumes = {own: Path(path)}
        self.names = safe_names(self.volumes, case_names)
        self._case = self.names[own], {"slices": entries, "volume": volume}

    def read(self, s):
        return window_to_gray(self._values[self._case[1]["slices"][s.name]["index"]], *self._levels, 8)

    def case_of(self, s):
        return self._case
