"""Augmentation on the fly: the same random change for an image and its mask.

Slices use OpenCV; volumes use an affine transform of SimpleITK.
"""

from typing import NamedTuple

import cv2
import numpy as np

from common.slices.images import by_channels, resize, with_channels

AXES = "xyz"  # left-right, front-back, up-down
VOLUME_SETTINGS = ("rotation", "zoom", "shift", "shear", "flip", "invert", "gamma", "margins", "anywhere", "cluster")


# --- slices


class Kind(NamedTuple):
    """A change of slices.

    Attributes:
        limits: minimum and maximum; 0 changes nothing.
        probability: share of the slices to change, if the setting is a number.
    """

    limits: tuple
    probability: float = 1.0


KINDS = {
    "cutmix": Kind((0, 1)),  # share of the area that comes from another slice
    "turn": Kind((0, 1)),  # a number is the probability of a quarter, half or three-quarter turn
    "rotation": Kind((-360, 360)),  # degrees
    "zoom": Kind((-0.99, 9)),  # 0.2: 1.2 times as large
    "shear": Kind((-1, 1)),  # pixels per pixel, along each axis
    "shift": Kind((-1, 1)),  # share of the side, along each axis
    "elastic": Kind((0, 1000), probability=0.5),  # standard deviation / ELASTIC_SHARE of the side
    "invert": Kind((0, 1)),  # a number is the probability that dark becomes bright, in each channel
    "gamma": Kind((-0.99, 9)),  # 0.5: exponent 1.5, between the minimum and maximum of the slice
    "inverse_gamma": Kind((-0.99, 9)),  # the same on the inverted slice
    "contrast": Kind((-1, 9)),  # 0.2: differences from the mean are 1.2 times as large
    "brightness": Kind((-1, 1)),  # added; white is 1
    "noise": Kind((0, 1)),  # standard deviation; white is 1
    "blur": Kind((0, 100), probability=0.5),  # standard deviation in pixels
    "resolution": Kind((0, 0.99)),  # 0.5: reduced to half the side, and enlarged again
}
MIRRORS = {"": (), "horizontal": (0,), "vertical": (1,), "horizontal_and_vertical": (0, 1)}  # axes x, y
EDGES = {
    "constant": cv2.BORDER_CONSTANT,
    "nearest": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT,
    "wrap": cv2.BORDER_WRAP,
}
NUMBERS = 6  # uniform numbers drawn for each change, whether it is on or off
ELASTIC_SHARE, ELASTIC_CELLS = 0.028, 8  # an elastic change of 1 moves pixels by this share of the side; cells per side

# Probabilities and amounts as in nnU-Net's 2-D training (Isensee et al., doi 10.1038/s41592-020-01008-z), except: flips
# left-right only, rotation up to 30 degrees, shifts in place of random crops, and small shears and elastic changes.
MEDICAL = {
    "flip": "horizontal",
    "rotation": [0.3, -30, 30],
    "zoom": [0.3, -0.3, 0.4],
    "shear": [0.1, -0.1, 0.1],
    "shift": [0.3, -0.1, 0.1],
    "elastic": [0.2, 0.2, 0.8],
    "gamma": [0.3, -0.3, 0.5],
    "inverse_gamma": [0.1, -0.3, 0.5],
    "contrast": [0.15, -0.25, 0.25],
    "brightness": [0.15, -0.1, 0.1],
    "noise": [0.1, 0, 0.06],
    "blur": [0.1, 0.5, 1],
    "resolution": [0.125, 0, 0.5],
    "fill": "reflect",
}
PRESETS = {"medical": MEDICAL}


def make_augmentation(setting):
    """Make a function that augments slices.

    Args:
        setting: a name in PRESETS, or a dict of a name in KINDS to its amount: [probability, lowest, highest], or a
            number a: -a to a (0 to a if only that makes sense), for every slice (elastic, blur: every other one);
            None or 0: off. "flip": a name in MIRRORS, each axis with probability 0.5; "fill" fills the edges: a name in
            EDGES, "constant" (black) by default; "preset": a name in PRESETS, which the other keys change.

    Returns:
        None if nothing changes; else SliceAugmentation.

    Raises:
        ValueError: for an unknown name, or an amount out of range.
    """
    settings = dict(PRESETS[setting] if isinstance(setting, str) else setting)
    settings = PRESETS.get(settings.pop("preset", None), {}) | settings
    mirrors, edge = settings.pop("flip", None) or "", settings.pop("fill", "constant")
    if mirrors not in MIRRORS or edge not in EDGES:
        name, found, known = ("flip", mirrors, MIRRORS) if mirrors not in MIRRORS else ("fill", edge, EDGES)
        choices = " or ".join(f'"{choice}"' for choice in known if choice)
        raise ValueError(f"AUGMENTATION: expected {choices} for {name} (found {found!r})")
    ranges = {name: _as_range(name, amount) for name, amount in settings.items() if amount}
    ranges = {name: amounts for name, amounts in ranges.items() if amounts[0] > 0 and any(amounts[1:])}
    return SliceAugmentation(ranges, mirrors, edge) if ranges or mirrors else None


def _as_range(name, amount):
    """(probability, lowest, highest) of a change; raises ValueError."""
    if name not in KINDS:
        raise ValueError(f"AUGMENTATION: unknown key {name!r} for slices; choose from flip, {', '.join(KINDS)}, fill")
    (low, high), probability = KINDS[name]
    if isinstance(amount, int | float):
        amount = [amount, 1, 1] if name in ("turn", "invert") else [probability, max(-amount, low), amount]
    if len(amount) != 3 or not 0 <= amount[0] <= 1 or not low <= amount[1] <= amount[2] <= high:
        expected = f"[probability, lowest, highest] from {low:g} to {high:g}"
        raise ValueError(f"AUGMENTATION: expected {expected} for {name} (found {amount!r})")
    return tuple(amount)


class SliceAugmentation:
    """Random changes of slices; arguments as `make_augmentation` finds them.

    Args:
        ranges: dict of a name in KINDS to (probability, lowest, highest).
        mirrors: name in MIRRORS.
        edge: name in EDGES.
    """

    def __init__(self, ranges, mirrors, edge):
        self.ranges, self.mirrors, self.edge = ranges, MIRRORS[mirrors], EDGES[edge]

    def __call__(self, x, y, seeds, other=None):
        """Change a slice with its mask.

        Args:
            x: image, (H, W, C) float32 in 0..1.
            y: mask, (H, W, 1) uint8.
            seeds: list of ints; all random numbers follow from them.
            other: function of a number in 0..1 that returns x and y of another slice, for "cutmix"; None: no cut-mix.

        Returns:
            x and y, of the same shapes and types. y has values of the masks only, and 0 if "fill" is "constant".
        """
        rng = np.random.default_rng(seeds)
        drawn = dict(zip((*KINDS, "flip"), rng.random((len(KINDS) + 1, NUMBERS)), strict=True))
        amounts = {}
        for name, (probability, low, high) in self.ranges.items():
            if drawn[name][0] < probability:
                amounts[name] = low + (high - low) * drawn[name][1:3]
        if "cutmix" in amounts and other:
            x, y = _cut_and_mix(x, y, *other(drawn["cutmix"][3]), amounts["cutmix"][0], drawn["cutmix"][4:6])
        mirrored = [axis in self.mirrors and drawn["flip"][axis] < 0.5 for axis in (0, 1)]
        matrix = inverse_matrix(amounts, mirrored, 1 + int(3 * drawn["turn"][3]), x.shape)
        places = None
        if "elastic" in amounts:
            places = places_of(matrix, elastic_field(rng, amounts["elastic"][0], x.shape))
        x = warp(x, matrix, places, self.edge, cv2.INTER_LINEAR)
        y = warp(y, matrix, places, self.edge, cv2.INTER_NEAREST)
        return _change_values(x, amounts, rng), y


def inverse_matrix(amounts, mirrored, turns, shape):
    """Affine map from a place in the augmented slice to its place in the slice, around the center.

    Args:
        amounts: dict of a name in KINDS to two values; missing: unchanged.
        mirrored: whether to mirror x (left-right) and y.
        turns: quarter turns for "turn".
        shape: shape of the slice, (H, W, ...).

    Returns:
        (2, 3) float64, for (x, y, 1).
    """
    size = np.array(shape[1::-1], float)
    center = (size - 1) / 2
    matrix = np.eye(2)
    if "rotation" in amounts:
        angle = np.deg2rad(amounts["rotation"][0])
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if "shear" in amounts:
        matrix = matrix @ [[1, amounts["shear"][0]], [amounts["shear"][1], 1]]
    if "turn" in amounts:
        matrix = matrix @ np.linalg.matrix_power([[0, -1], [1, 0]], turns)  # whole numbers, so pixels stay exact
    matrix = matrix @ np.diag(np.where(mirrored, -1, 1)) / (1 + amounts.get("zoom", [0])[0])
    shift = np.array(amounts.get("shift", (0, 0))) * size
    return np.column_stack([matrix, center - matrix @ (center + shift)])


def elastic_field(rng, amount, shape):
    """Smooth random displacement of every pixel.

    Args:
        rng: numpy.random.Generator.
        amount: standard deviation of each component, in units of ELASTIC_SHARE of the side.
        shape: shape of the slice, (H, W, ...).

    Returns:
        (H, W, 2) float32, (x, y) in pixels; independent values for each of ELASTIC_CELLS per side, interpolated.
    """
    coarse = rng.standard_normal((ELASTIC_CELLS, ELASTIC_CELLS, 2), np.float32)
    scale = ELASTIC_SHARE * np.float32(amount) * max(shape[:2])
    return cv2.resize(coarse * scale, shape[1::-1], interpolation=cv2.INTER_CUBIC)


def places_of(matrix, moved):
    """Place in the slice of every pixel of the augmented slice.

    Args:
        matrix: result of `inverse_matrix`.
        moved: result of `elastic_field`, added to the places.

    Returns:
        x and y in pixels, (H, W) float32.
    """
    column, row = np.arange(moved.shape[1], dtype=np.float32), np.arange(moved.shape[0], dtype=np.float32)[:, None]
    return [moved[..., i] + (a * column + c) + b * row for i, (a, b, c) in enumerate(matrix.astype(np.float32))]


def warp(array, matrix, places, edge, method):
    """Move the pixels of a slice or mask.

    Args:
        array: (H, W, C) float32 or uint8.
        matrix: result of `inverse_matrix`.
        places: result of `places_of`, which is used instead of the matrix; None: only the matrix.
        edge: OpenCV's border mode.
        method: OpenCV's interpolation: nearest neighbor for masks.

    Returns:
        New array of the same shape and type, or the same array if nothing moves.
    """
    if places is not None:
        return by_channels(lambda channels: cv2.remap(channels, *places, method, borderMode=edge), array)
    if np.array_equal(matrix, np.eye(2, 3)):
        return array
    size, flags = array.shape[1::-1], method | cv2.WARP_INVERSE_MAP
    return by_channels(lambda channels: cv2.warpAffine(channels, matrix, size, flags=flags, borderMode=edge), array)


def _cut_and_mix(x, y, other_x, other_y, share, place):
    """Replace a rectangle of a share of the area, at a place in 0..1, by the same one of another slice."""
    size = np.array(x.shape[:2])
    side = np.rint(size * np.sqrt(share)).astype(int)
    top, left = np.rint(place * (size - side)).astype(int)
    box = np.s_[top : top + side[0], left : left + side[1]]
    x, y = x.copy(), y.copy()
    x[box], y[box] = other_x[box], other_y[box]
    return x, y


def _change_values(x, amounts, rng):
    """Change the gray values of a slice, (H, W, C) float32 in 0..1, by the amounts of the other changes."""
    shape = x.shape
    if "invert" in amounts:
        x = invert(with_channels(x))
    for name, inverted in (("gamma", False), ("inverse_gamma", True)):
        if name in amounts:
            x = apply_gamma(x, 1 + amounts[name][0], inverted)
    if "contrast" in amounts:
        mean, factor = np.float32(x.mean()), np.float32(1 + amounts["contrast"][0])
        x = x * factor + mean * (1 - factor)
    if "brightness" in amounts:
        x = x + np.float32(amounts["brightness"][0])
    if "resolution" in amounts:
        smaller = [max(1, round(side * (1 - amounts["resolution"][0]))) for side in shape[:2]]
        x = resize(resize(x, smaller, cv2.INTER_AREA), shape[:2], cv2.INTER_CUBIC)
    if "blur" in amounts and amounts["blur"][0] > 0:
        x = cv2.GaussianBlur(x, (0, 0), amounts["blur"][0], borderType=cv2.BORDER_REFLECT)
    if "noise" in amounts:
        x = with_channels(x) + np.float32(amounts["noise"][0]) * rng.standard_normal(shape, np.float32)
    return np.clip(with_channels(x), 0, 1)


def invert(x):
    """Turn the values of each channel of an image (..., C) around, between its minimum and maximum."""
    axes = tuple(range(x.ndim - 1))
    return x.min(axis=axes) + x.max(axis=axes) - x


def apply_gamma(x, exponent, inverted):
    """Apply gamma to a slice, float32, between its minimum and maximum; inverted: from its maximum down."""
    low, high = float(x.min()), float(x.max())
    if high <= low:
        return x
    start, span = (high, low - high) if inverted else (low, high - low)
    unit = np.maximum((x - np.float32(start)) * np.float32(1 / span), 0)
    return cv2.pow(unit, exponent).reshape(x.shape) * np.float32(span) + np.float32(start)


# --- volumes


def check_volume_augmentation(settings, step):
    """Raise ValueError for a setting that `VolumeChange` does not accept.

    Args:
        settings: setting AUGMENTATION.
        step: step of the packed volumes.
    """
    if unknown := [name for name in settings if name not in VOLUME_SETTINGS]:
        known = ", ".join(VOLUME_SETTINGS)
        raise ValueError(f"AUGMENTATION: unknown key {unknown[0]!r} for volumes; choose from {known}")
    for name, high in {"rotation": 180, "zoom": 0.9, "shift": 1, "shear": 1, "gamma": 1, "invert": 1}.items():
        amount = settings.get(name, 0)
        if not isinstance(amount, int | float) or not 0 <= amount <= high:
            raise ValueError(f"AUGMENTATION: expected 0 to {high} for {name} (found {amount!r})")
    if not isinstance(flip := settings.get("flip", ""), str) or set(flip) - set(AXES):
        raise ValueError(f'AUGMENTATION: expected axes for flip, such as "x" (left-right) or "xyz" (found {flip!r})')
    margins = settings.get("margins", [])
    if not isinstance(margins, list) or not all(isinstance(m, int | float) and 0 <= m <= 2 for m in margins):
        raise ValueError(f"AUGMENTATION: expected a list of shares for margins, such as [0.1, 0.2] (found {margins!r})")
    if margins and step != "patch":
        raise ValueError(f'AUGMENTATION: margins are for the step "patch" only (found "{step}"); remove them')
    for name in ("anywhere", "cluster"):
        share = settings.get(name, 0)
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ValueError(f"AUGMENTATION: expected a share from 0 to 1 for {name} (found {share!r})")
        if share and step != "patch":
            raise ValueError(f'AUGMENTATION: {name} is for the step "patch" only (found "{step}"); remove it')


class VolumeChange:
    """A random change of a volume.

    Args:
        settings: dict of a name in VOLUME_SETTINGS to its amount. "rotation": maximum angle in degrees around each
            axis; "zoom", "shear": maximum share; "shift": maximum share of the grid size; "flip": axes in AXES along
            which half of the cases are mirrored; "invert": share of the cases whose values are turned around;
            "gamma": maximum difference of the exponent from 1.
        rng: numpy.random.Generator; the same number of values is always drawn from it.
    """

    def __init__(self, settings, rng):
        self.angles = np.deg2rad(settings.get("rotation", 0)) * rng.uniform(-1, 1, 3)
        self.scale = 1 + settings.get("zoom", 0) * rng.uniform(-1, 1)
        self.shear = settings.get("shear", 0) * rng.uniform(-1, 1, 3)
        self.shift = settings.get("shift", 0) * rng.uniform(-1, 1, 3)
        mirrored = (rng.random(3) < 0.5) & [axis in settings.get("flip", "") for axis in AXES]
        self.signs = np.where(mirrored, -1, 1)
        self.exponent = 1 + settings.get("gamma", 0) * rng.uniform(-1, 1)
        self.inverts = rng.random() < settings.get("invert", 0)

    def transform(self, geometry):
        """Transform from points in the augmented volume to points in the volume, around the center of a grid.

        Args:
            geometry: `common.volumes.grids.Geometry` of the grid.

        Returns:
            SimpleITK.AffineTransform, or None if nothing moves.
        """
        import SimpleITK as sitk  # not needed for slices

        size = np.array(geometry.size)
        (center,) = geometry.to_points([(size - 1) / 2])
        turns = np.eye(3)
        for axis, angle in enumerate(self.angles):
            a, b = (axis + 1) % 3, (axis + 2) % 3
            turn = np.eye(3)
            turn[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
            turns = turns @ turn
        shear = np.eye(3)
        shear[[0, 0, 1], [1, 2, 2]] = self.shear
        matrix = turns @ shear @ np.diag(self.signs) / self.scale
        shift = self.shift * size * geometry.spacing
        if np.array_equal(matrix, np.eye(3)) and not shift.any():
            return None
        transform = sitk.AffineTransform(3)
        transform.SetMatrix(matrix.ravel().tolist())
        transform.SetCenter(center.tolist())
        transform.SetTranslation(shift.tolist())
        return transform

    def change_values(self, image):
        """Invert each channel of an image (S, H, W, C) float32, and apply gamma, between its minimum and maximum."""
        if self.inverts:
            image = invert(image)
        if self.exponent == 1:
            return image
        low, high = (f(image, axis=(0, 1, 2)) for f in (np.min, np.max))
        span = np.where(high > low, high - low, 1).astype(np.float32)
        return ((image - low) / span) ** np.float32(self.exponent) * span + low
