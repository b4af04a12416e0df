"""Whose code may run: a run folder, a settings file or a checkpoint may come from somebody else.

Code is trusted by its content. Trusted are the .py files that the user's command refers to, by MODEL or LOSS as a flag
or as the constant of the script, and everything with the flag TRUST_RUN. A path in a settings file or in a run folder
is trusted only if its content is. Files of earlier commands do not count: a stranger's run folder can contain a copy of
them, and its models decide which arguments they get.
"""

import os
import re

from common.command_line import as_typed, flag, flags_of
from common.errors import InputError
from common.files import file_digest

VARIABLE = "SEGMENTATION_TRUSTED_CODE"  # digests for the scripts that a script starts, joined by commas; or EVERYTHING
EVERYTHING = "everything"
SETTINGS = ("MODEL", "MODELS", "LOSS", "LOSSES")  # settings that refer to files with code


def own_files(value):
    """Paths of the .py files in the value of a setting: a name, a sum such as "my.py+dice", or a list of these."""
    texts = value if isinstance(value, list) else [value]
    return [term for text in texts for term in str(text).split("+") if term.endswith(".py")]


def trust_command(settings):
    """Trust the code that the user's command refers to, in this process and in the scripts that it starts.

    Args:
        settings: `common.settings.Settings` of the script.

    Raises:
        InputError: if a settings file refers to code that is not trusted.
    """
    from_file = [name for name in (*SETTINGS, "TRUST_RUN") if settings.is_from_file(name)]
    if settings.values.get("TRUST_RUN") and "TRUST_RUN" not in from_file:
        os.environ[VARIABLE] = EVERYTHING
    files = {name: own_files(settings.values[name]) for name in SETTINGS if name in settings.values}
    if "LOSS" not in settings.values and "MODEL" not in from_file:  # a script to which MODEL says only what to trust
        require_own_file(settings.values.get("MODEL"))
    trust([file for name in files if name not in from_file for file in files[name]])
    for name in files.keys() & set(from_file):
        for file in filter(os.path.isfile, files[name]):  # if missing, the script says so
            require_trusted(file, name, settings.reasons[name])


def require_own_file(path):
    """Raise InputError for a MODEL that is set and is not an existing .py file."""
    if path and not (path.endswith(".py") and os.path.isfile(path)):
        raise InputError(f"MODEL: not an existing .py file (found {path}); pass your own network file, or leave it out")


def flags_to_trust(settings):
    """Flags with which a later command trusts the user's own files in settings, as text to print; "" without any."""
    own = {name: settings.values[name] for name in ("MODEL", "LOSS") if own_files(settings.values[name])}
    return "".join(f" {as_typed(argument)}" for argument in flags_of(own))


def trust(files):
    """Trust .py files, a list of paths; missing ones are ignored."""
    digests = [file_digest(file) for file in files if os.path.isfile(file)]
    if os.environ.get(VARIABLE) != EVERYTHING:
        known = filter(None, os.environ.get(VARIABLE, "").split(","))
        os.environ[VARIABLE] = ",".join(dict.fromkeys([*known, *digests]))


def require_trusted(file, setting, where):
    """Raise InputError unless the content of a file is trusted.

    Args:
        file: path of a .py file.
        setting: "MODEL" or "LOSS", for which the file is used.
        where: what refers to it, as text.
    """
    digest = file_digest(file)
    if os.environ.get(VARIABLE) == EVERYTHING or digest in os.environ.get(VARIABLE, "").split(","):
        return
    raise InputError(
        f"{file}: code that your command does not refer to ({where}); read it, then pass your own copy of it as "
        f"{flag(setting)}, or pass --trust-run"
    )


def trusted_copy(folder, path, setting):
    """Find the copy of a user's file that a run keeps.

    Args:
        folder: Path of the copies, `code` of the run folder.
        path: path of the file in training, on any system; only its name counts.
        setting: "MODEL" or "LOSS".

    Returns:
        Path.

    Raises:
        InputError: if it is missing or not trusted.
    """
    copy = folder / re.split(r"[/\\]", path)[-1]
    if not copy.is_file():
        raise InputError(f"{copy}: file does not exist (the run was trained with {path}); restore it from a copy")
    require_trusted(copy, setting, f"a file in the run folder {folder.parent}")
    return copy
