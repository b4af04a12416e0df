"""Train a network on the packed sets.

Reads   TRAIN and VALIDATION: packed sets of step 3, of slices or of volumes, or lists of step 2
Writes  RUNS/<date-time>_<model>/: best_dice.keras, best_iou.keras, last.keras, training_log.csv, curves.png,
        validation_slices.png, report.html, settings.json, environment.txt, code/, state.json, tensorboard/
Takes   see the line of the first epoch; its first step also compiles the network
Expect  a validation Dice that climbs within the first ten epochs; watch it with tensorboard --logdir runs
"""

from common.settings import apply_command_line, recorded_settings, use_recorded_settings

# --- data
TRAIN = "data/packed/train.h5"  # packed set or list to train on
VALIDATION = "data/packed/validation.h5"  # packed set or list to choose the best epoch by
MEMORY_GB = 4.0  # sets of up to so many GB are held in memory; greater ones are read as needed
FOLD: int | str | None = None  # fold to train of those beside TRAIN, from 1; "all": a cross-validation over all in turn
AUGMENTATION = {}  # on the fly, for instance {"flip": "horizontal", "rotation": 10, "shift": 0.05, "zoom": 0.05};
# also "shear", "elastic", "brightness", "contrast", "blur", and "fill": "constant", "nearest" or "reflect"; of volumes
# {"rotation": 5, "zoom": 0.1, "shift": 0.1, "shear": 0.05, "flip": "x", "gamma": 0.5, "margins": [0.1, 0.2, 0.3]}
CROP: list | None = None  # of packed volumes: voxels (up, back, left) of the crops to train on; None: whole cases

# --- where to, and how to begin
RUNS = "runs"  # folder of the run folders
MODE = "new"  # "new"; "resume" goes on with RUN under its settings, changed by flags only; "retrain" takes its weights
RUN = ""  # run folder (or, to retrain, a .keras file) to begin from

# --- network and loss
MODEL = "unet"  # "unet", "cvnet_synapse" (for 200x200), "cvnet_synapse_512", "deeplab_v3plus"; for volumes
# "se_resunet3d"; or the path of a .py file with build_model(input_shape, classes, **settings)
MODEL_SETTINGS = {}  # its own settings, for instance {"features": 32, "depth": 4, "dropout": 0.2} or
# {"backbone": "mobilenetv2"}; see models/
LOSS = "bce+dice"  # "mse", "log_cosh", "kld", "focal", "constrained_focal", "hausdorff", "series" (these in turn),
# "bce", "cce" (several classes), "dice", "smooth_dice", "iou", "tversky", "focal_tversky", or a sum, "hausdorff+dice"

# --- optimiser; None takes what the network's author recommends
OPTIMIZER: str | dict | None = None  # "adam", or with settings {"name": "sgd", "momentum": 0.95, "nesterov": True}
LEARNING_RATE: float | None = None  # to start from; of SGD, None goes in proportion with BATCH_SIZE
SCHEDULE: str | None = None  # "constant", "poly", "graph" or "cosine"
SCHEDULE_SETTINGS = {}  # poly {"power": 0.9}; graph {"points": [[0, 5e-3], [50, 1e-3]]}, whose end is that of the run;
# cosine {"period": 100, "factor": 2, "lowest": 1e-6}
CONTROLLER = {}  # multiplier on top; {}: off; {"step": [0.1, 2.5], "patience": [10, 3], "limit": [0.001, 1]}
BATCH_SIZE: int | str | None = None  # slices, crops or volumes a step; "auto": the recommended size, doubled while a
# trial finds that faster

# --- how long
EPOCHS = 50  # passes over the training set
EARLY_STOP = 50  # stop after so many epochs without a new best Dice or IoU; 0: never
MAX_MINUTES: float | None = None  # stop before an epoch that would end later than this; None: never

# --- how to compute
PRECISION = "auto"  # "float32", "mixed_bfloat16", "mixed_float16"; "auto": the fast one that the device has, on
# a CPU by a trial before runs of 500 steps and more
JIT: bool | str = "auto"  # compile with XLA (or PyTorch's compiler); "auto": as suits the backend; on TensorFlow with
# DETERMINISTIC False by a trial before runs of 500 steps and more
DEVICES: int | None = None  # GPUs of each machine to divide a batch over, on JAX; None: as many as divide it
SEED = 1  # of weights, order, drop-out and augmentation
DETERMINISTIC = True  # the same seed gives the same bits; False may be faster on a GPU

given = apply_command_line(globals())

from pathlib import Path

from common import devices
from common.errors import InputError, as_input_error
from common.files import file_digest, require_choice
from common.training import autotune as trials

devices.import_keras(together=FOLD != "all")
import keras

import models
from common.training.callbacks import Recorder, make_run_folder, read_checkpoint
from common.training.course import Course, Log
from common.training.cross_validation import cross_validate, find_folds, fold_file, is_cross_validation
from common.training.distribution import several_processes, spread_over, together
from common.training.flops import image_flops
from common.training.opening import open_both
from common.training.optimizer import compile_network, make_optimizer, prepare_steps
from common.training.report import draw_network, finish_report
from common.training.run_folder import load_network, model_file, take_weights
from common.training.schedules import Controller, learning_rate
from common.training.timing import Timer, in_lines, time_table
from losses import get_loss


def main():
    if FOLD == "all":
        if several_processes():
            raise InputError('FOLD "all" goes on one machine; train fold by fold with several processes')
        cross_validate(recorded_settings(globals()))
        return
    if MODE == "resume":
        use_run_to_resume()
    elif FOLD is not None:
        take_fold()
    own_rate = LEARNING_RATE is not None
    take_recommendations()
    check_settings()
    training, validation = open_sets()

    devices.set_up(SEED, DETERMINISTIC)  # before anything is put on a device
    spread = choose_how_to_compute(training, own_rate)
    batches = make_batches(training, BATCH_SIZE, spread)
    keras.utils.set_random_seed(SEED)  # again: a trial draws random numbers
    with spread.scope():
        if spread.processes > 1:
            spread.require_same(what_decides(training, validation))
        model, log = make_model(training)
    run = find_run_folder(model) if spread.first else None
    print(
        f"{MODEL}, {model.count_params():,} parameters, {LOSS}; training on {training.in_words()}, validation on "
        f"{validation.in_words()}, {'one class' if training.classes == 1 else f'{training.classes} classes'}; "
        f"{devices.describe()}{spread.in_words()}, {PRECISION}\n"
        f"run folder {run or 'is that of the first process'}; "
        + (f"going on after epoch {len(log)}" if log else "the first step compiles the network"),
        flush=True,
    )
    course = Course(log, batches, rate_of_epoch, SEED, EPOCHS, EARLY_STOP, MAX_MINUTES, spread.agree)
    recorder = Recorder(run, course, {"data": training.about()}) if spread.first else None
    if not course.why:
        timer = Timer(image_flops(model), devices.peak(PRECISION))
        to_go_on = f"; to go on: python train.py --mode resume --run {run or 'RUN'}"
        try:
            with together(to_go_on):
                model.fit(
                    devices.feed(batches),
                    validation_data=devices.feed(validation.batches(BATCH_SIZE, crop=CROP, spread=spread)),
                    initial_epoch=len(log),
                    epochs=EPOCHS,
                    shuffle=False,
                    verbose=0,
                    callbacks=[timer, course, *filter(None, [recorder])],
                )
        except KeyboardInterrupt:
            if recorder:
                recorder.finish_writing()
            print(f"\nstopped after epoch {len(log)}{to_go_on}")
            raise
    if recorder:
        recorder.close()
    if course.failed:
        raise InputError(course.why)
    spread.leave()
    if recorder:
        finish(run, course, validation)
    else:
        print(f"stopped, {course.why}; the run folder is that of the first process")


def finish(run, course, validation):
    """Complete the run folder of a run that has ended, and say what came out."""
    finish_report(run, course.log, validation, BATCH_SIZE)
    if table := time_table():
        print(f"where the time went:\n{in_lines(table)}")
    score, epoch = course.log.best("dice")
    print(f"stopped, {course.why}; wrote {run}: best validation Dice {score:.4f} in epoch {epoch}")


# --- settings


def use_run_to_resume():
    if not RUN or not Path(RUN, "settings.json").is_file():
        raise InputError(
            f"RUN: {RUN or 'not set'} is no run folder (it has no settings.json); give --run the run to resume"
        )
    use_recorded_settings(globals(), Path(RUN, "settings.json"), keep=given | {"MODE", "RUN", "RUNS"})


def take_fold():
    """Take the sets of a fold."""
    folds = find_folds(TRAIN) if Path(TRAIN).parent.name != f"fold{FOLD}" else [FOLD]
    if FOLD not in folds:
        raise InputError(f'FOLD is {FOLD!r}; {Path(TRAIN).parent} has {", ".join(map(str, folds))}, or say "all"')
    globals().update(TRAIN=fold_file(TRAIN, FOLD), VALIDATION=fold_file(VALIDATION, FOLD))


def take_recommendations():
    """Fill in what is None with what the network's author recommends."""
    with as_input_error("MODEL"):
        recommended = models.recommended(MODEL, None if BATCH_SIZE == "auto" else BATCH_SIZE)
    if OPTIMIZER is not None and LEARNING_RATE is None:  # the recommended rate is that of the recommended optimizer
        with as_input_error("OPTIMIZER"):
            chosen = make_optimizer(OPTIMIZER)
        if type(chosen) is not type(make_optimizer(recommended["OPTIMIZER"])):
            globals()["LEARNING_RATE"] = float(chosen.learning_rate)
    globals().update({name: value for name, value in recommended.items() if globals()[name] is None})
    if SCHEDULE == "graph" and SCHEDULE_SETTINGS.get("points"):
        globals()["EPOCHS"] = int(SCHEDULE_SETTINGS["points"][-1][0])


def check_settings():
    require_choice(JIT, (True, False, "auto"), "JIT")
    require_choice(MODE, ("new", "resume", "retrain"), "MODE")
    for name, least in (("EPOCHS", 1), ("BATCH_SIZE", 1), ("SEED", 0), ("EARLY_STOP", 0), ("LEARNING_RATE", 0)):
        value = globals()[name]
        if (name, value) != ("BATCH_SIZE", "auto") and (isinstance(value, str) or value < least):
            raise InputError(f"{name} is {value!r}; expected at least {least}")
    if DEVICES is not None and DEVICES < 1:
        raise InputError(f"DEVICES is {DEVICES}; expected at least 1, or None")
    with as_input_error("LOSS"):
        get_loss(LOSS)
    with as_input_error("OPTIMIZER"):
        make_optimizer(OPTIMIZER, LEARNING_RATE)
    with as_input_error("SCHEDULE"):
        rate_of_epoch(0, Log())
    if MODE == "retrain":
        model_file(RUN)


def rate_of_epoch(epoch, log):
    """Learning rate of an epoch, counted from 0, after those in the log."""
    try:
        rate = learning_rate(SCHEDULE, epoch, EPOCHS, LEARNING_RATE, **SCHEDULE_SETTINGS)
        return rate * log.multiplier(Controller(**CONTROLLER)) if CONTROLLER else rate
    except TypeError as error:  # a name that the schedule or the controller does not have
        raise ValueError(f"SCHEDULE_SETTINGS or CONTROLLER: {error}") from None


# --- data and network


def open_sets():
    """Training and validation set, checked against each other and the loss."""
    training, validation = open_both(TRAIN, VALIDATION, MEMORY_GB)
    with as_input_error("LOSS"):
        get_loss(LOSS, training.classes, training.axes)
    return training, validation


def make_batches(training, size, spread=None):
    """Batches of the training set, shuffled and augmented."""
    with as_input_error("AUGMENTATION, BATCH_SIZE or CROP"):
        return training.batches(size, SEED, AUGMENTATION, CROP, spread)


def choose_how_to_compute(training, own_rate):
    """Choose PRECISION, JIT and BATCH_SIZE where they are "auto", by trials if the run is long enough for them.

    Returns:
        The devices to train on, as a `common.training.distribution.Spread`.
    """

    def compiled(jit=None):
        model = build(training)
        compile_network(model, OPTIMIZER, LEARNING_RATE, LOSS, devices.usual_jit() if jit is None else jit)
        return model

    def batch(size):
        return make_batches(training, size).batch(0)

    own_size = BATCH_SIZE != "auto"
    spread = spread_over(DEVICES, BATCH_SIZE if own_size else None)
    size = BATCH_SIZE if own_size else models.recommended(MODEL)["BATCH_SIZE"]
    steps = EPOCHS * len(make_batches(training, size))
    choice = trials.choose_precision(PRECISION, compiled, lambda: batch(size), steps)
    globals()["PRECISION"] = spread.agree(choice)
    with as_input_error("PRECISION"):
        keras.config.set_dtype_policy(PRECISION)
    globals()["JIT"] = trials.choose_jit(JIT, DETERMINISTIC, compiled, lambda: batch(size), steps)
    if not own_size:
        size = trials.choose_batch_size(size, lambda: compiled(JIT), batch, len(training))
        size = spread.agree(size) * len(spread)
        if not own_rate and models.recommended(MODEL)["LEARNING_RATE"] == LEARNING_RATE:
            globals()["LEARNING_RATE"] = models.recommended(MODEL, size)["LEARNING_RATE"]
        globals()["BATCH_SIZE"] = size
        print(f"batches of {size}, learning rate {LEARNING_RATE:g}", flush=True)
    return spread


def what_decides(training, validation):
    """What has to be the same in several processes: dict of a name for a message to values of JSON."""
    checkpoint = Path(RUN, "last.keras")
    places = ("TRAIN", "VALIDATION", "RUNS", "RUN", "MEMORY_GB")  # each machine may have its own
    return {
        "a setting": {name: value for name, value in recorded_settings(globals()).items() if name not in places},
        "TRAIN": training.in_order(),
        "VALIDATION": validation.in_order(),
        "the checkpoint of RUN": file_digest(checkpoint) if MODE == "resume" and checkpoint.is_file() else None,
    }


def find_run_folder(model):
    """The run folder: that of the run to resume, or a new one."""
    if MODE == "resume":
        return Path(RUN)
    name = f"fold{FOLD}" if is_cross_validation(RUNS) else None
    run = make_run_folder(RUNS, MODEL, recorded_settings(globals()), name)
    draw_network(model, run)
    return run


def make_model(training):
    """Build or load the network, compiled, and the log of the epochs that it has behind it."""
    model = build(training)
    if MODE == "resume":
        resumed, log = read_checkpoint(Path(RUN))
        if resumed is not None:
            if resumed.output_shape != model.output_shape:
                raise InputError(f"{RUN} gives {resumed.output_shape}; {TRAIN} needs {model.output_shape}")
            prepare_steps(resumed)
            return resumed, log
    if MODE == "retrain":
        take_weights(model, load_network(model_file(RUN)), RUN)
    compile_network(model, OPTIMIZER, LEARNING_RATE, LOSS, JIT)
    return model, Log()


def build(training):
    with as_input_error("MODEL_SETTINGS"):
        return models.build_model(MODEL, training.shape, training.classes, **MODEL_SETTINGS)


if __name__ == "__main__":
    with together():
        main()
