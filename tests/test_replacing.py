"""Results are replaced in one step, only if a script made them, and by one process at a time."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from drawings import disc_slice, make_cases, write_image
from hypothesis import given, settings
from hypothesis import strategies as st
from running import ROOT, assert_refused, bytes_of, leftovers, run_here, run_script

from common import journals
from common.claims import claimed
from common.errors import InputError
from common.files import one_name
from common.manifest import MANIFEST, Manifest, foreign_files
from common.replacing import (
    finish_interrupted,
    new_file,
    publish,
    refuse_existing,
    refuse_input_inside,
    staged,
    whole_entries,
    whole_folders,
)
from common.replacing import whole_folder as whole

LISTS = "preprocess/2_write_lists.py"


def fill(path, text, replace=False, **options):
    with whole(path, replace, **options) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "a.txt").write_text(text)


def read(path):
    return (path / "deep" / "a.txt").read_text()


@pytest.fixture(params=["exchange", "journal"])
def way(request):
    """Both ways to replace: exchanging two names, and renaming under a journal."""
    if request.param == "exchange":
        yield
    else:
        with mock.patch.object(journals, "exchange", lambda first, second: False):
            yield


@pytest.mark.usefixtures("way")
def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a"
    fill(path, "1")
    with pytest.raises(InputError, match=r"already exists.*--replace"):
        fill(path, "2")
    with pytest.raises(RuntimeError), whole(path, replace=True) as folder:
        (folder / "half").write_text("half")
        raise RuntimeError
    assert read(path) == "1" and not leftovers(tmp_path)
    fill(path, "2", replace=True)
    assert read(path) == "2" and not leftovers(tmp_path)
    with whole(tmp_path / "none") as folder:
        folder.rmdir()
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "empty", "3")
    assert read(tmp_path / "empty") == "3" and not leftovers(tmp_path)


@pytest.mark.parametrize("spoil", ["added", "changed", "link", "folder", "hidden", "no manifest"])
def test_what_no_script_made_is_never_replaced(tmp_path, spoil):
    path = tmp_path / "a"
    fill(path, "1")
    if spoil == "added":
        (path / "deep" / "thesis.txt").write_text("mine")
    elif spoil == "changed":
        (path / "deep" / "a.txt").write_text("my changes")
    elif spoil == "link":
        (path / "link").symlink_to(tmp_path)
    elif spoil == "folder":
        (path / "mine").mkdir()
    elif spoil == "hidden":
        (path / ".mine").write_text("")
    else:
        (path / MANIFEST).unlink()
    before = sorted(path.rglob("*"))
    with pytest.raises(InputError, match=r"no script made|not made by this toolkit"):
        fill(path, "2", replace=True)
    assert sorted(path.rglob("*")) == before and not leftovers(tmp_path)


def test_a_lock_without_permission_is_about_the_output(tmp_path, monkeypatch):
    def refused(lock, **options):
        raise PermissionError(13, "Permission denied", lock.lock_file)

    monkeypatch.setattr("filelock.FileLock.acquire", refused)
    with pytest.raises(PermissionError) as caught:
        fill(tmp_path / "a", "1")
    assert Path(caught.value.filename) == tmp_path / "a"


def test_a_claim_leaves_no_folder_that_it_made_also_after_an_error(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError), claimed(tmp_path / "mine" / "new" / "deep" / "runs"):
        raise InputError("no images")
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]


def test_a_folder_without_a_manifest_is_named_by_a_relative_path_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    Path("a", "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"^a: not made by this toolkit \(no \.made_files\.json in it\)"):
        fill(Path("a"), "2", replace=True)


def test_what_a_user_adds_during_the_work_is_kept(tmp_path):
    path = tmp_path / "a"
    fill(path, "1")
    with pytest.raises(InputError, match=r"no script made.*mine\.txt"), whole(path, replace=True):
        (path / "mine.txt").write_text("")
    assert (path / "mine.txt").exists() and read(path) == "1"


def test_equal_content_with_another_time_and_files_of_the_system_are_known(tmp_path):
    path = tmp_path / "a"
    fill(path, "1")
    os.utime(path / "deep" / "a.txt", (1, 1))
    (path / ".DS_Store").write_text("")
    fill(path, "2", replace=True)
    assert read(path) == "2"


@pytest.mark.usefixtures("way")
def test_a_link_to_a_folder_stays_a_link(tmp_path):
    fill(tmp_path / "real", "1")
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link"
    link.symlink_to(tmp_path / "real")
    fill(link, "2", replace=True)
    assert link.is_symlink() and read(tmp_path / "real") == "2" and not leftovers(tmp_path)


@pytest.mark.usefixtures("way")
def test_several_entries_appear_in_one_step(tmp_path):
    def write(text, replace, names=("a.txt", "b", "c/d")):
        with whole_entries(tmp_path, ["a.txt", "b", "c/d", "never"], replace) as new:
            if "a.txt" in names:
                (new / "a.txt").write_text(text)
            for name in {"b", "c/d"} & set(names):
                (new / name).mkdir()
                (new / name / "inside.txt").write_text(text)

    write("1", False)
    assert (tmp_path / "c" / "d" / "inside.txt").read_text() == "1" and not (tmp_path / "never").exists()
    with pytest.raises(InputError, match="already exists"):
        write("2", False)
    write("2", True, names=("b",))
    assert (tmp_path / "a.txt").read_text() == "1" and (tmp_path / "b" / "inside.txt").read_text() == "2"
    (tmp_path / "a.txt").write_text("edited")
    with pytest.raises(InputError, match=r"a\.txt: not made by this toolkit"):
        write("3", True)
    assert (tmp_path / "b" / "inside.txt").read_text() == "2" and not leftovers(tmp_path)
    with whole_entries(tmp_path, ["e"], removed=["b"]) as new:
        (new / "e").mkdir()
    assert not (tmp_path / "b").exists() and (tmp_path / "e" / MANIFEST).exists() and not leftovers(tmp_path)


def test_a_file_and_a_staged_file(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with new_file(path) as unfinished:
        unfinished.write_text("1")
    with pytest.raises(InputError, match="already exists"), new_file(path):
        pass
    with pytest.raises(InputError, match="is a folder"), new_file(tmp_path, True):
        pass
    with staged(path) as made:
        made.write_text("2")
    assert path.read_text() == "1"
    with staged(path) as made:
        made.write_text("2")
        publish(made, path)
    with staged(path) as made:
        made.write_text("3")
        publish(made, path.with_name("b.txt"))
    assert path.read_text() == "2" and path.with_name("b.txt").read_text() == "3" and not leftovers(tmp_path)


def replace_three(folder):
    with whole_entries(folder, ["a", "b", "c"], True, removed=["d"]) as new:
        for name in "abc":
            (new / name).mkdir()
            (new / name / "x").write_text("new")


def replace_files_of_no_manifest(folder):
    with staged(folder / "model") as made:
        made.write_text("new")
        made.with_name("card").write_text("new")
        publish(made, folder / "model")


def replace_two_folders(folder, text="new", replace=True):
    with whole_folders([folder / "lists", folder / "elsewhere" / "copies"], replace) as made:
        for new in made:
            (new / "x").write_text(text)


def replace_until(folder, when, sign, journal, replace=replace_three):
    """Replace entries in a process of its own that gets a signal before a rename.

    Returns:
        whether the process ended by itself.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    count = itertools.count(1)

    def counted(function):
        def call(*arguments):
            if next(count) == when:
                os.kill(os.getpid(), sign)
            return function(*arguments)

        return call

    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        exchange = (lambda *_: False) if journal else journals.exchange
        os.rename, os.replace, journals.exchange = counted(os.rename), counted(os.replace), counted(exchange)
        replace(folder)
    except KeyboardInterrupt:
        os._exit(1)
    os._exit(0)


@pytest.mark.parametrize("journal", [False, True])
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_killed_at_every_rename(tmp_path, journal, sign):
    """Old or new, complete, after the next start of a script; at Ctrl-C at once."""
    seen = set()
    for when in range(1, 40):
        folder = tmp_path / f"{when}"
        with whole_entries(folder, ["a", "b", "d"]) as new:
            for name in "abd":
                (new / name).mkdir()
                (new / name / "x").write_text("old")
        ended = replace_until(folder, when, sign, journal)
        if sign == signal.SIGKILL:
            finish_interrupted(folder)
        found = {path.name: (path / "x").read_text() for path in folder.iterdir() if path.is_dir()}
        assert found in ({"a": "old", "b": "old", "d": "old"}, {"a": "new", "b": "new", "c": "new"}), when
        assert not leftovers(folder), when
        seen.add(found["a"])
        if ended:
            break
    assert when > 5 and seen == {"old", "new"}


@pytest.mark.parametrize("journal", [False, True])
def test_files_of_no_manifest_are_replaced_together(tmp_path, journal):
    """The journal knows them by inode number and time of change."""
    for when in range(1, 20):
        folder = tmp_path / f"{when}"
        folder.mkdir()
        for name in ("model", "card"):
            (folder / name).write_text("old")
        ended = replace_until(folder, when, signal.SIGKILL, journal, replace_files_of_no_manifest)
        finish_interrupted(folder)
        found = [path.read_text() for path in sorted(folder.iterdir())]
        assert found in (["old"] * 2, ["new"] * 2) and not leftovers(folder), when
        if ended:
            break
    assert when > 3


@pytest.mark.parametrize("started_with", ["lists", "elsewhere/copies"])
@pytest.mark.parametrize("journal", [False, True])
def test_folders_in_several_places_are_replaced_in_one_step(tmp_path, journal, started_with):
    """The next script may know only one of them."""
    seen = set()
    for when in range(1, 40):
        folder = tmp_path / f"{when}"
        replace_two_folders(folder, "old", False)
        ended = replace_until(folder, when, signal.SIGKILL, journal, replace_two_folders)
        finish_interrupted(folder / started_with)
        if started_with == "lists":
            assert (folder / "lists" / "x").read_text() == (folder / "elsewhere" / "copies" / "x").read_text(), when
        finish_interrupted(folder / "lists", folder / "elsewhere" / "copies")
        found = [(folder / name / "x").read_text() for name in ("lists", "elsewhere/copies")]
        assert found[0] == found[1], when
        seen.add(found[0])
        assert not leftovers(folder) and not leftovers(folder / "elsewhere"), when
        if ended:
            break
    assert when > 5 and seen == {"old", "new"}


def test_a_folder_that_must_stay_keeps_the_other_too(tmp_path):
    replace_two_folders(tmp_path, "old", False)
    (tmp_path / "elsewhere" / "copies" / "mine.txt").write_text("")
    with pytest.raises(InputError, match=r"^.*elsewhere/copies: contains files that no script made"):
        replace_two_folders(tmp_path)
    assert (tmp_path / "lists" / "x").read_text() == "old"


@pytest.mark.parametrize("kind", ["file", "pipe", "device", "link to a file"])
def test_what_is_no_folder_is_not_replaced_by_one(tmp_path, kind):
    path = tmp_path / "lists"
    if kind == "file":
        path.write_text("mine")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        (tmp_path / "thesis.txt").write_text("mine")
        path.symlink_to("/dev/null" if kind == "device" else tmp_path / "thesis.txt")
    before = os.lstat(path)
    with pytest.raises(InputError, match=r"lists: is not a folder; use another path$"):
        replace_two_folders(tmp_path)
    with pytest.raises(InputError, match=r"lists: is not a folder; use another path$"), whole(path, replace=True):
        pass
    if kind in ("pipe", "device"):
        with pytest.raises(InputError, match=r"is a device or pipe \(expected a file\)"), new_file(path, replace=True):
            pass
    assert os.lstat(path) == before and not leftovers(tmp_path)


def test_a_strangers_journal_removes_nothing_else(tmp_path, capsys):
    folder, mine = tmp_path / "data", tmp_path / "mine"
    (folder / "mine").mkdir(parents=True)
    (folder / "mine" / "thesis").write_text("")
    mine.mkdir()
    for number, name in enumerate(["../mine", str(mine), "mine", "..", ".", "link/mine"]):
        staging = folder / f".part-{number:012x}-x"
        (staging / "new").mkdir(parents=True)
        (staging / "lock").write_text("")
        (folder / "link").symlink_to(tmp_path) if number == 0 else None
        found = os.stat(folder / name)  # even if a stranger guessed the numbers
        known = {"replaced": {name: [found.st_ino, found.st_mtime_ns]}}
        (staging / "journal.json").write_text(json.dumps({"entries": {}, "removed": [name], **known}))
    finish_interrupted(folder)
    assert mine.is_dir() and (folder / "mine" / "thesis").exists()
    assert capsys.readouterr().err.count("note: left ") == 6


def test_two_processes_at_one_output(tmp_path):
    path = tmp_path / "a"
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from common.replacing import claimed
with claimed({str(path)!r}):
    print("ready", flush=True)
    input()
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "ready\n"
    with pytest.raises(InputError, match=rf"a: another process is writing it .*process {other.pid} on"):
        fill(path, "1")
    (tmp_path / ".part-owner-a").unlink()  # as before it is written
    if sys.platform == "linux":
        with pytest.raises(InputError, match=rf"a: another process is writing it \(process {other.pid} on"):
            fill(path, "1")
    other.send_signal(signal.SIGKILL)
    other.communicate()
    fill(path, "1")
    with claimed(path), claimed(path):
        fill(path, "2", replace=True)
    assert read(path) == "2" and not leftovers(tmp_path)


@settings(max_examples=200)
@given(
    st.text(max_size=8) | st.sampled_from(["..", ".", "", "a/b", "a\\b", "/a", "C:a", ".part-x", "a" * 300, None, 3])
)
def test_a_name_from_a_file_is_one_component(name):
    try:
        checked = one_name(name, "list.csv, line 2")
    except InputError as error:
        assert "list.csv, line 2: expected the name" in str(error)
    else:
        assert checked == name and os.path.basename(name) == name and name not in ("", ".", "..") and "\0" not in name


def test_a_damaged_manifest_is_one_line(tmp_path):
    fill(tmp_path / "a", "1")
    assert not foreign_files(tmp_path / "a")
    for content in ("{", "[]", '{"files": 3}', '{"format": 2}', '{"files": {"a": {"size": -1}}}', "[" * 100_000):
        (tmp_path / "a" / MANIFEST).write_text(content)
        with pytest.raises(InputError, match=r"\.made_files\.json: ") as caught:
            refuse_existing(tmp_path / "a", True)
        assert "\n" not in str(caught.value)
    assert Manifest.read(tmp_path / "missing.json") == Manifest()


def test_a_folder_is_replaced_only_by_the_script_that_made_it(tmp_path):
    volumes = {"DATA": tmp_path / "data", "TRAIN": 1, "TEST": 0, "CONTRASTS": 1}
    run_script("data/make_volumes.py", **volumes)
    before = bytes_of(tmp_path)
    words = "data: was made by make_volumes.py, which make_sample.py does not replace; use another path"
    assert_refused("data/make_sample.py", words, REPLACE=True, CASES=tmp_path / "data")
    words = words.replace("make_sample", "2_write_lists")
    cases = make_cases(tmp_path / "cases", cases=2, slices=2)
    assert_refused(LISTS, words, REPLACE=True, CASES=cases, LISTS=tmp_path / "data")
    run_script("data/make_volumes.py", REPLACE=True, **volumes)
    assert {name: data for name, data in bytes_of(tmp_path).items() if name.startswith("data/")} == before


def test_a_case_folder_is_replaced_only_by_a_script_that_makes_cases(tmp_path):
    """Its manifest names no script, since several make cases."""
    images, cases = tmp_path / "images", tmp_path / "cases"
    for number in (1, 2, 3):
        image, mask = disc_slice(24, number)
        write_image(images / f"case{number}" / "1.png", image)
        write_image(tmp_path / "masks" / f"case{number}" / "1.png", mask)
    importing = {"IMAGES": images, "MASKS": tmp_path / "masks", "CASES": cases, "SIZE": 24}
    run_here("preprocess/0_import_images.py", **importing)
    before = bytes_of(tmp_path)
    splitting = {"CASES": cases, "REPLACE": True, "VALIDATION_SHARE": 0.3, "TEST_SHARE": 0}
    words = f"{cases / 'case1'}: is a case folder, which 2_write_lists.py does not replace; use another path"
    assert_refused(LISTS, words, LISTS=cases / "case1", **splitting)
    assert_refused(LISTS, words, LISTS=tmp_path / "lists", COPY_TO=cases / "case1", **splitting)
    words = "x: not made by this toolkit (no .made_files.json in it); move it away, or use another path"
    assert_refused(LISTS, words, LISTS=tmp_path / "lists", COPY_TO=cases / "case1" / "x", **splitting)
    assert bytes_of(tmp_path) == before
    run_here("preprocess/0_import_images.py", REPLACE=True, **importing)
    assert bytes_of(tmp_path) == before


def test_an_input_is_not_inside_the_folder_that_takes_its_place(tmp_path):
    cases = make_cases(tmp_path / "cases", cases=3, slices=2)
    for source in (cases, cases / "case01", cases / "case01" / "x"):
        with pytest.raises(InputError, match=r"^OUTPUT: .*cases contains INPUT, which it would replace; use another"):
            refuse_input_inside("INPUT", source, cases)
    for output in (cases / "case01" / "predictions", tmp_path / "predictions"):
        refuse_input_inside("INPUT", cases, output)
    refuse_input_inside("INPUT", "", Path.cwd())
    lists, scores = tmp_path / "lists", tmp_path / "scores"
    run_here(LISTS, CASES=cases, LISTS=lists, VALIDATION_SHARE=0.3, TEST_SHARE=0)
    run_here("evaluate.py", PREDICTED=cases, TRUTH=cases, OUTPUT=scores, WORST=0)
    before = bytes_of(tmp_path)
    copying = {"COPY_LIST": lists / "train.csv", "COPY_TO": lists, "REPLACE": True}
    assert_refused(LISTS, "COPY_TO: ", "contains COPY_LIST, which it would replace", **copying)
    comparing = {"OUTPUT": scores, "AGAINST": scores, "REPLACE": True}
    assert_refused("evaluate.py", "OUTPUT: ", "contains AGAINST", PREDICTED=cases, TRUTH=cases, **comparing)
    assert bytes_of(tmp_path) == before
