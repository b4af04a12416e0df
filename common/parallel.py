"""Process many slices in parallel and in order, with bounded memory and a progress bar."""

import os
import queue
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import cv2
from tqdm import tqdm

from common.errors import InputError, SettingError
from common.streams import cursor_stream, printable

own_threads = 0  # of this process, for `ordered_map`; 0: one per core
shows_progress = True  # whether this process does; workers do not


def ordered_map(function, items, workers=0, problems=None):
    """Map a function over items on several cores; results keep the order of the items.

    Uses threads, because OpenCV releases Python's lock. OpenCV's own threads are off, because each core has its own
    slice. Keeps up to four results per worker in memory.

    Args:
        function: function of one item.
        items: iterable.
        workers: number of threads; 0: `own_threads`.
        problems: list that collects messages of the InputErrors from `function`, so that one bad file does not hide
            the others; None: raise the first one. A SettingError, which holds for all items, is always raised.

    Yields:
        The results; None for an item with a problem.
    """
    cv2.setNumThreads(1)
    workers = workers or own_threads or os.cpu_count()
    pool = ThreadPoolExecutor(workers)
    pending = deque()

    def result():
        try:
            return pending.popleft().result()
        except InputError as error:
            if problems is None or isinstance(error, SettingError):
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


def one_by_one(function, items, problems=None):
    """Like `ordered_map`, but in this thread and without loading ahead."""
    for item in items:
        try:
            result = function(item)
        except InputError as error:
            if problems is None or isinstance(error, SettingError):
                raise
            problems.append(str(error))
            result = None
        yield result
        del result  # before the next is loaded


def ahead(items, count=2):
    """Pass items through from a thread that continues while they are used, up to `count` items ahead.

    The thread ends with the iteration, also if that is left early. Its exceptions are raised here.
    """
    waiting, stopped, end = queue.Queue(count), threading.Event(), object()

    def put(item):
        while not stopped.is_set():
            with suppress(queue.Full):
                return waiting.put(item, timeout=0.1)

    def run():
        try:
            for item in items:
                put((item, None))
                if stopped.is_set():
                    return
            put((end, None))
        except BaseException as error:  # to the thread that uses the items
            put((end, error))
        finally:
            if hasattr(items, "close"):
                items.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while (item := waiting.get())[0] is not end:
            yield item[0]
        if item[1]:
            raise item[1]
    finally:
        stopped.set()
        thread.join()


def progress(items, total, label):
    """Pass items through and show progress: a bar in a terminal, otherwise a line every ten seconds.

    Args:
        items: iterable.
        total: number of items.
        label: text before the numbers.
    """
    with ProgressBar(total, label, lines=True) as bar:
        for done, item in enumerate(items):
            bar.move_to(done)
            yield item


def print_above(text):
    """Print a line; a progress bar in the terminal moves below it."""
    with tqdm.external_write_mode(file=cursor_stream()):
        print(text, flush=True)


class ProgressBar:
    """A progress bar with the time left, for work that is not a simple loop; close it, or use `with`.

    Args:
        total: number of steps.
        label: text before the numbers.
        lines: whether to print a line every ten seconds outside a terminal.
        form: text of the bar, as tqdm's `bar_format`; None: with the time left and steps a second.
    """

    def __init__(self, total, label, lines=False, form=None):
        self.total, self.label, self.lines = total, label, lines and shows_progress
        options = {
            "delay": 1,
            "leave": False,
            "disable": None if shows_progress else True,
            "dynamic_ncols": True,
            "bar_format": form,
        }
        self.bar = tqdm(total=total, desc=printable(label), file=cursor_stream(), **options)
        self.last_line, self.note = time.monotonic(), ""

    def move_to(self, done, note=""):
        """Show that `done` steps are done, with a note after the numbers."""
        self.note = note
        self.bar.set_postfix_str(printable(note), refresh=False)
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
