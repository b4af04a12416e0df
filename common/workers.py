"""Share work among cores, worker processes or machines, by the setting WORKERS.

"" is the threads of `common.parallel`. A number starts as many worker processes on this machine, and an address such as
"tcp://10.0.0.1:8786" joins a running Dask scheduler with its workers (docs/scaling.md). Dask does the tasks of a worker
that dies again. Results are the same and in the same order in all three.

What workers run is a function of a module, or a `functools.partial` of one, never of a script: workers import it. They
see the folders of this process under the same paths.
"""

import functools
import hashlib
import io
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from contextlib import contextmanager, redirect_stdout
from itertools import islice
from pathlib import Path

import cv2

from common import parallel
from common.child import toolkit_environment
from common.errors import InputError, SettingError
from common.files import ROOT
from common.streams import SafeStream, print_lines
from common.words import number_of

INSTALL = 'pip install "distributed>=2026.8,<2027"'
SECONDS_TO_START = 120  # of workers
SECONDS_TO_JOIN = 15  # until a running scheduler has answered
ATTEMPTS = 3  # times that a task may lose its worker before it counts as the reason
MOST_PER_CORE = 4  # processes; more need hundreds of MB and a second each, and gain nothing
BATCH = 4  # items per task
SOURCES = ("common", "models", "losses")  # packages that a worker must have as they are here
_one_at_a_time = threading.Lock()


class Threads:
    """Workers that are threads of this process."""

    are_processes = False

    def map(self, function, items, problems=None, batch=BATCH):
        """Map a function over items, as `common.parallel.ordered_map`.

        Args:
            function: function of a module, of one item; or a partial of one.
            items: iterable.
            problems: list that collects the messages of InputErrors; None: raise the first one.
            batch: items per task, if the workers are processes.

        Yields:
            The results in the order of the items; None for an item with a problem.

        Raises:
            InputError: if the workers are processes, and a task ends each worker that tries it.
        """
        return parallel.ordered_map(function, items, problems=problems)

    def map_large(self, function, items, problems=None):
        """As `map`, for items that need much memory: one after another, or one per process."""
        return parallel.one_by_one(function, items, problems)


class Processes:
    """Workers of a Dask scheduler.

    Args:
        client: distributed.Client.
    """

    are_processes = True

    def __init__(self, client):
        self.client = client
        self.task = functools.partial(run_batch, folder=os.getcwd(), digest=digest_of_code())

    def map(self, function, items, problems=None, batch=BATCH):
        """As `Threads.map`."""
        items, pending = iter(items), deque()
        task = functools.partial(self.task, function)
        try:
            while True:
                while len(pending) < self._most_tasks() and (some := list(islice(items, batch))):
                    pending.append(self.client.submit(task, some, pure=False))
                if not pending:
                    return
                for result, error, printed in _result(pending.popleft()):
                    if printed:
                        print_lines(printed.removesuffix("\n"))
                    if error and (problems is None or isinstance(error, SettingError)):
                        raise error
                    if error:
                        problems.append(str(error))
                    yield result
        finally:
            self.client.cancel(list(pending), force=True)

    def map_large(self, function, items, problems=None):
        """As `Threads.map_large`."""
        return self.map(function, items, problems, batch=1)

    def _most_tasks(self):
        """Tasks in the hands of the scheduler, so that no worker waits and memory is bounded."""
        return 2 * max(2, sum(self.client.nthreads().values()))


def _result(future):
    from distributed import KilledWorker  # optional, and loaded by now

    try:
        return future.result()
    except KilledWorker:
        raise InputError(
            f"WORKERS: a task ended its worker {ATTEMPTS + 1} times (often out of memory); use fewer workers"
        ) from None


@contextmanager
def start_workers(setting):
    """Start or join the workers of the setting WORKERS; those that were started end with the block.

    Args:
        setting: "", a number of processes, or the address of a Dask scheduler.

    Yields:
        Threads or Processes.

    Raises:
        SettingError: if this machine is too small for so many processes.
        InputError: if Dask is not installed, or no worker can be reached.
    """
    if setting == "":
        yield Threads()
        return
    cores = os.cpu_count() or 1
    if isinstance(setting, int) and setting > (most := max(MOST_PER_CORE * cores, 8)):
        many = f"too many processes for this machine (found {setting} for {number_of(cores, 'core')})"
        raise SettingError(f"WORKERS: {many}; use up to {most}")
    try:
        import dask  # as below
        import distributed  # optional, and slow to load
    except ModuleNotFoundError as error:
        if error.name not in ("dask", "distributed"):
            raise
        raise InputError(f"WORKERS: Dask is not installed (found {setting!r}); run: {INSTALL}") from None
    for name in filter(re.compile(r"distributed\b").match, logging.root.manager.loggerDict):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what a user can mend is raised
    with dask.config.set({"distributed.scheduler.allowed-failures": ATTEMPTS}):
        is_own = isinstance(setting, int)
        started = _local_scheduler(distributed, setting) if is_own else _address(setting)
        seconds, least = (SECONDS_TO_START, setting) if is_own else (SECONDS_TO_JOIN, 1)
        with started as address, _client(distributed, address, seconds) as client:
            _wait_for_workers(client, address, least)
            print(f"workers: {len(client.nthreads())} at {address}, dashboard {client.dashboard_link}", flush=True)
            yield Processes(client)


@contextmanager
def _address(address):
    yield address


@contextmanager
def _local_scheduler(distributed, count):
    """Scheduler in this process and `count` worker processes, which a nanny starts again when they die."""
    options = {"n_workers": 0, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(**options) as cluster, tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dask", "worker", cluster.scheduler_address]
        command += ["--nworkers", str(count), "--nthreads", "1", "--memory-limit", "0", "--no-dashboard"]
        command += ["--local-directory", folder, "--death-timeout", str(SECONDS_TO_START)]
        process = subprocess.Popen(
            command,
            env=toolkit_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield cluster.scheduler_address
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _client(distributed, address, seconds):
    try:
        client = distributed.Client(address, timeout=seconds)
    except Exception as error:  # anything: a MemoryError if a web server answers, a TypeError without a certificate
        found = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise InputError(f"WORKERS: no Dask scheduler at {address} (found {found}); start one") from None
    with client:
        yield client


def _wait_for_workers(client, address, count):
    import distributed  # optional, and loaded by now

    try:
        client.wait_for_workers(count, timeout=SECONDS_TO_START)
    except (TimeoutError, distributed.TimeoutError):
        raise InputError(
            f"WORKERS: no worker at {address} within {SECONDS_TO_START} s; start workers there, as in docs/scaling.md"
        ) from None


# --- in the workers


def run_batch(function, items, folder, digest):
    """Do the items of a task in a worker.

    Args:
        function: function of an item.
        items: list.
        folder: current folder of the process that gave the task, to which relative paths refer.
        digest: its `digest_of_code`.

    Returns:
        list of (result, None, what was printed), or (None, error, what was printed) for an InputError.
    """
    with _one_at_a_time:  # the current folder belongs to all threads of a worker
        if digest != digest_of_code():
            raise InputError(
                f"WORKERS: a worker on {socket.gethostname()} has another version of the toolkit; "
                "start it again in a copy that equals this one"
            )
        try:
            os.chdir(folder)
        except OSError as error:
            raise InputError(
                f"WORKERS: a worker on {socket.gethostname()} does not see {folder} ({error.strerror}); "
                "use a folder that all machines share under the same path"
            ) from None
        cv2.setNumThreads(1)
        parallel.own_threads, parallel.shows_progress = 1, False  # each core has a worker
        return [_outcome(function, item) for item in items]


def _outcome(function, item):
    with redirect_stdout(SafeStream(io.StringIO(), own_lines=True)) as printed:
        try:
            return function(item), None, printed.getvalue()
        except InputError as error:
            return None, error, printed.getvalue()


@functools.cache
def digest_of_code():
    """Digest of the toolkit's modules: workers with other ones could compute something else."""
    digest = hashlib.sha256()
    for path in sorted(path for name in SOURCES for path in Path(ROOT, name).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
