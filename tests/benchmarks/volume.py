"""What of the time of an import and a prediction is neither SimpleITK's, OpenCV's nor the network's.

    python tests/benchmarks/volume.py [slices]

A volume of 512x512x300 (or so many slices) is drawn, imported, and predicted with a U-net of 16 features at 512x512.
What is counted is processor time of all threads, which other work on the machine hardly changes; loading the libraries
is left out.
"""

import resource
import runpy
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

inside = threading.local()
spent = {"libraries": 0.0, "threads": 0.0}
lock = threading.Lock()


def counted(function):
    """The function, whose processor time in this thread counts as the library's."""

    def call(*arguments, **settings):
        if getattr(inside, "library", False):
            return function(*arguments, **settings)
        inside.library, start = True, time.thread_time()
        try:
            return function(*arguments, **settings)
        finally:
            inside.library = False
            with lock:
                spent["libraries"] += time.thread_time() - start

    return call


def count_libraries():
    import cv2
    import SimpleITK as sitk

    for name in dir(cv2):
        if type(getattr(cv2, name)).__name__ == "builtin_function_or_method":
            setattr(cv2, name, counted(getattr(cv2, name)))
    for name in ("ReadImage", "WriteImage", "DICOMOrient", "Resample", "GetArrayFromImage", "GetImageFromArray"):
        setattr(sitk, name, counted(getattr(sitk, name)))
    run = threading.Thread.run

    def counted_run(thread):
        run(thread)
        with lock:
            spent["threads"] += time.thread_time()

    threading.Thread.run = counted_run


def measure(script, **settings):
    """Run a script, whose modules are loaded, and print the share of its time that is its own."""
    from common.command_line import flags_of

    sys.argv = [script, *flags_of(settings)]
    spent.update(libraries=0.0, threads=0.0)
    wall, total, own = time.perf_counter(), time.process_time(), time.thread_time()
    runpy.run_path(str(ROOT / script), run_name="__main__")
    wall, total, own = time.perf_counter() - wall, time.process_time() - total, time.thread_time() - own
    own += spent["threads"] - spent["libraries"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{script}: {wall:.1f} s, processor {total:.1f} s, ours {own:.1f} s, {own / total:.1%}; peak {peak:.1f} GB")


def count_network():
    """Count what the network does and, since it is no work of the script, loading it."""
    from common.prediction import ensemble

    load = counted(ensemble.load_for_prediction)

    def load_counted(path):
        network = load(path)
        network.predict_on_batch = counted(network.predict_on_batch)
        return network

    ensemble.load_for_prediction = load_counted


def draw(folder, slices):
    import SimpleITK as sitk

    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    body = np.where(x**2 + (y * 1.4) ** 2 < 0.8, 40, -1000)
    noise = rng.normal(0, 20, (8, 512, 512))
    hu = np.stack([body + noise[k % 8] + k / 10 for k in range(slices)]).astype(np.int16)
    k = np.linspace(-1, 1, slices)[:, None, None]
    labels = ((x / 0.3) ** 2 + (y / 0.3) ** 2 + k**2 < 1).astype(np.uint8)
    for name, array in (("scan", hu), ("labels", labels)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((0.8, 0.8, 1.25))
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))


def main(slices):
    import keras

    from models import build_model

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder, slices)
        network = build_model("unet", (512, 512, 1), features=16)
        network.get_layer("logits").bias.assign([-1.0])
        network.save(folder / "network.keras")
        keras.backend.clear_session()
        for script in ("preprocess/0_import_volumes.py", "predict.py"):
            runpy.run_path(str(ROOT / script))  # loads what it needs
        count_libraries()
        count_network()
        scans = {"IMAGES": folder / "scan.nii.gz", "LABELS": folder / "labels.nii.gz", "CASES": folder / "cases"}
        for window in ([-200, 200], None):
            settings = {"SIZE": 512, "SLICES": "all", "WINDOW": window, "REPLACE": True}
            measure("preprocess/0_import_volumes.py", **scans, **settings)
        settings = {"RUN": folder / "network.keras", "INPUT": folder / "scan.nii.gz", "OUTPUT": folder / "predicted"}
        measure("predict.py", **settings, WINDOW=[-200, 200])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
