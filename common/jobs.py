"""Work of several processes: running another script, and PART = "2/8", the second of eight parts of the work.

The parts write to a folder that all of them see, at any time and in any order; the one that ends last joins them.
"""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from common.command_line import flags_of
from common.errors import InputError
from common.files import ROOT, read_json, refuse_existing, remove, whole_folder, write_json

LOCK = ".part-lock"
SETTINGS = "settings.json"  # of all parts, beside them
OWN_SETTINGS = ("PART", "REPLACE")  # settings in which parts may differ


def call(script, *arguments, **settings):
    """Run a script; its output goes where ours goes.

    Args:
        script: path from the root of the project.
        arguments: further words of the command.
        settings: settings by name, given as flags.

    Raises:
        InputError: if it fails.
        KeyboardInterrupt: if Ctrl-C ended it.
    """
    command = [sys.executable, str(ROOT / script), *map(str, arguments), *flags_of(settings)]
    status = subprocess.run(command, check=False).returncode
    if status in (-2, 130):
        raise KeyboardInterrupt
    if status:
        raise InputError(f"{script} failed with exit status {status}; its message stands above")


class Part(NamedTuple):
    """The part of the work that a process does: its number, from 1, and how many there are."""

    number: int = 1
    count: int = 1

    @classmethod
    def read(cls, text):
        """Part of a setting PART; "" is the whole.

        Raises:
            InputError: if it is no such text as "2/8".
        """
        if not text:
            return cls()
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise InputError(f'PART is {text!r}; expected for instance "2/8", the second of eight parts')
        return cls(int(number), int(count))

    def __str__(self):
        return f"{self.number} of {self.count}"

    @property
    def is_whole(self):
        return self.count == 1

    def share(self, items, unit=None):
        """The items of this part: a run of them, so that the parts one after the other are the items in their order.

        Args:
            items: list.
            unit: function of an item to what must stay together, such as its case; None: each item stands alone.

        Returns:
            list, about as long as that of any other part; empty if there are fewer units than parts.
        """
        units = {}
        for number, item in enumerate(items):
            units.setdefault(unit(item) if unit else number, []).append(item)
        share, done = [], 0
        for members in units.values():
            if (2 * done + len(members)) * self.count // (2 * len(items)) == self.number - 1:
                share += members
            done += len(members)
        return share


def do_part(output, part, settings, fill, join=None, replace=False, marker=None):
    """Fill the folder of a part and, once all parts are there, the folder `output`, which appears whole or not at all.

    Until then the parts wait in `<output>.parts`. A part that is there already is not done again unless `replace`.

    Args:
        output: folder to write.
        part: Part; of the whole, `fill` fills `output` itself.
        settings: dict of the settings, in which all parts must agree.
        fill: function of a Path that fills this folder.
        join: function of the list of the parts' folders, in order, and of the Path to fill from them; None:
            `merge`. What it is given must stay as it is.
        replace, marker: as `common.files.whole_folder`.

    Returns:
        whether `output` was written.

    Raises:
        InputError: as `whole_folder`; if parts that wait there had other settings.
    """
    if part.is_whole:
        with whole_folder(output, replace, marker) as folder:
            fill(folder)
        return True
    refuse_existing(output, replace, marker)
    parts = Path(f"{Path(output)}.parts")
    folders = [parts / str(Part(number, part.count)) for number in range(1, part.count + 1)]
    own_folder = folders[part.number - 1]
    with locked(parts):
        agree_on_settings(parts, settings | {"parts": part.count})
    if own_folder.exists() and not replace:
        print(f"{own_folder} is there already, and is not made again", flush=True)
    else:
        with whole_folder(own_folder, replace=True) as folder:
            fill(folder)
    with locked(parts):
        if not own_folder.exists():  # another part, which ended at the same moment, has joined them
            return True
        missing = [folder.name for folder in folders if not folder.exists()]
        if not missing:
            with whole_folder(output, replace, marker) as folder:
                (join or merge)(folders, folder)
            for inside in parts.iterdir():
                if inside.name != LOCK:
                    remove(inside)
    if missing:
        print(f"part {part} is done; {len(missing)} are missing: {', '.join(missing[:10])}")
    return not missing


@contextmanager
def locked(folder):
    """Let one process at a time, of those that see a folder, do what follows; a process that is killed frees the lock.

    Args:
        folder: Path; it is made if it is missing, and removed in the end if it is empty.

    Raises:
        InputError: if `folder` is a file.
    """
    from filelock import FileLock  # here, since it takes 0.07 s, and only parts need it

    lock = FileLock(folder / LOCK, poll_interval=0.01)
    while not lock.is_locked:
        with suppress(FileNotFoundError, FileExistsError):  # another process has just removed the folder
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        if folder.is_file():
            raise InputError(f"{folder} is a file, where the parts would wait in a folder; move it")
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no file that is open
            (folder / LOCK).unlink()  # while it is locked: whoever waits for it sees that, and makes a new one
        lock.release()
        if os.name == "nt":
            with suppress(OSError):
                (folder / LOCK).unlink()
        with suppress(OSError):
            folder.rmdir()


def agree_on_settings(parts, settings):
    """Keep the settings of the first part, and refuse others; under the lock of the folder `parts`."""
    settings = {name: value for name, value in settings.items() if name not in OWN_SETTINGS}
    path = parts / SETTINGS
    if not path.exists():
        write_json(path, settings)
    before = read_json(path)
    for name in settings:
        if before.get(name) != settings[name]:
            raise InputError(
                f"{parts} holds parts with {name} {before.get(name)!r}, here it is {settings[name]!r}; give all parts "
                "the same settings, or remove that folder to begin anew"
            )


def merge(folders, target):
    """Put the files of several folders into one: tables of one name are joined, of other files the first is taken."""
    for folder in folders:
        for source in sorted(path for path in folder.rglob("*") if path.is_file()):
            copy = target / source.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.suffix == ".csv":
                header, _, rows = source.read_bytes().partition(b"\n")
                with copy.open("ab") as table:
                    table.write(rows if table.tell() else header + b"\n" + rows)
            elif not copy.exists():
                link_or_copy(source, copy)


def link_or_copy(source, copy):
    try:
        os.link(source, copy)
    except OSError:  # a file system without links
        shutil.copyfile(source, copy)
