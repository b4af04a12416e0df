"""Messages, help and documents keep to the glossary of CONTRIBUTING.md, as far as words alone can tell."""

import ast
import itertools
import re

import pytest
from running import ROOT, SCRIPTS

from common.command_line import comments_of
from common.words import number_of

AVOIDED = {
    "is named": r"\b(is|are) named\b",
    "that of": r"\b(that|those) of\b",
    "goes on": r"\bgo(es)? on\b",
    "stands": r"\bstands?\b(?! for| alone)",
    "anew": r"\banew\b",
    "beside": r"\bbesides?\b",
    "grey": r"\bgr[e]y\b",
    "drop-out": r"\bdrop-out\b",
    "picture": r"\bpictures?\b",
    "greatest": r"\bgreatest\b",
    "so many": r"\bso (many|much|few)\b",
    "write over": r"\bwrites? over\b",
}
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), ROOT / "CHANGELOG.md"]
TEMPLATES = sorted(ROOT.glob("common/**/*.jinja"))
OUTSIDE = {"tests", ".venv", "work", "runs", "study"}
MODULES = sorted(path for path in ROOT.rglob("*.py") if not OUTSIDE & set(path.relative_to(ROOT).parts))


def avoided(text):
    return [f"{word!r} in {text[:90]!r}" for word, pattern in AVOIDED.items() if re.search(pattern, text, re.I)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_words_of_documents(page):
    """Outside of commands and names in code quotes."""
    text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", page.read_text(encoding="utf-8"), flags=re.S)
    found = [f"line {n}: {hit}" for n, line in enumerate(text.splitlines(), 1) for hit in avoided(line)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_words_of_page_templates(template):
    """The text of reports, without tags, Jinja's expressions and scripts."""
    text = re.sub(
        r"\{[{%#].*?[}%#]\}|<(script|style).*?</\1>|<[^>]*>", " ", template.read_text(encoding="utf-8"), flags=re.S
    )
    found = [hit for line in text.splitlines() for hit in avoided(line)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_words_of_plots(module):
    """Titles, labels and legends are texts too, even of one word."""
    plotted = {
        "set_title",
        "set_xlabel",
        "set_ylabel",
        "set",
        "title",
        "suptitle",
        "text",
        "annotate",
        "legend",
        "plot",
    }
    found = []
    for call in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in plotted:
            texts = [n.value for n in ast.walk(call) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            found += [f"line {call.lineno}: {hit}" for text in texts for hit in avoided(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("script", SCRIPTS)
def test_words_of_help(script):
    texts = [ast.get_docstring(ast.parse((ROOT / script).read_text(encoding="utf-8")))]
    texts += [text for comment in comments_of(ROOT / script).values() for text in comment]
    found = [hit for text in texts for line in text.splitlines() for hit in avoided(line)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_words_of_messages(module):
    """Texts with a space in them that are no docstrings."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    docstrings = {id(n.body[0].value) for n in ast.walk(tree) if isinstance(n, DOCUMENTED) and _has_docstring(n)}
    texts = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    texts = [n for n in texts if " " in n.value.strip() and id(n) not in docstrings]
    found = [f"line {n.lineno}: {hit}" for n in texts for hit in avoided(n.value)]
    assert not found, "\n".join(found)


NOUNS = "cases|channels|characters|classes|crops|devices|epochs|features|files|folders|folds|GPUs|images|labels"
NOUNS += "|layers|lists|machines|masks|models|networks|nodules|pairs|parts|pixels|processes|rows|runs|scans|sets|shards"
NOUNS += "|slices|steps|trials|values|variants|volumes|voxels"
COUNTS = r"(len|sum|int)\(|(\w+\.)*(count|counts|number|total|n|epochs|processes|channels|classes)$"
ALWAYS_SEVERAL = {
    ("common/setting_checks.py", "characters"),
    ("common/slices/hdf5.py", "values"),  # more than a limit
    ("common/slices/lists.py", "folds"),
    ("common/training/cross_validation.py", "folds"),
    ("common/training/distribution.py", "GPUs"),
    ("common/training/distribution.py", "devices"),
    ("common/training/distribution.py", "processes"),
    ("common/training/report.py", "classes"),
    ("common/training/training_log.py", "epochs"),
    ("coreml/kernels.py", "pixels"),
    ("predict.py", "masks"),  # of several parts
    ("predict.py", "parts"),
    ("preprocess/2_write_lists.py", "classes"),
    ("preprocess/3_pack_hdf5.py", "shards"),  # 1 of 3 shards
}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_numbers_fit_their_nouns(module):
    """ "1 cases" is not written: a count goes through `number_of`, if it is not always several."""
    found = []
    for text in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        for value, after in itertools.pairwise(text.values if isinstance(text, ast.JoinedStr) else ()):
            if isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant):
                noun = re.match(rf" (?:[a-z-]+ ){{0,2}}({NOUNS})\b", after.value)
                counts = re.match(COUNTS, ast.unparse(value.value))
                if noun and counts and (module.relative_to(ROOT).as_posix(), noun[1]) not in ALWAYS_SEVERAL:
                    found.append(f"line {text.lineno}: {{{ast.unparse(value.value)}}}{noun[0]}")
    assert not found, "use number_of of common/words.py:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("count", "words", "text"),
    [(0, ["case"], "0 cases"), (1, ["case"], "1 case"), (1200, ["class", "classes"], "1200 classes")],
)
def test_number_of(count, words, text):
    assert number_of(count, *words) == text


DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _has_docstring(node):
    return ast.get_docstring(node) is not None
