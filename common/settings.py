"""The UPPER_CASE constants of a script are its settings, and its settings are its flags.

A script sets its constants and then calls `settings = apply_command_line(globals())`. After that, it reads
`settings.BATCH_SIZE`, which never changes. An annotation defines the accepted values (`common.setting_types`);
without one, the type of the default counts:

    BATCH_SIZE = 8                        # images per step
    MAX_MINUTES: Positive | None = None   # time limit; None: no limit
"""

import ast
import atexit
import difflib
import gc
import os
import re
import sys
import threading
import typing
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from common.command_line import flag, make_parser
from common.errors import InputError, SettingError, ignore_in_thread, ignore_unraisable, report_and_end
from common.files import ROOT, read_json
from common.setting_checks import alternatives, check
from common.setting_types import MODEL_SETTINGS
from common.streams import prepare

FORMAT = "format"  # key in a settings file: version
SETTINGS_FILE = "settings file"  # first words of the reason for a value from `--settings`
REASONS = "reasons"  # key in a settings file: dict of setting name to the reason for its value
RETIRED = ("CHOOSE", "CLEANINGS")  # settings of earlier versions, which old settings files may contain


@dataclass(frozen=True, repr=False)
class Settings:
    """Immutable settings of a script, read as attributes: `settings.BATCH_SIZE`.

    Attributes:
        script: Path of the script.
        annotations: mapping of setting name to type.
        values: mapping of setting name to value; lists, never tuples.
        reasons: mapping of setting name to the reason for its value, as text, unless it is the constant in the script.
        given: frozenset of the names that the user set by a flag or a settings file.
    """

    script: Path
    annotations: MappingProxyType
    values: MappingProxyType
    reasons: MappingProxyType
    given: frozenset

    @classmethod
    def of(cls, script, **changes):
        """Load the settings of a script without running it, with changes checked like flags.

        Args:
            script: path relative to the project root, or absolute.
            changes: new values by setting name.

        Raises:
            SettingError: for an unknown name or a value that does not fit its type.
        """
        path = ROOT / script
        constants = {"__name__": path.stem, "__file__": str(path)}
        body = ast.parse(path.read_text(encoding="utf-8")).body
        end = next(i for i, node in enumerate(body) if f"{apply_command_line.__name__}(" in ast.unparse(node))
        exec(compile(ast.Module(body[:end], []), str(path), "exec"), constants)
        return _of_constants(constants).with_given(changes, "given")

    def __getattr__(self, name):
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(f"unknown setting {name}") from None

    def replace(self, reason, **changes):
        """Copy the settings with other values, without checks.

        Args:
            reason: reason for the change, as text, for `reasons`.
            changes: new values by setting name.
        """
        if unknown := changes.keys() - self.values.keys():
            raise AttributeError(f"unknown setting {min(unknown)}")
        reasons = {**self.reasons, **dict.fromkeys(changes, reason)}
        return replace(self, values=MappingProxyType(self.values | changes), reasons=MappingProxyType(reasons))

    def with_given(self, changes, reason, where=""):
        """Copy the settings with values from the user: check them and record their names in `given`.

        Args:
            changes: dict of setting name to value, or to text that reads as one.
            reason: as in `replace`.
            where: prefix of error messages, such as "settings.json: ".

        Raises:
            SettingError: for an unknown name or a value that does not fit its type.
        """
        checked = {}
        for name, value in changes.items():
            if name not in self.annotations:
                near = difflib.get_close_matches(str(name), self.annotations, n=1)
                raise SettingError(f"{where}unknown setting {name}" + (f" (did you mean {near[0]}?)" if near else ""))
            try:
                checked[name] = read_value(value, self.annotations[name])
            except ValueError as error:
                raise SettingError(f"{where}{name}: {error}") from None
        return replace(self.replace(reason, **checked), given=self.given | checked.keys())

    def with_recorded(self, path, keep=()):
        """Copy the settings with the values of a file from `as_json`; names that no longer exist are skipped.

        Args:
            path: JSON file.
            keep: names of settings to keep unchanged.

        Raises:
            InputError: if the file is damaged or contains values of the wrong type.
        """
        recorded = {name: v for name, v in read_settings(path).items() if name in self.annotations and name not in keep}
        try:
            return replace(self.with_given(recorded, f"recorded in {path}", f"{path}: "), given=self.given)
        except SettingError as error:
            raise InputError(str(error)) from None

    def is_from_file(self, name):
        """Whether the value of a setting comes from the file of `--settings`."""
        return self.reasons.get(name, "").startswith(SETTINGS_FILE)

    def is_flag(self, name):
        """Whether the user set a setting in this command, not in a settings file."""
        return name in self.given and not self.is_from_file(name)

    def as_json(self):
        """Convert to a dict for a JSON file, which `--settings` can read.

        A dict with keys other than text becomes a Python literal.
        """
        return {name: _to_json(value) for name, value in self.values.items()}

    def explained(self):
        """`as_json`, plus FORMAT and REASONS: a dict of every setting name to the reason for its value."""
        constant = f"constant in {self.script.name}"
        return (
            {FORMAT: 1} | self.as_json() | {REASONS: {name: self.reasons.get(name, constant) for name in self.values}}
        )


def read_settings(path):
    """Read a settings file from `Settings.as_json` or `Settings.explained`, without the reasons.

    Returns:
        dict of setting name to value.

    Raises:
        InputError: if the file cannot be read or is not a JSON object.
    """
    recorded = read_json(path)
    if not isinstance(recorded, dict):
        raise InputError(f"{path}: expected a JSON object of settings")
    return {name: value for name, value in recorded.items() if name not in (REASONS, FORMAT)}


def apply_command_line(namespace):
    """Read the settings of a script: its UPPER_CASE constants, a settings file and flags, in this order.

    `--batch-size 4` sets BATCH_SIZE; `--replace` and `--no-replace` set a bool; lists and dicts are Python literals.
    `--settings FILE.json` sets the values in the file, and flags override them. An unknown name or an invalid value
    prints one line and exits with status 2. Imported modules read no flags.

    Args:
        namespace: `globals()` of the script. `common.errors` prints its uncaught errors.

    Returns:
        Settings.
    """
    if namespace["__name__"] != "__main__":
        return _of_constants(namespace)
    prepare()
    sys.excepthook = report_and_end
    sys.unraisablehook, threading.excepthook = ignore_unraisable, ignore_in_thread
    atexit.register(gc.freeze)  # Python looks for cyclic garbage once more at its end: a second with TensorFlow
    constants = {name: value for name, value in namespace.items() if _is_setting(name)}
    parser = make_parser(namespace, constants)
    flags = vars(parser.parse_args())
    file = flags.pop("settings")
    try:
        settings = _of_constants(namespace)
        if file is not None:
            recorded = read_settings(file)
            retired = {name for name in recorded if name in RETIRED and name not in constants}
            recorded = {name: value for name, value in recorded.items() if name not in retired}
            settings = settings.with_given(recorded, f"{SETTINGS_FILE} {file}", f"--settings {file}: ")
        for name, text in flags.items():
            settings = settings.with_given({name: text}, f"flag {flag(name)}")
    except SettingError as error:
        parser.error(str(error))
    except InputError as error:
        parser.error(f"--settings {error}")
    from common.replacing import finish_interrupted  # loads pydantic; not for --help

    finish_interrupted(*[value for value in settings.values.values() if isinstance(value, str)])
    return settings


def check_model_settings(settings):
    """Check MODEL_SETTINGS of train.py against the network, if its settings are known.

    Raises:
        SettingError: for an unknown name or an invalid value.
    """
    if kind := MODEL_SETTINGS.get(settings.MODEL or "unet"):
        check_setting(settings.MODEL_SETTINGS, kind, "MODEL_SETTINGS")


def check_setting(value, annotation, name):
    """Check the value of a setting against a type other than its annotation, and return it.

    Raises:
        SettingError: if the value does not fit the type.
    """
    try:
        return check(value, annotation)
    except ValueError as error:
        raise SettingError(f"{name}: {error}") from None


def refuse_unused(settings, defaults, reason):
    """Raise SettingError if a setting that has no effect here is set.

    Args:
        settings: `Settings`.
        defaults: dict of setting names to their values in the script.
        reason: why they have none, for the message.
    """
    for name, default in defaults.items():
        if (value := settings.values[name]) != default:
            raise SettingError(f"{name}: {reason} (found {value!r}); leave it at {default!r}")


def require_folder(path, setting):
    """Path of a folder that must exist.

    Args:
        path: text or path; empty text means that the setting is not set.
        setting: setting name for the message.

    Raises:
        InputError: if the folder does not exist.
    """
    if not str(path):
        raise InputError(f"{setting}: not set; pass a folder as {flag(setting)}")
    path = Path(path)
    if not path.is_dir():
        kind = "is a file, not a folder" if path.exists() else "does not exist"
        raise InputError(f"{setting}: {path} {kind}; pass an existing folder as {flag(setting)}")
    return path


def _is_setting(name):
    return re.fullmatch(r"[A-Z][A-Z0-9_]*", name) is not None


def _of_constants(namespace):
    annotations = namespace.get("__annotations__", {})
    annotations = {name: annotations.get(name, type(v)) for name, v in namespace.items() if _is_setting(name)}
    values = {name: check_setting(namespace[name], kind, name) for name, kind in annotations.items()}
    mappings = map(MappingProxyType, (annotations, values, {}))
    return Settings(Path(namespace["__file__"]), *mappings, frozenset())


def _to_json(value):
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            return repr(value)
        return {key: _to_json(item) for key, item in value.items()}
    return [_to_json(item) for item in value] if isinstance(value, list) else value


# --- from text


def read_value(value, annotation):
    """Check a value, or text that represents one.

    Args:
        value: any value. Text counts as the first reading that fits the type; the last reading is the text itself.
        annotation: type.

    Raises:
        ValueError: if no reading fits the type.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        return check(value, annotation)
    choices = [kind for kind in alternatives(annotation) if typing.get_origin(kind) is typing.Literal]
    if any(value in typing.get_args(kind) for kind in choices):
        return value  # also a choice called "none"
    kinds = {getattr(kind, "__origin__", kind) for kind in alternatives(annotation)}
    readings = list(_readings(value))
    nested = next((reading for reading in readings if isinstance(reading, list | tuple | dict)), None)
    if nested is not None and kinds != {str}:  # brackets mean a list or a dict if the type allows one
        return check(nested, annotation)
    for reading in [*readings, value]:
        try:
            return check(reading, annotation)
        except ValueError:
            continue
    return check(readings[0] if readings and str not in kinds else value, annotation)  # raises


def _readings(text):
    """Values, other than text, that a text can represent."""
    word = text.strip().lower()
    if word in ("none", "null"):
        yield None
    if word in ("true", "false"):
        yield word == "true"
    try:
        literal = ast.literal_eval(text)
        if not isinstance(literal, str):
            yield literal
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    for number in (int, float):
        try:
            yield number(text)
        except ValueError:
            continue
