"""Processes that run scripts in forks, and folders for them."""

import shutil
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
