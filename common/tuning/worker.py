"""Start a script in the background so that it ends with the process that started it.

    python -P -m common.tuning.worker LOCK SCRIPT [ARGUMENT ...]

is the command of that process. With -P, and the project's root first in PYTHONPATH, no file in the user's folder
shadows a module.
"""

import _thread
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

from filelock import FileLock

from common.files import ROOT

GRACE_SECONDS = 30  # to wait for a script to end after an interrupt


@contextmanager
def run_in_background(script, arguments, lock, output):
    """Run a script in a separate process while the block runs.

    When the block or this process ends, even if killed, the script is interrupted as by Ctrl-C. It is killed if it has
    not ended within GRACE_SECONDS. The user's Ctrl-C reaches only this process.

    Args:
        script: path.
        arguments: list of str.
        lock: path of the lock that the script waits for, and keeps while it runs.
        output: path of the file for the script's output.

    Yields:
        subprocess.Popen.
    """
    command = [sys.executable, "-P", "-m", "common.tuning.worker", str(lock), str(script), *arguments]
    if os.path.islink(output):  # in a stranger's study: it would be written through
        os.remove(output)
    with open(output, "wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=toolkit_environment(),
            start_new_session=True,  # for Ctrl-C; on Windows the flag below does the same
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
    try:
        yield process
    finally:
        process.stdin.close()  # the system also closes it if this process is killed
        try:
            process.wait(GRACE_SECONDS + 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def toolkit_environment():
    """Environment in which `python -P -m` finds the toolkit's modules before any others, and prints UTF-8."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONIOENCODING": "utf-8"}


def main(lock, script, *arguments):
    """Run a script as the process that `run_in_background` starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    sys.argv = [script, *arguments]
    with FileLock(lock):
        runpy.run_path(script, run_name="__main__")


def _stop_with_parent():
    while os.read(0, 1):  # the parent never writes: this returns when it closes its end of the pipe
        pass
    _thread.interrupt_main()
    time.sleep(GRACE_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
