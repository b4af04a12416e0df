"""Run the recipes of docs/recipes/ as written, on drawn data.

    python tests/benchmarks/recipes.py WORK [head_and_neck nodules muscle]

WORK gets the data and whatever the recipes make; what each command prints is shown, and the time it took.
"""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
import drawings

COMMANDS = None  # how many commands of each recipe; None: all
RECIPES = {
    "head_and_neck": ("head_neck", drawings.head_and_neck),
    "nodules": ("luna", drawings.lung_scans),
    "muscle": ("muscle", drawings.muscle),
}


def main(work, names):
    for name in names or RECIPES:
        folder, draw = RECIPES[name]
        draw(work / folder)
        for _, script, *flags in drawings.commands_of(f"{name}.md")[:COMMANDS]:
            print("\n$ python", script, *flags, flush=True)
            start = time.monotonic()
            subprocess.run([sys.executable, ROOT / script, *flags], cwd=work, check=True)
            print(f"{time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])
