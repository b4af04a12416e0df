"""Processes that run scripts in forks, and folders for them."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from faults.forking import Forking


@pytest.fixture(scope="session")
def forking():
    """Function of whether Keras is needed, and a number, to a Forking, which is started when first needed."""
    started = {}

    def get(keras, number=1):
        if (keras, number) not in started:
            started[keras, number] = Forking(keras)
        return started[keras, number]

    yield get
    for one in started.values():
        with one:
            pass


@pytest.fixture(scope="session")
def good_files(made_once, request):
    """Function of a function of `faults.kinds` to the folder that it filled with good files, once."""

    def folder(good):
        def fill(folder):
            good(folder, request.getfixturevalue)
            return ""

        return made_once(f"good-{good.__name__}", fill)[0]

    return folder


@pytest.fixture
def room(tmp_path):
    """An empty folder, in memory if the system has such: a trial makes and removes a hundred files."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def small_disk():
    """Function that moves a folder to a disk of its own with so many bytes left; skips where that is not allowed."""
    mounted = []

    def put(folder, free):
        taken_down()
        kept = folder.with_name("kept")
        folder.rename(kept)
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small disk needs root")
        mounted.append(folder)
        shutil.copytree(kept, folder, dirs_exist_ok=True, symlinks=True)
        shutil.rmtree(kept)
        disk = os.statvfs(folder)
        used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
        resize(max(used + free, disk.f_frsize))  # 0 would be no limit

    def resize(size):
        subprocess.run(["mount", "-o", f"remount,size={size}", str(mounted[-1])], check=True)

    def taken_down():
        while mounted:
            subprocess.run(["umount", "-l", str(mounted.pop())], check=True)

    put.resize, put.taken_down = resize, taken_down
    yield put
    taken_down()
