"""Running one script of the toolkit from another."""

import subprocess
import sys
from pathlib import Path

from common.command_line import flags_of
from common.errors import InputError

ROOT = Path(__file__).resolve().parents[1]


def call(script, *arguments, **settings):
    """Run a script; its output goes where ours goes.

    Args:
        script: path from the root of the project.
        arguments: further words of the command.
        settings: settings by name, given as flags.

    Raises:
        InputError: if it fails.
        KeyboardInterrupt: if Ctrl-C ended it.
    """
    command = [sys.executable, str(ROOT / script), *map(str, arguments), *flags_of(settings)]
    status = subprocess.run(command, check=False).returncode
    if status in (-2, 130):
        raise KeyboardInterrupt
    if status:
        raise InputError(f"{script} failed with exit status {status}; its message stands above")
