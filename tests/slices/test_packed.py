"""Packed sets: what is read back, in memory and from the file."""

import h5py
import numpy as np
import pytest

from common.errors import InputError
from common.slices.hdf5 import open_hdf5
from common.slices.packed import read_packed
from common.slices.rows import FileRows, LazyRows


@pytest.fixture
def ais_file(tmp_path):
    """A file as AIS makes them: <name>_X and <name>_Y, and nothing else."""
    path, rng = tmp_path / "heart.h5", np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["heart_X"] = rng.integers(0, 256, (5, 8, 8, 1), np.uint8)
        file["heart_Y"] = np.where(rng.random((5, 8, 8, 1)) > 0.5, 255, 0).astype(np.uint8)
    return path


@pytest.mark.parametrize("memory_gb", [1, 0])
def test_a_file_of_ais(ais_file, memory_gb):
    with open_hdf5(ais_file) as file:
        packed = read_packed(ais_file, file, memory_gb)
        assert packed.in_memory == bool(memory_gb)
        assert isinstance(packed.x, np.ndarray if memory_gb else FileRows)
        assert packed.classes == 1 and packed.case == packed.source == [""] * 5
        assert packed.preparation["fit"] == "" and np.isnan(packed.preparation["spacing"]).all()
        for index in (3, np.array([4, 0, 0])):
            assert np.array_equal(packed.x[index], file["heart_X"][:][index])
            assert np.array_equal(packed.y[index], file["heart_Y"][:][index])


def test_compressed_rows_are_read_by_hdf5(tmp_path):
    path = tmp_path / "train.h5"
    x = np.arange(4 * 64, dtype=np.uint16).reshape(4, 8, 8, 1)
    with h5py.File(path, "w") as file:
        for name, values in (("x", x), ("y", np.zeros(x.shape, np.uint8))):
            file.create_dataset(name, data=values, chunks=(1, 8, 8, 1), compression="gzip")
        file["case"], file["source"] = [b"a"] * 4, [b"a/x/1.png"] * 4
        file.attrs["classes"] = 3
    with open_hdf5(path) as file:
        packed = read_packed(path, file, memory_gb=0)
        assert isinstance(packed.x, LazyRows) and packed.classes == 3 and packed.case == ["a"] * 4
        assert np.array_equal(packed.x[np.array([2, 1])], x[[2, 1]])


def test_what_is_no_packed_set(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"no HDF5")
    with pytest.raises(InputError, match="not an HDF5 file"):
        open_hdf5(path)
    for datasets, message in (
        ({}, r"expected datasets x and y, or .* \(found nothing\)"),
        ({"x": np.zeros((2, 8, 8), np.uint8), "y": np.zeros((2, 8, 8), np.uint8)}, "expected unsigned integers"),
        ({"x": np.zeros((0, 8, 8, 1), np.uint8), "y": np.zeros((0, 8, 8, 1), np.uint8)}, "contains no slices"),
    ):
        with h5py.File(path, "w") as file:
            file.update(datasets)
        with h5py.File(path) as file, pytest.raises(InputError, match=message):
            read_packed(path, file, memory_gb=1)


@pytest.mark.parametrize("name", ["case", "source"])
def test_a_zero_byte_in_a_name_is_damage(tmp_path, name):
    """No file has such a name, and the system refuses to look for it."""
    path = tmp_path / "train.h5"
    with h5py.File(path, "w") as file:
        file["x"], file["y"] = np.zeros((2, 8, 8, 1), np.uint8), np.zeros((2, 8, 8, 1), np.uint8)
        file["case"], file["source"] = [b"a"] * 2, [b"a/x/1.png"] * 2
        del file[name]
        file[name] = np.array([b"a", b"a\0b"])
    with h5py.File(path) as file, pytest.raises(InputError, match=f"damaged .a text of {name} contains a zero byte"):
        read_packed(path, file, memory_gb=1)
