"""Replace results in one step, finish what an interrupted process began, and keep two processes off one output.

New results are made in a staging folder next to their place:

    .part-<12 hex digits>-<name>/new/...        what is being made
    .part-<12 hex digits>-<name>/journal.json   present once everything in new/ is complete and on disk
    .part-<12 hex digits>-<name>/old/...        what it replaces, if the file system cannot exchange two names
    .part-<12 hex digits>-<name>/lock           locked while its process lives

A process that dies before the journal leaves the old results; after that, the next start of any script finishes.
"""

import os
import re
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from common.claims import LOCK_OF, OWNER_OF, claimed, held, undisturbed
from common.errors import InputError
from common.files import (
    flush,
    flush_all,
    one_name,
    real_path,
    remove,
    unfinished_name,
    whole_file,
)
from common.journals import JOURNAL, NEW, Journal, carry_out, identity, put, write_journal
from common.manifest import MANIFEST, Manifest, foreign_files, refuse_foreign, this_script
from common.records import read_record
from common.system_errors import errors_of

STAGING = re.compile(r"\.part-[0-9a-f]{12}-")
LOCK = "lock"
SECONDS_WITHOUT_LOCK = 60  # of an empty staging folder that is being made


# --- one output


@contextmanager
def whole_folder(path, replace=False, listed=True):
    """Fill a folder in a staging folder, flush it to disk, and put it in its place in one step.

    Args:
        path: final path. A link to a folder stays a link: its target is replaced.
        replace: whether to replace an existing folder; refused if it contains files that no script made.
        listed: whether to write a manifest into it, so that it can be replaced later.

    Yields:
        Path of an empty folder to fill. If the block raises, it is removed and `path` stays as it was. A block can
        remove it to write no folder.

    Raises:
        InputError: if `path` exists and must not be replaced, or another process is writing it.
    """
    path = Path(path)
    final = real_path(path)
    _refuse_folder(path, final, replace)
    with whole_entries(final.parent, [final.name], replace, listed=listed, script=this_script()) as new:
        (new / final.name).mkdir()
        yield new / final.name


def _refuse_folder(path, final, replace):
    """Refuse as `refuse_existing`, and what a folder cannot replace; `final` is the path without links."""
    if os.path.ismount(final):
        raise InputError(f"{path}: cannot be replaced as a whole (it is a mount point); use a folder inside it")
    if os.path.lexists(final) and not final.is_dir():
        raise InputError(f"{path}: is not a folder; use another path")
    refuse_existing(path, replace)
    if final.is_dir() and any(final.iterdir()) and not (final / MANIFEST).is_file():
        refuse_foreign(Path(path), [Path(path)])  # part of a folder that a script made, such as x of a case


@contextmanager
def whole_folders(paths, replace=False):
    """Fill several folders, which may be on several disks, and put all of them in their places in one step.

    The journal of the first one decides: the others are carried out before it, and only if it exists.

    Args:
        paths: final paths, none inside another; otherwise as for `whole_folder`.

    Yields:
        list of Path of empty folders to fill.
    """
    finals = [real_path(path) for path in paths]
    with ExitStack() as stack:
        made = []
        for path, final in zip(paths, finals, strict=True):
            stack.enter_context(claimed(final))
            finish_interrupted(final.parent)
            _refuse_folder(path, final, replace)
            made.append(stack.enter_context(_staging(final.parent, final.name)) / NEW / final.name)
            made[-1].mkdir()
        with errors_of(" or ".join(map(str, paths))):
            yield made
        for path, new in zip(paths, made, strict=True):
            Manifest.of(new, script=this_script()).write_to(new / MANIFEST)
            _refuse_folder(path, real_path(path), replace)
        _publish_together([new.parents[1] for new in made], finals)


@contextmanager
def new_file(path, replace=False):
    """Write a file that the user asked for by name, as `common.files.whole_file`.

    Raises:
        InputError: if `path` exists and must not be replaced, is no file, or another process is writing it.
    """
    path = Path(path)
    if os.path.lexists(final := real_path(path)) and not final.is_file():
        found = "folder" if final.is_dir() else "device or pipe"
        raise InputError(f"{path}: is a {found} (expected a file); use another path")
    refuse_existing(path, replace)
    with claimed(path), whole_file(path) as unfinished:
        yield unfinished


def refuse_existing(path, replace, script=None, cases=False):
    """Raise InputError if `path` exists and must not be replaced.

    Args:
        path: path of a file that the user named, or of a folder; an empty folder counts as missing.
        replace: whether to replace it. A folder is refused if it contains anything that no script made, or if another
            script made all of it.
        script: name of the script that will replace it; None: the one of this process.
        cases: whether it may replace case folders, which any importer and pseudo_label.py make.
    """
    path = Path(path)
    if not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
        return
    if not replace:
        raise InputError(f"{path}: already exists; use another path or pass --replace to overwrite it")
    if path.is_dir():
        manifest, script = Manifest.read(real_path(path) / MANIFEST), script or this_script()
        if script and manifest.is_case and not cases:
            raise InputError(f"{path}: is a case folder, which {script} does not replace; use another path")
        if script and (made_by := manifest.script) not in ("", script):
            raise InputError(f"{path}: was made by {made_by}, which {script} does not replace; use another path")
        refuse_foreign(path, foreign_files(real_path(path)))


def refuse_input_inside(setting, source, output, name="OUTPUT"):
    """Raise InputError if an input is inside an existing folder that a script is to replace.

    Args:
        setting: name of the setting with the input.
        source: path of the input; "": none.
        output: path of the folder.
        name: setting with the folder.
    """
    if not source:
        return
    source, output = map(real_path, (source, output))
    if output.exists() and (output == source or output in source.parents):
        raise InputError(f"{name}: {output} contains {setting}, which it would replace; use another folder")


# --- several outputs in one step


@contextmanager
def whole_entries(root, names, replace=False, *, removed=(), listed=True, script=""):
    """Make files and folders in a staging folder and put all of them in their places in one step.

    Args:
        root: folder of the entries; created if missing.
        names: relative paths of the entries that the block can make, with "/".
        replace: whether to replace existing entries; refused if they contain files that no script made.
        removed: relative paths that disappear in the same step; list, or function without arguments that is called
            after the block.
        listed: whether to write a manifest: into new folders, and into `root` for new files.
        script: for the manifest of new folders: the only script that may replace them; "": any.

    Yields:
        Path of the folder to make the entries in; the folders around nested entries exist. Entries that the block does
        not make stay as they were. If the block raises, everything stays as it was.

    Raises:
        InputError: if an entry exists and must not be replaced, or another process is writing it.
    """
    root = Path(root)
    with ExitStack() as stack:
        for top in sorted({name.split("/")[0] for name in names}):
            stack.enter_context(claimed(root / top))
        finish_interrupted(root)
        _refuse_entries(root, names, replace, script)
        label = names[0].replace("/", "-") if len(names) == 1 else root.name
        staging = stack.enter_context(_staging(root, label))
        for name in names:
            (staging / NEW / name).parent.mkdir(parents=True, exist_ok=True)
        with errors_of(root if len(names) > 1 else root / names[0]):
            yield staging / NEW
        made = [name for name in names if os.path.lexists(staging / NEW / name)]
        gone = list(removed() if callable(removed) else removed)
        files = [name for name in made if (staging / NEW / name).is_file()] if listed else []
        if files:
            stack.enter_context(claimed(root / MANIFEST, wait=True))
            _list_files(root, staging / NEW, files, gone)
            made.append(MANIFEST)
        for name in made:
            if listed and (staging / NEW / name).is_dir():
                Manifest.of(staging / NEW / name, script=script).write_to(staging / NEW / name / MANIFEST)
        _refuse_entries(root, [name for name in made if name != MANIFEST], replace, script)
        _refuse_entries(root, gone, True, script)
        if made or gone:
            _publish(staging, root, made, gone)


def _refuse_entries(root, names, replace, script):
    """Refuse as `refuse_existing`; also files that no script made. Without a `script`, they may be cases."""
    for name in names:
        refuse_existing(root / name, replace, cases=not script)
        if not (root / name).is_dir():
            refuse_foreign(root / name, foreign_files(root / name, root))


def _list_files(root, new, files, gone):
    """Write the manifest of `root` with new files, and without entries that disappear, into the folder `new`."""
    before = Manifest.read(root / MANIFEST)
    kept = {name: made for name, made in before.files.items() if name not in gone}
    added = Manifest.of(new, files)
    Manifest(files=kept | added.files, folders=before.folders).write_to(new / MANIFEST)


@contextmanager
def staged(path):
    """Make a file or folder that gets its place by `publish`, after checks, or disappears.

    Args:
        path: final path.

    Yields:
        Path with the same name in a staging folder next to it.

    Raises:
        InputError: if another process is writing `path`.
    """
    path = Path(os.path.abspath(path))
    with claimed(path), _staging(path.parent, path.name) as staging:
        yield staging / NEW / path.name


def publish(made, path):
    """Put what was made in a `staged` block in its place, with everything next to it, in one step.

    Args:
        made: the yielded Path, or another one next to it.
        path: final path in the folder for which it was staged.
    """
    path = Path(os.path.abspath(path))
    if made.name != path.name:
        made = made.rename(made.with_name(path.name))
    _publish(made.parents[1], path.parent, [made.name for made in made.parent.iterdir()], [])


# --- staging folders


@contextmanager
def _staging(root, name):
    """Make a staging folder in `root`, locked until it is removed at the end."""
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    root.mkdir(parents=True, exist_ok=True)
    staging = root / unfinished_name(name)
    staging.mkdir()
    lock = FileLock(staging / LOCK)
    try:
        with suppress(NotImplementedError):  # a file system without locks
            lock.acquire(timeout=0)
        (staging / NEW).mkdir()
        yield staging
    except OSError as error:
        if isinstance(error.filename, str | Path) and Path(error.filename).is_relative_to(staging / NEW):
            error.filename = str(root / Path(error.filename).relative_to(staging / NEW))  # as the user knows it
        raise
    finally:
        lock.release()
        with undisturbed():
            _remove_staging(staging)
            for folder in missing:
                with suppress(OSError):  # not empty
                    folder.rmdir()


def _publish(staging, root, names, removed):
    """Put the complete entries of a staging folder in their places; finishes even at Ctrl-C.

    A single entry needs no journal if one step puts it in its place: its process cannot die in between.
    """
    new = staging / NEW
    flush_all(new)
    with undisturbed():
        if len(names) == 1 and not removed and put(new / names[0], root / names[0]):
            flush((root / names[0]).parent)
            return
        carry_out(staging, root, write_journal(staging, root, names, removed=list(removed)))


def _publish_together(stagings, finals):
    """Put one complete folder of each staging folder in its place; `Journal` has the order."""
    for staging in stagings:
        flush_all(staging / NEW)
    leader, *followers = map(str, stagings)
    fields = [{"followers": followers}, *({"leader": leader} for _ in followers)]
    last_first = list(zip(stagings, finals, fields, strict=True))[::-1]  # the leader's is the last journal
    with undisturbed():
        journals = [write_journal(staging, final.parent, [final.name], **own) for staging, final, own in last_first]
        for (staging, final, _), journal in zip(last_first, journals, strict=True):
            carry_out(staging, final.parent, journal)


def finish_interrupted(*paths):
    """Finish or remove what processes that died left in folders and next to paths, which may be missing."""
    for folder in sorted({folder for path in map(Path, paths) for folder in (path, path.parent)}):
        with suppress(OSError, ValueError):  # missing, not a folder, or no path at all
            for found in sorted(folder.glob(".part-*")):
                with suppress(OSError):  # in use, or not ours to change
                    _finish(found, folder)


def _finish(path, root):
    """Remove a lock file, and finish or remove a staging folder, unless its process lives or it was not made here."""
    if path.name.startswith(LOCK_OF) and path.is_file() and not path.is_symlink():
        with held(path):
            path.with_name(OWNER_OF + path.name.removeprefix(LOCK_OF)).unlink(missing_ok=True)
            path.unlink()
    lock = path / LOCK
    if not STAGING.match(path.name) or path.is_symlink() or not lock.is_file() or lock.is_symlink():
        if STAGING.match(path.name) and path.is_dir() and time.time() - path.stat().st_mtime > SECONDS_WITHOUT_LOCK:
            path.rmdir()  # unless it contains something
        return
    with held(lock):
        try:
            if (path / JOURNAL).is_file():
                _finish_journal(path, root)
        except InputError as error:
            print(f"note: left {path}, which an interrupted script made: {error}", file=sys.stderr)
        else:
            with undisturbed():
                _remove_staging(path)


def _remove_staging(path):
    """Remove a staging folder, its lock last: without one, the next script would not know whose it is."""
    with suppress(FileNotFoundError):  # another process may remove it too
        for inside in path.iterdir():
            if inside.name != LOCK:
                remove(inside)
    remove(path)


def _finish_journal(staging, root):
    """Carry out the journal of a process that died; raises InputError if it does not look like ours."""
    journal = read_record(staging / JOURNAL, Journal)
    if journal.leader and not Path(journal.leader, JOURNAL).is_file():
        return  # died before the step, or everything else of it is done
    for follower in map(Path, journal.followers):
        if follower.is_dir():
            _finish(follower, follower.parent)
        if (follower / JOURNAL).is_file() or not follower.parent.is_dir():
            raise InputError(f"{follower}: not finished, so this one waits")
    names = [*journal.entries, *journal.removed]
    for name in names:
        for part in name.split("/"):
            one_name(part.removeprefix("."), staging / JOURNAL)
        if real_path(root / name).parent != (real_path(root) / name).parent:
            raise InputError(f"{staging / JOURNAL}: {name} leads to another folder")
        found = identity(root / name) if os.path.lexists(root / name) else [None]
        is_done, is_old = found[0] == journal.entries.get(name, ""), found == journal.replaced.get(name)
        if not (is_done or (is_old and name not in journal.removed)):
            _refuse_entries(root, [name], True, "")
    with undisturbed():
        carry_out(staging, root, journal)
    print(f"finished replacing {', '.join(names[:3])} in {root}, which was interrupted", flush=True)
