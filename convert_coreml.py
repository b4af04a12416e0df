"""Convert a trained model to Core ML, and verify the written file on any computer.

Reads   RUN: a run folder of train.py, or a .keras file
Writes  OUTPUT: a .mlmodel with the input and output that A.I.Segmentation expects, or a .mlpackage
Takes   36 s and 3.4 GB of memory for a 200x200 U-net with 31 million parameters on two cores
Expect  a difference of 1e-6 in float32; a model that fails the check keeps the suffix -unverified,
        and the script exits with 1

The script reads the file back, executes it by Apple's specification without the Keras network, and
compares the masks to the Keras masks. On macOS, Core ML itself runs the file too.
"""

from typing import Annotated, Literal

from annotated_types import Gt, Lt

from common import setting_types as types
from common.settings import apply_command_line

# --- input and output
RUN: str = ""  # run folder of train.py, a .keras file, or an .h5 file of Keras 2
WEIGHTS_FILE: types.WeightsFile = "best_dice"  # checkpoint of the run: "best_dice", "best_iou" or "last"
MODEL: str = ""  # your own network file of RUN, so that its copy in RUN may run
#   Code in RUN runs only if it equals this file.
TRUST_RUN: bool = False  # True: run any code that RUN contains; only if you trust its source
OUTPUT: str = ""  # file to write; empty: <run name>.<FORMAT> in the run folder
REPLACE: bool = False  # True: overwrite an existing model

# --- model format
FORMAT: Literal["mlmodel", "mlpackage"] = "mlmodel"  # "mlmodel" for A.I.Segmentation; "mlpackage" for macOS 12 or later
#   "mlmodel" is a neural network, "mlpackage" an ML program.
INPUT_KIND: Literal["array", "image"] = "array"  # "array": (C, H, W) of values/255; "image": a gray or RGB image
OUTPUT_KIND: Literal["probabilities", "classes", "image"] = "probabilities"
# "probabilities", "classes": numbers, or a gray "image"
#   "probabilities": (1, H, W), or (K + 1, H, W) for K classes, background first; "classes": class numbers (1, H, W);
#   "image": 255 times the probability, or class numbers.
THRESHOLD: Annotated[float, Gt(0), Lt(1)] = 0.5  # probability above which a pixel is foreground, with one class
CALIBRATE: bool = True  # fold the run's threshold and temperature into the last layer
COMPRESSION: Literal["float32", "float16", "linear8", "palette8", "palette6", "palette4"] = "float32"
# float32, float16, linear8, palette8, palette6, palette4 weights
#   All but "float32" make a .mlpackage compute in half precision.
TARGET: str | None = None  # oldest system, such as "macOS13"; None: what COMPRESSION needs
#   For phones, such as "iOS16".
VOLUME_SIZE: types.Crop | None = None  # models for volumes: voxels (up, back, left); None: CROP of the run
CHECK_ONLY: bool = False  # True: only check the existing model OUTPUT; write nothing
COMPARE: bool = False  # True: write a model for every COMPRESSION, and compare their accuracy

# --- the check
SLICES: str = ""  # packed set, list, folder of cases or images; "": the validation set
#   To check the converted model on; "" is the validation set of the run.
CHECKED: types.PositiveInt = 8  # number of slices to check on
LARGEST_DIFFERENCE: types.NonNegative = 1e-3  # max difference of a probability, for float32 weights
LEAST_DICE: types.Share = 0.999  # min Dice between the masks of Keras and the model

# --- metadata
AUTHOR: str = ""  # author of the model
LICENCE: str = ""  # license or terms of use
DESCRIPTION: str = ""  # description of the model; empty: network, size and classes
INPUT_DESCRIPTION: str = ""  # description of the input; empty: by INPUT_KIND
OUTPUT_DESCRIPTION: str = ""  # description of the output; empty: by OUTPUT_KIND
CARD: types.ModelCard = {}  # model card: {"limitations": "...", "training_data": "...", "link": "..."}
CLASS_NAMES: types.Names = []  # class names, without the background; []: as in training
WINDOW: types.WindowOrNone = []  # black and white, [low, high], such as HU; []: as the run recorded

settings = apply_command_line(globals())

import logging
import os
from contextlib import ExitStack
from pathlib import Path

from common.devices import import_keras
from common.errors import InputError
from common.replacing import refuse_existing, staged
from common.streams import one_line
from common.training.run_folder import Run
from common.training.trained_models import load_network, model_file
from common.training.trust import trust_command
from coreml.card import card_of, print_unsaid, publish_with_card
from coreml.compress import COMPRESSIONS, choose_target, compress_weights, require_system, uses_half_precision
from coreml.convert import Contract, convert_network, describe_file, save_model, size_in_bytes, to_float32
from coreml.fold import calibrate
from coreml.metadata import complete_spec, recorded_facts
from coreml.reader import read_model
from coreml.verify import Limits, unverified_path, verify


def main():
    trust_command(settings)
    source, paths = check_settings()
    run = Run(Path(os.path.realpath(source)).parent)
    facts = recorded_facts(run, source)
    doing = "checking {1} against {0}" if settings.CHECK_ONLY else "converting {0} to {1}"
    print(doing.format(source, ", ".join(map(str, paths.values()))), flush=True)
    load_libraries()
    from coreml.check_slices import gather_or_draw  # imports Keras; load_libraries chose its backend
    from coreml.volumes import are_for_volumes, with_fixed_size
    from models import has_overlapping_classes

    targets = choose_targets(paths)
    network = load_network(source)
    kinds, volumes = (settings.FORMAT, settings.INPUT_KIND, settings.OUTPUT_KIND), are_for_volumes(network)
    contract = Contract(*kinds, settings.THRESHOLD, volumes or has_overlapping_classes(network))
    if volumes or settings.VOLUME_SIZE:
        network = with_fixed_size(to_float32(network), settings.VOLUME_SIZE or run.crop, source)
    check_network(network, contract, source)
    shapes = network.input_shape[1:], network.output_shape[-1], contract.overlapping
    images, truths, description = gather_or_draw(
        settings.SLICES, run.settings.get("VALIDATION"), settings.CHECKED, *shapes
    )
    network = to_float32(network)
    facts |= calibrate(network, run.calibration_of(source) if settings.CALIBRATE else None, images)
    limits = Limits(settings.LARGEST_DIFFERENCE, settings.LEAST_DICE)
    about = facts | facts_of_network(network, facts["network"], contract) | {"size": network.output_shape[1:-1]}
    card = card_of(about, texts(), settings.CARD, network.count_params())
    with ExitStack() as stack:  # of the models that are not in their places yet
        written = () if settings.CHECK_ONLY else write_models(network, source, contract, paths, targets, facts, stack)
        results = {}
        for compression, path in written or paths.items():
            model = read_model(path)
            if not results:
                print(*describe_file(path), f"checking on {description}", sep="\n", flush=True)
            result = verify(network, model, contract, images, truths, limits, compressed=compression != "float32")
            if result.apple:
                print(f"Core ML, {compression}: {result.apple}", flush=True)
            final = paths[compression]
            if not settings.CHECK_ONLY:
                final = unverified_path(final) if result.faults else final
                publish_with_card(path, final, None if result.faults else card, settings.REPLACE)
            results[compression] = final, result
    if not settings.CHECK_ONLY and not all(result.faults for _, result in results.values()):
        print_unsaid(settings.CARD)
    finish(results)


def check_settings():
    """Check settings that depend on each other or on files.

    Returns:
        Path of the .keras file; dict from each compression to the Path of its model.
    """
    if settings.OUTPUT_KIND == "image" and settings.FORMAT == "mlmodel":
        raise InputError("OUTPUT_KIND: 'image' needs an ML program; use --format mlpackage")
    if settings.CHECK_ONLY and settings.COMPARE:
        raise InputError("CHECK_ONLY and COMPARE: one checks a model, the other writes several; use only one")
    source = model_file(settings.RUN, settings.WEIGHTS_FILE)
    run = Run(Path(os.path.realpath(source)).parent)
    name = run.name if run.exists else source.stem
    output = Path(settings.OUTPUT) if settings.OUTPUT else source.with_name(f"{name}.{settings.FORMAT}")
    if output.suffix != f".{settings.FORMAT}":
        raise InputError(f"OUTPUT: {output} does not end in .{settings.FORMAT}; change the ending or --format")
    paths = {settings.COMPRESSION: output}
    if output.suffix == ".mlpackage" and one_line(str(output)) != str(output):
        raise InputError(f"OUTPUT: {output} has bytes that are not UTF-8, or control characters; use another name")
    if settings.COMPARE:
        paths = {name: output.with_name(f"{output.stem}-{name}{output.suffix}") for name in COMPRESSIONS}
    for path in paths.values():
        if not settings.CHECK_ONLY:
            refuse_existing(path, settings.REPLACE)
        elif not path.exists():
            raise InputError(f"OUTPUT: {path} does not exist; CHECK_ONLY needs an existing model")
    return source, paths


def load_libraries():
    """Import Keras quietly, on the CPU and on TensorFlow, the only backend that coremltools reads."""
    os.environ |= {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1", "TQDM_DISABLE": "1"}
    logging.getLogger("coremltools").setLevel(logging.ERROR)  # it warns about every TensorFlow after 2.12
    import_keras(say_unused=False)


def choose_targets(paths):
    """Choose the oldest system for each compression; with COMPARE, drop and print those that TARGET rules out."""
    targets = {}
    for compression in list(paths):
        try:
            targets[compression] = choose_target(compression, settings.FORMAT, settings.TARGET)
        except InputError as error:
            if len(paths) == 1:
                raise
            print(f"skipping {compression}: {error}")
            del paths[compression]
    return targets


def check_network(network, contract, source):
    """Check that the network fits the contract and CLASS_NAMES."""
    contract.check_network(network, source)
    classes = contract.classes_of(network.output_shape[-1])
    if settings.CLASS_NAMES and len(settings.CLASS_NAMES) != classes:
        raise InputError(
            f"CLASS_NAMES: wrong number of names (found {len(settings.CLASS_NAMES)}, expected {classes}); "
            "list every class of the network except the background"
        )


def write_models(network, source, contract, paths, targets, facts, stack):
    """Write a model for each compression to a `staged` path in `stack`; yield the compression and the path."""
    facts = facts | facts_of_network(network, facts["network"], contract)
    converted = {}
    for compression, path in paths.items():
        options = uses_half_precision(compression, settings.FORMAT), targets[compression]
        if options not in converted:
            converted = {options: convert_network(network, source, contract, *options)}  # keeps only one in memory
        model = compress_weights(converted[options], compression)
        spec = complete_spec(model, contract, network, texts(), facts | {"compression": compression})
        path = stack.enter_context(staged(path))
        if settings.TARGET:  # the layers of a neural network are known only now
            require_system(settings.TARGET, spec.specificationVersion, f"the layers of {path.name}")
        save_model(spec, model.weights_dir, path)
        yield compression, path


def facts_of_network(network, name, contract):
    """Metadata from the network and the settings as a dict; empty settings keep what the run recorded."""
    has_threshold = network.output_shape[-1] == 1 or contract.overlapping
    facts = {
        "network": name or network.name,
        "classes": contract.classes_of(network.output_shape[-1]),
        "overlapping": contract.overlapping,
        "class_names": settings.CLASS_NAMES,
        "window": settings.WINDOW,
        "threshold": settings.THRESHOLD if has_threshold else None,
    }
    return {name: value for name, value in facts.items() if value}


def texts():
    """Metadata texts from the settings."""
    return {
        "author": settings.AUTHOR,
        "licence": settings.LICENCE,
        "description": settings.DESCRIPTION,
        "input": settings.INPUT_DESCRIPTION,
        "output": settings.OUTPUT_DESCRIPTION,
    }


def finish(results):
    """Print what was written and how it compares; raise InputError if no model passed."""
    if settings.COMPARE:
        print_table(results)
        passed = {path: size_in_bytes(path) for path, result in results.values() if not result.faults}
        if not passed:
            raise InputError(
                "COMPARE: no model passed the check (see the table); "
                "change LARGEST_DIFFERENCE or LEAST_DICE only if these differences are acceptable"
            )
        smallest = min(passed, key=passed.get)
        print(f"models written: {len(results)}; smallest within the limits: {smallest}")
        return
    ((compression, (path, result)),) = results.items()
    if result.comparison:
        print(f"check   {result.comparison}")
    if result.faults:
        raise InputError(f"{path} does not match Keras: {'; '.join(result.faults)}")
    size = f"{compression} weights, {size_in_bytes(path) / 1e6:.3g} MB"
    print(f"{path} matches Keras" if settings.CHECK_ONLY else f"wrote {path}, {size}")


def print_table(results):
    print(f"{'weights':10}{'MB':>8}{'largest':>10}{'mean':>10}{'Dice':>9}{'truth':>9}")
    truths = []
    for compression, (path, result) in results.items():
        comparison = result.comparison
        if comparison is None:
            print(f"{compression:10}{'; '.join(result.faults)}")
            continue
        differences = comparison.max_difference, comparison.mean_difference
        largest, mean = (f"{difference:.2g}" if difference is not None else "-" for difference in differences)
        truth = f"{comparison.dice_to_truth[1]:.4f}" if comparison.dice_to_truth else "-"
        truths += [comparison.dice_to_truth] if comparison.dice_to_truth else []
        size, note = size_in_bytes(path) / 1e6, "  unverified" if result.faults else ""
        print(f"{compression:10}{size:8.1f}{largest:>10}{mean:>10}{comparison.dice:9.4f}{truth:>9}{note}")
    keras = f" (Keras: {truths[0][0]:.4f})" if truths else ""
    print(f"largest, mean: difference of a probability; Dice: against Keras; truth: Dice against the true masks{keras}")


if __name__ == "__main__":
    main()
