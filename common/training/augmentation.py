"""Augmentation on the fly: the same random change for an image and its mask.

Slices use Keras layers; volumes use an affine transform.
"""

import keras
import numpy as np
from keras import layers

AXES = "xyz"  # left-right, front-back, up-down
VOLUME_SETTINGS = ("rotation", "zoom", "shift", "shear", "flip", "gamma", "margins")

# name: function of the amount and the edge fill ("constant" (black), "nearest", "reflect", "wrap")
LAYERS = {
    "flip": lambda mode, fill: layers.RandomFlip(mode),
    "rotation": lambda degrees, fill: layers.RandomRotation(degrees / 360, fill_mode=fill),
    "shift": lambda share, fill: layers.RandomTranslation(share, share, fill_mode=fill),
    "zoom": lambda share, fill: layers.RandomZoom(share, fill_mode=fill),
    "shear": lambda share, fill: layers.RandomShear(share, share, fill_mode=fill),
    "elastic": lambda strength, fill: layers.RandomElasticTransform(1.0, strength, fill_mode=fill),
    "brightness": lambda share, fill: layers.RandomBrightness(share, value_range=(0, 1)),
    "contrast": lambda share, fill: layers.RandomContrast(share, value_range=(0, 1)),
    "blur": lambda sigma, fill: layers.RandomGaussianBlur(1.0, sigma=sigma, value_range=(0, 1)),
}


def make_augmentation(settings):
    """Make a function that augments batches.

    Args:
        settings: dict of a name in LAYERS to its amount, applied in this order. "flip": "horizontal", "vertical" or
            "horizontal_and_vertical"; "rotation": maximum angle in degrees; "shift", "zoom", "shear", "brightness",
            "contrast": maximum share; "elastic", "blur": strength. "fill" fills the edges: "constant" (black, the
            default), "nearest", "reflect" or "wrap".

    Returns:
        None without settings; else a function that accepts x (B, H, W, 1) float32 in 0..1, y (B, H, W, 1) uint8 and a
        list of ints as seed. It returns x and y augmented, with the same types. Masks use nearest neighbor.

    Raises:
        ValueError: for an unknown name, or an amount that its layer does not accept.
    """
    settings = dict(settings)
    fill = settings.pop("fill", "constant")
    if not settings:
        return None
    unknown = [name for name in settings if name not in LAYERS]
    if unknown:
        raise ValueError(f"AUGMENTATION: unknown key {unknown[0]!r}; choose from {', '.join(LAYERS)}, fill")
    augmenters = []
    for name, amount in settings.items():
        try:
            augmenters.append(LAYERS[name](amount, fill))
        except (TypeError, ValueError):
            raise ValueError(f"AUGMENTATION: invalid value for {name} (found {amount!r})") from None

    def augment(x, y, seeds):
        words = np.random.SeedSequence(seeds).generate_state(len(augmenters))
        batch = {"images": x, "segmentation_masks": y.astype(np.float32)}
        for layer, word in zip(augmenters, words, strict=True):
            layer.generator.state.assign([int(word) >> 1, 0])  # 31 bits, which every backend accepts
            batch = layer(batch, training=True)
        x, y = (keras.ops.convert_to_numpy(batch[name]) for name in ("images", "segmentation_masks"))
        return np.clip(x, 0, 1, dtype=np.float32), np.rint(y).astype(np.uint8)

    return augment


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
    for name, low, high in (("rotation", 0, 180), ("zoom", 0, 0.9), ("shift", 0, 1), ("shear", 0, 1), ("gamma", 0, 1)):
        amount = settings.get(name, low)
        if not isinstance(amount, int | float) or not low <= amount <= high:
            raise ValueError(f"AUGMENTATION: expected {low} to {high} for {name} (found {amount!r})")
    if not isinstance(flip := settings.get("flip", ""), str) or set(flip) - set(AXES):
        raise ValueError(f'AUGMENTATION: expected axes for flip, such as "x" (left-right) or "xyz" (found {flip!r})')
    margins = settings.get("margins", [])
    if not isinstance(margins, list) or not all(isinstance(m, int | float) and 0 <= m <= 2 for m in margins):
        raise ValueError(f"AUGMENTATION: expected a list of shares for margins, such as [0.1, 0.2] (found {margins!r})")
    if margins and step != "patch":
        raise ValueError(f'AUGMENTATION: margins are for the step "patch" only (found "{step}"); remove them')


class VolumeChange:
    """A random change of a volume.

    Args:
        settings: dict of a name in VOLUME_SETTINGS to its amount. "rotation": maximum angle in degrees around each
            axis; "zoom", "shear": maximum share; "shift": maximum share of the grid size; "flip": axes in AXES along
            which half of the cases are mirrored; "gamma": maximum difference of the exponent from 1.
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

    def apply_gamma(self, image):
        """Apply gamma to each channel of an image (S, H, W, C) float32, between its minimum and maximum."""
        if self.exponent == 1:
            return image
        low, high = (f(image, axis=(0, 1, 2)) for f in (np.min, np.max))
        span = np.where(high > low, high - low, 1).astype(np.float32)
        return ((image - low) / span) ** np.float32(self.exponent) * span + low
