"""Share of a training that what one sees of it takes: bar, lines, curves, watched slices, advice, page, TensorBoard.

    python tests/benchmarks/display.py [EPOCHS]

train.py trains a U-net of 16 features on slices of 256x256. Processor time of the functions that show something, in
whatever thread they run, is divided by the processor time of training; other work on the machine hardly changes it.
The first epochs draw more than others, so a short run has a greater share.
"""

import functools
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

from comparing import ROOT, run

CASES, SIZE = 12, 256
FEATURES = 16


@contextmanager
def watch(spent):
    """In the block, every function that shows something adds its processor seconds to a Counter by name."""
    from common.training import advice, callbacks
    from common.training.board import Board
    from common.training.progress import EpochBar, Estimate

    inside = threading.local()

    def watched(function, name):
        @functools.wraps(function)
        def timed(*arguments, **settings):
            if getattr(inside, "counted", False):  # by the function that calls this one
                return function(*arguments, **settings)
            inside.counted, started = True, time.thread_time()
            try:
                return function(*arguments, **settings)
            finally:
                inside.counted = False
                spent[name] += time.thread_time() - started

        return timed

    shown = {
        EpochBar: ("move_to", "close"),
        Estimate: ("__init__", "after", "after_epoch"),
        callbacks.RunWriter: ("_draw",),
        Board: ("add_scalars", "add_image", "flush"),
        callbacks: ("epoch_line", "write_report", "draw_augmented"),
        advice: ("of_sets", "of_log"),
    }
    with ExitStack() as patches:
        for owner, names in shown.items():
            for name in names:
                patches.enter_context(mock.patch.object(owner, name, watched(getattr(owner, name), name)))
        yield


def main(epochs=30):
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run(ROOT / "data" / "make_sample.py", "--cases", work / "cases", "--count", CASES, "--size", SIZE)
        run(ROOT / "preprocess" / "2_write_lists.py", "--cases", work / "cases", "--lists", work / "lists")
        run(ROOT / "preprocess" / "3_pack_hdf5.py", "--lists", work / "lists", "--packed", work / "packed")
        sets = ["--train", work / "packed" / "train.h5", "--validation", work / "packed" / "validation.h5"]
        options = ["--runs", work / "runs", "--epochs", epochs, "--early-stop", 0, "--batch-size", 4]
        network = ["--model", "unet", "--model-settings", {"features": FEATURES}]
        spent, total = train_watched([*sets, *options, *network])
    for name, seconds in spent.most_common():
        print(f"  {name}: {seconds:.2f} s")
    share = sum(spent.values()) / total
    print(f"{epochs} epochs: {share:.2%} of {total:.0f} s of processor time is display", flush=True)


def train_watched(flags):
    """Run train.py in this process; returns seconds by function, and of processor time of the whole training."""
    from common.devices import import_keras

    import_keras()
    import runpy

    spent, sys.argv = Counter(), ["train.py", *map(str, flags)]
    started = time.process_time()
    with watch(spent):
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    return spent, time.process_time() - started


if __name__ == "__main__":
    main(*sys.argv[1:])
