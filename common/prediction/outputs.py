"""Outputs of predict.py for slices: masks, overlays, label volumes, and masks of full-scale images."""

import functools
from pathlib import Path

import cv2
import numpy as np

from common.errors import InputError
from common.files import write_json
from common.prediction.matrices import MatrixInput, MatrixMasks
from common.prediction.viewer_files import ViewerFiles
from common.public_settings import public_settings
from common.replacing import refuse_input_inside, whole_folder
from common.settings import FORMAT, REASONS
from common.slices.classes import are_sets, has_class
from common.slices.drawing import draw_outlines, paint
from common.slices.images import images_in, paste, read_image, to_gray, write_png
from common.slices.mask_files import MaskFiles
from common.slices.masks import clean
from common.slices.matching import IMAGE_SUFFIXES
from common.words import number_of

RECORD = "prediction.json"  # settings
CROP_TOLERANCE = 0.02  # max mean difference of a crop from its image, as a share of the crop's range; allows for JPEG


def write_output(settings, fill, hidden=(), facts=None):
    """Write the folder OUTPUT of predict.py.

    Args:
        settings: settings of predict.py, with the threshold in force; the reason for it is recorded too.
        fill: function that takes a folder Path and fills the folder.
        hidden: names of settings to leave empty in the record.
        facts: dict of further values to record, which `fill` may complete.

    Raises:
        InputError: as `common.replacing.whole_folder`, or if INPUT is inside OUTPUT.
    """
    refuse_input_inside("INPUT", settings.INPUT, settings.OUTPUT)
    with whole_folder(settings.OUTPUT, settings.REPLACE) as folder:
        fill(folder)
        reasons = {name: reason for name, reason in settings.reasons.items() if name not in settings.given}
        recorded = public_settings(settings, hidden) | (facts or {}) | {REASONS: reasons}
        write_json(folder / RECORD, {FORMAT: 1} | recorded)


def write_rows(rows, path):
    """Write rows, dicts of column to value, to a CSV file; without rows, write nothing."""
    if rows:
        from common.tables import write_table  # with pandas, which takes half a second to load

        write_table(path, rows)


class Outputs:
    """Writes predicted slices; slices of one case, image or volume must be consecutive.

    Args:
        folder: Path to write to; the caller renames it when it is complete.
        source: `common.prediction.inputs.ImageInput`, VolumeInput or `common.prediction.matrices.MatrixInput`.
        names: names of the classes from 1 up.
        overlap: how classes share pixels; see `common.slices.classes`.
        overlays: whether to write overlays, and pages of volumes.
        full_scale: folder of the images that the slices were cut from; "": no full-scale masks.
        volume_ending: ending of label volumes, such as ".nii.gz"; "": write none.
        clean_slices, clean_volumes: dicts of arguments of `common.slices.masks.clean`, for single masks and for
            whole label volumes.
        dicom_labels, series: settings DICOM_LABELS and SERIES.
        viewer_files: setting VIEWER_FILES.
    """

    def __init__(
        self,
        folder,
        source,
        names,
        *,
        overlap="",
        overlays,
        full_scale,
        volume_ending,
        clean_slices,
        clean_volumes,
        dicom_labels=(),
        series=None,
        viewer_files=(),
    ):
        self.files = MaskFiles(names, overlap)
        self.folder, self.source, self.clean_slices = folder, source, clean_slices
        self.overlays, self.count = overlays, 0
        self.viewers, self.make_viewers = None, functools.partial(make_viewers, folder, source, names, clean_volumes)
        paths = {source.names[name]: path for name, path in source.volumes.items()}
        print_dicom(dicom_labels)
        dicom = make_dicom_labels(folder, dicom_labels, paths, series, names)
        self.viewer_files = ViewerFiles(folder, viewer_files, names, overlap) if viewer_files else None
        self.matrices = MatrixMasks(folder) if isinstance(source, MatrixInput) else None
        self.volumes = None
        if volume_ending or dicom or viewer_files:
            self.volumes = LabelVolumes(
                folder, volume_ending, self.files, clean_volumes, dicom, viewer_files=self.viewer_files
            )
        self.full_scale = FullScaleMasks(folder / "full", full_scale, self.files) if full_scale else None

    def add(self, s, image, numbers):
        """Write a slice and everything that it completes.

        Args:
            s: `common.slices.cases.Slice`.
            image: (H, W) uint8 or uint16, as `source` read it.
            numbers: (H, W) predicted mask, uint8 class numbers or uint16 sets of overlapping classes.

        Raises:
            InputError: if the slice cannot be pasted into its full-scale image.
        """
        numbers, (case, record) = clean(numbers, **self.clean_slices), self.source.case_of(s)
        self.files.write(self.folder, Path(s.case, f"{s.name}.png"), numbers)
        if self.overlays:
            overlay = draw_outlines(paint(self.source.drawn(s, image), numbers), numbers)
            write_png(self.folder / "overlays" / s.case / f"{s.name}.png", overlay, atomic=False)
        if "volume" in record and s.name in record["slices"]:
            if self.volumes:
                self.volumes.add(case, s.name, record, numbers)
            if self.overlays:
                self.viewers = self.viewers or self.make_viewers()
                self.viewers.add(s, image, numbers, case, record)
        elif self.viewer_files:
            self.viewer_files.add_image(s.case, s.name, numbers)
        if self.matrices:
            self.matrices.add(record, numbers)
        if self.full_scale:
            self.full_scale.add(case if record else s.case, s.name, record, numbers, s.path)
        self.count += 1

    def close(self):
        """Write remaining outputs and the tables.

        Returns:
            Text that lists what was written.
        """
        text = number_of(self.count, "mask") + (" with overlays" if self.overlays else "")
        outputs = (
            (self.volumes, ["label volume"]),
            (self.viewers, ["viewer"]),
            (self.full_scale, ["full-size mask"]),
            (self.matrices, ["file of numbers", "files of numbers"]),
        )
        for output, item in outputs:
            if output and (count := output.close()):
                text += f", {number_of(count, *item)}"
        return text


def make_viewers(*arguments):
    """`common.prediction.viewer.Viewers`."""
    from common.prediction.viewer import Viewers  # with pandas, which takes half a second to load

    return Viewers(*arguments)


def require_dicom(kinds, volumes):
    """Raise InputError if DICOM_LABELS asks for labels of anything but DICOM series.

    Args:
        kinds: setting DICOM_LABELS.
        volumes: Paths of the volumes of INPUT; empty for images and cases.
    """
    from common.volumes.privacy import is_dicom_volume  # volumes only

    volumes = list(volumes)
    if kinds and not (volumes and all(map(is_dicom_volume, volumes))):
        found = next((path.name for path in volumes if not is_dicom_volume(path)), "images or cases")
        raise InputError(f"DICOM_LABELS: INPUT is not a DICOM series (found {found}); remove the setting, or use one")


def print_dicom(kinds):
    """Say that DICOM labels identify patients, if there will be any."""
    if kinds:
        print("dicom/ will contain tags of patients; keep it apart from what you pass on", flush=True)


def make_dicom_labels(folder, kinds, paths, series, names):
    """`common.prediction.dicom_labels.DicomLabels`, or None without `kinds`; arguments as there."""
    if not kinds:
        return None
    from common.prediction.dicom_labels import DicomLabels  # loads highdicom, which takes a second

    return DicomLabels(folder, kinds, paths, series, names)


class LabelVolumes:
    """Collects the masks of each case in turn, and writes a label volume per case.

    Args:
        folder: Path for <case><ending> and volumes.csv.
        ending: ending that `common.volumes.labels.write_labels` supports; "": write none.
        files: MaskFiles.
        cleaning: dict of arguments of `common.slices.masks.clean` for whole volumes.
        dicom: `common.prediction.dicom_labels.DicomLabels`, or None.
        viewer_files: `common.prediction.viewer_files.ViewerFiles`, or None.
    """

    def __init__(self, folder, ending, files, cleaning, dicom=None, viewer_files=None):
        self.folder, self.ending, self.files, self.cleaning, self.dicom = folder, ending, files, cleaning, dicom
        self.viewer_files = viewer_files
        self.case, self.record, self.masks, self.rows = None, None, {}, []

    def add(self, case, name, record, numbers):
        """Add class numbers (H, W) of the slice `name`; other arguments as in `Outputs.add`."""
        if case != self.case:
            self._write()
            self.case, self.record = case, record
        self.masks[name] = numbers

    def close(self):
        """Write the last volume and volumes.csv; return the number of volumes."""
        self._write()
        write_rows(self.rows, self.folder / "volumes.csv")
        return len({row["case"] for row in self.rows})

    def _write(self):
        if not self.masks:
            return
        from common.volumes import labels  # needs SimpleITK, images do not

        volume = labels.labels_of_slices(self.record, self.masks)
        if self.cleaning:
            volume = labels.clean_labels(volume, self.cleaning)
        if self.ending:
            labels.write_all(volume, self.files, self.folder, self.case, self.ending)
        if self.dicom:
            self.dicom.write(self.case, volume)
        if self.viewer_files:
            self.viewer_files.add_volume(self.case, volume)
        self.rows += labels.measure_labels(self.case, volume, len(self.files.names))
        self.masks = {}


class FullScaleMasks:
    """Pastes masks into the images that their slices were cut from, and writes each image in turn.

    Args:
        folder: Path for <case>/<image>.png, overlays/ and areas.csv.
        images: folder of the images imported by 0_import_images.py, or of the originals of manual crops.
        files: MaskFiles.
    """

    def __init__(self, folder, images, files):
        self.folder, self.images, self.files = folder, Path(images), files
        self.current, self.mask, self.spacing, self.rows = None, None, None, []

    def add(self, case, name, record, numbers, path):
        """Add class numbers (H, W) of the slice `name` in the file `path`; other arguments as in `Outputs.add`.

        Without a record the slice is a crop, and the image with the same name, or the same without "_crop", is searched
        for it.

        Raises:
            InputError: if the image is missing, has a different size, or does not contain the crop.
        """
        entry = record["slices"].get(name, {}) if record else self._find_crop(path)
        if not entry.get("image"):
            raise InputError(
                f"{path}: no original image in its case.json; use PASTE only for cases of images, not of volumes"
            )
        if self.current != (case, entry["image"]):
            self._write()
            self.current, self.mask = (case, entry["image"]), np.zeros(entry["image_size"], numbers.dtype)
            self.spacing = record.get("spacing")
        join = np.bitwise_or if are_sets(numbers) else np.maximum
        self.mask = join(self.mask, paste(numbers, entry["box"], entry["image_size"]))

    def close(self):
        """Write the last image and areas.csv; return the number of images."""
        self._write()
        write_rows(self.rows, self.folder / "areas.csv")
        return len({(row["case"], row["image"]) for row in self.rows})

    @functools.cached_property
    def _by_name(self):
        return images_in(self.images)

    def _find_crop(self, path):
        """Entry for a crop, as in case.json."""
        names = [path.stem.removesuffix(suffix) for suffix in IMAGE_SUFFIXES]
        file = next((self._by_name[name] for name in names if name in self._by_name), None)
        if file is None:
            raise InputError(
                f"PASTE: no image {path.stem} in {self.images}, needed for {path}; choose the folder of the originals"
            )
        crop, image = (to_gray(read_image(source)) for source in (path, file))
        corner = find_crop(crop, image)
        if corner is None:
            raise InputError(f"{path}: not a crop of {file} (its pixels are not in it); choose the original image")
        return {"image": file.name, "image_size": list(image.shape), "box": [*corner, crop.shape[1], crop.shape[0]]}

    def _write(self):
        if self.mask is None:
            return
        case, name = self.current
        file, target = self.images / name, Path(case, f"{Path(name).stem}.png")
        image = read_image(file)
        if image.shape[:2] != self.mask.shape:
            found, expected = ("{1}x{0}".format(*shape) for shape in (image.shape, self.mask.shape))
            raise InputError(f"{file}: size has changed since import ({found}, expected {expected}); restore it")
        self.files.write(self.folder, target, self.mask)
        overlay = draw_outlines(paint(image, self.mask), self.mask)
        write_png(self.folder / "overlays" / target, overlay, atomic=False)
        area = np.prod(self.spacing) if self.spacing else np.nan
        for number in range(1, len(self.files.names) + 1):
            pixels = int(has_class(self.mask, number).sum())
            row = {"case": case, "image": name, "class": number, "pixels": pixels, "mm2": pixels * area}
            self.rows.append(row)
        self.mask = None


def find_crop(crop, image):
    """Find where a crop was cut from an image.

    Args:
        crop: (h, w) array.
        image: (H, W) array with the same value range.

    Returns:
        (left, top), or None if the image does not contain the crop.
    """
    (height, width), (rows, columns) = crop.shape, image.shape
    if height > rows or width > columns:
        return None
    crop, image = (array.astype(np.float32) - np.float32(crop.mean()) for array in (crop, image))
    left, top = cv2.minMaxLoc(cv2.matchTemplate(image, crop, cv2.TM_SQDIFF))[2]
    difference = np.abs(image[top : top + height, left : left + width] - crop).mean()
    return (left, top) if difference <= CROP_TOLERANCE * max(np.ptp(crop), 1) else None
