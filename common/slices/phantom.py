"""Phantom: synthetic axial chest slices that look like CT in a soft-tissue window, with the heart as mask.

Random generators are arguments, so the same seed draws the same pixels. `data/make_sample.py` writes the slices.
"""

from functools import partial
from types import SimpleNamespace

import cv2
import numpy as np

FIELD = 360  # side length of a slice in mm
OVERSAMPLING = 3  # draw slices this many times larger, then average: partial volume effect
WINDOW = (40, 400)  # level and width in Hounsfield units, like the tissue values below
AIR, LUNG, FAT, WATER, SKIN, MUSCLE, LIVER = -1000, -860, -105, 12, 30, 54, 72
CARTILAGE, MARROW, CORTEX = 100, 170, 520

SIDES = (-1, 1)  # right, left
ANGLES = np.linspace(0, 2 * np.pi, 180, endpoint=False)
WAVES = np.array([wave(k * ANGLES) for k in (2, 3, 4) for wave in (np.cos, np.sin)])
HEART_SHAPE = np.array([0, 0, 0.05, 0.02, 0, 0])  # weights of WAVES that shape its apex


def invent_patient(rng):
    """Properties of a whole case. Lengths are in mm; levels run from 0 (top slice) to 1 (bottom slice)."""
    return SimpleNamespace(
        stretch=rng.uniform(0.93, 1.05, 2),  # width and depth
        shift=rng.uniform(-6, 6, 2),
        fat=rng.uniform(8, 20),  # under the skin
        breast=max(0.0, rng.uniform(-25, 25)),
        blood=rng.uniform(54, 82),  # Hounsfield units, like noise and bias
        noise=rng.uniform(11, 16),  # standard deviation
        heart_levels=(rng.uniform(0.11, 0.19), rng.uniform(0.79, 0.87)),  # first and last level
        heart_shift=rng.uniform((-8, -3), (8, 3)),
        heart_size=rng.uniform(0.86, 1.04),
        heart_turn=rng.uniform(-0.75, -0.4),
        heart_waves=rng.normal(0, 0.03, (2, 6)),  # at the top and bottom of the heart
        pericardium_waves=rng.normal(0, 0.04, 6),
        grooves=rng.integers((105, 145, 22), (120, 160, 36)),  # point numbers on the heart's outline
        dome=rng.uniform(0.5, 0.62),  # first level of the liver
        liver_waves=rng.normal(0, 0.03, 6),
        body_waves=rng.normal(0, 0.008, 6),
        ribs=rng.uniform(0, 6),
        bias=rng.normal(0, 9, (5, 5)),  # spread over the image
    )


def draw_slice(patient, level, size, rng):
    """Draw a slice and its mask.

    Args:
        patient: result of `invent_patient`.
        level: 0 at the top slice, 1 at the bottom slice.
        size: side length in pixels.
        rng: random generator for lung vessels and noise, which differ between slices.

    Returns:
        image and mask of the heart, 0 and 255, (size, size) uint8.
    """
    canvas, mask = Canvas(patient, size, AIR), Canvas(patient, size, 0)
    draw_table(canvas)
    draw_chest_wall(canvas, patient, level)
    draw_lungs(canvas, rng)
    draw_abdomen(canvas, patient, level)
    draw_ribs(canvas, patient, level)
    draw_upper_vessels(canvas, patient, level)
    draw_heart(canvas, mask, patient, level)
    draw_behind_heart(canvas, mask, patient, level)
    draw_spine(canvas)
    return through_window(canvas.average(), patient, rng), np.where(mask.average() > 0.5, 255, 0).astype(np.uint8)


def through_window(units, patient, rng):
    """Convert Hounsfield units to an 8-bit image, with bias and the coarse noise of a soft kernel."""
    bias = cv2.resize(patient.bias, units.shape, interpolation=cv2.INTER_CUBIC)
    noise = cv2.GaussianBlur(rng.normal(size=units.shape), (0, 0), 0.7)
    units = units + bias + noise * (patient.noise / noise.std())
    level, width = WINDOW
    return np.rint(np.clip((units - level) / width + 0.5, 0, 1) * 255).astype(np.uint8)


# --- body parts, painted on top of each other; x runs to the patient's left, y to the back


def draw_table(canvas):
    x = np.linspace(-175, 175, 40)
    for drop in (0, 18):
        canvas.stroke(-40, 2.5, np.stack([x, 112 + drop - (x / 175) ** 2 * (22 - drop)], 1))


def draw_chest_wall(canvas, patient, level):
    fat, body = patient.fat, partial(oval, 0, -5, square=0.88, waves=patient.body_waves)
    breast = patient.breast * np.exp(-(((level - 0.5) / 0.25) ** 2))
    upper = max(0.0, 1 - level / 0.5)
    for depth, value in ((0, SKIN), (2, FAT)):
        canvas.fill(value, body(156 - depth, 115 - depth))
        for side in SIDES:
            canvas.oval(value, side * 70, -88, 52 - depth, 20 + breast - depth)
    canvas.fill(MUSCLE, body(154 - fat, 114 - 0.8 * fat))
    canvas.stroke(FAT, 3, body(142 - fat, 103 - 0.8 * fat))
    for side in SIDES:
        canvas.oval(WATER, side * 72, -96 - breast / 2, 0.8 * breast, breast / 4)
        canvas.oval(MUSCLE, side * 62, -92, 46, 13 * upper, side * 0.25)
        canvas.oval(MUSCLE, side * 110, 40, 20, 40 * upper, side * 0.5)
        if upper > 0.3:
            canvas.bone(6, [(side * 78, 76), (side * 102, 62), (side * 120, 34 + 30 * level)])


def draw_lungs(canvas, rng):
    """Draw the lungs, their vessels, and the fat between them."""
    for side in SIDES:
        canvas.oval(LUNG, side * 58, -10, 55, 79, side * 0.1, square=0.92)
        for share, angle in rng.uniform((0, 0), (1, 2 * np.pi), (60, 2)):
            x, y = 0.92 * np.sqrt(share) * np.array([55 * np.cos(angle), 79 * np.sin(angle)]) + (side * 58, -10)
            left, back = x - side * 32, y - 4  # distance from the hilum
            radius = 0.6 + 4.5 * np.exp(-np.hypot(left, back) / 24)
            canvas.oval(MUSCLE, x, y, 2 * radius, radius, np.arctan2(back, left), angles=ANGLES[::12])
    canvas.oval(FAT, 0, -14, 30, 76)
    canvas.oval(FAT, 0, 52, 30, 24)


def draw_abdomen(canvas, patient, level):
    right, left = np.clip((level - patient.dome - np.array([0, 0.12])) / 0.3, 0, 1) ** 0.5
    lobe = np.clip((level - patient.heart_levels[1] + 0.06) / 0.1, 0, 1)
    canvas.oval(FAT, 56, -18, 53 * left, 66 * left, 0.1, rim=(3, MUSCLE))
    canvas.oval(LIVER - 8, 84, 14, 20 * left, 32 * left, -0.4)
    canvas.oval(WATER, 54, -34, 36 * left, 29 * left, 0.3, rim=(3, MUSCLE))
    canvas.oval(AIR, 54, -48 * left, 22 * left, 8 * left)
    canvas.oval(LIVER, -56, -14, 54 * right, 73 * right, -0.1, waves=patient.liver_waves)
    canvas.oval(LIVER, -6, -44, 48 * lobe, 28 * lobe, -0.2, waves=patient.liver_waves)
    if lobe > 0:
        canvas.oval(patient.blood - 15, -24, 12, 12, 10)
        canvas.stroke(patient.blood - 15, 5, *([(-24, 12), end] for end in ((-72, -14), (-56, -48), (-84, 22))))


def draw_ribs(canvas, patient, level):
    for side in SIDES:
        for rib in range(6):
            middle = -0.5 + (rib + patient.ribs + 0.2 * side + 3 * level) % 6 / 6
            angles = np.pi * np.linspace(middle - 0.06, middle + 0.06, 9)
            curve = oval(side * 58, -10, side * 62, 85, side * 0.1, square=0.92, angles=angles)
            if middle > -0.3:
                canvas.bone(8.5, curve)
            else:
                canvas.stroke(CARTILAGE, 8.5, curve)
    canvas.oval(MARROW, 0, -92, 19, 7, rim=(2, CORTEX))


def draw_upper_vessels(canvas, patient, level):
    blood, below = patient.blood, level - patient.heart_levels[0]
    if level < 0.07:
        canvas.stroke(blood, 25, [(-14, -20), (2, -2), (20, 24)])
    elif below < 0:
        canvas.oval(blood, -10, -28, 17, 16)
        canvas.stroke(blood, 18, [(20, -30), (16, -12), (-4, -4), (-40, 0)])
    if below < 0:
        canvas.oval(blood, -36, -14, 10, 11)
    if 0.1 < below < 0.25:
        canvas.stroke(blood, 11, [(-58, 10), (0, 4), (58, 10)])


def draw_heart(canvas, mask, patient, level):
    top, bottom = patient.heart_levels
    depth = (level - top) / (bottom - top)
    if not 0 <= depth <= 1:
        return
    size, turn, blood = patient.heart_size * (1 - abs(2 * depth - 1) ** 4) ** 0.35, patient.heart_turn, patient.blood
    x, y = middle = np.array([6 + 20 * depth, -24 - 10 * depth]) + patient.heart_shift
    rx, ry = 61 * size, (49 - 4 * depth) * size
    waves = np.array([1 - depth, depth]) @ patient.heart_waves + HEART_SHAPE
    outline = oval(x, y, rx, ry, turn, waves=waves)
    canvas.oval(FAT, x, y - 1, rx + 7, ry + 5, turn, waves=waves + patient.pericardium_waves)
    canvas.stroke(WATER, 0.6, oval(x, y - 1, rx + 4, ry + 3, turn, waves=waves))
    canvas.fill(blood + 6, outline)
    mask.fill(1, outline)
    for point, length, width in zip(outline[patient.grooves], (15, 10, 13), (7, 4, 5), strict=True):
        inward = middle - point
        groove = oval(*point, length * size, width * size, np.arctan2(*inward[::-1]))
        canvas.fill(FAT, groove)
        mask.fill(0, groove)
        canvas.oval(blood, *(point + 0.06 * inward), 1.8, 1.8)


def draw_behind_heart(canvas, mask, patient, level):
    """Draw descending aorta, esophagus and azygos vein with the fat around them, and the airways."""
    for x, y, radius, value in ((23, 30, 13.5, patient.blood), (3, 24, 7.5, MUSCLE), (-10, 30, 5.5, patient.blood)):
        mask.oval(0, x, y, radius, radius)
        canvas.oval(value, x, y, radius, radius, rim=(1.5, FAT))
    if level < 0.1:
        canvas.oval(AIR, -4, 12, 10, 10, rim=(1.5, MUSCLE))
    elif level < patient.heart_levels[0]:
        for side in SIDES:
            canvas.oval(AIR, side * (10 + 90 * (level - 0.1)), 12, 7, 7, rim=(1.5, MUSCLE))


def draw_spine(canvas):
    for side in SIDES:
        canvas.oval(MUSCLE, side * 27, 80, 21, 14, side * -0.3, rim=(2, FAT))
    arch, spine = [(-36, 68), (-16, 64), (0, 78), (16, 64), (36, 68)], [(0, 78), (0, 90)]
    canvas.bone(8, arch, spine, *([(side * 13, 50), (side * 16, 64)] for side in SIDES))
    canvas.oval(SKIN, 0, 63, 11, 9, rim=(4.5, FAT))
    canvas.oval(MARROW, 0, 44, 19, 15, square=0.9, rim=(2, CORTEX))


# --- drawing


class Canvas:
    """Image, OVERSAMPLING times enlarged; curves are (N, 2), in mm from the middle of a body of average size."""

    def __init__(self, patient, size, value):
        self.patient, self.size = patient, size
        self.pixels = np.full((size * OVERSAMPLING, size * OVERSAMPLING), value, np.float32)
        self.scale = len(self.pixels) / FIELD

    def oval(self, value, x, y, rx, ry, turn=0.0, rim=(0, AIR), **form):
        """Fill an `oval`; `rim` is the width and value of its outer layer."""
        for depth, layer in ((0, rim[1]), (rim[0], value)):
            if min(rx, ry) > depth:
                self.fill(layer, oval(x, y, rx - depth, ry - depth, turn, **form))

    def bone(self, width, *curves):
        self.stroke(CORTEX, width, *curves)
        self.stroke(MARROW, width - 4, *curves)

    def fill(self, value, curve):
        cv2.fillPoly(self.pixels, [self.points(curve)], float(value), shift=4)

    def stroke(self, value, width, *curves):
        thickness = max(1, round(width * self.scale))
        cv2.polylines(self.pixels, list(map(self.points, curves)), False, float(value), thickness, shift=4)

    def points(self, curve):
        """Convert a curve for OpenCV: sixteenths of a pixel from the center of the first pixel."""
        place = curve * self.patient.stretch + self.patient.shift + FIELD / 2
        return np.rint(place * self.scale * 16 - 8).astype(np.int32)

    def average(self):
        return cv2.resize(self.pixels, (self.size, self.size), interpolation=cv2.INTER_AREA)


def oval(x, y, rx, ry, turn=0.0, *, square=1.0, waves=None, angles=ANGLES):
    """Closed curve about (x, y), (N, 2), with half axes rx and ry, turned clockwise by `turn` radians.

    Args:
        square: 1 is an ellipse; lower values are more like a box.
        waves: (6,) weights of WAVES, which vary the radius.
        angles: (N,) radians; a part of the circle draws a part of the curve.
    """
    unit = np.stack([np.cos(angles), np.sin(angles)], 1)
    curve = np.sign(unit) * np.abs(unit) ** square * (rx, ry)
    if waves is not None:
        curve *= 1 + (waves @ WAVES)[:, None]
    cosine, sine = np.cos(turn), np.sin(turn)
    return curve @ np.array([[cosine, sine], [-sine, cosine]]) + (x, y)
