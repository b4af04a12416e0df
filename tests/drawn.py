"""Drawn data of the forms that the recipes in docs/ are for, and the commands of a recipe.

No patient is in any of it: ellipses, spheres and noise.
"""

import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import SimpleITK as sitk

DOCS = Path(__file__).resolve().parents[1] / "docs"


def commands_of(page):
    """Commands of a page in docs/, in order, as lists of words: the lines of its bash blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def textured(rng, shape, mean, deviation, scale):
    """Noise with patches of `scale` pixels."""
    small = rng.normal(0, 1, (shape[0] // scale + 2, shape[1] // scale + 2)).astype(np.float32)
    patches = cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return mean + deviation * (patches + 0.3 * rng.normal(0, 1, shape))


def head_and_neck(root, pictures=(24, 8, 8), shape=(768, 1024), crop=530, seed=0):
    """Full-scale pictures, and crops of them with labels of three channels, each cut somewhere else.

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
            grey = textured(rng, shape, 90, 18, max(shape[0] // 30, 2))
            middle = [left + crop // 2, top + crop // 2]
            organ = np.zeros(shape, np.uint8)
            axes = (rng.uniform(0.12, 0.2, 2) * crop).astype(int).tolist()
            place = [int(m + rng.uniform(-0.1, 0.1) * crop) for m in middle]
            cv2.ellipse(organ, place, axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
            for _ in range(4):  # others of the same brightness but long and thin
                ends = rng.integers(0, min(shape), 4).tolist()
                cv2.line(grey, ends[:2], ends[2:], 150.0, max(crop // 60, 1))
            grey[organ > 0] += 45
            grey = cv2.GaussianBlur(grey, (0, 0), 1.5).clip(0, 255).astype(np.uint8)
            box = np.s_[top : top + crop, left : left + crop]
            name = f"{number:02d}"
            cv2.imwrite(str(root / "full" / f"{name}.png"), grey)
            cv2.imwrite(str(root / "data" / part / "image" / f"{name}.tif"), grey[box])
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
            centre = inside[rng.integers(len(inside))][::-1] + rng.uniform(-0.4, 0.4, 3)
            diameter = round(rng.uniform(12, 26), 2)
            far = sum(((axis - c) * mm) ** 2 for axis, c, mm in zip((i, j, k), centre, spacing, strict=True))
            hu[far <= (diameter / 2) ** 2] = 20
            rows.append((series, *(origin + centre * spacing).round(3), diameter))
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
        centre = (side // 2, side // 2)
        hu = np.full((side, side), -1000.0)
        layers = [(1.0, -100), (rng.uniform(0.78, 0.86), 50), (rng.uniform(0.64, 0.7), -90)]  # fat, muscle, belly
        rings = []
        for share, value in layers:
            ring = np.zeros((side, side), np.uint8)
            cv2.ellipse(ring, centre, (int(a * share), int(b * share)), 0, 0, 360, 1, -1)
            hu[ring > 0] = value
            rings.append(ring > 0)
        mask = rings[1] & ~rings[2]
        for _ in range(12):  # bowel, of the brightness of muscle
            place = [int(c + rng.uniform(-0.4, 0.4) * r) for c, r in zip(centre, (a, b), strict=True)]
            bowel = np.zeros((side, side), np.uint8)
            cv2.circle(bowel, place, int(rng.uniform(0.02, 0.05) * side), 1, -1)
            hu[(bowel > 0) & rings[2]] = rng.uniform(20, 60)
        hu += rng.normal(0, 12, hu.shape)
        name = f"L3_{number:03d}"
        np.savetxt(root / "images" / name, hu.round(), fmt="%d", delimiter=",")
        np.savetxt(root / "masks" / name, mask.astype(int), fmt="%d", delimiter=",")
