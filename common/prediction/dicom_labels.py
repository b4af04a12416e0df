"""Label volumes of a DICOM series as DICOM SEG and RTSTRUCT, which repeat the tags of its patient."""

import datetime

import highdicom
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from skimage.measure import find_contours

from common.errors import InputError
from common.files import whole_file
from common.slices.classes import are_sets, channels_of, has_class
from common.volumes.dicom import choose_series
from common.volumes.grids import Geometry

FOLDER = "dicom"  # in OUTPUT
MAKER = "Segmentation training kit"
PLACE_TOLERANCE = 0.01  # max distance in mm between a slice of the series and its place in the volume
# Tags of the patient and the study that the standard wants in objects of the same study.
SHARED_TAGS = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
NEEDED_TAGS = ("FrameOfReferenceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")


class DicomLabels:
    """Writes label volumes of DICOM series as OUTPUT/dicom/<case>_seg.dcm and <case>_rtstruct.dcm.

    Args:
        folder: Path of OUTPUT.
        kinds: setting DICOM_LABELS, list of "SEG" and "RTSTRUCT".
        paths: dict of safe case name to Path of its series, a folder or file.
        series: setting SERIES.
        names: class names, from class 1 up.
    """

    def __init__(self, folder, kinds, paths, series, names):
        self.folder, self.kinds, self.names = folder / FOLDER, kinds, list(map(str, names))
        self.paths, self.series = paths, series

    def write(self, case, labels):
        """Write the labels of a case, SimpleITK.Image on the grid of the series: class numbers, uint8, or sets of
        overlapping classes, uint16.

        Raises:
            InputError: if the slices of the series are not those of the labels.
        """
        self.folder.mkdir(exist_ok=True)
        path = self.paths[case]
        slices, array = _slices_of(path, self.series), sitk.GetArrayFromImage(labels)
        _check_places(path, slices, Geometry.of(labels))
        for kind in self.kinds:
            content = (_segmentation if kind == "SEG" else _structure_set)(slices, array, labels, self.names)
            content.SpecificCharacterSet = "ISO_IR 192"  # class names may have any characters
            with whole_file(self.folder / f"{case}_{kind.lower()}.dcm") as unfinished:
                content.save_as(unfinished, enforce_file_format=True)


def _slices_of(path, series):
    """Datasets of a series without pixels, in slice order."""
    files = [header.file for header in choose_series(path, series, quiet=True)] if path.is_dir() else [path]
    slices = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    for content in slices:
        for name in NEEDED_TAGS:
            if not content.get(name):
                raise InputError(f"{path}: no {name} in the series; remove DICOM_LABELS")
        for name in SHARED_TAGS:
            if name not in content:
                setattr(content, name, "")
    return slices


def _check_places(path, slices, grid):
    """Raise InputError unless the slices are those of the grid, one after the other."""
    if len(slices) == 1 and int(slices[0].get("NumberOfFrames") or 1) > 1:
        raise InputError(f"{path}: a series with several frames in one file; DICOM_LABELS needs a file for each slice")
    expected = grid.to_points([(0, 0, k) for k in range(grid.size[2])])
    found = np.array([content.ImagePositionPatient for content in slices], float)
    if found.shape != expected.shape or np.abs(found - expected).max() > PLACE_TOLERANCE * max(1, *grid.spacing):
        raise InputError(f"{path}: slices and label volume do not match; remove DICOM_LABELS")


# --- DICOM SEG


def _segmentation(slices, array, labels, names):
    """highdicom.seg.Segmentation of class numbers or overlapping classes, with a segment for each class."""
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=MAKER, version="1", family=codes.DCM.ArtificialIntelligence
    )
    kind = codes.SCT.AnatomicalStructure  # what the classes are is known to the user only
    segments = [
        highdicom.seg.SegmentDescription(
            number, name[:64], kind, kind, highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC, algorithm
        )
        for number, name in enumerate(names, 1)
    ]
    for one in slices:
        one.pop("SpacingBetweenSlices", None)  # wrong in some files; highdicom then takes it from the positions
    return highdicom.seg.Segmentation(
        source_images=slices,
        pixel_array=channels_of(array[..., None], len(names)) if are_sets(array) else array,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=generate_uid(),
        series_number=300,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MAKER,
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=bool(array.any()),
    )


# --- RTSTRUCT


def _structure_set(slices, array, labels, names):
    """pydicom.FileDataset of an RTSTRUCT with an ROI for each class; contours run halfway between voxels."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    content = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    for name in SHARED_TAGS:
        setattr(content, name, slices[0].get(name) or "")
    now = datetime.datetime.now()
    content.SOPClassUID, content.SOPInstanceUID = RTStructureSetStorage, meta.MediaStorageSOPInstanceUID
    content.Modality, content.Manufacturer, content.SeriesInstanceUID = "RTSTRUCT", MAKER, generate_uid()
    content.SeriesNumber, content.OperatorsName, content.StructureSetLabel = 301, "", "predicted"
    content.StructureSetDate, content.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    frame, grid = slices[0].FrameOfReferenceUID, Geometry.of(labels)
    images = [_item(ReferencedSOPClassUID=s.SOPClassUID, ReferencedSOPInstanceUID=s.SOPInstanceUID) for s in slices]
    series = _item(SeriesInstanceUID=slices[0].SeriesInstanceUID, ContourImageSequence=images)
    study = _item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
        ReferencedSOPInstanceUID=slices[0].StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    content.FrameOfReferenceUID = frame
    content.PositionReferenceIndicator = slices[0].get("PositionReferenceIndicator") or ""
    content.ReferencedFrameOfReferenceSequence = [_item(FrameOfReferenceUID=frame, RTReferencedStudySequence=[study])]
    content.StructureSetROISequence = [
        _item(ROINumber=number, ReferencedFrameOfReferenceUID=frame, ROIName=name, ROIGenerationAlgorithm="AUTOMATIC")
        for number, name in enumerate(names, 1)
    ]
    content.ROIContourSequence = []
    for number in range(1, len(names) + 1):
        contours = _contours_of(has_class(array, number), grid, images)
        of_roi = {"ContourSequence": contours} if contours else {}  # must not be empty (PS3.3 C.8.8.6)
        content.ROIContourSequence.append(_item(ReferencedROINumber=number, **of_roi))
    content.RTROIObservationsSequence = [
        _item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="", ROIInterpreter="")
        for number in range(1, len(names) + 1)
    ]
    return content


def _contours_of(mask, grid, images):
    """Items of ContourSequence for a mask (k, j, i)."""
    items = []
    for k in np.flatnonzero(mask.any(axis=(1, 2))):
        for outline in find_contours(np.pad(mask[k].astype(np.float32), 1), 0.5):
            rows, columns = outline[:-1].T - 1  # the last point is the first
            points = grid.to_points(np.column_stack([columns, rows, np.full(len(rows), k)]))
            data = [f"{mm:.10g}"[:16] for mm in points.ravel()]  # decimal strings of up to 16 characters
            items.append(
                _item(
                    ContourImageSequence=[images[k]],
                    ContourGeometricType="CLOSED_PLANAR",
                    NumberOfContourPoints=len(points),
                    ContourData=data,
                )
            )
    return items


def _item(**elements):
    made = Dataset()
    for name, value in elements.items():
        setattr(made, name, value)
    return made
