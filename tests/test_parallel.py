"""Work on several cores: the order of results, problems, and how far it is."""

import io
import sys
import time

import pytest

from common import parallel
from common.errors import InputError
from common.parallel import ProgressBar, ahead, ordered_map, progress


@pytest.mark.parametrize("workers", [1, 3])
def test_ordered_map_keeps_order_and_collects_problems(workers):
    def half(n):
        if n % 5 == 4:
            raise InputError(f"{n}")
        time.sleep(0.001 * (n % 3))
        return n / 2

    problems = []
    assert list(ordered_map(half, range(20), workers, problems)) == [None if n % 5 == 4 else n / 2 for n in range(20)]
    assert problems == ["4", "9", "14", "19"]
    with pytest.raises(InputError, match="4"):
        list(ordered_map(half, range(20), workers))


def test_ordered_map_takes_only_a_few_items_ahead():
    taken = []
    mapped = ordered_map(lambda n: n, (taken.append(i) or i for i in range(1000)), workers=2)
    next(mapped)
    assert len(taken) <= 8


def test_items_are_made_while_earlier_ones_are_used():
    made, closed = [], []

    def items():
        try:
            for number in range(100):
                made.append(number)
                yield number
        finally:
            closed.append(True)

    used = ahead(items(), 2)
    for expected in range(3):
        assert next(used) == expected
        deadline = time.monotonic() + 10
        while len(made) < expected + 4 and time.monotonic() < deadline:  # one used, two waiting, one in hand
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(made) == expected + 4
    used.close()  # left early
    assert closed and len(made) < 10
    assert list(ahead(iter(range(50)))) == list(range(50))


def test_an_error_of_items_made_ahead_is_raised_after_those_before():
    def items():
        yield 1
        raise InputError("broken")

    used = ahead(items())
    assert next(used) == 1
    with pytest.raises(InputError, match="broken"):
        next(used)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_a_bar_in_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with ProgressBar(3, "epoch 1", lines=True) as bar:
        bar.bar.delay = 0
        time.sleep(0.15)
        bar.move_to(2, "validation Dice 0.900")
    shown = sys.stderr.getvalue()
    assert "epoch 1" in shown and "2/3" in shown and "validation Dice 0.900" in shown
    assert not capsys.readouterr().out


@pytest.mark.parametrize("lines", [True, False])
def test_progress_is_a_line_every_ten_seconds_elsewhere(monkeypatch, capsys, lines):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(parallel.time, "monotonic", lambda: next(clock))
    with ProgressBar(9, "scoring", lines) as bar:
        for done in range(9):
            bar.move_to(done)
    printed = capsys.readouterr().out.splitlines()
    assert printed == (["scoring: 2 of 9", "scoring: 5 of 9", "scoring: 8 of 9"] if lines else [])


def test_progress_passes_the_items_through():
    assert list(progress(iter("abc"), 3, "reading")) == ["a", "b", "c"]
