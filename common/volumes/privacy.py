"""Case names that do not identify a patient."""

from pathlib import Path

import SimpleITK as sitk

from common.volumes.finding import is_dicom
from common.volumes.reading import list_series

IMAGE_TYPES = {"DERIVED", "SECONDARY", "ORIGINAL", "PRIMARY", "AXIAL"}  # words in tags that do not identify anyone
# Tag prefixes (group, start of element): patient; dates, hospital and physicians; study.
IDENTIFYING_TAGS = ("0010|", "0008|00", "0008|10", "0020|0010")
HARMLESS_TAGS = ("0008|0005", "0008|0016")  # exceptions: character set, object type


def safe_names(volumes):
    """Safe name of each volume: its own with "_" for "/", or a number if it contains a word of an identifying tag.

    Args:
        volumes: dict of `find_volumes`.

    Returns:
        dict of name in `volumes` to safe name.
    """
    names = {name: name.replace("/", "_") for name in volumes}
    for number, (name, path) in enumerate(volumes.items(), 1):
        if any(word in names[name].lower() for word in identifying_words(path)):
            names[name] = f"{number:04d}"
    return names


def identifying_words(path):
    """Lowercase words of DICOM text tags that could identify a person.

    Args:
        path: file, or folder of a series.

    Returns:
        set of str, empty for files other than DICOM.
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
