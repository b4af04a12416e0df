"""Start a script in a process of its own that ends with the process that started it, even if that is killed.

    python -P -m common.child LOCK SCRIPT [ARGUMENT ...]

is the command of that process; LOCK can be "". With -P, and the project's root first in PYTHONPATH, no file in the
user's folder shadows a module.
"""

import _thread
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, nullcontext

from filelock import FileLock

from common.files import ROOT

GRACE_SECONDS = 30  # to wait for a script to end after an interrupt


@contextmanager
def child(script, arguments, lock="", **options):
    """Run a script in a separate process while the block runs.

    When the block or this process ends, even if killed, the script is interrupted as by Ctrl-C. It is killed if it has
    not ended within GRACE_SECONDS. The user's Ctrl-C reaches only this process.

    Args:
        script: path.
        arguments: list of str.
        lock: path of the lock that the script waits for, and keeps while it runs; "": none.
        options: for subprocess.Popen.

    Yields:
        subprocess.Popen.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "common.child", str(lock), str(script), *arguments],
        stdin=subprocess.PIPE,
        start_new_session=True,  # for Ctrl-C; on Windows the flag below does the same
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        **{"env": toolkit_environment()} | options,
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


@contextmanager
def run_in_background(script, arguments, lock, output):
    """Run a `child` that writes what it prints to a file, in UTF-8.

    Args:
        script, arguments, lock: as of `child`.
        output: path of the file.

    Yields:
        subprocess.Popen.
    """
    if os.path.islink(output):  # in a stranger's study: it would be written through
        os.remove(output)
    streams = {"stderr": subprocess.STDOUT, "env": toolkit_environment(PYTHONIOENCODING="utf-8")}
    with open(output, "wb") as file, child(script, arguments, lock, stdout=file, **streams) as process:
        yield process


def toolkit_environment(**more):
    """Environment in which Python finds the toolkit's modules before any others, with further variables."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | more


def main(lock, script, *arguments):
    """Run a script as the process that `child` starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    sys.argv = [script, *arguments]
    with FileLock(lock) if lock else nullcontext():
        runpy.run_path(script, run_name="__main__")


def _stop_with_parent():
    while os.read(0, 1):  # the parent never writes: this returns when it closes its end of the pipe
        pass
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # also ends its waiting, such as for a child
    else:
        _thread.interrupt_main()
    time.sleep(GRACE_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
