"""Modules that the scripts share."""

import sys


def _name_missing_package(kind, error, trace):
    """Hook for `sys.excepthook` until a script has its own: say in one line that a package is not installed."""
    if issubclass(kind, ModuleNotFoundError):
        script = sys.argv[0].replace("\\", "/").rpartition("/")[2]
        print(f"{script}: error: {missing_package(error)}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def missing_package(error):
    """What to do about a ModuleNotFoundError, as text."""
    activate = r".venv\Scripts\Activate.ps1" if sys.platform == "win32" else ". .venv/bin/activate"
    return (
        f"{error.name}: package is not installed for {sys.executable}; activate the environment ({activate}), or "
        "install it: pip install -r requirements.txt"
    )


if sys.excepthook is sys.__excepthook__:
    sys.excepthook = _name_missing_package
