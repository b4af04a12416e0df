"""A process that has everything imported and runs a script in forked children, many a second.

    python tests/faults/forking.py

It reads a line of JSON a request and answers with a line a trial. A child runs several trials in turn; one that crashes
or hangs costs only its own trial. The parent never calls OpenCV, ITK or TensorFlow, since their threads would not
survive the fork.
"""

import contextlib
import hashlib
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
import traceback
import types
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PER_CHILD = 50  # trials
MEMORY = 3 * 2**30  # bytes that a trial may take on top of the libraries
LARGEST_FILE = 2**28  # bytes
LIBRARIES = (
    *("numpy", "cv2", "pandas", "scipy.ndimage", "scipy.stats", "scipy.spatial", "h5py", "SimpleITK", "pydantic"),
    *("trimesh", "jinja2", "tqdm", "filelock", "matplotlib.figure", "matplotlib.backends.backend_agg", "pydicom"),
)


# --- the client, in the test


class Forking:
    """Client of the process; use it with `with`.

    Args:
        keras: whether to import Keras, TensorFlow, Optuna and coremltools, which takes ten seconds.
    """

    def __init__(self, keras):
        self.limit = 600 if keras else 60  # seconds for a trial: converting takes 20 s on a machine without other work
        command = [sys.executable, __file__, *(["keras"] if keras else [])]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", "PYTHONUTF8": "1"}
        environment["TQDM_DISABLE"] = "1"  # convert_coreml.py sets it before tqdm is loaded
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
        self.process = subprocess.Popen(command, **pipes, start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.stdin.close()
        self.process.wait(20)

    def start(self, requests):
        """Begin trials, for `answers`; arguments as in `run`."""
        self.process.stdin.write(json.dumps({"requests": requests, "limit": self.limit}) + "\n")
        self.process.stdin.flush()

    def run(self, requests):
        """Run trials; yield a dict a request, in their order: the result of `trial`.

        Args:
            requests: list of dicts for `trial`.
        """
        self.start(requests)
        yield from self.answers(len(requests))

    def answers(self, count):
        """Wait for the answers of trials that were begun; yield them."""
        for _ in range(count):
            line = self.process.stdout.readline()
            assert line, "the forking process has ended"
            yield json.loads(line)


# --- the process


def serve(keras):
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    load_libraries(keras)
    for line in sys.stdin:
        asked = json.loads(line)
        for answer in answer_all(asked["requests"], asked["limit"]):
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def load_libraries(keras):
    """Import what scripts import, before any fork."""
    import importlib

    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    os.environ["MPLBACKEND"] = "agg"
    for name in LIBRARIES:
        importlib.import_module(name)
    names = [path.relative_to(ROOT) for path in ROOT.glob("common/**/*.py")]
    if keras:
        from common.devices import set_defaults, silenced_libraries

        set_defaults()
        with silenced_libraries():
            for name in ("keras", "tensorflow", "optuna", "coremltools", "matplotlib.pyplot"):
                importlib.import_module(name)
        import tensorflow

        tensorflow.get_logger().setLevel("ERROR")
        names += [
            path.relative_to(ROOT) for room in ("models", "losses", "coreml") for path in ROOT.glob(f"{room}/*.py")
        ]
    light = ("common", "common.slices", "common.volumes", "common.evaluation")
    for path in names:
        module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        if keras or (module.rpartition(".")[0] in light and module != "common.evaluation.selection"):
            importlib.import_module(module)
    assert keras or "keras" not in sys.modules, module
    sys.modules["matplotlib.figure"].Figure.savefig = draw_nothing
    sys.modules["pydantic"].TypeAdapter = remembered(sys.modules["pydantic"].TypeAdapter)
    for script in (*ROOT.glob("*.py"), *ROOT.glob("preprocess/*.py"), *ROOT.glob("tests/faults/readers/*.py")):
        code_of(script)


def remembered(make):
    """Function that makes something once for equal arguments, if they can be compared."""
    make_once = cache(make)

    def get(*arguments, config=None, **options):
        try:
            return make_once(*arguments, config=None if config is None else FrozenDict(config), **options)
        except TypeError:
            return make(*arguments, config=config, **options)

    return get


class FrozenDict(dict):
    """A dict that nobody changes."""

    def __hash__(self):
        return hash(tuple(sorted(self.items())))


def refuse_to_start(command, **options):
    raise sys.modules["common.errors"].InputError(f"{command[1]}: would start now; tests do not wait for it")


def draw_nothing(figure, file, **options):
    """For Figure.savefig, which would take most of the time of a trial and reads nothing."""
    if hasattr(file, "write"):
        file.write(b"<svg/>")
    else:
        Path(file).write_bytes(b"<svg/>")


def answer_all(requests, limit):
    """Run requests in children; yield an answer a request."""
    waiting = list(requests)
    while waiting:
        mine = waiting[:PER_CHILD]
        done = 0
        for answer in answers_of_child(mine, limit):
            done += 1
            yield answer
        waiting = waiting[done:]


def answers_of_child(requests, limit):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            os.setsid()
            run_all(requests, os.fdopen(writing, "w"))
        except BaseException:
            traceback.print_exc()  # a mistake of this file
        finally:
            os._exit(0)
    os.close(writing)
    unread, done = b"", 0
    started = time.monotonic()
    try:
        while done < len(requests):
            ready, _, _ = select.select([reading], [], [], max(started + limit - time.monotonic(), 0))
            got = os.read(reading, 2**20) if ready else b""
            unread += got
            *lines, unread = unread.split(b"\n")
            for line in lines:
                done, started = done + 1, time.monotonic()
                yield json.loads(line)
            if got or done == len(requests):
                continue
            if ready:  # the child has ended
                number, status = os.waitpid(child, 0)
                child = None
                if not status:
                    raise RuntimeError("no answer; see the traceback above")
                ended = os.waitstatus_to_exitcode(status)
                told = Path(requests[done]["room"]).parent / f"err-{number}"
                err = told.read_text(encoding="utf-8", errors="replace") if told.exists() else ""
                ended_itself = {"status": ended, "err": err} if ended in (1, 2) else {}  # os._exit, before HDF5 crashes
                yield {"status": "crash", "out": "", "err": f"ended by {ended}: {err}", "changed": [], **ended_itself}
            else:
                yield {"status": "hang", "out": "", "err": f"no answer in {limit} s", "changed": []}
            return
    finally:
        os.close(reading)
        if child:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child, signal.SIGKILL)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


# --- a child


def run_all(requests, answers):
    size = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for request in requests:
        try:
            answer = trial(**request)
        except Exception:  # a mistake of this file
            answer = {"status": "mistake", "out": "", "err": traceback.format_exc(), "changed": []}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def trial(script, flags, room, good="", damage="", file="", seed=0, writes=("out",), files=None, adds=False, stop=None):
    """Run a script in a folder on copies of good files, one of them damaged.

    Args:
        script: path from the root of the project.
        flags: list of arguments; "@" in them becomes the folder of the files, "@WATCHED@" one that is watched.
        room: folder for the trial; room/trial is the working directory, and room/beside is watched.
        good: folder of the good files, copied to room/trial; "": the folder stays as it is.
        damage: name of a list of `faults.damage`; "": none.
        file: the file to damage, relative to the folder; a pattern counts for the first such file.
        seed: of the damage.
        writes: what the script may change, relative to the folder: beginnings of paths.
        files: dict of further files, name to text.
        adds: whether the script may add files and folders anywhere but in room/beside.
        stop: how to stop it, as `stop_at`; None: not.

    Returns:
        dict of status, out, err, changed (list of paths that were changed but must not be), wrote (digest of all files
        that it may change) and seconds.
    """
    room = Path(room)
    here = room / "trial"
    prepare(room, good)
    if damage:
        from faults import damage as ways

        path = min(here.glob(file))
        bad = ways.damaged(random.Random(f"{script} {file} {seed}"), getattr(ways, damage), path.read_bytes(), room)
        replace(path, bad)
    for name, text in (files or {}).items():
        replace(here / name, text.encode("utf-8", "surrogatepass"))
    if script == "tune.py":  # a trial that seems to be missing would be trained
        subprocess.Popen = refuse_to_start
    before = snapshot(room, known_digest)
    started = time.monotonic()
    os.chdir(here)
    if stop:
        stop_at(room, **stop)
    flags = [flag.replace("@WATCHED@", str(room)).replace("@", str(here)) for flag in flags]
    status, out, err = captured(script, flags, room.parent)
    seconds = time.monotonic() - started
    after = snapshot(room, known_digest)
    _copied["now"] = after
    may = tuple(f"trial/{name}" for name in writes)
    changed = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    changed = [name for name in changed if not name.startswith(may)]
    if adds:
        changed = [name for name in changed if name in before or name.startswith("beside")]
    written = sorted(item for item in after.items() if item[0].startswith(may))
    wrote = hashlib.blake2b(repr(written).encode()).hexdigest()
    found = {
        "status": status,
        "out": out[-2000:],
        "err": err if len(err) < 20000 else err[:10000] + err[-10000:],
        "changed": changed,
    }
    return {**found, "wrote": wrote, "seconds": round(seconds, 3)}


CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "shutil.rmtree", "shutil.move"}


def stop_at(room, signal_number, at=None, after=None):
    """Have this process receive a signal once: before its change number `at` of names on the disk, or `after` seconds.

    The number of the process is written to room/../stopped, and the count of changes to room/../changes.
    """
    if after is not None:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal_number))
        if signal_number == signal.SIGKILL:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process wherever it is
        signal.setitimer(signal.ITIMER_REAL, after)
        return
    root, count = str(room), 0

    def look(event, arguments):
        nonlocal count
        exchanges = event == "ctypes.dlsym" and arguments[1] in ("renameat2", "renamex_np")
        if not exchanges and not (event in CHANGES and root in str(arguments[:2])):
            return
        count += 1
        if count == at:
            with open(f"{root}/../stopped", "w") as file:
                file.write(str(os.getpid()))
            os.kill(os.getpid(), signal_number)
        elif at is None:
            with open(f"{root}/../changes", "w") as file:
                file.write(str(count))

    sys.addaudithook(look)


_digests = {}  # path to (state, digest) of files of earlier trials in this process
_copied = {}  # of the good files that are in place: their folder, `good`, and snapshots


def prepare(room, good):
    """Make the folder of a trial, with another beside it that nobody may touch; copy only what a trial changed."""
    if not (room / "beside").exists():
        for name in ("thesis.txt", "x/0001.png", "case99/x/0001.png", "case99/y/0001.png"):
            (room / "beside" / name).parent.mkdir(parents=True, exist_ok=True)
            (room / "beside" / name).write_text("mine")
    if not good:
        return
    key = (room, good)
    if _copied.get("key") == key and "now" in _copied and restored(room, good, _copied["clean"], _copied.pop("now")):
        return
    _copied.clear()
    shutil.rmtree(room / "trial", ignore_errors=True)
    shutil.copytree(good, room / "trial", symlinks=True)
    _copied.update(key=key, clean=snapshot(room, known_digest))


def restored(room, good, clean, now):
    """Undo what a trial changed; False if that takes a new copy.

    Args:
        room, good: as in `trial`.
        clean, now: results of `snapshot`, before and after the trial.
    """
    names = [name for name in clean.keys() | now.keys() if clean.get(name) != now.get(name)]
    if any("\\" in name or not name.startswith("trial/") for name in names):
        return False
    for name in sorted(names, reverse=True):  # what is in a folder before the folder
        path = room / name
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
    for name in sorted(name for name in names if name in clean):
        if clean[name] == "folder":
            (room / name).mkdir()
        else:
            shutil.copy2(Path(good, name.removeprefix("trial/")), room / name, follow_symlinks=False)
    return True


def replace(path, content):
    """Write a file under a new number, by which `snapshot` knows it from the one before."""
    other = path.with_name("new-file")
    other.write_bytes(content)
    os.replace(other, path)


def digest_of(path):
    with open(path, "rb") as file:
        return hashlib.blake2b(file.read()).hexdigest()


def known_digest(path):
    """As `digest_of`, which is called only for files that changed since."""
    status = os.stat(path)
    state = status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    if _digests.get(path, (None,))[0] != state:
        _digests[path] = state, digest_of(path)
    return _digests[path][1]


def snapshot(folder, digest=digest_of):
    """Digest of each file, target of each link and name of each folder in a tree."""
    found, start = {}, os.fsencode(folder)
    folders = [start]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    content = os.fsdecode(os.readlink(entry.path))
                elif entry.is_dir():
                    content = "folder"
                    folders.append(entry.path)
                else:
                    content = digest(entry.path) if entry.is_file() else "special"
                found[entry.path[len(start) + 1 :].decode("utf-8", "backslashreplace")] = content
    return found


def captured(script, flags, folder):
    """Run a script as `__main__`: its status, and what it and its libraries wrote to both streams."""
    path = ROOT / script
    streams = [Path(folder) / f"{name}-{os.getpid()}" for name in ("out", "err")]
    kept = [os.dup(1), os.dup(2)]
    for number, stream in enumerate(streams, 1):
        opened = os.open(stream, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdout = os.fdopen(os.dup(1), "w", 1, "utf-8")
    sys.stderr = os.fdopen(os.dup(2), "w", 1, "utf-8", "backslashreplace")  # as in a process of its own
    try:
        status = run_main(path, flags)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.close()
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        for number, old in enumerate(kept, 1):
            os.dup2(old, number)
            os.close(old)
    texts = [stream.read_text(encoding="utf-8", errors="replace") for stream in streams]
    for stream in streams:
        stream.unlink()
    return status, *texts


def run_main(path, flags):
    argv, search, hook, main = sys.argv, list(sys.path), sys.excepthook, sys.modules["__main__"]
    sys.argv, sys.path[:0] = [str(path), *flags], [str(path.parent)]
    try:
        module = types.ModuleType("__main__")
        module.__file__ = str(path)
        sys.modules["__main__"] = module
        exec(code_of(path), module.__dict__)
        return 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        try:
            sys.excepthook(*sys.exc_info())
        except SystemExit as end:
            return end.code
        return 1
    finally:
        sys.argv, sys.path[:], sys.excepthook, sys.modules["__main__"] = argv, search, hook, main


@cache
def code_of(path):
    """Code object of a script."""
    return compile(path.read_bytes(), str(path), "exec")


if __name__ == "__main__":
    serve("keras" in sys.argv[1:])
