"""Command-line flags for the constants of a script, and its `--help`: one line a setting, under 100 characters."""

import argparse
import ast
import difflib
import io
import os
import re
import shlex
import textwrap
import tokenize
from pathlib import Path
from typing import NamedTuple

from common.setting_checks import alternatives, describe
from common.streams import print_lines, printable

OTHER_NAMES = {"lr": "--learning-rate", "bs": "--batch-size", "epoch": "--epochs", "img_size": "--size"}
OF_NETWORKS = ("features", "depth", "dropout", "filters", "encoder", "encoder_weights", "backbone", "backbone_weights")
USAGE = "%(prog)s [--settings FILE.json] [--SETTING VALUE ...]"
WIDTH, LONGEST_DEFAULT = 99, 30  # characters of a line of `--help`, and of a default in it


def flag(setting):
    """Flag name of a setting."""
    return "--" + setting.lower().replace("_", "-")


def flags_of(values):
    """Turn settings into command-line arguments.

    Args:
        values: dict of setting name to value.

    Returns:
        list of str; `common.settings.apply_command_line` reads the same values back.
    """
    arguments = []
    for name, value in values.items():
        if isinstance(value, bool):
            arguments.append(flag(name) if value else "--no-" + flag(name)[2:])
        else:
            arguments.append(f"{flag(name)}={value}")
    return arguments


def as_typed(argument, powershell=os.name == "nt"):
    """A command-line argument as one types it in Bash, or in PowerShell: --model-settings "{'features': 8}"."""
    if not argument.startswith("--") or "=" not in argument:
        return _quote(argument, powershell)
    name, value = argument.split("=", 1)
    in_double = "'" in value and not set(value) & set('"$`\\!')
    return f'{name} "{value}"' if in_double else f"{name} {_quote(value, powershell)}"


def _quote(text, powershell):
    quoted = shlex.quote(text)
    return "'" + text.replace("'", "''") + "'" if powershell and quoted != text else quoted


def make_parser(namespace, constants):
    """Make the flag parser of a script; all values are text, except for bool flags without a value.

    Args:
        namespace: `globals()` of the script.
        constants: dict of setting name to default.

    Returns:
        argparse.ArgumentParser with one-line errors.
    """
    parser = _Parser(usage=USAGE, allow_abbrev=False, add_help=False)
    parser.add_argument("-h", "--help", action=_Help, script=(namespace, constants))
    parser.add_argument("--settings")
    for name, default in constants.items():
        options = {"dest": name, "default": argparse.SUPPRESS}
        if _may_be_bool(namespace, name, default):
            parser.add_argument(flag(name), nargs="?", const=True, **options)
            parser.add_argument("--no-" + flag(name)[2:], action="store_const", const=False, **options)
        else:
            parser.add_argument(flag(name), **options)
    return parser


def _may_be_bool(namespace, name, default):
    return bool in alternatives(namespace.get("__annotations__", {}).get(name, type(default)))


def help_of(namespace, constants):
    """Text of `--help`: what the script does, then one line a setting in the groups of its source."""
    comments = comments_of(Path(namespace["__file__"]))
    title, lines = "", [*(namespace.get("__doc__") or "").splitlines(), ""]
    lines += [_help_line("--help [SETTING]", "this help, or all about one setting")]
    lines += [_help_line("--settings FILE.json", "file of recorded settings; flags override it")]
    for name, default in constants.items():
        comment = comments.get(name, Comment("", "settings"))
        if comment.group != title:
            title = comment.group
            lines += ["", f"{title}:"]
        value = "[VALUE]" if _may_be_bool(namespace, name, default) else "VALUE"
        shown = repr(default) if len(repr(default)) <= LONGEST_DEFAULT else "..."
        lines.append(_help_line(f"{flag(name)} {value}", f"{comment.text} [{shown}]"))
    return "\n".join([*lines, ""])


def _help_line(left, right):
    """Flag and text in two columns; a long text follows its flag directly."""
    return f"  {left:<22}  {right}" if len(left) <= 22 and len(right) <= WIDTH - 26 else f"  {left}  {right}"


def help_of_setting(namespace, name, default):
    """Text of `--help SETTING`: its whole comment, the values that it takes and its default."""
    comment = comments_of(Path(namespace["__file__"])).get(name, Comment("", ""))
    takes = describe(namespace.get("__annotations__", {}).get(name, type(default)))
    texts = [comment.text, comment.details, f"takes {takes}", f"default: {default!r}"]
    margins = {"width": WIDTH, "initial_indent": "  ", "subsequent_indent": "  "}
    return "\n".join([f"{flag(name)} ({name} in the script)", *(textwrap.fill(t, **margins) for t in texts if t), ""])


class Comment(NamedTuple):
    """Comment on a setting in the source of a script, the title of its group, and details, a text of several lines."""

    text: str
    group: str
    details: str = ""


def comments_of(path):
    """Read the comments on the settings of a script: dict of name to Comment.

    A comment follows the setting on its line and continues on comment lines directly below. Lines that begin with "#"
    and three spaces are details. "# --- title" starts a group.
    """
    source = path.read_text(encoding="utf-8")
    texts, alone, indented = {}, set(), set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            texts[token.start[0]] = token.string.lstrip("# ")
            if token.line.startswith("#"):
                alone.add(token.start[0])
            if token.line.startswith("#   "):
                indented.add(token.start[0])
    comments, group, last = {}, "settings", 0
    for node in ast.parse(source).body:
        for line in range(last + 1, node.lineno):
            if line in alone and texts[line].startswith("---"):
                group = texts[line].lstrip("- ")
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        words = [texts[line] for line in range(node.lineno, node.end_lineno + 1) if line in texts]
        last, details = node.end_lineno, []
        while last + 1 in alone and not texts[last + 1].startswith("---"):
            last += 1
            (details if last in indented else words).append(texts[last])
        comments.setdefault(getattr(target, "id", ""), Comment(" ".join(words), group, "\n".join(details)))
    return comments


class _Parser(argparse.ArgumentParser):
    """Argument parser with one-line errors that suggest the closest flag."""

    def _suggest(self, unknown):
        """What may be meant by an unknown flag, as text."""
        known = [option for option in self._option_string_actions if option.startswith("--")]
        name = unknown[2:].replace("-", "_")
        if "--model-settings" in known and name in OF_NETWORKS:
            return f"did you mean --model-settings \"{{'{name}': VALUE}}\"?"
        near = [OTHER_NAMES[name]] if OTHER_NAMES.get(name) in known else difflib.get_close_matches(unknown, known, n=1)
        return f"did you mean {near[0]}?" if near else "--help lists all settings"

    def error(self, message):
        unknown = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
        if unknown:
            message += f" ({self._suggest(unknown[1])})"
        if missing := re.search(r"argument (--\S+): expected one argument", message):
            message += f"; write a value that begins with a dash as {missing[1]}=VALUE"
        message = printable(" ".join(message.splitlines()))  # one line, even if the input has several
        self.exit(2, f"{self.prog}: error: {message}\n")


class _Help(argparse.Action):
    """Print the settings with their comments, read from the source of the script, or all about one of them."""

    def __init__(self, option_strings, dest, script):
        super().__init__(option_strings, dest, default=argparse.SUPPRESS, nargs="?")
        self.script = script

    def __call__(self, parser, namespace, values, option_string=None):
        source, constants = self.script
        name = (values or "").lstrip("-").upper().replace("-", "_")
        if name and name not in constants:
            parser.error(f"unrecognized arguments: {flag(name)}")
        if name:
            print_lines(help_of_setting(source, name, constants[name]).removesuffix("\n"))
        else:
            print_lines(f"{parser.format_usage()}\n{help_of(source, constants)}".removesuffix("\n"))
        parser.exit()
