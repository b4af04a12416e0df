"""Work in several processes: run another script, and split work into parts (PART = "2/8" is the second of eight).

Parts run at any time, in any order, and write to a shared folder. The last part to finish joins them.
"""

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from common.command_line import flags_of
from common.errors import InputError
from common.files import ROOT, read_json, remove, write_json
from common.manifest import MANIFEST, foreign_files, refuse_foreign
from common.replacing import refuse_existing, whole_folder

LOCK = ".part-lock"
SETTINGS = "settings.json"  # settings of all parts, next to them
LONGEST_SHOWN = 300  # characters of a setting in a message
OWN_SETTINGS = ("PART", "REPLACE")  # settings that may differ between parts


def call(script, *arguments, **settings):
    """Run a script; it shares our standard output.

    Args:
        script: path relative to the project root.
        arguments: additional command-line arguments.
        settings: settings by name, passed as flags.

    Raises:
        InputError: if the script fails.
        KeyboardInterrupt: if Ctrl-C ended it.
    """
    command = [sys.executable, str(ROOT / script), *map(str, arguments), *flags_of(settings)]
    status = subprocess.run(command, check=False).returncode
    if status in (-2, 130):
        raise KeyboardInterrupt
    if status:
        raise InputError(f"{script}: failed (exit status {status}); see its message above")


class Part(NamedTuple):
    """The part of the work that a process does: number, from 1, and total count."""

    number: int = 1
    count: int = 1

    @classmethod
    def read(cls, text):
        """Read the setting PART; "" is all work.

        Raises:
            InputError: unless the text is like "2/8".
        """
        if not text:
            return cls()
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise InputError(f'PART: expected a part such as "2/8", the second of eight (found {text!r})')
        return cls(int(number), int(count))

    def __str__(self):
        return f"{self.number} of {self.count}"

    @property
    def is_whole(self):
        return self.count == 1

    def share(self, items, unit=None):
        """The items of this part: consecutive items, so that all parts together keep the order.

        Args:
            items: list.
            unit: function of an item to a group that must stay together, such as its case; None: no groups.

        Returns:
            list, about as long as in any other part; can be empty if there are fewer units than parts.
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


def do_part(output, part, settings, fill, join=None, replace=False):
    """Fill the folder of a part and, once all parts exist, the folder `output`, completely or not at all.

    Until then, the parts are in `<output>.parts`. An existing part is skipped unless `replace` is set.

    Args:
        output: folder to write.
        part: Part; if it is the whole, `fill` fills `output` directly.
        settings: dict of settings; all parts must agree on them.
        fill: function of a Path that fills this folder.
        join: function of the list of part folders, in order, and of the Path to fill. It must not change the part
            folders. None: `merge`.
        replace: as in `common.replacing.whole_folder`.

    Returns:
        whether `output` was written.

    Raises:
        InputError: as `whole_folder`, and if existing parts have other settings.
    """
    if part.is_whole:
        with whole_folder(output, replace) as folder:
            fill(folder)
        return True
    refuse_existing(output, replace)
    parts = Path(f"{Path(output)}.parts")
    folders = [parts / str(Part(number, part.count)) for number in range(1, part.count + 1)]
    own_folder = folders[part.number - 1]
    with locked(parts):
        agree_on_settings(parts, settings | {"parts": part.count}, replace)
    if own_folder.exists() and not replace:
        print(f"skipping {own_folder}: it already exists", flush=True)
    else:
        with whole_folder(own_folder, replace=True) as folder:
            fill(folder)
    with locked(parts):
        if not own_folder.exists():  # another part finished at the same time and joined them
            return True
        missing = [str(number) for number, folder in enumerate(folders, 1) if not folder.exists()]
        if not missing:
            with whole_folder(output, replace) as folder:
                for made in folders:
                    refuse_foreign(made, foreign_files(made))
                (join or merge)(folders, folder)
            for made in (*folders, parts / SETTINGS):
                remove(made)
    if missing:
        print(f"finished part {part}; still waiting for {_parts_in_words(missing)}")
    return not missing


def _parts_in_words(numbers):
    """Part numbers, a list of str, as text: "part 3", "parts 3 and 5", or the first ten and a count."""
    *first, last = numbers if len(numbers) <= 10 else [*numbers[:10], f"{len(numbers) - 10} more"]
    return f"parts {', '.join(first)} and {last}" if first else f"part {last}"


@contextmanager
def locked(folder):
    """Let only one process that shares a folder run the block; a killed process releases the lock.

    Args:
        folder: Path; created if missing, and removed at the end if empty.

    Raises:
        InputError: if `folder` is a file.
    """
    from filelock import FileLock  # here because it takes 0.07 s, and only parts need it

    lock = FileLock(folder / LOCK, poll_interval=0.01)
    while not lock.is_locked:
        with suppress(FileNotFoundError, FileExistsError):  # another process just removed the folder
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        if folder.is_file():
            raise InputError(f"{folder}: expected a folder for the parts (found a file); move it")
    try:
        yield
    finally:
        with suppress(OSError):  # Windows cannot remove open files
            (folder / LOCK).unlink()  # while locked: waiting processes notice this and create a new one
        lock.release()
        if os.name == "nt":
            with suppress(OSError):
                (folder / LOCK).unlink()
        with suppress(OSError):
            folder.rmdir()


def agree_on_settings(parts, settings, replace):
    """Record the settings of the first part and refuse other ones; call while the folder `parts` is locked.

    With `replace`, parts with other settings are removed instead, so that parts of two rounds are never joined.
    """
    settings = {name: value for name, value in settings.items() if name not in OWN_SETTINGS}
    path = parts / SETTINGS
    is_recorded = path.exists()
    before = read_json(path) if is_recorded else None
    if not is_recorded or (replace and before != settings):
        for folder in parts.iterdir():
            if re.fullmatch(r"\d+ of \d+", folder.name) and (folder / MANIFEST).is_file():
                refuse_existing(folder, replace=True)
                remove(folder)
        write_json(path, settings)
        return
    if not isinstance(before, dict):
        raise InputError(f"{path}: damaged (no settings in it); remove the folder {parts} to start over")
    for name in settings:
        if before.get(name) != settings[name]:
            found, now = (repr(value)[:LONGEST_SHOWN] for value in (before.get(name), settings[name]))
            raise InputError(
                f"{parts}: contains parts with {name} {found} (found {now} now); use the "
                "same settings for all parts, or remove that folder to start over"
            )


def merge(folders, target):
    """Merge folders into one: append CSV tables with the same name; of other files, keep the first."""
    for folder in folders:
        for source in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST):
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
