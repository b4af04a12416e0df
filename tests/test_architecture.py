"""The rules of docs/design.md that a program can check: who imports whom, how scripts read settings, how long code is.

Each rule lists what breaks it as `file:line: what is wrong`.
"""

import ast
import io
import re
import sys
import tokenize
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest
from running import ROOT

# Each room may import itself and the rooms above it here; rooms of one line do not import each other.
ROOMS = (
    ("common",),
    ("common.slices",),
    ("common.volumes",),
    ("common.annotations",),
    ("common.training",),
    ("common.prediction", "common.tuning"),
    ("common.evaluation", "coreml", "common.checking"),
)
KERAS_ONLY = ("models", "losses")  # import nothing else, and are imported from common.training on downwards
NUMPY_TOO = ("models.pretrained_weights",)  # reads arrays from a file
# These import each other only.
KNOW_NOTHING = (
    "common",
    "common.errors",
    "common.files",
    "common.lazy",
    "common.scores",
    "common.streams",
    "common.system_errors",
)
STARTED_WITH_M = (
    "common.settings_page",
    "common.checking.packages",
    "common.child",
    "common.tuning.check_values",
)  # python -m NAME
ONLY_IN = {"tqdm": ("common.parallel",), "fcntl": (), "msvcrt": ()}  # modules that may import a library
PLAIN_LISTS = ()  # functions that may be longer than FUNCTION_LINES, as "path function"
LONGEST_SCRIPT, LONGEST_MODULE, LONGEST_FUNCTION = 280, 400, 45
LONGEST = {"train.py": 180}

FOLLOW_TRAINING = (  # to follow train.py on slices, open these
    *("common/training/configure.py", "common/training/sets.py", "common/slices/packed.py"),
    *("models/__init__.py", "models/unet.py", "models/layers.py"),
    *("losses/__init__.py", "losses/overlap.py", "losses/pixel.py", "losses/metrics.py"),
    *("common/training/optimizer.py", "common/training/callbacks.py", "common/training/run_folder.py"),
)


# --- the tree


def python_files(*patterns):
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


SCRIPTS = python_files("*.py", "preprocess/*.py", "data/*.py")
MODULES = python_files("common/**/*.py", "models/*.py", "losses/*.py", "coreml/*.py")
TESTS = python_files("tests/**/*.py")


@cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_name(path):
    """Dotted name of a file; that of a package for its __init__."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path): path for path in (*SCRIPTS, *MODULES)}


def imports(path):
    """Modules that a file imports anywhere, of this project and others: (dotted name, line)."""
    found = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{at(path, node.lineno)}: a relative import"
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [(name if name in NAMES else node.module, node.lineno) for name in members]
    return sorted(set(found), key=lambda pair: pair[1])


def room(name):
    """Room of a module: the package that it is in."""
    path = NAMES[name]
    if path in SCRIPTS:
        return "scripts"
    return name if path.name == "__init__.py" else name.rpartition(".")[0]


def at(path, line):
    return f"{path.relative_to(ROOT)}:{line}"


def assert_none(problems):
    assert not problems, "\n" + "\n".join(problems)


# --- imports


def may_import(importer, imported):
    """Whether a module of one room may import one of another."""
    if importer == imported or importer == "scripts":
        return imported != "scripts"
    level = {name: number for number, rooms in enumerate(ROOMS) for name in rooms}
    if importer in KERAS_ONLY or imported == "scripts":
        return False
    if imported in KERAS_ONLY:
        return level[importer] >= level["common.training"]
    return level[importer] > level[imported]


def test_imports_go_one_way():
    problems = []
    for path in (*SCRIPTS, *MODULES):
        importer = module_name(path)
        for imported, line in imports(path):
            if imported in NAMES and not may_import(room(importer), room(imported)):
                problems.append(f"{at(path, line)}: {importer} must not import {imported}")
            if importer in KNOW_NOTHING and imported in NAMES and imported not in KNOW_NOTHING:
                problems.append(f"{at(path, line)}: {importer} imports only {', '.join(KNOW_NOTHING)}")
    assert_none(problems)


def test_networks_and_losses_need_keras_only():
    problems = []
    for path in MODULES:
        own = room(module_name(path))
        for imported, line in imports(path) if own in KERAS_ONLY else []:
            package = imported.split(".")[0]
            allowed = ("keras", own, *(["numpy"] if module_name(path) in NUMPY_TOO else ()))
            if package not in (*allowed, *sys.stdlib_module_names):
                problems.append(f"{at(path, line)}: {own} must not import {imported}")
    assert_none(problems)


def test_nobody_imports_a_script():
    problems = []
    scripts = {module_name(path) for path in SCRIPTS}
    for path in (*SCRIPTS, *MODULES, *TESTS):
        problems += [f"{at(path, line)}: imports the script {name}" for name, line in imports(path) if name in scripts]
    assert_none(problems)


def test_some_libraries_have_one_place():
    problems = []
    for path in (*SCRIPTS, *MODULES):
        for library, line in imports(path):
            if library in ONLY_IN and module_name(path) not in ONLY_IN[library]:
                problems.append(f"{at(path, line)}: {library} is for {', '.join(ONLY_IN[library]) or 'nobody'}")
    assert_none(problems)


def test_imports_form_no_circle():
    edges = {name: {imported for imported, _ in imports(path) if imported in NAMES} for name, path in NAMES.items()}
    problems = []
    while circle := find_circle(edges):
        for importer, imported in pairwise(circle):
            line = next(line for name, line in imports(NAMES[importer]) if name == imported)
            problems.append(
                f"{at(NAMES[importer], line)}: {importer} imports {imported}, in a circle of {len(circle) - 1}"
            )
        edges[circle[0]].remove(circle[1])  # to find the others
    assert_none(problems)


def find_circle(edges):
    """Modules of which each imports the next one, the first again at the end; None if there is no circle."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return error.args[1][::-1]
    return None


def test_imports_inside_functions_give_a_reason():
    """Optional packages, and speed at start: in a comment on the line, or above a run of such lines."""
    problems = []
    for path in (*SCRIPTS, *MODULES):
        lines, comments = path.read_text(encoding="utf-8").splitlines(), comments_of(path)
        inside = {
            node.lineno: node
            for function in ast.walk(parsed(path))
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for node in ast.walk(function)
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        ends = {node.end_lineno: first for first, node in inside.items()}
        for first, node in inside.items():
            line = first
            while not comments.get(line) and line - 1 in ends:  # of one run of imports
                line = ends[line - 1]
            above = lines[line - 2].lstrip().startswith("#") and comments[line - 1]
            if not above and not any(comments.get(number) for number in range(line, node.end_lineno + 1)):
                problems.append(f"{at(path, first)}: {lines[first - 1].strip()}")
    assert_none(problems)


@cache
def comments_of(path):
    """Lines with a comment, each with its text; what is for tools alone is none."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
    return {line: re.sub(r"noqa(: [A-Z0-9, ]+)?|#", "", text).strip() for line, text in comments.items()}


# --- modules


def test_modules_are_not_run_by_their_path():
    problems = []
    for path in MODULES:
        for node in ast.walk(parsed(path)):
            text = ast.unparse(node) if isinstance(node, ast.Compare | ast.Attribute) else ""
            if text == "__name__ == '__main__'" and module_name(path) not in STARTED_WITH_M:
                problems.append(f"{at(path, node.lineno)}: runs as a program, and is not in STARTED_WITH_M")
            elif text == "sys.path":
                problems.append(f"{at(path, node.lineno)}: sys.path; python -m finds the modules without")
    assert_none(problems)


def test_links_to_themselves_are_no_error():
    """`Path.resolve` raises a RuntimeError for them."""
    problems = []
    for path in (*SCRIPTS, *MODULES):
        for node in ast.walk(parsed(path)):
            text = ast.unparse(node) if isinstance(node, ast.Call) else ""
            if text.endswith(".resolve()") and text != "Path(__file__).resolve()":
                problems.append(f"{at(path, node.lineno)}: .resolve(); use real_path of common/files.py")
    assert_none(problems)


# --- settings of scripts


def settings_of(path):
    """Names of a script's settings, and the line that ends its first screen: `settings = apply_command_line(...)`."""
    names = set()
    for node in parsed(path).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(targets[0], ast.Name) and targets[0].id == "settings":
            assert ast.unparse(node.value) == "apply_command_line(globals())", at(path, node.lineno)
            return names, node.end_lineno
        names |= {target.id for target in targets if isinstance(target, ast.Name) and target.id.isupper()}
    pytest.fail(f"{at(path, 1)}: no settings = apply_command_line(globals())")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_settings_are_read_once_and_never_rewritten(path):
    problems = []
    names, end = settings_of(path)
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Name) and node.id in names and node.lineno > end:
            what = f"read it as settings.{node.id}" if isinstance(node.ctx, ast.Load) else "is a setting, and rewritten"
            problems.append(f"{at(path, node.lineno)}: {node.id}: {what}")
        elif isinstance(node, ast.Global):
            problems.append(f"{at(path, node.lineno)}: global {', '.join(node.names)}")
    assert_none(problems)


def test_nobody_reads_or_writes_globals():
    """But each script once, for its settings."""
    problems = []
    for path in (*SCRIPTS, *MODULES):
        calls = [node for node in ast.walk(parsed(path)) if is_call_of(node, "globals")]
        allowed = 1 if path in SCRIPTS else 0
        problems += [f"{at(path, node.lineno)}: globals()" for node in calls[allowed:]]
    assert_none(problems)


def is_call_of(node, name):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


# --- sizes


def test_files_are_short():
    problems = []
    for path in (*SCRIPTS, *MODULES):
        count = len(path.read_text(encoding="utf-8").splitlines())
        limit = LONGEST.get(path.name, LONGEST_SCRIPT) if path in SCRIPTS else LONGEST_MODULE
        if count > limit:
            problems.append(f"{at(path, limit + 1)}: {count} lines, more than {limit}")
    assert_none(problems)


def test_functions_are_short():
    problems = []
    for path in (*SCRIPTS, *MODULES):
        code = lines_of_code(path)
        for node in ast.walk(parsed(path)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_network(path, node):
                continue
            count = sum(line in code for line in range(node.lineno, node.end_lineno + 1))
            if count > LONGEST_FUNCTION and f"{path.relative_to(ROOT)} {node.name}" not in PLAIN_LISTS:
                problems.append(f"{at(path, node.lineno)}: {node.name} has {count} lines, more than {LONGEST_FUNCTION}")
    assert_none(problems)


def is_network(path, node):
    return node.name == "build_model" and path.parent == ROOT / "models" and path.name != "__init__.py"


@cache
def lines_of_code(path):
    """Numbers of the lines that hold more than comments and docstrings."""
    numbers = set()
    no_code = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type not in no_code:
            numbers |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(parsed(path)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node) is not None:
            numbers -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return numbers


# --- docs/design.md


def test_the_modules_to_open_in_order_to_follow_train_py():
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    assert len(FOLLOW_TRAINING) <= 13
    missing = [name for name in FOLLOW_TRAINING if not (ROOT / name).is_file()]
    unnamed = [name for name in FOLLOW_TRAINING if f"`{name}`" not in design]
    assert not missing and not unnamed, f"missing: {missing}; not in docs/design.md: {unnamed}"


@pytest.mark.parametrize("page", ["design.md", "extending.md"])
def test_files_that_the_documentation_names_exist(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:common|models|losses|coreml|preprocess|data|tests|docs)/[\w/.]+\.\w+)`", text)
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    missing = [name for name in named if not (ROOT / name).exists()]
    missing += [link for link in links if not (ROOT / "docs" / Path(link)).exists()]
    assert named and not missing, f"docs/{page}: missing: {missing}"
