"""Inputs that predict.py predicts slice by slice: image files, or the slices of a volume."""

import functools
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError, summarize
from common.files import real_path
from common.parallel import progress
from common.slices.case_files import read_case_record
from common.slices.cases import Slice, find_slices
from common.slices.channels import group_files, read_with_channels, to_draw
from common.slices.images import read_image, stretch, to_gray, window_to_gray, with_channels
from common.slices.preparation import pixel_spacing
from common.volumes.channels import channels_of_input, first_files
from common.volumes.finding import find_volumes, is_volume, name_of
from common.volumes.privacy import safe_names
from common.words import number_of

# Folders that predict.py writes next to its masks.
RESERVED = ("overlays", "full", "viewers", "matrices", "probability", "uncertainty", "disagreement")
RESERVED += ("probabilities", "osirix", "qupath")

OTHER_PIXELS = 1.25  # pixels that are larger or smaller by more than this factor are said to differ from training


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


def refuse_reserved(cases, source):
    """Raise InputError if a case of `source` has the name of a folder that predict.py writes."""
    for case in cases:
        if case.lower() in RESERVED:
            raise InputError(f"INPUT: {source} has a case {case}, as a folder that predict.py writes; rename it")


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
        channels: as for `common.slices.channels.read_with_channels`; "stored": all channels of each file.

    Attributes:
        slices: list of `common.slices.cases.Slice`.
        volumes, names: dicts of volume name to Path and to safe name; empty.

    Raises:
        InputError: if no image is found.
    """

    def __init__(self, source, stretched, channels="gray"):
        self.slices, self._stretched, self._channels = find_slices(source, "x", "INPUT"), stretched, channels
        self._files = {}  # path of the first to the paths of all channels
        if isinstance(channels, list):
            self.slices, self._files = group_files(self.slices, channels)
        self.volumes, self.names = {}, {}
        self._in_color = set()  # paths
        self._record_in = functools.cache(read_case_record)
        self._check_cases(source)

    def _check_cases(self, source):
        folders = {}
        refuse_same_output({s.case: s.case for s in self.slices}, "INPUT")
        refuse_reserved([s.case for s in self.slices], source)
        for s in self.slices:
            folder = s.path.parent.parent
            other = folders.setdefault(s.case, folder)
            if s.case and other != folder and (self._record_in(folder) or self._record_in(other)):
                raise InputError(
                    f"INPUT: {source} has slices of {other} and of {folder} under the case {s.case}; "
                    "use a case name for each"
                )

    def read(self, s):
        """Image of a slice, (H, W) or (H, W, C) uint8 or uint16; stretched as in training unless its importer did."""
        if files := self._files.get(s.path):
            image, _ = read_with_channels(files, self._channels)
        elif self._channels == "stored" or isinstance(self._channels, list):
            image = read_image(s.path)
        else:
            image, lost_colors = read_with_channels([s.path], self._channels)
            if lost_colors:
                self._in_color.add(s.path)
        return stretch(image) if self._stretched and not self.case_of(s)[1] else image

    def drawn(self, s, image):
        """What to draw on of a slice: its colors (H, W, 3) if it has any, or a channel of `image` from `read`."""
        if s.path in self._in_color:
            return read_image(s.path)
        return to_draw(image, self.case_of(s)[1].get("neighbors", 0))

    def viewed(self, s, image):
        """Gray levels (H, W) uint8 of a slice for the page of its volume, which `range_of` describes."""
        gray = to_gray(to_draw(image, self.case_of(s)[1].get("neighbors", 0)))
        return gray if gray.dtype == np.uint8 else (gray >> 8).astype(np.uint8)

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
    """Slices of a volume, or of all volumes in a folder; attributes and methods as in `ImageInput`.

    Slices of a folder of volumes belong to cases, one for each volume. All volumes are read once to count their slices;
    later, memory holds two: the one being predicted, and the next.

    Args:
        path: setting INPUT.
        plane, window, spacing, series, not_finite: as for `common.volumes.slicing.open_slices`.
        case_names: setting NAMES.
        neighbors: slices before and after each slice that are its further channels.
        channels: name patterns of the files of a volume, if it has one for each channel; others: one file.

    Raises:
        InputError: if a volume cannot be read, or two would be written under one name.
    """

    def __init__(
        self, path, plane, window, spacing, series, not_finite=None, case_names="numbers", neighbors=0, channels=None
    ):
        from common.volumes.slicing import open_slices  # needs SimpleITK, images do not

        several = not is_volume(path)
        self._files = {}  # path of the first channel to the paths of all
        if isinstance(channels, list):
            grouped = channels_of_input(Path(path), channels)
            self.volumes, self._files = first_files(grouped), {files[0]: files for files in grouped.values()}
        else:
            self.volumes = find_volumes(path) if several else {name_of(real_path(path)): Path(path)}
        self.names = safe_names(self.volumes, case_names)
        options = {"spacing": spacing, "series": series, "not_finite": not_finite, "several": True}
        self._neighbors = neighbors
        self._open_slices = lambda volume: open_slices(self._files.get(volume, volume), plane, window, **options)
        self._newest, self._lock = {}, threading.Lock()  # path to values and levels, the last two
        self._cases, self._ranges, self._spacings, self.slices, problems = {}, {}, {}, [], []
        if several:
            refuse_same_output(self.names, "INPUT")
            refuse_reserved(self.names.values(), path)
        for name, volume in progress(self.volumes.items(), len(self.volumes), "reading"):
            try:
                self._add(volume, self.names[name], several, plane)
            except InputError as error:
                problems.append(str(error))
        if problems:
            raise InputError(summarize(problems, "volumes cannot be read"))

    def _add(self, path, case, several, plane):
        from common.volumes.slicing import slice_entry, spacing_of_plane  # needs SimpleITK, images do not

        values, levels, volume = self._open_slices(path)
        entries = {f"{i + 1:04d}": slice_entry(values.shape[1:3], i) for i in range(len(values))}
        self.slices += [Slice(case if several else "", name, path) for name in entries]
        self._cases[path] = case, {"slices": entries, "volume": volume}
        shown = values if values.ndim == 3 else values[..., 0]
        self._ranges[path] = GrayRange.around(*levels[0], shown.min(), shown.max())
        self._spacings[path] = spacing_of_plane(volume["grid"]["spacing"], plane)
        self._newest = {path: (values, levels)}

    def _plane_of(self, s, neighbors=0):
        """Values of a slice, (H, W) or (H, W, C) with neighbors, and the levels of its volume."""
        from common.volumes.slicing import with_neighbors  # needs SimpleITK, images do not

        with self._lock:
            if s.path not in self._newest:
                kept = list(self._newest.items())[-1:]
                self._newest = dict(kept)  # before the next is read, so that no third volume is in memory
                self._newest[s.path] = self._open_slices(s.path)[:2]
            values, levels = self._newest[s.path]
        return with_neighbors(values, self._cases[s.path][1]["slices"][s.name]["index"], neighbors), levels

    def read(self, s):
        from common.volumes.slicing import to_gray_levels  # needs SimpleITK, images do not

        return to_gray_levels(*self._plane_of(s, self._neighbors), 8)

    def drawn(self, s, image):
        return to_draw(image, self._neighbors) if self._neighbors or image.ndim == 2 else image[..., 0]

    def viewed(self, s, image):
        values = self._plane_of(s)[0]
        shown = values if values.ndim == 2 else np.ascontiguousarray(values[..., 0])
        return window_to_gray(shown, self.range_of(s).black, self.range_of(s).white, 8)

    def range_of(self, s):
        return self._ranges[s.path]

    def spacing_of(self, s):
        return self._spacings[s.path]

    def case_of(self, s):
        return self._cases[s.path]


def reader_of(source, inputs):
    """Function of a slice to its image, as `read` of an ImageInput or VolumeInput, with a check of its channels.

    Args:
        source: ImageInput or VolumeInput.
        inputs: number of channels that the models expect.
    """

    def read(s):
        image = source.read(s)
        found = with_channels(image).shape[2]
        if found != inputs:
            raise InputError(
                f"{s.path}: wrong number of channels (found {found}, in training {inputs}); import it as for training, "
                "or see --channels"
            )
        return image

    return read


class PixelSizes:
    """Compares the pixels that the network sees with the pixels that it was trained on.

    Args:
        trained: (row, column) distance in mm between the pixels of the training slices, or None.
        size: input size of the network in pixels.
        fit: "resize", "pad" or "tile".
    """

    def __init__(self, trained, size, fit):
        self.trained, self.size, self.fit = trained, size, fit
        self.count, self.different, self.example = 0, 0, None

    def add(self, shape, spacing):
        """Count a slice with its shape (H, W), and its spacing (row, column) in mm or None."""
        if not (self.trained and spacing):
            return
        sides = {"resize": shape, "pad": (max(shape), max(shape)), "tile": (self.size, self.size)}[self.fit]
        seen = np.multiply(spacing, sides) / self.size
        self.count += 1
        if np.any(np.abs(np.log(seen / self.trained)) > np.log(OTHER_PIXELS)):
            self.different += 1
            self.example = seen if self.example is None else self.example

    def note(self):
        """Sentence about slices whose pixels differ; "" if none do."""
        if not self.different:
            return ""
        found, trained = ("x".join(f"{mm:.3g}" for mm in pixel) for pixel in (self.example, self.trained))
        return (
            f"pixels differ from training in {self.different} of {number_of(self.count, 'image')} "
            f"({found} mm, in training {trained} mm), so masks may be worse; train on images like these too"
        )
