"""Work on many slices: in parallel, in order, with a bounded number in memory, with a bar."""

import os
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import cv2
from tqdm import tqdm

from common.errors import InputError


def ordered_map(function, items, workers=0, problems=None):
    """Map a function over items on several cores; results come in the order of the items.

    Threads, because OpenCV lets go of Python's lock; OpenCV's own threads are off, since there is a slice for
    every core. At most four results a worker are held at a time.

    Args:
        function: called with one item.
        items: iterable.
        workers: number of threads; 0 takes one a core.
        problems: list that takes the messages of the InputErrors that `function` raises, so that one bad file
            does not hide the others; None lets the first one through.

    Yields:
        The results; None for an item with a problem.
    """
    cv2.setNumThreads(1)
    workers = workers or os.cpu_count()
    pool = ThreadPoolExecutor(workers)
    pending = deque()

    def result():
        try:
            return pending.popleft().result()
        except InputError as error:
            if problems is None:
                raise
            problems.append(str(error))

    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 4 * workers:
                yield result()
        while pending:
            yield result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def progress(items, total, label):
    """Pass items through and show how far it is: a bar in a terminal, else a line every ten seconds.

    Args:
        items: iterable.
        total: how many there are.
        label: text before the numbers.
    """
    with ProgressBar(total, label, lines=True) as bar:
        for done, item in enumerate(items):
            bar.move_to(done)
            yield item


class ProgressBar:
    """A bar with the time left, in a terminal, for work whose steps are not items of a loop; close it, or use `with`.

    Args:
        total: number of steps.
        label: text before the numbers.
        lines: whether to print a line every ten seconds if there is no terminal.
    """

    def __init__(self, total, label, lines=False):
        self.total, self.label, self.lines = total, label, lines
        self.bar = tqdm(total=total, desc=label, delay=1, leave=False, disable=None)
        self.last_line = time.monotonic()

    def move_to(self, done, note=""):
        """Show that `done` steps are done, and a note behind the numbers."""
        self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(done - self.bar.n)
        if self.lines and self.bar.disable and time.monotonic() - self.last_line > 10:
            self.last_line = time.monotonic()
            print(f"{self.label}: {done} of {self.total}", flush=True)

    def close(self):
        self.bar.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
