"""Benchmarks at the start of a run to choose precision, compiler and batch size for this network and machine."""

import math
import time
from functools import partial

import keras
import numpy as np

import models
from common.devices import accelerators, silenced_libraries, usual_half, usual_jit
from common.errors import SettingError, is_out_of_memory
from common.training.configure import build_network, make_batches, set_precision
from common.training.optimizer import compile_network
from common.training.recommended import PUBLISHED, RECOMMENDED

LONG = 4  # minutes; a run that must end sooner is not worth benchmarks, nor is one of fewer than 500 steps
GREATEST_SLOWDOWN = 2  # two convolutions; if slower, benchmarking the whole network is not worth its time


def autotune(settings, training, devices):
    """Replace "auto" in PRECISION, JIT and BATCH_SIZE by values that suit the device; long runs are benchmarked.

    The precision becomes the Keras dtype policy.

    Args:
        settings: `common.settings.Settings` from `configure`.
        training: training set.
        devices: `common.devices.OneDevice` or `common.training.distribution.Devices`.

    Returns:
        new Settings.
    """

    def compiled(jit=None):
        model = build_network(settings, training)
        jit = usual_jit() if jit is None else jit
        compile_network(model, settings.OPTIMIZER, settings.LEARNING_RATE, settings.LOSS, jit, training.ignores)
        return model

    def batch(size):
        return make_batches(settings, training, size).batch(0)

    own_size = settings.BATCH_SIZE != "auto"
    size = settings.BATCH_SIZE if own_size else models.recommended(settings.MODEL)["BATCH_SIZE"]
    is_short = settings.MAX_MINUTES is not None and settings.MAX_MINUTES < LONG
    epochs = 0 if is_short else settings.EPOCHS or math.inf
    steps = epochs * len(make_batches(settings, training, size))
    precision, why = choose_precision(settings.PRECISION, compiled, lambda: batch(size), steps)
    set_precision(precision := devices.broadcast(precision))
    chosen = settings.replace(why, PRECISION=precision) if why else settings
    choose = choose_jit if devices.can_jit else without_jit
    jit, why = choose(settings.JIT, settings.DETERMINISTIC, compiled, lambda: batch(size), steps)
    chosen = chosen.replace(why, JIT=jit) if why else chosen
    if own_size:
        return chosen
    size = choose_batch_size(size, lambda: compiled(jit), batch, len(training))
    size = devices.broadcast(size) * len(devices)
    chosen = chosen.replace("auto: trained the most images per second in a benchmark", BATCH_SIZE=size)
    reasons = [reason.format(settings.MODEL) for reason in (RECOMMENDED, PUBLISHED)]
    is_recommended = settings.reasons.get("LEARNING_RATE") in reasons
    if is_recommended and models.recommended(settings.MODEL)["LEARNING_RATE"] == settings.LEARNING_RATE:
        rate = models.recommended(settings.MODEL, size)["LEARNING_RATE"]
        chosen = chosen.replace(f"{RECOMMENDED.format(settings.MODEL)} at this batch size", LEARNING_RATE=rate)
    print(f"batch size {size}, learning rate {chosen.LEARNING_RATE:g}", flush=True)
    return chosen


def choose_precision(setting, make_model, make_batch, steps):
    """Choose the dtype policy for a setting.

    Args:
        setting: "auto", or a Keras policy: "float32", "mixed_bfloat16", "mixed_float16".
        make_model: function that returns a new compiled model in the current policy.
        make_batch: function that returns a batch (x, y).
        steps: number of steps in the run, 0 for a short one; below 500, a CPU uses float32 without a benchmark.

    Returns:
        The policy, and the reason as text, or None if it was set. "auto" is mixed_bfloat16 on a GPU or TPU that
        supports it, mixed_float16 on an older GPU, and on a CPU mixed_bfloat16 if a step takes less than 90 % of the
        time in float32. A CPU with slow bfloat16 is not benchmarked, since that would take minutes.
    """
    if setting != "auto":
        return setting, None
    if accelerators():
        policy = usual_half()
        return policy, f"auto: the fastest this device {'is known to compute' if policy == 'float32' else 'supports'}"
    if steps < 500:
        return "float32", f"auto: fewer than 500 steps or {LONG} minutes, too few to benchmark"
    if (slowdown := slowdown_of_bfloat16()) > GREATEST_SLOWDOWN:
        return "float32", f"auto: two convolutions took {slowdown:.2g} times as long in bfloat16 as in float32"
    print("benchmarking float32 and bfloat16", flush=True)
    seconds = time_precisions(make_model, make_batch)
    share = seconds["mixed_bfloat16"] / seconds["float32"]
    chosen = "mixed_bfloat16" if share < 0.9 else "float32"
    return chosen, f"auto: a step in bfloat16 took {share:.2g} times as long as in float32"


def slowdown_of_bfloat16():
    """Time of a step of two convolutions in bfloat16, divided by the time in float32; takes a few seconds.

    The backward pass makes the difference: on one CPU, TensorFlow's convolution was as fast as in float32 in the
    forward pass, and 12 to 19 times slower in the backward pass.
    """
    with silenced_libraries():  # TensorFlow warns if its convolutions do not support bfloat16
        seconds = time_precisions(lambda: _two_convolutions(usual_jit()), _one_image)
    return seconds["mixed_bfloat16"] / seconds["float32"]


def slowdown_of_jit():
    """Time of a step of two convolutions with XLA, divided by the time without; takes a few seconds."""
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
    """Seconds of a training step in each policy; see `time_steps`.

    Arguments are as in `choose_precision`.
    """

    def make(policy):
        kept = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            model = make_model()
            model.train_on_batch(*make_batch())  # the policy matters until the step is traced
            return model
        finally:
            keras.config.set_dtype_policy(kept)

    return time_steps({policy: partial(make, policy) for policy in policies}, make_batch, rounds)


def time_steps(makers, make_batch, rounds=3):
    """Seconds of a training step for several variants: the minimum over `rounds`, in which the variants alternate.

    Args:
        makers: dict of variant name to a function that returns a compiled model.
        make_batch: function that returns a batch (x, y).
        rounds: number of rounds.

    Returns:
        dict of variant name to seconds.
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
    """Choose whether to compile with XLA or PyTorch's compiler.

    Args:
        setting: True, False or "auto".
        deterministic: whether operations must be deterministic, which TensorFlow supports only without XLA.
        make_model: function of True or False that returns a new model compiled accordingly.
        make_batch: function that returns a batch (x, y).
        steps: number of steps in the run, 0 for a short one; below 500, a benchmark is not worth its time.

    Returns:
        Whether to compile, and the reason as text, or None if it was set. "auto" is True on JAX and False on PyTorch.
        On TensorFlow, a long run that need not be deterministic is benchmarked: True if a step takes less than 90 % of
        the time without XLA. Otherwise it is the device's usual choice.
    """
    if setting != "auto":
        return setting, None
    backend = keras.backend.backend()
    if backend != "tensorflow" or deterministic:
        return backend == "jax", f"auto: the usual choice on {backend}{' with DETERMINISTIC' * deterministic}"
    if steps < 500 or (not accelerators() and slowdown_of_jit() > GREATEST_SLOWDOWN):
        return bool(usual_jit()), "auto: this device's usual choice, without a benchmark"
    print("benchmarking a step with and without XLA", flush=True)
    seconds = time_steps({jit: partial(make_model, jit) for jit in (True, False)}, make_batch)
    share = seconds[True] / seconds[False]
    return share < 0.9, f"auto: a step with XLA took {share:.2g} times as long as without"


def without_jit(setting, *_):
    """`choose_jit` for TensorFlow on several devices; raises SettingError if the setting is True."""
    if setting is True:
        raise SettingError(
            "JIT: TensorFlow cannot compile a step for several devices with XLA (found True); pass --jit False, or "
            "--devices 1"
        )
    return False, None if setting is False else "auto: TensorFlow on several devices works without XLA"


def choose_batch_size(start, make_model, make_batch, greatest):
    """Batch size: `start`, doubled while that trains at least 10 % more images per second and fits in memory.

    Args:
        start: batch size to start with.
        make_model: function that returns a new compiled model.
        make_batch: function of a batch size that returns a batch (x, y).
        greatest: maximum batch size.
    """
    print("benchmarking batch sizes", flush=True)
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
