"""Drawn images, masks, cases and volumes for the tests, and the commands of a recipe.

No patient is in any of it: ellipses, spheres and noise.
"""

import json
import locale
import re
import shlex
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from common.slices.case_files import read_case_record
from common.slices.images import read_image
from common.volumes.grids import Geometry, image_at
from common.volumes.labels import labels_of_slices

DOCS = Path(__file__).resolve().parents[1] / "docs"


def commands_of(page):
    """Commands of a page in docs/recipes/, in order, as lists of words: the lines of its bash blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", (DOCS / "recipes" / page).read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def code_block(page, words):
    """The Python block of a page in docs/ that contains some words."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    return next(block for block in blocks if words in block)


def textured(rng, shape, mean, deviation, scale):
    """Noise with patches of `scale` pixels."""
    small = rng.normal(0, 1, (shape[0] // scale + 2, shape[1] // scale + 2)).astype(np.float32)
    patches = cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return mean + deviation * (patches + 0.3 * rng.normal(0, 1, shape))


def head_and_neck(root, pictures=(24, 8, 8), shape=(768, 1024), crop=530, seed=0):
    """Full-scale images, and crops of them with labels of three channels, each cut somewhere else.

    Writes root/full/<name>.png and root/data/{train,validation,test}/{image,label}/<name>.tif.
    """
    rng = np.random.default_rng(seed)
    number = 0
    for part, count in zip(("train", "validation", "test"), pictures, strict=True):
        for folder in (root / "full", root / "data" / part / "image", root / "data" / part / "label"):
            folder.mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            number += 1
            left, top = (int(rng.integers(0, whole - crop + 1)) for whole in shape[::-1])
            gray = textured(rng, shape, 90, 18, max(shape[0] // 30, 2))
            middle = [left + crop // 2, top + crop // 2]
            organ = np.zeros(shape, np.uint8)
            axes = (rng.uniform(0.12, 0.2, 2) * crop).astype(int).tolist()
            place = [int(m + rng.uniform(-0.1, 0.1) * crop) for m in middle]
            cv2.ellipse(organ, place, axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
            for _ in range(4):  # others of the same brightness but long and thin
                ends = rng.integers(0, min(shape), 4).tolist()
                cv2.line(gray, ends[:2], ends[2:], 150.0, max(crop // 60, 1))
            gray[organ > 0] += 45
            gray = cv2.GaussianBlur(gray, (0, 0), 1.5).clip(0, 255).astype(np.uint8)
            box = np.s_[top : top + crop, left : left + crop]
            name = f"{number:02d}"
            cv2.imwrite(str(root / "full" / f"{name}.png"), gray)
            cv2.imwrite(str(root / "data" / part / "image" / f"{name}.tif"), gray[box])
            label = cv2.cvtColor(organ[box], cv2.COLOR_GRAY2BGR)
            cv2.imwrite(str(root / "data" / part / "label" / f"{name}.tif"), label)


def lung_scans(root, train=8, test=3, shape=(40, 160, 160), pixel=2.2, seed=0):
    """Chest scans with spheres in the lungs.

    Writes root/train and root/test/<series>.mhd and root/annotations.csv.
    """
    rng = np.random.default_rng(seed)
    count, side, _ = shape
    spacing = np.array([pixel, pixel, 3.0])
    rows = []
    for number in range(train + test):
        series = f"1.2.826.0.1.{number + 1}"
        hu = np.full(shape, -1000, np.float32)
        k, j, i = np.indices(shape).astype(np.float32)
        x, y = i / side - 0.5, j / side - 0.5
        hu[(x / 0.43) ** 2 + (y / 0.33) ** 2 < 1] = 40
        lungs = np.zeros(shape, bool)
        for sign in (-1, 1):
            lungs |= ((x - sign * 0.19) / 0.15) ** 2 + (y / 0.23) ** 2 + ((k / count - 0.5) / 0.6) ** 2 < 1
        hu[lungs] = -850
        origin = rng.uniform(-200, 0, 3).round(2)
        inside = np.argwhere(lungs & (np.abs(np.abs(x) - 0.19) < 0.08) & (np.abs(y) < 0.14))
        for _ in range(40):  # vessels
            a, b, c = inside[rng.integers(len(inside))]
            hu[max(a - 4, 0) : a + 4, b : b + 2, c : c + 2] = -100
        for _ in range(2):
            center = inside[rng.integers(len(inside))][::-1] + rng.uniform(-0.4, 0.4, 3)
            diameter = round(rng.uniform(12, 26), 2)
            far = sum(((axis - c) * mm) ** 2 for axis, c, mm in zip((i, j, k), center, spacing, strict=True))
            hu[far <= (diameter / 2) ** 2] = 20
            rows.append((series, *(origin + center * spacing).round(3), diameter))
        hu += rng.normal(0, 25, shape)
        image = sitk.GetImageFromArray(hu.round().astype(np.int16))
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(origin.tolist())
        folder = root / ("train" if number < train else "test")
        folder.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(folder / f"{series}.mhd"))
    columns = ["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "annotations.csv", index=False)


def muscle(root, slices=40, side=512, seed=0):
    """Slices through a drawn waist in HU, with a mask of the ring of muscle, as comma-separated numbers.

    Writes root/images/<name> and root/masks/<name>.
    """
    rng = np.random.default_rng(seed)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(1, slices + 1):
        a, b = rng.uniform(0.34, 0.42) * side, rng.uniform(0.24, 0.3) * side
        center = (side // 2, side // 2)
        hu = np.full((side, side), -1000.0)
        layers = [(1.0, -100), (rng.uniform(0.78, 0.86), 50), (rng.uniform(0.64, 0.7), -90)]  # fat, muscle, belly
        rings = []
        for share, value in layers:
            ring = np.zeros((side, side), np.uint8)
            cv2.ellipse(ring, center, (int(a * share), int(b * share)), 0, 0, 360, 1, -1)
            hu[ring > 0] = value
            rings.append(ring > 0)
        mask = rings[1] & ~rings[2]
        for _ in range(12):  # bowel, of the brightness of muscle
            place = [int(c + rng.uniform(-0.4, 0.4) * r) for c, r in zip(center, (a, b), strict=True)]
            bowel = np.zeros((side, side), np.uint8)
            cv2.circle(bowel, place, int(rng.uniform(0.02, 0.05) * side), 1, -1)
            hu[(bowel > 0) & rings[2]] = rng.uniform(20, 60)
        hu += rng.normal(0, 12, hu.shape)
        name = f"L3_{number:03d}"
        np.savetxt(root / "images" / name, hu.round(), fmt="%d", delimiter=",")
        np.savetxt(root / "masks" / name, mask.astype(int), fmt="%d", delimiter=",")


# --- case folders


def write_image(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = cv2.imencode(path.suffix, picture)[1]
    path.write_bytes(data.tobytes())


def disc_slice(size, seed, classes=1, bits=8):
    """A noisy slice with one disc a class, which is brighter, and its mask."""
    rng = np.random.default_rng(seed)
    image = rng.normal(60, 10, (size, size))
    mask = np.zeros((size, size), np.uint8)
    for number in range(1, classes + 1):
        center = rng.integers(size // 4, 3 * size // 4, 2).tolist()
        cv2.circle(mask, center, size // 6, 255 if classes == 1 else number, -1)
        image[mask == mask[center[1], center[0]]] += 100 / number
    image = image.clip(0, 255)
    return (image.astype(np.uint8) if bits == 8 else (image * 257).astype(np.uint16)), mask


def make_cases(root, cases=3, slices=4, size=24, classes=1, bits=8, empty=False):
    """Write case folders of disc slices; with `empty`, the first mask of each case is empty."""
    for case in range(1, cases + 1):
        for number in range(1, slices + 1):
            image, mask = disc_slice(size, 100 * case + number, classes, bits)
            if empty and number == 1:
                mask[:] = 0
            write_image(root / f"case{case:02d}" / "x" / f"{number:04d}.png", image)
            write_image(root / f"case{case:02d}" / "y" / f"{number:04d}.png", mask)
    return root


# --- volumes

SHAPE = (9, 24, 20)  # slices, rows, columns


def rotation(*degrees):
    """Direction matrix of turns about the three axes."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        turn = np.eye(3)
        a, b = [i for i in range(3) if i != axis]
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


SKEWED = rotation(10, -15, 20) @ np.diag([1, -1, -1])


def as_volume(array, direction=SKEWED, spacing=(0.7, 0.9, 2.5), origin=(-31.5, 12.25, 90.75)):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(np.asarray(direction, float).ravel().tolist())
    return image


def block(shape=SHAPE, labels=1, seed=0):
    """Values and labels of which every slice is different."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-500, 500, shape).astype(np.int16)
    return values, rng.integers(0, labels + 1, shape).astype(np.uint8)


def write(folder, name, image):
    folder.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(folder / name))


def write_series(folder, image, names=None, series="1.2.3.4", compressor="", **tags):
    """A DICOM series, one file a slice."""
    folder.mkdir(parents=True, exist_ok=True)
    before = locale.setlocale(locale.LC_CTYPE)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    if compressor:
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
    direction = image.GetDirection()
    cosines = "\\".join(str(direction[i]) for i in (0, 3, 6, 1, 4, 7))
    for k in range(image.GetSize()[2]):
        part = image[:, :, k]
        place = "\\".join(map(str, image.TransformIndexToPhysicalPoint((0, 0, k))))
        entries = {
            "0008|0060": "CT",
            "0020|000e": series,
            "0020|000d": "1.2.3",
            "0008|0018": f"{series}.{k + 1}",
            "0020|0032": place,
            "0020|0037": cosines,
            "0020|0013": str(k),
            "0018|0050": str(image.GetSpacing()[2]),
        } | tags
        for key, value in entries.items():
            part.SetMetaData(key, value)
        file = folder / (f"renamed{k}.dcm" if names else f"{k:03d}.dcm")
        writer.SetFileName(str(file))
        writer.Execute(part)
        if names:
            file.rename(folder / names[k])
    locale.setlocale(locale.LC_CTYPE, before)  # ITK's writer sets "C", in which Python would read text as ASCII


def masks_of(case):
    return {path.stem: read_image(path) for path in sorted((case / "y").glob("*.png"))}


def labels_of(case):
    """Array (k, j, i) of the masks of a case on the grid of its volume."""
    return sitk.GetArrayFromImage(labels_of_slices(read_case_record(case), masks_of(case)))


def assert_same_geometry(image, other, tolerance=1e-6):
    assert image.GetSize() == other.GetSize()
    for ours, theirs in zip(Geometry.of(image), Geometry.of(other), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def write_copying_network(path, side, channels=1):
    """A network that gives back its image: the truth as the prediction, where each channel is the mask of a class."""
    keras = pytest.importorskip("keras")
    picture = keras.Input((side, side, channels), name="input")
    copied = keras.layers.Conv2D(channels, 1, activation="sigmoid", name="output")(picture)
    model = keras.Model(picture, copied)
    model.get_layer("output").set_weights([20 * np.eye(channels)[None, None], np.full(channels, -10)])
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return path


def change_config(path, change):
    """Change the configuration in a .keras file."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    config = json.loads(entries["config.json"])
    change(config)
    entries["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)


STRAIGHT = tuple(np.eye(3).ravel())

TURNED = (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)  # a quarter turn about the axis of the body


def ball(shape, center, radius, spacing):
    """Mask (k, j, i) of a ball, its center in voxels (i, j, k) and radius and spacing (i, j, k) in mm."""
    grid = np.meshgrid(*map(np.arange, shape), indexing="ij")[::-1]
    return sum(((g - c) * mm) ** 2 for g, c, mm in zip(grid, center, spacing, strict=True)) <= radius**2


def draw_case(seed, size=(30, 28, 20), spacing=(1.0, 1.1, 1.6), channels=1, direction=None):
    """An organ (1) with a lesion (2) in noise.

    Returns:
        image, SimpleITK.Image of 3 axes or, with channels, 4; labels, SimpleITK.Image uint8.
    """
    rng = np.random.default_rng(seed)
    shape = size[::-1]
    center = np.array(size) / 2 + rng.uniform(-2, 2, 3)
    labels = ball(shape, center, 8, spacing).astype(np.uint8)
    labels[ball(shape, center + 2, 3.5, spacing)] = 2
    geometry = Geometry(size, spacing, tuple(rng.uniform(-90, 90, 3)), direction or STRAIGHT)
    images = []
    for channel in range(channels):
        gray = np.array([100, 300, 500])[labels] * (channel + 1) + rng.normal(0, 25, shape)
        images.append(image_at(gray.astype(np.int16), geometry))
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


def write_nnunet(root, cases=3, channels=("T2", "ADC"), ending=".nii.gz", labels=None, **fields):
    """A data set of nnU-Net v2 of volumes.

    Returns:
        dict of case name to (list of channels, labels), SimpleITK.Image.
    """
    made = {}
    for number in range(1, cases + 1):
        image, truth = draw_case(number, channels=len(channels))
        images = [image[..., i] for i in range(len(channels))] if len(channels) > 1 else [image]
        made[f"scan_{number:03d}"] = images, truth
        for channel, part in enumerate(images):
            write(root / "imagesTr", f"scan_{number:03d}_{channel:04d}{ending}", part)
        write(root / "labelsTr", f"scan_{number:03d}{ending}", truth)
    about = {
        "channel_names": {str(number): name for number, name in enumerate(channels)},
        "labels": labels or {"background": 0, "organ": 1, "lesion": 2},
        "numTraining": cases,
        "file_ending": ending,
    } | fields
    (root / "dataset.json").write_text(json.dumps(about))
    return made


def write_nnunet_images(root, names=("a", "b", "c"), classes=1):
    """A data set of nnU-Net v2 of PNG images.

    Returns:
        content of its dataset.json; and dict of name to image and mask, of 0 and 255 or class numbers.
    """
    drawn = {name: disc_slice(32, number, classes) for number, name in enumerate(names)}
    for name, (image, mask) in drawn.items():
        write_image(root / "imagesTr" / f"{name}_0000.png", image)
        write_image(root / "labelsTr" / f"{name}.png", np.where(mask == 255, 1, mask).astype(np.uint8))
    labels = {"background": 0, "liver": 1} | ({"tumor": 2} if classes == 2 else {})
    about = {"channel_names": {"0": "gray"}, "labels": labels, "numTraining": len(names), "file_ending": ".png"}
    (root / "dataset.json").write_text(json.dumps(about))
    return about, drawn


# --- nodules

NODULE_SPACING = (0.7, 0.7, 1.25)


def nodule_scan(direction):
    """An empty scan of 96x96x40 and nodules at known places in it."""
    image = as_volume(np.full((40, 96, 96), -800, np.int16), direction, NODULE_SPACING, (-80.5, 33.25, -140.0))
    places = [(20.3, 30.7, 9.6), (70.2, 60.1, 25.2)]
    diameters = [9.0, 14.0]
    rows = []
    for place, diameter in zip(places, diameters, strict=True):
        rows.append((*image.TransformContinuousIndexToPhysicalPoint(place), diameter))
    return image, rows


def nodule_table(path, rows):
    """Write an annotations table of (seriesuid, x, y, z, diameter in mm), and return its path."""
    columns = ["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"]
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    return path


def decoy_scans(root, train=10, test=10, shape=(24, 64, 64), pixel=2.0, of_each=4, seed=0):
    """Chest scans with spheres, the nodules, and as many vessels: cylinders through the slices, of the same brightness.

    On one slice, a vessel looks like a nodule. Writes root/train and root/test/<series>.mhd and root/annotations.csv.
    """
    rng = np.random.default_rng(seed)
    spacing = np.array([pixel, pixel, 2.5])
    rows = []
    for number in range(train + test):
        series = f"1.2.826.0.2.{number + 1}"
        k, j, i = np.indices(shape).astype(np.float32)
        x, y = i / shape[2] - 0.5, j / shape[1] - 0.5
        hu = np.where((x / 0.47) ** 2 + (y / 0.42) ** 2 < 1, 40, -1000).astype(np.float32)
        lungs = np.minimum(*(((x - s * 0.21) / 0.2) ** 2 + (y / 0.34) ** 2 for s in (-1, 1))) < 1
        hu[lungs] = -850
        origin = rng.uniform(-200, 0, 3).round(2)
        inside = np.argwhere(np.minimum(*(((x - s * 0.21) / 0.12) ** 2 + (y / 0.24) ** 2 for s in (-1, 1))) < 1)
        inside = inside[(inside[:, 0] > 6) & (inside[:, 0] < shape[0] - 7)]
        centers = []
        while len(centers) < 2 * of_each:
            center = inside[rng.integers(len(inside))][::-1] + rng.uniform(-0.4, 0.4, 3)
            apart = [np.linalg.norm(((center - other) * spacing)[:2]) for other in centers]
            if min(apart, default=99) > 17:
                centers.append(center)
        for count, center in enumerate(centers):
            far = [((axis - c) * mm) ** 2 for axis, c, mm in zip((i, j, k), center, spacing, strict=True)]
            if count < of_each:
                diameter = round(rng.uniform(9, 15), 2)
                hu[sum(far) <= (diameter / 2) ** 2] = 20
                rows.append((series, *(origin + center * spacing).round(3), diameter))
            else:
                hu[(far[0] + far[1] <= rng.uniform(4, 7) ** 2) & (abs(k - center[2]) < 8)] = 20
        image = sitk.GetImageFromArray((hu + rng.normal(0, 25, shape)).round().astype(np.int16))
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(origin.tolist())
        write(root / ("train" if number < train else "test"), f"{series}.mhd", image)
    nodule_table(root / "annotations.csv", rows)
