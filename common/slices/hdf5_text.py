"""Text in HDF5 files: of one length in the files that we write, since damaged text of varying length can hang HDF5.

Files of earlier versions contain text of varying length, which h5py returns in the same way.
"""

import os

import h5py
import numpy as np

LONGEST_TEXT = 2**15  # bytes of an attribute; HDF5 has room for 64 kB
LARGEST_HEAP = 2**30  # bytes

# --- write and read


def write_attributes(item, attributes):
    """Write attributes of a file, group or dataset: text as UTF-8 of one length, all else as it is.

    Args:
        item: h5py.File, h5py.Group or h5py.Dataset.
        attributes: dict.
    """
    for name, value in attributes.items():
        content = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else b""
        if isinstance(value, str) and len(content) <= LONGEST_TEXT:
            value = np.array(content, h5py.string_dtype("utf-8", max(1, len(content))))
        item.attrs[name] = value


def write_texts(group, name, texts):
    """Write a dataset of texts as UTF-8 of one length; file names may contain any bytes.

    Args:
        group: h5py.File or h5py.Group.
        name: name of the dataset.
        texts: list of str.
    """
    encoded = [os.fsencode(text) for text in texts]
    longest = max(map(len, encoded), default=0)
    group.create_dataset(name, data=np.array(encoded, h5py.string_dtype("utf-8", max(1, longest))))


def text_of(value):
    """Value of an attribute as str, if it is text of either kind; any other value unchanged."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def key_of(name):
    """Name of a group or dataset for h5py, from a name that may contain any bytes of a file name."""
    content = os.fsencode(name)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content


def names_in(group):
    """Names of all groups and datasets in an h5py.Group, as names of files on this machine."""
    return [os.fsdecode(name if isinstance(name, bytes) else name.encode("utf-8")) for name in group]


# --- heaps, which contain text of varying length and the shards of a set


class CheckedHeaps:
    """A file object for h5py that checks each global heap before HDF5 reads it.

    HDF5 (2.0 too) walks from object to object of a heap by their sizes, and never ends at an empty one of size 0.

    Args:
        stream: binary file object.
    """

    def __init__(self, stream):
        self.stream = stream
        self.seek, self.tell, self.read = stream.seek, stream.tell, stream.read

    def readinto(self, buffer):
        start = self.stream.tell()
        count = self.stream.readinto(buffer)
        if bytes(buffer[:4]) == b"GCOL":
            self.stream.seek(start + 8)
            size = int.from_bytes(self.stream.read(8), "little")
            self._check(self.stream.read(max(0, min(size, LARGEST_HEAP) - 16)))
        return count

    def _check(self, objects):
        place = 0
        while place + 16 <= len(objects):
            index = int.from_bytes(objects[place : place + 2], "little")
            size = int.from_bytes(objects[place + 8 : place + 16], "little")
            if not index and size < 16:
                raise ValueError("a heap has an empty object")
            place += 16 + -(-size // 8) * 8 if index else size
