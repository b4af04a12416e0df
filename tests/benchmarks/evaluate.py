"""evaluate.py, all scores, intervals, images and report included, against a plain loop with two scores.

    python tests/benchmarks/evaluate.py

The loop reads the same 300 masks of 512x512 and takes scikit-image's Hausdorff distance and a Dice by NumPy; both are
whole processes.
"""

import sys
import tempfile
from pathlib import Path

from comparing import ROOT, compare, run

IMAGES, SIZE = 300, 512
LOOP = """
import sys
from pathlib import Path
import cv2
import numpy as np
from skimage.metrics import hausdorff_distance
truth, predicted = map(Path, sys.argv[1:])
for file in sorted(truth.iterdir()):
    t, p = (cv2.imread(str(folder / file.name), 0) > 0 for folder in (truth, predicted))
    hausdorff_distance(t, p), 2 * np.sum(t & p) / (np.sum(t) + np.sum(p))
"""


def write_masks(root):
    """Masks of one to three ellipses, and predictions that are blurred and moved forms of them."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    for folder in ("truth", "predicted"):
        (root / folder).mkdir()
    for number in range(IMAGES):
        mask = np.zeros((SIZE, SIZE), np.uint8)
        for _ in range(rng.integers(1, 4)):
            axes = rng.integers(15, 90, 2).tolist()
            cv2.ellipse(mask, rng.integers(120, 390, 2).tolist(), axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
        moved = np.roll(mask, rng.integers(-6, 7, 2), (0, 1))
        noise = cv2.GaussianBlur(rng.normal(0, 255, mask.shape).astype(np.float32), (0, 0), 5)
        predicted = cv2.GaussianBlur(moved.astype(np.float32), (0, 0), 5) + 3 * noise > 127
        for folder, picture in (("truth", mask), ("predicted", predicted.astype(np.uint8) * 255)):
            cv2.imwrite(str(root / folder / f"{number:04d}.png"), picture)


def main():
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_masks(root)
        (root / "loop.py").write_text(LOOP)
        places = root / "truth", root / "predicted"
        ours = [ROOT / "evaluate.py", "--replace", "--truth", places[0], "--predicted", places[1]]
        compare(
            f"evaluate.py on {IMAGES} slices of {SIZE}x{SIZE}",
            lambda: run(*ours, "--output", root / "scores")[0],
            lambda: run(root / "loop.py", *places)[0],
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    main()
