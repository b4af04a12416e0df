"""3_pack_hdf5.py against decoding alone, and its memory by the number of images: python tests/benchmarks/pack.py"""

import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from comparing import ROOT, compare, run

DISTINCT, SIZE = 500, 512
COUNTS = 500, 2000, 5000  # pairs: few, to time, many


def write_images(root):
    """DISTINCT images of SIZE with masks: noise on a ramp, so that the files are as large as real ones."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, SIZE)[None]
    for side in ("x", "y"):
        (root / "case01" / side).mkdir(parents=True)
    for i in range(DISTINCT):
        image = (ramp + rng.normal(20, 6, (SIZE, SIZE))).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(root / "case01" / "x" / f"{i:04d}.png"), image)
        cv2.imwrite(str(root / "case01" / "y" / f"{i:04d}.png"), np.where(image > 150, 255, 0).astype(np.uint8))


def write_list(root, count):
    """A list of `count` pairs; beyond DISTINCT they are further names of the same files."""
    rows = ["x,y,case"]
    for i in range(count):
        for side in ("x", "y"):
            name = root / "case01" / side / f"{i:04d}.png"
            if not name.exists():
                os.link(root / "case01" / side / f"{i % DISTINCT:04d}.png", name)
        rows.append(f"../case01/x/{i:04d}.png,../case01/y/{i:04d}.png,case01")
    lists = root / f"lists{count}"
    lists.mkdir()
    (lists / "train.csv").write_text("\n".join(rows))
    return lists


def decode_alone(root, count):
    import cv2

    cv2.setNumThreads(1)
    files = [Path(root, "case01", side, f"{i:04d}.png") for i in range(int(count)) for side in ("x", "y")]
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(lambda file: cv2.imread(str(file), cv2.IMREAD_UNCHANGED) is not None, files):
            pass


def main():
    script = ROOT / "preprocess" / "3_pack_hdf5.py"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_images(root)
        lists = {count: write_list(root, count) for count in COUNTS}

        def pack(count):
            shutil.rmtree(root / "packed", ignore_errors=True)
            return run(script, "--lists", lists[count], "--packed", root / "packed")

        compare(
            f"pack, {COUNTS[1]:,} pairs of {SIZE}x{SIZE}, whole process, against decoding them with two threads",
            lambda: pack(COUNTS[1])[0],
            lambda: run(__file__, root, COUNTS[1])[0],
        )
        few, many = pack(COUNTS[0])[1], pack(COUNTS[2])[1]
        print(
            f"pack, peak memory: {few:.0f} MB with {COUNTS[0]:,} pairs, {many:.0f} MB with {COUNTS[2]:,}, "
            f"ratio {many / few:.3f}"
        )


if __name__ == "__main__":
    decode_alone(*sys.argv[1:]) if len(sys.argv) > 1 else main()
