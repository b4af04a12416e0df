"""Processes that know of each other: locks that end with their process, and scripts that end with who started them.

    python common/tuning/worker.py LOCK SCRIPT [ARGUMENT ...]

runs a script as `run_beside` does.
"""

import _thread
import errno
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

if __name__ == "__main__":  # started by its path, so that the user's folder cannot stand in for ours
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from common.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

PATIENCE = 30  # seconds that a script has to end by itself
HELD = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK)  # what the system answers where another process has the lock


class Lock:
    """Lock on a file, which one process at a time can have.

    The system lifts it when the process ends, in whatever way, so that none is left over. Processes on several machines
    need a shared folder whose file system keeps locks, which SQLite needs too. The file stays, empty.
    """

    def __init__(self, path):
        self.path, self.file = Path(path), None

    def take(self):
        """Take the lock where it is free.

        Returns:
            Whether it is ours now.

        Raises:
            InputError: if the file system keeps no locks.
        """
        if self.file:
            return True
        file = open(self.path, "ab")  # noqa: SIM115  (open for as long as the lock is held)
        try:
            if os.name == "nt":
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if error.errno in HELD:
                return False
            raise InputError(
                f"{self.path} cannot be locked ({error.strerror}); name a folder on a local disk"
            ) from None
        self.file = file
        return True

    def release(self):
        if os.name == "nt":
            msvcrt.locking(self.file.fileno(), msvcrt.LK_UNLCK, 1)
        self.file.close()
        self.file = None

    def __enter__(self):
        while not self.take():
            time.sleep(0.1)
        return self

    def __exit__(self, *exception):
        self.release()


@contextmanager
def run_beside(script, arguments, lock, output):
    """Run a script as a process of its own.

    It ends as by Ctrl-C when the block is left or this process ends, in whatever way, and by force where that takes
    longer than PATIENCE. A Ctrl-C of the user reaches this process only.

    Args:
        script: path.
        arguments: list of str.
        lock: path of the lock that it holds while it runs; it waits until it has it.
        output: path of the file that what it prints goes into.

    Yields:
        subprocess.Popen.
    """
    command = [sys.executable, str(Path(__file__).resolve()), str(lock), str(script), *arguments]
    apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if os.name == "nt" else {"start_new_session": True}
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    with open(output, "wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT, env=environment, **apart
        )
    try:
        yield process
    finally:
        process.stdin.close()  # the system does the same if we are killed
        try:
            process.wait(PATIENCE + 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run_script(lock, script, *arguments):
    """Be the process that `run_beside` starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts us in the background has it ignored
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.argv = [script, *arguments]
    with Lock(lock):
        runpy.run_path(script, run_name="__main__")


def _end_with_parent():
    while os.read(0, 1):  # nothing is ever written: it returns when the other end of the pipe is closed
        pass
    _thread.interrupt_main()
    time.sleep(PATIENCE)
    os._exit(1)


if __name__ == "__main__":
    run_script(*sys.argv[1:])
