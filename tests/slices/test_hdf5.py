"""HDF5 files of strangers: what leads to another file, or claims more than it stores, is refused in one line."""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from running import ROOT

from common.errors import InputError
from common.slices.hdf5 import open_hdf5
from common.slices.hdf5_text import text_of, write_attributes, write_texts
from common.slices.packed import read_packed
from common.slices.rows import FileRows, LazyRows

ROWS = np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8, 1)
OUTSIDE = "leads to a file outside its folder"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Folder of sets next to a file that they must not read, which is the working folder too."""
    folder = tmp_path / "packed"
    (folder / "shards").mkdir(parents=True)
    for path in (tmp_path / "other.h5", folder / "neighbor.h5", folder / "shards" / "a.h5"):
        with h5py.File(path, "w") as file:
            file["x"] = ROWS
    monkeypatch.chdir(tmp_path)
    return folder


def write(path, fill, names=("x", "y")):
    with h5py.File(path, "w") as file:
        for name in names:
            fill(file, name)
    return path


def link(name, kind=h5py.ExternalLink):
    return lambda file, dataset: file.__setitem__(dataset, kind(name, "x") if kind is h5py.ExternalLink else kind(name))


def virtual(*names, shape=ROWS.shape):
    def fill(file, dataset):
        layout = h5py.VirtualLayout((shape[0] * len(names), *ROWS.shape[1:]), np.uint8)
        for i, name in enumerate(names):
            layout[shape[0] * i : shape[0] * (i + 1)] = h5py.VirtualSource(name, "x", shape, np.uint8)
        file.create_virtual_dataset(dataset, layout)

    return fill


def external(file, dataset):
    file.create_dataset(dataset, ROWS.shape, np.uint8, external=[("/etc/hostname", 0, ROWS.nbytes)])


def claim(count, **options):
    return lambda file, dataset: file.create_dataset(dataset, (count, 64, 64, 1), np.uint8, **options)


@pytest.mark.parametrize(
    ("fill", "words"),
    [
        (link("../other.h5"), OUTSIDE),
        (link("../../packed/neighbor.h5"), OUTSIDE),
        (link("shards/../../other.h5"), OUTSIDE),
        (link("../cases.h5"), OUTSIDE),  # allowed in a folder of a fold
        (link("C:\\other.h5"), OUTSIDE),
        (link("other.h5"), "links to a missing other.h5"),  # HDF5 would find it in the working folder
        (virtual("other.h5"), "links to a missing other.h5"),
        (virtual("../other.h5"), OUTSIDE),
        (virtual("shards/a.h5", "../other.h5"), OUTSIDE),
        (virtual("."), OUTSIDE),
        (virtual("shards/a.h5", shape=(5, 8, 8, 1)), "shards/a.h5, which is damaged or cut short"),
        (external, OUTSIDE),
        (claim(10**12, chunks=(1, 64, 64, 1), compression="gzip"), "claims 4,096,000,000,000,000 bytes and stores 0"),
        (claim(10**6), "claims 4,096,000,000 bytes and stores 0"),
        (lambda file, name: file.create_dataset(name, (2,), h5py.vlen_dtype(np.uint8)), "neither numbers nor text"),
        (lambda file, name: file.attrs.create(name, np.zeros(2 * 10**6, np.uint8)), "attribute x has 2000000 values"),
    ],
)
def test_what_leads_elsewhere_or_claims_too_much(folder, fill, words):
    track = {"track_order": True} if "attribute" in words else {}
    with h5py.File(folder / "train.h5", "w", libver="latest", **track) as file:
        fill(file, "x")
    with pytest.raises(InputError, match=words) as error:
        open_hdf5(folder / "train.h5")
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_links_in_groups_and_in_linked_files_are_found(folder):
    write(folder / "deep.h5", lambda file, _: link("../other.h5")(file.create_group("cases/a"), "image"), ["x"])
    with pytest.raises(InputError, match=OUTSIDE):
        open_hdf5(folder / "deep.h5")
    write(folder / "chain.h5", link("neighbor.h5"), ["x"])
    write(folder / "train.h5", link("chain.h5"), ["x"])
    with pytest.raises(InputError, match=f"chain.h5: {OUTSIDE}"):
        open_hdf5(folder / "train.h5")
    (folder / "elsewhere.h5").symlink_to(folder.parent / "other.h5")
    write(folder / "train.h5", link("elsewhere.h5"), ["x"])
    with pytest.raises(InputError, match="is a symbolic link"):
        open_hdf5(folder / "train.h5")


def test_what_stays_in_the_folder_is_read(folder):
    def loop(file, name):
        file[name] = ROWS
        file.require_group("all")[name] = file  # groups that contain each other
        file[f"soft_{name}"] = h5py.SoftLink(f"/{name}")

    for fill in (link("neighbor.h5"), virtual("shards/a.h5"), loop):
        path = write(folder / "train.h5", fill)
        with open_hdf5(path) as file:
            assert np.array_equal(file["x"][:], ROWS)
    black = np.zeros((20, 1024, 1024, 1), np.uint8)  # no real mask packs better

    def compress(file, name):
        file.create_dataset(name, data=black, chunks=(1, 1024, 1024, 1), compression="gzip", compression_opts=9)

    open_hdf5(write(folder / "black.h5", compress, ["x"])).close()
    (folder.parent / "by_link.h5").symlink_to(folder / "train.h5")
    (folder.parent / "fold1").mkdir()
    write(folder.parent / "cases.h5", lambda file, name: file.__setitem__(name, ROWS), ["x"])
    for path in (folder.parent / "by_link.h5", write(folder.parent / "fold1" / "train.h5", link("../cases.h5"), ["x"])):
        with open_hdf5(path) as file:
            assert np.array_equal(file["x"][:], ROWS)


@pytest.mark.parametrize("options", [{}, {"chunks": (1, 8, 8, 1), "compression": "gzip"}])
def test_a_set_that_is_packed_again_while_it_is_read(folder, options):
    def fill(file, name):
        file.create_dataset(name, data=ROWS, **options)

    path = write(folder / "train.h5", fill)
    packed = read_packed(path, open_hdf5(path), memory_gb=0, classes=1)
    assert isinstance(packed.x, LazyRows if options else FileRows)
    assert np.array_equal(packed.x[np.array([2, 0])], ROWS[[2, 0]])
    write(folder / "new.h5", fill).replace(path)
    for index in (1, np.array([1, 2])):
        with pytest.raises(InputError, match=r"train\.h5: was packed again or changed"):
            packed.x[index]
    path.unlink()
    with pytest.raises(InputError, match=r"train\.h5: was packed again or changed"):
        packed.x[1]


def test_damage_anywhere_is_one_line(folder):
    """Each byte of the structure of a small file is changed in turn."""
    path = write(folder / "train.h5", lambda file, name: file.__setitem__(name, ROWS[:1]))
    with h5py.File(path, "a") as file:
        file["case"], file["source"] = np.array([b"a"]), np.array([b"a/x/1.png"])
        file.attrs.update(classes=1, spacing=[1.0, 1.0])
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            with open_hdf5(path) as file:
                read_packed(path, file, memory_gb=1)
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 50


TEXTS = ["", "case_01", "M\udcfcller", "😀/x/0001.png"]  # also a name that is not UTF-8


@pytest.mark.parametrize("varying", [False, True])
def test_text_of_both_kinds(tmp_path, varying):
    path, attributes = tmp_path / "a.h5", {"plane": "", "settings": "ä" * 1000, "long": "é" * 30000, "classes": 2}
    with h5py.File(path, "w") as file:
        if varying:
            file.create_dataset("case", data=[os.fsencode(t) for t in TEXTS], dtype=h5py.string_dtype())
            file.attrs.update(attributes)
        else:
            write_texts(file, "case", TEXTS)
            write_texts(file, "none", [])
            write_attributes(file, attributes)
    with open_hdf5(path) as file:
        assert [os.fsdecode(text) for text in file["case"][:]] == TEXTS
        assert {name: text_of(value) for name, value in file.attrs.items()} == attributes


@pytest.mark.parametrize(
    "fill",
    [
        lambda file: file.create_group("g").attrs.update(name="case"),
        lambda file: file.create_dataset("case", data=["a", "b"], dtype=h5py.string_dtype()),
        lambda file: virtual("neighbor.h5")(file, "x"),
    ],
    ids=["attribute", "dataset", "shards"],
)
def test_a_damaged_heap_is_refused(folder, fill):
    """HDF5 would never end; hence a process of its own."""
    path = folder / "a.h5"
    with h5py.File(path, "w") as file:
        fill(file)
    content = path.read_bytes()
    first = content.index(b"GCOL") + 16
    path.write_bytes(content[:first] + bytes(16) + content[first + 16 :])
    program = "import sys; from common.slices.hdf5 import open_hdf5; open_hdf5(sys.argv[1])"
    command = [sys.executable, "-c", program, path]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert f"{path}: not an HDF5 file, or damaged" in ended.stderr
