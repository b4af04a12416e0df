"""What predict.py writes of slices: masks, overlays, label volumes, and masks of the full-scale images."""

import functools
from pathlib import Path

import cv2
import numpy as np

from common.errors import InputError
from common.files import write_json
from common.jobs import do_part
from common.slices.drawing import draw_outlines, paint
from common.slices.images import paste, pictures_in, read_picture, to_gray, write_png
from common.slices.masks import clean, from_classes

RECORD = "prediction.json"  # in the folder OUTPUT, which it marks as made by predict.py: the settings
CROP_TOLERANCE = 0.02  # mean difference of a crop from its image, as a share of the crop's range; JPEG needs some


def write_output(settings, part, inputs, fill):
    """Write the folder OUTPUT of predict.py, or the part of it that this process does.

    Args:
        settings: those of predict.py.
        part: `common.part.Part`.
        inputs: dict of what goes in besides the settings, in which all parts must agree.
        fill: function of a Path that fills this folder.

    Returns:
        whether OUTPUT is complete.
    """
    recorded = settings.as_json() | {"PART": ""}

    def fill_and_record(folder):
        fill(folder)
        write_json(folder / RECORD, recorded)

    return do_part(settings.OUTPUT, part, recorded | inputs, fill_and_record, replace=settings.REPLACE, marker=RECORD)


def write_table(rows, path):
    """Write a CSV file of rows, dicts of columns to values; without rows none."""
    if rows:
        import pandas as pd  # takes half a second to load, which predictions without a table save

        pd.DataFrame(rows).to_csv(path, index=False)


class Outputs:
    """Writes predicted slices; those of one case, image or volume must come one after the other.

    Args:
        folder: Path to write to, of a folder that itself appears complete or not at all.
        classes: 1, or K for class numbers 0..K.
        overlays: whether overlays are written.
        full_scale: folder of the images that the slices were cut from; "": no full-scale masks.
        volume_ending: of the label volumes, such as ".nii.gz"; "": none.
        clean_slices, clean_volumes: dicts of arguments of `common.slices.masks.clean`, for each mask and for
            label volumes as a whole.
    """

    def __init__(self, folder, classes, *, overlays, full_scale, volume_ending, clean_slices, clean_volumes):
        self.folder, self.classes, self.overlays, self.clean_slices = folder, classes, overlays, clean_slices
        self.count = 0
        self.volumes = LabelVolumes(folder, volume_ending, clean_volumes) if volume_ending else None
        self.full_scale = FullScaleMasks(folder / "full", full_scale, classes) if full_scale else None

    def add(self, s, image, numbers, case, record):
        """Write everything that a slice completes.

        Args:
            s: `common.slices.cases.Slice`.
            image: (H, W) uint8 or uint16.
            numbers: (H, W) uint8, predicted class numbers.
            case: name of its case.
            record: content of its case.json, or {}.

        Raises:
            InputError: if it cannot be pasted into its full-scale image.
        """
        numbers = clean(numbers, **self.clean_slices)
        write_png(self.folder / s.case / f"{s.name}.png", from_classes(numbers, self.classes), atomic=False)
        if self.overlays:
            overlay = draw_outlines(paint(image, numbers), numbers)
            write_png(self.folder / "overlays" / s.case / f"{s.name}.png", overlay, atomic=False)
        if self.volumes and "volume" in record and s.name in record["slices"]:
            self.volumes.add(case, s.name, record, numbers)
        if self.full_scale:
            self.full_scale.add(case if record else s.case, s.name, record, numbers, s.path)
        self.count += 1

    def close(self):
        """Write what is left, and the tables.

        Returns:
            What was written, as text.
        """
        text = f"{self.count} masks" + (" and overlays" if self.overlays else "")
        for output, items in ((self.volumes, "label volumes"), (self.full_scale, "pictures at full scale")):
            if output and (count := output.close()):
                text += f", {count} {items}"
        return text


class LabelVolumes:
    """Collects the masks of one case after the other, and writes a label volume of each.

    Args:
        folder: Path for <case><ending> and volumes.csv.
        ending: one that `common.volumes.labels.write_labels` can write.
        cleaning: dict of arguments of `common.slices.masks.clean` for the volume as a whole.
    """

    def __init__(self, folder, ending, cleaning):
        self.folder, self.ending, self.cleaning = folder, ending, cleaning
        self.case, self.record, self.masks, self.rows = None, None, {}, []

    def add(self, case, name, record, numbers):
        """Add class numbers (H, W) of a slice; arguments as `Outputs.add`, with the name of the slice."""
        if case != self.case:
            self._write()
            self.case, self.record = case, record
        self.masks[name] = numbers

    def close(self):
        """Write the last volume and volumes.csv; returns the number of volumes."""
        self._write()
        write_table(self.rows, self.folder / "volumes.csv")
        return len({row["case"] for row in self.rows})

    def _write(self):
        if not self.masks:
            return
        from common.volumes import labels  # SimpleITK, which images do not need

        volume = labels.labels_of_slices(self.record, self.masks)
        if self.cleaning:
            volume = labels.clean_labels(volume, self.cleaning)
        labels.write_labels(volume, self.folder / f"{self.case}{self.ending}")
        self.rows += labels.measure_labels(self.case, volume)
        self.masks = {}


class FullScaleMasks:
    """Pastes masks into the images that their slices were cut from, and writes one image after the other.

    Args:
        folder: Path for <case>/<image>.png, overlays/ and areas.csv.
        images: folder of the images that 0_import_images.py imported, or that crops were cut from by hand.
        classes: 1, or K for class numbers 0..K.
    """

    def __init__(self, folder, images, classes):
        self.folder, self.images, self.classes = folder, Path(images), classes
        self.current, self.mask, self.spacing, self.rows = None, None, None, []

    def add(self, case, name, record, numbers, path):
        """Add class numbers (H, W) of a slice; arguments as `Outputs.add`, with the name and the file of the slice.

        Without a record the slice is a crop: it is searched for in the image of its name.

        Raises:
            InputError: if the image is missing, has changed its size, or does not contain the crop.
        """
        entry = record["slices"].get(name, {}) if record else self._find_crop(path)
        if not entry.get("image"):
            raise InputError(f"{path}: its case.json names no picture; PASTE is for cases of 0_import_images.py")
        if self.current != (case, entry["image"]):
            self._write()
            self.current, self.mask = (case, entry["image"]), np.zeros(entry["image_size"], np.uint8)
            self.spacing = record.get("spacing")
        self.mask = np.maximum(self.mask, paste(numbers, entry["box"], entry["image_size"]))

    def close(self):
        """Write the last image and areas.csv; returns the number of images."""
        self._write()
        write_table(self.rows, self.folder / "areas.csv")
        return len({(row["case"], row["picture"]) for row in self.rows})

    @functools.cached_property
    def _by_name(self):
        return pictures_in(self.images)

    def _find_crop(self, path):
        """The entry that case.json would have for a crop."""
        file = self._by_name.get(path.stem)
        if file is None:
            raise InputError(f"PASTE: {self.images} holds no picture {path.stem}, in which {path} could be pasted")
        crop, image = (to_gray(read_picture(source)) for source in (path, file))
        corner = find_crop(crop, image)
        if corner is None:
            raise InputError(f"{path} was not cut out of {file}: its pixels are not in there")
        return {"image": file.name, "image_size": list(image.shape), "box": [*corner, crop.shape[1], crop.shape[0]]}

    def _write(self):
        if self.mask is None:
            return
        case, name = self.current
        file, target = self.images / name, Path(case, f"{Path(name).stem}.png")
        image = to_gray(read_picture(file))
        if image.shape != self.mask.shape:
            raise InputError(f"{file} is {image.shape[::-1]}, it was {self.mask.shape[::-1]} when imported")
        write_png(self.folder / target, from_classes(self.mask, self.classes), atomic=False)
        overlay = draw_outlines(paint(image, self.mask), self.mask)
        write_png(self.folder / "overlays" / target, overlay, atomic=False)
        area = np.prod(self.spacing) if self.spacing else np.nan
        for number in range(1, self.classes + 1):
            pixels = int((self.mask == number).sum())
            row = {"case": case, "picture": name, "class": number, "pixels": pixels, "mm2": pixels * area}
            self.rows.append(row)
        self.mask = None


def find_crop(crop, image):
    """Where a crop was cut out of an image.

    Args:
        crop: (h, w) array.
        image: (H, W) array of the same kind of values.

    Returns:
        (left, top), or None if no part of the image has the crop's pixels.
    """
    (height, width), (rows, columns) = crop.shape, image.shape
    if height > rows or width > columns:
        return None
    crop, image = (array.astype(np.float32) - np.float32(crop.mean()) for array in (crop, image))
    left, top = cv2.minMaxLoc(cv2.matchTemplate(image, crop, cv2.TM_SQDIFF))[2]
    difference = np.abs(image[top : top + height, left : left + width] - crop).mean()
    return (left, top) if difference <= CROP_TOLERANCE * max(np.ptp(crop), 1) else None
