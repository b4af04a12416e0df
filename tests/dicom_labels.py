"""Label files as other programs write them: DICOM SEG by highdicom, RTSTRUCT by pydicom, .seg.nrrd by pynrrd."""

import numpy as np
import pydicom
from drawings import as_volume, write_series
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

PATIENT = {
    "0010|0010": "Plant^Name",
    "0010|0020": "PLANTID",
    "0010|0030": "19700101",
    "0010|0040": "O",
    "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
    "0008|0020": "20200101",
    "0008|0030": "101010",
    "0008|0050": "PLANTACC",
    "0008|0090": "Plant^Doctor",
    "0020|0010": "1",
    "0020|0011": "1",
    "0020|0052": "1.2.3.9",
}


def draw_series(folder, shape=(6, 36, 40), direction=None, series="1.2.3.4", **options):
    """A DICOM series with tags of a patient, and its image."""
    values = np.random.default_rng(0).integers(-500, 500, shape).astype(np.int16)
    image = as_volume(values, **({} if direction is None else {"direction": direction}), **options)
    write_series(folder, image, series=series, **PATIENT)
    return image


def sources(folder):
    """Datasets of a series in slice order."""
    return [pydicom.dcmread(file) for file in sorted(folder.glob("*.dcm"))]


def write_seg(path, series, masks, names=None, kind="BINARY", syntax=None, numbers=None, **options):
    """A DICOM SEG of masks, (k, j, i, segments) or, for a label map, (k, j, i).

    Args:
        path: file to write.
        series: datasets of the source slices, of as many slices as the masks.
        names: list of segment names.
        numbers: list of segment numbers; they must be 1, 2, ... but for label maps.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    path.parent.mkdir(parents=True, exist_ok=True)
    names = names or ["liver", "tumor", "vessel"][: masks.shape[3] if masks.ndim == 4 else int(masks.max())]
    described = [
        hd.seg.SegmentDescription(
            number, name, codes.SCT.Organ, codes.SCT.Liver, hd.seg.SegmentAlgorithmTypeValues.MANUAL
        )
        for number, name in zip(numbers or range(1, len(names) + 1), names, strict=True)
    ]
    about = {"manufacturer": "M", "manufacturer_model_name": "N", "software_versions": "1", "device_serial_number": "2"}
    content = hd.seg.Segmentation(
        source_images=series,
        pixel_array=masks,
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=generate_uid(),
        series_number=99,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        **({"transfer_syntax_uid": syntax} if syntax else {}),
        **about,
        **options,
    )
    content.save_as(path)
    return content


def write_rtstruct(path, series, rois, **changes):
    """An RTSTRUCT.

    Args:
        path: file to write.
        series: datasets of the source slices.
        rois: list of (number, name, list of contours (N, 3) in mm, geometric type).
        changes: elements of the data set to change.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    content = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    content.SOPClassUID, content.SOPInstanceUID = RTStructureSetStorage, meta.MediaStorageSOPInstanceUID
    content.Modality, content.PatientName, content.PatientID = "RTSTRUCT", "Plant^Name", "PLANTID"
    content.SeriesInstanceUID, content.StudyInstanceUID = generate_uid(), series[0].StudyInstanceUID
    content.StructureSetLabel = "PLANTSET"
    images = [item(ReferencedSOPClassUID=s.SOPClassUID, ReferencedSOPInstanceUID=s.SOPInstanceUID) for s in series]
    listed = item(SeriesInstanceUID=series[0].SeriesInstanceUID, ContourImageSequence=images)
    study = item(ReferencedSOPInstanceUID=series[0].StudyInstanceUID, RTReferencedSeriesSequence=[listed])
    frame = item(FrameOfReferenceUID=series[0].FrameOfReferenceUID, RTReferencedStudySequence=[study])
    content.ReferencedFrameOfReferenceSequence = [frame]
    content.StructureSetROISequence = [item(ROINumber=number, ROIName=name) for number, name, *_ in rois]
    content.ROIContourSequence = [
        item(
            ReferencedROINumber=number,
            ContourSequence=[
                item(
                    ContourGeometricType=kind,
                    NumberOfContourPoints=len(points),
                    ContourData=[f"{mm:.9g}" for mm in np.ravel(points)],
                )
                for points in contours
            ],
        )
        for number, _, contours, kind in rois
    ]
    for name, value in changes.items():
        setattr(content, name, value)
    content.save_as(path)
    return content


def item(**elements):
    made = Dataset()
    for name, value in elements.items():
        setattr(made, name, value)
    return made


def write_seg_nrrd(path, layers, geometry, segments):
    """A segmentation of 3D Slicer.

    Args:
        path: file to write.
        layers: list of (k, j, i) arrays.
        geometry: `common.volumes.grids.Geometry`.
        segments: list of (name, label value, layer).
    """
    import nrrd

    path.parent.mkdir(parents=True, exist_ok=True)
    axes = np.ascontiguousarray(geometry.axes.T)
    header = {
        "space": "left-posterior-superior",
        "kinds": ["domain"] * 3,
        "space directions": axes,
        "space origin": np.array(geometry.origin),
        "encoding": "gzip",
    }
    array = layers[0].transpose(2, 1, 0)
    if len(layers) > 1:
        array = np.stack([layer.transpose(2, 1, 0) for layer in layers])
        header["kinds"] = ["list", *header["kinds"]]
        header["space directions"] = np.vstack([np.full(3, np.nan), axes])
    for number, (name, value, layer) in enumerate(segments):
        header |= {f"Segment{number}_ID": f"Segment_{number}", f"Segment{number}_Name": name}
        header |= {f"Segment{number}_LabelValue": str(value), f"Segment{number}_Layer": str(layer)}
    nrrd.write(str(path), array, header)
