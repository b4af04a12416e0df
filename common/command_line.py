"""Command-line flags for the constants of a script, and its `--help`."""

import argparse
import ast
import difflib
import io
import re
import tokenize
from pathlib import Path
from typing import NamedTuple

from common.setting_checks import alternatives


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


def make_parser(namespace, constants, comments=None):
    """Make the flag parser of a script; all values are text, except for bool flags without a value.

    Args:
        namespace: `globals()` of the script.
        constants: dict of setting name to default.
        comments: dict of setting name to Comment, for `--help`; None: no comments.

    Returns:
        argparse.ArgumentParser with one-line errors.
    """
    parser = _Parser(
        usage="%(prog)s [--settings FILE.json] [--SETTING VALUE ...]",
        description=namespace.get("__doc__"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action=_Help, script=(namespace, constants))
    parser.add_argument("--settings", metavar="FILE.json", help="file of recorded settings; flags override it")
    groups = {}
    for name, default in constants.items():
        text, title = (comments or {}).get(name, Comment("", "settings"))
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        options = {"dest": name, "default": argparse.SUPPRESS}
        shown = {"metavar": "VALUE", "help": f"{text} [{default!r}]".replace("%", "%%")}
        if bool in alternatives(namespace.get("__annotations__", {}).get(name, type(default))):
            groups[title].add_argument(flag(name), nargs="?", const=True, **options, **shown)
            off = {"action": "store_const", "const": False, "help": argparse.SUPPRESS}
            groups[title].add_argument("--no-" + flag(name)[2:], **options, **off)
        else:
            groups[title].add_argument(flag(name), **options, **shown)
    return parser


class Comment(NamedTuple):
    """Comment on a setting in the source of a script, and the title of its group."""

    text: str
    group: str


def comments_of(path):
    """Read the comments on the settings of a script: dict of name to Comment.

    A comment follows the setting on its line and continues on comment lines directly below; "# --- title" starts a
    group.
    """
    source = path.read_text(encoding="utf-8")
    texts, alone = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            texts[token.start[0]] = token.string.lstrip("# ")
            if token.line.startswith("#"):
                alone.add(token.start[0])
    comments, group, last = {}, "settings", 0
    for node in ast.parse(source).body:
        for line in range(last + 1, node.lineno):
            if line in alone and texts[line].startswith("---"):
                group = texts[line].lstrip("- ")
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        words = [texts[line] for line in range(node.lineno, node.end_lineno + 1) if line in texts]
        last = node.end_lineno
        while last + 1 in alone and not texts[last + 1].startswith("---"):
            last += 1
            words.append(texts[last])
        comments.setdefault(getattr(target, "id", ""), Comment(" ".join(words), group))
    return comments


class _Parser(argparse.ArgumentParser):
    """Argument parser with one-line errors that suggest the closest flag."""

    def error(self, message):
        unknown = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
        if unknown:
            known = [option for option in self._option_string_actions if option.startswith("--")]
            near = difflib.get_close_matches(unknown[1], known, n=1)
            message += f" (did you mean {near[0]}?)" if near else " (--help lists all settings)"
        message = " ".join(message.splitlines())  # one line, even if the input has several
        self.exit(2, f"{self.prog}: error: {message}\n")


class _Help(argparse.Action):
    """Print the settings with their comments, read from the source of the script."""

    def __init__(self, option_strings, dest, script):
        super().__init__(option_strings, dest, default=argparse.SUPPRESS, nargs=0, help="show this help and exit")
        self.script = script

    def __call__(self, parser, namespace, values, option_string=None):
        make_parser(*self.script, comments_of(Path(self.script[0]["__file__"]))).print_help()
        parser.exit()
