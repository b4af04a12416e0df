"""Settings in which recorded runs differ, as text for a table."""

import json
import os

from common.public_settings import without_own_paths
from common.streams import one_line

NO_CHOICE = ("RUNS", "TRUST_RUN")  # settings that do not change a training
LONGEST = 200  # characters of a text
MOST_SETTINGS = 40  # columns
MISSING = object()  # no value; None is one


def shortened(text):
    """Text in one line, cut off if it is long; other values as Python writes them."""
    text = one_line(str(text))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def differing_settings(entries):
    """Settings in which entries differ.

    A dict counts by its keys if all entries have dicts. A setting that an older run lacks is no difference.

    Args:
        entries: list of `common.evaluation.comparison.Entry`.

    Returns:
        dict of a setting, or "SETTING: key", to the list of its values as text, "" if missing; paths as in
        `without_own_paths`.
    """
    known = [entry.settings for entry in entries if entry.settings]
    columns = {}
    for name in dict.fromkeys(name for settings in known for name in settings if name not in NO_CHOICE):
        values = [entry.settings.get(name, MISSING) for entry in entries]
        present = [value for value in values if value is not MISSING]
        if all(isinstance(value, dict) for value in present):
            for key in dict.fromkeys(key for value in present for key in value):
                inside = [value.get(key, MISSING) if isinstance(value, dict) else MISSING for value in values]
                if len({_identity(value.get(key, MISSING)) for value in present}) > 1:
                    columns[shortened(f"{name}: {key}")] = values_as_text(inside)
        elif len(set(map(_identity, present))) > 1:
            columns[shortened(name)] = values_as_text(values)
    return dict(list(columns.items())[:MOST_SETTINGS])


def values_as_text(values):
    """JSON values, or MISSING, as text that anybody may read; different paths of one name get numbers."""
    shown = [_as_text(without_own_paths(value)) for value in values]
    alike = {}
    for text, value in zip(shown, values, strict=True):
        alike.setdefault(text, {}).setdefault(_identity(value), len(alike.get(text, {})) + 1)
    return [
        f"{text} ({alike[text][_identity(value)]})" if len(alike[text]) > 1 else text
        for text, value in zip(shown, values, strict=True)
    ]


def _as_text(value):
    """A value as Python writes it, but text without quotes."""
    if value is MISSING:
        return ""
    return f"{value:g}" if isinstance(value, float) else shortened(value)


def _identity(value):
    """Text that is equal for equal values; for relative and absolute paths of one file too."""
    if value is MISSING:
        return ""
    return json.dumps(os.path.abspath(value) if isinstance(value, str) and os.sep in value else value, sort_keys=True)
