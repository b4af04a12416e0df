"""Write docs/settings.md, the reference of all settings, from the scripts: `python -m common.settings_page`."""

import ast

from common.command_line import comments_of
from common.files import ROOT, whole_file
from common.setting_checks import describe
from common.settings import Settings

PAGE = ROOT / "docs" / "settings.md"
FIRST = ("train.py", "predict.py", "evaluate.py")  # of the scripts at the top, in the order in which they are used
INTRODUCTION = """# Settings

Every setting of every script. They are the UPPER_CASE constants at the top of a script.
Each is also a flag: `BATCH_SIZE` is `--batch-size`.
Write lists and dicts as in Python: `--model-settings "{'features': 32}"`.
`--replace` sets a true-or-false setting to true, `--no-replace` to false.
`--settings FILE.json` replays the settings that a run recorded; flags win over it.
A wrong value gets one message and exit status 2.

`python -m common.settings_page` writes this page from the scripts. Edit their comments, not this page.
"""


def make_page():
    """Text of the page."""
    return "\n".join([INTRODUCTION, *map(section_of, find_scripts())])


def find_scripts():
    """Paths of all scripts, from the root of the project: steps 0 to 3, then the others, then those that draw data."""
    first = [ROOT / name for name in FIRST]
    others = [path for path in sorted(ROOT.glob("*.py")) if path not in first]
    paths = [*sorted(ROOT.glob("preprocess/*.py")), *first, *others, *sorted(ROOT.glob("data/*.py"))]
    return [path.relative_to(ROOT).as_posix() for path in paths]


def section_of(script):
    """Heading, first line of the docstring and table of a script."""
    path, settings = ROOT / script, Settings.of(script)
    comments = comments_of(path)
    purpose = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).splitlines()[0]
    lines = [f"## {path.name}", "", f"[`{script}`](../{script}): {escape(purpose)}", ""]
    lines += ["| name | default | takes | meaning |", "| --- | --- | --- | --- |"]
    group = "settings"
    for name, default in settings.values.items():
        text, title, details = comments.get(name, ("", group, ""))
        text = " ".join(f"{text}. {details}".split()) if details else text
        if title != group:
            lines.append(f"| **{escape(title)}** | | | |")
            group = title
        lines.append(f"| `{name}` | `{default!r}` | {escape(describe(settings.annotations[name]))} | {escape(text)} |")
    return "\n".join([*lines, ""])


def escape(text):
    """Text as Markdown shows it in a table."""
    for character in "\\|<*":
        text = text.replace(character, f"\\{character}")
    return text


if __name__ == "__main__":
    with whole_file(PAGE) as unfinished:
        unfinished.write_text(make_page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
