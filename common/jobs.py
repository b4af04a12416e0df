"""Run another script."""

from common.child import child
from common.command_line import flags_of
from common.errors import InputError
from common.files import ROOT


def call(script, *arguments, **settings):
    """Run a script; it shares our standard output, and ends when this process does.

    Args:
        script: path relative to the project root.
        arguments: additional command-line arguments.
        settings: settings by name, passed as flags.

    Raises:
        InputError: if the script fails.
        KeyboardInterrupt: if Ctrl-C ended it.
    """
    with child(ROOT / script, [*map(str, arguments), *flags_of(settings)]) as process:
        status = process.wait()
    if status in (-2, 130):
        raise KeyboardInterrupt
    if status:
        raise InputError(f"{script}: failed (exit status {status}); see its message above")
