"""Check values against setting types with pydantic, and describe types in messages.

pydantic is loaded only to check a value, so that `--help` is fast.
"""

import math
import re
import types
import typing
from typing import Annotated, Any, Literal, NotRequired

from annotated_types import Ge, Gt, Le, Len, Lt
from typing_extensions import is_typeddict

MOST_SLASHES = 400  # of a text; Python makes and removes nested folders by recursion
HOME = re.compile(r"~$|~[\w.-]*[/\\]")  # some libraries take it for a home folder, and others for a name
SHOWN = 10**9  # larger limits are in a message only if a value is beyond them
STRICT = {"strict": True, "extra": "forbid", "allow_inf_nan": False}  # pydantic configuration


class Rule:
    """A condition on a value of a type, for `Annotated`.

    Args:
        words: expected value, for messages; replaces the description of the type.
        holds: function of a value to whether the value is valid.
    """

    def __init__(self, words, holds):
        self.words, self.holds = words, holds

    def __get_pydantic_core_schema__(self, source, handler):
        from pydantic_core import core_schema  # only to check a value

        def check(value):
            if not self.holds(value):
                raise ValueError(self.words)
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))


def strict(kind):
    """Decorator for a TypedDict: no other keys, no conversion of values."""
    kind.__pydantic_config__ = STRICT
    return kind


def check(value, annotation):
    """Check a value against an annotation.

    Args:
        value: value of a setting; a tuple counts as a list.
        annotation: type, as in `common.setting_types`.

    Returns:
        The value, with whole numbers as float if the type is float.

    Raises:
        ValueError: with expected and found value, in one line.
    """
    from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError  # 0.1 s, not for --help

    try:
        value = _lists(value)
        if unusable := _unusable_part(value):
            raise ValueError(f"{unusable} (found {_short(value)})")
    except RecursionError:
        raise ValueError(f"expected {describe(annotation)} (found lists or dicts nested too deeply)") from None
    try:
        adapter = TypeAdapter(annotation) if is_typeddict(annotation) else TypeAdapter(annotation, config=STRICT)
    except PydanticSchemaGenerationError as error:
        raise TypeError(f"no type for a setting: {annotation}") from error
    try:
        return adapter.validate_python(value)
    except (ValidationError, RecursionError, OverflowError):
        raise ValueError(_problem(value, annotation)) from None


def _problem(value, annotation):
    """Problem with a value, as text; for a dict with known keys, the key too."""
    for kind in alternatives(annotation):
        if isinstance(value, dict) and is_typeddict(kind):
            hints = typing.get_type_hints(kind, include_extras=True)
            for key, item in value.items():
                if key not in hints:
                    return f"unknown key {_short(key)}; expected {', '.join(hints)}"
                is_optional = typing.get_origin(hints[key]) is NotRequired
                try:
                    check(item, typing.get_args(hints[key])[0] if is_optional else hints[key])
                except ValueError as error:
                    return f"{key}: {error}"
            if missing := kind.__required_keys__ - value.keys():
                return f"missing key {min(missing)!r} (found {_short(value)})"
    found = value if isinstance(value, list) else [value]
    is_large = any(isinstance(item, int | float) and not abs(item) < SHOWN for item in found)
    return f"expected {describe(annotation, math.inf if is_large else SHOWN)} (found {_short(value)})"


def alternatives(annotation):
    """Members of a union, or the type itself in a list."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return [kind for part in typing.get_args(annotation) for kind in alternatives(part)]
    return [annotation]


def describe(annotation, largest=SHOWN):
    """Describe in words which values an annotation accepts; limits up to `largest` are shown."""
    *first, last = dict.fromkeys(_describe_one(kind, largest) for kind in alternatives(annotation))
    return f"{', '.join(first)} or {last}" if first else last


def _describe_one(kind, largest):
    if kind is None or kind is type(None):
        return "None"
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _describe_constrained(largest, *arguments)
    if origin is Literal:
        *first, last = [repr(choice) for choice in arguments]
        return f"{', '.join(first)} or {last}" if first else last
    if origin is NotRequired:
        return describe(arguments[0], largest)
    if is_typeddict(kind):
        keys = list(typing.get_type_hints(kind))
        return f"a dict with the keys {', '.join(keys[:6])}{', ...' if len(keys) > 6 else ''}"
    if origin is list:
        return _describe_list(describe(arguments[0], largest))
    if origin is dict:
        return "a dict such as \"{'key': 1}\""
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Any: "any value"}
    return names.get(kind, {list: "a list", dict: "a dict"}.get(kind, str(kind)))


def _describe_constrained(largest, kind, *conditions):
    if rule := next((condition for condition in conditions if isinstance(condition, Rule)), None):
        return rule.words
    words, length = describe(kind, largest), next((c for c in conditions if isinstance(c, Len)), None)
    if length:
        count = f"{length.min_length}" if length.min_length == length.max_length else f"at least {length.min_length}"
        words = words.replace("a list of", f"a list of {count}", 1)
        return words.replace("values", "value", 1) if length.min_length == 1 else words
    limits = {type(condition): getattr(condition, type(condition).__name__.lower()) for condition in conditions}
    low, high = limits.get(Ge), limits.get(Le)
    if low is not None and high is not None and high < largest:
        return f"{words} from {low:.10g} to {high:.10g}"
    texts = {Ge: "of at least", Gt: "above", Le: "of at most", Lt: "below"}
    shown = [f"{texts[kind]} {limit:.10g}" for kind, limit in limits.items() if limit < largest]
    return f"{words} {' and '.join(shown)}".strip()


def _describe_list(item):
    for noun in ("whole number", "number"):
        if item.startswith(f"a {noun}"):
            return f"a list of {noun}s" + item.removeprefix(f"a {noun}")
    return "a list of strings" if item == "text" else f"a list of values, each {item}"


def _lists(value):
    """Replace tuples by lists."""
    if isinstance(value, (list, tuple)):
        return [_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return value


def _unusable_part(value):
    """What no path and no recorded text can contain, in words; "" if a value has none.

    Bytes of a file name that are not UTF-8 are usable: Python has a character for each.
    """
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        return next(filter(None, map(_unusable_part, value)), "")
    if not isinstance(value, str):
        return ""
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return "contains half of a character"
    if HOME.match(value):
        return "starts with ~; write the path of the home folder"
    if value.count("/") > MOST_SLASHES:
        return f"contains more than {MOST_SLASHES} slashes"
    return "contains a null character" if "\0" in value else ""


def is_plain(value):
    """Whether JSON can store a value: finite numbers, lists and dicts nested up to eight levels."""

    def holds(value, depth):
        if isinstance(value, dict):
            return depth < 8 and all(holds(item, depth + 1) for pair in value.items() for item in pair)
        if isinstance(value, list):
            return depth < 8 and all(holds(item, depth + 1) for item in value)
        return value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))

    return holds(value, 0)


def _short(value):
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... of {len(text)} characters"
