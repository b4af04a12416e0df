"""The constants of a script are its flags."""

import contextlib
import inspect
import json
import math
import operator
import re
import shlex
import subprocess
import sys
import time
import types
import typing

import annotated_types
import pytest
import typing_extensions
from hypothesis import given
from hypothesis import strategies as st
from running import ROOT, SCRIPTS, assert_refused, run_here

from common import setting_types
from common.command_line import as_typed, flags_of
from common.setting_checks import Rule, alternatives, check
from common.setting_types import MODEL_SETTINGS, TERMS, Network
from common.settings import Settings, read_value

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


def test_help_of_one_setting_shows_its_details_and_what_it_takes():
    result = run(ROOT / "train.py", "--help", "loss")
    assert result.returncode == 0 and len(result.stdout.splitlines()) < 10
    for words in ("--loss (LOSS in the script)", '"focal_tversky". A', "takes one of mse", "default: None"):
        assert words in result.stdout
    wrong = run(ROOT / "train.py", "--help", "lsos")
    assert wrong.returncode == 2 and "did you mean --loss" in wrong.stderr


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
    assert not [line for line in result.stdout.splitlines() if len(line) >= 100]
    one_line = set(re.findall(r"^  (--[a-z0-9-]+) \[?VALUE\]?  +\S.*\]$", result.stdout, re.M))
    assert one_line == {f"--{setting.lower().replace('_', '-')}" for setting in Settings.of(name).values}
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


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_a_shown_command_gives_the_same_flag_when_typed(value):
    typed = as_typed(f"--loss={value}", powershell=False)
    assert shlex.split(typed) == ["--loss", value]
    assert not (typed[7] == '"' and set(typed) & set("`$!\\")), "Bash replaces these between double quotes"


@pytest.mark.parametrize(
    ("argument", "bash", "powershell"),
    [
        ("--run=runs/1", "--run runs/1", "--run runs/1"),
        ("--replace", "--replace", "--replace"),
        ("--out=my data", "--out 'my data'", "--out 'my data'"),
        ("--clean={'fill': True}", "--clean \"{'fill': True}\"", "--clean \"{'fill': True}\""),
        ("--out=a'$b", "--out 'a'\"'\"'$b'", "--out 'a''$b'"),
        ("a b.json", "'a b.json'", "'a b.json'"),
    ],
)
def test_commands_are_shown_as_bash_and_powershell_read_them(argument, bash, powershell):
    assert (as_typed(argument, powershell=False), as_typed(argument, powershell=True)) == (bash, powershell)


# --- nonsense in every setting of every script

NONSENSE = [
    -1,
    0.37,
    10**30,
    math.inf,
    math.nan,
    "",
    "nonsense",
    "a\0b",
    True,
    None,
    [],
    [[1, "a"], {}],
    {"nonsense": {"nested": []}},
]


def takes(value, annotation):
    """Whether a type takes a value, by the rules of `typing` and annotated_types, without pydantic."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, types.UnionType) or origin is typing.Union:
        return any(takes(value, kind) for kind in arguments)
    if origin is typing.Annotated:
        return takes(value, arguments[0]) and all(meets(value, condition) for condition in arguments[1:])
    if origin is typing.NotRequired:
        return takes(value, arguments[0])
    if origin is typing.Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if typing_extensions.is_typeddict(annotation):
        hints = typing.get_type_hints(annotation, include_extras=True)
        known = isinstance(value, dict) and annotation.__required_keys__ <= value.keys() <= hints.keys()
        return known and all(takes(item, hints[key]) for key, item in value.items())
    if origin is list:
        return isinstance(value, list) and all(takes(item, arguments[0]) for item in value)
    if origin is dict:
        pairs = value.items() if isinstance(value, dict) else [(None, None)]
        return isinstance(value, dict) and all(takes(k, arguments[0]) and takes(v, arguments[1]) for k, v in pairs)
    if annotation is typing.Any:
        return True
    if annotation in (None, type(None)):
        return value is None
    if annotation is float:
        return type(value) in (int, float) and math.isfinite(value)
    if annotation is str:
        return type(value) is str and "\0" not in value
    return type(value) is annotation


def meets(value, condition):
    if isinstance(condition, Rule):
        return condition.holds(value)
    if isinstance(condition, annotated_types.Len):
        return condition.min_length <= len(value) <= (condition.max_length or len(value))
    compare = {annotated_types.Ge: operator.ge, annotated_types.Gt: operator.gt}
    compare |= {annotated_types.Le: operator.le, annotated_types.Lt: operator.lt}
    return compare[type(condition)](value, getattr(condition, type(condition).__name__.lower()))


@pytest.mark.parametrize("script", SCRIPTS)
def test_nonsense_in_a_settings_file_is_refused_in_one_line_or_is_none(script, tmp_path):
    """As in a file of --settings and in an edited constant: values, not text."""
    settings = Settings.of(script)
    for name, annotation in settings.annotations.items():
        for value in NONSENSE:
            if takes(value, annotation):
                taken = Settings.of(script, **{name: value}).values[name]
                assert taken == value or taken == float(value)
                continue
            (tmp_path / "settings.json").write_text(json.dumps({name: value}))
            if isinstance(value, str):
                with contextlib.suppress(ValueError):  # text can stand for another value
                    assert takes(read_value(value, annotation), annotation)
                    continue
            message = assert_refused(script, f"{name}: ", status=2, SETTINGS=tmp_path / "settings.json")
            assert len(message.splitlines()) == 1 and len(message) < 1000


@pytest.mark.parametrize("script", SCRIPTS)
def test_nonsense_in_a_flag_is_refused_in_one_line_or_is_none(script):
    settings = Settings.of(script)
    for name, annotation in settings.annotations.items():
        for value in ("-1", "0.37", "1" + 30 * "0", "1e400", "nan", "", "[", "[]", "{'a': {'b': []}}", "[0, 1e400]"):
            try:
                read = read_value(value, annotation)
            except ValueError:
                message = assert_refused(script, f"{name}: ", status=2, **{name: value})
                assert len(message.splitlines()) == 1
            else:
                assert takes(read, annotation)


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_edited_constant_is_checked_as_a_flag_is(script, tmp_path):
    """The types of all scripts refuse a dict of a key that nobody has."""
    source = (ROOT / script).read_text(encoding="utf-8")
    copy = tmp_path / "script.py"
    for name in Settings.of(script).annotations:
        edited = re.sub(rf"^{name}(: [^=]+)? = ", rf"{name}\1 = {{'nonsense': object}} or ", source, flags=re.M)
        edited = edited.replace("Path(__file__).resolve().parents[1]", repr(str(ROOT)))
        assert edited != source
        copy.write_text(edited)
        result = run_here(copy, expect=2)
        assert result.stderr.startswith(f"script.py: error: {name}: ") and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"learning_rate": -1}, "learning_rate: expected a number above 0 (found -1)"),
        ({"name": "Adam", "amsgrad": 3}, "amsgrad: expected true or false (found 3)"),
    ],
)
def test_keys_that_may_be_missing_are_checked(value, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        read_value(value, Settings.of("train.py").annotations["OPTIMIZER"])


def test_settings_never_change():
    settings = Settings.of("train.py", EPOCHS=3)
    assert settings.EPOCHS == 3 and settings.given == {"EPOCHS"}
    with pytest.raises(AttributeError):
        settings.EPOCHS = 4
    with pytest.raises(TypeError):
        settings.values["EPOCHS"] = 4
    with pytest.raises(AttributeError, match="unknown setting EPOCH"):
        settings.replace("a test", EPOCH=1)
    other = settings.replace("measured", EPOCHS=5, SEED=2)
    assert (settings.EPOCHS, other.EPOCHS) == (3, 5)
    assert other.explained()["reasons"]["SEED"] == "measured"
    assert other.explained()["reasons"]["LOSS"] == "constant in train.py"
    assert read_json_of(other.as_json()) == dict(other.values)


def read_json_of(values):
    return json.loads(json.dumps(values))


@pytest.mark.parametrize(
    "content", ["[" * 100000, '{"COUNT": ' + "[" * 900 + "]" * 900 + "}", "\0", '{"NAME": "\\u0000"}']
)
def test_a_settings_file_that_is_none_ends_in_one_line(script, tmp_path, content):
    file = tmp_path / "settings.json"
    file.write_text(content)
    result = run(script, "--settings", str(file))
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1 and "Traceback" not in result.stderr


def test_a_settings_file_may_begin_with_a_byte_order_mark_and_hold_reasons(script, tmp_path):
    file = tmp_path / "settings.json"
    file.write_text('\ufeff{"COUNT": 8, "reasons": {"COUNT": "measured"}}', encoding="utf-8")
    assert recorded(script, "--settings", str(file))["COUNT"] == 8


def test_names_in_types_are_those_of_networks_and_losses():
    import losses
    import models

    networks = [
        name
        for kind in alternatives(Network)
        if typing.get_origin(kind) is typing.Literal
        for name in typing.get_args(kind)
    ]
    assert networks == list(models.NETWORKS) == list(MODEL_SETTINGS)
    assert sorted(TERMS) == sorted(losses.TERMS)
    for name, kind in MODEL_SETTINGS.items():
        parameters = inspect.signature(models.NETWORKS[name].build_model).parameters
        assert set(typing.get_type_hints(kind)) == parameters.keys() - set(models.NOT_SETTINGS)


def test_a_limit_is_in_the_message_if_it_matters():
    with pytest.raises(ValueError, match=r"a whole number of at least 0 and below 4294967296 \(found 99999999999\)"):
        check(99999999999, setting_types.Seed)
    with pytest.raises(ValueError, match=r"a whole number of at least 0 \(found -1\)"):
        check(-1, setting_types.Seed)
    with pytest.raises(ValueError, match="from 0 to 1000000000"):
        check(math.inf, setting_types.NonNegative)


def test_texts_that_no_path_can_be():
    with pytest.raises(ValueError, match="more than 400 slashes"):
        check("x/" * 2000, setting_types.PathName)
    for home in ("~", "~/x", "~me/x", "~\\x"):
        with pytest.raises(ValueError, match="starts with ~"):
            check(home, setting_types.PathName)
    assert check("~5 mm / 0.2 in", str) and check("a/~/b", setting_types.PathName)
    for series in ("0", "-1", "2.5", " "):
        with pytest.raises(ValueError, match="a part of a description"):
            read_value(series, setting_types.Series)
    flips = Settings.of("predict.py").annotations["FLIPS"]
    assert read_value("none", flips) == "none" and read_value("None", flips) is None, "a choice called none"
    assert read_value("3", setting_types.Series) == 3 and read_value("T2 fse", setting_types.Series) == "T2 fse"
