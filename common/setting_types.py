"""Types of settings, to annotate the constants of a script.

Numbers are finite, text does not count as a number, and a dict has only the keys of its type. This module loads neither
pydantic nor Keras, so that `--help` is fast.
"""

import math
import re
from typing import Annotated, Any, Literal, NotRequired

from annotated_types import Ge, Gt, Le, Len, Lt
from typing_extensions import TypedDict

from common.setting_checks import Rule, is_plain, strict

# --- numbers and text

Count = Annotated[int, Ge(0), Le(10**9)]
PositiveInt = Annotated[int, Ge(1), Le(10**9)]
Seed = Annotated[int, Ge(0), Lt(2**32)]
Side = Annotated[int, Ge(8), Le(8192)]  # side length of an image in pixels
Positive = Annotated[float, Gt(0), Le(10**9)]
NonNegative = Annotated[float, Ge(0), Le(10**9)]
Value = Annotated[float, Ge(-(10**12)), Le(10**12)]  # of a voxel or a pixel, such as HU
Share = Annotated[float, Ge(0), Le(1)]
ShareBelowOne = Annotated[float, Ge(0), Lt(1)]
ShareOfHalf = Annotated[float, Ge(0), Le(0.5)]
Gray = Annotated[int, Ge(0), Lt(2**16)]  # 16-bit gray level
PathName = Annotated[str, Rule("a path", lambda text: bool(text.strip()))]
PathNames = PathName | Annotated[list[PathName], Len(1, 100)]  # one path, or several
DataSetName = Annotated[
    str,
    Rule(
        'a folder whose name is Dataset, three digits, _ and a name, such as "Dataset001_Liver"',
        lambda text: "\0" not in text and bool(re.fullmatch(r"(.*[/\\])?Dataset\d{3}_\w+[/\\]?", text, re.ASCII)),
    ),
]
ChannelName = Annotated[
    str, Rule('a name, such as "CT" or "T2"', lambda text: text.isprintable() and bool(text.strip()))
]
PageName = Annotated[str, Rule('the path of an .html file, such as "check.html"', lambda name: name.endswith(".html"))]
TableName = Annotated[str, Rule("the path of a .csv file", lambda name: name.lower().endswith(".csv"))]
NamePattern = Annotated[
    str, Rule('text with one {id}, such as "{id}_seg"', lambda text: text.count("{id}") == 1 and _is_format(text))
]
LabelPattern = Annotated[
    str,
    Rule(
        'text with one {id} and at most one {class}, such as "{id}_seg" or "{id}_{class}"',
        lambda text: text.count("{id}") == 1 and text.count("{class}") < 2 and _is_format(text.replace("{class}", "")),
    ),
]
Neighbors = Annotated[int, Ge(0), Le(16)]
Channels = Literal["gray", "rgb"] | Annotated[list[NamePattern], Len(1, 64)]
FileName = Annotated[
    str, Rule('a file name with at most one {id}, such as "{id}_t1"', lambda text: bool(text) and _is_file_name(text))
]
FileChannels = Annotated[list[FileName], Len(0, 64)]
PORT = r"(\d{1,4}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5])"  # 0..65535
ADDRESS = re.compile(rf"(tcp|tls|ucx)://\S+:{PORT}|")
SCHEDULER = '"" or the address of a Dask scheduler, such as "tcp://10.0.0.1:8786"'
Workers = Annotated[int, Ge(1), Le(1024)] | Annotated[str, Rule(SCHEDULER, ADDRESS.fullmatch)]
Names = list[Annotated[str, Rule("a name", bool)]]


def _is_file_name(text):
    return not set(text) & set("/\\\0") and text.count("{id}") < 2


def _is_format(text):
    rest = text.replace("{id}", "")
    return "{" not in rest and "}" not in rest


# --- choices that several scripts offer

Plane = Literal["axial", "coronal", "sagittal"]
WeightsFile = Literal["best_dice", "best_iou", "last"]
Schedule = Literal["constant", "poly", "graph", "cosine"]
VolumeEnding = Literal[".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ""]
CaseNames = Literal["numbers", "folder"]
Folds = Annotated[int, Ge(0), Le(1000), Rule("0, or a whole number of at least 2", lambda count: count != 1)]
Filters = Annotated[list[Literal["O", "A", "B", "C", "D"]], Len(1)]
SHAPES = ("", "HT", "WD", "DKP", "DKM", "HSR", "HSL", "RTP", "RTM", "CP0", "CP1", "CP2", "CP3", "CP4")
Shape = Annotated[str, Rule(f"one of {', '.join(map(repr, SHAPES))}", lambda name: name.removeprefix("_") in SHAPES)]
Shapes = Annotated[list[Shape], Len(1)]

# --- lists

Sigmas = Annotated[
    list[NonNegative],
    Len(2, 2),
    Rule("two numbers, up to 100 and up to 20", lambda pair: len(pair) == 2 and pair[0] <= 100 and pair[1] <= 20),
]
Window = Annotated[list[Value], Len(2, 2), Rule("[low, high] with low < high", lambda pair: pair[0] < pair[1])]
Percentiles = Annotated[
    list[float], Len(2, 2), Rule("[low, high] with 0 <= low < high <= 100", lambda pair: 0 <= pair[0] < pair[1] <= 100)
]
Millimeters = Annotated[float, Ge(1e-6), Le(1e4)]
SpacingOfAxes = Annotated[
    list[Millimeters | None], Len(3, 3), Rule("three numbers (left, back, head) such as [0.7, 0.7, 5]", bool)
]
Spacing = Millimeters | SpacingOfAxes  # mm
WindowOrNone = Annotated[
    list[Value],
    Rule("[low, high] with low < high, or []", lambda pair: not pair or (len(pair) == 2 and pair[0] < pair[1])),
]
RisingSizes = Annotated[
    list[Positive],
    Len(0, 10),
    Rule("rising numbers such as [5, 10, 20]", lambda sizes: sizes == sorted(set(sizes))),
]
PositivePair = Annotated[list[Positive], Len(2, 2)]
PixelSpacing = Millimeters | Annotated[list[Millimeters], Len(2, 2)]
Crop = Annotated[
    list[Annotated[int, Ge(8), Le(4096)]],
    Len(3, 3),
    Rule("three whole numbers from 8 to 4096 with a product up to 2**28", lambda sides: math.prod(sides) <= 2**28),
]  # voxels (up, back, left)

# --- masks and volumes

Description = Annotated[str, Rule("a part of a description", re.compile(r".*[^-+\d.\s]", re.DOTALL).match)]
Series = PositiveInt | Description

MaskValues = Annotated[
    dict[Gray, Annotated[int, Ge(0), Le(255)]],
    Rule(
        "a dict that maps gray values to 0..99 or 255, such as {1: 255}",
        lambda values: values and not set(values.values()) & set(range(100, 255)),
    ),
]
MaskColors = Annotated[
    dict[str, Annotated[int, Ge(1), Le(99)]],
    Rule(
        'a dict that maps colors to classes, such as {"#ff0000": 1}',
        lambda colors: all(re.fullmatch("#[0-9a-f]{6}", color) for color in colors),
    ),
]
_NumbersOfRegions = dict[Annotated[str, Rule("a name", bool)], Annotated[list[Annotated[int, Ge(1), Le(99)]], Len(1)]]
_A_DICT_OF_REGIONS = 'a dict of names to lists of numbers, such as {"whole": [1, 2], "core": [2]}'
NamedRegions = Annotated[_NumbersOfRegions, Rule(_A_DICT_OF_REGIONS, bool)]
Regions = Literal["nested"] | Annotated[_NumbersOfRegions, Rule(_A_DICT_OF_REGIONS, bool)]
ClassNumbers = Annotated[
    dict[Annotated[str, Rule("a name", bool)], Annotated[int, Ge(1), Le(99)]],
    Rule('a dict that maps names to classes 1..99, such as {"liver": 1}', lambda classes: all(map(str.strip, classes))),
]
LabelValues = Annotated[
    dict[int, Annotated[int, Ge(0), Le(99)]], Rule("a dict that maps label values to 0..99, such as {5: 1}", bool)
]
Median = Annotated[int, Ge(0), Le(999), Rule("0 or an odd number", lambda side: side == 0 or side % 2 == 1)]


@strict
class Cleaning(TypedDict, total=False):
    """Arguments of `common.slices.masks.clean`."""

    median: Median
    share: Share
    near: NonNegative
    smallest: Count
    fill: bool


@strict
class Intensity(TypedDict):
    """CT window and standardization; mean and sd after scaling low..high to 0..1."""

    low: Value
    high: Value
    mean: Value
    sd: Positive


@strict
class ModelCard(TypedDict, total=False):
    """What only the user can say about a model; see `coreml.card`."""

    link: str
    limitations: str
    indications: str
    training_data: str
    modalities: list[str]
    contact: str
    version: str


# --- networks, losses and optimizers

FreeDict = Annotated[dict[str, Any], Rule("a dict that maps names to numbers, strings, lists or dicts", is_plain)]

NetworkFile = Annotated[str, Rule('the path of a .py file, such as "my_network.py"', lambda name: name.endswith(".py"))]
SliceNetwork = Literal[
    "unet", "cvnet_synapse", "cvnet_synapse_512", "deeplab_v3plus", "pretrained_unet", "crop_classifier"
]
Network = Literal[SliceNetwork, "se_resunet3d", "unet3d"] | NetworkFile  # the names in models.NETWORKS
TERMS = ("mse", "log_cosh", "kld", "bce", "weighted_bce", "cce", "focal", "constrained_focal", "hausdorff")
TERMS += ("dice", "batch_dice", "smooth_dice", "smooth_batch_dice", "iou", "tversky", "focal_tversky")


def is_loss(name):
    terms = name.split("+")
    known = all(term in (*TERMS, "series") or term.endswith(".py") for term in terms)
    return known and len(set(terms)) == len(terms)


Loss = Annotated[
    str,
    Rule(
        f"one of {', '.join([*TERMS, 'series'])}, a .py file, or a sum of different ones such as 'bce+dice'",
        is_loss,
    ),
]  # the names in losses.TERMS
LearningRates = Annotated[
    list[Positive],
    Len(1, 2),
    Rule("[lowest, highest] or [rate], positive numbers", lambda rates: rates[0] <= rates[-1]),
]
Precision = Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"]


@strict
class UnetSettings(TypedDict, total=False):
    features: Annotated[int, Ge(1), Le(1024)]
    depth: Annotated[int, Ge(1), Le(10)]
    dropout: ShareBelowOne
    dropout_levels: Count
    normalisation: bool
    upsampling: Literal["transposed", "nearest", "bilinear"]
    initializer: Literal["glorot_uniform", "he_normal", "he_uniform"]
    l2: Share
    padding: Literal["same", "valid"]


@strict
class SynapseSettings(TypedDict, total=False):
    width: Annotated[float, Gt(0), Le(4)]
    dropout: ShareBelowOne
    parallel_dropout: ShareBelowOne
    spatial_dropout: ShareBelowOne
    parallel_spatial_dropout: ShareBelowOne
    pooling: bool
    noise: Annotated[float, Ge(0), Le(10)]


@strict
class DeeplabSettings(TypedDict, total=False):
    backbone: Literal["xception", "mobilenetv2", "resnet50"]
    backbone_weights: str | None
    output_stride: Literal[8, 16] | None
    alpha: Annotated[float, Gt(0), Le(4)]
    dropout: ShareBelowOne
    momentum: Annotated[float, Gt(0), Lt(1)]


@strict
class PretrainedUnetSettings(TypedDict, total=False):
    encoder: Literal["efficientnet_lite0", "efficientnetv2-b0", "mobilenetv2", "resnet50"]
    encoder_weights: str | None
    features: Annotated[int, Ge(1), Le(256)]
    dropout: ShareBelowOne


@strict
class CropClassifierSettings(TypedDict, total=False):
    features: Annotated[int, Ge(1), Le(1024)]
    depth: Annotated[int, Ge(1), Le(10)]
    dropout: ShareBelowOne


@strict
class SeResunetSettings(TypedDict, total=False):
    spacing: Annotated[list[Annotated[float, Gt(0), Le(1e4)]], Len(3, 3)]
    features: Annotated[int, Ge(1), Le(1024)]
    depth: Annotated[int, Ge(1), Le(8)]
    ratio: PositiveInt
    squeeze: bool
    noise: Annotated[float, Ge(0), Le(10)]
    roi: bool
    last_relu: bool


@strict
class Unet3dSettings(TypedDict, total=False):
    spacing: Annotated[list[Annotated[float, Gt(0), Le(1e4)]], Len(3, 3)]
    size: Annotated[list[Annotated[int, Ge(1), Le(100_000)]], Len(3, 3)]
    features: Annotated[int, Ge(1), Le(320)]
    depth: Annotated[int, Ge(1), Le(8)]
    deep_supervision: bool


MODEL_SETTINGS = {
    "unet": UnetSettings,
    "cvnet_synapse": SynapseSettings,
    "cvnet_synapse_512": SynapseSettings,
    "deeplab_v3plus": DeeplabSettings,
    "pretrained_unet": PretrainedUnetSettings,
    "crop_classifier": CropClassifierSettings,
    "se_resunet3d": SeResunetSettings,
    "unet3d": Unet3dSettings,
}  # keyword arguments of each build_model; your own file can accept any

OPTIMIZERS = ("adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "ftrl", "lamb", "lion", "muon", "nadam")
OPTIMIZERS += ("rmsprop", "sgd")
OptimizerName = Annotated[
    str, Rule("the name of a Keras optimizer such as 'adam' or 'sgd'", lambda name: name.lower() in OPTIMIZERS)
]


@strict
class Optimizer(TypedDict):
    """Name and arguments of a Keras optimizer."""

    name: OptimizerName
    learning_rate: NotRequired[Positive]
    momentum: NotRequired[Share]
    nesterov: NotRequired[bool]
    beta_1: NotRequired[Share]
    beta_2: NotRequired[Share]
    rho: NotRequired[Share]
    epsilon: NotRequired[Positive]
    amsgrad: NotRequired[bool]
    centered: NotRequired[bool]
    weight_decay: NotRequired[NonNegative | None]
    clipnorm: NotRequired[Positive | None]
    clipvalue: NotRequired[Positive | None]
    global_clipnorm: NotRequired[Positive | None]
    use_ema: NotRequired[bool]
    ema_momentum: NotRequired[Share]
    ema_overwrite_frequency: NotRequired[PositiveInt | None]
    initial_accumulator_value: NotRequired[NonNegative]
    gradient_accumulation_steps: NotRequired[Annotated[int, Ge(2)] | None]


@strict
class ScheduleSettings(TypedDict, total=False):
    """Keyword arguments of `common.training.optimizer.learning_rate`."""

    power: Positive
    points: Annotated[
        list[Annotated[list[NonNegative], Len(2, 2)]], Len(2), Rule("at least two pairs [epoch, learning rate]", bool)
    ]
    period: Count
    factor: Positive
    lowest: NonNegative
    warm_up: Count
    skip: Count


@strict
class ControllerSettings(TypedDict, total=False):
    """Keyword arguments of `common.training.optimizer.Controller`."""

    step: PositivePair
    patience: Annotated[list[PositiveInt], Len(2, 2)]
    limit: PositivePair


Chance = Annotated[
    list[float],
    Len(3, 3),
    Rule(
        "[probability, lowest, highest] with a probability from 0 to 1 and lowest <= highest",
        lambda three: 0 <= three[0] <= 1 and three[1] <= three[2],
    ),
]


@strict
class Augmentation(TypedDict, total=False):
    """Amounts for `common.training.augmentation`, for slices and volumes; [probability, ...] is for slices only."""

    preset: Literal["medical"]
    flip: Annotated[
        str,
        Rule(
            '"horizontal", "vertical" or "horizontal_and_vertical"; for volumes, axes such as "x" or "xyz"',
            lambda axes: axes in ("horizontal", "vertical", "horizontal_and_vertical") or (set(axes) <= set("xyz")),
        ),
    ]
    turn: Share
    rotation: Annotated[float, Ge(0), Le(360)] | Chance
    shift: Share | Chance
    zoom: ShareBelowOne | Chance
    shear: Share | Chance
    elastic: Annotated[float, Ge(0), Le(1000)] | Chance
    invert: Share
    gamma: Share | Chance
    inverse_gamma: Share | Chance
    brightness: Share | Chance
    contrast: Share | Chance
    noise: Share | Chance
    blur: Annotated[float, Ge(0), Le(100)] | Chance
    resolution: ShareBelowOne | Chance
    cutmix: Share | Chance
    fill: Literal["constant", "nearest", "reflect", "wrap"]
    margins: list[Annotated[float, Ge(0), Le(2)]]
    anywhere: Share
    cluster: Share
