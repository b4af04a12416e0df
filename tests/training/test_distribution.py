"""Training on several devices and in several processes, against one device."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawings import make_cases
from running import ROOT, assert_refused, leftovers, run_here, run_script

from common.command_line import flags_of
from common.errors import InputError, SettingError
from common.training import distribution
from common.training.autotune import without_jit
from common.training.distribution import VARIABLES, several_processes

EPOCHS = 6
WATCHED = """
import os
import keras
import numpy as np
from models import unet

@keras.saving.register_keras_serializable()
class Watched(keras.Model):
    def fit(self, *arguments, **options):
        history = super().fit(*arguments, **options)
        number = os.environ.get("KERAS_DISTRIBUTION_PROCESS_ID", "0")
        np.savez(os.environ["WEIGHTS"] + number, *self.get_weights())
        return history

def build_model(input_shape, classes):
    model = unet.build_model(input_shape, classes, features=2, depth=1, dropout=0)
    return Watched(model.inputs, model.outputs)
"""


class Work:
    """A folder with lists of 21 and 7 slices, and a network that leaves its weights in a file for each process."""

    def __init__(self, root):
        self.root = root

    def make(self):
        """Fill the folder, with a run "one" on one device."""
        (self.root / "watched.py").write_text(WATCHED)
        make_cases(self.root / "cases", cases=4, slices=7, size=16)
        run_here("preprocess/2_write_lists.py", CASES=self.root / "cases", LISTS=self.root / "lists", TEST_SHARE=0)
        return run_script("train.py", env=self.environment("one"), **self.settings("one")).stdout

    def settings(self, name, **more):
        """Settings of a run: batches of 4, the last of 1, which two devices do not divide."""
        lists = {"TRAIN": self.root / "lists" / "train.csv", "VALIDATION": self.root / "lists" / "validation.csv"}
        return lists | {
            "RUNS": self.root / name,
            "MODEL": self.root / "watched.py",
            "BATCH_SIZE": 4,
            "EPOCHS": EPOCHS,
            "OPTIMIZER": {"name": "sgd", "use_ema": True, "ema_momentum": 0.9},
            "LEARNING_RATE": 0.05,
            "AUGMENTATION": "medical",
            "PRECISION": "float32",
            **more,
        }

    def environment(self, name, **more):
        return {"KERAS_BACKEND": "jax", "WEIGHTS": str(self.root / name), **more}

    def start(self, name, number, port, *flags, **more):
        """Start one of two processes that train."""
        values = f"127.0.0.1:{port}", "2", str(number)
        environment = os.environ | self.environment(name, **dict(zip(VARIABLES, values, strict=True)))
        command = [sys.executable, ROOT / "train.py", *flags, *flags_of(more)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen([*map(str, command)], env=environment, text=True, **pipes)

    def run_folder(self, name):
        (run,) = (self.root / name).iterdir()
        return run

    def log(self, name):
        return pd.read_csv(self.run_folder(name) / "training_log.csv").drop(columns="seconds")

    def weights(self, name, number=0):
        with np.load(self.root / f"{name}{number}.npz") as arrays:
            return list(arrays.values())

    def assert_alike(self, name, other="one"):
        """Whether two runs had the same scores in every epoch, and ended with the same weights."""
        ours, theirs = self.log(name), self.log(other)
        assert len(ours) == EPOCHS and list(ours) == list(theirs)
        steps, difference = EPOCHS * 6, np.abs(ours - theirs)["loss"].max()
        print(f"\n{steps} steps, {name} against {other}: losses of epochs differ by at most {difference:.1e}")
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
        for a, b in zip(self.weights(name), self.weights(other), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.fixture
def work(made_once):
    return Work(made_once("distribution", lambda root: Work(root).make())[0])


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.slow
def test_two_devices_learn_what_one_does(work):
    flag = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    out = run_script("train.py", env=work.environment("two", **flag), DEVICES=2, **work.settings("two")).stdout
    assert "jax on cpu:0, cpu:1, 2 devices" in out
    work.assert_alike("two")


TWO_CPUS = """
import runpy, sys
import tensorflow as tf

device = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""


def train_on_two_cpus(work, name, *flags, **settings):
    """What train.py prints with TensorFlow on two logical devices."""
    environment = os.environ | work.environment(name, KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")
    command = [sys.executable, "-c", TWO_CPUS, "--devices", "2", *flags, *flags_of(settings)]
    command, output = list(map(str, command)), {"capture_output": True, "text": True}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False, **output)


@pytest.mark.slow
def test_two_devices_of_tensorflow_learn_what_one_does(work):
    """Uneven last batches, a loss over the batch, and a run that is continued; 36 steps."""
    settings = {"LOSS": "mse+batch_dice"}
    environment = work.environment("tf_one", KERAS_BACKEND="tensorflow")
    run_script("train.py", env=environment, **work.settings("tf_one", **settings))
    first = train_on_two_cpus(work, "tf_two", **work.settings("tf_two", **settings) | {"EPOCHS": EPOCHS // 2})
    assert first.returncode == 0 and "tensorflow on cpu:0, cpu:1, 2 devices" in first.stdout, first.stderr
    flags = "--mode", "resume", "--run", work.run_folder("tf_two"), "--trust-run", "--epochs", EPOCHS
    second = train_on_two_cpus(work, "tf_two", *flags)
    assert second.returncode == 0 and f"finished all {EPOCHS} epochs" in second.stdout, second.stderr
    work.assert_alike("tf_two", "tf_one")
    for a, b in zip(work.weights("tf_two"), work.weights("tf_one"), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


SUPERVISED = """
import sys

import keras
import numpy as np
import tensorflow as tf

device = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
sys.path.insert(0, sys.argv[1])
from common.devices import OneDevice
from common.training.mirrored import MirroredDevices
from common.training.optimizer import compile_network
from common.training.progress import mean_loss
from models import build_model

x = np.random.default_rng(0).normal(size=(7, 16, 16, 16, 1)).astype(np.float32)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        part = x[3:] if index else x[:3]
        return part, (part > 1).astype(np.uint8)


weights = []
for used in (OneDevice(), MirroredDevices(["CPU:0", "CPU:1"])):
    keras.utils.set_random_seed(1)
    with used.scope():
        model = build_model("unet3d", (None, None, None, 1), features=2, size=(64, 64, 64), depth=3)
        assert type(model).__name__ == "SupervisedModel"
        compile_network(model, {"name": "sgd"}, 0.1, "bce+batch_dice", jit=False)
    used.prepare(model)
    batches = Batches()
    model.fit(used.feed(batches) if len(used) > 1 else batches, epochs=1, verbose=0, shuffle=False)
    weights.append(model.get_weights())
    assert np.isfinite(mean_loss(model))
for a, b in zip(*weights, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)
"""


@pytest.mark.slow
def test_deep_supervision_on_two_devices_of_tensorflow_is_that_of_one():
    """Three volumes, then four on two devices; the loss of lower levels is over the whole batch too."""
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", SUPERVISED, str(ROOT)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_survive_the_loss_of_one_and_end_as_one_device(work):
    port = free_port()
    settings = work.settings("both")
    second = work.start("both", 1, port, **settings | {"RUNS": work.root / "never"})
    first = work.start("both", 0, port, **settings)
    for line in first.stdout:
        if line.startswith("epoch 2"):
            break
    second.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    rest = first.communicate(timeout=60)[0]
    print(f"\none of two processes killed: the other ended after {time.monotonic() - killed:.1f} s")
    assert first.returncode == 1 and time.monotonic() - killed < 60
    run = work.run_folder("both")
    assert re.search(
        rf"lost another process.*continue: python train.py --mode resume --run {re.escape(str(run))}", rest
    )
    assert "Traceback" not in rest and not leftovers(work.root) and not (work.root / "both0.npz").exists()
    assert 2 <= len(work.log("both")) < EPOCHS
    second.communicate()

    port = free_port()
    both = [work.start("both", number, port, "--mode", "resume", "--run", run, "--trust-run") for number in (1, 0)]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "continuing after epoch" in said[1] and f"finished all {EPOCHS} epochs; best" in said[1]
    assert "process 0 writes the run folder" in said[0] and not (work.root / "never").exists()
    work.assert_alike("both")
    for a, b in zip(work.weights("both", 0), work.weights("both", 1), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_processes_with_other_settings_are_refused(work):
    port = free_port()
    settings = work.settings("other")
    both = [work.start("other", number, port, **settings | {"SEED": 1 + number}) for number in (0, 1)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [1, 1]
    assert all("Traceback" not in text for text in said) and not (work.root / "other").exists()
    assert any("settings: not equal in all 2 processes" in text for text in said), said


@pytest.mark.slow
def test_process_that_fails_early_is_missed_with_a_line(work):
    port = free_port()
    settings = work.settings("early")
    second = work.start("early", 1, port, **settings | {"VALIDATION": work.root / "gone.csv"})
    first = work.start("early", 0, port, **settings)
    said = [process.communicate(timeout=120)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (1, 1), said
    assert "lost another process" in said[0] and "gone.csv: file does not exist" in said[1]
    assert not any("Traceback" in text for text in said) and not (work.root / "early").exists()


@pytest.mark.slow
def test_devices_that_tensorflow_lacks_are_refused(work):
    words = "DEVICES: expected at most 1 on this machine (found 2); it has cpu:0"
    assert_refused("train.py", words, DEVICES=2, **work.settings("refused"))
    assert_refused("train.py", "DEVICES", "at least 1", status=2, DEVICES=0, **work.settings("refused"))


def with_backend(monkeypatch, name, devices):
    """Let `choose_devices` see these devices of a backend."""
    monkeypatch.setattr(distribution, "backend", lambda: name)
    monkeypatch.setattr(distribution, "list_devices", lambda: devices)
    monkeypatch.setattr(distribution, "accelerators", lambda: [d for d in devices if not d.startswith("cpu")])


def test_pytorch_trains_on_one_device(monkeypatch, capsys):
    with_backend(monkeypatch, "torch", ["gpu:0", "gpu:1"])
    assert len(distribution.choose_devices(None, 8)) == len(distribution.choose_devices(1, 8)) == 1
    assert capsys.readouterr().out == "using 1 of 2 GPUs; TensorFlow or JAX uses all: see docs/install.md\n"
    with pytest.raises(InputError, match=r"need TensorFlow or JAX \(found DEVICES 2 on PyTorch\)"):
        distribution.choose_devices(2, 8)
    with_backend(monkeypatch, "torch", ["mps:0"])  # a Mac
    assert len(distribution.choose_devices(None, 8)) == 1 and not capsys.readouterr().out
    with pytest.raises(InputError, match=r"at most 1 on this machine \(found 2\); it has mps:0"):
        distribution.choose_devices(2, 8)


def test_xla_is_off_on_several_devices_of_tensorflow():
    assert without_jit("auto")[0] is without_jit(False)[0] is False
    with pytest.raises(SettingError, match="JIT: TensorFlow cannot compile a step for several devices"):
        without_jit(True)


def test_tensorflow_takes_the_gpus_that_divide_a_batch(monkeypatch):
    with_backend(monkeypatch, "tensorflow", ["gpu:0", "gpu:1", "gpu:2"])
    monkeypatch.setattr(distribution, "_devices_of_backend", lambda *given: given)
    assert distribution.choose_devices(None, 8) == (1, ["gpu:0", "gpu:1", "gpu:2"], 2)
    assert distribution.choose_devices(None, None)[2] == distribution.choose_devices(3, 9)[2] == 3
    assert len(distribution.choose_devices(None, 1)) == len(distribution.choose_devices(1, 8)) == 1
    with pytest.raises(InputError, match=r"BATCH_SIZE: expected a multiple of 3, the number of devices \(found 8\)"):
        distribution.choose_devices(3, 8)


@pytest.mark.slow
def test_devices_that_are_not_there_or_do_not_divide_a_batch(work):
    """In one process of JAX, since each takes seconds to start."""
    cases = (
        ("DEVICES: expected at most 2 on this machine (found 3)", work.settings("refused", BATCH_SIZE=6, DEVICES=3)),
        (
            "BATCH_SIZE: expected a multiple of 2, the number of devices (found 3)",
            work.settings("refused", BATCH_SIZE=3, DEVICES=2),
        ),
    )
    asked = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); from running import assert_refused; "
    for words, settings in cases:
        named = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
        asked += f"assert_refused('train.py', {words!r}, **{named!r}); "
    env = os.environ | work.environment("refused", XLA_FLAGS="--xla_force_host_platform_device_count=2")
    asking = subprocess.run([sys.executable, "-c", asked], env=env, capture_output=True, text=True, check=False)
    assert asking.returncode == 0, asking.stderr
    assert not (work.root / "refused").exists()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (("", "", ""), False),
        (("10.0.0.1:1234", "1", "0"), False),
        (("10.0.0.1:1234,10.0.0.2:1234", "2", "1"), True),
        (("", "2", "1"), InputError),
        (("10.0.0.1", "2", "1"), InputError),
        (("10.0.0.1:1234", "2", ""), InputError),
        (("10.0.0.1:1234", "two", "1"), InputError),
        (("10.0.0.1:1234", "2", "2"), InputError),
    ],
)
def test_environment_says_how_many_processes_there_are(monkeypatch, values, expected):
    for name, value in zip(VARIABLES, values, strict=True):
        monkeypatch.setenv(name, value)
    if expected is InputError:
        with pytest.raises(InputError, match="KERAS_DISTRIBUTION_"):
            several_processes()
    else:
        assert several_processes() is expected


@pytest.mark.slow
def test_several_processes_need_jax(work, monkeypatch):
    for name, value in zip(VARIABLES, ("127.0.0.1:1", "2", "0"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert_refused("train.py", "several processes train on JAX", **work.settings("refused"))
    assert_refused("train.py", "one fold at a time", **work.settings("refused", FOLD="all"))


@pytest.mark.slow
def test_port_of_another_program_is_refused(work):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        first = work.start("taken", 0, taken.getsockname()[1], **work.settings("taken"))
        said = first.communicate(timeout=120)[0]
    assert first.returncode == 1 and "cannot use the port" in said and "Traceback" not in said


@pytest.mark.slow
def test_process_that_waits_alone_gives_up_with_a_line(work):
    patient = f"import sys; sys.argv = ['train.py']; sys.path.insert(0, {str(ROOT)!r}); "
    patient += (
        "from common.training import distribution; distribution.MAX_START_SECONDS = 3; distribution.join_processes()"
    )
    values = f"127.0.0.1:{free_port()}", "2", "1"
    environment = os.environ | work.environment("alone", **dict(zip(VARIABLES, values, strict=True)))
    result = subprocess.run(
        [sys.executable, "-c", patient], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr.startswith("train.py: error: process 1 of 2 could not reach the others at 127.0.0.1:")
