"""Augmentation on the fly, from Keras' own layers: the same random change for a slice and its mask."""

import keras
import numpy as np
from keras import layers

# name: function of the amount and of what fills the edges ("constant" black, "nearest", "reflect", "wrap")
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
        settings: dict of a name of LAYERS to its amount, applied in the order given: "flip": "horizontal", "vertical"
            or "horizontal_and_vertical"; "rotation": greatest angle in degrees; "shift", "zoom", "shear",
            "brightness", "contrast": greatest share; "elastic" and "blur": strength. Besides, "fill" says what comes in
            at the edges: "constant" (black, the default), "nearest", "reflect" or "wrap".

    Returns:
        None for no settings; else a function of x (B, H, W, 1) float32 in 0..1, y (B, H, W, 1) uint8 and a list of
        ints to seed it, which returns x and y changed, of the same types. Masks move by nearest neighbour.

    Raises:
        ValueError: for an unknown name or an amount that its layer does not take.
    """
    settings = dict(settings)
    fill = settings.pop("fill", "constant")
    if not settings:
        return None
    unknown = [name for name in settings if name not in LAYERS]
    if unknown:
        raise ValueError(f"AUGMENTATION has {unknown[0]!r}; choose from {', '.join(LAYERS)}, fill")
    steps = []
    for name, amount in settings.items():
        try:
            steps.append(LAYERS[name](amount, fill))
        except (TypeError, ValueError):
            raise ValueError(f"AUGMENTATION: {name} does not take {amount!r}") from None

    def augment(x, y, seeds):
        words = np.random.SeedSequence(seeds).generate_state(len(steps))
        batch = {"images": x, "segmentation_masks": y.astype(np.float32)}
        for step, word in zip(steps, words, strict=True):
            step.generator.state.assign([int(word) >> 1, 0])  # 31 bits, which every backend takes
            batch = step(batch, training=True)
        x, y = (keras.ops.convert_to_numpy(batch[name]) for name in ("images", "segmentation_masks"))
        return np.clip(x, 0, 1, dtype=np.float32), np.rint(y).astype(np.uint8)

    return augment
