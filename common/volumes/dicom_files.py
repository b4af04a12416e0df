"""Read DICOM SEG and RTSTRUCT files with pydicom, and check that they are complete."""

import contextlib

from common.errors import InputError
from common.lazy import Lazy
from common.system_errors import raise_system_error
from common.volumes.dicom_headers import check_pixels
from common.volumes.headers import ADVICE
from common.volumes.whole import require_file

pydicom = Lazy("pydicom")

UNDEFINED = 0xFFFFFFFF


def read_dataset(path, pixels=True):
    """Read a DICOM file that contains no image of a series.

    Args:
        path: Path.
        pixels: whether to read its pixels too.

    Returns:
        pydicom.FileDataset.

    Raises:
        InputError: if the file is damaged or cut short.
    """
    require_file(path)
    with damaged_dicom(path), open(path, "rb") as file:
        with _strict():
            content = pydicom.dcmread(file, stop_before_pixels=True)
        _refuse_cut_elements(content)
        if "NumberOfFrames" in content and not content.file_meta.TransferSyntaxUID.is_deflated:
            names = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
            size = tuple(int(content.get(name) or 1) for name in names)
            check_pixels(file, content, size, int(content.NumberOfFrames))
        return pydicom.dcmread(path) if pixels else content


@contextlib.contextmanager
def damaged_dicom(path):
    """Turn what pydicom or highdicom raises on a damaged file, which may be anything, into an InputError."""
    try:
        yield
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(str(path)) else f"{path}: {text}") from None
    except MemoryError:  # a damaged length, or truly too large
        raise InputError(f"{path}: damaged DICOM file, or too large (out of memory); {ADVICE}") from None
    except Exception as error:  # pydicom raises OSError too, without a number
        raise_system_error(error, path)
        if getattr(error, "errno", None):
            raise
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise InputError(f"{path}: damaged DICOM file ({reason}); {ADVICE}") from None


@contextlib.contextmanager
def _strict():
    """Make pydicom raise an error at an early end of a file, which it otherwise passes over."""
    settings = pydicom.config.settings
    before = settings.reading_validation_mode
    settings.reading_validation_mode = pydicom.config.RAISE
    try:
        yield
    except EOFError:
        raise InputError(f"cut short; {ADVICE}") from None
    finally:
        settings.reading_validation_mode = before


def _refuse_cut_elements(content):
    for tag in content.keys():  # noqa: SIM118, iterating over a dataset converts its values
        element = content.get_item(tag)
        if isinstance(element, pydicom.dataelem.RawDataElement):
            if element.length != UNDEFINED and len(element.value or b"") < element.length:
                raise InputError(f"cut short; {ADVICE}")
        elif element.VR == "SQ":
            for item in element.value:
                _refuse_cut_elements(item)
