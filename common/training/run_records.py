"""Records in a run folder: state.json and settings.json, checked when they are read."""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import BaseModel, ConfigDict, Discriminator, Field, NonNegativeInt, PositiveInt, Tag, ValidationError

from common.errors import InputError
from common.records import Finite, Positive, Record, first_problem
from common.setting_types import Cleaning

NonNegative = Annotated[Finite, Ge(0)]
Share = Annotated[Finite, Ge(0), Le(1)]
Threshold = Annotated[Finite, Gt(0), Lt(1)]
Checkpoint = Literal["best_dice", "best_iou", "last"]
Overlap = Literal["overlapping", "nested", ""]
Classes = Annotated[int, Ge(1), Le(255)]


class Data(BaseModel):
    """Base of what a run records about its training set."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    @classmethod
    def of(cls, where, **values):
        """Make it from values of a packed set; raises InputError with the path `where` for an invalid one."""
        try:
            return cls(**values)
        except ValidationError as error:
            raise InputError(f"{where}: invalid attribute ({first_problem(error)}); pack it again") from None


class SliceData(Data):
    """What a run records about the slices it was trained on; None, "" or False if unknown.

    Attributes:
        classes: 1, K for class numbers 0..K, or K overlapping classes.
        size: side of the slices in pixels.
        inputs: number of their channels.
        bits: 8 or 16, bit depth of the slices.
        spacing: [row, column] in mm, if the same for all slices.
        window: [low, high] source values that became black and white, if the same for all.
        resampled: spacing in mm (left, back, head) that volumes were resampled to; 0: not resampled.
        plane: "axial", "coronal" or "sagittal", for slices of volumes.
        fit: how the importer fitted images to the size: "resize", "crop", "pad" or "tile".
        stretched: whether each image was stretched from its minimum to its maximum.
        channels: "rgb", or patterns of the files that became channels; "": gray, or unknown.
        neighbors: slices before and after a slice of a volume that are its further channels.
        labels: names of classes 1, 2 and so on.
        overlap: how classes share pixels: "overlapping", "nested" or "".
    """

    classes: Classes | None = None
    size: PositiveInt | None = None
    inputs: Annotated[int, Field(ge=1, le=64)] | None = None
    bits: Literal[8, 16] | None = None
    spacing: Annotated[list[Positive], Len(2, 2)] | None = None
    window: Annotated[list[Finite], Len(2, 2)] | None = None
    resampled: Annotated[list[NonNegative], Len(3, 3)] | None = None
    plane: Literal["axial", "coronal", "sagittal", ""] | None = None
    fit: Literal["resize", "crop", "pad", "tile", ""] | None = None
    stretched: bool | None = None
    channels: Literal["rgb", ""] | list[str] | None = None
    neighbors: Annotated[int, Field(ge=0, le=16)] | None = None
    labels: list[str] | None = None
    overlap: Overlap | None = None


class ScaleRecord(Data):
    """A `common.volumes.intensity.Scale`."""

    low: Finite
    high: Finite
    mean: Finite
    sd: Positive


class Intensity(Data):
    """A rule of `common.volumes.intensity`."""

    kind: Literal["fixed", "volume"]
    channels: list[ScaleRecord] = []


class VolumeData(Data):
    """What a run records about the packed volumes it was trained on; see `common.volumes.datasets`.

    Attributes:
        step: "whole", "patch" or "single".
        classes: number of labels.
        labels: names or values of the labels.
        channels: number of channels.
        spacing: (left, back, head) of the working grid in mm; None, also along one axis: as stored.
        voxels: maximum number of voxels in a volume shown to the model, or None.
        smallest_side: number of voxels that shorter sides of a volume are enlarged to; 0: none.
        smallest_box, margin: how the box around the labels is enlarged.
        intensity: rule in `common.volumes.intensity`.
        nested: whether each label includes those with larger numbers; runs before `overlap` record this only.
        overlap: how labels share voxels: "overlapping", "nested" or "".
        patterns: name patterns of the files that became channels; []: volumes had one file, or the layout of nnU-Net.
        regions: label numbers in the files of each class, if classes are regions of several; {}: other classes.
    """

    kind: Literal["volumes"] = "volumes"
    step: Literal["whole", "patch", "single"] | None = None
    classes: Classes | None = None
    labels: list[int | str] | None = None
    channels: PositiveInt | None = None
    spacing: Annotated[list[NonNegative | None], Len(3, 3)] | None = None
    voxels: NonNegativeInt | None = None
    smallest_side: NonNegativeInt = 0
    smallest_box: NonNegativeInt | None = None
    margin: NonNegative | None = None
    intensity: Intensity | None = None
    nested: bool | None = None
    overlap: Overlap | None = None
    patterns: list[str] | None = None
    regions: dict[str, list[PositiveInt]] = {}

    @property
    def sharing(self):
        """How labels share voxels, as `overlap`, also of older runs."""
        return self.overlap or ("nested" if self.nested else "")


SetData = Annotated[VolumeData, Tag("volumes")] | Annotated[SliceData, Tag("slices")]


def _kind_of(value):
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return "volumes" if kind == "volumes" else "slices"


class Best(Data):
    """Score and epoch of a model that a run kept; epoch 0: none yet."""

    score: float
    epoch: NonNegativeInt


class State(Record):
    """Content of state.json.

    Attributes:
        epoch: number of epochs done.
        epochs: number of epochs in the run; None while EPOCHS is measured.
        ended: why training ended; None while it continues.
        time: rows of `common.training.timing.Timer.table`.
        best_dice, best_iou: the epochs whose models were kept.
        data: SliceData or VolumeData.
        advice: sentences of `common.training.advice` by rule.
    """

    format: Literal[1] = 1
    epoch: NonNegativeInt | None = None
    epochs: PositiveInt | None = None
    ended: str | None = None
    time: list | dict | None = None
    best_dice: Best | None = None
    best_iou: Best | None = None
    data: Annotated[SetData, Discriminator(_kind_of)] | None = None
    advice: dict[str, str] | None = None


Curve = Annotated[list[Annotated[list[NonNegative], Len(3, 3)]], Len(1)]


FLIPS_IN_WORDS = {"flips": "flips", "turns": "flips and quarter turns"}


class Calibration(Record):
    """Content of calibration.json: what `common.training.calibration` found on the validation set.

    Attributes:
        model: SHA-256 of the .keras file.
        source: of a run without a validation set, name of the run or cross-validation that it was found in; else "".
        threshold: probability above which a pixel is foreground; None for several exclusive classes.
        dice, dice_at_half: mean Dice over the slices with a mask at this threshold, and at 0.5; None likewise.
        dice_by_threshold: the same at 0.01, 0.02, ..., 0.99; None likewise, and in records of earlier versions.
        temperature: number that divides the logits.
        ece, scaled_ece: expected calibration error before and after that.
        reliability, scaled_reliability: rows of [count, mean probability, share that is true], before and after.
        flips: what predict.py averages over, see `common.prediction.flip_choice`; "none" in records of earlier versions
            and in those of volumes.
        flips_threshold: as `threshold`, for this average.
        flips_slices: number of slices that it was chosen on.
        flips_dice, flips_dice_without: mean Dice over these slices with and without it, each at its best threshold.
    """

    format: Literal[1] = 1
    model: str
    source: str = ""
    threshold: Threshold | None = None
    dice: Share | None = None
    dice_at_half: Share | None = None
    dice_by_threshold: Annotated[list[Share], Len(99, 99)] | None = None
    temperature: Positive
    ece: Share
    scaled_ece: Share
    reliability: Curve
    scaled_reliability: Curve
    flips: Literal["none", "flips", "turns"] = "none"
    flips_threshold: Threshold | None = None
    flips_slices: PositiveInt | None = None
    flips_dice: Share | None = None
    flips_dice_without: Share | None = None

    def in_words(self):
        """The result, a line for the probabilities and one for flips, if they are used."""
        if self.source:
            return self.source_in_words()
        text = f"temperature {self.temperature:.2f} (calibration error {self.ece:.4f}, then {self.scaled_ece:.4f})"
        if self.threshold is not None:
            half = f" ({self.dice_at_half:.4f} at 0.5)" if self.threshold != 0.5 else ""
            text = (
                f"threshold {self.threshold:g}, chosen on the same validation set: Dice {self.dice:.4f}{half}; {text}"
            )
        return f"{text}\n{self.flips_in_words()}" if self.flips != "none" else text

    def source_in_words(self):
        """What a run without a validation set takes from another one, as text."""
        found = [f"temperature {self.temperature:.2f}"]
        found += [f"threshold {self.threshold:g}"] if self.threshold is not None else []
        if self.flips != "none":
            own = f" with threshold {self.flips_threshold:g}" if self.flips_threshold is not None else ""
            found += [f"average over {FLIPS_IN_WORDS[self.flips]}{own}"]
        return f"{', '.join(reversed(found))}: as chosen for {self.source}, since this run has no validation set"

    def flips_in_words(self):
        """What the average over flips is worth, as text."""
        gain = (
            f"Dice {self.flips_dice:.4f} on {self.flips_slices} of these slices, without {self.flips_dice_without:.4f}"
        )
        why = ", since training showed all orientations" if self.flips_dice <= self.flips_dice_without else ""
        return f"averaged over {FLIPS_IN_WORDS[self.flips]}: {gain}; predict.py does so{why} (--flips none is faster)"


class RunSettings(Record):
    """Content of settings.json, as far as other scripts than train.py read it; train.py checks each setting."""

    model_config = ConfigDict(extra="allow")

    format: Literal[1] = 1
    MODEL: str | None = None
    LOSS: str | None = None
    TRAIN: str | None = None
    VALIDATION: str | None = None
    CROP: Annotated[list[PositiveInt], Len(3, 3)] | None = None
    MAX_MINUTES: NonNegative | None = None
    CLASS_NAMES: list[str] | None = None
    reasons: dict[str, str] | None = None


class CrossValidationSettings(RunSettings):
    """Content of cross_validation.json: settings of train.py that all folds share."""

    TRAIN: str


Network = Annotated[tuple[str, Checkpoint], Field(strict=False)]  # JSON has lists only


class ChoiceFile(Record):
    """Content of choice.json: what predict.py uses for a cross-validation.

    Attributes:
        networks: list of (folder of a cross-validation, relative to this one; name in CHECKPOINTS).
        flips: name in `common.prediction.ensemble.TRANSFORMS`.
        clean: dict of arguments for `common.slices.masks.clean`.
        threshold: probability above which a pixel is foreground; None: not chosen.
    """

    format: Literal[1] = 1
    networks: Annotated[list[Network], Field(min_length=1)] = Field([(".", "best_dice")])
    flips: Literal["none", "flips", "turns"] = "none"
    clean: Cleaning = Field({})
    threshold: Threshold | None = None
