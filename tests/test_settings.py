"""The constants of a script are its flags."""

import json
import re
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import ROOT, SCRIPTS

from common.command_line import flags_of
from common.settings import read_value

SCRIPT = '''"""A script."""
import sys
sys.path.insert(0, {root!r})
from typing import Annotated, Any, Literal
from annotated_types import Ge
from common.settings import apply_command_line

# --- numbers
COUNT: Annotated[int, Ge(0)] = 3  # how many
# on two lines
RATE = 0.5  # how fast
DEEP = True  # whether
LIMIT: Annotated[float, Ge(0)] | None = None  # least
KIND: Literal["a", "b"] | dict = "a"  # either

# --- others
NAME = ""  # a path
ITEMS: list[str] = ["a", "b"]  # several
TABLE: dict[int, int] = {{1: 255}}  # a map
FREE: Any = None  # anything

settings = apply_command_line(globals())
INTERNAL = 1
if __name__ == "__main__":
    import json
    print(json.dumps(settings.as_json()))
    print(sorted(settings.given))
'''


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(root=str(ROOT)))
    return path


def run(script, *flags):
    return subprocess.run([sys.executable, script, *flags], capture_output=True, text=True, check=False)


def recorded(script, *flags):
    result = run(script, *flags)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[0])


def test_flags_take_the_type_of_their_default(script):
    flags = ["--count", "7", "--rate=2", "--no-deep", "--limit", "1.5", "--kind", "{'name': 'sgd'}"]
    flags += ["--name", "3", "--items", "['c']", "--table", "{2: 3}", "--free", "[1, 2]"]
    values = recorded(script, *flags)
    assert values == {
        "COUNT": 7,
        "RATE": 2.0,
        "DEEP": False,
        "LIMIT": 1.5,
        "KIND": {"name": "sgd"},
        "NAME": "3",
        "ITEMS": ["c"],
        "TABLE": "{2: 3}",
        "FREE": [1, 2],
    }
    assert isinstance(values["RATE"], float)


def test_without_flags_the_constants_stand(script):
    values = recorded(script)
    assert values["COUNT"] == 3 and values["LIMIT"] is None and values["KIND"] == "a"
    assert "INTERNAL" not in values


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--count", "1.5"], "whole number"),
        (["--count", "many"], "whole number"),
        (["--rate", "nan"], "a number"),
        (["--items", "a"], "a list"),
        (["--items", "{'a': 1}"], "a list"),
        (["--table", "[1]"], "a dict"),
        (["--limit", "low"], "a number"),
        (["--cuont", "1"], "did you mean --count"),
        (["--co", "1"], "unrecognized"),
        (["stray"], "unrecognized"),
        (["--settings", "gone.json"], "gone.json"),
    ],
)
def test_wrong_flags_end_in_one_line(script, flags, words):
    result = run(script, *flags)
    assert result.returncode == 2
    assert words in result.stderr and len(result.stderr.splitlines()) == 1


def test_settings_file_is_replayed_and_flags_win(script, tmp_path):
    first = recorded(script, "--count", "9", "--table", "{3: 4}", "--limit", "2")
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(first))
    assert recorded(script, "--settings", str(file)) == first
    assert recorded(script, "--settings", str(file), "--count", "1") == {**first, "COUNT": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"CUONT": 1}', "did you mean COUNT"),
        ('{"COUNT": "x"}', "COUNT: expected a whole number of at least 0 (found 'x')"),
        ('{"COUNT": true}', "COUNT: expected a whole number of at least 0 (found True)"),
        ('{"COUNT": 1.5}', "COUNT: expected a whole number of at least 0 (found 1.5)"),
        ("[1]", "JSON object"),
        ('{"COUNT"', "not a JSON file"),
    ],
)
def test_wrong_settings_files_are_refused(script, tmp_path, text, words):
    file = tmp_path / "settings.json"
    file.write_text(text)
    result = run(script, "--settings", str(file))
    assert result.returncode == 2 and words in result.stderr and len(result.stderr.splitlines()) == 1


def test_given_names_are_told(script):
    assert run(script, "--count", "1", "--no-deep").stdout.splitlines()[1] == "['COUNT', 'DEEP']"


def test_help_shows_groups_comments_and_defaults(script):
    text = " ".join(run(script, "--help").stdout.split())
    for words in ("numbers:", "others:", "--count VALUE how many on two lines [3]", "--deep [VALUE] whether [True]"):
        assert words in text


def test_importing_a_script_reads_no_flags(script, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["other.py", "--count", "99"])
    sys.path.insert(0, str(script.parent))
    try:
        import script as module
    finally:
        sys.path.remove(str(script.parent))
    assert module.COUNT == 3 and module.settings.COUNT == 3 and module.settings.given == set()


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_of_every_script_is_immediate_and_complete(name):
    times = []
    while len(times) < 2 and min(times, default=9) >= 1.0:  # the machine may be busy once
        started = time.monotonic()
        result = run(ROOT / name, "--help")
        times.append(time.monotonic() - started)
    assert result.returncode == 0 and "--settings" in result.stdout
    assert not re.search(r"VALUE\]? \[", " ".join(result.stdout.split())), "a setting has no comment"
    assert min(times) < 1.0


literals = st.one_of(
    st.integers(-(10**9), 10**9),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8),
    st.lists(st.one_of(st.integers(), st.text("ab'\"\\ ", max_size=4)), max_size=4),
    st.dictionaries(st.one_of(st.integers(), st.text("ab", max_size=3)), st.floats(-9, 9), max_size=3),
)


@given(literals)
def test_a_flag_reads_back_what_was_written(value):
    (flag,) = flags_of({"NAME": value})
    if isinstance(value, bool):
        assert flag == ("--name" if value else "--no-name")
    else:
        assert read_value(flag.removeprefix("--name="), type(value)) == value
