"""Write a page for a predicted volume: all slices with their masks in one file, which a browser opens from disk."""

import numpy as np
from markupsafe import Markup

from common.html import as_address, write_page
from common.slices.drawing import CLASS_COLORS
from common.slices.images import encode_jpeg, encode_png, resize
from common.slices.masks import clean

FOLDER = "viewers"
MOST_BYTES = 26_000_000  # of images in a page, a third more as text; so the page is below 40 MB
QUALITIES = (90, 80, 70, 55, 40)  # of JPEG, from the best to the smallest
SMALLEST = 64  # side in pixels of a slice that is not made smaller


class Compressor:
    """Compresses the slices of one page, so that all of them together stay below MOST_BYTES.

    Args:
        count: number of slices.
    """

    def __init__(self, count):
        self.left, self.count = MOST_BYTES, count

    def compress(self, image):
        """JPEG bytes of the next slice, (H, W) uint8: as good, and if necessary as small, as its share allows."""
        share = self.left / max(self.count, 1)
        data = encode_jpeg(image, QUALITIES[0])
        while len(data) > share:
            for quality in QUALITIES[1:]:
                data = encode_jpeg(image, quality)
                if len(data) <= share:
                    break
            if min(image.shape) <= SMALLEST:
                break
            image = resize(image, (image.shape[0] // 2, image.shape[1] // 2))
        self.left -= len(data)
        self.count -= 1
        return data


class Viewers:
    """Collects the slices of each volume in turn, and writes a page per volume.

    Args:
        folder: Path for viewers/<case>.html.
        source: `common.prediction.inputs.ImageInput` or VolumeInput of the slices.
        names: names of the classes from 1 up.
        cleaning: dict of arguments of `common.slices.masks.clean` for whole volumes.
    """

    def __init__(self, folder, source, names, cleaning):
        self.folder, self.source, self.names, self.cleaning = folder / FOLDER, source, names, cleaning
        self.case, self.count = None, 0
        self.images, self.masks = [], []

    def add(self, s, image, numbers, case, record):
        """Add a slice; arguments as in `common.prediction.outputs.Outputs.add`, `image` as the network has seen it."""
        if case != self.case:
            self._write()
            self.case, self.compressor = case, Compressor(len(record["slices"]))
            self.gray_range, self.spacing = self.source.range_of(s), self.source.spacing_of(s)
        self.images.append(self.compressor.compress(self.source.viewed(s, image)))
        self.masks.append(numbers)

    def close(self):
        """Write the last page; return the number of pages."""
        self._write()
        return self.count

    def _write(self):
        if not self.images:
            return
        masks = clean(np.stack(self.masks), **self.cleaning) if self.cleaning else self.masks
        path = self.folder / f"{self.case}.html"
        write_viewer(path, self.images, masks, self.gray_range, self.spacing, self.names)
        self.images, self.masks, self.count = [], [], self.count + 1


def write_viewer(path, images, masks, gray_range, spacing, names):
    """Write the page of a volume.

    Args:
        path: Path of the .html file; its name is the title.
        images: list of JPEG bytes, from `Compressor`.
        masks: class numbers (H, W) uint8 of each slice.
        gray_range: `common.prediction.inputs.GrayRange`.
        spacing: (row, column) distance in mm between the pixels, or None.
        names: names of the classes from 1 up.
    """
    slices = []
    for image, numbers in zip(images, masks, strict=True):
        parts = [(image, "jpeg")] + ([(encode_png(numbers), "png")] if numbers.any() else [])
        slices.append(Markup(" ").join(as_address(*part) for part in parts))
    colors = [CLASS_COLORS[i % len(CLASS_COLORS)] for i in range(len(names))]
    height, width = masks[0].shape
    row, column = spacing or (1, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_page(
        path,
        "prediction/viewer.html.jinja",
        path.stem,
        slices=slices,
        gray_range=gray_range,
        size=(width, height),
        ratio=width * column / (height * row),
        key=[(name, f"rgb{color}") for name, color in zip(names, colors, strict=True)],
        colors=[list(color) for color in colors],
    )
