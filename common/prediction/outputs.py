"""Masks of slices pasted into the full-scale pictures that the slices were cut from."""

import functools
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from common.errors import InputError
from common.slices.drawing import draw_outlines, paint
from common.slices.images import encode_png, paste, pictures_in, read_picture, to_gray
from common.slices.masks import from_classes

ALIKE = 0.02  # share of the range of a crop by which its pixels may differ from the picture's, in the mean; for JPEG


class FullPictures:
    """Collects the masks of a picture's slices and writes them at their place, one picture at a time.

    Args:
        folder: Path; masks go to full/, overlays to full/overlays/, areas to full/areas.csv.
        pictures: folder of the pictures that 0_import_images.py was given, or of pictures that crops were cut from
            by hand; "" writes nothing.
        classes: of the masks.
    """

    def __init__(self, folder, pictures, classes):
        self.folder, self.pictures, self.classes = folder / "full", pictures and Path(pictures), classes
        self.current, self.mask, self.rows = None, None, []

    def add(self, case, name, record, numbers, path):
        """Take the class numbers of a slice; slices of a picture come one after the other.

        Args:
            case: name of the case.
            name: of the slice.
            record: content of its case.json; {} for a crop, whose place in the picture of its name is searched for.
            path: file of the slice.

        Raises:
            InputError: if the picture is not there, has another size than it had, or does not hold the crop.
        """
        if not self.pictures:
            return
        entry = record["slices"].get(name, {}) if record else self._entry_of_crop(path)
        if not entry.get("image"):
            raise InputError(f"{path}: its case.json names no picture; PASTE is for cases of 0_import_images.py")
        if self.current != (case, entry["image"]):
            self._write()
            self.current, self.mask = (case, entry["image"]), np.zeros(entry["image_size"], np.uint8)
            self.spacing = record.get("spacing")
        self.mask = np.maximum(self.mask, paste(numbers, entry["box"], entry["image_size"]))

    def close(self):
        """Write what is left, and the table of areas.

        Returns:
            number of pictures.
        """
        self._write()
        if self.rows:
            pd.DataFrame(self.rows).to_csv(self.folder / "areas.csv", index=False)
        return len({(row["case"], row["picture"]) for row in self.rows})

    @functools.cached_property
    def _by_name(self):
        return pictures_in(self.pictures)

    def _entry_of_crop(self, path):
        found = self._by_name
        if path.stem not in found:
            raise InputError(f"PASTE: {self.pictures} holds no picture {path.stem}, in which {path} could be pasted")
        crop, picture = (to_gray(read_picture(file)) for file in (path, found[path.stem]))
        place = find_crop(crop, picture)
        if place is None:
            raise InputError(f"{path} was not cut out of {found[path.stem]}: its pixels are not in there")
        box = [*place, crop.shape[1], crop.shape[0]]
        return {"image": found[path.stem].name, "image_size": list(picture.shape), "box": box}

    def _write(self):
        if self.mask is None:
            return
        case, name = self.current
        picture = read_picture(self.pictures / name)
        grey = to_gray(picture)
        if grey.shape != self.mask.shape:
            raise InputError(
                f"{self.pictures / name} is {grey.shape[::-1]}, it was {self.mask.shape[::-1]} when imported"
            )
        target = Path(case, f"{Path(name).stem}.png")
        for place, image in (
            (self.folder / target, from_classes(self.mask, self.classes)),
            (self.folder / "overlays" / target, draw_outlines(paint(grey, self.mask), self.mask)),
        ):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(encode_png(image))
        area = np.prod(self.spacing) if self.spacing else np.nan
        for number in range(1, self.classes + 1):
            pixels = int((self.mask == number).sum())
            row = {"case": case, "picture": name, "class": number, "pixels": pixels, "mm2": pixels * area}
            self.rows.append(row)
        self.mask = None


def find_crop(crop, picture):
    """Place of a crop in the picture that it was cut from.

    Args:
        crop: (h, w) array.
        picture: (H, W) array of the same kind of values.

    Returns:
        (left, top), or None where no part of the picture has the crop's pixels.
    """
    (height, width), whole = crop.shape, picture.shape
    if height > whole[0] or width > whole[1]:
        return None
    crop, picture = (array.astype(np.float32) - np.float32(crop.mean()) for array in (crop, picture))
    left, top = cv2.minMaxLoc(cv2.matchTemplate(picture, crop, cv2.TM_SQDIFF))[2]
    there = picture[top : top + height, left : left + width]
    return (left, top) if np.abs(there - crop).mean() <= ALIKE * max(np.ptp(crop), 1) else None
