"""Make a small synthetic data set of volumes, in Medical Segmentation Decathlon layout.

Writes  DATA/dataset.json, imagesTr/*.nii.gz, labelsTr/*.nii.gz for training, imagesTs, labelsTs
        for testing
Takes   a few seconds for 12 + 4 cases of 48 to 96 voxels per side

Labels: an outer organ (1) around an inner one (2), and a small lesion (3) at the edge of the outer
organ. Other organs have about the same gray values. As in MR, each contrast is a channel with its
own noise, gain and bias field. Spacing is anisotropic. Spacing and axis directions differ between
cases. The same SEED makes the same files. No patient data.
"""

import sys
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import setting_types as types
from common.settings import apply_command_line

# --- output
DATA: types.PathName = "data/Task99_Synthetic"  # output folder for the data set
REPLACE: bool = False  # True: overwrite a data set made by this script

# --- size
TRAIN: Annotated[int, Ge(1), Le(999)] = 12  # number of training cases, at least 1
TEST: Annotated[int, Ge(0), Le(999)] = 4  # number of test cases
CONTRASTS: Annotated[int, Ge(1), Le(4)] = 2  # number of channels, 1 to 4
SEED: Annotated[int, Ge(0), Le(2**31)] = 1  # random seed, 0 or more; a case is the same for any numbers above

settings = apply_command_line(globals())

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from common.files import write_json
from common.parallel import progress
from common.replacing import refuse_existing, whole_folder
from common.volumes.grids import Geometry
from common.volumes.labels import label_image, write_labels
from common.words import number_of

LABELS = {"0": "background", "1": "outer", "2": "inner", "3": "lesion"}
ORIENTATIONS = ("LPS", "RAS", "LPI", "PLS")  # axis directions, used in turn
AIR, OUTER, INNER, LESION, BODY, OTHER = range(6)  # tissues; OUTER, INNER and LESION have their numbers in LABELS
# Gray value of each tissue, by contrast.
GRAYS = (
    (0, 0, 0, 0),
    (600, 420, 300, 650),
    (520, 640, 480, 400),
    (760, 520, 620, 560),
    (420, 300, 350, 500),
    (610, 430, 310, 600),
)
NOISE = 45


def main():
    refuse_existing(settings.DATA, settings.REPLACE)
    train, test = settings.TRAIN, settings.TEST
    print(f"drawing cases into {settings.DATA} (training: {train}; test: {test})", flush=True)
    names = [f"volume_{number:02d}" for number in range(1, train + test + 1)]
    with whole_folder(settings.DATA, settings.REPLACE) as folder:
        for number, name in enumerate(progress(names, len(names), "drawing")):
            is_test = number >= train
            # test cases do not depend on the number of training cases
            rng = np.random.default_rng([settings.SEED, is_test, number - train if is_test else number])
            write_case(folder, "Ts" if is_test else "Tr", name, ORIENTATIONS[number % len(ORIENTATIONS)], rng)
        write_json(folder / "dataset.json", describe(names))
    print(f"wrote {number_of(len(names), 'volume')} with labels to {settings.DATA}")


def write_case(folder, subset, name, orientation, rng):
    """Draw a case and write its image and labels.

    Args:
        folder: Path of the data set.
        subset: "Tr" or "Ts", the suffix of its folder names.
        name: file name without suffix.
        orientation: axis directions, such as "LPS".
        rng: numpy.random.Generator.
    """
    size = np.array([rng.integers(48, 65), rng.integers(72, 97), rng.integers(72, 97)])  # up, back, left
    extent = np.array([rng.uniform(96, 120), rng.uniform(80, 95), rng.uniform(85, 100)])  # mm
    tissue = draw_tissues(size, extent, rng)
    labels = np.where(tissue <= LESION, tissue, 0)
    spacing = (extent / size)[::-1].round(4).tolist()
    origin = rng.uniform(-200, 200, 3).round(2).tolist()
    geometry = Geometry(tuple(size[::-1].tolist()), spacing, origin, tuple(np.eye(3).ravel()))
    channels = []
    for channel in range(settings.CONTRASTS):
        image = sitk.GetImageFromArray(draw_contrast(tissue, channel, rng))
        image.CopyInformation(label_image(labels, geometry))
        channels.append(sitk.DICOMOrient(image, orientation))
    image = sitk.JoinSeries(channels) if settings.CONTRASTS > 1 else channels[0]
    for folder_name in (f"images{subset}", f"labels{subset}"):
        (folder / folder_name).mkdir(exist_ok=True)
    write_labels(image, folder / f"images{subset}" / f"{name}.nii.gz")
    labels = sitk.DICOMOrient(label_image(labels, geometry), orientation)
    write_labels(labels, folder / f"labels{subset}" / f"{name}.nii.gz")


def draw_tissues(size, extent, rng):
    """Tissue in each voxel, (S, H, W) uint8, of a volume of `size` voxels and `extent` mm."""
    axes = [(np.arange(n) + 0.5) / n * mm - mm / 2 for n, mm in zip(size, extent, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"))
    bend = np.stack([smooth_field(size, rng) for _ in range(3)])  # displacement of the outlines in mm

    def ellipsoid(center, radii):
        moved = points + 2.5 * bend - np.reshape(center, (3, 1, 1, 1))
        return np.sum((moved / np.reshape(radii, (3, 1, 1, 1))) ** 2, axis=0) < 1

    tissue = np.full(tuple(size), AIR, np.uint8)
    tissue[ellipsoid((0, 0, 0), (70, 37, 40))] = BODY
    outer = np.array([rng.uniform(-14, 14), rng.uniform(-6, 6), rng.uniform(-8, -2)])
    radii = np.array([rng.uniform(18, 24), rng.uniform(16, 20), rng.uniform(17, 22)])
    for _ in range(4):  # other organs, never inside the outer organ
        center = np.array([rng.uniform(-40, 40), rng.uniform(-22, 22), rng.uniform(-26, 26)])
        other = ellipsoid(center, rng.uniform(6, 11, 3)) & (tissue == BODY)
        tissue[other] = OTHER
    tissue[ellipsoid(outer, radii + 3)] = BODY
    tissue[ellipsoid(outer, radii)] = OUTER
    tissue[ellipsoid(outer + rng.uniform(-3, 3, 3), radii * rng.uniform(0.45, 0.6))] = INNER
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    tissue[ellipsoid(outer + 0.78 * radii * direction, rng.uniform(4.5, 7, 3))] = LESION
    return tissue


def smooth_field(size, rng):
    """Smooth random field, (S, H, W), standard deviation 1: the lowest frequencies along each axis."""
    waves = [np.cos(np.pi * np.outer(np.arange(4), (np.arange(n) + 0.5) / n)) for n in size]
    field = np.einsum("abc,ai,bj,ck->ijk", rng.normal(size=(4, 4, 4)), *waves, optimize=True)
    return (field - field.mean()) / field.std()


def draw_contrast(tissue, channel, rng):
    """Draw the tissue in one contrast, (S, H, W) int16."""
    grays = [gray[channel] * rng.uniform(0.96, 1.04) for gray in GRAYS]
    image = ndimage.gaussian_filter(np.array(grays)[tissue], 0.5)
    image *= rng.uniform(0.7, 1.5) * (1 + 0.08 * smooth_field(tissue.shape, rng))
    return np.abs(image + rng.normal(0, NOISE, tissue.shape)).astype(np.int16)


def describe(names):
    """Content of dataset.json."""
    training, test = names[: settings.TRAIN], names[settings.TRAIN :]
    return {
        "name": "Synthetic",
        "description": "nested organs and a lesion, drawn by make_volumes.py",
        "tensorImageSize": "4D" if settings.CONTRASTS > 1 else "3D",
        "modality": {str(channel): f"MR contrast {channel + 1}" for channel in range(settings.CONTRASTS)},
        "labels": LABELS,
        "numTraining": settings.TRAIN,
        "numTest": settings.TEST,
        "training": [{side: f"./{side}sTr/{name}.nii.gz" for side in ("image", "label")} for name in training],
        "test": [f"./imagesTs/{name}.nii.gz" for name in test],
    }


if __name__ == "__main__":
    main()
