"""Slices that stay in their files while a network is trained on them: rows that are read when they are asked for."""

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from common.errors import InputError


class Rows:
    """Rows of (N, H, W, 1) that are read one by one; indexed by a number or by an array of numbers.

    Args:
        read: function of a number to a row, (H, W, 1).
        shape: of all, (N, H, W, 1).
        dtype: of the rows.
    """

    def __init__(self, read, shape, dtype):
        self.read, self.shape, self.dtype = read, tuple(shape), dtype

    def __getitem__(self, index):
        return self.read(index) if np.ndim(index) == 0 else np.stack([self.read(i) for i in index])


class RawRows:
    """Rows of HDF5 datasets that lie in their files as one piece each, read from there without HDF5.

    HDF5 lets one thread in at a time, and reading a slice through it takes three times as long. The files are opened
    for every batch: no limit on open files is met, and threads do not share a place in one. The process keeps nothing
    of what was read, as it would of a memory map; the operating system's cache serves the next epoch.

    Args:
        pieces: list of Piece, in order.
        shape, dtype: as `Rows`.
    """

    def __init__(self, pieces, shape, dtype):
        self.pieces, self.shape, self.dtype = pieces, tuple(shape), dtype
        self.starts = np.array([piece.first for piece in pieces])

    def __getitem__(self, index):
        indices = np.atleast_1d(index)
        rows = np.empty((len(indices), *self.shape[1:]), self.dtype)
        there = np.searchsorted(self.starts, indices, "right") - 1
        for number in np.unique(there):
            piece = self.pieces[number]
            wanted = np.flatnonzero(there == number)
            with open(piece.file, "rb", buffering=0) as file:
                for place in wanted[np.argsort(indices[wanted])]:  # in the order in which they lie on the disk
                    file.seek(piece.offset + int(indices[place] - piece.first) * rows[place].nbytes)
                    if file.readinto(rows[place]) < rows[place].nbytes:
                        raise InputError(f"{piece.file} is cut short; pack it again with 3_pack_hdf5.py")
        return rows[0] if np.ndim(index) == 0 else rows


class Piece(NamedTuple):
    """Rows that follow each other in a file: the number of the first, the file, and the byte where they begin."""

    first: int
    file: Path
    offset: int


def open_rows(path, dataset):
    """Rows of a dataset of a packed set, or of the shards that it joins.

    Args:
        path: Path of the HDF5 file.
        dataset: h5py.Dataset of it, (N, H, W, 1), which stays open where its rows are compressed.

    Returns:
        RawRows, or Rows for a dataset in chunks.
    """
    pieces = []
    for first, file, name in sources_of(path, dataset):
        with h5py.File(file, "r") as source:
            offset = source[name].id.get_offset() if source[name].dtype == dataset.dtype else None
        if offset is None:
            return Rows(dataset.__getitem__, dataset.shape, dataset.dtype)
        pieces.append(Piece(first, file, offset))
    return RawRows(pieces, dataset.shape, dataset.dtype)


def sources_of(path, dataset):
    """Where the rows of a dataset are.

    Returns:
        list of (number of the first row, Path of the file, name of the dataset in it), in order.
    """
    if not dataset.is_virtual:
        return [(0, path, dataset.name)]
    sources = [
        (s.vspace.get_select_bounds()[0][0], path.parent / s.file_name, s.dset_name) for s in dataset.virtual_sources()
    ]
    return sorted(sources)


def refuse_broken_shards(path, dataset):
    """Raise InputError where a shard of a set is gone or cut short: HDF5 would give black slices instead."""
    for _, file, _ in sources_of(path, dataset):
        if file == path:
            continue
        try:
            h5py.File(file, "r").close()
        except OSError:
            wrong = "is damaged or cut short" if file.is_file() else "is gone"
            raise InputError(f"{file}, a shard of {path}, {wrong}; pack it again with 3_pack_hdf5.py") from None
