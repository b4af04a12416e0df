"""Finding image files: everything else is counted and reported, and nothing is waited for."""

import os
import socket

import numpy as np
import pytest
from drawings import write_image

from common.errors import InputError
from common.slices import finding
from common.slices.finding import all_below, read_regular, report_skipped, walk
from common.slices.images import images_in


def strange_files(folder):
    """A good image, and one of everything that is none."""
    write_image(folder / "good.png", np.zeros((8, 8), np.uint8))
    for name in ("notes.txt", "third.webp", ".DS_Store", "Thumbs.db", "._good.png", "..x.png"):
        (folder / name).write_bytes(b"x")
    (folder / "gone.png").symlink_to(folder / "nothing.png")
    (folder / "circle.png").symlink_to(folder / "back.png")
    (folder / "back.png").symlink_to(folder / "circle.png")
    (folder / "folder.png").mkdir()
    (folder / "linked").symlink_to(folder)
    os.mkfifo(folder / "fifo.png")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder)  # the path of a socket is short
        server.bind("socket.png")
        os.chdir(here)


def test_everything_that_is_no_image_is_counted(tmp_path, capsys):
    strange_files(tmp_path)
    images, skipped = walk(tmp_path)
    assert [path.name for path in images] == ["good.png"]
    report_skipped([*skipped, *skipped])
    assert capsys.readouterr().out.splitlines() == [
        "skipped 4 files (hidden or system): ..x.png, .DS_Store, ._good.png, Thumbs.db",
        "skipped 2 files (links in a circle): back.png, circle.png",
        "skipped 2 files (FIFO, device or socket): fifo.png, socket.png",
        "skipped 1 file (folder with an image ending): folder.png",
        "skipped 1 file (dangling link): gone.png",
        "skipped 1 file (linked folder): linked",
        "skipped 2 files (of another type): notes.txt, third.webp",
    ]
    others = []
    assert list(images_in(tmp_path, others)) == ["good"] and len(others) == 13


def test_all_below_a_folder_is_what_rglob_finds(tmp_path, monkeypatch):
    strange_files(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.nii").touch()
    assert sorted(all_below(tmp_path)) == sorted(tmp_path.rglob("*"))
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match=r"Permission denied: .*b'"):
        list(all_below(tmp_path))


def test_what_is_no_regular_file_is_refused_and_not_opened(tmp_path):
    strange_files(tmp_path)
    (tmp_path / "empty.png").touch()
    for name, words in {
        "fifo.png": "not a regular file .found a FIFO.",
        "socket.png": "found a socket",
        "folder.png": "found a folder",
        "gone.png": "link to a missing file",
        "empty.png": "file is empty",
        "a\0b.png": "file does not exist",
        "notes.txt/a.png": "cannot be read .Not a directory.",
        "x" * 300: "cannot be read .File name too long.",
    }.items():
        with pytest.raises(InputError, match=words):
            read_regular(tmp_path / name)
    with pytest.raises(InputError, match="found a device"):
        read_regular("/dev/zero")


@pytest.mark.parametrize("search", [walk, lambda folder: list(all_below(folder))])
def test_a_search_that_takes_long_prints_what_it_looks_through(tmp_path, capsys, monkeypatch, search):
    write_image(tmp_path / "a" / "1.png", np.zeros((8, 8), np.uint8))
    search(tmp_path)
    assert not capsys.readouterr().out
    monkeypatch.setattr(finding, "QUIET_SECONDS", 0)
    search(tmp_path)
    assert f"looking through {tmp_path}: " in capsys.readouterr().out
