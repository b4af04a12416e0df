"""How sure models are of their predictions: maps of probability and uncertainty, and the cases worth outlining."""

import numpy as np

from common.files import natural_key
from common.slices.images import write_png

TABLE = "cases_to_label.csv"
COLUMNS = ("case", "image", "uncertainty", "disagreement")  # the last one with several models only
IN_QUESTION = 0.5  # pixels with at least this entropy count, as those that are predicted as foreground
LEAST_SHARE = 0.001  # of the pixels of an image; a speck with fewer pixels counts less
LARGEST_SPREAD = 0.5  # standard deviation of probabilities, if half of the models are sure of either


def foreground(probabilities, overlapping=False):
    """Probability of any foreground (...), from probabilities (..., C) as of `common.slices.classes.class_numbers`; of
    overlapping classes, the most probable one."""
    if overlapping:
        return probabilities.max(axis=-1)
    return probabilities[..., 0] if probabilities.shape[-1] == 1 else 1 - probabilities[..., 0]


def entropy(probabilities, overlapping=False):
    """Entropy of probabilities as a share of its maximum; of overlapping classes, of the least sure one.

    Args:
        probabilities: (..., C) float32; C is 1, K + 1 with the background first, or K for overlapping classes.
        overlapping: whether classes overlap.

    Returns:
        (...) float32, 0 (sure) to 1 (all classes are equally probable).
    """
    if overlapping:
        return np.max([entropy(probabilities[..., k : k + 1]) for k in range(probabilities.shape[-1])], axis=0)
    if probabilities.shape[-1] == 1:
        probabilities = np.concatenate([probabilities, 1 - probabilities], axis=-1)
    p = np.clip(probabilities, 1e-7, 1)
    return np.clip(-(p * np.log(p)).sum(axis=-1) / np.log(p.shape[-1]), 0, 1)


def spread(mean, mean_square):
    """Standard deviation of probabilities over models, 0 to 0.5, from the means of p and of p squared."""
    return np.sqrt(np.clip(mean_square - mean**2, 0, LARGEST_SPREAD**2))


def with_background(probabilities):
    """Probabilities (..., K + 1) that sum to 1, the background first, of (..., K) without it, as 3-D models have."""
    background = np.clip(1 - probabilities.sum(axis=-1, keepdims=True), 0, 1)
    probabilities = np.concatenate([background, probabilities], axis=-1)
    return probabilities / probabilities.sum(axis=-1, keepdims=True)


def moments(probabilities, overlapping=False):
    """Foreground probability of one model and its square, (..., 2), whose means show how models differ.

    Args:
        probabilities, overlapping: as for `foreground`.
    """
    p = foreground(probabilities, overlapping)
    return np.stack([p, p**2], axis=-1)


def moments_of_volume(probabilities, nested):
    """`moments` of a 3-D model's probabilities (S, H, W, K), which have no background."""
    return moments(probabilities if nested else with_background(probabilities), nested)


class Uncertainty:
    """Writes images of probability and uncertainty, and a table of what is worth outlining.

    Args:
        folder: Path for probability/, uncertainty/, disagreement/ (with several models) and the table.
        models: number of models that are averaged.
        overlapping: whether classes overlap.
    """

    def __init__(self, folder, models, overlapping=False):
        self.folder, self.several, self.overlapping = folder, models > 1, overlapping
        self.found = {}  # (case, image or None for a volume) to [pixels, sums of both measures, image, its score]

    def add(self, s, case, record, probabilities, numbers):
        """Write the images of a slice.

        Args:
            s: `common.slices.cases.Slice`.
            case, record: case name, and content of case.json or {}.
            probabilities: (H, W, C + 2) float32: means over the models of probabilities and `moments`.
            numbers: (H, W), predicted class numbers.
        """
        maps = self._maps(probabilities[..., :-2], probabilities[..., -2:])
        for name, values in maps.items():
            gray = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
            write_png(self.folder / name / s.case / f"{s.name}.png", gray, atomic=False)
        is_volume = "volume" in record and s.name in record["slices"]
        key = (case, None) if is_volume else (case if record else s.case, s.name)
        self._count(key, s.name, maps, numbers > 0)

    def add_volume(self, case, probabilities, threshold, images):
        """Count a volume that a 3-D model predicted.

        Args:
            case: its name.
            probabilities: (S, H, W, K + 2) float32: means over the models of probabilities and `moments_of_volume`.
            threshold: probability above which a voxel is foreground.
            images: name of each of its S slices.

        Returns:
            dict of folder name to (S, H, W) float32, 0 to 1, to write.
        """
        mean = probabilities[..., :-2]
        maps = self._maps(mean if self.overlapping else with_background(mean), probabilities[..., -2:])
        for k, image in enumerate(images):
            of_slice = {name: values[k] for name, values in maps.items()}
            self._count((case, None), image, of_slice, of_slice["probability"] > threshold)
        return maps

    def _maps(self, mean, mean_moments):
        """dict of folder name to (...) float32, 0 to 1; disagreement as a share of LARGEST_SPREAD."""
        probability, square = mean_moments[..., 0], mean_moments[..., 1]
        maps = {"probability": probability, "uncertainty": entropy(mean, self.overlapping)}
        if self.several:
            maps["disagreement"] = spread(probability, square) / LARGEST_SPREAD
        return maps

    def _count(self, key, image, maps, is_foreground):
        counted = is_foreground | (maps["uncertainty"] >= IN_QUESTION)
        pixels = int(counted.sum())
        measures = [maps["uncertainty"], *([LARGEST_SPREAD * maps["disagreement"]] if self.several else [])]
        sums = np.array([values[counted].sum(dtype=np.float64) for values in measures])
        least = LEAST_SHARE * counted.size
        total = self.found.setdefault(key, [0, 0.0, image, -1.0, least])
        score = sums[-1] / max(pixels, least)
        if score > total[3]:
            total[2:4] = image, score
        total[0] += pixels
        total[1] = total[1] + sums

    def rows(self):
        """Rows of the table, a list of dict with COLUMNS, not sorted."""
        rows = []
        for (case, _), (pixels, sums, image, _, least) in self.found.items():
            values = (sums / max(pixels, least)).round(4).tolist()
            rows.append(dict(zip(COLUMNS, (case, image, *values), strict=False)))
        return rows

    def close(self):
        """Write the table."""
        write_cases_to_label(self.folder, self.rows())


def write_cases_to_label(folder, rows):
    """Write the table of `Uncertainty.rows`, what is most worth outlining first."""
    from common.tables import write_table  # with pandas, which takes half a second to load

    write_table(folder / TABLE, sorted(rows, key=most_worth_first))


def most_worth_first(row):
    """Sort key of a row of the table: disagreement, or uncertainty with one model, from the largest."""
    worth = [-float(row[name]) for name in ("disagreement", "uncertainty") if name in row]
    return *worth, natural_key(row["case"]), natural_key(row["image"])
