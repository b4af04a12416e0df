"""1_augment_cases.py against the same OpenCV operations in one plain loop: python tests/benchmarks/augment.py"""

import shutil
import sys
import tempfile
from pathlib import Path

from comparing import ROOT, compare, run

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "preprocess")]

FILTERS, CASES = "OABC", 24


def plain_loop(cases):
    """Everything that the script makes, one image after the other, as one would write it first."""
    import cv2
    import numpy as np
    from test_augment_cases import SHAPES, reference_filter, reference_shape

    for case in sorted(Path(cases).glob("[!.]*")):
        for file in sorted((case / "x").iterdir()):
            image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
            mask = cv2.imread(str(case / "y" / file.name), cv2.IMREAD_UNCHANGED)
            for shape in SHAPES:
                ending = f"_{shape}" if shape else ""
                (case / f"y_O{ending}").mkdir(exist_ok=True)
                bent = np.where(reference_shape(shape, mask) > 127, 255, 0).astype(np.uint8)
                cv2.imwrite(str(case / f"y_O{ending}" / file.name), bent)
            for letter in FILTERS:
                filtered = reference_filter(letter, image)
                for shape in SHAPES:
                    ending = f"_{shape}" if shape else ""
                    (case / f"x_{letter}{ending}").mkdir(exist_ok=True)
                    cv2.imwrite(str(case / f"x_{letter}{ending}" / file.name), reference_shape(shape, filtered))


def main():
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder, "sample")
        run(ROOT / "data" / "make_sample.py", "--cases", sample, "--count", CASES)
        shutil.copytree(sample, Path(folder, "loop"))
        slices = len(list(sample.glob("*/x/*.png")))
        compare(
            f"augment, {slices} slices of 200x200, filters {FILTERS}, whole processes",
            lambda: run(ROOT / "preprocess" / "1_augment_cases.py", "--cases", sample)[0],
            lambda: run(__file__, Path(folder, "loop"))[0],
        )


if __name__ == "__main__":
    plain_loop(sys.argv[1]) if len(sys.argv) > 1 else main()
