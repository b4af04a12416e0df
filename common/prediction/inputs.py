"""Inputs that predict.py predicts slice by slice: image files, or the slices of a volume."""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError
from common.slices.case_files import read_case_record
from common.slices.cases import Slice, find_slices, pixel_spacing
from common.slices.images import read_image, stretch, to_gray, window_to_gray
from common.volumes.finding import name_of
from common.volumes.privacy import safe_names

# Folders that predict.py writes next to its masks.
RESERVED = ("overlays", "full", "viewers", "probability", "uncertainty", "disagreement")


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


class GrayRange(NamedTuple):
    """Values of a volume that the slices of its page can show.

    Attributes:
        black, white: values of gray level 0 and 255.
        window: (low, high), values shown as black and white at first.
    """

    black: float
    white: float
    window: tuple

    @classmethod
    def around(cls, low, high, lowest, highest):
        """A window with its width added on both sides, but within the values of the volume.

        Args:
            low, high: the window.
            lowest, highest: values of the volume.
        """
        width = high - low
        black, white = max(low - width, min(low, lowest)), min(high + width, max(high, highest))
        return cls(float(black), float(white), (float(low), float(high)))


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
        self._in_color = set()  # paths
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
        picture = read_image(s.path)
        image = to_gray(picture)
        if picture.ndim == 3 and not (picture == image[..., None]).all():
            self._in_color.add(s.path)
        return stretch(image) if self._stretched and not self.case_of(s)[1] else image

    def drawn(self, s, image):
        """Image of a slice to draw on: in its colors (H, W, 3) if it has any, otherwise `image` from `read`."""
        return read_image(s.path) if s.path in self._in_color else image

    def viewed(self, s, image):
        """Gray levels (H, W) uint8 of a slice for the page of its volume, which `range_of` describes."""
        return image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)

    def range_of(self, s):
        """GrayRange of the volume of a slice; gray levels if its importer did not record a window."""
        low, high = self.case_of(s)[1].get("window") or (0, 255)
        return GrayRange(low, high, (low, high))

    def spacing_of(self, s):
        """(row, column) distance in mm between the pixels of a slice; None if unknown."""
        return pixel_spacing(self.case_of(s)[1], s.name)

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
        from common.volumes.slicing import open_slices, slice_entry, spacing_of_plane  # needs SimpleITK, images do not

        self._values, self._levels, volume = open_slices(
            path, plane, window, spacing=spacing, series=series, not_finite=not_finite
        )
        entries = {f"{i + 1:04d}": slice_entry(self._values.shape[1:], i) for i in range(len(self._values))}
        self.slices = [Slice("", name, Path(path)) for name in entries]
        self._range = GrayRange.around(*self._levels, self._values.min(), self._values.max())
        self._spacing = spacing_of_plane(volume["grid"]["spacing"], plane)
        own = name_of(Path(path).resolve())
        self.volumes = {own: Path(path)}
        self.names = safe_names(self.volumes, case_names)
        self._case = self.names[own], {"slices": entries, "volume": volume}

    def read(self, s):
        return window_to_gray(self._values[self._case[1]["slices"][s.name]["index"]], *self._levels, 8)

    def drawn(self, s, image):
        return image

    def viewed(self, s, image):
        values = self._values[self._case[1]["slices"][s.name]["index"]]
        return window_to_gray(values, self.range_of(s).black, self.range_of(s).white, 8)

    def range_of(self, s):
        return self._range

    def spacing_of(self, s):
        return self._spacing

    def case_of(self, s):
        return self._case
