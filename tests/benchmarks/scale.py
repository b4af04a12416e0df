"""All that is promised of speed and size, by one command: the other benchmarks in turn, which takes long.

python tests/benchmarks/scale.py [PYTHON]

PYTHON is that of an environment with torch, for the comparison with PyTorch; without it that is left out.
"""

import subprocess
import sys

from comparing import ROOT

BENCHMARKS = ROOT / "tests" / "benchmarks"
DISTRIBUTION = ROOT / "tests" / "training" / "test_distribution.py"


def main(*python):
    commands = {
        "an epoch of training": [BENCHMARKS / "train.py", "32", *python],
        "several devices and processes": [*["-m", "pytest", "-n", "0", "-q", "-s", "-m"], "", DISTRIBUTION],
        "larger than memory, and cost against size": [BENCHMARKS / "large_sets.py"],
    }
    for what, command in commands.items():
        print(f"--- {what}", flush=True)
        if subprocess.run([sys.executable, *map(str, command)], check=False, cwd=ROOT).returncode:
            sys.exit(f"{what}: failed")


if __name__ == "__main__":
    main(*sys.argv[1:])
