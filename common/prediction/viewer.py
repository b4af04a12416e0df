"""Write a page for a predicted volume: all slices with their masks in one file, which a browser opens from disk."""

import numpy as np
from markupsafe import Markup

from common.html import as_address, write_page
from common.slices.classes import are_sets
from common.slices.drawing import CLASS_COLORS
from common.slices.images import encode_jpeg, encode_png, resize
from common.slices.masks import clean

FOLDER = "viewers"
MOST_BYTES = 29_000_000  # of images and masks in a page, a third more as text; so the page is below 40 MB
QUALITIES = (90, 80, 70, 55, 40)  # of JPEG, from the best to the smallest
SMALLEST = 64  # side in pixels of a slice that is not made smaller


class Compressor:
    """Compresses the slices of one page, so that all of them together stay below MOST_BYTES.

    Args:
        count: number of slices.
    """

    def __init__(self, count):
        self.left, self.count = MOST_BYTES, count

    def compress(self, image, numbers):
        """Compress the next slice: as good, and if necessary as small, as its share of the page allows.

        Args:
            image: (H, W) uint8.
            numbers: (H, W) uint8 class numbers, or uint16 sets of overlapping classes.

        Returns:
            bytes of the slice as JPEG, and of the mask as PNG; the latter is empty if the mask is.
        """
        mask = encode_mask(numbers)
        share = self.left / max(self.count, 1) - len(mask)
        data = encode_jpeg(image, QUALITIES[0])
        while len(data) > share:
            for quality in QUALITIES[1:]:
                data = encode_jpeg(image, quality)
                if len(data) <= share:
                    break
            if min(image.shape) <= SMALLEST:
                break
            image = resize(image, (image.shape[0] // 2, image.shape[1] // 2))
        self.left -= len(data) + len(mask)
        self.count -= 1
        return data, mask


def encode_mask(numbers):
    """Mask (H, W) as bytes of a PNG file, empty without any class: class numbers, or RGB for overlapping classes.

    Red has the sum of 1 for class 1, 2 for class 2, 4 for class 3 and so on up to class 8, green that of the next ones.
    """
    if are_sets(numbers):
        numbers = np.stack([numbers & 255, numbers >> 8, 0 * numbers], axis=-1).astype(np.uint8)
    return encode_png(numbers) if numbers.any() else b""


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
        self.slices, self.masks = [], []

    def add(self, s, image, numbers, case, record):
        """Add a slice; arguments as in `common.prediction.outputs.Outputs.add`, `image` as the network has seen it."""
        if case != self.case:
            self._write()
            self.case, self.compressor = case, Compressor(len(record["slices"]))
            self.gray_range, self.spacing = self.source.range_of(s), self.source.spacing_of(s)
        self.slices.append(self.compressor.compress(self.source.viewed(s, image), numbers))
        self.shape, self.overlapping = numbers.shape, are_sets(numbers)
        if self.cleaning:
            self.masks.append(numbers)

    def close(self):
        """Write the last page; return the number of pages."""
        self._write()
        return self.count

    def _write(self):
        if not self.slices:
            return
        if self.cleaning:
            masks = clean(np.stack(self.masks), **self.cleaning)
            self.slices = [(image, encode_mask(mask)) for (image, _), mask in zip(self.slices, masks, strict=True)]
        path = self.folder / f"{self.case}.html"
        write_viewer(path, self.slices, self.shape, self.gray_range, self.spacing, self.names, self.overlapping)
        self.slices, self.masks, self.count = [], [], self.count + 1


def write_viewer(path, slices, shape, gray_range, spacing, names, overlapping=False):
    """Write the page of a volume.

    Args:
        path: Path of the .html file; its name is the title.
        slices: list of results of `Compressor.compress`.
        shape: (H, W) of the masks.
        gray_range: `common.prediction.inputs.GrayRange`.
        spacing: (row, column) distance in mm between the pixels, or None.
        names: names of the classes from 1 up.
        overlapping: whether the masks are of overlapping classes.
    """
    texts = []
    for image, mask in slices:
        texts.append(Markup(" ").join([as_address(image, "jpeg"), *([as_address(mask, "png")] if mask else [])]))
    colors = [CLASS_COLORS[i % len(CLASS_COLORS)] for i in range(len(names))]
    height, width = shape
    row, column = spacing or (1, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_page(
        path,
        "prediction/viewer.html.jinja",
        path.stem,
        slices=texts,
        gray_range=gray_range,
        size=(width, height),
        ratio=width * column / (height * row),
        key=[(name, f"rgb{color}") for name, color in zip(names, colors, strict=True)],
        colors=[list(color) for color in colors],
        overlapping=overlapping,
    )
