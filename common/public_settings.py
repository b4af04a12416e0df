"""Settings for files that are passed on, such as reports and models: without paths of this machine and its user."""

import ntpath
import os
import re
from pathlib import Path

PRIVATE = ("NAMES_TABLE", "WORKERS")  # the table identifies patients; workers do not change an output
ABSOLUTE_PATH = re.compile(r"(?<!\S)(?:[A-Za-z]:[\\/]|[\\/]|\.\.[\\/])[^\n]*[\\/]")  # up to the last name


def public_settings(settings, hidden=()):
    """Settings of a script as JSON, to record in a file that is passed on.

    Args:
        settings: `common.settings.Settings`.
        hidden: names of settings to leave empty, since their value could identify a patient.

    Returns:
        dict of setting name to JSON value; PRIVATE ones are empty, and paths are as in `without_own_paths`. REPLACE is
        left out: whether there was an output before does not change the new one.
    """
    own = {name: "" for name in (*hidden, *PRIVATE) if name in settings.values}
    recorded = {name: value for name, value in settings.as_json().items() if name != "REPLACE"}
    return without_own_paths(recorded) | own


def without_own_paths(value):
    """Shorten the paths in a JSON value: relative if inside the working folder, otherwise only their last name.

    Args:
        value: text, a list or a dict with such values, or anything else, which is returned unchanged.
    """
    if isinstance(value, dict):
        return {key: without_own_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_own_paths(item) for item in value]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        return value
    return _short(value) if _leaves_working_folder(value) else ABSOLUTE_PATH.sub("", value)


def _leaves_working_folder(text):
    return os.path.isabs(text) or ntpath.isabs(text) or Path(text).parts[:1] == ("..",)


def _short(path):
    path = os.path.normpath(path)
    if os.path.isabs(path):
        if os.path.normcase(path) == os.path.normcase(os.path.expanduser("~")):
            return "~"
        if Path(path).is_relative_to(Path.cwd()):
            return Path(path).relative_to(Path.cwd()).as_posix()
    return re.split(r"[\\/]", path)[-1]
