"""The UPPER_CASE constants of a script are its settings, and its settings are its flags.

A script sets its constants and then calls `apply_command_line(globals())`. The type of a setting is that of
its default; where the default is None or more than one type will do, an annotation says which:

    BATCH_SIZE = 8                        # images a step
    MAX_MINUTES: float | None = None      # stop after so long; None: never
"""

import argparse
import ast
import difflib
import io
import json
import math
import re
import sys
import tokenize
import types
import typing
from pathlib import Path

from common.errors import InputError, show_in_one_line
from common.files import read_json


def apply_command_line(namespace):
    """Set the UPPER_CASE constants of the script that is being run from its flags.

    `--batch-size 4` sets BATCH_SIZE; `--replace` and `--no-replace` set a bool; lists and dicts are written as
    Python literals. `--settings FILE.json` sets what it holds, and flags win over it. An unknown name or
    a value of the wrong type ends with one line and exit status 2. Does nothing in a module that is imported.

    Args:
        namespace: `globals()` of the script. From here on its uncaught errors are shown as `common.errors` says.

    Returns:
        set of the names that were given, by a flag or in the file.
    """
    if namespace["__name__"] != "__main__":
        return set()
    sys.excepthook = show_in_one_line
    specifications = _read_specifications(namespace)
    parser = _Parser(
        usage="%(prog)s [--settings FILE.json] [--SETTING VALUE ...]",
        description=namespace.get("__doc__"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_flags(parser, specifications)
    flags = vars(parser.parse_args())
    settings_file = flags.pop("settings")
    given = _read_settings_file(parser, settings_file, specifications) if settings_file is not None else {}
    given |= flags
    namespace.update(given)
    return set(given)


def use_recorded_settings(namespace, path, keep):
    """Set the constants of a script to those that were recorded.

    Args:
        namespace: `globals()` of the script.
        path: JSON file of `recorded_settings`; names in it that the script no longer has are passed over.
        keep: names that stay as they are.

    Raises:
        InputError: if the file is damaged or holds values of the wrong type.
    """
    kinds = {specification.name: specification.kinds for specification in _read_specifications(namespace)}
    for name, value in read_json(path).items():
        if name in kinds and name not in keep:
            try:
                namespace[name] = _value_of_json(value, kinds[name])
            except ValueError:
                raise InputError(f"{path}: {name} is {value!r}, expected {_describe(kinds[name])}") from None


def recorded_settings(namespace):
    """Effective settings of a script, ready for JSON and for `--settings`.

    Args:
        namespace: `globals()` of the script.

    Returns:
        dict of setting name to a value that JSON keeps; a dict with keys other than text becomes its literal.
    """
    return {name: _to_json(namespace[name]) for name, *_ in _read_specifications(namespace)}


def flags_of(settings):
    """Turn settings into command-line arguments.

    Args:
        settings: dict of setting name to value.

    Returns:
        list of str that `apply_command_line` reads back to the same values.
    """
    arguments = []
    for name, value in settings.items():
        flag = "--" + name.lower().replace("_", "-")
        if isinstance(value, bool):
            arguments.append(flag if value else "--no-" + flag[2:])
        else:
            arguments.append(f"{flag}={value}")
    return arguments


def _to_json(value):
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            return repr(value)
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    return value


# --- from the source of the script


class _Specification(typing.NamedTuple):
    name: str
    default: object
    kinds: tuple  # types that it may have, in the order in which text is tried
    comment: str
    group: str


class _Comment(typing.NamedTuple):
    text: str
    alone: bool  # whether nothing else stands in its line


def _read_specifications(namespace):
    source = Path(namespace["__file__"]).read_text(encoding="utf-8")
    comments = {
        token.start[0]: _Comment(token.string.lstrip("# "), token.line.startswith("#"))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    headings = {line: text.lstrip("- ") for line, (text, alone) in comments.items() if alone and text[:3] == "---"}
    specifications = []
    for node in ast.parse(source).body:
        if f"{apply_command_line.__name__}(" in ast.unparse(node):
            break
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        name = getattr(target, "id", "")
        if not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
            continue
        default = namespace[name]
        if isinstance(node, ast.AnnAssign):
            kinds = _kinds_of_annotation(eval(ast.unparse(node.annotation), {}))
        else:
            kinds = (type(default),) if default is not None else (type(None), object)
        specifications.append(
            _Specification(
                name,
                default,
                kinds,
                _comment_of(node, comments),
                next((headings[line] for line in sorted(headings, reverse=True) if line < node.lineno), "settings"),
            )
        )
    return specifications


def _comment_of(node, comments):
    """The comment that trails the assignment, with the lines right under it that hold nothing but a comment."""
    words = [comments[line].text for line in range(node.lineno, node.end_lineno + 1) if line in comments]
    line = node.end_lineno + 1
    while line in comments and comments[line].alone and not comments[line].text.startswith("---"):
        words.append(comments[line].text)
        line += 1
    return " ".join(words)


def _kinds_of_annotation(annotation):
    parts = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    kinds = [typing.get_origin(part) or part or type(None) for part in parts]
    return tuple(sorted(kinds, key=lambda kind: kind is str))


# --- from text and from JSON to a value


def _value_of_text(text, kinds):
    """Read the text of a flag as the first of `kinds` that it fits.

    Raises:
        ValueError: if it fits none.
    """
    for kind in kinds:
        try:
            if kind is type(None):
                if text.lower() in ("none", "null"):
                    return None
                continue
            if kind is str:
                return text
            if kind is bool:
                return {"true": True, "false": False}[text.lower()]
            if kind is int:
                return int(text)
            if kind is float:
                if math.isnan(value := float(text)):
                    continue
                return value
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, KeyError, MemoryError, RecursionError):
            if kind is object:
                return text
            continue
        if kind is object or isinstance(value, kind):
            return value
        if kind in (list, tuple) and isinstance(value, (list, tuple)):
            return kind(value)
    raise ValueError(text)


def _value_of_json(value, kinds):
    """Take a value of a settings file where it is of one of `kinds`, or text that reads as one of them."""
    for kind in kinds:
        if kind is float and type(value) is int:
            return float(value)
        if kind is object or type(value) is kind:
            return value
        if kind is tuple and type(value) is list:
            return tuple(value)
    if isinstance(value, str):
        return _value_of_text(value, kinds)
    raise ValueError(value)


def _describe(kinds):
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "None"}
    names |= {list: "a list such as \"['a', 'b']\"", tuple: 'a list such as "(1, 2)"', object: "a value"}
    names |= {dict: "a dict such as \"{'key': 1}\""}
    return " or ".join(names.get(kind, kind.__name__) for kind in kinds)


# --- argparse


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the nearest flag named."""

    def error(self, message):
        unknown = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
        if unknown:
            known = [option for option in self._option_string_actions if option.startswith("--")]
            near = difflib.get_close_matches(unknown[1], known, n=1)
            message += f" (did you mean {near[0]}?)" if near else " (--help lists the settings)"
        self.exit(2, f"{self.prog}: error: {message}\n")


class _SetFalse(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, False)


def _add_flags(parser, specifications):
    parser.add_argument("--settings", metavar="FILE.json", help="settings that were recorded; flags win over them")
    groups = {}
    for specification in specifications:
        name, default, kinds, comment, title = specification
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        group = groups[title]
        flag = name.lower().replace("_", "-")
        text = f"{comment} [{default!r}]".replace("%", "%%")
        options = {"dest": name, "default": argparse.SUPPRESS, "type": _converter(kinds), "metavar": "VALUE"}
        if bool in kinds:
            group.add_argument(f"--{flag}", nargs="?", const=True, help=text, **options)
            group.add_argument(
                f"--no-{flag}",
                dest=name,
                nargs=0,
                action=_SetFalse,
                default=argparse.SUPPRESS,
                help=argparse.SUPPRESS,
            )
        else:
            group.add_argument(f"--{flag}", help=text, **options)


def _converter(kinds):
    def convert(text):
        try:
            return _value_of_text(text, kinds)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {_describe(kinds)}") from None

    return convert


def _read_settings_file(parser, path, specifications):
    try:
        recorded = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        parser.error(f"--settings {path}: {error.strerror}")
    except ValueError:
        parser.error(f"--settings {path}: not a JSON file")
    if not isinstance(recorded, dict):
        parser.error(f"--settings {path}: expected a JSON object of settings")
    known = {specification.name: specification.kinds for specification in specifications}
    values = {}
    for name, value in recorded.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            parser.error(f"--settings {path}: unknown setting {name}" + (f" (did you mean {near[0]}?)" if near else ""))
        try:
            values[name] = _value_of_json(value, known[name])
        except ValueError:
            parser.error(f"--settings {path}: {name} is {value!r}, expected {_describe(known[name])}")
    return values
