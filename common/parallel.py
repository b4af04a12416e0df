"""Work on many slices: in parallel, in order, with a bounded number in memory, with a bar."""

import os
import sys
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


def progress(items, total, what):
    """Pass items through and show how far it is: a bar in a terminal, else a line every ten seconds.

    Args:
        items: iterable.
        total: how many there are.
        what: text before the numbers.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, desc=what, total=total, delay=1, leave=False)
        return
    said = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - said > 10:
            said = time.monotonic()
            print(f"{what}: {done} of {total}", flush=True)
        yield item
