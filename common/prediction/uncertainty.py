"""How sure models are of their predictions: images of probability and uncertainty, and the cases worth outlining."""

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
            probabilities: (H, W, C + 1) float32: mean over the models, and the mean square of the foreground.
            numbers: (H, W), predicted class numbers.
        """
        probabilities, mean_square = probabilities[..., :-1], probabilities[..., -1]
        mean, unsure = (measure(probabilities, self.overlapping) for measure in (foreground, entropy))
        images = {"probability": mean, "uncertainty": unsure}
        measures = [unsure]
        if self.several:
            measures.append(spread(mean, mean_square))
            images["disagreement"] = measures[1] / LARGEST_SPREAD
        for name, values in images.items():
            gray = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
            write_png(self.folder / name / s.case / f"{s.name}.png", gray, atomic=False)
        self._count(s, case, record, measures, (numbers > 0) | (unsure >= IN_QUESTION))

    def _count(self, s, case, record, measures, counted):
        pixels = int(counted.sum())
        sums = np.array([values[counted].sum(dtype=np.float64) for values in measures])
        least = LEAST_SHARE * counted.size
        is_volume = "volume" in record and s.name in record["slices"]
        key = (case, None) if is_volume else (case if record else s.case, s.name)
        total = self.found.setdefault(key, [0, 0.0, s.name, -1.0, least])
        score = sums[-1] / max(pixels, least)
        if score > total[3]:
            total[2:4] = s.name, score
        total[0] += pixels
        total[1] = total[1] + sums

    def close(self):
        """Write the table."""
        from common.tables import write_table  # with pandas, which takes half a second to load

        rows = []
        for (case, _), (pixels, sums, image, _, least) in self.found.items():
            values = (sums / max(pixels, least)).round(4).tolist()
            rows.append(dict(zip(COLUMNS, (case, image, *values), strict=False)))
        write_table(self.folder / TABLE, sorted(rows, key=most_worth_first))


def most_worth_first(row):
    """Sort key of a row of the table: disagreement, or uncertainty with one model, from the largest."""
    worth = [-float(row[name]) for name in ("disagreement", "uncertainty") if name in row]
    return *worth, natural_key(row["case"]), natural_key(row["image"])
