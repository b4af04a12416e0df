"""Small drawn volumes with labels, for the tests of the 3-D way. No patient is in them."""

import json

import numpy as np
import SimpleITK as sitk

from common.grids import Geometry, image_at

STRAIGHT = tuple(np.eye(3).ravel())
TURNED = (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)  # a quarter turn about the axis of the body


def ball(shape, centre, radius, spacing):
    """Mask (k, j, i) of a ball, its centre in voxels (i, j, k) and radius and spacing (i, j, k) in mm."""
    grid = np.meshgrid(*map(np.arange, shape), indexing="ij")[::-1]
    return sum(((g - c) * mm) ** 2 for g, c, mm in zip(grid, centre, spacing, strict=True)) <= radius**2


def draw_case(seed, size=(30, 28, 20), spacing=(1.0, 1.1, 1.6), channels=1, direction=None):
    """An organ (1) with a lesion (2) in noise.

    Returns:
        image, SimpleITK.Image of 3 axes or, with channels, 4; labels, SimpleITK.Image uint8.
    """
    rng = np.random.default_rng(seed)
    shape = size[::-1]
    centre = np.array(size) / 2 + rng.uniform(-2, 2, 3)
    labels = ball(shape, centre, 8, spacing).astype(np.uint8)
    labels[ball(shape, centre + 2, 3.5, spacing)] = 2
    geometry = Geometry(size, spacing, tuple(rng.uniform(-90, 90, 3)), direction or STRAIGHT)
    images = []
    for channel in range(channels):
        grey = np.array([100, 300, 500])[labels] * (channel + 1) + rng.normal(0, 25, shape)
        images.append(image_at(grey.astype(np.int16), geometry))
    return (sitk.JoinSeries(images) if channels > 1 else images[0]), image_at(labels, geometry)


def write_decathlon(root, cases=4, test=0, channels=1, modality="MRI"):
    """A data set with dataset.json; every second case has its axes turned."""
    for number in range(1, cases + test + 1):
        kind = "Tr" if number <= cases else "Ts"
        size = (30 - number % 3, 28 + number % 2, 20)
        image, labels = draw_case(number, size, channels=channels, direction=TURNED if number % 2 else None)
        for what, volume in (("images", image), ("labels", labels)):
            folder = root / f"{what}{kind}"
            folder.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(volume, str(folder / f"case_{number:02d}.nii.gz"))
    names = [f"case_{number:02d}.nii.gz" for number in range(1, cases + 1)]
    about = {
        "modality": {str(channel): modality for channel in range(channels)},
        "labels": {"0": "background", "1": "organ", "2": "lesion"},
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
    }
    (root / "dataset.json").write_text(json.dumps(about))
    return root
