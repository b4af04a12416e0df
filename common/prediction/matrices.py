"""Files of numbers as the input of predict.py, and masks as such files."""

import numpy as np

from common.errors import InputError, summarize
from common.parallel import progress
from common.prediction.inputs import GrayRange, refuse_reserved, refuse_same_output
from common.slices.cases import Slice
from common.slices.channels import to_draw
from common.slices.images import window_to_gray
from common.slices.matrices import array_shape, find_matrices, read_matrices, write_matrix

FOLDER = "matrices"  # next to the masks


class MatrixInput:
    """Slices of files of numbers; attributes and methods as in `common.prediction.inputs.ImageInput`.

    A file with several slices is a case.

    Args:
        source: setting INPUT, as for `common.slices.matrices.find_matrices`.
        window: [low, high] values that are black and white; None: minimum and maximum of each file.

    Raises:
        InputError: if a file cannot be used, or two would be written under one name.
    """

    def __init__(self, source, window):
        self.volumes, self.names, self.slices, self._cases, problems = {}, {}, [], {}, []
        self._window, self._newest = window, (None, None)
        root, files = find_matrices(source, "INPUT")
        if not files:
            raise InputError(f"INPUT: no file of numbers in {source}; choose another folder")
        names = {path: "_".join(filter(None, key)) or path.stem for key, path in files.items()}
        refuse_same_output(names, "INPUT")
        refuse_reserved(names.values(), source)
        for path, name in progress(names.items(), len(names), "reading"):
            try:
                self._add(path, name, path.relative_to(root))
            except InputError as error:
                problems.append(str(error))
        if problems:
            raise InputError(summarize(problems, "files cannot be read"))

    def _add(self, path, name, target):
        values = read_matrices(path)
        low, high = self._window or (float(values.min()), float(values.max()))
        if not low < high:
            raise InputError(f"{path}: expected different values (found only {low:g}); remove it, or set WINDOW")
        case = name if len(values) > 1 else ""
        slices = [f"{number + 1:04d}" for number in range(len(values))] if case else [name]
        self.slices += [Slice(case, one, path) for one in slices]
        matrix = {"file": target, "shape": array_shape(path)}
        self._cases[path] = case, {"window": [low, high], "matrix": matrix, "slices": {one: {} for one in slices}}

    def read(self, s):
        _, record = self._cases[s.path]
        path, values = self._newest
        if path != s.path:  # several threads may read it at once, which does no harm
            values = read_matrices(s.path)
            self._newest = s.path, values
        return window_to_gray(values[list(record["slices"]).index(s.name)], *record["window"], 8)

    def drawn(self, s, image):
        return to_draw(image)

    def viewed(self, s, image):
        return image

    def range_of(self, s):
        low, high = self._cases[s.path][1]["window"]
        return GrayRange(low, high, (low, high))

    def spacing_of(self, s):
        return None

    def case_of(self, s):
        return self._cases[s.path]


class MatrixMasks:
    """Collects the masks of each file of numbers, and writes a file of class numbers of the same shape and format.

    Args:
        folder: Path to write to.
    """

    def __init__(self, folder):
        self.folder, self.count, self.masks = folder, 0, []

    def add(self, record, numbers):
        """Add class numbers (H, W) of a slice; `record` is from `MatrixInput.case_of`."""
        self.masks.append(numbers)
        if len(self.masks) == len(record["slices"]):
            matrix, stack = record["matrix"], np.stack(self.masks)
            shape = matrix["shape"] or numbers.shape
            write_matrix(self.folder / FOLDER / matrix["file"], stack.reshape(shape))
            self.masks, self.count = [], self.count + 1

    def close(self):
        """Return the number of files."""
        return self.count
