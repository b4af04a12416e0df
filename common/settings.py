"""The UPPER_CASE constants of a script are its settings, and its settings are its flags.

A script sets its constants and then calls `settings = apply_command_line(globals())`. From there on it reads
`settings.BATCH_SIZE`, which never changes. An annotation says what a setting takes (`common.setting_types`);
without one it is the type of the default:

    BATCH_SIZE = 8                        # images a step
    MAX_MINUTES: Positive | None = None   # stop after so long; None: never
"""

import ast
import difflib
import json
import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from common.command_line import flag, make_parser
from common.errors import InputError, SettingError, report_error
from common.files import ROOT
from common.setting_checks import alternatives, check
from common.setting_types import MODEL_SETTINGS

REASONS = "reasons"  # key of a settings file: dict of a setting to why it is what it is
RETIRED = ("CHOOSE", "CLEANINGS")  # settings that a script had in earlier versions; its settings files may hold them


@dataclass(frozen=True, repr=False)
class Settings:
    """Settings of a script, read as attributes: `settings.BATCH_SIZE`. They never change.

    Attributes:
        script: Path of the script.
        annotations: mapping of every name to its type.
        values: mapping of every name to its value; lists, never tuples.
        reasons: mapping of a name to why it is what it is, as text, if that is not the constant in the script.
        given: frozenset of the names that the user set by a flag or a settings file.
    """

    script: Path
    annotations: MappingProxyType
    values: MappingProxyType
    reasons: MappingProxyType
    given: frozenset

    @classmethod
    def of(cls, script, **changes):
        """Settings of a script without running it: its constants, and changes that are checked as flags are.

        Args:
            script: path from the root of the project, or absolute.
            changes: settings by name.

        Raises:
            SettingError: for an unknown name or a value that its type does not take.
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
            raise AttributeError(f"no setting is called {name}") from None

    def replace(self, reason, **changes):
        """New settings with other values, which are taken as they are.

        Args:
            reason: why, as text, for `reasons`.
            changes: values by name.
        """
        if unknown := changes.keys() - self.values.keys():
            raise AttributeError(f"no setting is called {min(unknown)}")
        reasons = {**self.reasons, **dict.fromkeys(changes, reason)}
        return replace(self, values=MappingProxyType(self.values | changes), reasons=MappingProxyType(reasons))

    def with_given(self, changes, reason, where=""):
        """New settings with values that the user gave, checked; the names count as given.

        Args:
            changes: dict of names to values, or to text that reads as one.
            reason: as `replace`.
            where: what comes before the name in a message, such as "settings.json: ".

        Raises:
            SettingError: for an unknown name or a value that its type does not take.
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
        """New settings with those of a file that `as_json` filled; names that the script no longer has are skipped.

        Args:
            path: JSON file.
            keep: names that stay as they are.

        Raises:
            InputError: if the file is damaged or holds values of the wrong type.
        """
        recorded = {name: v for name, v in read_settings(path).items() if name in self.annotations and name not in keep}
        try:
            return replace(self.with_given(recorded, f"recorded in {path}", f"{path}: "), given=self.given)
        except SettingError as error:
            raise InputError(str(error)) from None

    def as_json(self):
        """Settings for a JSON file that `--settings` replays: dict of names to values that JSON keeps.

        A dict with keys other than text becomes its literal.
        """
        return {name: _to_json(value) for name, value in self.values.items()}

    def explained(self):
        """`as_json`, and under REASONS a dict of every name to why its value is what it is."""
        constant = f"constant in {self.script.name}"
        return self.as_json() | {REASONS: {name: self.reasons.get(name, constant) for name in self.values}}


def read_settings(path):
    """Settings of a file that `Settings.as_json` or `Settings.explained` filled, without the reasons.

    Returns:
        dict of names to values.

    Raises:
        InputError: if the file cannot be read or is no JSON object.
    """
    try:
        recorded = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not a JSON file") from None
    if not isinstance(recorded, dict):
        raise InputError(f"{path}: expected a JSON object of settings")
    return {name: value for name, value in recorded.items() if name != REASONS}


def apply_command_line(namespace):
    """Read the settings of a script: its UPPER_CASE constants, a settings file and flags, in this order.

    `--batch-size 4` sets BATCH_SIZE; `--replace` and `--no-replace` set a bool; lists and dicts are written as
    Python literals. `--settings FILE.json` sets what it holds, and flags win over it. An unknown name or a value that
    its type does not take ends with one line and exit status 2. In a module that is imported no flags are read.

    Args:
        namespace: `globals()` of the script. Its uncaught errors are shown as `common.errors` says.

    Returns:
        Settings.
    """
    if namespace["__name__"] != "__main__":
        return _of_constants(namespace)
    sys.excepthook = report_error
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
            settings = settings.with_given(recorded, f"settings file {file}", f"--settings {file}: ")
        for name, text in flags.items():
            settings = settings.with_given({name: text}, f"flag {flag(name)}")
    except SettingError as error:
        parser.error(str(error))
    except InputError as error:
        parser.error(f"--settings {error}")
    return settings


def check_model_settings(settings):
    """Check MODEL_SETTINGS of train.py against the settings of its network, as far as they are known.

    Raises:
        SettingError: for an unknown name or a value that does not suit.
    """
    if kind := MODEL_SETTINGS.get(settings.MODEL):
        check_setting(settings.MODEL_SETTINGS, kind, "MODEL_SETTINGS")


def check_setting(value, annotation, name):
    """Value of a setting, checked against a type other than its annotation.

    Raises:
        SettingError: if the type does not take it.
    """
    try:
        return check(value, annotation)
    except ValueError as error:
        raise SettingError(f"{name}: {error}") from None


def require_folder(path, setting):
    """Path of a folder that must be there.

    Args:
        path: text or path; empty text stands for a setting that was left open.
        setting: name of the setting that holds it, for the message.

    Raises:
        InputError: if there is no such folder.
    """
    if not str(path):
        raise InputError(f"{setting} is not set; give {flag(setting)} a folder")
    path = Path(path)
    if not path.is_dir():
        kind = "is a file, not a folder" if path.exists() else "does not exist"
        raise InputError(f"{setting}: {path} {kind}; give {flag(setting)} an existing folder")
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
    """Check a value, or text that stands for one.

    Args:
        value: anything; of text the first reading that the type takes counts, and text itself last.
        annotation: type.

    Raises:
        ValueError: if the type takes none of the readings.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        return check(value, annotation)
    kinds = {getattr(kind, "__origin__", kind) for kind in alternatives(annotation)}
    readings = list(_readings(value))
    nested = next((reading for reading in readings if isinstance(reading, list | tuple | dict)), None)
    if nested is not None and kinds != {str}:  # brackets are no text where a list or a dict may stand
        return check(nested, annotation)
    for reading in [*readings, value]:
        try:
            return check(reading, annotation)
        except ValueError:
            continue
    return check(readings[0] if readings and str not in kinds else value, annotation)  # raises


def _readings(text):
    """Values, other than text, that a text can stand for."""
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
