"""Case names that do not identify a patient."""

from pathlib import Path

import SimpleITK as sitk

from common.volumes.finding import is_dicom
from common.volumes.reading import list_series

IMAGE_TYPES = {"DERIVED", "SECONDARY", "ORIGINAL", "PRIMARY", "AXIAL"}  # words in tags that identify nobody
# Tags by group, or group and the start of the element: the patient; dates, hospital and physicians; the study.
IDENTIFYING_TAGS = ("0010|", "0008|00", "0008|10", "0020|0010")
HARMLESS_TAGS = ("0008|0005", "0008|0016")  # among these: character set, kind of object


def safe_names(volumes):
    """A name for each volume: its own, "_" for "/", or a number where that holds what a DICOM tag says.

    Args:
        volumes: dict of `find_volumes`.

    Returns:
        dict of the names of `volumes` to these.
    """
    names = {name: name.replace("/", "_") for name in volumes}
    for number, (name, path) in enumerate(volumes.items(), 1):
        if any(word in names[name].lower() for word in identifying_words(path)):
            names[name] = f"{number:04d}"
    return names


def identifying_words(path):
    """Words of the text tags of a DICOM file or series that could identify somebody, in lower case.

    Args:
        path: file or folder.

    Returns:
        set of str, empty for other files.
    """
    path = Path(path)
    if path.is_dir():
        path = Path(list_series(path)[0][0])
    elif not is_dicom(path):
        return set()
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return set()
    keys = [key for key in reader.GetMetaDataKeys() if key.startswith(IDENTIFYING_TAGS)]
    text = " ".join(reader.GetMetaData(key) for key in keys if not key.startswith(HARMLESS_TAGS))
    return {word.lower() for word in text.replace("^", " ").split() if len(word) > 2 and word not in IMAGE_TYPES}
