"""Manifests: which files a script made in a folder, so that only these are ever replaced or removed."""

import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from common.errors import InputError
from common.files import ROOT, file_digest, real_path
from common.records import Record, read_record

MANIFEST = ".made_files.json"  # in each folder that a script made
VARIANTS = "augmented.json"  # manifest of the variants of step 1, in a case folder
CASE_RECORD = "case.json"  # in each case folder
OF_SYSTEM = (".DS_Store", "Thumbs.db", "desktop.ini")  # what file managers leave in any folder


class MadeFile(BaseModel):
    """A file that a script made."""

    model_config = ConfigDict(frozen=True, strict=True)

    size: NonNegativeInt  # bytes
    sha256: str

    @classmethod
    def of(cls, path):
        """Describe an existing file."""
        return cls(size=os.stat(path).st_size, sha256=file_digest(path))

    def is_same(self, path):
        """Whether a file is still as it was made."""
        found = os.stat(path)
        return found.st_size == self.size and _digest(path, found.st_mtime_ns, found.st_ctime_ns) == self.sha256


@lru_cache(2**17)
def _digest(path, *times):
    """SHA-256 of a file, computed once as long as its times stay: a file is checked before and after the work."""
    return file_digest(path)


class Manifest(Record):
    """Files that a script made in a folder, by relative path with "/", and folders."""

    format: Literal[1] = 1
    script: str = Field("", pattern=r"^[\w.]*$")  # name of the script that made all of the folder; "": not known
    files: dict[str, MadeFile] = Field(default_factory=dict)
    folders: list[str] = Field(default_factory=list)

    @classmethod
    def of(cls, folder, names=None, **fields):
        """Describe what is in a folder, apart from manifests.

        Args:
            folder: Path.
            names: names of the entries to describe; None: all.
            fields: further fields of a subclass.
        """
        entries = (
            everything_below(folder)
            if names is None
            else [path for name in names for path in [folder / name, *everything_below(folder / name)]]
        )
        files = {_key(path, folder): MadeFile.of(path) for path in entries if path.is_file() and path.name != MANIFEST}
        return cls(files=files, folders=[_key(path, folder) for path in entries if path.is_dir()], **fields)

    @property
    def is_case(self):
        """Whether it is of a case folder."""
        return CASE_RECORD in self.files

    def foreign(self, folder, below=""):
        """List the paths in a folder, or in an entry of it, that are not in this manifest or changed since."""
        start = Path(folder, below)
        known = set(self.folders)
        found = [start] if below and (start.is_symlink() or not start.is_dir()) else []
        found += everything_below(start)
        return [path for path in found if not self._made(path, folder, known)]

    def _made(self, path, folder, folders):
        key = _key(path, folder)
        if path.is_symlink():
            return False
        if path.name in (MANIFEST, *OF_SYSTEM):
            return path.is_file()
        if path.is_dir():
            return key in folders
        return path.is_file() and key in self.files and self.files[key].is_same(path)

    @classmethod
    def read(cls, path):
        """Read a manifest; an empty one if the file is missing.

        Raises:
            InputError: if the file is damaged.
        """
        return read_record(path, cls) if os.path.lexists(path) else cls()


def this_script():
    """Name of the script of this project that this process runs, such as "predict.py"; "" if it runs none."""
    path = real_path(sys.argv[0] or ".")
    return path.name if path.suffix == ".py" and path.parent in (ROOT, ROOT / "preprocess", ROOT / "data") else ""


def everything_below(folder):
    """Paths of all entries below a folder, sorted; links are listed, not followed."""
    found = []
    for root, folders, files in os.walk(folder):
        found += [Path(root, name) for name in (*folders, *files)]
    return sorted(found)


def _key(path, folder):
    return path.relative_to(folder).as_posix()


def foreign_files(path, root=None):
    """List what no script made in `path`, or what changed since.

    Args:
        path: Path of a file or folder, which may be missing. It is known by its own manifest or by one of a folder
            around it; a .mlpackage counts as one file.
        root: Path of a folder around it with a manifest, apart from its parent.

    Returns:
        list of Path; `path` itself if nothing is known of it.
    """
    if not os.path.lexists(path):
        return []
    if path.suffix == ".mlpackage" and path.is_dir() and not path.is_symlink():
        return [inside for inside in path.iterdir() if inside.name not in ("Manifest.json", "Data", *OF_SYSTEM)]
    if path.name in (MANIFEST, VARIANTS) and path.is_file() and not path.is_symlink():
        Manifest.read(path)
        return []
    if (path / MANIFEST).is_file() and not path.is_symlink():
        return _without_variants(Manifest.read(path / MANIFEST).foreign(path))
    for file in {path.parent / MANIFEST, path.parent / VARIANTS, (root or path.parent) / MANIFEST}:
        manifest = Manifest.read(file)
        if _key(path, file.parent) in (*manifest.files, *manifest.folders):
            return manifest.foreign(file.parent, _key(path, file.parent))
    return [path]


def _without_variants(foreign):
    """Paths without variants of step 1 that are still as they were made."""
    for record in [path for path in foreign if path.name == VARIANTS and path.is_file() and not path.is_symlink()]:
        variants = Manifest.read(record)
        changed = variants.foreign(record.parent)
        foreign = [
            path for path in foreign if path != record and (path in changed or record.parent not in path.parents)
        ]
    return foreign


def refuse_foreign(path, foreign):
    """Raise InputError if there are `foreign` paths in `path`, which is to be replaced."""
    if [os.path.realpath(other) for other in foreign] == [os.path.realpath(path)]:
        found = f" (no {MANIFEST} in it)" if path.is_dir() else ", or changed since"
        raise InputError(f"{path}: not made by this toolkit{found}; move it away, or use another path")
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise InputError(
            f"{path}: contains files that no script made, or that changed since (found {foreign[0]}{more}); "
            "move them away, or use another path"
        )
