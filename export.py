"""Export a model to ONNX, LiteRT, OpenVINO or SavedModel, and check each in its own runtime.

    python export.py --run runs/20260102-030405_unet --formats "['onnx', 'litert']"

Reads   RUN: a run folder of train.py, or a .keras file
Writes  OUTPUT/<format>/: the model, and a .json file with what a program needs to use it: input,
        output, normalization, classes, threshold
Takes   10 to 30 s per format for a 200x200 U-net on two cores
Expect  a difference of 1e-6; a model that fails the check keeps the suffix -unverified, and the
        script exits with 1

ONNX and OpenVINO need further packages: pip install -r requirements-export.txt
"""

from typing import Annotated, Literal

from annotated_types import Gt, Len, Lt

from common import setting_types as types
from common.settings import apply_command_line

# --- input and output
RUN: str = ""  # run folder of train.py, a .keras file, or an .h5 file of Keras 2
WEIGHTS_FILE: types.WeightsFile = "best_dice"  # checkpoint of the run: "best_dice", "best_iou" or "last"
MODEL: str = ""  # your own network file of RUN, so that its copy in RUN may run
#   Code in RUN runs only if it equals this file.
TRUST_RUN: bool = False  # True: run any code that RUN contains; only if you trust its source
OUTPUT: str = ""  # folder for the exported models; empty: "export" in the run folder
REPLACE: bool = False  # True: overwrite existing models

# --- what to write
FORMATS: Annotated[list[Literal["onnx", "litert", "openvino", "saved_model"]], Len(1)] = ["onnx"]  # formats to write
COMPARE: bool = False  # True: write every format; print a table of sizes, errors and speeds
STRIP: bool = False  # True: only write the model without its optimizer, as a run folder
CALIBRATE: bool = True  # fold the run's threshold and temperature into the last layer
THRESHOLD: Annotated[float, Gt(0), Lt(1)] = 0.5  # probability above which a pixel is foreground, with one class
CLASS_NAMES: types.Names = []  # class names, without the background; []: as in training

# --- the check
SLICES: str = ""  # packed set, list, folder of cases or images; "": validation set of the run
CHECKED: types.PositiveInt = 8  # number of slices or volumes to check on
LARGEST_DIFFERENCE: types.NonNegative = 1e-3  # max difference of a probability
LEAST_DICE: types.Share = 0.999  # min Dice between the masks of Keras and the model

settings = apply_command_line(globals())

import os
import re
from pathlib import Path
from typing import NamedTuple

from common.devices import import_keras
from common.errors import InputError, summarize
from common.files import real_path, remove, write_json
from common.parallel import progress
from common.replacing import refuse_existing, whole_entries
from common.streams import as_utf8
from common.training.run_folder import Run
from common.training.trained_models import load_network, model_file
from common.training.trust import trust_command
from coreml.compare import Comparison, compare_on_slices, prepare_inputs
from coreml.convert import Contract, size_in_bytes, to_float32
from coreml.exports import EXPORTS, ExportedModel, check_network, interface_of, milliseconds, usable, write_model
from coreml.fold import calibrate
from coreml.metadata import recorded_facts
from coreml.strip import STRIPPED, strip_run
from coreml.verify import Limits, unverified_path

PATTERN = r"[\\*?\[\]{}]"  # characters of paths that TensorFlow reads as a pattern


class Job(NamedTuple):
    """What is exported, and how it is checked.

    Attributes:
        network: keras.Model in float32.
        source: Path of its .keras file.
        folder: Path of the folder for all formats.
        stem: name of the files.
        facts: result of `coreml.exports.interface_of`.
        images, truths: see `coreml.compare.compare_on_slices`.
    """

    network: object
    source: Path
    folder: Path
    stem: str
    facts: dict
    images: list
    truths: list


class Result(NamedTuple):
    """What became of a format.

    Attributes:
        path: Path of its folder; None if it could not be written.
        size: bytes of the model.
        comparison: `coreml.compare.Comparison`, or None.
        time: ms per image; None unless COMPARE.
        faults: list of texts; empty if the model matches Keras.
    """

    path: Path | None = None
    size: int = 0
    comparison: Comparison | None = None
    time: float | None = None
    faults: tuple = ()


def main():
    trust_command(settings)
    source = model_file(settings.RUN, settings.WEIGHTS_FILE)
    run = Run(real_path(source).parent)
    folder = Path(settings.OUTPUT) if settings.OUTPUT else source.with_name("export")
    formats = [STRIPPED] if settings.STRIP else usable(settings.FORMATS, settings.COMPARE)
    for name in formats:
        refuse_existing(folder / name, settings.REPLACE)
    if not settings.STRIP:
        check_folder(folder.absolute(), formats)
    facts = recorded_facts(run, source)
    print(f"exporting {source} to {', '.join(str(folder / name) for name in formats)}", flush=True)
    os.environ |= {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}  # the backend for every format
    import_keras(say_unused=False)
    if settings.STRIP:
        sizes = strip_run(run, source, folder, settings.REPLACE)
        print("wrote {}, {:.3g} MB; with its optimizer {:.3g} MB".format(folder / STRIPPED, *(n / 1e6 for n in sizes)))
        return
    network = load_network(source)
    check_network(network, source)
    check_class_names(network)
    images, truths, description = find_images(run, network)
    network = to_float32(network)
    facts |= calibrate(network, run.calibration_of(source) if settings.CALIBRATE else None, images)
    print(f"checking on {description}", flush=True)
    facts = interface_of(network, run, facts, settings.THRESHOLD, settings.CLASS_NAMES)
    stem = re.sub(PATTERN, "_", as_utf8(run.name if run.exists else source.stem))
    job = Job(network, source, folder, stem, facts, images, truths)
    finish(job, {name: export(job, name) for name in progress(formats, len(formats), "exporting")})


def check_folder(folder, formats):
    """Refuse a Path that the libraries cannot write to or read from."""
    if as_utf8(str(folder)) != str(folder):
        raise InputError(f"OUTPUT: {folder} has bytes that are not UTF-8; use another folder")
    if "saved_model" in formats and re.search(PATTERN, str(folder)):
        raise InputError(f"OUTPUT: {folder} has one of * ? [ ] {{ }} or \\; use another folder for saved_model")


def check_class_names(network):
    """Check that CLASS_NAMES fit the network."""
    from models import classes_of  # imports Keras, whose backend is chosen now

    classes = classes_of(network)
    if settings.CLASS_NAMES and len(settings.CLASS_NAMES) != classes:
        raise InputError(
            f"CLASS_NAMES: wrong number of names (found {len(settings.CLASS_NAMES)}, expected {classes}); "
            "list every class of the network except the background"
        )


def find_images(run, network):
    """Slices or volumes to check on, their true masks, and a text that describes them."""
    from coreml.check_slices import gather_or_draw, gather_or_draw_volumes  # import Keras, whose backend is chosen now
    from models import has_overlapping_classes

    source, validation, shape = settings.SLICES, run.settings.get("VALIDATION"), network.input_shape[1:]
    if len(shape) == 3:
        output = network.output_shape[-1], has_overlapping_classes(network)
        return gather_or_draw(source, validation, settings.CHECKED, shape, *output)
    return gather_or_draw_volumes(source, validation, settings.CHECKED, shape[-1], run.crop)


def export(job, name):
    """Write a format to its folder and compare it with Keras; returns a Result."""
    final = job.folder / name
    unverified = unverified_path(final)
    with whole_entries(job.folder, [name, unverified.name], settings.REPLACE) as new:
        (new / name).mkdir()
        path = new / name / f"{job.stem}{EXPORTS[name].ending}"
        contract = Contract(name, threshold=settings.THRESHOLD, overlapping=job.facts.get("overlapping", False))
        try:
            write_model(job.network, name, path, job.source)
            size = size_in_bytes(new / name)
            model = ExportedModel(path, name)
            comparison = compare_on_slices(job.network, model, contract, job.images, job.truths)
        except InputError as error:
            remove(new / name)
            return Result(faults=(str(error),))
        faults = Limits(settings.LARGEST_DIFFERENCE, settings.LEAST_DICE).exceeded_by(comparison, compressed=False)
        first = {"input": prepare_inputs(job.images[0], contract)[1]}
        time = milliseconds(lambda: model.run(first)) if settings.COMPARE else None
        checked = {"images": comparison.slices, "largest": comparison.max_difference, "dice": comparison.dice}
        card = {"format": name, "file": path.name, **job.facts, "check": checked}
        write_json(path.with_name(f"{job.stem}.json"), card)
        if faults:
            (new / name).rename(new / unverified.name)
            final = unverified
    return Result(final, size, comparison, time, tuple(faults))


def finish(job, results):
    """Print what was written and how it compares; raise InputError for every format that failed."""
    if settings.COMPARE:
        print_table(job, results)
    for name, result in results.items():
        if result.comparison and not settings.COMPARE:
            print(f"{name}: {result.comparison}")
    written = {result.path: result.size for result in results.values() if result.path and not result.faults}
    for path, size in written.items():
        print(f"wrote {path}, {size / 1e6:.3g} MB")
    failed = [fault_of(name, result) for name, result in results.items() if result.faults]
    if failed and not (settings.COMPARE and written):
        raise InputError(summarize(failed, "formats failed"))


def fault_of(name, result):
    """What is wrong with a format, as text."""
    faults = "; ".join(result.faults)
    return f"{result.path} does not match Keras: {faults}" if result.path else faults


def print_table(job, results):
    """Print size, errors and time per image of Keras and of each format."""
    batch = job.images[0][None]
    keras = job.source.stat().st_size, milliseconds(lambda: job.network.predict_on_batch(batch))
    print(f"{'format':12}{'MB':>8}{'largest':>10}{'mean':>10}{'Dice':>9}{'changed':>9}{'ms':>9}")
    print(f"{'Keras':12}{keras[0] / 1e6:8.1f}{'':38}{keras[1]:9.2f}")
    for name, result in results.items():
        if not result.comparison:
            print(f"{name:12}{'; '.join(result.faults)}")
            continue
        found, note = result.comparison, "  unverified" if result.faults else ""
        row = f"{name:12}{result.size / 1e6:8.1f}{found.max_difference:10.2g}{found.mean_difference:10.2g}"
        row += f"{found.dice:9.4f}{found.changed_pixels:9}"
        print(f"{row}{result.time:9.2f}{note}")
    print("largest, mean: difference of a probability; Dice: between the masks; changed: pixels; ms: for one image")


if __name__ == "__main__":
    main()
