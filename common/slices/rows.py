"""Rows of arrays in files, read when they are needed: from packed sets, or from images."""

import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from common.errors import InputError
from common.slices.hdf5 import open_unchanged, sources_of, state_of


class LazyRows:
    """Rows of (N, H, W, C), read one by one by a function; index with a number or an array of numbers.

    Args:
        read: function of a row number to a row, (H, W, C).
        shape: (N, H, W, C).
        dtype: number type of the rows.
    """

    def __init__(self, read, shape, dtype):
        self.read, self.shape, self.dtype = read, tuple(shape), dtype

    def __getitem__(self, index):
        return self.read(index) if np.ndim(index) == 0 else np.stack([self.read(i) for i in index])


class FileRows:
    """Rows of contiguous HDF5 datasets, read directly from the files without HDF5.

    HDF5 admits one thread at a time, and reading a slice through it takes three times as long. Each batch opens
    its files, so open files are few and threads share no file position. Unlike a memory map, the
    process keeps nothing it has read; the operating system's cache serves the next epoch.

    Args:
        spans: list of FileSpan, in order.
        shape, dtype: as in `LazyRows`.
    """

    def __init__(self, spans, shape, dtype):
        self.spans, self.shape, self.dtype = spans, tuple(shape), dtype
        self.starts = np.array([span.first for span in spans])

    def __getitem__(self, index):
        indices = np.atleast_1d(index)
        rows = np.empty((len(indices), *self.shape[1:]), self.dtype)
        span_numbers = np.searchsorted(self.starts, indices, "right") - 1
        for number in np.unique(span_numbers):
            span = self.spans[number]
            wanted = np.flatnonzero(span_numbers == number)
            with open_unchanged(span.file, span.state) as file:
                for i in wanted[np.argsort(indices[wanted])]:  # in disk order
                    file.seek(span.offset + int(indices[i] - span.first) * rows[i].nbytes)
                    if file.readinto(rows[i]) < rows[i].nbytes:
                        raise InputError(f"{span.file}: file is cut short; pack it again with 3_pack_hdf5.py")
        return rows[0] if np.ndim(index) == 0 else rows


class FileSpan(NamedTuple):
    """Consecutive rows in a file: first row number, file, byte offset, and `state_of` the file."""

    first: int
    file: Path
    offset: int
    state: tuple


def open_rows(path, dataset):
    """Open the rows of a dataset in a packed set or in its shards.

    Args:
        path: Path of the HDF5 file.
        dataset: h5py.Dataset in it, (N, H, W, C); keep it open if its rows are compressed.

    Returns:
        FileRows, or LazyRows for a chunked dataset.
    """
    spans = []
    for source in sources_of(dataset):
        state = state_of(os.stat(source.file))
        with h5py.File(source.file, "r") as file:
            rows = file[source.dataset]
            offset = rows.id.get_offset() if rows.dtype == dataset.dtype else None
        if offset is None:
            read = partial(_read_unchanged, dataset, path, state_of(os.stat(path)))
            return LazyRows(read, dataset.shape, dataset.dtype)
        spans.append(FileSpan(source.first, source.file, offset, state))
    return FileRows(spans, dataset.shape, dataset.dtype)


def _read_unchanged(dataset, path, state, index):
    row = dataset[index]  # of the file that was opened; shards are removed only after their set is replaced
    with open_unchanged(path, state):
        return row
