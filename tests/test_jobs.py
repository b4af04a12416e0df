"""Parts of the work: who does what, the lock, and folders that are joined whole or not at all."""

import subprocess
import sys
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import ROOT, leftovers

from common.errors import InputError
from common.jobs import Part, do_part, locked


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 12))
def test_parts_are_the_whole_in_its_order(sizes, count):
    items = [(unit, i) for unit, size in enumerate(sizes) for i in range(size)]
    shares = [Part(number, count).share(items, lambda item: item[0]) for number in range(1, count + 1)]
    assert [*chain(*shares)] == items
    units = [{unit for unit, _ in share} for share in shares]
    assert sum(map(len, units)) == len(sizes), "no unit is in two parts"
    assert max(map(len, shares)) <= len(items) / count + max(sizes)
    alone = [Part(number, count).share(items) for number in range(1, count + 1)]
    assert [*chain(*alone)] == items and max(map(len, alone)) - min(map(len, alone)) <= 1


@pytest.mark.parametrize("text", ["9/8", "0/2", "2", "1/2/3", "a/b", "-1/2", "1/0"])
def test_a_part_that_there_is_not(text):
    with pytest.raises(InputError, match="2/8"):
        Part.read(text)
    assert Part.read("") == Part.read("1/1") == Part(1, 1) and Part.read("2/8") == Part(2, 8)


def fill(number):
    def write(folder):
        (folder / "deep").mkdir()
        (folder / "deep" / f"{number}.txt").write_text(str(number))
        (folder / "same.json").write_text("{}")
        if number > 1:
            (folder / "table.csv").write_text(f"a,b\n{number},0\n")

    return write


def test_the_last_part_joins_them(tmp_path, capsys):
    output = tmp_path / "new" / "out"
    for number in (3, 1):
        assert not do_part(output, Part(number, 3), {"A": 1, "PART": f"{number}/3"}, fill(number))
        assert not output.exists()
    assert "finished part 1 of 3; still waiting for part 2\n" in capsys.readouterr().out
    assert not do_part(output, Part(3, 3), {"A": 1}, lambda folder: pytest.fail("it is there already"))
    assert "3 of 3: it already exists" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"parts with A 1 \(found 2 now\)"):
        do_part(output, Part(2, 3), {"A": 2}, fill(2))
    with pytest.raises(InputError, match=r"parts with parts 3 \(found 4 now\)"):
        do_part(output, Part(2, 4), {"A": 1}, fill(2))
    with pytest.raises(RuntimeError):  # the joining one is killed; any part can be given again
        do_part(output, Part(2, 3), {"A": 1}, fill(2), join=lambda folders, target: (_ for _ in ()).throw(RuntimeError))
    assert not output.exists()
    assert do_part(output, Part(1, 3), {"A": 1}, fill(9))
    assert sorted(path.name for path in output.rglob("[!.]*.*")) == [
        "1.txt",
        "2.txt",
        "3.txt",
        "same.json",
        "table.csv",
    ]
    assert (output / "table.csv").read_text() == "a,b\n2,0\n3,0\n"
    assert not leftovers(tmp_path) and [path.name for path in output.parent.iterdir()] == ["out"]
    with pytest.raises(InputError, match="exists"):
        do_part(output, Part(1, 3), {"A": 1}, fill(1))


COUNT_UP = """
import sys
from pathlib import Path
from common.jobs import locked
folder = Path(sys.argv[1])
for _ in range(200):
    with locked(folder / "lock"):
        number = int((folder / "number").read_text())
        (folder / "number").write_text(str(number + 1))
"""


def test_one_process_at_a_time(tmp_path):
    (tmp_path / "number").write_text("0")
    command = [sys.executable, "-c", COUNT_UP, str(tmp_path)]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert (tmp_path / "number").read_text() == "800" and not (tmp_path / "lock").exists()


def test_a_lock_of_a_killed_process_is_free(tmp_path):
    held = "from pathlib import Path; from common.jobs import locked; import os, sys\n"
    held += "with locked(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", held, str(tmp_path / "a")], cwd=ROOT, check=False)
    assert leftovers(tmp_path)
    with locked(tmp_path / "a"):
        pass
    assert not (tmp_path / "a").exists()


def test_parts_of_two_rounds_are_never_joined(tmp_path):
    output = tmp_path / "out"
    assert not do_part(output, Part(2, 2), {"A": "old"}, fill(7))
    assert not do_part(output, Part(1, 2), {"A": "new"}, fill(8), replace=True)
    assert do_part(output, Part(2, 2), {"A": "new"}, fill(9))
    assert {path.name for path in output.rglob("[!.]*.txt")} == {"8.txt", "9.txt"}


@pytest.mark.parametrize("record", ["null", "[]", "7"])
def test_a_damaged_record_of_the_parts_costs_no_part(tmp_path, record):
    output = tmp_path / "out"
    assert not do_part(output, Part(2, 2), {"A": 1}, fill(7))
    (tmp_path / "out.parts" / "settings.json").write_text(record)
    with pytest.raises(InputError, match=r"damaged \(no settings in it\); remove the folder .*out.parts"):
        do_part(output, Part(1, 2), {"A": 1}, fill(8))
    assert (tmp_path / "out.parts" / "2 of 2").exists()
    assert not do_part(output, Part(1, 2), {"A": 1}, fill(8), replace=True), "a new round"
