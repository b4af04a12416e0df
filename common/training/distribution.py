"""Training on several devices, in one machine or several: each has the whole model and a share of every batch.

`keras.distribution` on JAX puts the variables on all devices. A batch is one array across them, and each process makes
its own share. Loss, gradients, batch normalization and metrics cover the whole batch, so batch size and learning rate
mean the same as on one device. If a batch does not divide evenly, such as the last one of an epoch, each device
computes all of it.

On TensorFlow, `common.training.mirrored` does so for the devices of one machine. PyTorch trains on one device.

Several processes, one per machine, find each other through the environment variables of
`keras.distribution.initialize`:

    KERAS_DISTRIBUTION_JOB_ADDRESSES   address:port of the first process; any free port, the same for all
    KERAS_DISTRIBUTION_NUM_PROCESSES   number of processes
    KERAS_DISTRIBUTION_PROCESS_ID      number of this process, from 0
"""

import atexit
import hashlib
import json
import os
import re
import socket
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from common.devices import OneDevice, accelerators, backend, list_devices, set_defaults
from common.errors import InputError

VARIABLES = tuple(f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID"))
MAX_START_SECONDS = 300  # how long processes wait for each other at the start
HEARTBEAT_SECONDS = 30  # without a sign of life before a process counts as dead
LOST = re.compile(r"gloo|nccl|coordination|DEADLINE_EXCEEDED|UNAVAILABLE|connection (reset|refused|closed)", re.I)


def several_processes():
    """Whether the environment variables set up several processes; raises InputError if incomplete."""
    given = {name: os.environ.get(name, "") for name in VARIABLES}
    if not any(given.values()):
        return False
    addresses, count, number = given.values()
    if not (count.isdigit() and number.isdigit() and int(number) < int(count)):
        raise InputError(
            f"{VARIABLES[1]} and {VARIABLES[2]}: expected a count and a smaller number, such as 2 and 0 "
            f"(found {count!r} and {number!r})"
        )
    if not re.fullmatch(r"\S+:\d+", addresses.split(",")[0]):
        expected = "the address and port of process 0, such as 10.0.0.1:1234"
        raise InputError(f"{VARIABLES[0]}: expected {expected} (found {addresses!r})")
    return int(count) > 1


def join_processes():
    """Wait for the other processes, if there are several; call this before importing Keras or JAX.

    From here on, a process that exits before `Devices.disconnect` exits at once, so that the others notice.

    Raises:
        InputError: if the backend is not JAX, or the others do not start.
    """
    if not several_processes():
        return
    set_defaults()
    if os.environ["KERAS_BACKEND"] != "jax":
        found = os.environ["KERAS_BACKEND"]
        problem = f"several processes train on JAX only (found {found})"
        raise InputError(f"KERAS_BACKEND: {problem}; install JAX and set KERAS_BACKEND=jax for each process")
    import jax  # optional, and only now, since the import looks for devices

    addresses, count, number = (os.environ[name] for name in VARIABLES)
    address = addresses.split(",")[0]
    jax.config.update("jax_enable_preemption_service", False)  # otherwise a process ignores SIGTERM
    atexit.register(_end_at_once)
    if int(number) == 0:
        _refuse_taken_port(address)
    alone = threading.Timer(MAX_START_SECONDS, _give_up, [f"process {number} of {count}", address])
    alone.daemon = True
    alone.start()
    try:
        jax.distributed.initialize(
            address,
            int(count),
            int(number),
            cluster_detection_method="deactivate",  # it would give each process only one GPU
            initialization_timeout=2 * MAX_START_SECONDS,  # then JAX ends the process without a message for users
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(f"process {number} of {count} at {address}: {str(error).splitlines()[0]}") from None
    finally:
        alone.cancel()
    from jax.experimental.multihost_utils import sync_global_devices  # optional

    with lost_process_as_error():
        sync_global_devices("met")  # connects them, so that all notice from here on when one ends


def _refuse_taken_port(address):
    """Raise InputError if another program uses the port of the first process."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        socket.create_server(("", int(address.rsplit(":", 1)[1])), family=family, dualstack_ipv6=dual).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"{VARIABLES[0]}: cannot use the port of {address} ({error}); choose another") from None


def _give_up(who, address):
    """End the process while the main thread waits in JAX, where an exception cannot reach it."""
    print(
        f"{Path(sys.argv[0]).name}: error: {who} could not reach the others at {address} within {MAX_START_SECONDS} s; "
        "start all of them and make sure that port of the first machine is open",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def _end_at_once():
    """Exit without the shutdown of JAX, which would wait for the others."""
    import jax  # optional

    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130 if isinstance(getattr(sys, "last_value", None), KeyboardInterrupt) else 1)


@contextmanager
def lost_process_as_error(advice=""):
    """Turn the loss of another process into an InputError.

    Args:
        advice: how to continue, for the message.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or not (several_processes() and LOST.search(str(error))):
            raise
        raise InputError(
            f"process {os.environ[VARIABLES[2]]} of {os.environ[VARIABLES[1]]} lost another process, which ended or "
            f"cannot be reached; see its last lines for the reason{advice}"
        ) from None


class Devices(OneDevice):
    """Several devices to train a model on; methods as in OneDevice.

    Every process makes the whole batch if it does not divide evenly.

    Args:
        devices: JAX devices, ordered by process.
    """

    def __init__(self, devices):
        import jax  # optional
        import keras  # loaded after the processes have joined

        self.devices = devices
        self.process, self.processes = jax.process_index(), jax.process_count()
        self.is_first = self.process == 0
        names = [f"{device.platform}:{device.id}" for device in devices]
        mesh = keras.distribution.DeviceMesh((len(names),), ("batch",), names)
        self.distribution = keras.distribution.DataParallel(device_mesh=mesh, auto_shard_dataset=False)
        axes = ("batch",), ()
        self.divided, self.whole = (keras.distribution.TensorLayout(a, mesh).backend_layout for a in axes)

    def __len__(self):
        return len(self.devices)

    def in_words(self):
        machines = f" of {self.processes} processes" if self.processes > 1 else ""
        return f", {len(self)} devices{machines}" if len(self) > 1 else ""

    def scope(self):
        return self.distribution.scope()

    def own_share(self, items):
        if len(items) % len(self):
            return items
        share = len(items) // self.processes
        return items[self.process * share : (self.process + 1) * share]

    def put(self, arrays, count):
        import jax  # optional

        layout = self.whole if count % len(self) else self.divided
        return tuple(jax.make_array_from_process_local_data(layout, a, (count, *a.shape[1:])) for a in arrays)

    # --- between processes

    def broadcast(self, value):
        if self.processes == 1:
            return value
        from jax.experimental.multihost_utils import broadcast_one_to_all  # optional

        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        size = int(broadcast_one_to_all(np.int32(len(text))))
        text = np.resize(text, size)  # only its size matters in the other processes
        return json.loads(bytes(np.asarray(broadcast_one_to_all(text))))

    def require_same(self, values):
        if self.processes == 1:
            return
        from jax.experimental.multihost_utils import process_allgather  # optional

        texts = [json.dumps(value, sort_keys=True).encode() for value in values.values()]
        digests = np.array([list(hashlib.sha256(text).digest()) for text in texts], np.uint8)
        others = np.asarray(process_allgather(digests))
        for name, theirs in zip(values, others.swapaxes(0, 1), strict=True):
            if (theirs != theirs[0]).any():
                raise InputError(f"{name}: not equal in all {self.processes} processes; start each with the same")

    def disconnect(self):
        if self.processes > 1:
            import jax  # optional

            jax.distributed.shutdown()


def choose_devices(setting, batch_size):
    """Choose the devices to train on.

    Args:
        setting: devices per machine; None: as many GPUs or TPUs as divide a batch evenly.
        batch_size: batch size over all devices; None: not yet chosen.

    Returns:
        OneDevice, Devices on JAX, or `common.training.mirrored.MirroredDevices` on TensorFlow.

    Raises:
        InputError: if there are fewer, a batch does not divide evenly, or the backend supports only one device.
    """
    processes, local = 1, accelerators() or list_devices()
    if backend() == "jax":
        import jax  # optional

        processes, local = jax.process_count(), jax.local_devices()
    if (setting or 1) > len(local):
        names = ", ".join(map(str, local))
        raise InputError(f"DEVICES: expected at most {len(local)} on this machine (found {setting}); it has {names}")
    count = setting or (len(local) if accelerators() else 1)
    if backend() == "torch":
        if (setting or 1) > 1:
            problem = f"several devices need TensorFlow or JAX (found DEVICES {setting} on PyTorch)"
            raise InputError(f"DEVICES: {problem}; install one of them, or leave DEVICES at None")
        if count > 1:
            print(f"using 1 of {count} GPUs; TensorFlow or JAX uses all: see docs/install.md")
        return OneDevice()
    while setting is None and count > 1 and (batch_size or 0) % (processes * count):
        count -= 1
    if (batch_size or 0) % (processes * count):
        raise InputError(
            f"BATCH_SIZE: expected a multiple of {processes * count}, the number of devices (found {batch_size})"
        )
    if processes * count == 1 and (setting is None or backend() == "tensorflow"):
        return OneDevice()
    return _devices_of_backend(processes, local, count)


def _devices_of_backend(processes, local, count):
    """`count` of the `local` devices, on JAX of every process."""
    if backend() == "tensorflow":
        from common.training.mirrored import MirroredDevices  # imports TensorFlow, which is optional

        return MirroredDevices([name.upper() for name in local[:count]])
    import jax  # optional

    by_machine = [[d for d in jax.devices() if d.process_index == p][:count] for p in range(processes)]
    devices = Devices([device for machine in by_machine for device in machine])
    devices.require_same({"number of devices": count})
    return devices
