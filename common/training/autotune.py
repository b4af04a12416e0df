"""Short trials at the start of a run: which precision, compiler and size of a batch suit this network and machine."""

import math
import time
from functools import partial

import keras
import numpy as np

import models
from common.devices import accelerators, silenced_libraries, usual_half, usual_jit
from common.errors import is_out_of_memory
from common.training.configure import RECOMMENDED, build_network, make_batches, set_precision
from common.training.optimizer import compile_network

GREATEST_SLOWDOWN = 2  # of bfloat16 in two convolutions, for which a trial of a whole network is worth its time


def autotune(settings, training, devices):
    """Settings without "auto": PRECISION, JIT and BATCH_SIZE as the device suits, found by trials for long runs.

    The precision becomes the dtype policy of Keras.

    Args:
        settings: `common.settings.Settings` of `configure`.
        training: set to train on.
        devices: `common.devices.OneDevice` or `common.training.distribution.Devices`.

    Returns:
        new Settings.
    """

    def compiled(jit=None):
        model = build_network(settings, training)
        jit = usual_jit() if jit is None else jit
        compile_network(model, settings.OPTIMIZER, settings.LEARNING_RATE, settings.LOSS, jit)
        return model

    def batch(size):
        return make_batches(settings, training, size).batch(0)

    own_size = settings.BATCH_SIZE != "auto"
    size = settings.BATCH_SIZE if own_size else models.recommended(settings.MODEL)["BATCH_SIZE"]
    steps = settings.EPOCHS * len(make_batches(settings, training, size))
    precision, why = choose_precision(settings.PRECISION, compiled, lambda: batch(size), steps)
    set_precision(precision := devices.broadcast(precision))
    chosen = settings.replace(why, PRECISION=precision) if why else settings
    jit, why = choose_jit(settings.JIT, settings.DETERMINISTIC, compiled, lambda: batch(size), steps)
    chosen = chosen.replace(why, JIT=jit) if why else chosen
    if own_size:
        return chosen
    size = choose_batch_size(size, lambda: compiled(jit), batch, len(training))
    size = devices.broadcast(size) * len(devices)
    chosen = chosen.replace("auto: the size that trained the most images a second in a trial", BATCH_SIZE=size)
    is_recommended = settings.reasons.get("LEARNING_RATE") == RECOMMENDED.format(settings.MODEL)
    if is_recommended and models.recommended(settings.MODEL)["LEARNING_RATE"] == settings.LEARNING_RATE:
        rate = models.recommended(settings.MODEL, size)["LEARNING_RATE"]
        chosen = chosen.replace(f"{RECOMMENDED.format(settings.MODEL)} at this batch size", LEARNING_RATE=rate)
    print(f"batches of {size}, learning rate {chosen.LEARNING_RATE:g}", flush=True)
    return chosen


def choose_precision(setting, make_model, make_batch, steps):
    """Dtype policy of a setting.

    Args:
        setting: "auto", or a policy of Keras: "float32", "mixed_bfloat16", "mixed_float16".
        make_model: function that gives a new compiled network in the current policy.
        make_batch: function that gives a batch (x, y).
        steps: number of steps of the run; below 500 a trial is not worth its time, and a CPU takes float32.

    Returns:
        the policy, and why, as text, or None if it was set; for "auto"
        mixed_bfloat16 on a GPU or TPU that has it, mixed_float16 on an older GPU, and on a CPU
        mixed_bfloat16 where a step takes less than nine tenths of one in float32. A CPU that computes bfloat16
        slowly is not tried, since a trial would take minutes.
    """
    if setting != "auto":
        return setting, None
    if accelerators():
        return usual_half(), "auto: the fastest of this device"
    if steps < 500:
        return "float32", "auto: fewer than 500 steps, too few for a trial"
    if (slowdown := slowdown_of_bfloat16()) > GREATEST_SLOWDOWN:
        return "float32", f"auto: two convolutions took {slowdown:.2g} times as long in bfloat16"
    print("trying out float32 and bfloat16", flush=True)
    seconds = time_precisions(make_model, make_batch)
    share = seconds["mixed_bfloat16"] / seconds["float32"]
    chosen = "mixed_bfloat16" if share < 0.9 else "float32"
    return chosen, f"auto: a step in bfloat16 took {share:.2g} times as long as in float32"


def slowdown_of_bfloat16():
    """How many times longer a step of two convolutions takes in bfloat16 than in float32; found in a few seconds.

    Backwards makes the difference: a convolution of TensorFlow on a CPU was seen to be as fast as in float32 forwards,
    and 12 to 19 times slower backwards.
    """
    with silenced_libraries():  # TensorFlow says so where its convolutions are not made for bfloat16
        seconds = time_precisions(lambda: _two_convolutions(usual_jit()), _one_image)
    return seconds["mixed_bfloat16"] / seconds["float32"]


def slowdown_of_jit():
    """How many times longer a step of two convolutions takes with XLA than without; found in a few seconds."""
    seconds = time_steps({jit: partial(_two_convolutions, jit) for jit in (True, False)}, _one_image)
    return seconds[True] / seconds[False]


def _two_convolutions(jit):
    convolutions = [keras.layers.Conv2D(32, 3, padding="same") for _ in range(2)]
    model = keras.Sequential([keras.Input((48, 48, 32)), *convolutions])
    model.compile("sgd", "mse", jit_compile=jit)
    return model


def _one_image():
    return (np.ones((1, 48, 48, 32), np.float32),) * 2


def time_precisions(make_model, make_batch, rounds=3, policies=("float32", "mixed_bfloat16")):
    """Seconds of a training step by policy, as `time_steps` has them.

    Arguments as in `choose_precision`.
    """

    def make(policy):
        kept = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            model = make_model()
            model.train_on_batch(*make_batch())  # the policy counts until it is traced
            return model
        finally:
            keras.config.set_dtype_policy(kept)

    return time_steps({policy: partial(make, policy) for policy in policies}, make_batch, rounds)


def time_steps(makers, make_batch, rounds=3):
    """Seconds of a training step in several ways: the least of `rounds`, in which the ways alternate.

    Args:
        makers: dict of the name of a way to a function that gives a compiled network.
        make_batch: function that gives a batch (x, y).
        rounds: how often.

    Returns:
        dict of the names to seconds.
    """
    batch, trained = make_batch(), {}
    for name, make in makers.items():
        trained[name] = make()
        trained[name].train_on_batch(*batch)  # compiles
    seconds = dict.fromkeys(trained, math.inf)
    for _ in range(rounds):
        for name, model in trained.items():
            started = time.perf_counter()
            model.train_on_batch(*batch)
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    return seconds


def choose_jit(setting="auto", deterministic=True, make_model=None, make_batch=None, steps=0):
    """Whether to compile with XLA, or with the compiler of PyTorch.

    Args:
        setting: True, False or "auto".
        deterministic: whether operations were chosen that repeat themselves; TensorFlow has them without XLA only.
        make_model: function of True or False that gives a new network compiled so.
        make_batch: function that gives a batch (x, y).
        steps: number of steps of the run; below 500 a trial is not worth its time.

    Returns:
        whether, and why, as text, or None if it was set; for "auto"
        on JAX True and on PyTorch False. On TensorFlow, where a run is long and need not repeat itself, True
        if a step takes less than nine tenths of one without XLA, as a trial finds; else the usual.
    """
    if setting != "auto":
        return setting, None
    backend = keras.backend.backend()
    if backend != "tensorflow" or deterministic:
        return backend == "jax", f"auto: as suits {backend}" + (", DETERMINISTIC" if deterministic else "")
    if steps < 500 or (not accelerators() and slowdown_of_jit() > GREATEST_SLOWDOWN):
        return bool(usual_jit()), "auto: the usual of this device, without a trial"
    print("trying out a step with XLA and without", flush=True)
    seconds = time_steps({jit: partial(make_model, jit) for jit in (True, False)}, make_batch)
    share = seconds[True] / seconds[False]
    return share < 0.9, f"auto: a step with XLA took {share:.2g} times as long as without"


def choose_batch_size(start, make_model, make_batch, greatest):
    """Size of a batch from `start` on, doubled as long as that trains a tenth more images a second and fits in memory.

    Args:
        start: size to begin with.
        make_model: function that gives a new compiled network.
        make_batch: function of a size that gives a batch (x, y).
        greatest: never more than this.
    """
    print("trying out sizes of a batch", flush=True)
    size, model = start, make_model()

    def rate(size):
        return size / time_steps({size: lambda: model}, lambda: make_batch(size))[size]

    best = rate(size)
    while 2 * size <= greatest:
        try:
            faster = rate(2 * size)
        except Exception as error:
            if not is_out_of_memory(f"{type(error).__name__} {error}"):
                raise
            break
        if faster < 1.1 * best:
            break
        size, best = 2 * size, faster
    return size
