"""Content of case.json, checked when it is read."""

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Len
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from common.errors import InputError
from common.files import one_name
from common.manifest import CASE_RECORD as RECORD
from common.records import Finite, Inside, Positive, Record, read_fields

LARGEST_SIDE = 2**20  # pixels or voxels


def _is_name(name):
    try:
        return one_name(name, "name")
    except InputError as error:
        raise ValueError("expected a file name without a path") from error


Name = Annotated[str, AfterValidator(_is_name)]
Side = Annotated[PositiveInt, Field(le=LARGEST_SIDE)]
Offset = Annotated[int, Field(ge=-LARGEST_SIDE, le=LARGEST_SIDE)]
Three = Len(3, 3)


class Part(BaseModel):
    """Base of the parts of a record."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class SliceEntry(Part):
    """Where a slice was cut from."""

    image: Inside | None = None  # relative to IMAGES
    mask: Inside | None = None
    image_size: tuple[Side, Side] = Field(strict=False)  # height, width of the source
    box: tuple[Offset, Offset, Side, Side] = Field(strict=False)  # left, top, width, height
    index: NonNegativeInt | None = None  # of a slice of a volume


class Grid(Part):
    """Geometry of a volume."""

    size: Annotated[list[Side], Three]
    spacing: Annotated[list[Positive], Three]
    origin: Annotated[list[Finite], Three]
    direction: Annotated[list[Finite], Len(9, 9)]


class VolumeEntry(Part):
    """The volume that slices were cut from."""

    plane: Literal["axial", "coronal", "sagittal"]
    geometry: Grid
    grid: Grid
    resampled: Annotated[list[Annotated[Finite, Field(ge=0)] | None], Three] | None = None  # None: not along this axis
    percentiles: Annotated[list[Finite], Len(2, 2)] | None = None  # of its values, which became the window


class PseudoLabelsEntry(Part):
    """How a model made the masks of a case; such cases are for training only."""

    confidence: Annotated[Finite, Field(ge=0, le=1)]
    model: str = ""


class CaseFile(Record):
    """All of case.json; see `common.slices.cases.CaseRecord`."""

    format: Literal[1] = 1
    source: str = ""
    size: Side | None = None
    fit: Literal["resize", "crop", "pad", "tile"] | None = None
    stretched: bool = False
    spacing: Annotated[list[Positive], Len(2, 2)] | None = None
    window: Annotated[list[Finite], Len(2, 2)] | None = None
    mask_values: str | None = None
    class_names: list[str] | None = None
    overlap: Literal["overlapping", "nested"] | None = None
    channels: Literal["rgb"] | Annotated[list[str], Len(1, 64)] | None = None
    neighbors: Annotated[int, Field(ge=0, le=16)] = 0
    volume: VolumeEntry | None = None
    pseudo_labels: PseudoLabelsEntry | None = None
    slices: dict[Name, SliceEntry] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self):
        if self.spacing and self.slices and self.size is None:
            raise ValueError("size: missing, although the spacing is known")
        if self.window and not self.window[0] < self.window[1]:
            raise ValueError("window: expected low below high")
        if self.volume:
            axis = {"axial": 2, "coronal": 1, "sagittal": 0}[self.volume.plane]
            *plane, count = [self.volume.grid.size[i] for i in (*[i for i in (0, 1, 2) if i != axis], axis)]
            for name, entry in self.slices.items():
                if entry.index is None or entry.index >= count:
                    raise ValueError(f"slices.{name}.index: not a slice of the volume")
                if sorted(entry.image_size) != sorted(plane):
                    raise ValueError(f"slices.{name}.image_size: not the size of a slice of the volume")
        return self


def is_pseudo_labeled(record):
    """Whether a model made the masks of a case, by the content of its case.json."""
    return bool(record.get("pseudo_labels"))


def split_pseudo_labeled(slices):
    """Split slices into those with masks of people and those with masks of a model.

    Args:
        slices: list of objects with `case`, the Path of their case folder.

    Returns:
        list of the first, and list of tuples of the others, one for each case.

    Raises:
        InputError: if there are only the others.
    """
    by_case = {}
    for s in slices:
        by_case.setdefault(s.case, []).append(s)
    marked = {case for case in by_case if is_pseudo_labeled(read_case_record(case))}
    if marked and len(marked) == len(by_case):
        raise InputError(f"CASES: only pseudo-labeled cases in {min(marked).parent}; add cases with true masks")
    return [s for s in slices if s.case not in marked], [tuple(by_case[case]) for case in by_case if case in marked]


def read_case_record(case):
    """Read `case.json` of a case folder.

    Returns:
        dict as in `CaseFile`; empty if the file is missing.

    Raises:
        InputError: if the file is damaged.
    """
    path = Path(case) / RECORD
    if not path.exists() and not path.is_symlink():
        return {}
    return read_fields(path, CaseFile)
