"""Train a model on the packed sets.

Reads   TRAIN and VALIDATION: packed sets of step 3, of slices or of volumes, or lists of step 2
Writes  RUNS/<date-time>_<model>/: best_dice.keras, best_iou.keras, last.keras, training_log.csv,
        curves.png, augmented_slices.png, validation_slices.png, report.html, calibration.json,
        settings.json, environment.txt, code/, state.json, tensorboard/
Takes   as long as EPOCHS times the seconds in the line of the first epoch, or less
Expect  a validation Dice that climbs within ten epochs; to watch it: tensorboard --logdir runs
"""

import sys
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Literal

from common import setting_types as types
from common.settings import apply_command_line, check_model_settings

# --- data
TRAIN: types.PathName = "data/packed/train.h5"  # packed set or list to train on
VALIDATION: types.PathName | Literal[""] = "data/packed/validation.h5"  # set or list that decides the best epoch
#   "": none, for a final training on all cases; the model of the last epoch counts.
CLASS_NAMES: types.Names = []  # class names, such as ["liver", "tumor"]; []: of case.json, or numbers
MEMORY_GB: types.NonNegative = 4.0  # load sets up to this size into memory; read larger ones from disk
FOLD: types.PositiveInt | Literal["all"] | None = None  # which fold next to TRAIN (1, 2, ...); "all": cross-validation
AUGMENTATION: Literal["medical"] | types.Augmentation | None = None  # on the fly; {}: none; None: see docs/plan.md
#   Slices: "medical", or a dict such as {"flip": "horizontal", "rotation": 10, "noise": [0.1, 0, 0.06]}: see
#   docs/choosing.md. Volumes ("medical" is none): {"rotation": 5, "zoom": 0.1, "shift": 0.1, "shear": 0.05, "flip":
#   "x", "gamma": 0.5, "margins": [0.1, 0.2, 0.3], "anywhere": 0.2, "cluster": 0.5}
FOREGROUND: types.Share | None = None  # least share of a batch with foreground; for volumes, of crops
CROP: types.Crop | None = None  # packed volumes: crop size in voxels (up, back, left); None: whole cases

# --- output and starting point
RUNS: types.PathName = "runs"  # folder of the run folders
MODE: Literal["new", "resume", "retrain"] = "new"  # "new"; "resume": continue RUN; "retrain": start from its weights
#   "resume" keeps the settings of RUN; flags change them, except network, loss, optimizer and precision.
RUN: str = ""  # run folder to resume or retrain (or, to retrain, a .keras or .h5 file)
TRUST_RUN: bool = False  # True: run code of RUN or a settings file; trust its source first

# --- network and loss
MODEL: types.Network | None = None  # "unet" or another network of models/, or the path of a .py file
#   None: chosen for the training set, with a reason, as FOREGROUND and LOSS are: see docs/plan.md; or:
#   "cvnet_synapse" (200x200), "cvnet_synapse_512", "deeplab_v3plus", "pretrained_unet"; "crop_classifier"; for volumes
#   "unet3d" or "se_resunet3d"; a file of your own defines build_model(input_shape, classes, **settings).
MODEL_SETTINGS: types.FreeDict = {}  # network settings, such as {"features": 32}; see models/
#   "unet": {"features": 32, "depth": 4, "dropout": 0.2}; "deeplab_v3plus": {"backbone": "mobilenetv2"}
LOSS: types.Loss | None = None  # a loss, a .py file with one, or a sum, such as "hausdorff+dice"
#   "mse", "log_cosh", "kld", "focal", "constrained_focal", "hausdorff", "series" (these in turn), "bce",
#   "weighted_bce", "cce" (several classes), "dice", "batch_dice", "smooth_dice", "smooth_batch_dice", "iou", "tversky",
#   "focal_tversky". A file has loss(targets, probabilities).

# --- optimizer; None uses the value that the network's author recommends
OPTIMIZER: types.OptimizerName | types.Optimizer | None = None
# name, such as "adam", or {"name": "sgd", "momentum": 0.95}
AS_PUBLISHED: bool = False  # True: train as MODEL's author did, also as long; flags override
LEARNING_RATE: types.NonNegative | None = None  # initial value; None: the author's, scaled with BATCH_SIZE for SGD
SCHEDULE: types.Schedule | None = None  # "constant", "poly", "graph" or "cosine"
SCHEDULE_SETTINGS: types.ScheduleSettings = {}  # such as {"power": 0.9} for "poly"
#   "graph": {"points": [[0, 5e-3], [50, 1e-3]]}, which also sets EPOCHS; "cosine": {"period": 100, "factor": 2,
#   "lowest": 1e-6}; with any {"warm_up": 5}, epochs in which the rate rises, and {"skip": 30}, epochs that are over
CONTROLLER: types.ControllerSettings = {}  # learning-rate multiplier on a plateau; {}: off
#   {"step": [0.1, 2.5], "patience": [10, 3], "limit": [0.001, 1]}
BATCH_SIZE: types.PositiveInt | Literal["auto"] | None = None
# slices, crops or volumes per step; "auto": doubled while faster

# --- how long
EPOCHS: types.PositiveInt | None = 50  # passes over the training set; None: as many as fit into MAX_MINUTES
EPOCHS_FROM: str = ""  # cross-validation whose best epochs, on average, become EPOCHS
EARLY_STOP: types.Count = 50  # stop after this many epochs without a new best Dice or IoU; 0: never
MAX_MINUTES: types.NonNegative | None = None  # stop before an epoch that would exceed this time; None: never

# --- how to compute
PRECISION: types.Precision = "auto"  # "float32", "mixed_bfloat16", "mixed_float16", "auto": the fastest
#   On a CPU, "auto" benchmarks them before runs of 500 steps and 4 minutes or more.
JIT: bool | Literal["auto"] = "auto"  # compile with XLA (or PyTorch's compiler); "auto": if it is faster
#   "auto": the backend's usual choice; on TensorFlow with DETERMINISTIC False, benchmarked likewise.
DEVICES: types.PositiveInt | None = None  # GPUs per machine (not on PyTorch); None: as many as divide a batch
MEMORY: Literal["fast", "low"] = "fast"  # "low": compute activations twice (3-D): less memory, more time
SEED: types.Seed = 1  # random seed for weights, order, dropout and augmentation
DETERMINISTIC: bool = True  # same results for the same seed, bit for bit; slower on some GPUs

settings = apply_command_line(globals())
check_model_settings(settings)  # before Keras is loaded

from common.training.new_run import claim_run, open_run, read_code
from common.training.trust import flags_to_trust, trust_command

trust_command(settings)
code = read_code(settings.MODEL, settings.LOSS)  # read now, so that later edits do not reach this run

from common import devices
from common.errors import InputError
from common.training.distribution import choose_devices, join_processes, lost_process_as_error

if settings.FOLD != "all":
    join_processes()
devices.import_keras()

from common.prediction.examples import finish_run
from common.training import configure
from common.training.autotune import autotune
from common.training.callbacks import EpochControl, RunWriter, in_order
from common.training.cpu_speedups import speedups_in_words
from common.training.cross_validation import cross_validate
from common.training.report import announce, draw_network
from common.training.run_folder import Run
from common.training.timing import Timer, in_lines


def main():
    if settings.FOLD == "all":
        return cross_validate(configure.configure_folds(settings).as_json())
    s, training, validation = configure.configure_sets(settings)  # the settings in force
    devices.set_up(s.SEED, s.DETERMINISTIC)  # before anything is placed on a device
    used = choose_devices(s.DEVICES, None if s.BATCH_SIZE == "auto" else s.BATCH_SIZE)
    with ExitStack() as claims:
        if s.MODE == "resume" and used.is_first:
            claims.enter_context(claim_run(Run(s.RUN)))
        s = autotune(s, training, used)
        devices.set_seed(s.SEED)  # again: a trial draws random numbers
        model, log = configure.make_model(s, training, validation, used)
        run = None
        if used.is_first:
            run = claims.enter_context(open_run(s, devices.environment() + speedups_in_words(model), code))
            if s.MODE != "resume":
                draw_network(model, run)
        announce(s, model, log, training, validation, used, run)
        fit(s, model, log, training, validation, used, run)


def fit(s, model, log, training, validation, used, run):
    """Train to the end and complete the run folder."""
    batches = configure.make_batches(s, training, s.BATCH_SIZE, used)
    validated = validation and validation.batches(s.BATCH_SIZE, crop=s.CROP, devices=used)
    rate = partial(configure.learning_rate_of_epoch, s)
    control = EpochControl(log, batches, rate, s.SEED, s.EPOCHS, s.EARLY_STOP, s.MAX_MINUTES, used.broadcast, validated)
    timer = Timer(batches)
    to_continue = f"; to continue: python train.py --mode resume --run {run or 'RUN'}{flags_to_trust(s)}"
    with RunWriter(run, control, timer, training, validation) if used.is_first else nullcontext() as writer:
        try:
            if not control.end_reason:
                with lost_process_as_error(to_continue), devices.errors_of_batches():
                    model.fit(
                        used.feed(batches),
                        validation_data=validated and used.feed(validated),
                        initial_epoch=len(log),
                        epochs=s.EPOCHS or sys.maxsize,
                        shuffle=False,
                        verbose=0,
                        callbacks=in_order(timer, control, writer),
                    )
            if writer:
                writer.close()
        except KeyboardInterrupt:
            if writer:
                writer.finish_writing()
            print("", f"stopped after epoch {len(log)}{to_continue}", sep="\n")
            raise
    if control.failed:
        raise InputError(control.end_reason)
    used.disconnect()
    if writer:
        finish(s, run, control, timer, validation)
    else:
        print(f"{control.end_reason}; process 0 writes the run folder")


def finish(s, run, control, timer, validation):
    """Complete the run folder after training, and print the result."""
    calibration = finish_run(run, control.log, validation, s.BATCH_SIZE, tile=s.CROP)
    if table := timer.table():
        print(f"where the time went:\n{in_lines(table)}")
    if calibration:
        print(*calibration.in_words().splitlines(), sep="\n")
    print(f"{control.end_reason}; {control.log.best_in_words()}; wrote {run}")


if __name__ == "__main__":
    with lost_process_as_error():
        main()
