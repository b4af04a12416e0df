"""Faster loading of large libraries, and a faster end of the process."""

import gc
import sys
from contextlib import contextmanager


@contextmanager
def without_collecting():
    """Collect no cyclic garbage while large libraries load, nor ever look at what they have loaded.

    There is almost none, and looking for it in the million objects of TensorFlow took a fifth of the loading. If all
    was loaded before, nothing changes.
    """
    was_on, loaded = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > loaded:
            gc.freeze()
        if was_on:
            gc.enable()


@contextmanager
def hidden(*names):
    """Let imports of packages fail as if they were not installed; those that are loaded stay.

    Args:
        names: packages that a library would load if they are installed, and that we do not use through it.
    """
    hides = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hides))
    try:
        yield
    finally:
        for name in hides:
            del sys.modules[name]
