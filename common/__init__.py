"""Modules that the scripts share."""

import sys

STOPPED = "stopped by Ctrl-C; left no incomplete files"


def report_early_error(kind, error, trace):
    """Hook for `sys.excepthook` until a script has its own: a missing package and Ctrl-C are one line."""
    script = sys.argv[0].replace("\\", "/").rpartition("/")[2]
    if issubclass(kind, KeyboardInterrupt):
        print(f"\n{script}: {STOPPED}", file=sys.stderr)
    elif issubclass(kind, ModuleNotFoundError):
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
    sys.excepthook = report_early_error
