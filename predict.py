"""Predict masks for pictures of any size.

Reads   RUN: run folder of train.py, several to average, or .keras files; INPUT: pictures, case folders or a list
Writes  OUTPUT/<name>.png, masks of the size of the pictures, and OUTPUT/overlays/<name>.png;
        of several cases OUTPUT/<case>/<name>.png and OUTPUT/overlays/<case>/<name>.png; of a case that came from a
        volume OUTPUT/<case>.nii.gz, labels on the volume's own grid, and OUTPUT/volumes.csv, what they measure
Takes   20 seconds for 10 pictures of 512x512 in tiles with a U-net of 16 features on two cores
"""

from common.settings import apply_command_line

# --- where from, where to
RUN: str | list = ""  # run folder or .keras file; a list of them is averaged
WEIGHTS_FILE = "best_dice"  # which model of a run: "best_dice", "best_iou" or "last"
INPUT = ""  # folder of pictures, case folder, folder of cases, or list (.csv)
OUTPUT = "predictions"  # folder for the masks
REPLACE = False  # True to write over an OUTPUT that exists

# --- how
FIT: str | None = None  # "resize" to the size of the network and back; "tile" by overlapping tiles of that size;
# None: "tile" if the network was trained on tiles, else "resize"
OVERLAP = 0.5  # share by which neighbouring tiles overlap at least
THRESHOLD = 0.5  # probability above which a pixel is foreground, with one class
BATCH_SIZE = 8  # slices or tiles a step
OVERLAYS = True  # False to leave the overlays out
LABEL_VOLUMES = ".nii.gz"  # kind of label volumes, ".nii.gz", ".nii", ".nrrd", ".mha" or ".mhd"; "": none

apply_command_line(globals())

import itertools

import cv2
import numpy as np

from common.cases import find_slices
from common.devices import import_keras
from common.errors import InputError
from common.files import read_json, refuse_existing, require_choice, whole_folder, write_json
from common.images import (
    class_numbers,
    cut,
    draw_outlines,
    encode_png,
    fit_boxes,
    from_classes,
    paint,
    read_picture,
    resize,
    stretch,
    to_gray,
    to_unit,
)
from common.parallel import ordered_map, progress
from common.runs import MODELS, load_network, model_file
from common.settings import recorded_settings
from common.volumes import WRITTEN, CaseVolumes

RECORD = "prediction.json"


def main():
    check_settings()
    runs = RUN if isinstance(RUN, list) else [RUN]
    files = [model_file(run, WEIGHTS_FILE) for run in runs]
    slices = find_slices(INPUT, "x", "INPUT")
    refuse_existing(OUTPUT, REPLACE, RECORD)
    fit, stretched = preparation(files)

    import_keras()
    networks = [load_network(file) for file in files]
    size, channels = ends(networks, files)
    print(
        f"predicting {len(slices)} pictures of {INPUT} with {', '.join(map(str, files))}, {fit} at {size}", flush=True
    )
    pictures = ordered_map(lambda s: read_input(s.path, stretched), slices)
    predicted = predict_pictures(pictures, networks, size, fit)
    with whole_folder(OUTPUT, REPLACE, RECORD) as part:
        volumes = CaseVolumes(part, LABEL_VOLUMES)
        for s, (image, probabilities) in zip(slices, progress(predicted, len(slices), "predicting"), strict=True):
            numbers = choose_classes(probabilities)
            write(part / s.case / f"{s.name}.png", from_classes(numbers, 1 if channels == 1 else channels - 1))
            if OVERLAYS:
                write(part / "overlays" / s.case / f"{s.name}.png", draw_outlines(paint(image, numbers), numbers))
            volumes.add(s.case, s.path, numbers)
        written = volumes.close()
        write_json(part / RECORD, recorded_settings(globals()))
    also = (" and overlays" if OVERLAYS else "") + (f", and {written} label volumes," if written else "")
    print(f"wrote {len(slices)} masks{also} to {OUTPUT}")


def check_settings():
    require_choice(WEIGHTS_FILE, MODELS, "WEIGHTS_FILE")
    require_choice(LABEL_VOLUMES, ("", *WRITTEN), "LABEL_VOLUMES")
    require_choice(FIT, (None, "resize", "tile", "pad"), "FIT")
    for name, value, low, high in (("OVERLAP", OVERLAP, 0, 0.9), ("THRESHOLD", THRESHOLD, 0, 1)):
        if not low <= value <= high:
            raise InputError(f"{name} is {value}; expected {low} to {high}")
    if BATCH_SIZE < 1:
        raise InputError(f"BATCH_SIZE is {BATCH_SIZE}; expected at least 1")
    if RUN == []:
        raise InputError("RUN is an empty list; give --run a run folder or several")


# --- what the runs say


def preparation(files):
    """How pictures are brought to the network: the fit, and whether they are stretched, as in training."""
    found = []
    for file in files:
        state = file.with_name("state.json")
        found.append(read_json(state).get("data", {}) if state.exists() else {})
    if len({data.get("stretched", False) for data in found}) > 1:
        raise InputError("some of the runs were trained on stretched pictures and some were not; predict one by one")
    trained = {data.get("fit") for data in found}
    if FIT:
        fit = FIT
    elif trained <= {"tile", "crop"}:
        fit = "tile"
    else:
        fit = "pad" if trained == {"pad"} else "resize"
    return fit, found[0].get("stretched", False)


def ends(networks, files):
    """Input size and output channels that the networks share.

    Raises:
        InputError: if they differ, or one takes other than square gray slices.
    """
    shapes = [(network.input_shape[1:], network.output_shape[-1]) for network in networks]
    for shape, file in zip(shapes, files, strict=True):
        if shape != shapes[0]:
            raise InputError(
                f"{file} takes {shape[0]} and gives {shape[1]} channels, unlike {files[0]}; they must agree"
            )
    (height, width, gray), channels = shapes[0]
    if height != width or height is None or gray != 1:
        raise InputError(f"{files[0]} takes {shapes[0][0]}; expected square slices of one channel")
    return height, channels


# --- pictures in, probabilities out


def read_input(path, stretched):
    """A picture, gray; stretched as in training unless it is a slice of a case folder, where it has been."""
    image = to_gray(read_picture(path))
    return stretch(image) if stretched and not (path.parent.parent / "case.json").exists() else image


def predict_pictures(pictures, networks, size, fit):
    """Probabilities of pictures, streamed: it holds a few pictures at a time.

    Args:
        pictures: iterable of (H, W) uint8 or uint16, each of its own size.
        networks: list of keras.Model, whose outputs are averaged.
        size: side of the slices that they take.
        fit: of `common.images.fit_boxes`; overlapping tiles are averaged with Gaussian weights.

    Yields:
        (picture, probabilities), the latter (H, W, C) float32.
    """
    window = gaussian_window(size) if fit == "tile" else np.ones((size, size), np.float32)
    open_canvases = []

    def pieces():
        for picture in pictures:
            boxes = [[0, 0, size, size]] if picture.shape == (size, size) else None
            canvas = Canvas(picture, boxes or fit_boxes(picture.shape, size, fit, int(OVERLAP * size)))
            open_canvases.append(canvas)
            for box in canvas.boxes:
                yield canvas, box, to_unit(cut(picture, box, size))

    stream = pieces()
    while batch := list(itertools.islice(stream, BATCH_SIZE)):
        x = np.zeros((BATCH_SIZE, size, size, 1), np.float32)  # always full, so that the network is compiled once
        for row, (_, _, piece) in enumerate(batch):
            x[row, ..., 0] = piece
        total = sum(np.asarray(network.predict_on_batch(x), np.float32) for network in networks)
        for (canvas, box, _), probabilities in zip(batch, total / len(networks), strict=False):
            canvas.add(box, probabilities, window)
        while open_canvases and open_canvases[0].complete():
            canvas = open_canvases.pop(0)
            yield canvas.picture, canvas.probabilities()


class Canvas:
    """A picture whose pieces are being predicted.

    Args:
        picture: (H, W).
        boxes: of its pieces.
    """

    def __init__(self, picture, boxes):
        self.picture, self.boxes = picture, boxes
        self.missing = len(boxes)
        self.total = self.weights = 0

    def add(self, box, probabilities, window):
        """Add the probabilities of a piece, (size, size, C), scaled back to its box."""
        left, top, width, height = box
        rows, columns = self.picture.shape
        probabilities = resize(probabilities, (height, width), cv2.INTER_LINEAR).reshape(height, width, -1)
        weights = resize(window, (height, width), cv2.INTER_LINEAR)[..., None]
        inside = slice(max(-top, 0), rows - top), slice(max(-left, 0), columns - left)
        place = slice(max(top, 0), top + height), slice(max(left, 0), left + width)
        if self.missing == len(self.boxes):
            self.total = np.zeros((rows, columns, probabilities.shape[-1]), np.float32)
            self.weights = np.zeros((rows, columns, 1), np.float32)
        self.total[place] += (probabilities * weights)[inside]
        self.weights[place] += weights[inside]
        self.missing -= 1

    def complete(self):
        return self.missing == 0

    def probabilities(self):
        """(H, W, C) float32; background where no piece reached."""
        outside = self.weights[..., 0] == 0
        result = self.total / np.maximum(self.weights, np.finfo(np.float32).tiny)
        if result.shape[-1] > 1:
            result[outside, 0] = 1
        return result


def gaussian_window(size):
    """Weights of a tile: a Gaussian of sigma size / 8 about its centre, as in nnU-Net (Isensee et al., doi
    10.1038/s41592-020-01008-z), at least 0.001 so that the edges of the picture count.

    Returns:
        (size, size) float32, greatest 1.
    """
    line = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / (size / 8)) ** 2)
    return np.maximum(np.outer(line, line), 1e-3).astype(np.float32)


def choose_classes(probabilities):
    """Class numbers (H, W) of probabilities (H, W, C): by THRESHOLD with one channel, else the greatest."""
    if probabilities.shape[-1] == 1:
        return (probabilities[..., 0] > THRESHOLD).astype(np.uint8)
    return class_numbers(probabilities)


def write(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(picture))


if __name__ == "__main__":
    main()
