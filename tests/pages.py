"""The commands that README, CONTRIBUTING and docs show, found by reading the pages."""

import re
import shlex
from typing import NamedTuple

from running import ROOT

from common.command_line import make_parser
from common.settings import Settings

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
SHELLS = ("bash", "sh", "shell", "console", "powershell", "")  # an unnamed block counts if a line looks like a command
PROGRAM = r"(?:python3?|py|pip|pytest|ruff|tensorboard|source|srun|export|git|\.) +\S|pytest$|\.ci/run$"
COMMAND = re.compile(rf"(?:[A-Z_]+=\S+ +)*(?:{PROGRAM}|(?:\w+/)*\w+\.py +-)")


class Command(NamedTuple):
    """A command line of a page.

    Attributes:
        page: path of the page from the root of the project.
        text: the line as shown, without its comment; lines that end with a backslash are joined.
        block: whether it is in a code block, not in the text.
    """

    page: str
    text: str
    block: bool


def commands_of(page):
    """Commands of a page, those of the code blocks first, each in the order of the page.

    Args:
        page: path from the root of the project.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    shown = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.S | re.M):
        lines = [without_comment(line) for line in block.replace("\\\n", " ").splitlines()]
        if language in SHELLS:
            shown += [Command(page, line, True) for line in lines if line and (language or COMMAND.match(line))]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))
    return shown + [Command(page, line, False) for line in inline if COMMAND.match(line)]


def without_comment(line):
    return re.sub(r"(^|\s)#.*$", "", line).strip()


def all_commands():
    return [command for page in PAGES for command in commands_of(page.relative_to(ROOT).as_posix())]


def calls_of(text):
    """Scripts that a command line calls: list of (path from the root of the project, list of arguments)."""
    pattern = r"(?:^|[\s'])((?:[\w-]+/)*\w+\.py)(?=\s|'|$)((?:\"[^\"]*\"|'\{[^']*'|[^;&|'])*)"
    return [(resolve(script), shlex.split(rest)) for script, rest in re.findall(pattern, text)]


def resolve(script):
    """Path of a script that a page may show without its folder."""
    found = [path for path in (ROOT / script, ROOT / "preprocess" / script) if path.is_file()]
    assert found, f"{script} does not exist"
    return found[0].relative_to(ROOT).as_posix()


def check_flags(script, arguments):
    """Refuse flags that a script does not have, and values that it does not take: SystemExit or SettingError.

    A single flag without its value is a mention, of which the name is checked.
    """
    settings = Settings.of(script)
    parser = make_parser({"__annotations__": settings.annotations, "__file__": str(ROOT / script)}, settings.values)
    if len(arguments) == 1 and arguments[0].startswith("--"):
        assert arguments[0] in parser._option_string_actions, f"{script} has no {arguments[0]}"
        return
    for name, value in vars(parser.parse_args(arguments)).items():
        if name != "settings":
            settings = settings.with_given({name: value}, f"flag of {script}")
